//! The one processor thread: claims pending orders in the order of arrival, has them worked on, and records how that ended.
//!
//! **The table is the queue, the channel is the bell.** A message only says "look"; what there is to do is read from the
//! database. So a lost or doubled message is harmless (the thread looks once a second anyway), a start after a crash is no
//! special path, and a backlog of ten million orders costs no memory: only the orders that are being processed, at most
//! `concurrency`, are known here. The work itself is done by tasks (`work.rs`), which report their end over the same channel;
//! waiting, the default, is done here and costs no thread.
//!
//! One write is under way at a time; it ends and claims many orders in one transaction. A write that is refused because the
//! disk is full is tried again, the same one, until it succeeds: an order must not stay in `Processing` for ever.

mod command;
pub mod work;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::order::OrderId;
use crate::os::clock::Clock;
use crate::processing::work::{Retries, Task, Urge, Work, WorkError};
use crate::store::commit::{Committer, Job, Refused, Write, Written};
use crate::store::{Claimed, Ending, Outcome, Readers};

/// How often to look at the table though nobody rang: someone may have put an order back with the sqlite3 shell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for somebody else's commit to ride along with. Saves an fsync when orders arrive one after another, and
/// keeps the next one from waiting behind ours.
const PATIENCE: Duration = Duration::from_millis(5);
/// The pause before a refused write is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a command may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

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
    /// The database's path, by which commands are found that outlived their server.
    pub database: PathBuf,
}

enum Message {
    Look,
    Written(Result<Written, Refused>),
    Ended(Claimed, Result<(), WorkError>),
    /// Stop, and urge what still runs at this time.
    Stop(Instant),
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
            waiting: VecDeque::new(),
            tasks: HashMap::new(),
            ended: Vec::new(),
            writing: None,
            maybe_pending: true,
            retry_at_ms: None,
            rang_at: None,
            stop: None,
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

