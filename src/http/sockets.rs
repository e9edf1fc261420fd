//! The descriptors of connections, found by their peers, as tiny_http hands none of them out.
//!
//! A descriptor may be closed by tiny_http at any time, and its number then belongs to another connection. So a [`Socket`] is
//! always asked again before it is believed: by its peer, and by its inode, which no later socket has.
//!
//! Looking through all descriptors takes milliseconds when a thousand are connected, and whoever sends nonsense makes us look.
//! The kernel gives a new connection the lowest number that is free, so whoever comes again and again has a number that was found
//! lately: those are tried first.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::sys::socket::{self, MsgFlags, SockaddrStorage};

use crate::os::sync::unpoisoned;

/// How many numbers that were found lately are tried before all are. Takes some microseconds.
const LATELY: usize = 64;

/// The connections to one port of ours.
pub struct Sockets {
    port: u16,
    lately: Mutex<VecDeque<RawFd>>,
}

/// One of the two descriptors that tiny_http has of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    fd: RawFd,
    inode: u64,
}

impl Sockets {
    /// Of a server that listens on `port`.
    pub fn new(port: u16) -> Sockets {
        Sockets { port, lately: Mutex::default() }
    }

    /// The socket that is connected with `peer`, unless that has gone.
    pub fn find(&self, peer: &SocketAddr) -> Option<Socket> {
        let is_with_peer = |fd: &RawFd| peer_of(*fd).as_ref() == Some(peer) && is_on(*fd, self.port);
        let mut lately = unpoisoned(&self.lately);
        let fd = match lately.iter().copied().find(is_with_peer) {
            Some(fd) => fd,
            None => {
                let fd = all().find(is_with_peer)?;
                lately.push_front(fd);
                lately.truncate(LATELY);
                fd
            }
        };
        let socket = Socket { fd, inode: inode_of(fd)? };
        // The number may have been another's already when its inode was read.
        is_with_peer(&fd).then_some(socket)
    }

    /// Every descriptor of a socket on the port, with its peer; the listening ones and dead connections have none.
    pub fn walk(&self) -> impl Iterator<Item = (RawFd, Option<SocketAddr>)> {
        all().filter(|fd| is_on(*fd, self.port)).map(|fd| (fd, peer_of(fd)))
    }
}

impl Socket {
    /// Whether both are of one connection, which has two descriptors.
    pub fn is_of(&self, other: &Socket) -> bool {
        self.inode == other.inode
    }

    /// Whether it is still connected with `peer`.
    pub fn is_with(&self, peer: &SocketAddr) -> bool {
        peer_of(self.fd).as_ref() == Some(peer) && inode_of(self.fd) == Some(self.inode)
    }

    /// Shuts it down if it is still connected with `peer`, which ends every read or write that is blocked on it.
    pub fn shutdown(&self, peer: &SocketAddr, how: Shutdown) {
        if self.is_with(peer) {
            shutdown(self.fd, how);
        }
    }
}

/// Shuts a socket down. Should it have ended just now, nothing is left to be shut down.
pub fn shutdown(fd: RawFd, how: Shutdown) {
    let how = match how {
        Shutdown::Read => socket::Shutdown::Read,
        Shutdown::Write => socket::Shutdown::Write,
        Shutdown::Both => socket::Shutdown::Both,
    };
    let _ = socket::shutdown(fd, how);
}

/// Whether the peer has closed its side and all that it sent has been read.
pub fn has_ended(fd: RawFd) -> bool {
    socket::recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Ok(0)
}

/// Whether it is an internet socket of ours with this port.
pub fn is_on(fd: RawFd, port: u16) -> bool {
    address(socket::getsockname(fd)).is_some_and(|own| own.port() == port)
}

/// Whether it is a socket that is not connected, such as a listening one.
pub fn is_unconnected(fd: RawFd) -> bool {
    socket::getpeername::<SockaddrStorage>(fd) == Err(nix::errno::Errno::ENOTCONN)
}

/// The numbers of all open descriptors.
fn all() -> impl Iterator<Item = RawFd> {
    let entries = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Who is at the other end; nobody, if it is no connected internet socket.
fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    address(socket::getpeername(fd))
}

fn inode_of(fd: RawFd) -> Option<u64> {
    Some(std::fs::metadata(format!("/dev/fd/{fd}")).ok()?.ino())
}

fn address(found: nix::Result<SockaddrStorage>) -> Option<SocketAddr> {
    let found = found.ok()?;
    let v4 = found.as_sockaddr_in().map(|a| SocketAddr::new(a.ip().into(), a.port()));
    v4.or_else(|| found.as_sockaddr_in6().map(|a| SocketAddr::new(a.ip().into(), a.port())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_found_by_its_peer_also_when_its_number_belonged_to_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Sockets::new(address.port());
        for _ in 0..2 * LATELY {
            let client = TcpStream::connect(address).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let found = sockets.find(&peer).unwrap();
            assert_eq!(sockets.find(&peer), Some(found));
            assert!(found.is_with(&peer));
            assert!(sockets.walk().any(|(_, other)| other == Some(peer)));
            drop((client, server));
            assert_eq!(sockets.find(&peer), None);
            assert!(!found.is_with(&peer));
        }
    }

    #[test]
    fn the_client_s_end_of_a_connection_is_not_taken_for_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(Sockets::new(address.port()).find(&address), None);
    }

    #[test]
    fn the_end_of_a_peer_is_seen_once_all_is_read() {
        use std::io::{Read, Write};
        use std::os::fd::AsRawFd;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert!(!has_ended(server.as_raw_fd()), "it is silent");
        client.write_all(b"x").unwrap();
        drop(client);
        server.read_exact(&mut [0]).unwrap();
        // What the client has closed arrives in its own time.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !has_ended(server.as_raw_fd()) {
            assert!(std::time::Instant::now() < deadline);
        }
    }
}
