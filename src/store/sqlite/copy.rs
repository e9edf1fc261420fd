//! A copy of a database as it is at one moment, page by page, while a server goes on writing it.
//!
//! By SQLite's backup calls within a read transaction, which holds the moment: a commit is never in the way of the copy, so the copy is
//! not begun anew and ends, whatever the load; and it is never in the way of a commit. `VACUUM INTO` would give the same moment, but
//! builds every index anew, which takes several times as long and says nothing of how far it is. That matters, as the log can't
//! begin anew while the moment is held: it grows meanwhile, by what is committed.
//!
//! The copy is synced piece by piece, as else the commits of a server on the same disk would wait for all of it at once. Its pages are
//! looked through before it gets its name.

use std::path::Path;
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::partial::{Partial, cannot_write, folder_of};
use super::{BUSY_TIMEOUT, file, reader};
use crate::error::Error;

/// How far something is that may take long.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// So many bytes are copied.
    Copying {
        /// So far.
        done: u64,
        /// In all.
        of: u64,
    },
    /// The pages are being looked through.
    Checking,
}

/// Is told how far it is, again and again, and says whether to go on.
pub type Watch = Arc<dyn Fn(Step) -> bool + Send + Sync>;

/// How many pages are copied in one go: 4 MiB.
const PAGES_AT_ONCE: i32 = 1_024;
/// So many bytes are left to the log of the database, on the disk that it is on: as much as it takes at the most while nobody reads.
/// On a small disk it is a part of it.
const LEFT_TO_LOG: u64 = 32 << 20;
const PART_OF_DISK: u64 = 8;

/// Copies the database at `from` into an empty file.
///
/// # Errors
/// [`Error::Target`] when the copy can't be written, [`Error::Corrupt`] when the database can't be read, [`Error::Refused`] when
/// `watch` says no.
pub(super) fn copy(from: &Path, into: &Partial, target: &Path, watch: &Watch) -> Result<(), Error> {
    let source = to_read(from)?;
    // From the first read on it is this moment, until the connection is closed.
    source.execute_batch("BEGIN")?;
    let number = |pragma: &str| source.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (pages, page_bytes) = (number("page_count")?.max(0) as u64, number("page_size")?.max(0) as u64);
    check_room(target, pages * page_bytes)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags_and_vfs(into.path(), flags, UNLOCKED)?;
    // What is cut short is thrown away.
    copy.pragma_update(None, "journal_mode", "OFF")?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    let backup = Backup::new(&source, &mut copy)?;
    loop {
        let step = backup.step(PAGES_AT_ONCE).map_err(|e| not_copied(e, target))?;
        into.sync().map_err(cannot_write(target))?;
        let remaining = backup.progress().remaining.max(0) as u64;
        let is_going_on = watch(Step::Copying { done: pages.saturating_sub(remaining) * page_bytes, of: pages * page_bytes });
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else writes the copy, and what is read can't be locked away from a reader.
            _ => return Err(Error::Busy),
        }
        if !is_going_on {
            return Err(stopped());
        }
        check_log_room(from).map_err(cannot_write(target))?;
    }
    drop(backup);
    copy.close().map_err(|(_, e)| not_copied(e, target))
}

/// A file that nobody else knows needs no locks, which some network file systems haven't got.
pub(super) const UNLOCKED: &str = "unix-none";

/// Opens the database at `path` to be read, whether a server runs or not. Where none runs, the log that a crash has left stays as
/// it is: the next start looks at it before it is copied back.
pub(super) fn to_read(path: &Path) -> Result<Connection, Error> {
    let log = file::with_suffix(path, "-wal");
    let has_log = std::fs::metadata(log).is_ok_and(|log| log.len() > 0);
    let connection = reader(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    Ok(connection)
}

pub(super) fn stopped() -> Error {
    Error::Refused("stopped by a signal; nothing was changed".into())
}

/// What goes wrong in copying is the copy's fault, unless the database can't be read.
fn not_copied(e: rusqlite::Error, target: &Path) -> Error {
    use rusqlite::ffi::{SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ};
    let code = e.sqlite_error().map(|e| e.extended_code);
    if matches!(code, Some(SQLITE_IOERR_READ | SQLITE_IOERR_SHORT_READ)) {
        return Error::Corrupt(e.to_string());
    }
    match Error::from(e) {
        e @ (Error::Corrupt(_) | Error::Busy | Error::Database(_)) => e,
        e => cannot_write(target)(std::io::Error::other(e.to_string())),
    }
}

/// Bytes that are free, and bytes that there are, where a file is or is to be.
fn bytes_at(file: &Path) -> Option<(u64, u64)> {
    let system = statvfs(folder_of(file)).ok()?;
    // Their types differ by system.
    let block = system.fragment_size() as u64;
    Some(((system.blocks_available() as u64).saturating_mul(block), (system.blocks() as u64).saturating_mul(block)))
}

fn check_room(target: &Path, needed: u64) -> Result<(), Error> {
    match bytes_at(target) {
        Some((free, _)) if free < needed => {
            let what = format!("it needs {} MB, and {} MB are free", needed.div_ceil(1_000_000), free / 1_000_000);
            Err(cannot_write(target)(std::io::Error::other(what)))
        }
        _ => Ok(()),
    }
}

/// A long read must not be why a server finds its disk full.
pub(super) fn check_log_room(database: &Path) -> std::io::Result<()> {
    match bytes_at(database) {
        Some((free, all)) if free < LEFT_TO_LOG.min(all / PART_OF_DISK) => {
            Err(std::io::Error::other("the disk of the database is almost full, and the rest is left to the server"))
        }
        _ => Ok(()),
    }
}
