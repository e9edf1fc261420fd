//! All orders of a file as they are at one moment, within one read transaction: what is committed meanwhile is not seen, and waits for
//! nothing.
//!
//! As with a backup, the log can't begin anew while the moment is held: it grows by what is committed.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::backup::is_free;
use super::partial::Partial;
use super::read::{COLUMNS, View, order_of};
use super::{copy, file, lock, recovery, schema};
use crate::error::Error;
use crate::order::Timestamp;
use crate::store::Counts;
use crate::store::export::Row;

/// The orders of one moment.
pub(in crate::store) struct Snapshot {
    /// In a transaction for as long as it is open.
    connection: Connection,
    database: PathBuf,
    pub(in crate::store) counts: Counts,
    pub(in crate::store) is_in_use: bool,
}

impl Snapshot {
    /// The orders as they are now.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::TooNew`], [`Error::WouldLose`], [`Error::Unusable`]; [`Error::Usage`] when an older orderd has made
    /// the file.
    pub(in crate::store) fn open(path: &Path) -> Result<Snapshot, Error> {
        let database = lock::resolved(path)?;
        file::look(&database)?;
        let is_in_use = lock::is_owned(&database);
        if !is_in_use {
            recovery::check(&database)?;
        }
        let connection = copy::to_read(&database)?;
        // From the first read on it is this moment.
        connection.execute_batch("BEGIN")?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let (file, known) = (path.to_path_buf(), schema::VERSION);
        if found > known {
            return Err(Error::TooNew { file, found, known });
        }
        if found < known {
            let text =
                format!("was made by an older orderd (schema {found}, this program has {known}); start this one with it once");
            return Err(Error::Usage(format!("{} {text}", file.display())));
        }
        let counts = View(&connection).counts()?;
        Ok(Snapshot { connection, database, counts, is_in_use })
    }

    /// The next orders behind the place `after`, up to `limit`.
    ///
    /// # Errors
    /// [`Error::Refused`] before the disk of a running server is full; what the database says.
    pub(in crate::store) fn rows(&mut self, after: i64, limit: i64) -> Result<Vec<Row>, Error> {
        if self.is_in_use {
            copy::check_log_room(&self.database).map_err(|e| Error::Refused(e.to_string()))?;
        }
        let query = format!("SELECT {COLUMNS}, ended_at, retry_at, seq FROM orders WHERE seq > ?1 ORDER BY seq LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&query)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                record: order_of(row)?,
                amount: row.get(AMOUNT)?,
                ended_at: row.get::<_, Option<i64>>(BEHIND)?.map(Timestamp),
                retry_at_ms: row.get(BEHIND + 1)?,
                place: row.get(BEHIND + 2)?,
            })
        };
        Ok(statement.query_map(params![after, limit], read)?.collect::<Result<_, _>>()?)
    }
}

/// Begins a file that is to hold them. `database` is what they are from; a server has no files of its own here.
///
/// # Errors
/// [`Error::Target`] when there is one of that name, or there can't be.
pub(in crate::store) fn begin_file(database: &Path, target: &Path) -> Result<Partial, Error> {
    is_free(&lock::resolved(database).unwrap_or_else(|_| database.to_path_buf()), target)?;
    Partial::beside(target)
}

/// Where the amount is among the columns of a record, and what comes behind them.
const AMOUNT: usize = 3;
const BEHIND: usize = 10;
