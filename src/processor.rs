//! The one processor thread: claims pending orders in the order of arrival and completes them when their time has come.
//!
//! **The table is the queue, the channel is the bell.** A message only says "look"; what there is to do is read from the
//! database. So a lost or doubled message is harmless (the thread looks once a second anyway), a start after a crash is no
//! special path, and a backlog of ten million orders costs no memory: only the orders that are being processed, at most
//! `concurrency`, are known here.
//!
//! One write is under way at a time; it completes and claims many orders in one transaction. A write that is refused because
//! the disk is full is tried again, the same one, until it succeeds: an order must not stay in `Processing` for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::commit::{Committer, Job, Refused, Write, Written};
use crate::error::Error;
use crate::store::{Claimed, Readers};

/// How often to look at the table though nobody rang: someone may have put an order back with the sqlite3 shell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for somebody else's commit to ride along with. Saves an fsync when orders arrive one after another, and
/// keeps the next one from waiting behind ours.
const PATIENCE: Duration = Duration::from_millis(5);
/// The pause before a refused write is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the processor needs to know.
pub struct Settings {
    /// How long processing one order takes.
    pub processing_time: Duration,
    /// The most orders in `Processing` at once; 0 processes none.
    pub concurrency: usize,
    /// The time to go by.
    pub clock: Clock,
}

enum Message {
    Look,
    Written(Result<Written, Refused>),
    Stop,
}

/// Tells the processor that there may be something to do. Cheap: while a ring has not been heard, another adds nothing.
#[derive(Clone)]
pub struct Bell {
    messages: Sender<Message>,
    rung: Arc<AtomicBool>,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Nobody hears it after the processor has stopped, and nobody needs to.
            let _ = self.messages.send(Message::Look);
        }
    }
}

/// The channel to a processor that has not been started yet, so that what it depends on can already ring.
pub struct Inbox {
    messages: Receiver<Message>,
    bell: Bell,
}

/// Makes the bell and the place where it is heard.
pub fn inbox() -> (Bell, Inbox) {
    let (sender, messages) = channel();
    let bell = Bell { messages: sender, rung: Arc::default() };
    (bell.clone(), Inbox { messages, bell })
}

/// The running thread.
pub struct Processor {
    thread: JoinHandle<()>,
    messages: Sender<Message>,
    alive: Arc<AtomicBool>,
}

impl Processor {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(
        inbox: Inbox,
        committer: Arc<Committer>,
        readers: Arc<Readers>,
        settings: Settings,
    ) -> Result<Processor, Error> {
        let messages = inbox.bell.messages.clone();
        let alive = Arc::new(AtomicBool::new(true));
        let sign_of_life = SignOfLife(alive.clone());
        let state = State {
            inbox,
            committer,
            readers,
            settings,
            running: VecDeque::new(),
            ended: Vec::new(),
            writing: None,
            maybe_pending: true,
            rang_at: None,
            stopping: false,
        };
        let run = move || {
            let _sign_of_life = sign_of_life;
            state.run();
        };
        let thread = std::thread::Builder::new().name("processor".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Processor { thread, messages, alive })
    }

    /// Turns false when the thread has ended, also by a panic.
    pub fn alive(&self) -> Arc<AtomicBool> {
        self.alive.clone()
    }

