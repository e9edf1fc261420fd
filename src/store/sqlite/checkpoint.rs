//! How the log is copied back into the database. When, is decided in `store/checkpoints.rs`.
//!
//! Until then a committed page is in the log alone. SQLite would do it by itself after some commit, and tell nobody when it fails;
//! so orderd asks for it and looks at the result. Copying syncs the log, writes its pages into the database and syncs that.
//! What another program still reads can't be copied or overwritten yet; that is no failure.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use rusqlite::Connection;

use super::file::with_suffix;
use super::{BUSY_TIMEOUT, connect, lock};
use crate::error::Error;

/// What the log begins with.
pub(super) const LOG_HEADER_BYTES: u64 = 32;
/// What a page of 4 KiB takes in the log.
pub(in crate::store) const LOG_PAGE_BYTES: u64 = 4_096 + 24;

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

/// A connection that copies the log back while another one writes.
pub(in crate::store) struct Copier {
    connection: Connection,
    log: PathBuf,
    /// The database, to be synced. Closed after the connection, and after all others of this process: that drops SQLite's locks.
    database: File,
}

impl Copier {
    pub(super) fn open(path: &Path) -> Result<Copier, Error> {
        let database = File::open(path).map_err(lock::unusable(path))?;
        let connection = connect(path)?;
        // As the writer's: a sync that the drive's cache does not outlive is none.
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        Ok(Copier { connection, log: with_suffix(path, "-wal"), database })
    }

    /// Copies what no reader is in the way of, and never waits for any. Syncs it too, which SQLite does only if nothing has been
    /// written meanwhile, and doesn't say: whoever copies the rest then has little to wait for.
    ///
    /// # Errors
    /// What the disk says; [`Error::Busy`] while another copies.
    pub(in crate::store) fn copy(&self) -> Result<Copied, Error> {
        let copied = run(&self.connection, "PASSIVE")?;
        self.database.sync_data().map_err(|e| Error::Broken(format!("the database can't be synced: {e}")))?;
        Ok(copied)
    }

    /// The bytes that the log can take at most: what is free where it is, and what it has taken already. `None` if the system
    /// doesn't say.
    pub(in crate::store) fn room(&self) -> Option<u64> {
        let system = statvfs(&self.log).ok()?;
        let taken = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        // Their types differ by system.
        Some((system.blocks_available() as u64).saturating_mul(system.fragment_size() as u64).saturating_add(taken))
    }
}

/// Copies the log back through the writer's own connection, between two of its transactions. When the log begins anew, it is cut
/// to `most_bytes`.
///
/// # Errors
/// As [`Copier::copy`].
pub(super) fn copy_back(writer: &Connection, most_bytes: u64) -> Result<Copied, Error> {
    writer.pragma_update(None, "journal_size_limit", most_bytes as i64)?;
    run(writer, "PASSIVE")
}

/// How many pages the log has, whoever wrote them.
pub(super) fn pages(connection: &Connection) -> Result<u64, Error> {
    run(connection, "NOOP").map(|copied| copied.pages)
}

/// How long a log of so many pages is at least.
pub(super) fn log_bytes(pages: u64) -> u64 {
    if pages == 0 { 0 } else { LOG_HEADER_BYTES + pages * LOG_PAGE_BYTES }
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
