//! The changes that can be asked for, each with the type of its answer, and what is to be done with that.
//!
//! A [`Write`] is made by the store's surface on the thread that asks. The committer thread applies it within a transaction,
//! which keeps its answer, and finishes it after the commit. So nobody outside ever sees the answer of another change, or of one
//! that is not on disk. Nothing here knows how orders are stored: that is the transaction's part.

use super::Refused;
use super::sqlite::Tx;
use crate::error::Error;
use crate::order::{Exported, NewOrder, Order, OrderId, Status};

/// What became of an order that was to be created, or imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The order is new, and stored.
    New,
    /// The same order was already there: the client has tried again.
    Replayed,
    /// Another order has this id.
    Conflict,
}

/// What became of an order that someone wanted tried again, or cancelled.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// It is as it stands here with the commit. If that is `Pending`, the processor may take it up at any time.
    To(Box<Order>),
    /// It is in a status from which that can't be done, and has been left alone.
    Not,
    /// There is no such order.
    Unknown,
}

/// An order that is to be tried again waits for an hour at the most, in milliseconds, and a little.
pub(crate) const LONGEST_WAIT_MS: i64 = 3_660_000;

/// An order that a processor has taken up.
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

/// What has been deleted of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The ids of the orders.
    pub deleted: Vec<String>,
    /// The place after which to go on, if there are more in that status.
    pub next: Option<i64>,
}

/// Which finished orders to delete.
pub(super) struct Prune {
    pub(super) status: Status,
    pub(super) before_ms: i64,
    pub(super) after: i64,
}

/// A step of the processor's.
pub(super) struct Process {
    pub(super) ended: Vec<Ending>,
    /// How many pending orders to claim afterwards.
    pub(super) claim: usize,
}

/// A change of one kind: what is asked for, what is answered, and who is to hear it.
pub(super) struct Asked<C, A> {
    pub(super) change: C,
    pub(super) answer: Option<A>,
    done: Box<dyn FnOnce(Result<A, Refused>) + Send>,
}

impl<C, A> Asked<C, A> {
    pub(super) fn new(change: C, done: impl FnOnce(Result<A, Refused>) + Send + 'static) -> Asked<C, A> {
        Asked { change, answer: None, done: Box::new(done) }
    }

    fn apply(&mut self, change: impl FnOnce(&C) -> Result<A, Error>) -> Result<(), Error> {
        self.answer = Some(change(&self.change)?);
        Ok(())
    }

    fn finish(self, outcome: Result<(), Refused>) {
        let not_applied = || Refused::new(Error::Database("committed without this change".into()));
        (self.done)(outcome.and_then(|()| self.answer.ok_or_else(not_applied)));
    }
}

/// A change of any kind.
pub(super) enum Write {
    Create(Asked<NewOrder, Created>),
    Import(Asked<Vec<Exported>, Vec<Created>>),
    Revive(Asked<OrderId, Changed>),
    Cancel(Asked<OrderId, Changed>),
    Probe(Asked<(), ()>),
    Process(Asked<Process, Vec<Claimed>>),
    PutBack(Asked<Vec<Claimed>, ()>),
    Prune(Asked<Prune, Pruned>),
    ShiftRetries(Asked<i64, ()>),
}

impl Write {
    /// Makes the change within a transaction and keeps its answer.
    pub(super) fn apply(&mut self, tx: &mut Tx<'_>, now_ms: i64) -> Result<(), Error> {
        match self {
            Write::Create(asked) => asked.apply(|order| tx.create(order, now_ms)),
            Write::Import(asked) => asked.apply(|orders| orders.iter().map(|order| tx.import(order)).collect()),
            Write::Revive(asked) => asked.apply(|id| tx.revive(id)),
            Write::Cancel(asked) => asked.apply(|id| tx.cancel(id, now_ms)),
            Write::Probe(asked) => asked.apply(|()| tx.probe(now_ms)),
            Write::Process(asked) => asked.apply(|Process { ended, claim }| {
                for ending in ended {
                    if !tx.end(ending, now_ms)? {
                        log::warn!(number = ending.order.seq; "an order was changed by someone else while it was processed");
                    }
                }
                if *claim > 0 { tx.claim(*claim, now_ms) } else { Ok(Vec::new()) }
            }),
            Write::ShiftRetries(asked) => asked.apply(|step_ms| tx.shift_retries(*step_ms, now_ms)),
            Write::Prune(asked) => asked.apply(|prune| tx.prune(prune.status, prune.before_ms, prune.after)),
            Write::PutBack(asked) => asked.apply(|claims| claims.iter().try_for_each(|claim| tx.put_back(*claim))),
        }
    }

    /// The places of the orders that it brings to their end.
    pub(super) fn ended(&self) -> impl Iterator<Item = i64> {
        let ended = match self {
            Write::Process(asked) => asked.change.ended.as_slice(),
            _ => &[],
        };
        let is_end = |ending: &&Ending| !matches!(ending.outcome, Outcome::Retry { .. });
        ended.iter().filter(is_end).map(|ending| ending.order.seq)
    }

    /// The id of the order that it cancels.
    pub(super) fn cancelled(&self) -> Option<&OrderId> {
        match self {
            Write::Cancel(asked) => Some(&asked.change),
            _ => None,
        }
    }

    /// Tells whoever asked what became of the transaction.
    pub(super) fn finish(self, outcome: Result<(), Refused>) {
        match self {
            Write::Create(asked) => asked.finish(outcome),
            Write::Import(asked) => asked.finish(outcome),
            Write::Revive(asked) => asked.finish(outcome),
            Write::Cancel(asked) => asked.finish(outcome),
            Write::Probe(asked) => asked.finish(outcome),
            Write::Process(asked) => asked.finish(outcome),
            Write::Prune(asked) => asked.finish(outcome),
            Write::ShiftRetries(asked) => asked.finish(outcome),
            Write::PutBack(asked) => asked.finish(outcome),
        }
    }
}
