//! The one processor thread: claims pending orders in the order of arrival, has them worked on, and records how that ended.
//!
//! **The table is the queue, a message is a hint.** A notice only says "look"; what there is to do is read from the store. So a
//! lost or doubled notice is harmless (the thread looks once a second anyway), a start after a crash is no special path, and a
//! backlog of ten million orders costs no memory: only the orders that are being processed, at most `concurrency`, are known
//! here. Tasks (`processing/task.rs`) do the work and report their end over the same channel; waiting, the default, is done here.
//!
//! One write is under way at a time; it ends and claims many orders in one transaction. A write that is refused because the disk
//! is full is tried again until it succeeds: an order must not stay in `Processing` for ever. A predecessor may still be ending
//! its own orders on the same database; what it claimed is not touched before [`Processor::alone`].

mod command;
mod journal;
mod output;
mod pipes;
pub mod retries;
mod state;
mod stop;
mod task;
#[cfg(test)]
mod tests;
pub mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::os::clock::Clock;
use crate::store::{Claimed, Ending, Refused, Store};
use retries::Retries;
use state::State;
use task::{Attempt, GRACE};
use work::Work;

/// The pause before a refused write is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the processor needs to know.
pub struct Settings {
    /// What processing an order means.
    pub work: Work,
    /// How long it takes if it is waiting.
    pub processing_time: Duration,
    /// How long a command may take.
    pub exec_timeout: Duration,
    /// What follows a failed attempt.
    pub retries: Retries,
    /// The most orders in `Processing` at once; 0 processes none.
    pub concurrency: usize,
    /// The time to go by.
    pub clock: Clock,
    /// The database's path. Commands that outlive their server are found by the file there.
    pub database: PathBuf,
    /// Whether another process still ends orders of this database. Until [`Processor::alone`] they are left to it.
    pub predecessor_lives: bool,
}

enum Message {
    Look,
    /// The predecessor has ended.
    Alone,
    Processed {
        ended: Vec<Ending>,
        claim: usize,
        result: Result<Vec<Claimed>, Refused>,
    },
    PutBack {
        claims: Vec<Claimed>,
        result: Result<(), Refused>,
    },
    Ended(Claimed, Attempt),
    /// Stop, and terminate what still runs at this time.
    Stop(Instant),
}

/// Tells the processor that there may be something to do. Cheap: while a notice is unheard, another adds nothing.
#[derive(Clone)]
pub struct Notifier {
    messages: Sender<Message>,
    notified: Arc<AtomicBool>,
}

impl Notifier {
    /// Has the processor look soon.
    pub fn notify(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            // Nobody hears it after the processor has stopped, and nobody needs to.
            let _ = self.messages.send(Message::Look);
        }
    }
}

/// The running thread.
pub struct Processor {
    thread: JoinHandle<()>,
    notifier: Notifier,
    alive: Arc<AtomicBool>,
    is_told_to_end: Arc<AtomicBool>,
}

impl Processor {
    /// Starts the thread. Unless a predecessor lives, it first puts back what is in `Processing`: nobody works on that.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(store: Arc<Store>, settings: Settings) -> Result<Processor, Error> {
        let (sender, messages) = channel();
        let notifier = Notifier { messages: sender, notified: Arc::default() };
        let alive = Arc::new(AtomicBool::new(true));
        let sign_of_life = SignOfLife(alive.clone());
        let state = State::new(store, settings, notifier.clone(), messages);
        let run = move || {
            let _sign_of_life = sign_of_life;
            state.run();
        };
        let thread = std::thread::Builder::new().name("processor".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Processor { thread, notifier, alive, is_told_to_end: Arc::default() })
    }

    /// A handle by which to tell of new orders.
    pub fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        let notifier = self.notifier.clone();
        Arc::new(move || notifier.notify())
    }

    /// Turns false when the thread has ended, also by a panic.
    #[cfg(test)]
    fn alive(&self) -> Arc<AtomicBool> {
        self.alive.clone()
    }

    /// A handle by which to ask whether the thread has ended although nobody told it to.
    pub fn is_dead(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let (alive, is_told_to_end) = (self.alive.clone(), self.is_told_to_end.clone());
        Arc::new(move || !alive.load(Ordering::Relaxed) && !is_told_to_end.load(Ordering::Relaxed))
    }

    /// Says that the predecessor has ended: what it left in `Processing` is put back and claimed again.
    pub fn alone(&self) {
        let _ = self.notifier.messages.send(Message::Alone);
    }

    /// Begins to stop, see [`stop`](Self::stop), and returns at once. A later call can bring the deadline forward.
    pub fn end(&self, deadline: Instant) {
        self.is_told_to_end.store(true, Ordering::Relaxed);
        let _ = self.notifier.messages.send(Message::Stop(deadline));
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Claims nothing more, gives running work until `deadline` to end and then terminates it, records what has ended, puts back
    /// what has not, which costs no attempt, and returns when that is done or can't be. Only its own orders are touched. What
    /// could not be put back is put back by the next start. Waiting is no work: what waits is put back at once.
    pub fn stop(self, deadline: Instant) {
        self.end(deadline);
        // Terminated, killed, and written: each may take a moment.
        let given_up = deadline + 2 * GRACE + RETRY_AFTER;
        while !self.thread.is_finished() && Instant::now() < given_up {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct SignOfLife(Arc<AtomicBool>);

impl Drop for SignOfLife {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
