//! What can be set, and the defaults with their reasons.
//!
//! The command line, the environment and an embedding program all set the same fields. How a setting is read from text is in
//! `config/settings.rs`; an embedding program needs none of that.

mod settings;

use std::path::PathBuf;
use std::time::Duration;

pub use self::settings::{SETTINGS, Setting, duration};
pub use crate::http::bearer::Token;
pub use crate::http::listener::Listen;
use crate::os::clock::Clock;
pub use crate::os::logging::Format as LogFormat;
use crate::processing::work::Work;

/// The longest duration that is taken: a hundred years, so that adding one to a time never overflows.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How a server is set up. Name the fields that matter and leave the rest to `..Config::default()`, as there will be more of
/// them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Loopback by default: there is no encryption and no password.
    pub listen: Listen,
    /// What `Host` may say besides `localhost` and loopback addresses while orderd listens on loopback: names in lower case,
    /// without a port. None by default, so that no web page reaches it by a name of its own.
    pub allow_hosts: Vec<String>,
    /// What a request must bear, but for `/healthz`. Nothing by default, as whoever reaches loopback is on this machine.
    pub token: Option<Token>,
    /// The database file; made if absent.
    pub db: PathBuf,
    /// Whether to start although orders have been lost, with the old files set aside. For one start, by someone who has read what
    /// orderd says about it.
    pub accept_loss: bool,
    /// What processing an order means.
    pub work: Work,
    /// How long processing takes when it is waiting: 5 s, as in the service that orderd replaces.
    pub processing_time: Duration,
    /// The most orders in `Processing` at once; 0 accepts orders and processes none. If not set, the work's own default.
    pub concurrency: Option<usize>,
    /// How long a command may take; then SIGTERM, then SIGKILL, to its whole process group.
    pub exec_timeout: Duration,
    /// After so many failed attempts an order is `Failed`: 5, which with the delay's default takes about 15 s.
    pub max_attempts: u32,
    /// The delay before a failed order is tried again. It doubles with each attempt, with jitter, up to an hour.
    pub retry_delay: Duration,
    /// Finished orders are deleted when they ended longer ago. For ever if not set.
    pub keep: Option<Duration>,
    /// Threads that answer requests. More than cores, as reads may wait for the disk: two for each core, at least 4.
    pub workers: usize,
    /// How long a connection may be silent, and how long a whole body may take.
    pub read_timeout: Duration,
    /// How long an orderly stop may take.
    pub shutdown_timeout: Duration,
    /// The supervisor replaces a serving process that grows past so many bytes. Nobody watches an embedded server.
    pub max_memory: u64,
    /// Whether the binary runs as a small parent that keeps a serving process alive.
    pub supervisor: bool,
    /// The least important log lines that are written. Only the binary writes any; a library logs through the `log` crate.
    pub log_level: log::LevelFilter,
    /// How the binary writes them.
    pub log_format: LogFormat,
    /// The time to go by.
    pub clock: Clock,
}

#[cfg(feature = "postgres")]
impl Config {
    /// Whether processing an order means to run a command.
    pub(crate) fn runs_commands(&self) -> bool {
        matches!(self.work, Work::Command(_))
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Listen::Tcp("127.0.0.1:8000".into()),
            allow_hosts: Vec::new(),
            token: None,
            db: "orders.db".into(),
            accept_loss: false,
            work: Work::default(),
            processing_time: Duration::from_secs(5),
            concurrency: None,
            exec_timeout: Duration::from_secs(60),
            max_attempts: 5,
            retry_delay: Duration::from_secs(1),
            keep: None,
            workers: (2 * cores()).max(4),
            read_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            max_memory: 512 << 20,
            supervisor: true,
            log_level: log::LevelFilter::Info,
            log_format: LogFormat::Text,
            clock: Clock::system(),
        }
    }
}

/// How many cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}
