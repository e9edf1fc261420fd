//! What can be changed, within a transaction of the one writer.
//!
//! Every change of a status is guarded by the status that its [`Transition`] starts from, and the end of an attempt by that
//! attempt's number too, so that a late or doubled step changes nothing.
//!
//! The writer's connection runs no triggers: a [`Tx`] keeps `status_counts` itself, once a transaction. A trigger would cost each
//! change a statement journal and an update or two; other programs have the triggers.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Look, items_from_text};
use crate::error::Error;
use crate::order::{Amount, NewOrder, Order, OrderId, Status, Transition};

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

/// What became of a [`Tx::revive`].
#[derive(Debug, Clone, PartialEq)]
pub enum Revived {
    /// The order had failed and is `Pending` with this transaction, as it stands here: the processor may take it up at any time.
    Pending(Box<Order>),
    /// It has not failed, so there is nothing to try again.
    NotFailed,
    /// There is no such order.
    Unknown,
}

/// An order that the processor has taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// Its place in the order of arrival.
    pub seq: i64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The attempt.
    pub order: Claimed,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The order is done.
    Completed,
    /// It is to be tried again, not before a time in milliseconds since 1970.
    Retry {
        /// That time.
        at_ms: i64,
        /// What went wrong.
        error: String,
    },
    /// It is given up.
    Failed {
        /// What went wrong.
        error: String,
    },
}

/// The changes that can be made within one transaction.
pub struct Tx<'a> {
    connection: &'a Connection,
    counted: Tally,
}

impl<'a> Tx<'a> {
    pub(super) fn within(transaction: &'a Connection) -> Tx<'a> {
        Tx { connection: transaction, counted: Tally::default() }
    }

    /// A look at the orders as this transaction has left them so far.
    ///
    /// # Errors
    /// What the database reports.
    pub fn look(&self) -> Result<Look<'_>, Error> {
        self.write_counts()?;
        Ok(Look(self.connection))
    }

    /// Writes down what the changes so far have done to the counts. Before that, the counts lag behind the orders.
    pub(super) fn write_counts(&self) -> Result<(), Error> {
        for (status, orders, processing_ms) in self.counted.take() {
            self.connection
                .prepare_cached(
                    "UPDATE status_counts SET orders = orders + ?2, processing_ms = processing_ms + ?3 WHERE status = ?1",
                )?
                .execute(params![status.as_str(), orders, processing_ms])?;
        }
        Ok(())
    }

