//! The descriptors of connections, found by their peers, as tiny_http hands none of them out.
//!
//! A descriptor may be closed by tiny_http at any time, and its number then belongs to another connection: to ask whose it is and
//! then to shut it down would now and then hit the wrong one. So a number is first sent to ourselves over a pair of Unix sockets
//! (`SCM_RIGHTS`), which gives a duplicate that is ours alone, in one step; that is asked, and that is shut down. A [`Socket`] is
//! told from every later one by its inode.
//!
//! Looking through all descriptors takes milliseconds when a thousand are connected, and whoever sends nonsense makes us look.
//! The kernel gives a new connection the lowest number that is free, so whoever comes again and again has a number that was found
//! lately: those are tried first.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
};

use crate::os::sync::unpoisoned;

/// How many numbers that were found lately are tried before all are. Takes some microseconds.
const LATELY: usize = 64;

/// How often 64 KiB are thrown away of a connection that is cut: the kernel holds some megabytes at the most.
const MAX_THROWN_AWAY: usize = 256;

/// The connections to one address of ours.
pub struct Sockets {
    own: SocketAddr,
    lately: Mutex<VecDeque<RawFd>>,
    /// What is written into the one comes out of the other.
    to_ourselves: Mutex<(OwnedFd, OwnedFd)>,
}

/// One of the two descriptors that tiny_http has of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    fd: RawFd,
    inode: u64,
}

impl Socket {
    /// Whether both are of one connection.
    pub fn is_of(&self, other: &Socket) -> bool {
        self.inode == other.inode
    }
}

impl Sockets {
    /// Of a server that listens at `own`.
    ///
    /// # Errors
    /// What the system says if it has no descriptors left.
    pub fn new(own: SocketAddr) -> io::Result<Sockets> {
        let pair = socket::socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Sockets { own, lately: Mutex::default(), to_ourselves: Mutex::new(pair) })
    }

    /// The socket that is connected with `peer`, unless that has gone.
    pub fn find(&self, peer: &SocketAddr) -> Option<Socket> {
        let mut lately = unpoisoned(&self.lately);
        let remembered = lately.iter().find_map(|fd| self.identify(*fd, peer));
        remembered.or_else(|| {
            let found = all().find_map(|fd| self.identify(fd, peer))?;
            lately.push_front(found.fd);
            lately.truncate(LATELY);
            Some(found)
        })
    }

    /// Every descriptor of a socket at the address, with its peer; the listening ones and dead connections have none.
    pub fn walk(&self) -> impl Iterator<Item = (RawFd, Option<SocketAddr>)> {
        all().filter(|fd| is_at(*fd, &self.own)).map(|fd| (fd, peer_of(fd)))
    }

    /// Whether `socket` is still connected with `peer`.
    pub fn is_connected(&self, socket: Socket, peer: &SocketAddr) -> bool {
        self.find(peer).is_some_and(|connected| connected.is_of(&socket))
    }

    /// Shuts a connection down if it is still there, which ends every read or write that is blocked on it.
    pub fn shutdown(&self, socket: Socket, peer: &SocketAddr, how: Shutdown) {
        // tiny_http may have closed one of its two descriptors meanwhile.
        let connected = [Some(socket), self.find(peer)].into_iter().flatten().filter(|other| other.is_of(&socket));
        let pinned = connected.filter_map(|other| self.pin(other.fd)).find(|pinned| inode_of(pinned.0) == Some(socket.inode));
        if let Some(pinned) = pinned {
            pinned.shutdown(how);
        }
    }

    /// Shuts down a connection that [`walk`](Self::walk) has shown, if it still has the same peer.
    pub fn shutdown_number(&self, fd: RawFd, peer: Option<SocketAddr>) {
        if let Some(pinned) = self.pin(fd).filter(|pinned| is_at(pinned.0, &self.own) && peer_of(pinned.0) == peer) {
            pinned.shutdown(Shutdown::Both);
        }
    }

    /// Shuts every connection down.
    pub fn shutdown_all(&self) {
        self.walk().filter(|(_, peer)| peer.is_some()).for_each(|(fd, peer)| self.shutdown_number(fd, peer));
    }

    /// The address.
    pub fn own(&self) -> SocketAddr {
        self.own
    }

    fn identify(&self, fd: RawFd, peer: &SocketAddr) -> Option<Socket> {
        let is_with_peer = |fd| peer_of(fd).as_ref() == Some(peer) && is_at(fd, &self.own);
        // First of all without a duplicate, which costs more.
        let pinned = is_with_peer(fd).then(|| self.pin(fd)).flatten().filter(|pinned| is_with_peer(pinned.0))?;
        Some(Socket { fd, inode: inode_of(pinned.0)? })
    }

    /// A duplicate of a descriptor that another thread may close at any time.
    fn pin(&self, fd: RawFd) -> Option<Pinned> {
        let pair = unpoisoned(&self.to_ourselves);
        let (from, to) = (pair.0.as_raw_fd(), pair.1.as_raw_fd());
        let message = [IoSlice::new(&[0])];
        socket::sendmsg::<()>(from, &message, &[ControlMessage::ScmRights(&[fd])], MsgFlags::MSG_DONTWAIT, None).ok()?;
        let (mut byte, mut space) = ([0], nix::cmsg_space!([RawFd; 1]));
        let mut into = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = socket::recvmsg::<()>(to, &mut into, Some(&mut space), flags).ok()?;
        received.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied().map(Pinned),
            _ => None,
        })
    }
}

