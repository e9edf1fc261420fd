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
mod leftovers;
mod output;
pub mod retries;
mod task;
#[cfg(test)]
mod tests;
pub mod work;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::os::clock::Clock;
use crate::store::{Claimed, Ending, Outcome, Refused, Store};
use leftovers::Mark;
use retries::Retries;
use task::{GRACE, Running, Task, Tasks, Terminate};
use work::{Work, WorkError};

/// How often to look at the table without a notice: someone may have put an order back with the sqlite3 shell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look for room while a predecessor's orders take it up.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(50);
/// For so long after a notice more orders are expected, whose commit our write can share.
const ORDERS_ARRIVE: Duration = Duration::from_millis(5);
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
    /// The database's path, by which commands are found that outlived their server.
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
    Requeued(Result<usize, Refused>),
    Ended(Claimed, Result<(), WorkError>),
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
        let state = State {
            messages,
            notifier: notifier.clone(),
            mark: Arc::new(Mark::new(settings.database.clone())),
            predecessor_lives: settings.predecessor_lives,
            requeue_due: !settings.predecessor_lives,
            store,
            settings,
            waiting: VecDeque::new(),
            tasks: Tasks::default(),
            ended: Vec::new(),
            unfinished: Vec::new(),
            writing: false,
            write_not_before: None,
            maybe_pending: true,
            retry_at_ms: None,
            notified_at: None,
            stop: None,
        };
        let run = move || {
            let _sign_of_life = sign_of_life;
            state.run();
        };
        let thread = std::thread::Builder::new().name("processor".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Processor { thread, notifier, alive })
    }

    /// A handle by which to tell of new orders.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Turns false when the thread has ended, also by a panic.
    pub fn alive(&self) -> Arc<AtomicBool> {
        self.alive.clone()
    }

    /// Says that the predecessor has ended: what it left in `Processing` is put back and claimed again.
    pub fn alone(&self) {
        let _ = self.notifier.messages.send(Message::Alone);
    }

    /// Begins to stop, see [`stop`](Self::stop), and returns at once. A later call can bring the deadline forward.
    pub fn end(&self, deadline: Instant) {
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

/// An orderly stop under way.
struct Stop {
    terminate_at: Instant,
    told: Option<Terminate>,
}

struct State {
    messages: Receiver<Message>,
    notifier: Notifier,
    mark: Arc<Mark>,
    predecessor_lives: bool,
    /// Whether others may have left orders in `Processing` that are to be put back before anything else.
    requeue_due: bool,
    store: Arc<Store>,
    settings: Settings,
    /// Orders whose work is waiting, with the time at which each ends, earliest first: all take equally long.
    waiting: VecDeque<(Duration, Claimed)>,
    tasks: Tasks,
    /// Attempts that have ended and are still to be recorded.
    ended: Vec<Ending>,
    /// Claims that a stop has cut short and that are still to be put back.
    unfinished: Vec<Claimed>,
    writing: bool,
    /// The end of the pause after a refused write.
    write_not_before: Option<Instant>,
    /// False once a claim came back short: then only a notice, or time, can bring more.
    maybe_pending: bool,
    /// When the next delayed order may be claimed, in milliseconds since 1970.
    retry_at_ms: Option<i64>,
    notified_at: Option<Instant>,
    stop: Option<Stop>,
}

impl State {
    fn run(mut self) {
        while !self.is_over() {
            self.collect_ended();
            self.terminate_tasks();
            if !self.writing && self.write_not_before.is_none_or(|at| at <= Instant::now()) {
                self.write();
            }
            match self.messages.recv_timeout(self.time_to_sleep()) {
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => self.nothing_heard(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.write_the_last();
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Look => {
                self.maybe_pending = true;
                self.notified_at = Some(Instant::now());
            }
            Message::Alone => {
                self.predecessor_lives = false;
                self.requeue_due = true;
            }
            Message::Processed { ended, claim, result } => self.processed(ended, claim, result),
            Message::PutBack { claims, result } => {
                self.written(&result);
                if result.is_err() {
                    self.unfinished.extend(claims);
                }
            }
            Message::Requeued(result) => {
                self.written(&result);
                if let Ok(requeued) = result {
                    if requeued > 0 {
                        log::info!("{requeued} interrupted orders will be processed again");
                    }
                    self.requeue_due = false;
                    self.maybe_pending = true;
                }
            }
            Message::Ended(order, result) => self.task_ended(order, result),
            Message::Stop(terminate_at) => {
                self.unfinished.extend(self.waiting.drain(..).map(|(_, order)| order));
                let stop = self.stop.get_or_insert(Stop { terminate_at, told: None });
                stop.terminate_at = stop.terminate_at.min(terminate_at);
            }
        }
    }

    /// When stopping: whether everything is recorded, or has had its time.
    fn is_over(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| {
            let done = !self.writing && self.tasks.is_empty() && self.ended.is_empty() && self.unfinished.is_empty();
            done || Instant::now() >= stop.terminate_at + 2 * GRACE
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

    /// Terminates the tasks whose time is over: their own, or everybody's.
    fn terminate_tasks(&mut self) {
        self.tasks.terminate_overdue(self.settings.clock.elapsed());
        let Some(stop) = &mut self.stop else { return };
        let due = match stop.told {
            None => (Instant::now() >= stop.terminate_at).then_some(Terminate::Stopping),
            Some(Terminate::Stopping) => (Instant::now() >= stop.terminate_at + GRACE).then_some(Terminate::Kill),
            Some(_) => None,
        };
        if let Some(terminate) = due {
            stop.told = Some(terminate);
            self.unfinished.extend(self.tasks.terminate_all(terminate));
        }
    }

    /// Starts the next write, if there is anything to write.
    fn write(&mut self) {
        if self.requeue_due && self.stop.is_none() && self.requeue() {
            return;
        }
        let claim = if self.maybe_pending && self.stop.is_none() { self.room() } else { 0 };
        if !self.ended.is_empty() || claim > 0 {
            self.process(claim);
        } else if !self.unfinished.is_empty() {
            let claims = std::mem::take(&mut self.unfinished);
            let (told, messages) = (claims.clone(), self.notifier.messages.clone());
            self.writing = true;
            self.store.put_back(claims, move |result| {
                let _ = messages.send(Message::PutBack { claims: told, result });
            });
        }
    }

    /// Puts back what others left in `Processing`, once their commands are ended. Returns false if they left nothing.
    fn requeue(&mut self) -> bool {
        let own = self.own();
        if self.store.counts().is_ok_and(|counts| counts.processing <= own.len() as u64) {
            self.requeue_due = false;
            return false;
        }
        self.mark.end_leftovers();
        let messages = self.notifier.messages.clone();
        self.writing = true;
        self.store.requeue_others(own, move |result| {
            let _ = messages.send(Message::Requeued(result));
        });
        true
    }

    /// All that is in `Processing` by our own claims, while no write is under way.
    fn own(&self) -> HashSet<Claimed> {
        let waiting = self.waiting.iter().map(|(_, order)| *order);
        let ended = self.ended.iter().map(|ending| ending.order);
        waiting.chain(self.tasks.claims()).chain(ended).chain(self.unfinished.iter().copied()).collect()
    }

    /// How many orders may be claimed now. A predecessor's count, too.
    fn room(&self) -> usize {
        let room = self.settings.concurrency.saturating_sub(self.waiting.len() + self.tasks.len());
        if room == 0 || !self.predecessor_lives {
            return room;
        }
        // Without the counts there is none for now; the next look tries again.
        let processing = self.store.counts().map_or(usize::MAX, |counts| counts.processing as usize);
        room.saturating_sub(processing.saturating_sub(self.own().len()))
    }

    fn process(&mut self, claim: usize) {
        if claim > 0 {
            // Lowered just before looking, so that a notice from now on is heard; and not sooner, so that while there is no room
            // for more, the arrival of orders wakes nobody.
            self.notifier.notified.store(false, Ordering::Release);
            self.maybe_pending = false;
        }
        let ended = std::mem::take(&mut self.ended);
        let deferrable = self.notified_at.is_some_and(|at| at.elapsed() < ORDERS_ARRIVE);
        let (told, messages) = (ended.clone(), self.notifier.messages.clone());
        self.writing = true;
        self.store.process(ended, claim, deferrable, move |result| {
            let _ = messages.send(Message::Processed { ended: told, claim, result });
        });
    }

    fn processed(&mut self, ended: Vec<Ending>, claim: usize, result: Result<Vec<Claimed>, Refused>) {
        self.written(&result);
        let Ok(claimed) = result else {
            // What had ended has still ended.
            self.ended.extend(ended);
            self.maybe_pending |= claim > 0;
            return;
        };
        let delayed = ended.iter().filter_map(|ending| match ending.outcome {
            Outcome::Retry { at_ms, .. } => Some(at_ms),
            Outcome::Completed | Outcome::Failed { .. } => None,
        });
        self.retry_at_ms = delayed.chain(self.retry_at_ms).min();
        if claim > 0 && claimed.len() == claim {
            self.maybe_pending = true;
        } else if claim > 0 {
            self.look_ahead();
        }
        self.begin(claimed);
    }

    fn written<T>(&mut self, result: &Result<T, Refused>) {
        self.writing = false;
        // The committer has logged it.
        self.write_not_before = result.is_err().then(|| Instant::now() + RETRY_AFTER);
    }

    /// Learns when the next delayed order is due. The time of the last one has passed, and those behind it were not known.
    fn look_ahead(&mut self) {
        // Of a fresh one a notice tells.
        if let Ok(Some(at_ms @ 1..)) = self.store.next_claim_ms() {
            self.retry_at_ms = Some(at_ms);
        }
    }

    fn begin(&mut self, claimed: Vec<Claimed>) {
        if self.stop.is_some() {
            // Claimed by a write that was under way.
            self.unfinished.extend(claimed);
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
        let order = self.store.claimed_order(claimed).map_err(|e| e.to_string())?.ok_or("the order was deleted")?;
        let order_id = order.order_id.clone();
        let messages = self.notifier.messages.clone();
        let task = Task::start(&self.settings.work, order, self.mark.clone(), move |result| {
            let _ = messages.send(Message::Ended(claimed, result));
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
        let times_out = self.settings.clock.elapsed() + self.settings.exec_timeout;
        self.tasks.add(claimed, Running::new(task, order_id, times_out));
        Ok(())
    }

    fn task_ended(&mut self, order: Claimed, result: Result<(), WorkError>) {
        // One that was left behind by a stop is no longer known.
        let Some(running) = self.tasks.remove(order) else { return };
        match &result {
            Err(_) if running.was_stopped() => return self.unfinished.push(order),
            Err(error) => log::warn!("order {}: attempt {} failed: {}", running.order_id, order.attempt, error.for_log()),
            Ok(()) => log::debug!("order {}: done after attempt {}", running.order_id, order.attempt),
        }
        self.record(order, result);
    }

    fn record(&mut self, order: Claimed, result: Result<(), WorkError>) {
        let outcome = self.settings.retries.outcome(order.attempt, result, self.settings.clock.now_ms());
        self.ended.push(Ending { order, outcome });
    }

    fn nothing_heard(&mut self) {
        if self.writing || self.stop.is_some() {
            return;
        }
        match self.store.next_claim_ms() {
            Ok(None) => self.retry_at_ms = None,
            Ok(Some(0)) | Err(_) => self.maybe_pending = true,
            Ok(Some(at_ms)) => self.retry_at_ms = Some(at_ms),
        }
    }

    fn time_to_sleep(&self) -> Duration {
        let (now, now_ms) = (self.settings.clock.elapsed(), self.settings.clock.now_ms());
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let in_ms = |at_ms: i64| Duration::from_millis(at_ms.saturating_sub(now_ms).max(0) as u64);
        let mut pause = LOOK_EVERY;
        if let (false, Some(at)) = (self.writing, self.write_not_before.filter(|at| *at > Instant::now())) {
            pause = pause.min(until(at));
        } else if !self.writing {
            pause = pause.min(self.waiting.front().map_or(pause, |(ends, _)| ends.saturating_sub(now)));
            pause = pause.min(self.retry_at_ms.map_or(pause, in_ms));
            if self.predecessor_lives && self.maybe_pending {
                pause = pause.min(LOOK_FOR_ROOM_EVERY);
            }
        }
        pause = pause.min(self.tasks.next_deadline().map_or(pause, |at| at.saturating_sub(now)));
        if let Some(stop) = &self.stop {
            let next = if stop.told.is_none() { stop.terminate_at } else { stop.terminate_at + GRACE };
            pause = pause.min(until(next).max(Duration::from_millis(1)));
        }
        self.settings.clock.sleep_for(pause)
    }

    /// The end of a stop: usually nothing is left to write. Past the deadline, what can still be written is tried once.
    fn write_the_last(mut self) {
        // A write under way may still bring claims.
        while self.writing {
            match self.messages.recv() {
                Ok(message) => self.hear(message),
                Err(_) => return,
            }
        }
        let claims: Vec<_> = self.unfinished.iter().copied().chain(self.tasks.claims()).collect();
        if self.ended.is_empty() && claims.is_empty() {
            return;
        }
        let (done, written) = channel();
        self.store.process(std::mem::take(&mut self.ended), 0, false, |_| {});
        self.store.put_back(claims, move |_| {
            let _ = done.send(());
        });
        let _ = written.recv();
    }
}