    /// Claims nothing more, gives running work until `deadline` to end and then tells it to, records what has ended, puts the
    /// rest back to `Pending`, and returns when that is done or can't be. What could not be put back is put back by the next
    /// start. Waiting is no work: what waits is put back at once.
    pub fn stop(self, deadline: Instant) {
        let _ = self.messages.send(Message::Stop(deadline));
        // Urged, killed, and written: each may take a moment.
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

/// A write under way.
struct Writing {
    ended: Vec<Ending>,
    claim: usize,
    /// When to stop waiting for company, until it has been done.
    hurry_at: Option<Instant>,
}

/// A task under way.
struct Running {
    task: Task,
    /// For the log.
    order_id: OrderId,
    /// When it is urged next, on the clock's time, and with what.
    urge: Option<(Duration, Urge)>,
}

/// An orderly stop under way.
struct Stop {
    urge_at: Instant,
    urged: Option<Urge>,
}

struct State {
    inbox: Inbox,
    committer: Arc<Committer>,
    readers: Arc<Readers>,
    settings: Settings,
    /// Orders whose work is waiting, with the time at which each ends, earliest first: all take equally long.
    waiting: VecDeque<(Duration, Claimed)>,
    tasks: HashMap<Claimed, Running>,
    /// Attempts that have ended and are still to be recorded.
    ended: Vec<Ending>,
    writing: Option<Writing>,
    /// False once a claim came back short: then only a ring, or time, can bring more.
    maybe_pending: bool,
    /// When the next delayed order may be claimed, in milliseconds since 1970.
    retry_at_ms: Option<i64>,
    rang_at: Option<Instant>,
    stop: Option<Stop>,
}

impl State {
    fn run(mut self) {
        while !self.is_over() {
            self.collect_ended();
            self.urge_tasks();
            if self.writing.is_none() {
                self.write();
            }
            match self.inbox.messages.recv_timeout(self.time_to_sleep()) {
                Ok(Message::Look) => {
                    self.maybe_pending = true;
                    self.rang_at = Some(Instant::now());
                }
                Ok(Message::Written(result)) => self.written(result),
                Ok(Message::Ended(order, result)) => self.task_ended(order, result),
                Ok(Message::Stop(urge_at)) => {
                    self.waiting.clear();
                    self.stop = Some(Stop { urge_at, urged: None });
                }
                Err(RecvTimeoutError::Timeout) => self.nothing_heard(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.put_back();
    }

    /// When stopping: whether everything is recorded, or has had its time.
    fn is_over(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| {
            let done = self.writing.is_none() && self.tasks.is_empty() && self.ended.is_empty();
            done || Instant::now() >= stop.urge_at + 2 * GRACE
        })
    }

    fn collect_ended(&mut self) {
        let now = self.settings.clock.elapsed();
        while let Some(&(_, order)) = self.waiting.front().filter(|(ends, _)| *ends <= now) {
            self.ended.push(Ending { order, outcome: Outcome::Completed });
            self.waiting.pop_front();
        }
        if self.retry_at_ms.is_some_and(|at| at <= self.settings.clock.now_ms()) {
            self.retry_at_ms = None;
            self.maybe_pending = true;
        }
    }

    /// Tells tasks to end whose time is over: their own, or everybody's.
    fn urge_tasks(&mut self) {
        let now = self.settings.clock.elapsed();
        for running in self.tasks.values_mut() {
            if let Some((_, urge)) = running.urge.filter(|(at, _)| *at <= now) {
                running.task.urge(urge);
                running.urge = (urge != Urge::Kill).then_some((now + GRACE, Urge::Kill));
            }
        }
        let Some(stop) = &mut self.stop else { return };
        let due = match stop.urged {
            None => (Instant::now() >= stop.urge_at).then_some(Urge::Stop),
            Some(Urge::Stop) => (Instant::now() >= stop.urge_at + GRACE).then_some(Urge::Kill),
            Some(_) => None,
        };
        if let Some(urge) = due {
            stop.urged = Some(urge);
            // A function can't be told; it is left behind, and what it comes to is not recorded.
            self.tasks.retain(|_, running| running.task.urge(urge));
        }
    }

    /// Starts the next write, if there is anything to write.
    fn write(&mut self) {
        let room = self.settings.concurrency.saturating_sub(self.waiting.len() + self.tasks.len());
        let claim = if self.maybe_pending && self.stop.is_none() { room } else { 0 };
        if self.ended.is_empty() && claim == 0 {
            return;
        }
        if claim > 0 {
            // Lowered just before looking, so that a ring from now on is heard; and not sooner, so that while there is no room
            // for more, the arrival of orders wakes nobody.
            self.inbox.bell.rung.store(false, Ordering::Release);
            self.maybe_pending = false;
        }
        let ended = std::mem::take(&mut self.ended);
        let orders_arrive = self.rang_at.is_some_and(|at| at.elapsed() < PATIENCE);
        let patience = if orders_arrive { PATIENCE } else { Duration::ZERO };
        self.writing = Some(Writing { ended: ended.clone(), claim, hurry_at: Some(Instant::now() + patience) });
        let messages = self.inbox.bell.messages.clone();
        self.committer.enqueue_patient(Job {
            write: Write::Process { ended, claim },
            finish: Box::new(move |result| {
                let _ = messages.send(Message::Written(result));
            }),
        });
    }

    fn written(&mut self, result: Result<Written, Refused>) {
        let Some(writing) = self.writing.take() else { return };
        match result {
            Ok(Written::Claimed(claimed)) => {
                let delayed = writing.ended.iter().filter_map(|ending| match ending.outcome {
                    Outcome::Retry { at_ms, .. } => Some(at_ms),
                    Outcome::Completed | Outcome::Failed { .. } => None,
                });
                self.retry_at_ms = delayed.chain(self.retry_at_ms).min();
                if writing.claim > 0 && claimed.len() == writing.claim {
                    self.maybe_pending = true;
                } else if writing.claim > 0 {
                    self.look_ahead();
                }
                self.begin(claimed);
            }
            Ok(_) => {}
            Err(_) => {
                // Logged by the committer. What had ended has still ended.
                self.ended.extend(writing.ended);
                self.maybe_pending |= writing.claim > 0;
                if self.stop.is_none() {
                    std::thread::sleep(RETRY_AFTER);
                }
            }
        }
    }

    /// Learns when the next delayed order is due. The time of the last one has passed, and those behind it were not known.
    fn look_ahead(&mut self) {
        // Of a fresh one the bell tells.
        if let Ok(Some(at_ms @ 1..)) = self.readers.look(|look| look.next_claim_ms()) {
            self.retry_at_ms = Some(at_ms);
        }
    }

    fn begin(&mut self, claimed: Vec<Claimed>) {
        if self.stop.is_some() {
            // Claimed by a write that was under way; put back with the rest.
            return;
        }
        if let Work::Wait = self.settings.work {
            let ends = self.settings.clock.elapsed() + self.settings.processing_time;
            self.waiting.extend(claimed.into_iter().map(|order| (ends, order)));
            return;
        }
        for order in claimed {
            if let Err(error) = self.begin_task(order) {
                log::warn!("order number {}: attempt {} can't begin: {error}", order.seq, order.attempt);
                self.record(order, Err(WorkError::retry(error)));
            }
        }
    }

    fn begin_task(&mut self, claimed: Claimed) -> Result<(), String> {
        let order =
            self.readers.look(|look| look.claimed_order(claimed)).map_err(|e| e.to_string())?.ok_or("the order was deleted")?;
        let order_id = order.order_id.clone();
        let messages = self.inbox.bell.messages.clone();
        let task = Task::start(&self.settings.work, order, self.settings.database.clone(), move |result| {
            let _ = messages.send(Message::Ended(claimed, result));
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
        let urge = match self.settings.work {
            Work::Command(_) => Some((self.settings.clock.elapsed() + self.settings.exec_timeout, Urge::TimeOut)),
            Work::Wait | Work::Function(_) => None,
        };
        self.tasks.insert(claimed, Running { task, order_id, urge });
        Ok(())
    }

    fn task_ended(&mut self, order: Claimed, result: Result<(), WorkError>) {
        // One that was left behind by a stop is no longer known.
        let Some(running) = self.tasks.remove(&order) else { return };
        let told_to_stop = self.stop.as_ref().is_some_and(|stop| stop.urged.is_some());
        match &result {
            Err(_) if told_to_stop => return,
            Err(error) => log::warn!("order {}: attempt {} failed: {error}", running.order_id, order.attempt),
            Ok(()) => log::debug!("order {}: done after attempt {}", running.order_id, order.attempt),
        }
        self.record(order, result);
    }

    fn record(&mut self, order: Claimed, result: Result<(), WorkError>) {
        let outcome = self.settings.retries.outcome(order.attempt, result, self.settings.clock.now_ms());
        self.ended.push(Ending { order, outcome });
    }

    fn nothing_heard(&mut self) {
        match &mut self.writing {
            Some(writing) => {
                if writing.hurry_at.is_some_and(|at| at <= Instant::now()) {
                    writing.hurry_at = None;
                    self.committer.hurry();
                }
            }
            None => match self.readers.look(|look| look.next_claim_ms()) {
                Ok(None) => self.retry_at_ms = None,
                Ok(Some(0)) => self.maybe_pending = true,
                Ok(Some(at_ms)) => self.retry_at_ms = Some(at_ms),
                Err(_) => self.maybe_pending = true,
            },
        }
    }

    fn time_to_sleep(&self) -> Duration {
        if let Some(at) = self.writing.as_ref().and_then(|w| w.hurry_at) {
            return at.saturating_duration_since(Instant::now());
        }
        let now = self.settings.clock.elapsed();
        let in_ms = |at_ms: i64| Duration::from_millis((at_ms - self.settings.clock.now_ms()).max(0) as u64);
        let mut pause = LOOK_EVERY;
        if self.writing.is_none() {
            pause = pause.min(self.waiting.front().map_or(pause, |(ends, _)| ends.saturating_sub(now)));
            pause = pause.min(self.retry_at_ms.map_or(pause, in_ms));
        }
        for (at, _) in self.tasks.values().filter_map(|running| running.urge) {
            pause = pause.min(at.saturating_sub(now));
        }
        if let Some(stop) = &self.stop {
            let next = if stop.urged.is_none() { stop.urge_at } else { stop.urge_at + GRACE };
            pause = pause.min(next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        }
        self.settings.clock.sleep_for(pause)
    }

    /// The last write: what has ended is recorded, what has not begins anew after the next start.
    fn put_back(mut self) {
        let messages = self.inbox.bell.messages.clone();
        let ended = std::mem::take(&mut self.ended);
        self.committer.enqueue(Job { write: Write::Process { ended, claim: 0 }, finish: Box::new(|_| {}) });
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
