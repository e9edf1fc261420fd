//! What all children of a parent stand on: the listening socket and the database's lock, which it keeps while they come and go.
//!
//! The socket is bound here, or taken over from a service manager that has bound it: then it is the manager's to remove, too.

use std::io;
use std::os::fd::AsFd;

use crate::config::Config;
use crate::error::Error;
use crate::http::listener::{Address, Listener};
use crate::os::manager;
use crate::store::Lock;

/// What all children serve on. The parent keeps it open, so a client never meets a closed door and the database has an owner.
#[derive(Debug)]
pub struct Ground {
    /// The bound socket.
    pub listener: Listener,
    /// Where it can be reached.
    pub address: Address,
    /// Whether the socket is somebody else's, who keeps it when this process ends.
    pub is_lent: bool,
    /// The database's lock.
    pub lock: Lock,
}

impl Ground {
    /// Binds the socket, or takes it over, and takes the lock.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Usage`] for a passed socket that is none, [`Error::Owned`], [`Error::Unusable`].
    pub fn take(config: &Config) -> Result<Ground, Error> {
        let is_lent = manager::has_passed_socket();
        let listener = if is_lent { Listener::adopt(standard_input()?)? } else { Listener::bind(&config.listen)? };
        Ok(Ground { address: listener.address()?, listener, is_lent, lock: Lock::acquire(&config.db)? })
    }
}

/// A duplicate of it, which is owned.
fn standard_input() -> Result<std::os::fd::OwnedFd, Error> {
    io::stdin().as_fd().try_clone_to_owned().map_err(|source| Error::Listen { address: "the passed socket".into(), source })
}
