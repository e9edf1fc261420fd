//! What can be read: by any thread, from whichever read connection is free, or by the writer in the middle of a transaction.
//!
//! Readers see what was last committed and never wait for a commit's fsync; only when more threads read than there are
//! connections does one wait for another. A [`View`] of a transaction sees what that one has changed so far. Nothing here changes
//! anything: a reader's connection is forbidden to.

use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::Error;
use crate::order::{Amount, Order, OrderId, Status, Timestamp};
use crate::os::sync::{try_unpoisoned, unpoisoned};
use crate::store::Counts;
use crate::store::rows::items_from_text;
use crate::store::write::Claimed;

/// The connections that read. Any thread may ask for a view; each takes whichever connection is free.
pub(in crate::store) struct Readers(Vec<Mutex<Option<Connection>>>);

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Readers {
        Readers(connections.into_iter().map(|connection| Mutex::new(Some(connection))).collect())
    }

    /// Closes the connections, so that the last one can copy the log back and remove it. Later reads are refused.
    pub(in crate::store) fn close(&self) {
        self.0.iter().for_each(|connection| drop(unpoisoned(connection).take()));
    }

    /// Reads what was last committed.
    pub(in crate::store) fn view<T>(&self, read: impl FnOnce(View<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let free = self.0.iter().find_map(try_unpoisoned);
        let guard = free.unwrap_or_else(|| unpoisoned(&self.0[0]));
        guard.as_ref().map_or_else(|| Err(Error::Database("the store is closed".into())), |connection| read(View(connection)))
    }
}

/// A view of the orders.
#[derive(Clone, Copy)]
pub(in crate::store) struct View<'a>(pub(super) &'a Connection);

impl View<'_> {
    /// The status of an order, or `None` if there is none of that id.
    pub(in crate::store) fn status(&self, id: &OrderId) -> Result<Option<Status>, Error> {
        let mut statement = self.0.prepare_cached("SELECT status FROM orders WHERE order_id = ?1")?;
        Ok(statement.query_row([id.as_str()], status_of).optional()?)
    }

    /// The place of an order in the order of arrival, or `None` if there is none of that id.
    pub(in crate::store) fn place(&self, id: &OrderId) -> Result<Option<i64>, Error> {
        let mut statement = self.0.prepare_cached("SELECT seq FROM orders WHERE order_id = ?1")?;
        Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
    }

    /// The counts that `/metrics` reports; read, not counted, so their cost does not depend on the number of orders.
    pub(in crate::store) fn counts(&self) -> Result<Counts, Error> {
        let mut statement = self.0.prepare_cached("SELECT status, orders, processing_ms FROM status_counts")?;
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
                Status::Cancelled => counts.cancelled = orders,
            }
        }
        Ok(counts)
    }

    /// None: with the file's lock comes all that others have left.
    pub(in crate::store) fn orphans(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        Ok(Vec::new())
    }

    /// How many orders are in `Processing`: whoever has them shares the file's lock.
    pub(in crate::store) fn processing_here(&self) -> Result<u64, Error> {
        Ok(self.counts()?.processing)
    }

    /// When the next pending order may be claimed, in milliseconds since 1970: 0 if there is one that need not wait, `None` if
    /// there is none at all.
    pub(in crate::store) fn next_claim_ms(&self) -> Result<Option<i64>, Error> {
        Ok(self
            .0
            .prepare_cached(
                "SELECT coalesce((SELECT 0 FROM orders WHERE status = 'Pending' AND retry_at = 0 LIMIT 1),
                   (SELECT min(retry_at) FROM orders WHERE status = 'Pending' AND retry_at > 0))",
            )?
            .query_row([], |row| row.get(0))?)
    }

    /// When the oldest pending order was created, in milliseconds since 1970: of those that need not wait and those that do, the one
    /// that arrived first is looked at, so that the cost does not depend on how many there are.
    pub(in crate::store) fn oldest_pending_ms(&self) -> Result<Option<i64>, Error> {
        Ok(self.0.prepare_cached(OLDEST_PENDING)?.query_row([], |row| row.get(0))?)
    }

    /// When the completed order that arrived last was completed, in milliseconds since 1970.
    pub(in crate::store) fn newest_completion_ms(&self) -> Result<Option<i64>, Error> {
        Ok(self.0.prepare_cached(NEWEST_COMPLETION)?.query_row([], |row| row.get(0)).optional()?.flatten())
    }

    /// Whether a delayed order's last attempt began later than now.
    pub(in crate::store) fn has_attempt_in_future(&self, now_ms: i64) -> Result<bool, Error> {
        let query = "SELECT EXISTS (SELECT 1 FROM orders WHERE status = 'Pending' AND retry_at > 0 AND started_at > ?1)";
        Ok(self.0.prepare_cached(query)?.query_row([now_ms], |row| row.get(0))?)
    }

    /// The whole record of an order, or `None` if there is none of that id.
    pub(in crate::store) fn order(&self, id: &OrderId) -> Result<Option<Order>, Error> {
        let mut statement = self.0.prepare_cached(&format!("SELECT {COLUMNS} FROM orders WHERE order_id = ?1"))?;
        Ok(statement.query_row([id.as_str()], order_of).optional()?)
    }

    /// The whole record of an order that has been claimed, or `None` if it has been deleted since.
    pub(in crate::store) fn claimed_order(&self, claimed: Claimed) -> Result<Option<Order>, Error> {
        Ok(by_seq(self.0, claimed.seq)?)
    }

    /// The claim and the id of every order in `Processing`, whoever has claimed it.
    pub(in crate::store) fn in_processing(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        let mut statement = self.0.prepare_cached("SELECT seq, attempts, order_id FROM orders WHERE status = 'Processing'")?;
        let read = |row: &Row<'_>| {
            // Whatever someone has made of the number.
            let attempt = row.get::<_, i64>(1)?.clamp(0, u32::MAX.into()) as u32;
            let claimed = Claimed { seq: row.get(0)?, attempt };
            Ok((claimed, OrderId::from_stored(row.get(2)?)))
        };
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }
}

