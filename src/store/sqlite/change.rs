//! What can be changed, within a transaction of the one writer.
//!
//! Every change of a status is guarded by the status that its [`Transition`] starts from, and the end of an attempt by that
//! attempt's number too, so that a late or doubled step changes nothing. Runs on the committer thread. After an error the whole
//! transaction is rolled back.
//!
//! The writer's connection runs no triggers: a [`Tx`] sums up what its changes do to `status_counts` and writes that once, before
//! the commit. A trigger would cost each change a statement journal and an update or two; other programs have the triggers.

use std::hash::{BuildHasher, Hasher, RandomState};

use rusqlite::{Connection, OptionalExtension, params};

use super::read::View;
use crate::error::Error;
use crate::order::{Amount, Exported, NewOrder, OrderId, Status, Timestamp, Transition};
use crate::store::figures::Done;
use crate::store::rows::{items_from_text, items_to_text};
use crate::store::write::{Changed, Claimed, Created, Ending, LONGEST_WAIT_MS, Outcome, Pruned};

/// The most orders that are deleted in one transaction: a few milliseconds of work, for which others have to wait.
const PRUNED_AT_ONCE: usize = 500;

/// The changes that can be made within one transaction.
pub(in crate::store) struct Tx<'a> {
    connection: &'a Connection,
    counted: Counted,
}

impl<'a> Tx<'a> {
    pub(super) fn within(transaction: &'a Connection) -> Tx<'a> {
        Tx { connection: transaction, counted: Counted::default() }
    }

    /// Writes down what the changes have done to the counts, which lag behind the orders until then, and gives what else is counted.
    pub(super) fn write_counts(self) -> Result<Done, Error> {
        for status in Status::ALL {
            let orders = self.counted.orders[status as usize];
            let processing_ms = if status == Status::Completed { self.counted.processing_ms } else { 0 };
            if (orders, processing_ms) != (0, 0) {
                self.connection
                    .prepare_cached(
                        "UPDATE status_counts SET orders = orders + ?2, processing_ms = processing_ms + ?3 WHERE status = ?1",
                    )?
                    .execute(params![status.as_str(), orders, processing_ms])?;
            }
        }
        Ok(self.counted.done)
    }

    /// Stores `order` as `Pending`, unless its id is taken.
    pub(in crate::store) fn create(&mut self, order: &NewOrder, now_ms: i64) -> Result<Created, Error> {
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
            self.counted.created();
            return Ok(Created::New);
        }
        self.older(order)
    }

