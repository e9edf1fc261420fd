//! One serving process, as its parent sees it: started, told things by signals, and watched until it has ended.
//!
//! It is the same program, with the listening socket as its standard input and the lock file as its standard output. What the
//! parent wants it says with SIGUSR1 (retire), SIGUSR2 (no other lives), SIGTERM (stop) and SIGKILL. Nothing else passes
//! between them. What becomes of a child that has ended is the supervisor's business.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ground::Ground;
use crate::http::listener::Listener;
use crate::os::manager;
use crate::os::processes::{LOCKED, Memory, PREDECESSOR_LIVES, RESTARTS, WORKER_OF, allocator_settings};

/// How often the memory of a child is looked at: while it grows or is large, and otherwise. An idle machine is to be left
/// alone.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// What a child may take between two looks without counting as one that grows, in bytes.
const NO_GROWTH: u64 = 1 << 20;
/// How long a child may take to serve while another does. One without another may take as long as its database needs.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How far a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has not said yet that it serves.
    Starting,
    /// It serves.
    Serving,
    /// Another one serves, and this one finishes its work.
    Retiring,
}

/// How much memory a child holds, by what has to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Nothing.
    Fine,
    /// It is to be replaced. In bytes.
    Large(u64),
    /// It is to be killed. In bytes.
    Huge(u64),
}

/// A serving process.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub id: Pid,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is so far.
    pub since: Instant,
    /// So many questions in a row went unanswered.
    pub silences: u32,
    /// Whether its renewal has been asked for because of its size.
    pub outgrown: bool,
    knows_it_is_alone: bool,
    /// When its patience is over, and what is said then.
    kill_at: Option<(Instant, &'static str)>,
    is_killed: bool,
    memory: Memory,
    last_seen_bytes: u64,
    look_at: Instant,
}

impl Child {
    /// Starts one, after so many others. `predecessor_lives` says whether another has work under way.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(ground: &Ground, restarts: u64, predecessor_lives: bool) -> io::Result<Child> {
        let socket: OwnedFd = match &ground.listener {
            Listener::Tcp(listener) => listener.try_clone()?.into(),
            Listener::Unix(listener) => listener.try_clone()?.into(),
        };
        let mut command = Command::new(own_program()?);
        manager::forget(&mut command);
        command
            .arg0("orderd: worker")
            .args(std::env::args_os().skip(1))
            .envs(allocator_settings())
            .env(WORKER_OF, std::process::id().to_string())
            .env(LOCKED, ground.lock.database())
            .env(RESTARTS, restarts.to_string())
            .env_remove(PREDECESSOR_LIVES)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(ground.lock.file().try_clone()?))
            // A terminal sends Ctrl-C to a whole group; a child is to hear of it from us alone, once.
            .process_group(0);
        if predecessor_lives {
            command.env(PREDECESSOR_LIVES, "1");
        }
        // Its end is waited for among all others, so std's handle on it is not kept. The kernel's process ids are positive and
        // fit.
        let id = Pid::from_raw(command.spawn()?.id() as i32);
        let now = Instant::now();
        let too_slow = "a fresh process takes too long to serve, and is ended";
        Ok(Child {
            id,
            phase: Phase::Starting,
            since: now,
            silences: 0,
            outgrown: false,
            knows_it_is_alone: !predecessor_lives,
            kill_at: predecessor_lives.then_some((now + START_PATIENCE, too_slow)),
            is_killed: false,
            memory: Memory::of(id),
            last_seen_bytes: 0,
            look_at: now,
        })
    }

    /// It has said that it serves.
    pub fn serves(&mut self) {
        self.enter(Phase::Serving);
        self.kill_at = None;
    }

    /// Tells it to accept nothing more and to end when its work is done, which must be within `patience`.
    pub fn retire(&mut self, patience: Duration) {
        self.enter(Phase::Retiring);
        self.kill_at = Some((Instant::now() + patience, "the process before the serving one did not end in time"));
        self.tell(Signal::SIGUSR1);
    }

    /// Tells it to stop in order within `patience`.
    pub fn stop(&mut self, patience: Duration) {
        self.kill_at = Some((Instant::now() + patience, "the serving process did not stop in time"));
        self.tell(Signal::SIGTERM);
    }

    /// Tells it that no other lives, unless it knows. Only one that serves can hear it.
    pub fn tell_alone(&mut self) {
        if !self.knows_it_is_alone {
            self.knows_it_is_alone = true;
            self.tell(Signal::SIGUSR2);
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.is_killed = true;
        self.tell(Signal::SIGKILL);
    }

    /// How long it has been so far as it is.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the system knows nothing of it any more.
    pub fn is_gone(&self) -> bool {
        kill(self.id, None).is_err()
    }

    /// Why it is to be killed now, if its patience is over.
    pub fn overdue(&mut self, now: Instant) -> Option<&'static str> {
        self.kill_at.take_if(|(at, _)| *at <= now).map(|(_, why)| why)
    }

    /// How large it is, if it is time to look.
    pub fn size(&mut self, max_bytes: u64, now: Instant) -> Size {
        if now < self.look_at || self.is_killed {
            return Size::Fine;
        }
        let bytes = self.memory.resident_bytes();
        let grows = bytes > max_bytes / 2 || bytes > self.last_seen_bytes + NO_GROWTH;
        self.look_at = now + if grows { LOOKS.0 } else { LOOKS.1 };
        self.last_seen_bytes = bytes;
        match bytes {
            bytes if bytes > max_bytes.saturating_mul(2) => Size::Huge(bytes),
            bytes if bytes > max_bytes => Size::Large(bytes),
            _ => Size::Fine,
        }
    }

    /// When it is to be looked after next.
    pub fn next_look(&self) -> Instant {
        let look_at = if self.is_killed { Instant::now() + LOOKS.1 } else { self.look_at };
        self.kill_at.map_or(look_at, |(at, _)| at.min(look_at))
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    /// One that has just ended needs no signal.
    fn tell(&self, signal: Signal) {
        let _ = kill(self.id, signal);
    }
}

/// The running program itself, even if its file has been replaced or removed meanwhile.
///
/// # Errors
/// What the system says when it can't be found, such as in an empty chroot.
pub fn own_program() -> io::Result<PathBuf> {
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let missing = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", program.display()));
    std::fs::metadata(&program).map_err(missing)?;
    Ok(program)
}
