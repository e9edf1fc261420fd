//! Where orders are kept: changes go in, each comes back as its own typed answer once it is on disk; and a few reads.
//!
//! [`Store`] is all that the rest of the program sees. No SQL, no connection and no type of the database shows through it.
//! Changes that arrive together share one transaction and one fsync, all or nothing (`store/commit.rs`). The call that asks for a
//! change returns at once; its `done` runs on the committer thread, after the commit. Reads run on the thread that asks, see what
//! was last committed, and never wait for a commit.
//!
//! When a commit fails, every change in it is refused and nothing of it is stored (promise 3). After [`Error::Broken`] nothing
//! is known for sure: every later change is refused without touching the database, and the process must end. Every function
//! here returns what the database reports as the [`Error`] that it stands for.

mod alarm;
mod backend;
mod checkpoints;
mod commit;
#[cfg(test)]
mod conformance;
mod ends;
pub mod export;
mod figures;
#[cfg(feature = "postgres")]
mod lock;
pub mod orders;
#[cfg(feature = "postgres")]
mod postgres;
pub mod retention;
mod rows;
mod sqlite;
mod steps;
mod tenure;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::error::Error;
pub(crate) use crate::order::Exported;
use crate::order::{NewOrder, Order, OrderId, Status};
use crate::os::clock::Clock;
use alarm::Alarm;
use backend::{Place, Readers, Upkeep, read};
use commit::Committer;
use ends::Waiting;
pub use figures::Figures;
use figures::Meters;
#[cfg(feature = "postgres")]
pub use lock::Lock;
#[cfg(feature = "postgres")]
pub use postgres::{Instance, Instances, is_server};
#[cfg(not(feature = "postgres"))]
pub use sqlite::Lock;
pub use sqlite::{backup, check, copy, partial, restore};
use steps::Steps;
pub use tenure::Tenure;
pub(crate) use write::LONGEST_WAIT_MS;
use write::{Asked, Process, Prune, Write};
pub use write::{Changed, Claimed, Created, Ending, Outcome, Pruned};

/// Why a change was refused: the error of its transaction, shared by all that were in it.
pub type Refused = Arc<Error>;

/// How many orders there are in each status, and how long the completed ones took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders in `Pending`.
    pub pending: u64,
    /// Orders in `Processing`.
    pub processing: u64,
    /// Orders in `Completed`.
    pub completed: u64,
    /// Orders in `Failed`.
    pub failed: u64,
    /// Orders in `Cancelled`.
    pub cancelled: u64,
    /// Milliseconds from creation to completion, summed over completed orders.
    pub processing_ms: u64,
}

impl Counts {
    /// How many orders there are.
    pub fn total(&self) -> u64 {
        Status::ALL.into_iter().map(|status| self.of(status)).sum()
    }

    /// How many there are in `status`.
    pub fn of(&self, status: Status) -> u64 {
        match status {
            Status::Pending => self.pending,
            Status::Processing => self.processing,
            Status::Completed => self.completed,
            Status::Failed => self.failed,
            Status::Cancelled => self.cancelled,
        }
    }
}

/// Which orders to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those in this status alone.
    pub status: Option<Status>,
    /// Those of this user alone.
    pub user_id: Option<String>,
}

/// A page of orders.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The orders, newest first.
    pub orders: Vec<Order>,
    /// Where the next page begins, if there are more.
    pub next: Option<i64>,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// How many threads may read at once.
    pub readers: usize,
    /// The time that is noted with orders.
    pub clock: Clock,
    /// Whether a process that had the same lock before still uses the database.
    pub predecessor_lives: bool,
    /// Whether to go on where orders have been lost, with the old files set aside. A successor never does.
    pub accept_loss: bool,
}

/// The orders on disk. Shared by all threads that need them.
pub struct Store {
    committer: Committer,
    alarm: Arc<Alarm>,
    meters: Arc<Meters>,
    upkeep: Upkeep,
    readers: Readers,
    tenure: Tenure,
    steps: Steps,
}

impl Store {
    /// Opens the database that `lock` owns, or makes it if nobody ever has, and starts the committer thread. `on_broken` is called
    /// once, on that thread, when nothing more can be written safely.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::TooNew`], [`Error::Replaced`] or [`Error::WouldLose`] with the files untouched;
    /// [`Error::Unusable`] when they cannot be opened or written; [`Error::Thread`].
    pub fn open(lock: &Lock, opening: Opening, on_broken: impl FnOnce(Refused) + Send + 'static) -> Result<Store, Error> {
        let alarm = Arc::new(Alarm::new(on_broken));
        let meters = Arc::new(Meters::new(opening.clock.now_ms()));
        let Place { backend, readers, upkeep, tenure } = backend::open(lock, &opening, alarm.clone(), meters.clone())?;
        let committer = Committer::start(backend, opening.clock.clone(), alarm.clone(), meters.clone())?;
        let store = Store { committer, alarm, meters, upkeep, readers, tenure, steps: Steps::new(opening.clock) };
        // Not worth a refusal to start.
        if let Ok(Some(ms)) = read!(store.readers, newest_completion_ms()) {
            store.meters.completed_at(ms);
        }
        if read!(store.readers, has_attempt_in_future(store.steps.now_ms()))? {
            store.shift_retries(0);
        }
        Ok(store)
    }

