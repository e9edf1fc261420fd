//! What this room counts: what became of orders and of attempts at them, commits, refusals, and the log.
//!
//! A transaction sums up in [`Done`] what it does, and the committer adds that to the [`Meters`] once it is on disk, before anybody
//! is told of it. So what is counted has happened, once, by whichever thread wanted it. The counts begin with the process and are
//! its own: what other programs do to the file is seen in the orders alone.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::Counts;
use crate::os::meters::{Counter, Distribution, Histogram, LONG_TIMES, SHORT_TIMES};

/// Bounds for the number of changes in a commit.
const CHANGES: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048];
/// No order was ever completed before this, in milliseconds since 1970.
const NEVER: i64 = i64::MIN;

/// What a transaction does that is counted.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Orders that are new.
    pub(super) created: u64,
    /// Orders that were cancelled.
    pub(super) cancelled: u64,
    /// Attempts that ended, by what became of their orders.
    pub(super) attempts: Attempts,
    /// How long orders had waited for their first attempt, in milliseconds.
    pub(super) waited_ms: Vec<i64>,
    /// When the attempts that ended had begun, in milliseconds since 1970, as far as that is known.
    pub(super) begun_ms: Vec<i64>,
}

/// Attempts that have ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Their order is `Completed`.
    pub completed: u64,
    /// Their order is `Failed`.
    pub failed: u64,
    /// Their order is to be tried again.
    pub retried: u64,
    /// They were taken back, by a stop or because there was no room to begin them.
    pub put_back: u64,
}

/// What the store has done since it was opened, and how it stands.
#[derive(Debug)]
pub struct Figures {
    /// How many orders there are; `None` while that can't be asked.
    pub counts: Option<Counts>,
    /// How long ago the oldest pending order was created, in milliseconds.
    pub oldest_pending_ms: Option<i64>,
    /// When an order was completed last, in milliseconds since 1970. Until one has been here, it is when the last one of all that
    /// arrived was.
    pub last_completion_ms: Option<i64>,
    /// New orders.
    pub created: u64,
    /// Cancelled orders.
    pub cancelled: u64,
    /// Attempts that ended.
    pub attempts: Attempts,
    /// From an order's creation to the beginning of its first attempt, in microseconds.
    pub waiting: Distribution,
    /// From an attempt's beginning to its end, in microseconds; of attempts that began here and were not put back.
    pub processing: Distribution,
    /// How long commits took, in microseconds.
    pub commit_time: Distribution,
    /// How many changes they had.
    pub commit_changes: Distribution,
    /// Changes that could not be committed.
    pub refused: u64,
    /// Times that copying the log back has failed.
    pub checkpoint_failures: u64,
    /// Whether it failed the last time.
    pub is_checkpoint_failing: bool,
    /// How much of the log is in use.
    pub log_bytes: u64,
    /// Those who share a server, where there is one and it can be asked.
    #[cfg(feature = "postgres")]
    pub instances: Option<super::Instances>,
    /// How long the work of this instance may still run, where that depends on a lease.
    #[cfg(feature = "postgres")]
    pub lease_left: Option<Duration>,
}

/// The live figures.
pub(super) struct Meters {
    opened_ms: i64,
    created: Counter,
    cancelled: Counter,
    completed: Counter,
    failed: Counter,
    retried: Counter,
    put_back: Counter,
    last_completion_ms: AtomicI64,
    waiting: Histogram,
    processing: Histogram,
    commit_time: Histogram,
    commit_changes: Histogram,
    pub(super) refused: Counter,
    pub(super) checkpoint_failures: Counter,
    log_bytes: AtomicU64,
}

impl Meters {
    /// Of a store that is opened now.
    pub(super) fn new(now_ms: i64) -> Meters {
        let counter = Counter::default;
        Meters {
            opened_ms: now_ms,
            created: counter(),
            cancelled: counter(),
            completed: counter(),
            failed: counter(),
            retried: counter(),
            put_back: counter(),
            last_completion_ms: NEVER.into(),
            waiting: Histogram::new(&LONG_TIMES),
            processing: Histogram::new(&LONG_TIMES),
            commit_time: Histogram::new(&SHORT_TIMES),
            commit_changes: Histogram::new(&CHANGES),
            refused: counter(),
            checkpoint_failures: counter(),
            log_bytes: AtomicU64::new(0),
        }
    }

    /// An order was completed at this time, by whomever.
    pub(super) fn completed_at(&self, ms: i64) {
        self.last_completion_ms.store(ms, Ordering::Relaxed);
    }

    /// A commit of so many changes took so long and is on disk: what was asked for at `now_ms` is `done`.
    pub(super) fn committed(&self, changes: usize, took: Duration, done: &Done, now_ms: i64) {
        self.commit_changes.record(changes as u64);
        self.commit_time.record_time(took);
        let Attempts { completed, failed, retried, put_back } = done.attempts;
        for (counter, more) in [
            (&self.created, done.created),
            (&self.cancelled, done.cancelled),
            (&self.completed, completed),
            (&self.failed, failed),
            (&self.retried, retried),
            (&self.put_back, put_back),
        ] {
            if more > 0 {
                counter.add(more);
            }
        }
        if completed > 0 {
            self.completed_at(now_ms);
        }
        done.waited_ms.iter().for_each(|ms| self.waiting.record(to_micros(*ms)));
        // Of one that began before, the time that no server ran would count.
        let here = done.begun_ms.iter().filter(|begun_ms| **begun_ms >= self.opened_ms);
        here.for_each(|begun_ms| self.processing.record(to_micros(now_ms.saturating_sub(*begun_ms))));
    }

    /// The log has so many bytes now.
    pub(super) fn log_bytes(&self, bytes: u64) {
        self.log_bytes.store(bytes, Ordering::Relaxed);
    }

    /// All figures, at `now_ms`, with what others know.
    pub(super) fn read(
        &self,
        now_ms: i64,
        counts: Option<Counts>,
        oldest_ms: Option<i64>,
        is_checkpoint_failing: bool,
    ) -> Figures {
        let attempts = Attempts {
            completed: self.completed.get(),
            failed: self.failed.get(),
            retried: self.retried.get(),
            put_back: self.put_back.get(),
        };
        Figures {
            counts,
            oldest_pending_ms: oldest_ms.map(|created_ms| now_ms.saturating_sub(created_ms).max(0)),
            last_completion_ms: Some(self.last_completion_ms.load(Ordering::Relaxed)).filter(|ms| *ms != NEVER),
            created: self.created.get(),
            cancelled: self.cancelled.get(),
            attempts,
            waiting: self.waiting.read(),
            processing: self.processing.read(),
            commit_time: self.commit_time.read(),
            commit_changes: self.commit_changes.read(),
            refused: self.refused.get(),
            checkpoint_failures: self.checkpoint_failures.get(),
            is_checkpoint_failing,
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            #[cfg(feature = "postgres")]
            instances: None,
            #[cfg(feature = "postgres")]
            lease_left: None,
        }
    }
}

/// A clock that was set back makes a time no less than none.
fn to_micros(ms: i64) -> u64 {
    ms.max(0).unsigned_abs().saturating_mul(1_000)
}
