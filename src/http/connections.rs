//! The one rule: a connection has one request under way, and what follows waits in that connection's queue.
//!
//! tiny_http hands out all requests that a client has pipelined, and makes whoever answers the second wait for the first. Here a
//! later one is put aside until the earlier one is answered, so nobody ever waits, each request sees what those before it did
//! (RFC 9112, 9.3.2), and a client that pipelines waits for itself alone.
//!
//! A connection is known by the whole address of its peer: two hosts may use the same port. What is kept of it ends with it, see
//! [`Connections::sweep`]. A connection that can't be trusted any more is blocked: nothing more of it is looked at. The mark
//! holds for that socket alone, as the next connection may have the same address. What tiny_http had read of it before it ended
//! may come even later; as long as nobody is connected from that address, it is taken for that.
//!
//! Requests must be brought here in the order in which tiny_http gave them out; `workers.rs` sees to that.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::os::sync::unpoisoned;

/// The most requests of one connection that wait. A client that pipelines more does not mean to read the answers.
pub const MAX_WAITING: usize = 10_000;
/// A connection that was silent for longer may be another one with the same address, so it counts as new.
const SILENT: Duration = Duration::from_secs(1);
/// The table is made smaller when it has room for more than this many connections, and for four times those that there are.
const FEW: usize = 1_024;

/// How long the mark of a blocked connection outlives it, as requests of it may still be in tiny_http's queue.
const LATE: Duration = Duration::from_secs(5);
/// To learn who is connected from an address takes a look at all descriptors. So after a few late requests of a blocked connection
/// it is looked at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// So many late requests are looked at one by one.
const FEW_LATE: u32 = 16;

/// What is known of each connection. `T` is a request, `S` tells a socket from the next one with the same peer.
pub struct Connections<T, S>(Mutex<HashMap<SocketAddr, Entry<T, S>>>);

struct Entry<T, S> {
    heard: Instant,
    state: State<T, S>,
}

enum State<T, S> {
    /// Nothing of it is under way.
    Idle,
    /// One request is, and these wait.
    Busy(VecDeque<T>),
    /// Nothing of it is looked at any more.
    Blocked(Blocked<T, S>),
}

struct Blocked<T, S> {
    socket: S,
    /// Until its last answer is sent, what comes is kept: getting rid of a request lets tiny_http answer those behind it.
    waiting: Option<VecDeque<T>>,
    late: u32,
    looked: Instant,
}

impl<T, S> Blocked<T, S> {
    /// Whether a request that comes now is of the blocked connection.
    fn is_of_it(&mut self, now: Instant, is_same: impl FnOnce(&S) -> bool) -> bool {
        self.late += 1;
        if self.late > FEW_LATE && now.duration_since(self.looked) < LOOK_EVERY {
            return true;
        }
        self.looked = now;
        is_same(&self.socket)
    }
}

/// What to do with a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// It has the turn now.
    Goes(T),
    /// It has been put aside.
    Waits,
    /// It must not be looked at.
    Blocked(T),
    /// So many wait that its connection is to be blocked. It has not been put aside.
    Floods(T),
}

/// What a sweep wants to know of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// A request of it is under way.
    Busy,
    /// Nothing is; it was last heard of at this time.
    Idle(Instant),
    /// It is blocked; it was last heard of at this time.
    Blocked(Instant),
    /// No request has come from it yet.
    Unknown,
}

impl<T, S> Connections<T, S> {
    /// Nobody is connected.
    pub fn new() -> Connections<T, S> {
        Connections(Mutex::default())
    }

    /// A request of `peer` has arrived. Says what to do with it, and whether its connection seems to be a new one. `is_same` is
    /// asked whether the blocked socket is still the one that `peer` is connected with.
    pub fn arrive(&self, peer: SocketAddr, request: T, is_same: impl FnOnce(&S) -> bool) -> (Arrival<T>, bool) {
        let now = Instant::now();
        let mut entries = unpoisoned(&self.0);
        let Some(entry) = entries.get_mut(&peer) else {
            entries.insert(peer, Entry { heard: now, state: State::Busy(VecDeque::new()) });
            return (Arrival::Goes(request), true);
        };
        let is_new = now.duration_since(std::mem::replace(&mut entry.heard, now)) > SILENT;
        match &mut entry.state {
            State::Busy(waiting) if waiting.len() < MAX_WAITING => {
                waiting.push_back(request);
                (Arrival::Waits, is_new)
            }
            State::Busy(_) => (Arrival::Floods(request), false),
            State::Blocked(blocked) => {
                if !blocked.is_of_it(now, is_same) {
                    entry.state = State::Busy(VecDeque::new());
                    return (Arrival::Goes(request), is_new);
                }
                match &mut blocked.waiting {
                    Some(waiting) if waiting.len() < MAX_WAITING => {
                        waiting.push_back(request);
                        (Arrival::Waits, false)
                    }
                    _ => (Arrival::Blocked(request), false),
                }
            }
            State::Idle => {
                entry.state = State::Busy(VecDeque::new());
                (Arrival::Goes(request), is_new)
            }
        }
    }

