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

use super::stop::Stop;
use super::task::{Attempt, Running, Task, Tasks, Terminate};
use super::work::{Work, WorkError};
use super::{Message, Notifier, RETRY_AFTER, Settings, journal};
use crate::order::OrderId;
use crate::os::marks::{self, Mark};
use crate::store::{Claimed, Ending, LONGEST_WAIT_MS, Outcome, Refused, Store, Tenure};

/// How often to look at the table without a notice: someone may have put an order back with the sqlite3 shell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look for room while a predecessor's orders take it up.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(50);
/// For so long after a notice more orders are expected, whose commit our write can share.
const ORDERS_ARRIVE: Duration = Duration::from_millis(5);

/// The pause before another attempt is begun, when the machine had no room for one.
const ROOM_AFTER: Duration = Duration::from_secs(1);

/// What the processor thread knows.
pub(super) struct State {
    messages: Receiver<Message>,
    notifier: Notifier,
    mark: Arc<Mark>,
    predecessor_lives: bool,
    /// Whether others may have left orders in `Processing`, whose attempts are to be ended before anything else.
    takeover_due: bool,
    store: Arc<Store>,
    tenure: Tenure,
    /// Under which name we work. None while we may not.
    holder: Option<i64>,
    /// Under which name the claim that is being written was asked for.
    asked_as: Option<i64>,
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
    /// The end of the pause after an attempt that could not be begun, until one can.
    no_room_until: Option<Instant>,
    stop: Option<Stop>,
}

impl State {
    pub(super) fn new(store: Arc<Store>, settings: Settings, notifier: Notifier, messages: Receiver<Message>) -> State {
        let tenure = store.tenure();
        State {
            messages,
            holder: tenure.holder(),
            asked_as: None,
            tenure,
            notifier,
            mark: Arc::new(Mark::new(&settings.database)),
            predecessor_lives: settings.predecessor_lives,
            takeover_due: !settings.predecessor_lives,
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
            no_room_until: None,
            stop: None,
        }
    }

