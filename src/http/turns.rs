//! Requests that wait for an earlier one of their own connection to be answered, so that no worker does.
//!
//! tiny_http hands out all requests that a client has pipelined, and then makes whoever answers the second wait for the first.
//! A few clients that pipeline would so take all workers, in lockstep, and what others ask would stand behind them in the queue.
//! Here a connection has one turn: while a request of it is being answered directly, or its late body is on its way into the
//! commit's queue, later ones are put aside in the order of their arrival, and taken up by whoever ends that turn. Requests that
//! wait for a commit take no turn, as the commit's queue keeps their order. That also lets requests of one connection see each
//! other in order (RFC 9112, 9.3.2).
//!
//! Costs two atomic operations for a request whose connection does not pipeline.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

use crate::http::connections::Peers;
use crate::os::sync::unpoisoned;

/// The most requests of one connection that are put aside. A client that pipelines more does not mean to read the answers.
pub const MAX_WAITING: usize = 10_000;

/// The requests that wait, by their peers.
pub struct Turns<T>(Mutex<HashMap<SocketAddr, VecDeque<T>>>);

/// What to do with a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived<T> {
    /// Nothing of its connection is in its way.
    Goes(T),
    /// It has been put aside.
    Waits,
    /// There are too many; these all have been put aside so far.
    Floods(VecDeque<T>),
}

impl<T> Turns<T> {
    /// Nobody waits.
    pub fn new() -> Turns<T> {
        Turns(Mutex::default())
    }

    /// Puts `request` aside if its peer's turn is taken, or others wait for it. Called for one request after the other.
    pub fn arrive(&self, peers: &Peers, peer: &SocketAddr, request: T) -> Arrived<T> {
        if !peers.in_turn(peer) && !peers.has_waiting(peer) {
            return Arrived::Goes(request);
        }
        let mut waiting = self.lock();
        // Counted before the turn is looked at, as `next` ends a turn before it looks at the count: one of the two sees the other.
        peers.waits(peer);
        let queue = waiting.entry(*peer).or_default();
        if queue.is_empty() && !peers.in_turn(peer) {
            peers.waits_no_more(peer, 1);
            waiting.remove(peer);
            return Arrived::Goes(request);
        }
        queue.push_back(request);
        if queue.len() <= MAX_WAITING {
            return Arrived::Waits;
        }
        let flood = waiting.remove(peer).unwrap_or_default();
        peers.waits_no_more(peer, flood.len());
        Arrived::Floods(flood)
    }

    /// Ends a turn of `peer`, and begins the next one if somebody waits for it and no other turn goes on.
    pub fn next(&self, peers: &Peers, peer: &SocketAddr) -> Option<T> {
        if !peers.end_turn(peer) || !peers.has_waiting(peer) {
            return None;
        }
        let mut waiting = self.lock();
        let queue = waiting.get_mut(peer)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            waiting.remove(peer);
        }
        if next.is_some() {
            // In this order, so that nobody finds both the turn free and the queue empty meanwhile.
            peers.begin_turn(peer);
            peers.waits_no_more(peer, 1);
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, VecDeque<T>>> {
        unpoisoned(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        "127.0.0.1:4000".parse().unwrap()
    }

    #[test]
    fn requests_wait_for_a_turn_and_are_taken_up_in_order() {
        let (peers, turns) = (Peers::new(), Turns::new());
        assert_eq!(turns.arrive(&peers, &peer(), 1), Arrived::Goes(1));
        peers.begin_turn(&peer());
        assert_eq!(turns.arrive(&peers, &peer(), 2), Arrived::Waits);
        assert_eq!(turns.arrive(&peers, &peer(), 3), Arrived::Waits);
        assert_eq!(turns.next(&peers, &peer()), Some(2));
        assert_eq!(turns.arrive(&peers, &peer(), 4), Arrived::Waits);
        assert_eq!(turns.next(&peers, &peer()), Some(3));
        assert_eq!(turns.next(&peers, &peer()), Some(4));
        assert_eq!(turns.next(&peers, &peer()), None);
        assert_eq!(turns.arrive(&peers, &peer(), 5), Arrived::Goes(5));
    }

    #[test]
    fn a_flood_is_given_back_whole() {
        let (peers, turns) = (Peers::new(), Turns::new());
        peers.begin_turn(&peer());
        for n in 0..MAX_WAITING {
            assert_eq!(turns.arrive(&peers, &peer(), n), Arrived::Waits);
        }
        let Arrived::Floods(flood) = turns.arrive(&peers, &peer(), MAX_WAITING) else { panic!("no flood") };
        assert_eq!(flood.len(), MAX_WAITING + 1);
        assert_eq!(turns.next(&peers, &peer()), None);
    }

    #[test]
    fn no_request_is_left_behind_when_a_turn_ends_as_one_arrives() {
        let (peers, turns) = (Peers::new(), Turns::new());
        let done = std::sync::atomic::AtomicUsize::new(0);
        let take = |mut turn: Option<usize>| {
            while turn.is_some() {
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                turn = turns.next(&peers, &peer());
            }
        };
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let take = &take;
            scope.spawn(move || receiver.into_iter().for_each(|n| take(Some(n))));
            for n in 0..20_000 {
                match turns.arrive(&peers, &peer(), n) {
                    Arrived::Goes(n) => {
                        peers.begin_turn(&peer());
                        sender.send(n).unwrap();
                    }
                    Arrived::Waits => {}
                    Arrived::Floods(flood) => _ = done.fetch_add(flood.len(), std::sync::atomic::Ordering::SeqCst),
                }
            }
            drop(sender);
        });
        assert_eq!(done.into_inner(), 20_000);
    }
}
