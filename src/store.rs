//! The database: the only place that names rusqlite, and the only one that holds SQL.
//!
//! A [`Writer`] is one connection that changes things, a [`Readers`] a handful that only look. SQLite's write-ahead log lets
//! both work at once, so a read never waits for a commit's fsync. Whoever shares a `Writer` puts it behind a mutex; see
//! `commit.rs`, through which every write goes. Nothing here knows of HTTP or of threads.
//!
//! If the power fails in a transaction, none of it is there afterwards; once [`Writer::transaction`] has returned `Ok`, all of
//! it is (promise 1): `synchronous=FULL` syncs the log before a commit returns. After [`Error::Broken`] neither is certain,
//! and the process must end.

mod file;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};

use crate::error::Error;
use crate::order::{NewOrder, OrderId, Status, Transition};
use file::Identity;
pub use file::Lock;

/// How long a write waits for another program, such as the sqlite3 shell in the middle of a correction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The first SQLite without the WAL-reset corruption of 3.7.0 to 3.51.2.
const OLDEST_SQLITE: i32 = 3_051_003;

/// What became of a [`Tx::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The order is new, and stored with this transaction.
    New,
    /// The same order is already there: the client has tried again.
    Replayed,
    /// Another order has this id.
    Conflict,
}

/// An order that the processor has taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// Its place in the order of arrival.
    pub seq: i64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// How many orders there are in each status, and how long the completed ones took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders in `Pending`.
    pub pending: u64,
    /// Orders in `Processing`.
    pub processing: u64,
    /// Orders in `Completed`.
    pub completed: u64,
    /// Orders in `Failed`.
    pub failed: u64,
    /// Milliseconds from creation to completion, summed over completed orders.
    pub processing_ms: u64,
}

/// Opens the database that `lock` owns, or makes it; brings it up to date; and gives back one writer and `readers` readers.
///
/// # Errors
/// [`Error::Foreign`] or [`Error::TooNew`] with the file untouched; [`Error::Unusable`] when it cannot be opened or written.
pub fn open(lock: &Lock, readers: usize) -> Result<(Writer, Readers), Error> {
    let path = lock.database();
    file::inspect(path)?;
    let writer = Writer::open(path).map_err(|e| unusable(path, e))?;
    let readers = (0..readers.max(1)).map(|_| reader(path).map(Mutex::new)).collect::<Result<_, _>>()?;
    Ok((writer, Readers(readers)))
}

/// While opening, a database that can't be read or written is the user's to mend, like a wrong flag.
fn unusable(path: &Path, e: Error) -> Error {
    match e {
        Error::Broken(what) => Error::Unusable { file: path.to_path_buf(), source: std::io::Error::other(what) },
        e => e,
    }
}

/// The connection that writes. Every change goes through [`Writer::transaction`].
pub struct Writer {
    connection: Connection,
    /// The database and its log, as they were when opened.
    files: [Identity; 2],
}

impl Writer {
    fn open(path: &Path) -> Result<Writer, Error> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            let text = format!("SQLite {} can corrupt a write-ahead log; build with 3.51.3 or newer", rusqlite::version());
            return Err(Error::Usage(text));
        }
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // Created with a rollback journal and only then switched to the log, so that the main file's header names its owner
        // from the first commit on, even if we are killed before the log is copied back for the first time.
        schema::migrate(&mut connection)?;
        set(&connection, "journal_mode", "wal", "wal")?;
        // FULL syncs the log at every commit; NORMAL would not, and lost acknowledged orders in every power-cut test.
        set(&connection, "synchronous", "FULL", "2")?;
        // On macOS alone a plain fsync leaves data in the drive's cache.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        // A log that grew behind one long reader is cut back to this.
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        let mut log = path.as_os_str().to_os_string();
        log.push("-wal");
        // The log exists from the first transaction on.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        let identify = |path: PathBuf| Identity::of(path.clone()).map_err(|source| Error::Unusable { file: path, source });
        let files = [identify(path.to_path_buf())?, identify(log.into())?];
        Ok(Writer { connection, files })
    }

    /// Runs `change` in a transaction and commits it with an fsync. All of it is on disk when this returns `Ok`, and none of it
    /// after an error, except [`Error::Broken`], after which it is unknown.
    ///
    /// # Errors
    /// Whatever `change` returns, or what became of the commit.
    pub fn transaction<T>(&mut self, change: impl FnOnce(&Tx<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Dropped without a commit, a transaction rolls back.
        let value = change(&Tx(&transaction))?;
        transaction.commit()?;
        // A database that was moved or deleted takes commits to the grave.
        self.files.iter().try_for_each(Identity::check)?;
        Ok(value)
    }
}

