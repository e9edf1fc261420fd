//! What is known of each TCP peer: whether it is new, how many of its requests wait and for what, whether it is condemned.
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
/// So long after its last request a peer counts as new, in seconds. A busy connection is never taken for a new one, and one
/// that is mostly idle can be afforded.
const FORGOTTEN_AFTER_S: u32 = 1;

#[derive(Default)]
struct Peer {
    /// In the upper half a hash of its address, never 0; in the lower the second in which it was last heard of.
    last_heard: AtomicU64,
    /// On the clock of [`Peers::condemn`]'s caller, in milliseconds.
    condemned_until_ms: AtomicU64,
    queued: AtomicU32,
    turns: AtomicU32,
    waiting: AtomicU32,
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

    /// Notes a request of `peer` in second `now_s` of any clock, and says whether its connection may be a new one: a port is
    /// used again by another connection as soon as one has closed, so a peer that was silent for a while counts as new.
    pub fn is_new(&self, peer: &SocketAddr, now_s: u32) -> bool {
        let entry = self.entry(peer);
        let identity = (BuildHasherDefault::<DefaultHasher>::default().hash_one(peer) >> 32) as u32 | 1;
        let this = u64::from(identity) << 32 | u64::from(now_s);
        let last = entry.last_heard.load(Ordering::Relaxed);
        // Mostly, so nothing is written: that would take the cache line from the other cores.
        if last != this {
            entry.last_heard.store(this, Ordering::Relaxed);
        }
        (last >> 32) as u32 != identity || now_s.wrapping_sub(last as u32) > FORGOTTEN_AFTER_S
    }

    /// Changes when something is heard of `peer`, though not more than once a second.
    pub fn heard(&self, peer: &SocketAddr) -> u64 {
        self.entry(peer).last_heard.load(Ordering::Relaxed)
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

    /// A request of `peer` is being answered directly, or its body waited for. See `turns.rs` for what this and the following are for.
    pub fn begin_turn(&self, peer: &SocketAddr) {
        self.entry(peer).turns.fetch_add(1, Ordering::SeqCst);
    }

    /// One has been answered. Says whether it was the only one.
    pub fn end_turn(&self, peer: &SocketAddr) -> bool {
        self.entry(peer).turns.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Whether such a request of `peer` is under way.
    pub fn in_turn(&self, peer: &SocketAddr) -> bool {
        self.entry(peer).turns.load(Ordering::SeqCst) > 0
    }

    /// A request of `peer` is put aside.
    pub fn waits(&self, peer: &SocketAddr) {
        self.entry(peer).waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// So many are taken up.
    pub fn waits_no_more(&self, peer: &SocketAddr, requests: usize) {
        self.entry(peer).waiting.fetch_sub(requests as u32, Ordering::SeqCst);
    }

    /// Whether any request of `peer` is put aside.
    pub fn has_waiting(&self, peer: &SocketAddr) -> bool {
        self.entry(peer).waiting.load(Ordering::SeqCst) > 0
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
        assert!(peers.is_new(&a, 0));
        assert!(!peers.is_new(&a, 0));
        assert!(peers.is_new(&b, 0));
        assert!(peers.is_new(&a, 0));
    }

    #[test]
    fn a_peer_is_new_again_when_nothing_was_heard_of_it_for_a_while() {
        let peers = Peers::new();
        let peer = "127.0.0.1:4000".parse().unwrap();
        assert!(peers.is_new(&peer, 7));
        assert!(!peers.is_new(&peer, 8));
        assert!(!peers.is_new(&peer, 9));
        assert!(peers.is_new(&peer, 11));
        assert!(!peers.is_new(&peer, 11));
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
