//! Copies the log back into the database: before a server answers, and while it runs.
//!
//! Until then a committed page is in the log alone. SQLite would do it by itself after some commit, and tell nobody when it fails;
//! so orderd asks for it and looks at the result. Copying syncs the log, writes its pages into the database and syncs that.
//! What another program still reads can't be copied or overwritten yet; that is no failure.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::file::with_suffix;
use super::{BUSY_TIMEOUT, lock};
use crate::error::Error;

/// How much of the log a checkpoint has copied back.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Copied {
    /// Pages in the log.
    pub(in crate::store) pages: u64,
    /// Those of them that are in the database too.
    pub(in crate::store) copied: u64,
}

impl Copied {
    /// Whether the log has nothing that the database has not.
    pub(in crate::store) fn is_all(self) -> bool {
        self.copied >= self.pages
    }
}

/// Copies all of the log back and empties it, so that nothing that is answered rests on pages whose sync may have failed once.
/// While a predecessor lives, its log is only copied back. On a full disk, reading goes on from a log that is at least synced.
///
/// # Errors
/// What the disk says.
pub(super) fn before_serving(connection: &Connection, path: &Path, is_shared: bool) -> Result<(), Error> {
    // Whoever reads or writes just now is not waited for: a predecessor would wait as well.
    connection.busy_timeout(Duration::ZERO)?;
    let result = run(connection, if is_shared { "PASSIVE" } else { "TRUNCATE" });
    connection.busy_timeout(BUSY_TIMEOUT)?;
    match result {
        Ok(copied) if copied.is_all() => {}
        Ok(copied) => log::info!("{} of {} pages of the log are copied back; the rest is in use", copied.copied, copied.pages),
        Err(Error::Busy) => log::info!("the log is being copied back by another process"),
        Err(e @ (Error::DiskFull | Error::Unwritable(_))) => {
            log::warn!("the log can't be copied back: {e}");
            let log = with_suffix(path, "-wal");
            File::open(&log).and_then(|log| log.sync_all()).map_err(lock::unusable(&log))?;
        }
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Runs a checkpoint.
///
/// # Errors
/// What the disk says; [`Error::Busy`] while another one runs.
fn run(connection: &Connection, mode: &str) -> Result<Copied, Error> {
    let row = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(1)?, row.get(2)?)));
    let (pages, copied): (i64, i64) = row?;
    match (u64::try_from(pages), u64::try_from(copied)) {
        (Ok(pages), Ok(copied)) => Ok(Copied { pages, copied }),
        _ => Err(Error::Busy),
    }
}
