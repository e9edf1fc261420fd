//! All orders of a schema as they are at one moment, within one read transaction, over a connection of its own.
//!
//! An instance that does this has no lease and claims nothing. While the moment is held, the server keeps the rows that have changed
//! since, as beside any long read.

use std::path::Path;

use super::connection::{Call, Connection, WRITE_PATIENCE, not_yet_sent};
use super::read::{counts_in, get, order_of};
use super::{schema, sql};
use crate::error::Error;
use crate::order::Timestamp;
use crate::store::Counts;
use crate::store::export::Row;

/// Pages are read within it, as slowly as whoever reads the export takes them.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0";

/// The orders of one moment.
pub(in crate::store) struct Snapshot {
    connection: Connection,
    pub(in crate::store) counts: Counts,
    pub(in crate::store) is_in_use: bool,
}

impl Snapshot {
    /// The orders as they are now.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are none or the URL makes no sense; [`Error::TooNew`]; [`Error::Offline`].
    pub(in crate::store) fn open(url: &Path) -> Result<Snapshot, Error> {
        let server = super::server(url)?;
        let mut connection = Connection::open(&server)?;
        schema::look(&mut connection, &server)?;
        connection.execute(BEGIN, WRITE_PATIENCE).map_err(not_yet_sent)?;
        let mut ask = |query| connection.transaction(&[Call::new(query, Vec::new())], WRITE_PATIENCE).map_err(not_yet_sent);
        let counts = counts_in(&ask(sql::COUNTS)?[0])?;
        let living = ask(sql::IN_USE)?;
        let is_in_use = living[0].first().map_or(Ok(false), |row| get(row, 0))?;
        Ok(Snapshot { connection, counts, is_in_use })
    }

    /// The next orders behind the place `after`, up to `limit`.
    ///
    /// # Errors
    /// What the server says.
    pub(in crate::store) fn rows(&mut self, after: i64, limit: i64) -> Result<Vec<Row>, Error> {
        let call = Call::new(sql::EXPORTED, vec![Box::new(after), Box::new(limit)]);
        let rows = self.connection.transaction(&[call], WRITE_PATIENCE).map_err(not_yet_sent)?.remove(0);
        rows.iter()
            .map(|row| {
                Ok(Row {
                    record: order_of(row)?,
                    amount: get(row, AMOUNT)?,
                    ended_at: get::<Option<i64>>(row, BEHIND)?.map(Timestamp),
                    retry_at_ms: get(row, BEHIND + 1)?,
                    place: get(row, BEHIND + 2)?,
                })
            })
            .collect()
    }
}

/// Where the amount is among the columns of a record, and what comes behind them.
const AMOUNT: usize = 3;
const BEHIND: usize = 10;