    /// Stores an order as it was elsewhere, unless its id is taken.
    pub(in crate::store) fn import(&mut self, exported: &Exported) -> Result<Created, Error> {
        let Exported { order, status, attempts, created_at, completed_at, retry_at, .. } = exported;
        let ms = |time: Option<Timestamp>| time.map(|time| time.0);
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, attempts, created_at, started_at,
                   completed_at, ended_at, retry_at, last_error)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (order_id) DO NOTHING",
            )?
            .execute(params![
                order.order_id.as_str(),
                order.user_id,
                items_to_text(&order.item_ids),
                order.total_amount.as_str(),
                status.as_str(),
                attempts,
                created_at.0,
                ms(exported.started_at),
                ms(*completed_at),
                ms(exported.ended_at),
                ms(*retry_at).unwrap_or(0),
                exported.last_error
            ])?;
        if inserted == 0 {
            return self.older(order);
        }
        let took_ms = completed_at.map_or(0, |completed_at| to_processing_ms(created_at.0, completed_at.0));
        self.counted.imported(*status, took_ms);
        Ok(Created::New)
    }

    /// What an order is to the one that has its id already.
    fn older(&self, order: &NewOrder) -> Result<Created, Error> {
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

    /// Takes up to `limit` pending orders for processing, and counts the attempt. Those whose time to be tried again has come, in
    /// the order of that time, and fresh ones, in the order of arrival, get half of the places each; what one kind leaves, the
    /// other takes.
    pub(in crate::store) fn claim(&mut self, limit: usize, now_ms: i64) -> Result<Vec<Claimed>, Error> {
        // By lot, so that neither kind waits for ever where there is only one place at a time.
        let odd_place = limit % 2 * (RandomState::new().build_hasher().finish() % 2) as usize;
        let share = limit / 2 + odd_place;
        let mut claimed = self.claim_where(DUE, share, now_ms)?;
        let are_more_due = claimed.len() == share;
        let mut fresh = self.claim_where(FRESH, limit - claimed.len(), now_ms)?;
        // RETURNING promises no order.
        fresh.sort_unstable_by_key(|order| order.seq);
        claimed.append(&mut fresh);
        if are_more_due && claimed.len() < limit {
            claimed.append(&mut self.claim_where(DUE, limit - claimed.len(), now_ms)?);
        }
        if claimed.len() < limit {
            // No order is to wait for so long. One that does was given its time by a clock that has been set back since.
            claimed.append(&mut self.claim_where(&beyond_waiting(), limit - claimed.len(), now_ms)?);
        }
        Ok(claimed)
    }

    fn claim_where(&mut self, which: &str, limit: usize, now_ms: i64) -> Result<Vec<Claimed>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let waited_ms = &mut self.counted.done.waited_ms;
        let claimed: Vec<_> = self
            .connection
            .prepare_cached(&claim_query(which))?
            .query_map(params![limit as i64, now_ms], |row| {
                let claimed = Claimed { seq: row.get(0)?, attempt: row.get(1)? };
                if claimed.attempt == 1 {
                    waited_ms.push(now_ms.saturating_sub(row.get(2)?));
                }
                Ok(claimed)
            })?
            .collect::<Result<_, _>>()?;
        self.counted.step(Transition::Claim, claimed.len());
        Ok(claimed)
    }

    /// Records how an attempt ended. Returns false, and changes nothing, if the order is no longer in that attempt.
    pub(in crate::store) fn end(&mut self, ending: &Ending, now_ms: i64) -> Result<bool, Error> {
        let Claimed { seq, attempt } = ending.order;
        let guard = "WHERE seq = ?1 AND attempts = ?2 AND status = ?3";
        let step = match ending.outcome {
            Outcome::Completed => Transition::Complete,
            Outcome::Retry { .. } => Transition::Retry,
            Outcome::Failed { .. } => Transition::Fail,
        };
        let (from, to) = step.ends();
        let (from, to) = (from.as_str(), to.as_str());
        // Not by RETURNING, for which SQLite makes a temporary table: for each order, that costs more than the rest.
        let times: Option<(i64, Option<i64>)> = self
            .connection
            .prepare_cached(&format!("SELECT created_at, started_at FROM orders {guard}"))?
            .query_row(params![seq, attempt, from], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((created_at, started_at)) = times else { return Ok(false) };
        self.counted.done.begun_ms.extend(started_at);
        let changed = match &ending.outcome {
            Outcome::Completed => {
                let took = to_processing_ms(created_at, now_ms);
                self.counted.processing_ms = self.counted.processing_ms.saturating_add(took);
                self.connection
                    .prepare_cached("UPDATE orders SET status = ?2, completed_at = ?3, last_error = NULL WHERE seq = ?1")?
                    // Should the clock have been set back since, it took no time rather than a negative one.
                    .execute(params![seq, to, now_ms.max(created_at)])?
            }
            Outcome::Retry { at_ms, error } => self
                .connection
                .prepare_cached(&format!("UPDATE orders SET status = ?4, retry_at = ?5, last_error = ?6 {guard}"))?
                .execute(params![seq, attempt, from, to, at_ms, error])?,
            Outcome::Failed { error } => self
                .connection
                .prepare_cached(&format!("UPDATE orders SET status = ?4, last_error = ?5, ended_at = ?6 {guard}"))?
                .execute(params![seq, attempt, from, to, error, now_ms])?,
        };
        self.counted.step(step, changed);
        Ok(changed == 1)
    }

    /// Takes a claim back, as if it had never been made. Changes nothing if the order is no longer in that attempt.
    pub(in crate::store) fn put_back(&mut self, Claimed { seq, attempt }: Claimed) -> Result<(), Error> {
        let (from, to) = Transition::Requeue.ends();
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE orders SET status = ?4, attempts = attempts - 1, started_at = iif(attempts = 1, NULL, started_at)
                 WHERE seq = ?1 AND attempts = ?2 AND status = ?3",
            )?
            .execute(params![seq, attempt, from.as_str(), to.as_str()])?;
        self.counted.step(Transition::Requeue, changed);
        Ok(())
    }

    /// Has a failed order tried again, at once. Its attempts are counted on.
    pub(in crate::store) fn revive(&mut self, id: &OrderId) -> Result<Changed, Error> {
        self.change_by_id(id, Transition::Revive, None)
    }

    /// Takes a pending order back.
    pub(in crate::store) fn cancel(&mut self, id: &OrderId, now_ms: i64) -> Result<Changed, Error> {
        self.change_by_id(id, Transition::Cancel, Some(now_ms))
    }

    fn change_by_id(&mut self, id: &OrderId, step: Transition, ended_ms: Option<i64>) -> Result<Changed, Error> {
        let (from, to) = step.ends();
        let changed = self
            .connection
            .prepare_cached("UPDATE orders SET status = ?3, retry_at = 0, ended_at = ?4 WHERE order_id = ?1 AND status = ?2")?
            .execute(params![id.as_str(), from.as_str(), to.as_str(), ended_ms])?;
        self.counted.step(step, changed);
        Ok(match View(self.connection).order(id)? {
            Some(order) if changed == 1 => Changed::To(Box::new(order)),
            Some(_) => Changed::Not,
            None => Changed::Unknown,
        })
    }

    /// Shifts the times that delayed orders wait for by a step of the clock. With 0, of those alone whose last attempt began in the
    /// future: what they wait for counts from now.
    pub(in crate::store) fn shift_retries(&mut self, step_ms: i64, now_ms: i64) -> Result<(), Error> {
        let (by, which) = match step_ms {
            0 => ("?2 - started_at + ?1", "started_at > ?2"),
            _ => ("?1", "true"),
        };
        self.connection
            .prepare_cached(&format!(
                "UPDATE orders SET retry_at = max(1, retry_at + {by}), started_at = min(started_at, ?2)
                 WHERE status = 'Pending' AND retry_at > 0 AND {which}"
            ))?
            .execute(params![step_ms, now_ms])?;
        Ok(())
    }

    /// Deletes orders in `status` that ended before `before_ms`: of the next few behind the place `after`.
    pub(in crate::store) fn prune(&mut self, status: Status, before_ms: i64, after: i64) -> Result<Pruned, Error> {
        let looked_at: Vec<(i64, i64, i64)> = self
            .connection
            .prepare_cached(&format!(
                "SELECT seq, coalesce(completed_at, ended_at, created_at), coalesce(completed_at, created_at) - created_at
                 FROM orders WHERE status = '{}' AND seq > ?1 ORDER BY seq LIMIT ?2",
                status.as_str()
            ))?
            .query_map(params![after, PRUNED_AT_ONCE as i64], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let mut delete = self.connection.prepare_cached("DELETE FROM orders WHERE seq = ?1 RETURNING order_id")?;
        let mut deleted = Vec::new();
        for &(seq, _, took_ms) in looked_at.iter().filter(|(_, ended_ms, _)| *ended_ms < before_ms) {
            deleted.extend(delete.query_row([seq], |row| row.get::<_, String>(0)).optional()?);
            self.counted.deleted(status, took_ms);
        }
        let next = looked_at.last().filter(|_| looked_at.len() == PRUNED_AT_ONCE).map(|(seq, ..)| *seq);
        Ok(Pruned { deleted, next })
    }

    /// Writes something of no meaning, to learn whether the disk takes it.
    pub(in crate::store) fn probe(&mut self, now_ms: i64) -> Result<(), Error> {
        self.connection.prepare_cached("UPDATE probe SET written_at = max(written_at + 1, ?1)")?.execute([now_ms])?;
        Ok(())
    }
}

