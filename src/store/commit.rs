//! Group commit: many callers, one transaction, one fsync.
//!
//! Whoever has something to write puts a [`Job`] into the queue and calls [`Committer::lead`]. If nobody is committing, that
//! thread becomes the leader: it commits for everyone waiting and then finishes their jobs. If somebody is, `lead` returns at
//! once; the thread is free, and the job is finished by whoever commits it. Every write goes this one way, the processor's too.
//!
//! A job may be *patient*: it rides along with the next commit that someone else needs, which saves an fsync of its own. Its
//! owner must call [`Committer::hurry`] when nothing came along.
//!
//! Two rules keep this free of deadlocks, although finishing a job may block (tiny_http answers the requests of one connection
//! in order, so an answer can wait for an earlier one):
//! - **Nothing stays in the queue without somebody to commit it.** A leader looks at the queue again after it has let go of
//!   the writer; one whose `lead` found the writer taken has queued before that look. And since finishing may block, a leader
//!   that leaves jobs in the queue [calls](Committer::call) another thread first.
//! - **Jobs are finished in the order of the queue**, outside the lock. Requests are queued in the order of their arrival, so
//!   the earliest unanswered one is never behind a later one. One whose body came late takes the [place](Place) kept for it.
//!
//! If a commit fails, all jobs of its transaction hear of it and nothing of it is stored (promise 3). After
//! [`Error::Broken`] every later job is refused without touching the database.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::error::Error;
use crate::order::{NewOrder, OrderId};
use crate::os::clock::Clock;
use crate::os::sync::{try_unpoisoned, unpoisoned};
use crate::store::{Claimed, Created, Ending, Look, Revived, Tx, Writer};

/// The most jobs in one transaction: bounds its memory and how long those behind it wait.
const MAX_BATCH: usize = 2_048;