/// The changes that can be made within one transaction.
pub struct Tx<'a>(&'a Connection);

impl Tx<'_> {
    /// Stores `order` as `Pending`, unless its id is taken.
    ///
    /// # Errors
    /// What the database reports.
    pub fn create(&self, order: &NewOrder, now_ms: i64) -> Result<Created, Error> {
        let inserted = self
            .0
            .prepare_cached(
                "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at)
                 VALUES (?1, ?2, ?3, ?4, 'Pending', ?5) ON CONFLICT (order_id) DO NOTHING",
            )?
            .execute(params![
                order.order_id.as_str(),
                order.user_id,
                items_to_text(&order.item_ids),
                order.total_amount.as_str(),
                now_ms
            ])?;
        if inserted == 1 {
            return Ok(Created::New);
        }
        let stored = self
            .0
            .prepare_cached("SELECT user_id, item_ids, total_amount FROM orders WHERE order_id = ?1")?
            .query_row([order.order_id.as_str()], |row| {
                Ok(NewOrder::from_stored(
                    order.order_id.as_str(),
                    row.get(0)?,
                    items_from_text(row.get_ref(1)?.as_str()?),
                    row.get(2)?,
                ))
            })?;
        Ok(if stored == *order { Created::Replayed } else { Created::Conflict })
    }

    /// Takes up to `limit` pending orders for processing, in the order of arrival, and counts the attempt.
    ///
    /// # Errors
    /// What the database reports.
    pub fn claim(&self, limit: usize, now_ms: i64) -> Result<Vec<Claimed>, Error> {
        let (from, to) = Transition::Claim.ends();
        let mut claimed = self
            .0
            .prepare_cached(&format!(
                "UPDATE orders SET status = '{to}', started_at = ?2, attempts = attempts + 1
                 WHERE seq IN (SELECT seq FROM orders WHERE status = '{from}' ORDER BY seq LIMIT ?1)
                 RETURNING seq, attempts",
                from = from.as_str(),
                to = to.as_str()
            ))?
            .query_map(params![limit as i64, now_ms], |row| Ok(Claimed { seq: row.get(0)?, attempt: row.get(1)? }))?
            .collect::<Result<Vec<_>, _>>()?;
        // RETURNING promises no order.
        claimed.sort_unstable_by_key(|c| c.seq);
        Ok(claimed)
    }

    /// Marks an order as done. Returns false, and changes nothing, if it is no longer in that attempt.
    ///
    /// # Errors
    /// What the database reports.
    pub fn complete(&self, order: Claimed, now_ms: i64) -> Result<bool, Error> {
        let (from, to) = Transition::Complete.ends();
        let changed = self
            .0
            .prepare_cached(
                "UPDATE orders SET status = ?4, completed_at = ?5 WHERE seq = ?1 AND attempts = ?2 AND status = ?3",
            )?
            .execute(params![order.seq, order.attempt, from.as_str(), to.as_str(), now_ms])?;
        Ok(changed == 1)
    }

    /// Puts every order in `Processing` back to `Pending` and says how many. For a start, when whoever processed them is gone.
    ///
    /// # Errors
    /// What the database reports.
    pub fn requeue_interrupted(&self) -> Result<usize, Error> {
        let (from, to) = Transition::Requeue.ends();
        let sql = format!("UPDATE orders SET status = '{}' WHERE status = '{}'", to.as_str(), from.as_str());
        Ok(self.0.execute(&sql, [])?)
    }

    /// Writes something of no meaning, to learn whether the disk takes it.
    ///
    /// # Errors
    /// What the database reports.
    pub fn probe(&self, now_ms: i64) -> Result<(), Error> {
        self.0.prepare_cached("UPDATE probe SET written_at = max(written_at + 1, ?1)")?.execute([now_ms])?;
        Ok(())
    }
}

