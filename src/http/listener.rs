//! The listening socket: bound before anything else is touched, so that a taken port costs no file, and given the options
//! that every connection inherits from it.
//!
//! On Linux and the BSDs an accepted TCP socket has its listener's options. That is the only way to give tiny_http's
//! connections any: it hands none of them out. A Unix socket inherits nothing, so its connections are relayed (`relay.rs`).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use nix::sys::socket::{self, AddressFamily, Backlog, SockaddrLike, SockaddrStorage, sockopt};
use nix::sys::time::TimeVal;

use crate::error::Error;

/// Connections that wait to be accepted: as many as the kernel allows (4,096 on Linux). std asks for 128, and a burst beyond
/// that would wait a second for its next try.
#[cfg(target_os = "linux")]
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;
#[cfg(not(target_os = "linux"))]
const BACKLOG: Backlog = Backlog::MAXCONN;
/// How long a write waits for a peer that has left its answers unread until the kernel can't hold any more of them. The kernel rounds
/// it up to a tick of its clock, 1 to 10 ms: the thread that writes must not wait, and hands the rest to the blocking pool.
const WRITE_TIMEOUT: Duration = Duration::from_millis(1);

/// How long to wait for an address that is in use. The child of a killed server listens for a moment longer than its parent
/// lived, and a restart must not fail over that.
const BIND_PATIENCE: Duration = Duration::from_secs(1);

/// An address to listen on, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A host and a port, such as `127.0.0.1:8000`; port 0 takes any free one.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// Nowhere: for a program that embeds a server and needs no HTTP.
    None,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => f.write_str(address),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::None => f.write_str("none"),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Where a server can be reached: a URL for TCP, `unix:` and a path for a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and the port that was really taken.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// Binds the configured address, and waits for a second if it is in use. A Unix socket that nobody listens on any more is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(listen: &Listen) -> Result<Listener, Error> {
        let until = Instant::now() + BIND_PATIENCE;
        loop {
            let bound = match listen {
                Listen::Tcp(address) => TcpListener::bind(address.as_str()).map(Listener::Tcp),
                Listen::Unix(path) => bind_unix(path).map(Listener::Unix),
                Listen::None => Err(io::Error::other("there is no address")),
            };
            match bound {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                bound => return bound.map_err(|source| Error::Listen { address: listen.to_string(), source }),
            }
        }
    }

    /// A listening socket that somebody else has bound.
    ///
    /// # Errors
    /// [`Error::Usage`], if it is none.
    pub fn adopt(socket: OwnedFd) -> Result<Listener, Error> {
        let kind = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok().and_then(|own| own.family());
        let listens = socket::getsockopt(&socket, sockopt::AcceptConn) == Ok(true);
        match kind.filter(|_| listens) {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => Ok(Listener::Tcp(socket.into())),
            Some(AddressFamily::Unix) => Ok(Listener::Unix(socket.into())),
            _ => Err(Error::Usage("the socket that was passed is none that listens; use ListenStream, or --listen".into())),
        }
    }

    /// Sets the options that its connections inherit, and a backlog that holds a crowd. `read_timeout` is how long one may be
    /// silent.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn prepare(&self, read_timeout: Duration) -> Result<(), Error> {
        let set = || -> nix::Result<()> {
            match self {
                Listener::Tcp(listener) => {
                    socket::setsockopt(listener, sockopt::TcpNoDelay, &true)?;
                    socket::setsockopt(listener, sockopt::KeepAlive, &true)?;
                    socket::setsockopt(listener, sockopt::ReceiveTimeout, &timeval(read_timeout))?;
                    socket::setsockopt(listener, sockopt::SendTimeout, &timeval(WRITE_TIMEOUT))?;
                    socket::listen(listener, BACKLOG)
                }
                Listener::Unix(listener) => socket::listen(listener, BACKLOG),
            }
        };
        set().map_err(|e| Error::Listen { address: "the bound socket".into(), source: e.into() })
    }

    /// The number of its descriptor.
    pub fn descriptor(&self) -> RawFd {
        match self {
            Listener::Tcp(listener) => listener.as_raw_fd(),
            Listener::Unix(listener) => listener.as_raw_fd(),
        }
    }

    /// Where it can be reached.
    ///
    /// # Errors
    /// [`Error::Listen`], if the system can't say.
    pub fn address(&self) -> Result<Address, Error> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix(listener) => {
                listener.local_addr().map(|address| Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_path_buf()))
            }
        }
        .map_err(|source| Error::Listen { address: "the bound socket".into(), source })
    }
}

/// A listener for what this process says to itself.
///
/// # Errors
/// What the system says.
pub(super) fn own_listener() -> io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").or_else(|_| TcpListener::bind("[::1]:0"))
}

fn timeval(duration: Duration) -> TimeVal {
    // Zero would mean never.
    TimeVal::new(duration.as_secs() as i64, i64::from(duration.subsec_micros()).max(i64::from(duration.as_secs() == 0)))
}

/// Its owner and group may connect, whatever the umask.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        // A killed server leaves its socket behind; nobody answers there.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Connecting to a plain file is refused as well, and that is not ours to remove.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && matches!(UnixStream::connect(path), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_freed_within_a_second_is_waited_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen::Tcp(taken.local_addr().unwrap().to_string());
        let begun = Instant::now();
        assert!(matches!(Listener::bind(&listen), Err(Error::Listen { .. })));
        assert!(begun.elapsed() >= BIND_PATIENCE);
        let free_soon = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(taken);
        });
        Listener::bind(&listen).unwrap();
        free_soon.join().unwrap();
    }
}
