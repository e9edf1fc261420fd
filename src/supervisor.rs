//! The parent process that keeps another one serving, whatever ends it: the remedy for what can't be held inside one process.
//!
//! The parent binds the listening socket and owns the database's lock. It reads no request and opens no database. If it is
//! killed, the kernel kills its children.
//!
//! A child that ends without having been told to is followed by a fresh one: at once the first time, after a growing delay if
//! they keep ending before they serve. A child that has grown too large or asks for it is **renewed**: a successor starts
//! beside it, and when that serves, the old one retires, which means that it accepts nothing more and ends when its commands
//! have. A child that does not answer is killed. One that says the user must mend something (status 2) ends the parent with
//! that status, unless one has served before.
//!
//! Two children live at most. The messages are signals: `inherited.rs` has those to the parent, `child.rs` those to a child.

mod child;
mod ground;
#[cfg(feature = "postgres")]
pub mod guard;
mod inherited;
mod orphans;
mod pace;
mod questions;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub use self::child::own_program;
use self::child::{Child, Phase, Size};
pub use self::ground::Ground;
pub use self::inherited::{Inherited, Parent, Socket};
use self::orphans::Orphans;
pub use self::orphans::end_commands;
use self::pace::Pace;
pub use self::questions::keep_telling;
use crate::config::{Config, MAX_DURATION};
use crate::error::Error;
use crate::http::listener::Address;
use crate::http::probe::Heard;
use crate::os::manager::Manager;
use crate::os::processes::{Ended, next_ended, raise_descriptor_limit};
use crate::os::signals::{self, SIGCHLD, SIGUSR1, SIGUSR2};

/// The exit status of a process that nobody supervises and that only a fresh one can follow: nothing is wrong with its files.
pub const RENEW: u8 = 75;
/// How much longer than its timeout an orderly stop may take: running commands are then still to be told, and killed.
const STOP_GRACE: Duration = Duration::from_secs(6);
/// How long killed children may take to be gone. One that waits for a broken disk may never be.
const KILL_PATIENCE: Duration = Duration::from_secs(1);
/// A child that serves for less ended as soon as it did. Renewals are no more frequent either.
const AT_ONCE: Duration = Duration::from_millis(250);
/// A request for renewal that comes so soon after one is still about the process before.
const LATE: Duration = Duration::from_millis(100);
/// A child that leaves so many questions in a row unanswered is killed.
const MAX_SILENCES: u32 = 3;

enum Event {
    Signal(i32),
    /// What came of a question that was asked at this time.
    Heard(Instant, Heard),
}

/// Keeps a child serving until a signal asks for a stop. Calls `on_ready` once, as soon as the first one serves.
///
/// # Errors
/// What stands in the way of starting, or [`Error::Worker`] when no child can be started.
pub fn supervise(config: &Config, on_ready: impl Fn(&Address)) -> Result<(), Error> {
    let (events, inbox) = channel();
    let sender = events.clone();
    signals::watch(&[SIGCHLD, SIGUSR1, SIGUSR2], move |signal| {
        let _ = sender.send(Event::Signal(signal));
    })?;
    let ground = Ground::take(config)?;
    let manager = Manager::of_this_process();
    raise_descriptor_limit();
    let orphans = Orphans::adopt();
    questions::ask(ground.address.clone(), manager.watchdog(), move |asked_at, heard| {
        events.send(Event::Heard(asked_at, heard)).is_ok()
    })?;
    let (address, is_lent) = (ground.address.clone(), ground.is_lent);
    #[cfg(feature = "postgres")]
    let guard = guard_of(config, &ground);
    let supervisor = Supervisor {
        config,
        manager,
        ground,
        orphans,
        #[cfg(feature = "postgres")]
        guard,
        inbox,
        on_ready: &on_ready,
        children: Vec::new(),
        started: 0,
        renewal_is_wanted: false,
        pace: Pace::new(),
        has_served: false,
        is_stopping: false,
    };
    let result = supervisor.run();
    if let (Address::Unix(path), false) = (&address, is_lent) {
        let _ = std::fs::remove_file(path);
    }
    result
}