    /// Stores `order` as `Pending`, unless its id is taken.
    ///
    /// # Errors
    /// What the database reports.
    pub fn create(&self, order: &NewOrder, now_ms: i64) -> Result<Created, Error> {
        let inserted = self
            .connection
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
            self.counted.add(Status::Pending, 1);
            return Ok(Created::New);
        }
        let same = self
            .connection
            .prepare_cached("SELECT user_id, item_ids, total_amount FROM orders WHERE order_id = ?1")?
            .query_row([order.order_id.as_str()], |row| {
                Ok(row.get_ref(0)?.as_str()? == order.user_id
                    && items_from_text(row.get_ref(1)?.as_str()?) == order.item_ids
                    && Amount::from_stored(row.get(2)?) == order.total_amount)
            })?;
        Ok(if same { Created::Replayed } else { Created::Conflict })
    }

    /// Takes up to `limit` pending orders for processing, and counts the attempt: first those whose time to be tried again has
    /// come, then the others in the order of arrival.
    ///
    /// # Errors
    /// What the database reports.
    pub fn claim(&self, limit: usize, now_ms: i64) -> Result<Vec<Claimed>, Error> {
        let mut claimed = self.claim_where("retry_at > 0 AND retry_at <= ?2 ORDER BY retry_at", limit, now_ms)?;
        if claimed.len() < limit {
            let mut fresh = self.claim_where("retry_at = 0 ORDER BY seq", limit - claimed.len(), now_ms)?;
            // RETURNING promises no order.
            fresh.sort_unstable_by_key(|order| order.seq);
            claimed.append(&mut fresh);
        }
        Ok(claimed)
    }

    fn claim_where(&self, which: &str, limit: usize, now_ms: i64) -> Result<Vec<Claimed>, Error> {
        let (from, to) = Transition::Claim.ends();
        let claimed: Vec<_> = self
            .connection
            .prepare_cached(&format!(
                "UPDATE orders SET status = '{to}', started_at = ?2, attempts = attempts + 1, retry_at = 0
                 WHERE seq IN (SELECT seq FROM orders WHERE status = '{from}' AND {which} LIMIT ?1)
                 RETURNING seq, attempts",
                from = from.as_str(),
                to = to.as_str()
            ))?
            .query_map(params![limit as i64, now_ms], |row| Ok(Claimed { seq: row.get(0)?, attempt: row.get(1)? }))?
            .collect::<Result<_, _>>()?;
        self.counted.step(Transition::Claim, claimed.len());
        Ok(claimed)
    }

    /// Records how an attempt ended. Returns false, and changes nothing, if the order is no longer in that attempt.
    ///
    /// # Errors
    /// What the database reports.
    pub fn end(&self, ending: &Ending, now_ms: i64) -> Result<bool, Error> {
        let Claimed { seq, attempt } = ending.order;
        let guard = "WHERE seq = ?1 AND attempts = ?2 AND status = ?3";
        let step = match ending.outcome {
            Outcome::Completed => Transition::Complete,
            Outcome::Retry { .. } => Transition::Retry,
            Outcome::Failed { .. } => Transition::Fail,
        };
        let (from, to) = step.ends();
        let (from, to) = (from.as_str(), to.as_str());
        let changed = match &ending.outcome {
            Outcome::Completed => {
                // Not by RETURNING, for which SQLite makes a temporary table: for each order, that costs more than the rest.
                let created_at: Option<i64> = self
                    .connection
                    .prepare_cached(&format!("SELECT created_at FROM orders {guard}"))?
                    .query_row(params![seq, attempt, from], |row| row.get(0))
                    .optional()?;
                let Some(created_at) = created_at else { return Ok(false) };
                self.counted.add_processing_ms(to_processing_ms(created_at, now_ms));
                self.connection
                    .prepare_cached("UPDATE orders SET status = ?2, completed_at = ?3 WHERE seq = ?1")?
                    .execute(params![seq, to, now_ms])?
            }
            Outcome::Retry { at_ms, error } => self
                .connection
                .prepare_cached(&format!("UPDATE orders SET status = ?4, retry_at = ?5, last_error = ?6 {guard}"))?
                .execute(params![seq, attempt, from, to, at_ms, error])?,
            Outcome::Failed { error } => self
                .connection
                .prepare_cached(&format!("UPDATE orders SET status = ?4, last_error = ?5 {guard}"))?
                .execute(params![seq, attempt, from, to, error])?,
        };
        self.counted.step(step, changed);
        Ok(changed == 1)
    }

    /// Puts every order in `Processing` back to `Pending` and says how many. For a start and a stop, when nobody processes them.
    ///
    /// # Errors
    /// What the database reports.
    pub fn requeue_interrupted(&self) -> Result<usize, Error> {
        let (from, to) = Transition::Requeue.ends();
        let sql = format!("UPDATE orders SET status = '{}' WHERE status = '{}'", to.as_str(), from.as_str());
        let requeued = self.connection.execute(&sql, [])?;
        self.counted.step(Transition::Requeue, requeued);
        Ok(requeued)
    }

    /// Has a failed order tried again, at once. Its attempts are counted on.
    ///
    /// # Errors
    /// What the database reports.
    pub fn revive(&self, id: &OrderId) -> Result<Revived, Error> {
        let (from, to) = Transition::Revive.ends();
        let changed = self
            .connection
            .prepare_cached("UPDATE orders SET status = ?3, retry_at = 0 WHERE order_id = ?1 AND status = ?2")?
            .execute(params![id.as_str(), from.as_str(), to.as_str()])?;
        self.counted.step(Transition::Revive, changed);
        Ok(match Look(self.connection).order(id)? {
            Some(order) if changed == 1 => Revived::Pending(Box::new(order)),
            Some(_) => Revived::NotFailed,
            None => Revived::Unknown,
        })
    }

    /// Writes something of no meaning, to learn whether the disk takes it.
    ///
    /// # Errors
    /// What the database reports.
    pub fn probe(&self, now_ms: i64) -> Result<(), Error> {
        self.connection.prepare_cached("UPDATE probe SET written_at = max(written_at + 1, ?1)")?.execute([now_ms])?;
        Ok(())
    }
}

/// What the triggers of the schema add to `processing_ms`, by the same rule.
fn to_processing_ms(created_at: i64, completed_at: i64) -> i64 {
    completed_at.saturating_sub(created_at).max(0)
}

/// What the changes of a transaction have done to `status_counts`: written once, where a trigger would write for every order.
#[derive(Default)]
struct Tally {
    orders: [Cell<i64>; Status::ALL.len()],
    processing_ms: Cell<i64>,
}

impl Tally {
    fn add(&self, status: Status, orders: i64) {
        let count = &self.orders[status as usize];
        count.set(count.get() + orders);
    }

    fn step(&self, step: Transition, orders: usize) {
        let (from, to) = step.ends();
        self.add(from, -(orders as i64));
        self.add(to, orders as i64);
    }

    fn add_processing_ms(&self, ms: i64) {
        self.processing_ms.set(self.processing_ms.get().saturating_add(ms));
    }

    /// What is not yet written, of each status that it concerns: orders, and milliseconds of processing.
    fn take(&self) -> impl Iterator<Item = (Status, i64, i64)> {
        Status::ALL
            .into_iter()
            .map(|status| {
                let processing_ms = if status == Status::Completed { self.processing_ms.take() } else { 0 };
                (status, self.orders[status as usize].take(), processing_ms)
            })
            .filter(|(_, orders, processing_ms)| (*orders, *processing_ms) != (0, 0))
    }
}

fn items_to_text(items: &[String]) -> String {
    serde_json::to_string(items).expect("a list of strings always has a JSON form")
}