    /// Claims nothing more, records what has been completed, puts the rest back to `Pending`, and returns when that is done or
    /// `timeout` has passed. What could not be put back by then is put back by the next start.
    pub fn stop(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let _ = self.messages.send(Message::Stop);
        while !self.thread.is_finished() && Instant::now() < deadline {
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

/// A write under way.
struct Writing {
    completed: Vec<Claimed>,
    claim: usize,
    /// When to stop waiting for company, until it has been done.
    hurry_at: Option<Instant>,
}

struct State {
    inbox: Inbox,
    committer: Arc<Committer>,
    readers: Arc<Readers>,
    settings: Settings,
    /// Orders in `Processing` with the time at which each ends, earliest first: all take equally long.
    running: VecDeque<(Duration, Claimed)>,
    /// Orders whose time has come and which are still to be marked.
    ended: Vec<Claimed>,
    writing: Option<Writing>,
    /// False once a claim came back short: then only a ring can bring more.
    maybe_pending: bool,
    rang_at: Option<Instant>,
    stopping: bool,
}

impl State {
    fn run(mut self) {
        while !(self.stopping && self.writing.is_none()) {
            self.collect_ended();
            if self.writing.is_none() {
                self.write();
            }
            match self.inbox.messages.recv_timeout(self.time_to_sleep()) {
                Ok(Message::Look) => {
                    self.maybe_pending = true;
                    self.rang_at = Some(Instant::now());
                }
                Ok(Message::Written(result)) => self.written(result),
                Ok(Message::Stop) => self.stopping = true,
                Err(RecvTimeoutError::Timeout) => self.nothing_heard(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.put_back();
    }

    fn collect_ended(&mut self) {
        let now = self.settings.clock.elapsed();
        while let Some(&(_, order)) = self.running.front().filter(|(ends, _)| *ends <= now) {
            self.ended.push(order);
            self.running.pop_front();
        }
    }

    /// Starts the next write, if there is anything to write.
    fn write(&mut self) {
        let room = self.settings.concurrency.saturating_sub(self.running.len());
        let claim = if self.maybe_pending && !self.stopping { room } else { 0 };
        if self.ended.is_empty() && claim == 0 {
            return;
        }
        if claim > 0 {
            // Lowered just before looking, so that a ring from now on is heard; and not sooner, so that while there is no room
            // for more, the arrival of orders wakes nobody.
            self.inbox.bell.rung.store(false, Ordering::Release);
            self.maybe_pending = false;
        }
        let completed = std::mem::take(&mut self.ended);
        let orders_arrive = self.rang_at.is_some_and(|at| at.elapsed() < PATIENCE);
        let patience = if orders_arrive { PATIENCE } else { Duration::ZERO };
        self.writing = Some(Writing { completed: completed.clone(), claim, hurry_at: Some(Instant::now() + patience) });
        let messages = self.inbox.bell.messages.clone();
        self.committer.enqueue_patient(Job {
            write: Write::Process { completed, claim },
            finish: Box::new(move |result| {
                let _ = messages.send(Message::Written(result));
            }),
        });
    }

    fn written(&mut self, result: Result<Written, Refused>) {
        let Some(writing) = self.writing.take() else { return };
        match result {
            Ok(Written::Claimed(claimed)) => {
                self.maybe_pending |= writing.claim > 0 && claimed.len() == writing.claim;
                let ends = self.settings.clock.elapsed() + self.settings.processing_time;
                self.running.extend(claimed.into_iter().map(|order| (ends, order)));
            }
            Ok(Written::Order(_) | Written::Done) => {}
            Err(_) => {
                // Logged by the committer. What had ended has still ended.
                self.ended.extend(writing.completed);
                self.maybe_pending |= writing.claim > 0;
                if !self.stopping {
                    std::thread::sleep(RETRY_AFTER);
                }
            }
        }
    }

    fn nothing_heard(&mut self) {
        match &mut self.writing {
            Some(writing) => {
                if writing.hurry_at.is_some_and(|at| at <= Instant::now()) {
                    writing.hurry_at = None;
                    self.committer.hurry();
                }
            }
            None => self.maybe_pending |= self.readers.any_pending().unwrap_or(true),
        }
    }

    fn time_to_sleep(&self) -> Duration {
        if let Some(at) = self.writing.as_ref().and_then(|w| w.hurry_at) {
            return at.saturating_duration_since(Instant::now());
        }
        let next = match (&self.writing, self.running.front()) {
            (None, Some((ends, _))) => ends.saturating_sub(self.settings.clock.elapsed()).min(LOOK_EVERY),
            _ => LOOK_EVERY,
        };
        self.settings.clock.sleep_for(next)
    }

    /// The last write: what has ended is completed, what has not begins anew after the next start.
    fn put_back(mut self) {
        self.collect_ended();
        let messages = self.inbox.bell.messages.clone();
        let completed = std::mem::take(&mut self.ended);
        self.committer.enqueue(Job { write: Write::Process { completed, claim: 0 }, finish: Box::new(|_| {}) });
        self.committer.enqueue(Job {
            write: Write::RequeueInterrupted,
            finish: Box::new(move |result| {
                let _ = messages.send(Message::Written(result));
            }),
        });
        self.committer.lead();
        while !matches!(self.inbox.messages.recv(), Ok(Message::Written(_)) | Err(_)) {}
    }
}
