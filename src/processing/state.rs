//! What the processor thread knows, and its steps: hear, collect what has ended, terminate what is overdue, write, sleep.
//!
//! All of it runs on that one thread. A step that needs a write asks the store for it and goes on when its answer comes as a
//! message; meanwhile no other write is begun. If the write is refused, nothing of it has happened, and the step is done again
//! after a pause. Nothing is known here that the store does not have, except which attempts are our own.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::leftovers::Mark;
use super::task::{GRACE, Running, Task, Tasks, Terminate};
use super::work::{Work, WorkError};
use super::{Message, Notifier, RETRY_AFTER, Settings};
use crate::store::{Claimed, Ending, Outcome, Refused, Store};

/// How often to look at the table without a notice: someone may have put an order back with the sqlite3 shell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look for room while a predecessor's orders take it up.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(50);
/// For so long after a notice more orders are expected, whose commit our write can share.
const ORDERS_ARRIVE: Duration = Duration::from_millis(5);

/// An orderly stop under way.
struct Stop {
    terminate_at: Instant,
    told: Option<Terminate>,
}

/// What the processor thread knows.
pub(super) struct State {
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
    pub(super) fn new(store: Arc<Store>, settings: Settings, notifier: Notifier, messages: Receiver<Message>) -> State {
        State {
            messages,
            notifier,
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
        }
    }

    /// Runs until a stop is over.
    pub(super) fn run(mut self) {
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

    /// How many orders may be claimed now. Those of a predecessor take up room, too.
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
