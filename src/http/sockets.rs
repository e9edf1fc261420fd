//! The descriptors of connections, found by their peers, as tiny_http hands none of them out.
//!
//! Looking through all descriptors takes milliseconds when a thousand are connected, and whoever sends nonsense makes us look.
//! So what was seen is remembered, and always asked again before it is believed: a number may belong to another connection by
//! now. And the kernel gives a new connection the lowest number that is free, so whoever comes again and again has those that
//! were found lately.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Mutex;

use crate::os::sync::unpoisoned;

use nix::sys::socket::{self, SockaddrStorage};

/// How many numbers that were found lately are tried before all are. Takes some microseconds.
const LATELY: usize = 64;

/// The connections to one port of ours.
pub struct Descriptors {
    port: u16,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// From the last look at all.
    by_peer: HashMap<SocketAddr, RawFd>,
    lately: VecDeque<RawFd>,
}

impl Descriptors {
    /// Of a server that listens on `port`.
    pub fn new(port: u16) -> Descriptors {
        Descriptors { port, known: Mutex::default() }
    }

    /// A descriptor of the connection with `peer`. tiny_http has two of each; this is the lower one. It may be closed at any
    /// time by the thread that owns it.
    pub fn find(&self, peer: &SocketAddr) -> Option<RawFd> {
        let mut known = unpoisoned(&self.known);
        let remembered = known.by_peer.get(peer).into_iter().chain(&known.lately);
        if let Some(found) = remembered.copied().find(|descriptor| self.is_of(*descriptor, peer)) {
            return Some(found);
        }
        known.by_peer.clear();
        for descriptor in all() {
            if let Some(peer) = peer_of(descriptor).filter(|_| is_on(descriptor, self.port)) {
                known.by_peer.entry(peer).or_insert(descriptor);
            }
        }
        let found = *known.by_peer.get(peer)?;
        known.lately.push_front(found);
        known.lately.truncate(LATELY);
        Some(found)
    }

    /// Whether `descriptor` is of the connection with `peer`.
    pub fn is_of(&self, descriptor: RawFd, peer: &SocketAddr) -> bool {
        peer_of(descriptor).as_ref() == Some(peer) && is_on(descriptor, self.port)
    }
}

/// The numbers of all open descriptors.
pub fn all() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether it is an internet socket of ours with this port.
pub fn is_on(descriptor: RawFd, port: u16) -> bool {
    address(socket::getsockname(descriptor)).is_some_and(|own| own.port() == port)
}

/// Who is at the other end; nobody, if it is no connected internet socket.
pub fn peer_of(descriptor: RawFd) -> Option<SocketAddr> {
    address(socket::getpeername(descriptor))
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
    use std::os::fd::AsRawFd;

    #[test]
    fn a_connection_is_found_by_its_peer_also_when_its_number_belonged_to_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let descriptors = Descriptors::new(address.port());
        for _ in 0..2 * LATELY {
            let client = TcpStream::connect(address).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(descriptors.find(&peer), Some(server.as_raw_fd()));
            assert_eq!(descriptors.find(&peer), Some(server.as_raw_fd()));
            drop((client, server));
            assert_eq!(descriptors.find(&peer), None);
        }
    }

    #[test]
    fn the_client_s_end_of_a_connection_is_not_taken_for_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (_server, peer) = listener.accept().unwrap();
        let descriptors = Descriptors::new(address.port());
        assert_eq!(descriptors.find(&address), None);
        assert!(!descriptors.is_of(client.as_raw_fd(), &peer));
    }
}