    /// Stores `order` as `Pending`, unless its id is taken.
    ///
    /// Of this and the other changes: `done` is called once, after the commit (promise 1), in the order in which the changes were
    /// asked for. It should not block, as other commits wait for it. A panic in it harms no other change. After
    /// [`close`](Self::close) it is called at once, by the calling thread.
    pub fn create(&self, order: NewOrder, done: impl FnOnce(Result<Created, Refused>) + Send + 'static) {
        self.committer.push(Write::Create(Asked::new(order, done)));
    }

    /// Stores orders as they were elsewhere, in their order, but for those whose id is taken.
    pub(crate) fn import(&self, orders: Vec<Exported>, done: impl FnOnce(Result<Vec<Created>, Refused>) + Send + 'static) {
        self.committer.push(Write::Import(Asked::new(orders, done)));
    }

    /// Has a failed order tried again.
    pub fn revive(&self, id: OrderId, done: impl FnOnce(Result<Changed, Refused>) + Send + 'static) {
        self.committer.push(Write::Revive(Asked::new(id, done)));
    }

    /// Takes a pending order back, also one that waits to be tried again.
    pub fn cancel(&self, id: OrderId, done: impl FnOnce(Result<Changed, Refused>) + Send + 'static) {
        self.committer.push(Write::Cancel(Asked::new(id, done)));
    }

    /// Writes something of no meaning, to learn whether the disk takes it.
    pub fn probe(&self, done: impl FnOnce(Result<(), Refused>) + Send + 'static) {
        self.committer.push(Write::Probe(Asked::new((), done)));
    }

    /// Records how attempts ended, then claims up to `claim` pending orders. One that is `deferrable` waits a few milliseconds
    /// for a change that is not, to share its fsync.
    pub fn process(
        &self,
        ended: Vec<Ending>,
        claim: usize,
        deferrable: bool,
        done: impl FnOnce(Result<Vec<Claimed>, Refused>) + Send + 'static,
    ) {
        let write = Write::Process(Asked::new(Process { ended, claim }, done));
        if deferrable {
            self.committer.push_deferrable(write);
        } else {
            self.committer.push(write);
        }
    }

    /// Puts exactly these claims back to `Pending`, as if they had not been made: an orderly stop costs no attempt. Who claimed them
    /// must not end them afterwards, as the next attempt has the same number.
    pub fn put_back(&self, claims: Vec<Claimed>, done: impl FnOnce(Result<(), Refused>) + Send + 'static) {
        self.committer.push(Write::PutBack(Asked::new(claims, done)));
    }

    /// Deletes orders in `status` that ended before a time in milliseconds since 1970: a batch of them, from the place `after` on.
    pub fn prune(
        &self,
        status: Status,
        before_ms: i64,
        after: i64,
        done: impl FnOnce(Result<Pruned, Refused>) + Send + 'static,
    ) {
        self.committer.push(Write::Prune(Asked::new(Prune { status, before_ms, after }, done)));
    }

    /// The clock was set forward by so much, or back: has delayed orders wait by their length. 0 for a step that nobody saw.
    fn shift_retries(&self, step_ms: i64) {
        log::warn!("the clock was set; orders that are to be tried again wait by their delay");
        // The committer logs a refusal. It only makes them wait longer, or not as long.
        self.committer.push(Write::ShiftRetries(Asked::new(step_ms, |_| {})));
    }

    /// The status of an order, or `None` if there is none of that id.
    ///
    /// # Errors
    /// As said above.
    pub fn status(&self, id: &OrderId) -> Result<Option<Status>, Error> {
        self.alarm.heed(read!(self.readers, status(id)))
    }

    /// The whole record of an order, or `None` if there is none of that id.
    ///
    /// # Errors
    /// As said above.
    pub fn order(&self, id: &OrderId) -> Result<Option<Order>, Error> {
        self.alarm.heed(read!(self.readers, order(id)))
    }

    /// The place of an order in the order of arrival, or `None` if there is none of that id.
    ///
    /// # Errors
    /// As said above.
    fn place(&self, id: &OrderId) -> Result<Option<i64>, Error> {
        self.alarm.heed(read!(self.readers, place(id)))
    }

