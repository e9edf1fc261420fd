//! All orders of one moment, in the order of arrival, a few at a time: what an export reads, from a file or a server.
//!
//! Reads only, beside a running server or without one, which goes on meanwhile. Runs on the thread that asks. An order that no client
//! could have sent, as someone has changed its row, ends it with that order's id: an export is exact, or none.

use std::path::Path;

use super::partial::Partial;
use super::sqlite;
use super::{Counts, Exported};
use crate::error::Error;
use crate::order::{Order, Timestamp};

/// How many orders are read at once. Those of the largest kind, some 256 kB each, are 25 MB then.
const ORDERS_AT_ONCE: i64 = 100;

/// The orders of one moment.
pub(crate) struct Snapshot {
    source: Source,
    /// The place of the last one that was read.
    after: i64,
}

enum Source {
    File(sqlite::Snapshot),
    #[cfg(feature = "postgres")]
    Server(super::postgres::Snapshot),
}

/// An order's row.
pub(super) struct Row {
    pub(super) place: i64,
    pub(super) record: Order,
    pub(super) amount: String,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) retry_at_ms: i64,
}

impl Snapshot {
    /// The orders as they are now, of what `db` names.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::TooNew`], [`Error::WouldLose`], [`Error::Usage`] when there is nothing good to be read.
    pub(crate) fn open(db: &Path) -> Result<Snapshot, Error> {
        #[cfg(feature = "postgres")]
        if super::is_server(db) {
            return Ok(Snapshot { source: Source::Server(super::postgres::Snapshot::open(db)?), after: i64::MIN });
        }
        Ok(Snapshot { source: Source::File(sqlite::Snapshot::open(db)?), after: i64::MIN })
    }

    /// How many there are, by the counts that are kept.
    pub(crate) fn counts(&self) -> Counts {
        match &self.source {
            Source::File(file) => file.counts,
            #[cfg(feature = "postgres")]
            Source::Server(server) => server.counts,
        }
    }

    /// Whether a server works with them, so that they are others by now.
    pub(crate) fn is_in_use(&self) -> bool {
        match &self.source {
            Source::File(file) => file.is_in_use,
            #[cfg(feature = "postgres")]
            Source::Server(server) => server.is_in_use,
        }
    }

    /// The next few; none at the end.
    ///
    /// # Errors
    /// [`Error::Refused`] when one of them is no order, or the disk of a running server would be filled; what the database says.
    pub(crate) fn next(&mut self) -> Result<Vec<Exported>, Error> {
        let rows = match &mut self.source {
            Source::File(file) => file.rows(self.after, ORDERS_AT_ONCE)?,
            #[cfg(feature = "postgres")]
            Source::Server(server) => server.rows(self.after, ORDERS_AT_ONCE)?,
        };
        self.after = rows.last().map_or(self.after, |row| row.place);
        rows.into_iter().map(exported).collect()
    }
}

/// Begins the file `target` for the orders of what `db` names. It is there only once it is whole.
///
/// # Errors
/// [`Error::Target`] when there is one of that name, or there can't be.
pub(crate) fn begin_file(db: &Path, target: &Path) -> Result<Partial, Error> {
    sqlite::begin_file(db, target)
}

fn exported(Row { place, record, amount, ended_at, retry_at_ms }: Row) -> Result<Exported, Error> {
    let id = record.order_id.to_string();
    Exported::of_row(record, &amount, ended_at, retry_at_ms).map_err(|why| {
        Error::Refused(format!(
            "the order {id:?} is none that could be imported ({why}); mend or delete its row, the one with seq = {place}, and \
             export again"
        ))
    })
}
