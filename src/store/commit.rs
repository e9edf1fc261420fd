//! Group commit: one thread takes all changes that are waiting, commits them in one transaction with one fsync, and finishes
//! each in the order of the queue. While it commits, the next ones gather.
//!
//! The committer thread alone owns the backend. Every change goes this way, the processor's too. Without changes the thread sleeps
//! without a timeout. There is deliberately no second way to commit and no call to flush: what is in the queue is committed
//! without anybody's help.
//!
//! If a commit fails, all changes of its transaction hear of it and nothing of it is stored (promise 3). After [`Error::Broken`]
//! every later change is refused without touching the database. A panic in a transaction refuses that transaction, a panic in a
//! finish is that change's alone.

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Refused;
use super::alarm::Alarm;
use super::backend::Backend;
use super::ends::Ends;
use super::figures::{Done, Meters};
use super::sqlite::BUSY_TIMEOUT;
use super::write::Write;
use crate::error::Error;
use crate::os::clock::Clock;
use crate::os::sync::unpoisoned;
use queue::Queue;

/// The most changes in one transaction: bounds its memory and how long those behind it wait.
const MAX_BATCH: usize = 2_048;

/// How much longer than the wait for another program's lock the last commit may take when the store is closed.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);

/// The committer thread, and the queue in front of it.
pub(super) struct Committer {
    queue: Arc<Queue>,
    ends: Arc<Ends>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread, which takes over `backend`.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(super) fn start(backend: Backend, clock: Clock, alarm: Arc<Alarm>, meters: Arc<Meters>) -> Result<Committer, Error> {
        meters.log_bytes(backend.log_bytes());
        let (queue, ends) = (Arc::<Queue>::default(), Arc::<Ends>::default());
        let mut worker =
            Worker { queue: queue.clone(), ends: ends.clone(), backend, clock, alarm, meters, refused_in_a_row: 0 };
        let thread = std::thread::Builder::new().name("committer".into()).spawn(move || worker.run()).map_err(Error::Thread)?;
        Ok(Committer { queue, ends, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a change that is to be committed now.
    pub(super) fn push(&self, write: Write) {
        self.refuse_if_closed(self.queue.push(write));
    }

    /// Queues a change that can wait a little for another.
    pub(super) fn push_deferrable(&self, write: Write) {
        self.refuse_if_closed(self.queue.push_deferrable(write));
    }

    fn refuse_if_closed(&self, pushed: Result<(), Write>) {
        if let Err(write) = pushed {
            write.finish(Err(Refused::new(Error::Database("the store is closed".into()))));
        }
    }

    /// Who waits for the end of an order.
    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Waits while a commit is under way, but not longer than `at_most`.
    pub(super) fn rest(&self, at_most: Duration) {
        self.queue.rest(at_most);
    }

    /// Has what is queued committed, and waits for the end of the thread.
    pub(super) fn close(&self) {
        self.queue.close();
        let Some(thread) = unpoisoned(&self.thread).take() else { return };
        if thread.thread().id() == std::thread::current().id() {
            // A finish let go of the last handle on the store. The thread ends when that finish has.
            return;
        }
        let deadline = Instant::now() + BUSY_TIMEOUT + CLOSE_MARGIN;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                log::warn!("the last commit is still under way, and is left behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread owns.
struct Worker {
    queue: Arc<Queue>,
    ends: Arc<Ends>,
    backend: Backend,
    clock: Clock,
    alarm: Arc<Alarm>,
    meters: Arc<Meters>,
    /// How many changes have been refused since the last commit.
    refused_in_a_row: usize,
}

impl Worker {
    fn run(&mut self) {
        while let Some(mut batch) = self.queue.take(MAX_BATCH) {
            let outcome = self.commit(&mut batch);
            if outcome.is_err() {
                self.meters.refused.add(batch.len() as u64);
            }
            self.queue.committed();
            if outcome.is_ok() {
                self.ends.tell(&batch);
            }
            for write in batch {
                // The panic hook has logged it; the changes behind it must still be finished.
                let _ = catch_unwind(AssertUnwindSafe(|| write.finish(outcome.clone())));
            }
            self.look_after_log(&outcome);
        }
    }

    fn commit(&mut self, batch: &mut [Write]) -> Result<(), Refused> {
        if let Some(broken) = self.alarm.raised() {
            return Err(broken);
        }
        let begun = Instant::now();
        let mut outcome = self.transaction(batch);
        if outcome.as_ref().is_err_and(|e| matches!(e, Error::DiskFull | Error::Unwritable(_))) && self.backend.makes_room() {
            outcome = self.transaction(batch);
        }
        let outcome = outcome.map_err(Refused::new).map(|(done, now_ms)| {
            self.meters.committed(batch.len(), begun.elapsed(), &done, now_ms);
            self.meters.log_bytes(self.backend.log_bytes());
        });
        self.note(batch.len(), &outcome);
        outcome
    }

    /// Gives what was done, and the time of day that it has.
    fn transaction(&mut self, batch: &mut [Write]) -> Result<(Done, i64), Error> {
        let now_ms = self.clock.now_ms();
        let backend = &mut self.backend;
        let transaction = || backend.apply(batch, now_ms);
        // A panic must not take the thread with it: the processor, for one, waits for its change to be finished.
        let panicked = |_| Err(Error::Database("panicked in a transaction".into()));
        Ok((catch_unwind(AssertUnwindSafe(transaction)).unwrap_or_else(panicked)?, now_ms))
    }

    /// Only now, as those who asked have waited long enough.
    fn look_after_log(&mut self, outcome: &Result<(), Refused>) {
        match outcome {
            Ok(()) => self.backend.committed(),
            Err(error) if matches!(**error, Error::Broken(_)) => self.backend.give_up(),
            Err(_) => {}
        }
    }

    /// Logs when refusals begin and when they end: a full disk would otherwise fill its own log.
    fn note(&mut self, changes: usize, outcome: &Result<(), Refused>) {
        match outcome {
            Ok(()) => {
                if self.refused_in_a_row > 0 {
                    log::info!(refused = self.refused_in_a_row; "writes are stored again");
                    self.refused_in_a_row = 0;
                }
            }
            Err(error) => {
                let is_said = match **error {
                    Error::Corrupt(_) => !self.alarm.note_corrupt(error.clone()),
                    _ => error.is_transient() && self.refused_in_a_row > 0,
                };
                if !is_said {
                    log::error!(why:% = error; "writes refused");
                }
                self.refused_in_a_row += changes;
                if matches!(**error, Error::Broken(_)) {
                    self.alarm.raise(error.clone());
                }
            }
        }
    }
}
