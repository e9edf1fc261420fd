//! Keeps a worker process alive that serves, whatever ends it: the remedy for what `door.rs` can't hold inside one process.
//!
//! The parent binds the listening socket and owns the database's lock; it starts the worker, which is the same program, with the
//! socket as its standard input and the lock file as its standard output. Both stay open in the parent, so while a worker is
//! replaced, connections wait in the backlog and no other orderd can take the database. The parent reads no request and opens
//! no database; if it is killed, the kernel kills the worker.
//!
//! A worker that ends without having been told to is logged with its status and followed by a fresh one, at once the first
//! time, after a growing delay if it keeps dying as soon as it starts. One that grows past the limit of memory is told to stop.
//! A worker that says the user must mend something (status 2), or that can't start at all, ends the parent with that status.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use crate::config::{Config, Listen};
use crate::error::Error;
use crate::http::listener::{Address, Listener};
use crate::http::watchdog as door;
use crate::os::signals;
use crate::store::Lock;

/// Tells the worker that it is one, by its parent's process id.
pub(crate) const VARIABLE: &str = "ORDERD_WORKER_OF";
/// The exit status of a worker that asks for a fresh one: nothing is wrong with its files or flags.
pub const RENEW: u8 = 75;
/// How often the worker's memory is looked at.
const MEMORY_CHECK: Duration = Duration::from_millis(100);
/// How long a worker that has grown too large may take for an orderly stop. What is acknowledged is on disk in any case.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How much longer than its timeout an orderly stop may take: running commands are then still to be told, and killed.
const STOP_GRACE: Duration = Duration::from_secs(6);
/// How long to wait for orphans to be gone after they were killed.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);
/// A worker that lives for less died as soon as it started.
const AT_ONCE: Duration = Duration::from_millis(250);
/// The delay after the first worker that died at once, and the longest. A client that waits in the backlog notices neither.
const DELAYS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));
/// So many workers that died at once, with none that ever answered, mean that it can't start at all.
const HOPELESS: u32 = 10;

/// What a worker has from its parent.
pub struct Inherited {
    /// The bound socket.
    pub listener: Listener,
    /// The database's lock.
    pub lock: Lock,
}

impl Inherited {
    /// Takes over what the parent left, if this process is a worker. From then on it dies with its parent.
    ///
    /// # Errors
    /// [`Error::Usage`] when the variable is set, but not by a parent.
    pub fn take(config: &Config) -> Result<Option<Inherited>, Error> {
        let Ok(parent) = std::env::var(VARIABLE) else { return Ok(None) };
        let misused = |_| Error::Usage(format!("{VARIABLE} is for orderd's own use; unset it"));
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| misused(e.into()))?;
        // The parent may have died before it was asked for.
        if Pid::parent().to_string() != parent {
            return Err(misused(io::ErrorKind::Other.into()));
        }
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(misused)?;
        let lock = io::stdout().as_fd().try_clone_to_owned().map_err(misused)?;
        let listener = match config.listen {
            Listen::Tcp(_) => Listener::Tcp(TcpListener::from(socket)),
            Listen::Unix(_) => Listener::Unix(UnixListener::from(socket)),
        };
        Ok(Some(Inherited { listener, lock: Lock::inherited(&config.db, File::from(lock))? }))
    }
}

enum Event {
    Signal(i32),
    /// The worker answers.
    Answers,
    Ended(io::Result<ExitStatus>),
}

/// Runs a worker until a signal asks for a stop. Calls `on_ready` once, as soon as the first one answers.
///
/// # Errors
/// What stands in the way of starting, or [`Error::Worker`] when no worker can be kept alive.
pub fn supervise(config: &Config, on_ready: impl Fn(&Address)) -> Result<(), Error> {
    let (events, inbox) = channel();
    let sender = events.clone();
    signals::watch(move |signal| {
        let _ = sender.send(Event::Signal(signal));
    })?;
    let listener = Listener::bind(&config.listen)?;
    let lock = Lock::acquire(&config.db)?;
    raise_descriptor_limit();
    // What a dead worker's commands leave behind becomes our child instead of init's, so that it can be found.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let address = listener.address()?;
    let result = Supervisor { config, listener, lock, address: address.clone(), events, inbox, answered: false }.run(on_ready);
    if let Address::Unix(path) = &address {
        let _ = std::fs::remove_file(path);
    }
    result
}

struct Supervisor<'a> {
    config: &'a Config,
    listener: Listener,
    lock: Lock,
    address: Address,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    /// Whether any worker ever answered.
    answered: bool,
}

/// How a worker's time was over.
enum Over {
    /// A signal asked for it.
    Stopped,
    /// Everything else.
    Ended(io::Result<ExitStatus>),
}

