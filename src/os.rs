//! What the program needs of the operating system, with nothing of orders or HTTP in it: time, the log, signals, processes, locks.

pub mod clock;
pub mod logging;
pub mod manager;
pub mod marks;
pub mod meters;
pub mod processes;
pub mod signals;
pub mod standard_input;
pub mod sync;
pub mod usage;