    /// Ends the turn of `peer`'s request, and gives the next one the turn, if one waits.
    pub fn end_turn(&self, peer: &SocketAddr) -> Option<T> {
        let mut entries = unpoisoned(&self.0);
        let entry = entries.get_mut(peer)?;
        let State::Busy(waiting) = &mut entry.state else { return None };
        let next = waiting.pop_front();
        entry.heard = Instant::now();
        if next.is_none() {
            entry.state = State::Idle;
        }
        next
    }

    /// Blocks `peer`, whose request has the turn and is connected by `socket`. The turn is over then. What waits is kept until
    /// [`release`](Self::release).
    pub fn block(&self, peer: &SocketAddr, socket: S) {
        let mut entries = unpoisoned(&self.0);
        let Some(entry) = entries.get_mut(peer) else { return };
        let waiting = match std::mem::replace(&mut entry.state, State::Idle) {
            State::Busy(waiting) => waiting,
            State::Blocked(blocked) => blocked.waiting.unwrap_or_default(),
            State::Idle => VecDeque::new(),
        };
        entry.state = State::Blocked(Blocked { socket, waiting: Some(waiting), late: 0, looked: Instant::now() });
    }

    /// Gives back what waits of a blocked connection, whose last answer has been sent.
    pub fn release(&self, peer: &SocketAddr) -> VecDeque<T> {
        match unpoisoned(&self.0).get_mut(peer) {
            Some(Entry { state: State::Blocked(blocked), .. }) => blocked.waiting.take().unwrap_or_default(),
            _ => VecDeque::new(),
        }
    }

    /// What is going on between `peer` and us.
    pub fn activity(&self, peer: &SocketAddr) -> Activity {
        match unpoisoned(&self.0).get(peer) {
            Some(Entry { state: State::Busy(_), .. }) => Activity::Busy,
            Some(Entry { state: State::Idle, heard }) => Activity::Idle(*heard),
            Some(Entry { state: State::Blocked(_), heard }) => Activity::Blocked(*heard),
            None => Activity::Unknown,
        }
    }

    /// Whether any request is under way.
    pub fn any_busy(&self) -> bool {
        unpoisoned(&self.0).values().any(|entry| matches!(entry.state, State::Busy(_)))
    }

    /// For how long no request has come or been under way.
    pub fn silent_for(&self) -> Duration {
        let now = Instant::now();
        let silent = |entry: &Entry<T, S>| match entry.state {
            State::Busy(_) => Duration::ZERO,
            State::Idle | State::Blocked(_) => now.saturating_duration_since(entry.heard),
        };
        unpoisoned(&self.0).values().map(silent).min().unwrap_or(Duration::MAX)
    }

    /// Forgets the connections that are no more.
    pub fn sweep(&self, is_connected: impl Fn(&SocketAddr) -> bool, is_same: impl Fn(&SocketAddr, &S) -> bool) {
        let mut entries = unpoisoned(&self.0);
        entries.retain(|peer, entry| match &entry.state {
            State::Busy(_) => true,
            // One that has come since the descriptors were looked at is not among them.
            State::Idle => entry.heard.elapsed() <= SILENT || is_connected(peer),
            State::Blocked(blocked) => entry.heard.elapsed() <= LATE || is_same(peer, &blocked.socket),
        });
        if entries.capacity() > FEW.max(4 * entries.len()) {
            let room = FEW.max(entries.len());
            entries.shrink_to(room);
        }
    }