/// Which pending orders to claim: each reads the index that holds just those, as SQLite takes a partial index only if the query
/// repeats its condition.
const DUE: &str = "retry_at > 0 AND retry_at <= ?2 ORDER BY retry_at";
const FRESH: &str = "retry_at = 0 ORDER BY seq";

fn beyond_waiting() -> String {
    format!("retry_at > 0 AND retry_at > ?2 + {LONGEST_WAIT_MS} ORDER BY retry_at")
}

fn claim_query(which: &str) -> String {
    let (from, to) = Transition::Claim.ends();
    format!(
        "UPDATE orders SET status = '{to}', started_at = ?2, attempts = attempts + 1, retry_at = 0
         WHERE seq IN (SELECT seq FROM orders WHERE status = '{from}' AND {which} LIMIT ?1)
         RETURNING seq, attempts, created_at",
        from = from.as_str(),
        to = to.as_str()
    )
}

/// What the triggers of the schema add to `processing_ms`, by the same rule.
fn to_processing_ms(created_at: i64, completed_at: i64) -> i64 {
    completed_at.saturating_sub(created_at).max(0)
}

/// What the changes of a transaction have done to `status_counts`.
#[derive(Default)]
struct Counted {
    orders: [i64; Status::ALL.len()],
    processing_ms: i64,
    done: Done,
}

