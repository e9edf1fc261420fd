//! What can be read: by any thread, over whichever line is free, from what was last committed.
//!
//! A read has no effect, so one that a lost connection has cut short is made once more over a fresh one. Each is one statement, and
//! so of one moment. Nothing here waits for longer than the lease allows the processor to wait, which reads in the middle of its work.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::connection::{Call, Line, Parameter};
use super::lease::Lease;
use super::sql::{self, Listed, MOST_LOOKED_AT, Sql};
use crate::error::Error;
use crate::order::{Amount, Order, OrderId, Status, Timestamp};
use crate::os::sync::{try_unpoisoned, unpoisoned};
use crate::store::rows::{items_from_text, json_bytes};
use crate::store::write::Claimed;
use crate::store::{Counts, Filter, Page};

/// The most orders that are taken over at once; the next beat finds the rest.
const MOST_ORPHANS: i64 = 1_000;

/// The lines that read.
pub(in crate::store) struct Readers {
    lines: Vec<Mutex<Line>>,
    patience: Duration,
    node: String,
    lease: Arc<Lease>,
}

impl Readers {
    pub(super) fn new(lines: Vec<Line>, patience: Duration, node: String, lease: Arc<Lease>) -> Readers {
        Readers { lines: lines.into_iter().map(Mutex::new).collect(), patience, node, lease }
    }

    /// Hangs up. Later reads are refused.
    pub(in crate::store) fn close(&self) {
        self.lines.iter().for_each(|line| unpoisoned(line).close());
    }

    /// Reads what was last committed.
    pub(in crate::store) fn view<T>(&self, read: impl FnOnce(View<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let free = self.lines.iter().find_map(try_unpoisoned);
        let mut line = free.unwrap_or_else(|| unpoisoned(&self.lines[0]));
        read(View { line: RefCell::new(&mut line), readers: self })
    }
}

/// A view of the orders.
pub(in crate::store) struct View<'a> {
    line: RefCell<&'a mut Line>,
    readers: &'a Readers,
}

