//! Standard input as a place in which a socket is kept, and can be exchanged for another while a thread waits for it.
//!
//! A thread that uses a descriptor uses its number, and only what the number stands for can be exchanged. To do that takes the
//! descriptor itself, which belongs to whoever uses it, or `unsafe`. Standard input alone can be exchanged by anybody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::unistd::{close, dup, dup2_stdin};

/// The number of its descriptor.
pub const NUMBER: RawFd = 0;

/// Has `socket` be standard input in place of what is, and gives out the descriptor that is. To be called while this process has
/// one thread, as another might take the number first.
///
/// # Errors
/// What the system says.
pub fn put(socket: impl AsFd) -> io::Result<OwnedFd> {
    // It may be closed already.
    let _ = close(NUMBER);
    // The system gives out the lowest number that is free.
    let owned = dup(socket)?;
    if owned.as_raw_fd() == NUMBER { Ok(owned) } else { Err(io::Error::other("standard input is in use")) }
}

/// Has standard input stand for `socket` from now on, whoever has its descriptor. A call that waits for what it stood for goes on
/// waiting for that.
///
/// # Errors
/// What the system says.
pub fn exchange(socket: impl AsFd) -> io::Result<()> {
    dup2_stdin(socket).map_err(io::Error::from)
}