/// Each reads the index that holds just the orders that it is about. Named, as SQLite would rather sort those of another.
const OLDEST_PENDING: &str = "SELECT min(created_at) FROM (
     SELECT * FROM (SELECT created_at FROM orders INDEXED BY orders_fresh
                    WHERE status = 'Pending' AND retry_at = 0 ORDER BY seq LIMIT 1)
     UNION ALL
     SELECT * FROM (SELECT created_at FROM orders INDEXED BY orders_delayed
                    WHERE status = 'Pending' AND retry_at > 0 ORDER BY seq LIMIT 1))";
const NEWEST_COMPLETION: &str = "SELECT completed_at FROM orders WHERE status = 'Completed' ORDER BY seq DESC LIMIT 1";

/// What [`order_of`] reads.
pub(super) const COLUMNS: &str =
    "order_id, user_id, item_ids, total_amount, status, created_at, started_at, completed_at, attempts, last_error";

pub(super) fn by_seq(connection: &Connection, seq: i64) -> rusqlite::Result<Option<Order>> {
    connection.prepare_cached(&format!("SELECT {COLUMNS} FROM orders WHERE seq = ?1"))?.query_row([seq], order_of).optional()
}

pub(super) fn order_of(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        order_id: OrderId::from_stored(row.get(0)?),
        user_id: row.get(1)?,
        item_ids: items_from_text(row.get_ref(2)?.as_str()?),
        total_amount: Amount::from_stored(row.get(3)?),
        status: status_in(row, 4)?,
        created_at: Timestamp(row.get(5)?),
        started_at: row.get::<_, Option<i64>>(6)?.map(Timestamp),
        completed_at: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        attempts: row.get(8)?,
        last_error: row.get(9)?,
    })
}

pub(super) fn status_of(row: &Row<'_>) -> rusqlite::Result<Status> {
    status_in(row, 0)
}

fn status_in(row: &Row<'_>, column: usize) -> rusqlite::Result<Status> {
    let word = row.get_ref(column)?.as_str()?;
    Status::from_word(word).ok_or_else(|| {
        let problem = format!("unknown status {word:?}");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, problem.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many orders there are: what reads a table or sorts takes ever longer.
    #[test]
    fn the_oldest_and_the_newest_order_are_looked_up_in_an_index() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "memory".as_ref()).unwrap();
        for (query, indexes) in
            [(OLDEST_PENDING, &["orders_fresh", "orders_delayed"][..]), (NEWEST_COMPLETION, &["orders_completed"])]
        {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let steps: Vec<String> = plan.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
            let reads: Vec<_> = steps.iter().filter(|step| step.contains(" orders")).collect();
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "no sorting: {steps:?}");
            assert_eq!(reads.len(), indexes.len(), "{steps:?}");
            for (read, index) in reads.iter().zip(indexes) {
                assert!(read.contains(&format!("USING INDEX {index}")), "{steps:?}");
            }
        }
    }
}
