//! Where orders are kept.

pub mod commit;
mod sqlite;

pub use sqlite::{Claimed, Counts, Created, Ending, Filter, Lock, Look, Outcome, Page, Readers, Revived, Tx, Writer, open};