/// The connections that read. Any thread may call; each call takes whichever connection is free.
pub struct Readers(Vec<Mutex<Connection>>);

impl Readers {
    /// The status of an order, or `None` if there is none of that id.
    ///
    /// # Errors
    /// What the database reports.
    pub fn status(&self, id: &OrderId) -> Result<Option<Status>, Error> {
        self.with(|connection| {
            connection
                .prepare_cached("SELECT status FROM orders WHERE order_id = ?1")?
                .query_row([id.as_str()], status_of)
                .optional()
        })
    }

    /// The counts that `/metrics` reports; read, not counted, so their cost does not depend on the number of orders.
    ///
    /// # Errors
    /// What the database reports.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached("SELECT status, orders, processing_ms FROM status_counts")?;
            let mut rows = statement.query([])?;
            let mut counts = Counts::default();
            while let Some(row) = rows.next()? {
                let orders = row.get::<_, i64>(1)?.max(0) as u64;
                counts.processing_ms += row.get::<_, i64>(2)?.max(0) as u64;
                match status_of(row)? {
                    Status::Pending => counts.pending = orders,
                    Status::Processing => counts.processing = orders,
                    Status::Completed => counts.completed = orders,
                    Status::Failed => counts.failed = orders,
                }
            }
            Ok(counts)
        })
    }

    /// Whether any order waits to be claimed.
    ///
    /// # Errors
    /// What the database reports.
    pub fn any_pending(&self) -> Result<bool, Error> {
        self.with(|connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM orders WHERE status = 'Pending')")?
                .query_row([], |row| row.get(0))
        })
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        // A connection is only ever read from, so one whose user panicked is as good as new.
        let free = self.0.iter().find_map(|c| match c.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        });
        let guard = free.unwrap_or_else(|| self.0[0].lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        Ok(read(&guard)?)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    // Each connection is used by one thread at a time, so SQLite need not lock it once more.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn reader(path: &Path) -> Result<Connection, Error> {
    // Not opened read-only, as a reader may have to create the log's shared memory; `query_only` forbids it to write.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
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

fn status_of(row: &Row<'_>) -> rusqlite::Result<Status> {
    let word = row.get_ref(0)?.as_str()?;
    Status::from_word(word).ok_or_else(|| {
        let problem = format!("unknown status {word:?}");
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, problem.into())
    })
}

fn items_to_text(items: &[String]) -> String {
    serde_json::to_string(items).expect("a list of strings always has a JSON form")
}

/// A list that someone damaged with the sqlite3 shell reads as empty: it then differs from every order that can be sent.
fn items_from_text(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}

impl From<rusqlite::Error> for Error {
    /// Sorts what SQLite says by what may be done next.
    fn from(e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::*;
        match e.sqlite_error_code() {
            Some(DiskFull) => Error::DiskFull,
            Some(DatabaseBusy | DatabaseLocked) => Error::Busy,
            // After a failed fsync the kernel may have dropped the dirty pages and marked them clean, so trying again proves
            // nothing. A database that is damaged, gone or read-only is not ours to mend either.
            Some(SystemIoFailure | DatabaseCorrupt | NotADatabase | ReadOnly | CannotOpen) => Error::Broken(e.to_string()),
            _ => Error::Database(e.into()),
        }
    }
}
