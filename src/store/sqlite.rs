//! The database: the only place that names rusqlite, and the only one that holds SQL.
//!
//! A [`Writer`] is one connection that changes things; the committer thread owns it. [`Readers`] are a handful that only read,
//! on any thread. SQLite's write-ahead log lets both work at once, so a read never waits for a commit's fsync. Nothing here
//! knows of HTTP or starts a thread. Every function returns what the database reports, sorted by what may be done next.
//!
//! If the power fails in a transaction, none of it is there afterwards; once [`Writer::transaction`] has returned `Ok`, all of
//! it is (promise 1): `synchronous=FULL` syncs the log before a commit returns. After [`Error::Broken`] neither is certain,
//! and the process must end.

pub mod backup;
mod change;
pub mod check;
mod checkpoint;
pub mod copy;
mod export;
mod file;
mod list;
mod lock;
mod log;
pub mod partial;
mod read;
mod recovery;
pub mod restore;
mod schema;
#[cfg(test)]
pub(super) mod tests;

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::Error;
use crate::store::Opening;
use crate::store::figures::Done;
pub(super) use change::Tx;
pub(super) use checkpoint::{Copied, Copier, LOG_PAGE_BYTES};
pub(super) use export::{Snapshot, begin_file};
use file::Identity;
pub use lock::Lock;
use log::{Log, Written};
pub(super) use read::Readers;

/// How long a write waits for another program, such as the sqlite3 shell in the middle of a correction.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The writer's page cache. An order touches a few pages at random places of the indexes; read back from the kernel, each costs
/// as much again as the insert.
const WRITER_CACHE_KIB: i64 = 8 << 10;

/// The first SQLite without the WAL-reset corruption of 3.7.0 to 3.51.2.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Opens the database that `lock` owns, or makes it if nobody ever has; brings it up to date, and its log back into it; and gives
/// back one writer, the readers, and what copies the log back.
///
/// # Errors
/// [`Error::Foreign`], [`Error::TooNew`], [`Error::Replaced`] or [`Error::WouldLose`] with the files untouched; [`Error::Unusable`]
/// when they cannot be opened or written.
pub(super) fn open(lock: &Lock, opening: &Opening) -> Result<(Writer, Readers, Copier), Error> {
    let path = lock.database();
    file::prepare(lock, opening.predecessor_lives, opening.accept_loss)?;
    let writer = Writer::open(path, opening.predecessor_lives).map_err(|e| unusable(path, e))?;
    lock.record(Some(writer.file.id()));
    let readers = (0..opening.readers.max(1)).map(|_| reader(path)).collect::<Result<_, _>>()?;
    Ok((writer, Readers::new(readers), Copier::open(path)?))
}

/// While opening, a database that can't be read or written is the user's to mend, like a wrong flag.
fn unusable(path: &Path, e: Error) -> Error {
    match e {
        Error::Broken(what) | Error::Unwritable(what) => {
            Error::Unusable { file: path.to_path_buf(), source: std::io::Error::other(what) }
        }
        e => e,
    }
}

/// The connection that writes. Every change goes through [`Writer::transaction`].
pub(super) struct Writer {
    connection: Connection,
    /// The database, as it was when opened.
    file: Identity,
    log: Log,
    /// What the last commit has done.
    done: Done,
}

