//! What a service manager such as systemd gives to the process that it starts, and is told by it: the protocol is a few variables
//! and datagrams, so no library is needed for it.
//!
//! A passed socket is a descriptor with a number, and to own one by its number takes `unsafe`. So a shell moves it to standard
//! input, which std owns safely: this process becomes the shell and that becomes this program again, under the same process id.
//! The variables are for this process alone. Children are freed from them by [`forget`].
//!
//! Nothing here fails for want of a manager, and a notice that can't be sent is not worth an end.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use crate::error::Error;

/// Tells this program that the manager's socket is its standard input, by the process id for which that holds.
pub const ACTIVATED: &str = "ORDERD_ACTIVATED";
/// What a manager says to the process that it starts.
const VARIABLES: [&str; 7] =
    [ACTIVATED, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// Moves the first passed descriptor, which has the number 3, to standard input.
const MOVE: &str = "exec \"$0\" \"$@\" <&3 3<&-";

/// Frees `command` of what is between this process and its manager.
pub fn forget(command: &mut Command) {
    VARIABLES.iter().for_each(|name| _ = command.env_remove(name));
}

/// Has a socket that the manager has passed become standard input. Returns where there is none, and where that is done.
///
/// # Errors
/// [`Error::Usage`] when more than one is passed, or no shell can be started.
pub fn move_socket_to_standard_input() -> Result<(), Error> {
    let is_for_us = std::env::var("LISTEN_PID").is_ok_and(|id| id == std::process::id().to_string());
    let passed = std::env::var("LISTEN_FDS").ok().filter(|_| is_for_us).and_then(|passed| passed.parse().ok()).unwrap_or(0);
    match passed {
        0 => Ok(()),
        1 => {
            let cannot = |e: io::Error| Error::Usage(format!("cannot take over the socket that was passed: {e}; use --listen"));
            let program = std::env::current_exe().map_err(cannot)?;
            let mut shell = Command::new("sh");
            shell.args(["-c", MOVE]).arg(program).args(std::env::args_os().skip(1));
            shell.env(ACTIVATED, std::process::id().to_string()).env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
            Err(cannot(shell.exec()))
        }
        more => Err(Error::Usage(format!("{more} sockets were passed to orderd, which serves one; name one ListenStream"))),
    }
}

/// Whether standard input is a socket that the manager has passed.
pub fn has_passed_socket() -> bool {
    std::env::var(ACTIVATED).is_ok_and(|id| id == std::process::id().to_string())
}

/// How the manager is told things.
#[derive(Debug, Default)]
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that has started this process, if any has.
    pub fn of_this_process() -> Manager {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| Some((UnixDatagram::unbound().ok()?, address(&name)?)));
        let is_for_us = std::env::var("WATCHDOG_PID").map_or(true, |id| id == std::process::id().to_string());
        let micros = std::env::var("WATCHDOG_USEC").ok().filter(|_| is_for_us).and_then(|text| text.parse().ok());
        Manager { to, watchdog: micros.filter(|micros| *micros > 0).map(Duration::from_micros) }
    }

    /// Within what time it wants a sign of life, again and again.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Orders are taken, as `status` says in words.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// All is well.
    pub fn lives(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(what.as_bytes(), address);
        }
    }
}

/// A path, or a name without a file where it begins with `@`.
fn address(name: &OsString) -> Option<SocketAddr> {
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}
