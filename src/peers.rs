//! What is known of each TCP peer: whether it has been seen, how many of its orders wait for a commit, whether it is condemned.
//!
//! A table indexed by the peer's port and free of locks, because every request looks into it. Two hosts that use the same port
//! share an entry; the entry then belongs to whoever came last, and all that comes of it is a needless nudge, a request that
//! waits for a commit it need not wait for, or a condemned peer forgiven early (its socket is cut anyway). Unix sockets have no
//! peer address: nothing is known of them.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PAGE: usize = 256;

#[derive(Default)]
struct Peer {
    /// A hash of its address, never 0.
    identity: AtomicU64,
    /// On the clock of [`Peers::condemn`]'s caller, in milliseconds.
    condemned_until_ms: AtomicU64,
    queued: AtomicU32,
}

/// The table. Pages are made when first used, as a small server sees few ports.
pub struct Peers(Vec<OnceLock<Box<[Peer]>>>);

impl Peers {
    /// An empty table.
    pub fn new() -> Peers {
        Peers((0..=usize::from(u16::MAX) / PAGE).map(|_| OnceLock::new()).collect())
    }

    fn entry(&self, peer: &SocketAddr) -> &Peer {
        let port = usize::from(peer.port());
        &self.0[port / PAGE].get_or_init(|| (0..PAGE).map(|_| Peer::default()).collect())[port % PAGE]
    }

    /// Notes a request of `peer` and says whether it is the first that was seen of it.
    pub fn is_new(&self, peer: &SocketAddr) -> bool {
        let entry = self.entry(peer);
        let identity = BuildHasherDefault::<DefaultHasher>::default().hash_one(peer) | 1;
        // A plain load first: a swap for every request would take the cache line from the other cores.
        if entry.identity.load(Ordering::Relaxed) == identity {
            return false;
        }
        entry.identity.store(identity, Ordering::Relaxed);
        true
    }

    /// An order of `peer` waits for its commit.
    pub fn queued(&self, peer: Option<&SocketAddr>) {
        if let Some(peer) = peer {
            self.entry(peer).queued.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One that waited is stored or refused.
    pub fn settled(&self, peer: Option<&SocketAddr>) {
        if let Some(peer) = peer {
            self.entry(peer).queued.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether orders of `peer` wait for their commit.
    pub fn has_queued(&self, peer: Option<&SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.entry(peer).queued.load(Ordering::Acquire) > 0)
    }

    /// From now on and until `until_ms`, nothing that `peer` sends is looked at.
    pub fn condemn(&self, peer: &SocketAddr, until_ms: u64) {
        self.entry(peer).condemned_until_ms.store(until_ms, Ordering::Release);
    }

    /// Whether `peer` is condemned at `now_ms`.
    pub fn is_condemned(&self, peer: &SocketAddr, now_ms: impl FnOnce() -> u64) -> bool {
        // Hardly anyone ever is, so the time is not even asked for.
        match self.entry(peer).condemned_until_ms.load(Ordering::Acquire) {
            0 => false,
            until_ms => now_ms() < until_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_new_once_and_again_when_another_host_used_its_port() {
        let peers = Peers::new();
        let (a, b): (SocketAddr, SocketAddr) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:4000".parse().unwrap());
        assert!(peers.is_new(&a));
        assert!(!peers.is_new(&a));
        assert!(peers.is_new(&b));
        assert!(peers.is_new(&a));
    }

    #[test]
    fn orders_are_counted_in_and_out() {
        let peers = Peers::new();
        let peer = Some("[::1]:65535".parse().unwrap());
        peers.queued(peer.as_ref());
        peers.queued(peer.as_ref());
        peers.settled(peer.as_ref());
        assert!(peers.has_queued(peer.as_ref()));
        peers.settled(peer.as_ref());
        assert!(!peers.has_queued(peer.as_ref()));
        assert!(!peers.has_queued(None));
    }

    #[test]
    fn a_condemned_peer_is_forgiven_in_time() {
        let peers = Peers::new();
        let peer = "127.0.0.1:1".parse().unwrap();
        assert!(!peers.is_condemned(&peer, || 0));
        peers.condemn(&peer, 100);
        assert!(peers.is_condemned(&peer, || 99));
        assert!(!peers.is_condemned(&peer, || 100));
    }
}
