//! An orderly stop under way: when tasks are told to end, when they are killed, and when no more is waited for.
//!
//! Times are the machine's, not the clock's that a test turns: whoever stops a server waits for it. What is done at each of
//! them is the processor's part (`state.rs`).

use std::time::{Duration, Instant};

use super::task::{GRACE, Terminate};

/// A stop.
pub(super) struct Stop {
    terminate_at: Instant,
    told: Option<Terminate>,
}

impl Stop {
    /// One whose tasks may go on until this time.
    pub(super) fn new(terminate_at: Instant) -> Stop {
        Stop { terminate_at, told: None }
    }

    /// Brings the time forward, never back.
    pub(super) fn hurry(&mut self, terminate_at: Instant) {
        self.terminate_at = self.terminate_at.min(terminate_at);
    }

    /// How long tasks may still go on.
    pub(super) fn time_left(&self) -> Duration {
        self.terminate_at.saturating_duration_since(Instant::now())
    }

    /// What all tasks are to be told now, each thing once.
    pub(super) fn due(&mut self) -> Option<Terminate> {
        let (at, next) = match self.told {
            None => (self.terminate_at, Terminate::Stopping),
            Some(Terminate::Stopping) => (self.terminate_at + GRACE, Terminate::Kill),
            Some(_) => return None,
        };
        if Instant::now() < at {
            return None;
        }
        self.told = Some(next);
        self.told
    }

    /// How long to sleep until something is due, a moment at least.
    pub(super) fn pause(&self) -> Duration {
        let next = if self.told.is_none() { self.terminate_at } else { self.terminate_at + GRACE };
        next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Whether everything has had its time, also what could not be recorded.
    pub(super) fn is_given_up(&self) -> bool {
        Instant::now() >= self.terminate_at + 2 * GRACE
    }
}