    /// From now on whoever has this hears when this order, which is at `place`, has ended by a change of this store.
    fn wait_for(&self, place: i64, id: OrderId) -> Waiting<'_> {
        self.committer.ends().wait_for(place, id)
    }

    /// The whole record of an order that has been claimed, or `None` if it has been deleted since.
    ///
    /// # Errors
    /// As said above.
    pub fn claimed_order(&self, claimed: Claimed) -> Result<Option<Order>, Error> {
        self.alarm.heed(read!(self.readers, claimed_order(claimed)))
    }

    /// The claim and the id of every order in `Processing`, whoever has claimed it.
    ///
    /// # Errors
    /// As said above.
    pub fn in_processing(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        self.alarm.heed(read!(self.readers, in_processing()))
    }

    /// The claim and the id of orders in `Processing` that others have left since the first look, as their lease has ended. There are
    /// none where there is no lease.
    ///
    /// # Errors
    /// As said above.
    pub fn orphans(&self) -> Result<Vec<(Claimed, OrderId)>, Error> {
        read!(self.readers, orphans())
    }

    /// How many orders are in `Processing` by the processes of this machine that share a lock.
    ///
    /// # Errors
    /// As said above.
    pub fn processing_here(&self) -> Result<u64, Error> {
        read!(self.readers, processing_here())
    }

    /// Until when what was claimed may be worked on.
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Up to `limit` orders that arrived before the place `before`, newest first: fewer, with [`Page::next`] set, if their records
    /// would take more than `max_bytes` as JSON, but at least one, if one is found. With a status and a user both, only so many orders
    /// are looked at: the page may then hold few or none and still have a next one. Reads at most one record more than it holds.
    ///
    /// # Errors
    /// As said above.
    pub fn page(&self, filter: &Filter, before: Option<i64>, limit: usize, max_bytes: usize) -> Result<Page, Error> {
        self.alarm.heed(read!(self.readers, page(filter, before, limit, max_bytes)))
    }

    /// The counts that `/metrics` reports. They are kept, not counted, so their cost does not depend on the number of orders.
    ///
    /// # Errors
    /// As said above.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.alarm.heed(read!(self.readers, counts()))
    }

    /// What has been done since the store was opened, and how it stands. As cheap as [`counts`](Self::counts). While a server is
    /// away, what it alone knows is missing.
    ///
    /// # Errors
    /// As said above.
    pub fn figures(&self) -> Result<Figures, Error> {
        let read = || -> Result<_, Error> { Ok((self.counts()?, self.alarm.heed(read!(self.readers, oldest_pending_ms()))?)) };
        let known = match read() {
            Err(e) if e.is_away() => None,
            read => Some(read?),
        };
        let (counts, oldest_ms) = known.map_or((None, None), |(counts, oldest_ms)| (Some(counts), oldest_ms));
        let figures = self.meters.read(self.steps.now_ms(), counts, oldest_ms, self.upkeep.trouble().is_some());
        #[cfg(feature = "postgres")]
        let figures = Figures {
            instances: figures.counts.and_then(|_| self.readers.instances().transpose()).transpose()?,
            lease_left: self.tenure.time_left(),
            ..figures
        };
        Ok(figures)
    }

    /// When the next pending order may be claimed, in milliseconds since 1970: 0 if there is one that need not wait, `None` if
    /// there is none at all.
    ///
    /// # Errors
    /// As said above.
    pub fn next_claim_ms(&self) -> Result<Option<i64>, Error> {
        // Whoever waits for a delayed order asks again and again.
        if let Some(step_ms) = self.steps.look() {
            self.shift_retries(step_ms);
        }
        self.alarm.heed(read!(self.readers, next_claim_ms()))
    }

    /// What a person has to look at, though orders may still be stored: the log can't be copied back into the database, and grows; or
    /// a page of the database is damaged.
    pub fn trouble(&self) -> Option<String> {
        self.alarm.corrupt().map(|error| error.to_string()).or_else(|| self.upkeep.trouble())
    }

    /// Waits while a commit is under way, but not longer than `at_most`: more changes then come together, and share the next one.
    pub fn rest(&self, at_most: Duration) {
        self.committer.rest(at_most);
    }

    /// Commits what has been asked for, ends the committer thread and closes the file. What is asked later is refused. Waits a
    /// little longer than a commit may take, and no more, whatever the disk does. Dropping the store does the same.
    pub fn close(&self) {
        self.committer.close();
        self.readers.close();
        // Whoever waits is refused now.
        self.committer.ends().tell_all();
        // Last, as it has the file open besides, and closing that would drop SQLite's locks.
        self.upkeep.close();
    }
}

/// Asks for a change, and waits for its answer.
fn answered<T>(ask: impl FnOnce(Sender<Result<T, Refused>>)) -> Result<T, Refused> {
    let (done, answer) = channel();
    ask(done);
    answer.recv().unwrap_or_else(|_| Err(Refused::new(Error::Database("the store gave no answer".into()))))
}