impl Writer {
    fn open(path: &Path, is_shared: bool) -> Result<Writer, Error> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            let text = format!("SQLite {} can corrupt a write-ahead log; build with 3.51.3 or newer", rusqlite::version());
            return Err(Error::Usage(text));
        }
        let mut connection = connect(path)?;
        // Created with a rollback journal and only then switched to the log, so that the main file's header names its owner
        // from the first commit on, even if we are killed before the log is copied back for the first time.
        schema::migrate(&mut connection, path)?;
        // It keeps the counts itself.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        set(&connection, "journal_mode", "wal", "wal")?;
        // FULL syncs the log at every commit; NORMAL would not, and lost acknowledged orders in every power-cut test.
        set(&connection, "synchronous", "FULL", "2")?;
        // On macOS alone a plain fsync leaves data in the drive's cache.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        let written = Written::by(&mut connection)?;
        // The log exists from the first transaction on.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        let (file, log) = (Identity::of(path.to_path_buf())?, Log::of(path, written)?);
        checkpoint::before_serving(&connection, path, is_shared)?;
        Ok(Writer { connection, file, log, done: Done::default() })
    }

    /// Runs `change` in a transaction and commits it with an fsync. All of it is on disk when this returns `Ok`, and none of it
    /// after an error, except [`Error::Broken`], after which it is unknown.
    ///
    /// # Errors
    /// Whatever `change` returns, or what became of the commit.
    pub(super) fn transaction<T>(&mut self, change: impl FnOnce(&mut Tx<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let before = self.log.check(&self.connection)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Dropped without a commit, a transaction rolls back.
        let mut tx = Tx::within(&transaction);
        let value = change(&mut tx)?;
        let done = tx.write_counts()?;
        transaction.commit()?;
        // A database that was moved or deleted takes commits to the grave, and so does a log with a hole.
        self.file.check()?;
        self.log.check_commit(&self.connection, before)?;
        self.done = done;
        Ok(value)
    }

    /// What the last transaction that was committed has done. To be asked once.
    pub(super) fn take_done(&mut self) -> Done {
        std::mem::take(&mut self.done)
    }

    /// How many pages the log has.
    pub(super) fn log_pages(&self) -> u64 {
        self.log.pages()
    }

    /// How much of the log is in use.
    pub(super) fn log_bytes(&self) -> u64 {
        checkpoint::log_bytes(self.log_pages())
    }

    /// Copies the log back; when it begins anew, it is cut to `most_bytes`.
    ///
    /// # Errors
    /// What the disk says; [`Error::Busy`] while another copies.
    pub(super) fn copy_back(&mut self, most_bytes: u64) -> Result<Copied, Error> {
        checkpoint::copy_back(&self.connection, most_bytes)
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    // Never creates. Each connection is used by one thread at a time, so SQLite need not lock it once more.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn reader(path: &Path) -> Result<Connection, Error> {
    // Not opened read-only, as a reader may have to create the log's shared memory; `query_only` forbids it to write.
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Sets a pragma that promises durability, and checks that SQLite took it.
fn set(connection: &Connection, pragma: &str, value: &str, reads_back: &str) -> Result<(), Error> {
    connection.pragma_update(None, pragma, value)?;
    let found = connection.pragma_query_value(None, pragma, |row| {
        row.get_ref(0).map(|value| match value {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().unwrap_or_default().to_string(),
        })
    })?;
    if found != reads_back {
        return Err(Error::Broken(format!("SQLite refused {pragma}={value} and stays at {found}")));
    }
    Ok(())
}

impl From<rusqlite::Error> for Error {
    /// Sorts what SQLite says by what may be done next.
    fn from(e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::*;
        use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
        match (e.sqlite_error_code(), e.sqlite_error().map(|e| e.extended_code)) {
            (Some(DiskFull), _) | (_, Some(SQLITE_IOERR_SHMSIZE)) => Error::DiskFull,
            // A write that fails, unlike a sync, has a known outcome: it is not there, and SQLite takes the rest back.
            (_, Some(SQLITE_IOERR_WRITE)) => Error::Unwritable(e.to_string()),
            (Some(DatabaseBusy | DatabaseLocked), _) => Error::Busy,
            (Some(DatabaseCorrupt), _) => Error::Corrupt(e.to_string()),
            // After a failed fsync the kernel may have dropped the dirty pages and marked them clean, so trying again proves
            // nothing. A database that is gone or read-only is not ours to mend either.
            (Some(SystemIoFailure | NotADatabase | ReadOnly | CannotOpen), _) => Error::Broken(e.to_string()),
            _ => Error::Database(e.into()),
        }
    }
}