/// A change to be made.
pub enum Write {
    /// Store a new order.
    Create(NewOrder),
    /// The processor's step: record how some attempts ended, then claim up to so many orders.
    Process {
        /// Attempts that have ended.
        ended: Vec<Ending>,
        /// How many pending orders to claim.
        claim: usize,
    },
    /// Have a failed order tried again.
    Revive(OrderId),
    /// Put every order that is being processed back into the queue.
    RequeueInterrupted,
    /// Learn whether the disk takes a write.
    Probe,
    /// Change nothing, but see all that was queued before and nothing that was queued after.
    Look(Box<dyn Fn(Look<'_>) + Send>),
}

/// What a [`Write`] came to.
pub enum Written {
    /// Of [`Write::Create`].
    Order(Created),
    /// Of [`Write::Revive`].
    Revived(Revived),
    /// Of [`Write::Process`].
    Claimed(Vec<Claimed>),
    /// Of the others.
    Done,
}

/// Why a job was refused: the leader's error, shared by everyone in its transaction.
pub type Refused = Arc<Error>;

/// A change, and what to do once it is on disk or refused. Runs on whichever thread leads.
pub struct Job {
    /// The change.
    pub write: Write,
    /// Called once, after the commit, without any lock held.
    pub finish: Box<dyn FnOnce(Result<Written, Refused>) + Send>,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

#[derive(Default)]
struct Queue {
    /// In the order of their places.
    jobs: VecDeque<(Place, Job)>,
    /// How many places have been given.
    places: u64,
    /// Whether any of them needs a commit now.
    urgent: bool,
    /// Whether a commit is under way.
    committing: bool,
}

impl Queue {
    fn next_place(&mut self) -> Place {
        self.places += 1;
        Place(self.places)
    }

    fn push_back(&mut self, job: Job) {
        let place = self.next_place();
        self.jobs.push_back((place, job));
    }
}

/// The queue in front of the one [`Writer`].
pub struct Committer {
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    clock: Clock,
    bell: Box<dyn Fn() + Send + Sync>,
    /// Called once, when the database can no longer be written safely.
    on_broken: Box<dyn Fn(Refused) + Send + Sync>,
    broken: Mutex<Option<Refused>>,
    /// Told when a commit has ended.
    committed: Condvar,
}

impl Committer {
    /// Takes over `writer`. `bell` must bring some thread to call [`lead`](Self::lead) soon; `on_broken` hears when nothing
    /// more can be written and the process should end.
    pub fn new(
        writer: Writer,
        clock: Clock,
        bell: Box<dyn Fn() + Send + Sync>,
        on_broken: impl Fn(Refused) + Send + Sync + 'static,
    ) -> Committer {
        Committer {
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            clock,
            bell,
            on_broken: Box::new(on_broken),
            broken: Mutex::default(),
            committed: Condvar::new(),
        }
    }

    /// Queues a job. The caller must call [`lead`](Self::lead) afterwards.
    pub fn enqueue(&self, job: Job) {
        let mut queue = unpoisoned(&self.queue);
        queue.push_back(job);
        queue.urgent = true;
    }

    /// Queues a job that can wait a little for company. The caller must call [`hurry`](Self::hurry) if it waits too long.
    pub fn enqueue_patient(&self, job: Job) {
        unpoisoned(&self.queue).push_back(job);
    }

    /// Keeps a place in the queue for a job that is not known yet.
    pub fn keep_place(&self) -> Place {
        unpoisoned(&self.queue).next_place()
    }

    /// Queues a job in front of all whose places were given after its own. The caller must call [`lead`](Self::lead) afterwards.
    pub fn enqueue_at(&self, place: Place, job: Job) {
        let mut queue = unpoisoned(&self.queue);
        let at = queue.jobs.partition_point(|(other, _)| *other < place);
        queue.jobs.insert(at, (place, job));
        queue.urgent = true;
    }

    /// Commits what is still queued, patient jobs included.
    pub fn hurry(&self) {
        let mut queue = unpoisoned(&self.queue);
        queue.urgent = !queue.jobs.is_empty();
        drop(queue);
        self.lead();
    }

    /// Commits for everyone waiting, unless somebody else does.
    pub fn lead(&self) {
        while self.has_waiting() {
            // Who holds it looks at the queue again, after our caller has queued.
            let Some(mut writer) = try_unpoisoned(&self.writer) else { return };
            let batch = self.take_batch();
            let outcome = self.commit(&mut writer, &batch);
            drop(writer);
            unpoisoned(&self.queue).committing = false;
            self.committed.notify_one();
            self.call();
            finish(batch, outcome);
        }
    }

    /// Has some thread lead soon if anybody waits, without leading.
    pub fn call(&self) {
        let queue = unpoisoned(&self.queue);
        // Who is committing calls afterwards.
        let needed = queue.urgent && !queue.committing;
        drop(queue);
        if needed {
            (self.bell)();
        }
    }

    /// Waits while a commit is under way, but not longer than `at_most`.
    pub fn rest(&self, at_most: Duration) {
        let queue = unpoisoned(&self.queue);
        if queue.committing {
            // What ended the wait makes no difference.
            let _ = self.committed.wait_timeout(queue, at_most);
        }
    }

    fn has_waiting(&self) -> bool {
        unpoisoned(&self.queue).urgent
    }

    fn take_batch(&self) -> VecDeque<(Place, Job)> {
        let mut queue = unpoisoned(&self.queue);
        queue.committing = true;
        if queue.jobs.len() > MAX_BATCH {
            return queue.jobs.drain(..MAX_BATCH).collect();
        }
        queue.urgent = false;
        std::mem::take(&mut queue.jobs)
    }

    fn commit(&self, writer: &mut Writer, batch: &VecDeque<(Place, Job)>) -> Result<Vec<Written>, Refused> {
        if let Some(broken) = &*unpoisoned(&self.broken) {
            return Err(broken.clone());
        }
        let now_ms = self.clock.now_ms();
        let transaction = || writer.transaction(|tx| batch.iter().map(|(_, job)| apply(tx, &job.write, now_ms)).collect());
        // A panic must not take the jobs of others with it: the processor, for one, waits for its own to be finished.
        let outcome = catch_unwind(AssertUnwindSafe(transaction))
            .unwrap_or_else(|_| Err(Error::Database("panicked in a transaction".into())))
            .map_err(Arc::new);
        if let Err(error) = &outcome {
            log::error!("{} writes refused: {error}", batch.len());
            if matches!(**error, Error::Broken(_)) {
                *unpoisoned(&self.broken) = Some(error.clone());
                (self.on_broken)(error.clone());
            }
        }
        outcome
    }
}

fn apply(tx: &Tx<'_>, write: &Write, now_ms: i64) -> Result<Written, Error> {
    Ok(match write {
        Write::Create(order) => Written::Order(tx.create(order, now_ms)?),
        Write::Process { ended, claim } => {
            for ending in ended {
                if !tx.end(ending, now_ms)? {
                    log::warn!("order number {} was changed by someone else while it was processed", ending.order.seq);
                }
            }
            Written::Claimed(if *claim > 0 { tx.claim(*claim, now_ms)? } else { Vec::new() })
        }
        Write::Revive(id) => Written::Revived(tx.revive(id)?),
        Write::RequeueInterrupted => {
            tx.requeue_interrupted()?;
            Written::Done
        }
        Write::Probe => {
            tx.probe(now_ms)?;
            Written::Done
        }
        Write::Look(read) => {
            read(tx.look()?);
            Written::Done
        }
    })
}

fn finish(batch: VecDeque<(Place, Job)>, outcome: Result<Vec<Written>, Refused>) {
    let finish_one = |job: Job, result| {
        // The panic hook has logged it; the jobs behind it must still be finished.
        let _ = catch_unwind(AssertUnwindSafe(|| (job.finish)(result)));
    };
    match outcome {
        Ok(written) => batch.into_iter().zip(written).for_each(|((_, job), written)| finish_one(job, Ok(written))),
        Err(error) => batch.into_iter().for_each(|(_, job)| finish_one(job, Err(error.clone()))),
    }
}