impl Supervisor<'_> {
    fn run(mut self, on_ready: impl Fn(&Address)) -> Result<(), Error> {
        let mut died_at_once = 0;
        loop {
            let started = Instant::now();
            let worker = self.start().map_err(Error::Worker)?;
            let status = match self.watch(worker, &on_ready) {
                Over::Stopped => return Ok(()),
                Over::Ended(status) => status.map_err(Error::Worker)?,
            };
            end_orphans();
            // It has said what is wrong itself.
            if status.code() == Some(2) {
                return Err(Error::Reported { exit_status: 2 });
            }
            died_at_once = if started.elapsed() < AT_ONCE { died_at_once + 1 } else { 0 };
            if died_at_once >= HOPELESS && !self.answered {
                log::error!("no worker process can start: {HOPELESS} in a row ended at once, the last one with {status}");
                return Err(Error::Reported { exit_status: 1 });
            }
            let delay = match died_at_once {
                0 => Duration::ZERO,
                n => DELAYS.1.min(DELAYS.0 * 2_u32.saturating_pow(n - 1)),
            };
            log::warn!("the worker process ended ({status}); starting a fresh one in {} ms", delay.as_millis());
            if self.is_stopped_during(delay) {
                return Ok(());
            }
        }
    }

    fn start(&self) -> io::Result<Pid> {
        let socket: OwnedFd = match &self.listener {
            Listener::Tcp(listener) => listener.try_clone()?.into(),
            Listener::Unix(listener) => listener.try_clone()?.into(),
        };
        let mut child = Command::new(own_program()?)
            .arg0("orderd: worker")
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, std::process::id().to_string())
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(self.lock.file().try_clone()?))
            // A terminal sends Ctrl-C to a whole group; the worker is to hear of it from us alone, once.
            .process_group(0)
            .spawn()?;
        let pid = pid_of(&child);
        let events = self.events.clone();
        let wait = move || {
            let _ = events.send(Event::Ended(child.wait()));
        };
        std::thread::Builder::new().name("waiter".into()).spawn(wait)?;
        if !self.answered {
            self.listen_for_the_first_answer()?;
        }
        Ok(pid)
    }

    fn listen_for_the_first_answer(&self) -> io::Result<()> {
        let (address, events) = (self.address.clone(), self.events.clone());
        let ask = move || {
            if door::is_answered(&address, Duration::from_secs(60)) {
                let _ = events.send(Event::Answers);
            }
        };
        std::thread::Builder::new().name("first-answer".into()).spawn(ask).map(drop)
    }

    /// Waits until the worker has ended, and sees to it that it does when it should.
    fn watch(&mut self, worker: Pid, on_ready: &impl Fn(&Address)) -> Over {
        let mut stopping = false;
        let mut kill_at: Option<Instant> = None;
        loop {
            match self.inbox.recv_timeout(MEMORY_CHECK) {
                Ok(Event::Ended(_)) if stopping => return Over::Stopped,
                Ok(Event::Ended(status)) => return Over::Ended(status),
                Ok(Event::Answers) => {
                    if !self.answered {
                        self.answered = true;
                        on_ready(&self.address);
                    }
                }
                Ok(Event::Signal(signal)) if stopping => {
                    log::warn!("stopped by a second signal");
                    send(worker, Signal::SIGKILL);
                    std::process::exit(128 + signal);
                }
                Ok(Event::Signal(_)) => {
                    stopping = true;
                    send(worker, Signal::SIGTERM);
                    kill_at = Some(Instant::now() + self.config.shutdown_timeout + STOP_GRACE);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender ourselves"),
            }
            if kill_at.is_some_and(|at| at <= Instant::now()) {
                log::warn!("the worker process did not stop in time");
                send(worker, Signal::SIGKILL);
                kill_at = None;
            }
            reap_orphans(worker);
            let memory = resident_bytes(worker);
            if memory > self.config.max_memory.saturating_mul(2) {
                send(worker, Signal::SIGKILL);
            } else if memory > self.config.max_memory && kill_at.is_none() {
                log::warn!("the worker process has grown to {} MiB and is being replaced", memory >> 20);
                send(worker, Signal::SIGTERM);
                kill_at = Some(Instant::now() + LAST_WORDS);
            }
        }
    }

    fn is_stopped_during(&self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal(_)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The running program itself, even if its file has been replaced or removed meanwhile.
fn own_program() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

fn pid_of(child: &Child) -> Pid {
    // The kernel's process ids are positive and fit.
    Pid::from_raw(child.id() as i32)
}

/// A worker that has just ended needs no signal.
fn send(worker: Pid, signal: Signal) {
    let _ = kill(worker, signal);
}

/// Takes note of the end of children that are not the worker: orphans that its commands left behind, or, if this is process 1 of
/// a container, anybody's.
fn reap_orphans(worker: Pid) {
    let ended = || waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT).ok()?.pid();
    // The worker's own end is waited for elsewhere.
    while let Some(orphan) = ended().filter(|pid| *pid != worker) {
        if waitpid(orphan, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Kills what a dead worker's commands left behind, before another takes their orders up. The fresh worker looks for leftovers too
/// (`work/command.rs`), but finds only those that have kept their environment.
fn end_orphans() {
    let until = Instant::now() + ORPHAN_PATIENCE;
    loop {
        let orphans = children_of(Pid::this());
        if orphans.is_empty() || Instant::now() > until {
            return;
        }
        for orphan in orphans {
            send(orphan, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
        reap_orphans(Pid::from_raw(0));
    }
}

/// None where there is no `/proc`.
fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    let is_child = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The parent's id is the second word behind the name, which may itself hold spaces and parentheses.
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)) == Some(&parent.to_string())
    };
    processes.filter(is_child).collect()
}

/// 0 where the system does not say: then nothing is limited.
fn resident_bytes(process: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// Each connection costs two descriptors, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
