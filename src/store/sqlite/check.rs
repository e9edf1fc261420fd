//! Whether a database is as it should be: its pages and indexes by SQLite's own check, the kept counts against the rows.
//!
//! Reads only, within one transaction, so it sees one moment, also beside a running server. [`mend_counts`] alone writes. What can't
//! be found out: a bit that was flipped in the text of an order, where no index has the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::copy::{self, Step, UNLOCKED, Watch};
use super::partial::Partial;
use super::{connect, file, lock, recovery};
use crate::error::Error;

/// How often the check is interrupted to say so: in steps of SQLite's, some of them a tenth of a second.
const STEPS_AT_ONCE: i32 = 1_000_000;
/// The most that is said of what is damaged.
const MOST_PROBLEMS: usize = 20;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// What is damaged, in SQLite's words or ours. Without any, the rest is known.
    pub problems: Vec<String>,
    /// Where the kept counts are not those of the rows.
    pub miscounts: Vec<Miscount>,
    /// How many rows there are.
    pub orders: u64,
    /// How long the database is, without its log.
    pub bytes: u64,
}

/// A status whose counts are wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miscount {
    /// As it stands in the rows.
    pub status: String,
    /// What is kept.
    pub kept: Count,
    /// What the rows say.
    pub rows: Count,
}

/// What is kept of a status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Orders.
    pub orders: i64,
    /// Milliseconds from creation to completion, summed.
    pub processing_ms: i64,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every page, but not whether the indexes have what the rows have.
    Structure,
    /// That as well.
    All,
}

/// Looks through the database at `path`, beside a running server or without one.
///
/// # Errors
/// [`Error::Foreign`], [`Error::TooNew`], [`Error::Unusable`] when it can't be looked at; [`Error::Refused`] when `watch` says no.
pub fn check(path: &Path, watch: &Watch) -> Result<Checked, Error> {
    let path = lock::resolved(path)?;
    let damaged = |what: String| Ok(Checked { problems: vec![what], ..Checked::default() });
    match file::look(&path) {
        Err(Error::Foreign { .. }) if lock::exists(&path) => {
            return damaged("its first page is damaged: this was an orderd database, and is none any more".into());
        }
        looked => looked?,
    }
    if !lock::is_owned(&path) {
        match recovery::check(&path) {
            Err(Error::WouldLose { what }) => return damaged(what),
            checked => checked?,
        }
    }
    let mut connection = copy::to_read(&path)?;
    let mut look = || -> Result<Checked, Error> {
        connection.execute_batch("BEGIN")?;
        let problems = problems(&mut connection, Depth::All, watch)?;
        if !problems.is_empty() {
            return Ok(Checked { problems, ..Checked::default() });
        }
        let miscounts = miscounts(&connection)?;
        let orders = connection.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0))?.max(0) as u64;
        let bytes = std::fs::metadata(&path).map_or(0, |database| database.len());
        Ok(Checked { problems, miscounts, orders, bytes })
    };
    match look() {
        Err(Error::Corrupt(what) | Error::Broken(what)) => damaged(what),
        looked => looked,
    }
}

/// Corrects the kept counts by what they were off. By the difference, so that what a server has counted meanwhile stays counted.
///
/// # Errors
/// What the database says.
pub fn mend_counts(path: &Path, miscounts: &[Miscount]) -> Result<(), Error> {
    mend(&mut connect(&lock::resolved(path)?)?, miscounts)
}

pub(super) fn mend(connection: &mut Connection, miscounts: &[Miscount]) -> Result<(), Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for Miscount { status, kept, rows } in miscounts {
        transaction.execute(
            "INSERT INTO status_counts VALUES (?1, ?2, ?3)
             ON CONFLICT (status) DO UPDATE SET orders = orders + ?2, processing_ms = processing_ms + ?3",
            params![status, rows.orders - kept.orders, rows.processing_ms - kept.processing_ms],
        )?;
    }
    Ok(transaction.commit()?)
}

/// Opens a copy that nobody else knows, and says how long it is.
pub(super) fn open_copy(partial: &Partial) -> Result<(Connection, u64), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(partial.path(), flags, UNLOCKED)?;
    // What is cut short is thrown away, and what is whole is synced before it gets its name.
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let bytes = std::fs::metadata(partial.path()).map_or(0, |copy| copy.len());
    Ok((connection, bytes))
}

/// What SQLite says is damaged.
pub(super) fn problems(connection: &mut Connection, depth: Depth, watch: &Watch) -> Result<Vec<String>, Error> {
    let watch = watch.clone();
    connection.progress_handler(STEPS_AT_ONCE, Some(move || !watch(Step::Checking)))?;
    let pragma = if depth == Depth::All { "integrity_check" } else { "quick_check" };
    let found = said(connection, &format!("PRAGMA {pragma}({MOST_PROBLEMS})"));
    connection.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        // The lines of a tree come as one, below a heading.
        Ok(said) => Ok(said.iter().flat_map(|said| said.lines()).filter(|line| is_problem(line)).map(str::to_string).collect()),
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Err(copy::stopped()),
        Err(e) => match Error::from(e) {
            Error::Corrupt(what) | Error::Broken(what) => Ok(vec![what]),
            e => Err(e),
        },
    }
}

fn is_problem(line: &str) -> bool {
    line != "ok" && !line.starts_with("***")
}

fn said(connection: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// How many orders there are, by the kept counts.
pub(super) fn counted(connection: &Connection) -> Result<u64, Error> {
    Ok(connection.query_row("SELECT sum(orders) FROM status_counts", [], |row| row.get::<_, i64>(0))?.max(0) as u64)
}

/// Where the kept counts are not those of the rows.
pub(super) fn miscounts(connection: &Connection) -> Result<Vec<Miscount>, Error> {
    let rows = counts(
        connection,
        "SELECT status, count(*), sum(iif(status = 'Completed', max(0, coalesce(completed_at - created_at, 0)), 0))
         FROM orders GROUP BY status",
    )?;
    let kept = counts(connection, "SELECT status, orders, processing_ms FROM status_counts")?;
    let statuses: BTreeSet<&String> = rows.keys().chain(kept.keys()).collect();
    let of = |counts: &BTreeMap<String, Count>, status: &str| counts.get(status).copied().unwrap_or_default();
    let compared = statuses.into_iter().map(|status| Miscount {
        status: status.clone(),
        kept: of(&kept, status),
        rows: of(&rows, status),
    });
    Ok(compared.filter(|counted| counted.kept != counted.rows).collect())
}

fn counts(connection: &Connection, query: &str) -> Result<BTreeMap<String, Count>, Error> {
    let mut statement = connection.prepare(query)?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Count { orders: row.get(1)?, processing_ms: row.get(2)? }));
    Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
}