/// The guard of the commands, where others may take their orders over. Without one all goes on, but for what it is there for.
#[cfg(feature = "postgres")]
fn guard_of(config: &Config, ground: &Ground) -> Option<guard::Guard> {
    if !config.runs_commands() || !ground.lock.is_of_node() {
        return None;
    }
    let started = guard::Guard::start(ground.lock.database());
    started.inspect_err(|e| log::warn!(why:% = e; "no guard of the commands can be started")).ok()
}

struct Supervisor<'a> {
    config: &'a Config,
    manager: Manager,
    ground: Ground,
    orphans: Orphans,
    /// Of commands that others must not meet.
    #[cfg(feature = "postgres")]
    guard: Option<guard::Guard>,
    inbox: Receiver<Event>,
    on_ready: &'a dyn Fn(&Address),
    /// At most two, and at most one in each phase.
    children: Vec<Child>,
    /// How many there have been.
    started: u64,
    /// Whether the child that serves is to be replaced by one that is still to be started.
    renewal_is_wanted: bool,
    pace: Pace,
    /// Whether any child ever did.
    has_served: bool,
    is_stopping: bool,
}

impl Supervisor<'_> {
    fn run(mut self) -> Result<(), Error> {
        loop {
            if self.is_child_missing() && self.pace.start_at <= Instant::now() {
                self.start()?;
            }
            if self.is_stopping && self.children.is_empty() {
                return Ok(());
            }
            match self.inbox.recv_timeout(self.next_look().saturating_duration_since(Instant::now())) {
                Ok(Event::Signal(signal)) => self.heed(signal)?,
                Ok(Event::Heard(asked_at, heard)) => self.take_note(asked_at, heard),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("threads that never end hold the senders"),
            }
            self.look_after_children();
        }
    }

    fn child(&mut self, phase: Phase) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.phase == phase)
    }

    fn has(&self, phase: Phase) -> bool {
        self.children.iter().any(|child| child.phase == phase)
    }

    fn is_child_missing(&self) -> bool {
        let is_renewal = self.renewal_is_wanted && !self.has(Phase::Retiring);
        !self.is_stopping && !self.has(Phase::Starting) && (!self.has(Phase::Serving) || is_renewal)
    }

    fn start(&mut self) -> Result<(), Error> {
        let predecessor_lives = !self.children.is_empty();
        match Child::start(&self.ground, self.started, predecessor_lives) {
            Ok(child) => {
                self.started += 1;
                self.children.push(child);
            }
            Err(e) if !self.has_served => return Err(Error::Worker(e)),
            Err(e) => {
                self.pace.count_failure();
                let delay = self.pace.put_off(self.has(Phase::Serving));
                log::error!(why:% = e, again_in_ms = delay.as_millis() as u64; "no fresh process can be started");
            }
        }
        Ok(())
    }

    fn heed(&mut self, signal: i32) -> Result<(), Error> {
        match signal {
            SIGCHLD => self.take_note_of_ends(),
            SIGUSR1 => {
                // The process that has just been told to retire may have asked, too; the one that serves asks again.
                let is_late = self.has(Phase::Retiring) && self.child(Phase::Serving).is_some_and(|child| child.age() < LATE);
                if !is_late {
                    self.renew("it was asked for");
                }
                Ok(())
            }
            SIGUSR2 => {
                self.hand_over();
                Ok(())
            }
            signal if self.is_stopping => {
                log::warn!(signal; "stopped by a second signal");
                self.kill_all();
                Err(Error::Reported { exit_status: u8::try_from(128 + signal).unwrap_or(1) })
            }
            _ => {
                self.is_stopping = true;
                log::info!(signal; "asked to stop");
                self.manager.stopping();
                let patience = self.config.shutdown_timeout.min(MAX_DURATION) + STOP_GRACE;
                self.children.iter_mut().for_each(|child| child.stop(patience));
                Ok(())
            }
        }
    }

    /// Wants the child that serves to be replaced. One that is only just starting is the replacement already.
    fn renew(&mut self, why: &str) {
        if self.is_stopping || self.renewal_is_wanted || self.has(Phase::Starting) {
            return;
        }
        let Some(serving) = self.child(Phase::Serving) else { return };
        let earliest = serving.since + AT_ONCE;
        log::info!(process = serving.id.as_raw(), why; "renewal");
        self.pace.forget_failures();
        self.pace.start_at = self.pace.start_at.max(earliest);
        self.renewal_is_wanted = true;
        let patience = self.config.shutdown_timeout.min(MAX_DURATION) + STOP_GRACE;
        if let Some(retiring) = self.child(Phase::Retiring) {
            log::warn!("the process that is still finishing its work from the last renewal is stopped first");
            retiring.stop(patience);
        }
    }

    /// The child that was starting serves: the one before it may retire.
    fn hand_over(&mut self) {
        let retirement = self.longest_work() + STOP_GRACE;
        if self.is_stopping || !self.has(Phase::Starting) {
            return;
        }
        self.renewal_is_wanted = false;
        self.orphans.learn(self.ground.lock.database());
        if let Some(old) = self.child(Phase::Serving) {
            log::info!("a fresh process serves; the one before it finishes its work and ends");
            old.retire(retirement);
        }
        if let Some(fresh) = self.child(Phase::Starting) {
            fresh.serves();
        }
        self.tell_the_last_one();
        if !self.has_served {
            self.has_served = true;
            self.manager.ready(&format!("listening on {}", self.ground.address));
            (self.on_ready)(&self.ground.address);
        }
    }

    /// How long an attempt at an order may take, with the time for ending it.
    fn longest_work(&self) -> Duration {
        let [exec, processing, stop] =
            [self.config.exec_timeout, self.config.processing_time, self.config.shutdown_timeout].map(|d| d.min(MAX_DURATION));
        exec.max(processing) + stop
    }

    fn tell_the_last_one(&mut self) {
        if let [last] = &mut self.children[..]
            && last.phase == Phase::Serving
        {
            last.tell_alone();
        }
    }

    /// Several ends may come as one signal.
    fn take_note_of_ends(&mut self) -> Result<(), Error> {
        while let Some(ended) = next_ended() {
            self.take_note_of(&ended)?;
        }
        let gone: Vec<Pid> = self.children.iter().filter(|child| child.is_gone()).map(|child| child.id).collect();
        gone.into_iter().try_for_each(|id| self.take_note_of(&Ended::unexplained(id)))
    }

    fn take_note_of(&mut self, ended: &Ended) -> Result<(), Error> {
        #[cfg(feature = "postgres")]
        if let Some(Err(e)) = self.guard.as_mut().filter(|_| !self.is_stopping).map(|guard| guard.replace(ended.id)) {
            log::warn!(why:% = e; "no guard of the commands can be started");
        }
        // Most others are orphans.
        let Some(at) = self.children.iter().position(|child| child.id == ended.id) else { return Ok(()) };
        let child = self.children.remove(at);
        // What another's commands have set free can't be told from what this one's have, so it is left alone if this one has no
        // work under way: not yet, or, as its status says, no more.
        let has_no_work = match child.phase {
            Phase::Starting => !self.children.is_empty(),
            Phase::Serving => self.is_stopping && ended.code == Some(0),
            Phase::Retiring => ended.code == Some(0),
        };
        if !has_no_work {
            self.orphans.end(self.ground.lock.database(), &self.ids());
        }
        if self.is_stopping {
            return Ok(());
        }
        if child.phase == Phase::Retiring {
            match ended.code {
                Some(0) => log::info!("the process before the serving one has ended"),
                _ => log::warn!(how = ended.how; "the process before the serving one ended; its orders are taken up again"),
            }
        } else {
            self.take_note_of_failure(&child, ended)?;
        }
        self.tell_the_last_one();
        Ok(())
    }

    /// A child has ended that serves, or was about to.
    fn take_note_of_failure(&mut self, child: &Child, ended: &Ended) -> Result<(), Error> {
        // It has said what is wrong itself. What has served once may do so again: a disk comes back, a file is put back.
        if ended.code == Some(2) && self.children.is_empty() && !self.has_served {
            return Err(Error::Reported { exit_status: 2 });
        }
        if child.phase == Phase::Serving && child.age() >= AT_ONCE {
            self.pace.forget_failures();
        } else if self.pace.count_failure() && !self.has_served {
            let (failures, how) = (self.pace.failures, &ended.how);
            log::error!(how, in_a_row = failures; "no worker process can start; each ended before it served");
            return Err(Error::Reported { exit_status: 1 });
        }
        if child.phase == Phase::Serving {
            // Whoever comes next is a fresh one anyway.
            self.renewal_is_wanted = false;
        }
        if self.has(Phase::Starting) {
            log::warn!(process = child.id.as_raw(), how = ended.how; "the serving process ended; its successor is about to serve");
            return Ok(());
        }
        let delay = self.pace.put_off(self.has(Phase::Serving)).as_millis() as u64;
        let (process, how) = (child.id.as_raw(), &ended.how);
        match child.phase {
            Phase::Starting => log::warn!(process, how, again_in_ms = delay; "a fresh process ended before it served"),
            _ => log::warn!(process, how, fresh_one_in_ms = delay; "the serving process ended"),
        }
        Ok(())
    }

    fn ids(&self) -> Vec<Pid> {
        self.children.iter().map(|child| child.id).collect()
    }

    /// A question that was asked before the child served is none to it.
    fn take_note(&mut self, asked_at: Instant, heard: Heard) {
        if heard == Heard::Answer {
            self.manager.lives();
        }
        let is_stopping = self.is_stopping;
        let Some(serving) = self.child(Phase::Serving).filter(|child| child.since < asked_at && !is_stopping) else { return };
        serving.silences = match heard {
            Heard::Answer => 0,
            Heard::Silence => serving.silences + 1,
            Heard::Unasked => serving.silences,
        };
        if serving.silences == MAX_SILENCES {
            let process = serving.id.as_raw();
            log::error!(process, questions = MAX_SILENCES, each_s = questions::PATIENCE.as_secs(); "the serving process does not answer");
            serving.kill();
        }
    }

    fn look_after_children(&mut self) {
        let now = Instant::now();
        let mut too_large = None;
        for child in &mut self.children {
            if let Some(why) = child.overdue(now) {
                log::warn!(process = child.id.as_raw(); "{why}");
                child.kill();
            }
            match child.size(self.config.max_memory, now) {
                Size::Huge(bytes) => {
                    log::warn!(process = child.id.as_raw(), mib = bytes >> 20; "a process has grown too large and is killed");
                    child.kill();
                }
                Size::Large(bytes) if child.phase == Phase::Serving && !child.outgrown => {
                    child.outgrown = true;
                    too_large = Some(bytes);
                }
                Size::Large(_) | Size::Fine => {}
            }
        }
        if let Some(bytes) = too_large {
            self.renew(&format!("the serving process has grown to {} MiB and is being replaced", bytes >> 20));
        }
    }

    /// When something is due, if nothing happens before.
    fn next_look(&self) -> Instant {
        let start_at = self.is_child_missing().then_some(self.pace.start_at);
        let looks = self.children.iter().map(Child::next_look);
        looks.chain(start_at).min().unwrap_or_else(|| Instant::now() + questions::PAUSE)
    }

    fn kill_all(&mut self) {
        self.children.iter_mut().for_each(Child::kill);
        let until = Instant::now() + KILL_PATIENCE;
        while !self.children.is_empty() && Instant::now() < until {
            while let Some(ended) = next_ended() {
                self.children.retain(|child| child.id != ended.id);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.orphans.end(self.ground.lock.database(), &self.ids());
    }
}