/// A descriptor of our own, closed when dropped.
struct Pinned(RawFd);

impl Pinned {
    fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => socket::Shutdown::Read,
            Shutdown::Write => socket::Shutdown::Write,
            Shutdown::Both => socket::Shutdown::Both,
        };
        // Should its client have gone just now, nothing is left to be shut down.
        let _ = socket::shutdown(self.0, how);
        if how == socket::Shutdown::Both {
            self.throw_away();
        }
    }
}

impl Pinned {
    /// Reads what has come already, so that tiny_http does not: it may be a hundred thousand requests.
    fn throw_away(&self) {
        let mut buffer = [0; 64 << 10];
        for _ in 0..MAX_THROWN_AWAY {
            if !matches!(socket::recv(self.0, &mut buffer, MsgFlags::MSG_DONTWAIT), Ok(1..)) {
                return;
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = nix::unistd::close(self.0);
    }
}

/// Whether the peer has closed its side and all that it sent has been read.
pub fn has_ended(fd: RawFd) -> bool {
    socket::recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Ok(0)
}

/// Whether it is an internet socket of ours with this address, or with this port if the address stands for all.
pub fn is_at(fd: RawFd, own: &SocketAddr) -> bool {
    let is_own = |at: SocketAddr| at.port() == own.port() && (own.ip().is_unspecified() || at.ip() == own.ip());
    address(socket::getsockname(fd)).is_some_and(is_own)
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
        let sockets = Sockets::new(address).unwrap();
        for _ in 0..2 * LATELY {
            let client = TcpStream::connect(address).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let found = sockets.find(&peer).unwrap();
            assert_eq!(sockets.find(&peer), Some(found));
            assert!(sockets.is_connected(found, &peer));
            assert!(sockets.walk().any(|(_, other)| other == Some(peer)));
            drop((client, server));
            assert_eq!(sockets.find(&peer), None);
            assert!(!sockets.is_connected(found, &peer));
        }
    }

    #[test]
    fn the_client_s_end_of_a_connection_is_not_taken_for_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(Sockets::new(address).unwrap().find(&address), None);
    }

    /// As of two servers in one program.
    #[test]
    fn a_connection_to_another_address_with_the_same_port_is_not_ours() {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Ok(neighbour) = TcpListener::bind(("127.0.0.2", address.port())) else { return };
        let mut client = TcpStream::connect(neighbour.local_addr().unwrap()).unwrap();
        let (mut server, peer) = neighbour.accept().unwrap();
        assert_eq!(Sockets::new(address).unwrap().find(&peer), None);
        Sockets::new(address).unwrap().shutdown_all();
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let all = SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(Sockets::new(all).unwrap().find(&peer).is_some());
    }

    #[test]
    fn a_connection_is_shut_down_also_by_its_other_descriptor_and_no_other_by_its_number() {
        use std::io::Read;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Sockets::new(address).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let other_half = server.try_clone().unwrap();
        let found = sockets.find(&peer).unwrap();
        let same = Socket { fd: other_half.as_raw_fd(), ..found };
        drop(if found.fd == server.as_raw_fd() { server } else { other_half });
        // Whatever gets the number now must not be hit.
        let mut innocent = TcpStream::connect(address).unwrap();
        let (_kept, _) = listener.accept().unwrap();
        sockets.shutdown(found, &peer, Shutdown::Both);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(found.is_of(&same));
        innocent.set_nonblocking(true).unwrap();
        assert_eq!(innocent.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
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