    /// Gives back everything that waits, to a server that stops.
    pub fn drain(&self) -> Vec<T> {
        let entries = std::mem::take(&mut *unpoisoned(&self.0));
        let waiting = |entry: Entry<T, S>| match entry.state {
            State::Busy(waiting) => waiting,
            State::Blocked(blocked) => blocked.waiting.unwrap_or_default(),
            State::Idle => VecDeque::new(),
        };
        entries.into_values().flat_map(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = Connections<usize, bool>;

    fn peer(host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], 4_000))
    }

    fn arrive(table: &Table, host: u8, request: usize) -> Arrival<usize> {
        table.arrive(peer(host), request, |same| *same).0
    }

    #[test]
    fn one_request_is_under_way_and_the_others_follow_in_order() {
        let table = Table::new();
        assert_eq!(table.arrive(peer(1), 1, |_| true), (Arrival::Goes(1), true));
        assert_eq!(table.arrive(peer(1), 2, |_| true), (Arrival::Waits, false));
        assert_eq!(arrive(&table, 1, 3), Arrival::Waits);
        assert_eq!(table.activity(&peer(1)), Activity::Busy);
        assert_eq!(table.end_turn(&peer(1)), Some(2));
        assert_eq!(arrive(&table, 1, 4), Arrival::Waits);
        assert_eq!(table.end_turn(&peer(1)), Some(3));
        assert_eq!(table.end_turn(&peer(1)), Some(4));
        assert_eq!(table.end_turn(&peer(1)), None);
        assert!(!table.any_busy());
        assert_eq!(arrive(&table, 1, 5), Arrival::Goes(5));
    }

    #[test]
    fn two_hosts_with_one_port_know_nothing_of_each_other() {
        let table = Table::new();
        assert_eq!(arrive(&table, 1, 1), Arrival::Goes(1));
        assert_eq!(arrive(&table, 2, 2), Arrival::Goes(2));
        assert_eq!(arrive(&table, 1, 3), Arrival::Waits);
        table.block(&peer(2), true);
        assert!(table.release(&peer(2)).is_empty());
        assert_eq!(arrive(&table, 2, 4), Arrival::Blocked(4));
        assert_eq!(table.end_turn(&peer(1)), Some(3));
    }

    #[test]
    fn a_block_ends_with_its_socket() {
        let table = Table::new();
        assert_eq!(arrive(&table, 1, 1), Arrival::Goes(1));
        assert_eq!(arrive(&table, 1, 2), Arrival::Waits);
        table.block(&peer(1), true);
        assert_eq!(table.end_turn(&peer(1)), None, "its turn was over");
        assert_eq!(arrive(&table, 1, 3), Arrival::Waits, "its last answer is still to be sent");
        assert_eq!(table.release(&peer(1)), [2, 3]);
        assert_eq!(arrive(&table, 1, 4), Arrival::Blocked(4));
        assert_eq!(table.arrive(peer(1), 5, |_| false).0, Arrival::Goes(5), "the next connection from that address");
        table.block(&peer(1), true);
        table.sweep(|_| true, |_, _| false);
        assert!(matches!(table.activity(&peer(1)), Activity::Blocked(_)), "requests may still come of it");
    }

    #[test]
    fn of_many_late_requests_only_some_are_looked_at() {
        let table = Table::new();
        assert_eq!(arrive(&table, 1, 0), Arrival::Goes(0));
        table.block(&peer(1), true);
        table.release(&peer(1));
        let mut looks = 0;
        for n in 1..=10_000 {
            let arrival = table.arrive(peer(1), n, |_| {
                looks += 1;
                true
            });
            assert_eq!(arrival.0, Arrival::Blocked(n));
        }
        assert!((FEW_LATE..1_000).contains(&looks), "{looks}");
    }

    #[test]
    fn a_flood_is_noticed_and_given_back_whole() {
        let table = Table::new();
        assert_eq!(arrive(&table, 1, 0), Arrival::Goes(0));
        for n in 1..=MAX_WAITING {
            assert_eq!(arrive(&table, 1, n), Arrival::Waits);
        }
        assert_eq!(arrive(&table, 1, 7), Arrival::Floods(7));
        table.block(&peer(1), true);
        assert_eq!(table.release(&peer(1)).len(), MAX_WAITING);
    }

    #[test]
    fn no_request_is_left_behind_when_a_turn_ends_as_one_arrives() {
        let table = Table::new();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let take = |mut turn: Option<usize>| {
            while turn.is_some() {
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                turn = table.end_turn(&peer(1));
            }
        };
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let take = &take;
            scope.spawn(move || receiver.into_iter().for_each(|n| take(Some(n))));
            let mut sent = 0;
            while sent < 20_000 {
                match arrive(&table, 1, sent) {
                    Arrival::Goes(n) => sender.send(n).unwrap(),
                    Arrival::Waits => {}
                    // The other thread is behind.
                    Arrival::Floods(_) => continue,
                    Arrival::Blocked(_) => unreachable!("nobody is blocked"),
                }
                sent += 1;
            }
            drop(sender);
        });
        assert_eq!(done.into_inner(), 20_000);
    }
}
