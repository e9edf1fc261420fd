//! The child's end: what a serving process has from its parent, and the two things that it tells it.
//!
//! The listening socket is its standard input and the database's lock its standard output, so that no descriptor needs a number
//! of its own. It goes on listening on standard input, as that can be exchanged when it leaves the socket to its successor
//! (`http/leaving.rs`). From the moment it has taken them over it dies with its parent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::Config;
use crate::error::Error;
use crate::http::listener::Listener;
use crate::os::processes::{LOCKED, PREDECESSOR_LIVES, RESTARTS, WORKER_OF};
use crate::os::standard_input;
use crate::store::Lock;

/// What a child has from its parent.
pub struct Inherited {
    /// The bound socket.
    pub socket: Socket,
    /// The database's lock.
    pub lock: Lock,
    /// Whether another child has work under way. The parent says when it has ended.
    pub predecessor_lives: bool,
    /// How many children the parent has started before this one.
    pub restarts: u64,
    /// Whom to tell.
    pub parent: Parent,
}

impl Inherited {
    /// Takes over what the parent left, if this process has one. From then on it dies with its parent.
    ///
    /// # Errors
    /// [`Error::Usage`] when the variable is set, but not by a parent.
    pub fn take(config: &Config) -> Result<Option<Inherited>, Error> {
        let Ok(parent) = std::env::var(WORKER_OF) else { return Ok(None) };
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| misused(e.into()))?;
        // The parent may have died before it was asked for.
        if Pid::parent().to_string() != parent {
            return Err(misused(io::ErrorKind::Other.into()));
        }
        let parent = Parent(Pid::parent());
        let socket = Socket(io::stdin().as_fd().try_clone_to_owned().map_err(misused)?);
        let lock = io::stdout().as_fd().try_clone_to_owned().map_err(misused)?;
        // The file that is locked, wherever a link may point by now.
        let database = std::env::var_os(LOCKED).map_or_else(|| config.db.clone(), Into::into);
        let lock = Lock::inherited(&database, File::from(lock))?;
        #[cfg(feature = "postgres")]
        let lock = lock.serving(&config.db)?;
        let predecessor_lives = std::env::var_os(PREDECESSOR_LIVES).is_some();
        let restarts = std::env::var(RESTARTS).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok(Some(Inherited { socket, lock, predecessor_lives, restarts, parent }))
    }
}

/// The bound socket, kept as long as this process lives.
pub struct Socket(OwnedFd);

impl Socket {
    /// What is to be listened on: standard input for TCP. While there are other threads it may be refused.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is no such socket.
    pub fn listener(&self) -> Result<Listener, Error> {
        match Listener::adopt(self.0.try_clone().map_err(misused)?)? {
            Listener::Tcp(_) => Listener::adopt(standard_input::put(&self.0).map_err(misused)?),
            // Whoever relays its connections ends by itself.
            unix @ Listener::Unix(_) => Ok(unix),
        }
    }
}

fn misused(_: io::Error) -> Error {
    Error::Usage(format!("{WORKER_OF} is for orderd's own use; unset it"))
}

/// The parent of this process, to be told things.
#[derive(Debug, Clone, Copy)]
pub struct Parent(Pid);

impl Parent {
    /// This child serves.
    pub fn child_serves(self) {
        self.tell(Signal::SIGUSR2);
    }

    /// This child should be replaced. It goes on serving until it is told to retire.
    pub fn renewal_is_needed(self) {
        self.tell(Signal::SIGUSR1);
    }

    fn tell(self, message: Signal) {
        // A parent that is gone takes this process with it.
        let _ = kill(self.0, message);
    }
}
