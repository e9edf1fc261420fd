//! The queue in front of the committer: many threads push, one takes all that is there.
//!
//! A mutex around a list and a condition variable, so that taking a batch is one lock, however long the batch. Only a push that
//! finds the committer asleep wakes it; under load no push makes a system call. A deferrable change alone wakes it only to begin
//! its wait. When the queue is closed a push gives its change back; what was pushed before is still taken.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::os::sync::unpoisoned;
use crate::store::write::Write;

/// How long a deferrable change waits for one that is not. Saves an fsync when orders arrive one after another, and keeps the next
/// one from waiting behind that.
const DEFER: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    pushed: Condvar,
    /// Told when a batch has been committed and finished.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    /// Whether any of them is to be committed now.
    urgent: bool,
    /// When they are to be committed although all can wait.
    flush_at: Option<Instant>,
    /// Whether the committer waits to be woken.
    asleep: bool,
    /// How many batches have been taken.
    batches: u64,
    closed: bool,
}

impl Queue {
    /// Adds a change that is to be committed now. Gives it back once the queue is closed.
    pub(super) fn push(&self, write: Write) -> Result<(), Write> {
        let mut state = unpoisoned(&self.state);
        if state.closed {
            return Err(write);
        }
        state.writes.push(write);
        state.urgent = true;
        self.wake(state);
        Ok(())
    }

    /// Adds a change that can wait a little. Gives it back once the queue is closed.
    pub(super) fn push_deferrable(&self, write: Write) -> Result<(), Write> {
        let mut state = unpoisoned(&self.state);
        if state.closed {
            return Err(write);
        }
        state.writes.push(write);
        if state.flush_at.is_none() {
            state.flush_at = Some(Instant::now() + DEFER);
            self.wake(state);
        }
        Ok(())
    }

    /// Lets nothing more in.
    pub(super) fn close(&self) {
        let mut state = unpoisoned(&self.state);
        state.closed = true;
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.pushed.notify_one();
        }
    }

    /// A batch has been committed, and is still to be finished.
    pub(super) fn committed(&self) {
        unpoisoned(&self.state).batches += 1;
        self.finished.notify_all();
    }

    /// Waits while a batch is being committed, but not longer than `at_most`.
    pub(super) fn rest(&self, at_most: Duration) {
        let state = unpoisoned(&self.state);
        let batch = state.batches;
        // What ended the wait makes no difference.
        let _ = self.finished.wait_timeout_while(state, at_most, |state| !state.asleep && state.batches == batch);
    }

    /// Waits until there is something to commit and takes it, up to `most` changes. `None` once the queue is closed and empty.
    pub(super) fn take(&self, most: usize) -> Option<Vec<Write>> {
        let mut state = unpoisoned(&self.state);
        loop {
            if state.urgent || state.closed {
                break;
            }
            state.asleep = true;
            state = match state.flush_at {
                None => self.pushed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.pushed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
        state.asleep = false;
        if state.writes.is_empty() {
            return None;
        }
        if state.writes.len() > most {
            // What stays has waited for this batch, so it is next.
            state.urgent = true;
            return Some(state.writes.drain(..most).collect());
        }
        state.urgent = false;
        state.flush_at = None;
        Some(std::mem::take(&mut state.writes))
    }
}