impl View<'_> {
    /// The id of this instance; 0 while it has none.
    pub(super) fn own_instance(&self) -> i64 {
        self.readers.lease.id()
    }

    pub(super) fn rows(&self, sql: Sql, parameters: Vec<Parameter<'_>>) -> Result<Vec<Row>, Error> {
        let call = [Call::new(sql, parameters)];
        let mut line = self.line.borrow_mut();
        let (begun, patience) = (Instant::now(), self.readers.patience);
        let outcome = match line.transaction(&call, patience) {
            // Not where it was too slow: whoever waits has waited long enough.
            Err(Error::Unknown(_)) if begun.elapsed() < patience => {
                line.transaction(&call, patience.saturating_sub(begun.elapsed()))
            }
            outcome => outcome,
        };
        outcome.map(|mut rows| rows.pop().unwrap_or_default())
    }

    /// The status of an order, or `None` if there is none of that id.
    pub(in crate::store) fn status(&self, id: &OrderId) -> Result<Option<Status>, Error> {
        let rows = self.rows(sql::STATUS, vec![Box::new(id.as_str())])?;
        rows.first().map(|row| status_in(row, 0)).transpose()
    }

    /// The place of an order in the order of arrival, or `None` if there is none of that id.
    pub(in crate::store) fn place(&self, id: &OrderId) -> Result<Option<i64>, Error> {
        let rows = self.rows(sql::PLACE, vec![Box::new(id.as_str())])?;
        rows.first().map(|row| get(row, 0)).transpose()
    }

    /// When the oldest pending order was created, in milliseconds since 1970: of those that need not wait and those that do, the one
    /// that arrived first is looked at.
    pub(in crate::store) fn oldest_pending_ms(&self) -> Result<Option<i64>, Error> {
        let rows = self.rows(sql::OLDEST_PENDING, Vec::new())?;
        rows.first().map_or(Ok(None), |row| get(row, 0))
    }

    /// When the completed order that arrived last was completed, in milliseconds since 1970.
    pub(in crate::store) fn newest_completion_ms(&self) -> Result<Option<i64>, Error> {
        let rows = self.rows(sql::NEWEST_COMPLETION, Vec::new())?;
        rows.first().map_or(Ok(None), |row| get(row, 0))
    }

    /// The counts that `/metrics` reports.
    pub(in crate::store) fn counts(&self) -> Result<Counts, Error> {
        counts_in(&self.rows(sql::COUNTS, Vec::new())?)
    }

    /// How many orders this machine's processes have in `Processing`.
    pub(in crate::store) fn processing_here(&self) -> Result<u64, Error> {
        let rows = self.rows(sql::PROCESSING_HERE, vec![Box::new(self.readers.node.as_str())])?;
        rows.first().map_or(Ok(0), |row| get::<i64>(row, 0).map(|count| count.max(0) as u64))
    }

    /// When the next pending order may be claimed, in milliseconds since 1970: 0 if there is one that need not wait, `None` if
    /// there is none at all.
    pub(in crate::store) fn next_claim_ms(&self) -> Result<Option<i64>, Error> {
        let rows = self.rows(sql::NEXT_CLAIM, Vec::new())?;
        rows.first().map_or(Ok(None), |row| get(row, 0))
    }

    /// Never: how the clock of one machine was set is no reason to have everybody's orders wait.
    pub(in crate::store) fn has_attempt_in_future(&self, _now_ms: i64) -> Result<bool, Error> {
        Ok(false)
    }

    /// The whole record of an order, or `None` if there is none of that id.
    pub(in crate::store) fn order(&self, id: &OrderId) -> Result<Option<Order>, Error> {
        self.rows(sql::ORDER, vec![Box::new(id.as_str())])?.first().map(order_of).transpose()
    }

    /// The whole record of an order that has been claimed, or `None` if it has been deleted since.
    pub(in crate::store) fn claimed_order(&self, claimed: Claimed) -> Result<Option<Order>, Error> {
        self.rows(sql::CLAIMED_ORDER, vec![Box::new(claimed.seq)])?.first().map(order_of).transpose()
    }

    /// The claims that nobody who lives has any more, once those of this node's former instances have been ended with their lease: whoever
    /// asks has ended their commands.
    pub(in crate::store) fn in_processing(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        let me = self.readers.lease.holder().ok_or_else(|| Error::Offline("this instance has no lease".into()))?;
        self.rows(sql::SUPERSEDE, vec![Box::new(self.readers.node.as_str()), Box::new(me)])?;
        self.orphans()
    }

    /// The claims that nobody who lives has any more.
    pub(in crate::store) fn orphans(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        let read = |row: &Row| {
            let attempt: i32 = get(row, 1)?;
            Ok((Claimed { seq: get(row, 0)?, attempt: attempt.max(0) as u32 }, OrderId::from_stored(get(row, 2)?)))
        };
        self.rows(sql::ORPHANS, vec![Box::new(MOST_ORPHANS)])?.iter().map(read).collect()
    }

    /// Up to `limit` orders that arrived before the place `before`, newest first, whose records take up to `max_bytes` as JSON, but
    /// at least one, if any is found.
    pub(in crate::store) fn page(
        &self,
        filter: &Filter,
        before: Option<i64>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, Error> {
        let limit_and_one = limit.saturating_add(1).min(i64::MAX as usize) as i64;
        let listed = match (filter.status, &filter.user_id) {
            (None, None) => Listed::All,
            (None, Some(_)) => Listed::OfUser,
            (Some(status), None) => Listed::InStatus(status),
            // The narrower of the two, as far as that is known.
            (Some(status), Some(_)) if self.counts()?.of(status) <= MOST_LOOKED_AT as u64 => Listed::OfUserInStatus(status),
            (Some(status), Some(_)) => Listed::InStatusOfUser(status),
        };
        let mut parameters: Vec<Parameter<'_>> = vec![Box::new(before.unwrap_or(i64::MAX)), Box::new(limit_and_one)];
        if let Some(user) = filter.user_id.as_deref() {
            parameters.push(Box::new(user));
        }
        parameters.push(Box::new(max_bytes.min(i64::MAX as usize) as i64));
        let rows = self.rows(sql::page(listed), parameters)?;
        let Some(first) = rows.first() else { return Ok(Page { orders: Vec::new(), next: None }) };
        let (looked_at, lowest): (i64, Option<i64>) = (get(first, KNOWN)?, get(first, KNOWN + 1)?);
        let places: i64 = get(first, KNOWN + 2)?;
        let both = filter.status.is_some() && filter.user_id.is_some();
        let looked_down_to = lowest.filter(|_| both && looked_at >= MOST_LOOKED_AT);
        let mut page = Page { orders: Vec::new(), next: looked_down_to };
        let (mut last, mut bytes) = (None, 0);
        for row in &rows {
            let Some(seq) = get::<Option<i64>>(row, KNOWN - 1)?.filter(|_| page.orders.len() < limit) else { break };
            let order = order_of(row)?;
            bytes += json_bytes(&order);
            if bytes > max_bytes && !page.orders.is_empty() {
                break;
            }
            page.orders.push(order);
            last = Some(seq);
        }
        if (page.orders.len() as i64) < places {
            page.next = last;
        }
        Ok(page)
    }
}

/// The counts, from the sums of all slots.
pub(super) fn counts_in(rows: &[Row]) -> Result<Counts, Error> {
    let row = rows.first().ok_or_else(|| Error::Database("there are no counts".into()))?;
    let sum = |column| get::<Option<i64>>(row, column).map(|sum| sum.unwrap_or(0).max(0) as u64);
    Ok(Counts {
        pending: sum(0)?,
        processing: sum(1)?,
        completed: sum(2)?,
        failed: sum(3)?,
        cancelled: sum(4)?,
        processing_ms: sum(5)?,
    })
}

/// Where a page's row says what is known of all.
const KNOWN: usize = 11;

/// A record, from the columns of `sql.rs`.
pub(super) fn order_of(row: &Row) -> Result<Order, Error> {
    let attempts: i32 = get(row, 8)?;
    Ok(Order {
        order_id: OrderId::from_stored(get(row, 0)?),
        user_id: get(row, 1)?,
        item_ids: items_from_text(get(row, 2)?),
        total_amount: Amount::from_stored(get(row, 3)?),
        status: status_in(row, 4)?,
        created_at: Timestamp(get(row, 5)?),
        started_at: get::<Option<i64>>(row, 6)?.map(Timestamp),
        completed_at: get::<Option<i64>>(row, 7)?.map(Timestamp),
        attempts: attempts.max(0) as u32,
        last_error: get(row, 9)?,
    })
}

pub(super) fn status_in(row: &Row, column: usize) -> Result<Status, Error> {
    let word: &str = get(row, column)?;
    Status::from_word(word).ok_or_else(|| Error::Database(format!("unknown status {word:?}").into()))
}

/// A value of a row.
///
/// # Errors
/// [`Error::Database`] when it is of another type than it should be.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column).map_err(|e| Error::Database(e.into()))
}
