//! The listening socket: bound before anything else is touched, so that a taken port costs no file.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use crate::config::Listen;
use crate::error::Error;

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
    /// Binds the configured address. A Unix socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(listen: &Listen) -> Result<Listener, Error> {
        match listen {
            Listen::Tcp(address) => TcpListener::bind(address.as_str()).map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path).map(Listener::Unix),
        }
        .map_err(|source| Error::Listen { address: listen.to_string(), source })
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

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        // A killed server leaves its socket behind; nobody answers there.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// Connecting to a plain file is refused as well, and that is not ours to remove.
fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && matches!(UnixStream::connect(path), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}