impl Counted {
    fn created(&mut self) {
        self.orders[Status::Pending as usize] += 1;
        self.done.created += 1;
    }

    fn imported(&mut self, status: Status, took_ms: i64) {
        self.orders[status as usize] += 1;
        self.done.created += 1;
        if status == Status::Completed {
            self.processing_ms = self.processing_ms.saturating_add(took_ms);
        }
    }

    fn deleted(&mut self, status: Status, took_ms: i64) {
        self.orders[status as usize] -= 1;
        if status == Status::Completed {
            self.processing_ms = self.processing_ms.saturating_sub(took_ms.max(0));
        }
    }

    fn step(&mut self, step: Transition, orders: usize) {
        let (from, to) = step.ends();
        self.orders[from as usize] -= orders as i64;
        self.orders[to as usize] += orders as i64;
        let attempts = &mut self.done.attempts;
        let counter = match step {
            Transition::Complete => &mut attempts.completed,
            Transition::Fail => &mut attempts.failed,
            Transition::Retry => &mut attempts.retried,
            Transition::Requeue => &mut attempts.put_back,
            Transition::Cancel => &mut self.done.cancelled,
            Transition::Claim | Transition::Revive => return,
        };
        *counter += orders as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many orders there are: a claim that reads the table takes ever longer.
    #[test]
    fn a_claim_reads_only_orders_that_it_may_claim() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "memory".as_ref()).unwrap();
        for (which, index) in [(DUE, "orders_due"), (FRESH, "orders_fresh"), (&beyond_waiting(), "orders_due")] {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", claim_query(which))).unwrap();
            let steps: Vec<String> = plan.query_map([1, 2], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
            let reads: Vec<_> = steps.iter().filter(|step| !step.starts_with("LIST SUBQUERY")).collect();
            assert_eq!(reads.len(), 2, "no sorting: {which}: {steps:?}");
            assert!(reads[0].contains("INTEGER PRIMARY KEY (rowid=?)"), "{which}: {steps:?}");
            assert!(reads[1].contains(&format!("INDEX {index}")), "{which}: {steps:?}");
        }
    }
}