    /// Runs until a stop is over.
    pub(super) fn run(mut self) {
        while !self.is_over() {
            self.keep_to_tenure();
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
                self.takeover_due = true;
            }
            Message::Processed { ended, claim, result } => self.processed(ended, claim, result),
            Message::PutBack { claims, result } => {
                self.written(&result);
                if result.is_err() {
                    self.unfinished.extend(claims);
                }
            }
            Message::Ended(order, attempt) => self.task_ended(order, attempt),
            Message::Stop(terminate_at) => self.stop(terminate_at),
        }
    }

    fn stop(&mut self, terminate_at: Instant) {
        if !self.waiting.is_empty() {
            log::info!(orders = self.waiting.len(); "orders that were waiting are put back");
        }
        self.unfinished.extend(self.waiting.drain(..).map(|(_, order)| order));
        if let Some(stop) = &mut self.stop {
            return stop.hurry(terminate_at);
        }
        let stop = self.stop.insert(Stop::new(terminate_at));
        let at_most = stop.time_left();
        if !self.tasks.is_empty() && !at_most.is_zero() {
            log::info!(attempts = self.tasks.len(), at_most_s = tenths(at_most); "waiting for attempts that are under way");
            self.tasks.named().for_each(|(id, attempt)| journal::waited_for(id, attempt));
        }
    }

    /// When stopping: whether everything is recorded, or has had its time.
    fn is_over(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| {
            let done = !self.writing && self.tasks.is_empty() && self.ended.is_empty() && self.unfinished.is_empty();
            done || stop.is_given_up()
        })
    }

    /// Ends the work that was begun under a name that we no longer have: another instance may begin it soon.
    fn keep_to_tenure(&mut self) {
        let holder = self.tenure.holder();
        if holder == self.holder {
            return;
        }
        if self.holder.is_some() {
            let under_way = self.waiting.len() + self.tasks.len();
            log::warn!("the lease can't be proved any more; ending what is under way: {under_way}");
            self.unfinished.extend(self.waiting.drain(..).map(|(_, order)| order));
            // At once: a command that takes its time would outlast the lease.
            for how in [Terminate::Stopping, Terminate::Kill] {
                self.unfinished.extend(self.tasks.terminate_all(how).into_iter().map(|(order, _)| order));
            }
        }
        self.holder = holder;
        self.maybe_pending = true;
    }

    fn collect_ended(&mut self) {
        let now = self.settings.clock.elapsed();
        while let Some(&(_, order)) = self.waiting.front().filter(|(ends, _)| *ends <= now) {
            self.ended.push(Ending { order, outcome: Outcome::Completed });
            self.waiting.pop_front();
            self.name_for_log(order, |id| journal::ended(id, order.attempt, "", &Outcome::Completed, 0));
        }
        if self.retry_at_ms.is_some_and(|at| at <= self.settings.clock.now_ms()) {
            self.retry_at_ms = None;
            self.maybe_pending = true;
        }
    }

    /// Terminates the tasks whose time is over: their own, or everybody's.
    fn terminate_tasks(&mut self) {
        self.tasks.terminate_overdue(self.settings.clock.elapsed());
        if let Some(terminate) = self.stop.as_mut().and_then(Stop::due) {
            for (order, running) in self.tasks.terminate_all(terminate) {
                journal::left_behind(&running.order_id, order.attempt);
                self.unfinished.push(order);
            }
            self.tasks.named().for_each(|(id, attempt)| journal::told_to_end(id, attempt, terminate));
        }
    }

    /// Starts the next write, if there is anything to write.
    fn write(&mut self) {
        if self.takeover_due && self.stop.is_none() {
            self.take_over();
        }
        if self.stop.is_none() && self.tenure.take_orphans() {
            // What can't be read now is there at the next beat.
            let left = self.store.orphans().unwrap_or_default();
            self.end_interrupted(left);
        }
        let may_begin =
            self.stop.is_none() && self.holder.is_some() && self.no_room_until.is_none_or(|at| at <= Instant::now());
        let claim = if self.maybe_pending && may_begin { self.room() } else { 0 };
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

    /// Ends the attempts that others left in `Processing`, once their commands are ended: they have failed like any other. Only
    /// waiting can't fail, and is begun anew.
    fn take_over(&mut self) {
        let own = self.own();
        if self.store.counts().is_ok_and(|counts| counts.processing <= own.len() as u64) {
            self.takeover_due = false;
            return;
        }
        let (found, left) = marks::end_all(|process| self.mark.is_left_over(process));
        if found > 0 {
            log::warn!(found, ended = found - left; "processes that a killed server left behind are ended");
        }
        // What can't be read now is looked at again.
        let Ok(interrupted) = self.store.in_processing() else { return };
        self.takeover_due = false;
        self.end_interrupted(interrupted);
    }

    /// Ends attempts that nobody is making any more.
    fn end_interrupted(&mut self, left: Vec<(Claimed, OrderId)>) {
        let own = self.own();
        let interrupted: Vec<_> = left.into_iter().filter(|(order, _)| !own.contains(order)).collect();
        if !interrupted.is_empty() {
            log::info!(orders = interrupted.len(); "orderd ended while orders were being processed");
        }
        for (order, id) in interrupted {
            let error = format!("orderd ended during attempt {}", order.attempt);
            if let Work::Wait = self.settings.work {
                journal::taken_up_again(&id, order);
                self.ended.push(Ending { order, outcome: Outcome::Retry { at_ms: 0, error } });
            } else {
                self.record(order, &id, Err(WorkError::retry(error)));
            }
        }
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
        let processing = self.store.processing_here().map_or(usize::MAX, |processing| processing as usize);
        room.saturating_sub(processing.saturating_sub(self.own().len()))
    }

    fn process(&mut self, claim: usize) {
        if claim > 0 {
            // Lowered just before looking, so that a notice from now on is heard; and not sooner, so that while there is no room
            // for more, the arrival of orders wakes nobody.
            self.notifier.notified.store(false, Ordering::Release);
            self.maybe_pending = false;
        }
        self.asked_as = self.holder;
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
        if self.stop.is_some() || self.tenure.holder() != self.asked_as {
            // Claimed by a write that was under way.
            self.unfinished.extend(claimed);
            return;
        }
        if let Work::Wait = self.settings.work {
            let ends = self.settings.clock.elapsed() + self.settings.processing_time;
            claimed.iter().for_each(|order| self.name_for_log(*order, |id| journal::begins(id, order.attempt)));
            self.waiting.extend(claimed.into_iter().map(|order| (ends, order)));
            return;
        }
        let mut has_room = true;
        for order in claimed {
            if !has_room || self.tenure.holder() != self.asked_as {
                // What stands in the way of one does in that of the next, and to learn it may take long.
                self.unfinished.push(order);
            } else if let Err(why) = self.begin_task(order) {
                has_room = false;
                self.not_begun(order, &why);
            }
        }
    }

    /// An attempt that could not be begun costs nothing. The next one is tried after a pause, for as long as it takes.
    fn not_begun(&mut self, order: Claimed, why: &str) {
        if self.no_room_until.is_none() {
            log::error!(why, again_every_s = ROOM_AFTER.as_secs(); "no attempt can be begun; orders wait");
        }
        self.no_room_until = Some(Instant::now() + ROOM_AFTER);
        self.maybe_pending = true;
        self.unfinished.push(order);
    }

    fn begin_task(&mut self, claimed: Claimed) -> Result<(), String> {
        let order = self.store.claimed_order(claimed).map_err(|e| format!("an order can't be read: {e}"))?;
        // Deleted since: there is nothing to do, and nothing to record.
        let Some(order) = order else { return Ok(()) };
        if self.tenure.holder() != self.asked_as {
            self.unfinished.push(claimed);
            return Ok(());
        }
        let order_id = order.order_id.clone();
        let messages = self.notifier.messages.clone();
        let task = Task::start(&self.settings.work, order, self.mark.clone(), move |attempt| {
            let _ = messages.send(Message::Ended(claimed, attempt));
        })
        .map_err(|e| format!("no thread can be started: {e}"))?;
        journal::begins(&order_id, claimed.attempt);
        let times_out = self.settings.clock.elapsed() + self.settings.exec_timeout;
        self.tasks.add(claimed, Running::new(task, order_id, times_out));
        Ok(())
    }

    fn task_ended(&mut self, order: Claimed, attempt: Attempt) {
        // One that was left behind by a stop is no longer known.
        let Some(running) = self.tasks.remove(order) else { return };
        let result = match attempt {
            Attempt::NotBegun(why) => return self.not_begun(order, &why),
            Attempt::Ended(result) => result,
        };
        if self.no_room_until.take().is_some() {
            log::info!("attempts can be begun again");
        }
        if result.is_err() && running.was_stopped() {
            journal::cut_short(&running.order_id, order.attempt);
            return self.unfinished.push(order);
        }
        self.record(order, &running.order_id, result);
    }

    /// Calls `say` with the id of an order that is claimed, if it is to be in the log: waiting needs no order's record.
    fn name_for_log(&self, order: Claimed, say: impl FnOnce(&OrderId)) {
        if log::log_enabled!(log::Level::Debug)
            && let Ok(Some(order)) = self.store.claimed_order(order)
        {
            say(&order.order_id);
        }
    }

    /// Decides what follows an attempt, and says so in the one line that the log has of a failed one.
    fn record(&mut self, order: Claimed, id: &OrderId, result: Result<(), WorkError>) {
        let now_ms = self.settings.clock.now_ms();
        let why = result.as_ref().err().map(|error| error.for_log().to_string()).unwrap_or_default();
        let outcome = self.settings.retries.outcome(order.attempt, result, now_ms);
        journal::ended(id, order.attempt, &why, &outcome, now_ms);
        self.ended.push(Ending { order, outcome });
    }

    fn nothing_heard(&mut self) {
        if self.writing || self.stop.is_some() {
            return;
        }
        match self.store.next_claim_ms() {
            Ok(None) => self.retry_at_ms = None,
            Ok(Some(0)) | Err(_) => self.maybe_pending = true,
            // By a clock that has been set back since: the store lets it be claimed.
            Ok(Some(at_ms)) if at_ms > self.settings.clock.now_ms().saturating_add(LONGEST_WAIT_MS) => {
                self.maybe_pending = true
            }
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
        if let (Some(_), Some(left)) = (self.holder, self.tenure.time_left()) {
            pause = pause.min(left);
        }
        pause = pause.min(self.tasks.next_deadline().map_or(pause, |at| at.saturating_sub(now)));
        if let Some(stop) = &self.stop {
            pause = pause.min(stop.pause());
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

fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}
