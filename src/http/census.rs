//! Who is connected, and who should long have gone: looks at all descriptors of the process every now and then.
//!
//! tiny_http has two ways to keep a connection too long. One that sends its header a byte at a time never lets the read timeout
//! pass; it is cut. And a request of HTTP/2 makes its thread wait for itself for ever (tiny_http means to answer 505, but the
//! turn to write is still held by the request that it refuses): no worker hears of it, and cutting does not help. Such
//! connections are lost, with a thread and two descriptors each, and all that can be done is to count them.
//!
//! Belongs to the door's keeper alone. Unix sockets have no addresses to go by: nothing is seen of them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, Shutdown};

use crate::http::connections::Peers;
use crate::http::sockets;

/// How long tiny_http may take to close a connection that has been cut.
const LAST_RITES: Duration = Duration::from_secs(2);

/// What was seen so far.
pub struct Census {
    port: u16,
    /// How long a connection may last without a request.
    patience: Duration,
    /// The listening socket and its duplicates, which have no peer either.
    listening: HashSet<RawFd>,
    seen: HashMap<RawFd, Entry>,
}

struct Entry {
    /// `None` once the connection is dead.
    peer: Option<SocketAddr>,
    /// What [`Peers`] knew when it was last heard of.
    heard: u64,
    since: Instant,
    cut: bool,
}

impl Census {
    /// Of a server that listens on `port`, before anyone is connected.
    pub fn new(port: u16, patience: Duration) -> Census {
        let unconnected = sockets::all().into_iter().filter(|fd| sockets::is_on(*fd, port) && sockets::peer_of(*fd).is_none());
        Census { port, patience, listening: unconnected.collect(), seen: HashMap::new() }
    }

    /// Looks around, cuts who has been silent for too long, and returns how many connections are lost.
    pub fn look(&mut self, peers: &Peers) -> usize {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.seen);
        let mut lost = 0;
        for fd in sockets::all() {
            if self.listening.contains(&fd) || !sockets::is_on(fd, self.port) {
                continue;
            }
            let peer = sockets::peer_of(fd);
            let heard = peer.map_or(0, |peer| peers.heard(&peer));
            let mut entry = match before.remove(&fd) {
                Some(entry) if peer.is_none() || entry.peer == peer && entry.heard == heard => entry,
                _ => Entry { peer, heard, since: now, cut: false },
            };
            let silent = now - entry.since;
            if peer.is_none() || entry.cut {
                lost += usize::from(silent >= LAST_RITES);
            } else if silent >= self.patience && !peers.has_queued(peer.as_ref()) {
                let _ = socket::shutdown(fd, Shutdown::Both);
                entry = Entry { since: now, cut: true, ..entry };
            }
            self.seen.insert(fd, entry);
        }
        // Each has two descriptors.
        lost / 2
    }
}
