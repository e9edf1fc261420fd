//! The watchdog thread: does what no request's own thread does. Nudges, cuts what is late, sweeps, and says when only a fresh
//! process will do.
//!
//! - **Nudges.** tiny_http queues connections that arrive together behind idle threads that are already spoken for. A connection
//!   to ourselves, closed at once, makes it start or wake one more thread. One nudge for the first request of each connection
//!   releases the next one stuck, whose first request nudges again.
//! - **Cutting.** tiny_http gives no hold on a connection, so its socket is found by the peer's address and shut down, which ends
//!   every blocked read or write on it.
//! - **Sweep.** Once a second all descriptors are looked at. A connection that has sent no request for long, say because its head
//!   comes a byte at a time, is cut. One that stays though it was cut, or though its client has gone, is lost, with a thread and
//!   two descriptors: tiny_http waits for itself over HTTP/2, and a panic in its threads leaves a dead socket.
//!
//! When tiny_http itself has failed, or too much is lost, the watchdog can only ask for renewal. Without a supervisor (embedded),
//! renewal is up to the program. When nobody is connected it sleeps for seconds.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use super::connections::Activity;
use super::sockets::{self, Socket};
use super::turn::Core;
use crate::os::sync::unpoisoned;

/// So many threads may be lost before the process should be renewed. Each costs two descriptors besides.
const MAX_LOST: usize = 64;
/// How often to look around while anybody is connected.
const TICK: Duration = Duration::from_secs(1);
/// The same while nobody is: only so that accept() never gives up, which it does after the read timeout.
const IDLE_TICK: Duration = Duration::from_secs(5);
/// With a read timeout that leaves less, the server renews itself all the time.
const SHORTEST_TICK: Duration = Duration::from_millis(5);
/// When to look again after a nudge could not be made.
const SOON: Duration = Duration::from_millis(20);
/// The most nudges at each tick, for connections that no request brings a nudge for. Takes some milliseconds.
const MAX_NUDGES_A_TICK: usize = 128;
/// Nudges at once may be no more than this share of the descriptors that there may be: each takes three for a moment.
const NUDGES_SHARE: usize = 16;
/// How long tiny_http may take to close a connection whose client has gone, or that has been cut.
const TO_CLOSE: Duration = Duration::from_secs(2);
/// A sweep may take a tenth of the watchdog's time.
const SWEEP_SHARE: u32 = 10;

/// What other threads tell the watchdog.
pub(super) struct Watchdog {
    nudges: AtomicUsize,
    deadlines: Mutex<Deadlines>,
    look_now: AtomicBool,
    thread: OnceLock<Thread>,
    stopped: AtomicBool,
    /// Where tiny_http accepts, and so where nudges go. Held while that is changed.
    pub(super) accepting: Mutex<SocketAddr>,
    asked_for_renewal: AtomicBool,
    on_renewal: Box<dyn Fn(&'static str) + Send + Sync>,
}

#[derive(Default)]
struct Deadlines {
    next_id: u64,
    pending: Vec<Deadline>,
}

struct Deadline {
    id: u64,
    at: Instant,
    peer: SocketAddr,
    /// Looked for when the time has come, if it is not known.
    socket: Option<Socket>,
    how: Shutdown,
}

/// Takes a deadline back when dropped.
pub(super) struct Watch<'a> {
    watchdog: &'a Watchdog,
    id: u64,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        unpoisoned(&self.watchdog.deadlines).pending.retain(|deadline| deadline.id != self.id);
    }
}

impl Watchdog {
    /// One that is not started yet, of a server that tiny_http accepts for at `own`. `on_renewal` is called once, when only a fresh process will do, with the reason.
    pub fn new(own: SocketAddr, on_renewal: impl Fn(&'static str) + Send + Sync + 'static) -> Watchdog {
        Watchdog {
            nudges: AtomicUsize::new(0),
            deadlines: Mutex::default(),
            look_now: AtomicBool::new(false),
            thread: OnceLock::new(),
            stopped: AtomicBool::new(false),
            accepting: Mutex::new(own),
            asked_for_renewal: AtomicBool::new(false),
            on_renewal: Box::new(on_renewal),
        }
    }

    /// Starts the thread.
    pub fn start(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(run)?;
        let _ = self.thread.set(thread.thread().clone());
        Ok(())
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Nudges once.
    pub fn nudge(&self) {
        // Only the first of several wakes the thread.
        if self.nudges.fetch_add(1, Ordering::AcqRel) == 0 {
            self.wake();
        }
    }

    /// Sweeps soon, not at the next tick.
    pub fn look_now(&self) {
        self.look_now.store(true, Ordering::Release);
        self.wake();
    }

    /// Cuts the connection of `peer` at a time, unless the returned watch is dropped before.
    #[must_use]
    pub fn cut_at(&self, at: Instant, peer: SocketAddr, how: Shutdown) -> Watch<'_> {
        Watch { watchdog: self, id: self.add(at, peer, None, how) }
    }

    /// Cuts a socket after a while.
    pub fn cut_after(&self, after: Duration, peer: SocketAddr, socket: Socket) {
        self.add(Instant::now() + after, peer, Some(socket), Shutdown::Both);
    }

    /// tiny_http accepts nothing more, because of `error`.
    pub fn accepting_ended(&self, error: &io::Error) {
        log::error!("accepting a connection: {error}");
        self.ask_for_renewal("connections are no longer accepted");
    }

    fn ask_for_renewal(&self, why: &'static str) {
        if !self.asked_for_renewal.swap(true, Ordering::AcqRel) {
            log::warn!("a fresh process is needed: {why}");
            (self.on_renewal)(why);
        }
    }

    fn add(&self, at: Instant, peer: SocketAddr, socket: Option<Socket>, how: Shutdown) -> u64 {
        let mut deadlines = unpoisoned(&self.deadlines);
        let id = deadlines.next_id;
        deadlines.next_id += 1;
        let is_first = deadlines.pending.iter().all(|other| at < other.at);
        deadlines.pending.push(Deadline { id, at, peer, socket, how });
        drop(deadlines);
        if is_first {
            self.wake();
        }
        id
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// The watchdog's thread.
pub(super) fn run(core: &Arc<Core>) {
    let watchdog = &core.watchdog;
    let mut sweep = Sweep::new(core);
    let (mut next_tick, mut next_sweep) = (Instant::now(), Instant::now());
    let most_nudges =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(limit, _)| (limit as usize / NUDGES_SHARE).max(1));
    while !watchdog.stopped.load(Ordering::Acquire) {
        let wanted = watchdog.nudges.swap(0, Ordering::AcqRel).min(most_nudges);
        let (own, accepts) = {
            let accepting = unpoisoned(&watchdog.accepting);
            (*accepting, is_accepting(core.listening, &accepting))
        };
        if !accepts {
            watchdog.ask_for_renewal("connections are no longer accepted");
        }
        let mut nudges = wanted;
        let mut wake_at = cut_the_late(core, next_tick);
        let now = Instant::now();
        let looks_now = watchdog.look_now.load(Ordering::Acquire);
        if now >= next_sweep && (looks_now || now >= next_tick) {
            watchdog.look_now.store(false, Ordering::Release);
            let seen = sweep.look(core, now);
            core.meters.connections(seen.connections);
            next_sweep = now + now.elapsed() * SWEEP_SHARE;
            if core.undroppable.load(Ordering::Relaxed) >= MAX_LOST {
                watchdog.ask_for_renewal("too many requests with absurd lengths hold threads that cannot be freed");
            } else if seen.lost >= MAX_LOST {
                watchdog.ask_for_renewal("too many connections hold threads that cannot be freed");
            }
            // A thread that panics over a connection that was reset takes up no other, so one nudge would release one of many.
            nudges += seen.connections.clamp(1, MAX_NUDGES_A_TICK.min(most_nudges));
            let tick = if seen.connections == 0 { IDLE_TICK } else { TICK };
            // accept() gives up after the read timeout, and a nudge must come before that.
            next_tick = now + tick.min(core.options.read_timeout / 4).max(SHORTEST_TICK);
        } else if looks_now {
            wake_at = wake_at.min(next_sweep);
        }
        // While nobody was connected the next tick may be far, and these may be stuck already.
        if wanted > 0 {
            next_tick = next_tick.min(now + TICK);
        }
        // Without a descriptor for a nudge there is none for the next client either, and tiny_http does not survive that. Once it
        // accepts nothing more, nudges would only be in the way of those who wait for a successor.
        if accepts && (0..nudges).any(|_| nudge(&own).is_none()) {
            wake_at = wake_at.min(Instant::now() + SOON);
        }
        std::thread::park_timeout(wake_at.min(next_tick).saturating_duration_since(Instant::now()));
    }
}

/// Enforces the deadlines that have passed, and returns when the next one does, or `otherwise`.
fn cut_the_late(core: &Core, otherwise: Instant) -> Instant {
    let now = Instant::now();
    let mut deadlines = unpoisoned(&core.watchdog.deadlines);
    let late: Vec<_> = deadlines.pending.extract_if(.., |deadline| deadline.at <= now).collect();
    let next = deadlines.pending.iter().map(|deadline| deadline.at).min().unwrap_or(otherwise);
    drop(deadlines);
    for Deadline { peer, socket, how, .. } in late {
        if let Some(socket) = socket.or_else(|| core.sockets.find(&peer)) {
            core.sockets.shutdown(socket, &peer, how);
        }
    }
    next
}

/// Whether tiny_http's accept thread lives. It owns the listening socket, and closes it when it ends, however it ends. Then the
/// descriptor is invalid, or another file has its number, perhaps even a connection of ours, which has a peer.
pub(super) fn is_accepting(listening: RawFd, own: &SocketAddr) -> bool {
    sockets::is_unconnected(listening) && sockets::is_at(listening, own)
}

/// What the sweeps have seen so far.
struct Sweep {
    /// The listening socket and its duplicates, which have no peer either.
    listening: Vec<RawFd>,
    seen: HashMap<RawFd, Seen>,
    /// How long a connection may last without a request.
    patience: Duration,
}

struct Seen {
    /// `None` once the connection is dead.
    peer: Option<SocketAddr>,
    /// Since when it is as it is.
    since: Instant,
    state: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Fine,
    /// tiny_http should close it any moment.
    Closing,
    /// It should have, and has not.
    Lost,
}

/// What a look around comes to.
struct Census {
    /// Those that are not lost.
    connections: usize,
    lost: usize,
}

impl Sweep {
    /// Before anyone is connected.
    fn new(core: &Core) -> Sweep {
        let listening = core.sockets.walk().filter(|(_, peer)| peer.is_none()).map(|(fd, _)| fd).collect();
        Sweep { listening, seen: HashMap::new(), patience: 2 * core.options.read_timeout + TICK }
    }

    /// Looks at all descriptors, cuts who has been silent for too long, forgets who has gone, and counts who is lost.
    fn look(&mut self, core: &Core, now: Instant) -> Census {
        let mut before = std::mem::take(&mut self.seen);
        let found: Vec<_> = core.sockets.walk().filter(|(fd, _)| !self.listening.contains(fd)).collect();
        let mut connected: HashMap<SocketAddr, usize> = HashMap::new();
        found.iter().filter_map(|(_, peer)| *peer).for_each(|peer| *connected.entry(peer).or_default() += 1);
        for (fd, peer) in found {
            let seen = match before.remove(&fd) {
                Some(seen) if seen.peer == peer || peer.is_none() && seen.peer.is_some() => Seen { peer, ..seen },
                _ => Seen { peer, since: now, state: Standing::Fine },
            };
            // Only a request that waits to be taken keeps the one half, once tiny_http has closed the other.
            let waits = peer
                .is_some_and(|peer| connected.get(&peer) == Some(&1) && core.connections.activity(&peer) == Activity::Unknown);
            let seen = if waits { Seen { since: now, ..seen } } else { self.judge(core, fd, seen, now) };
            self.seen.insert(fd, seen);
        }
        core.connections.sweep(
            |peer| connected.contains_key(peer),
            |peer, blocked| blocked.is_some_and(|socket| core.sockets.is_connected(socket, peer)),
        );
        // tiny_http has two descriptors of each.
        let lost = self.seen.values().filter(|seen| seen.state == Standing::Lost).count() / 2;
        // Each nudge keeps one of tiny_http's idle threads from ending, and no nudge helps those that are lost.
        Census { connections: (self.seen.len() / 2).saturating_sub(lost), lost }
    }

    fn judge(&self, core: &Core, fd: RawFd, mut seen: Seen, now: Instant) -> Seen {
        let activity = seen.peer.map(|peer| core.connections.activity(&peer));
        let heard = match activity {
            Some(Activity::Busy) => now,
            Some(Activity::Idle(heard) | Activity::Blocked(heard)) => heard,
            // It is dead, or has never been heard of.
            None | Some(Activity::Unknown) => seen.since,
        };
        if heard > seen.since {
            return Seen { since: heard, state: Standing::Fine, ..seen };
        }
        let silent = now.duration_since(seen.since);
        match seen.state {
            Standing::Lost => {}
            Standing::Closing => {
                if silent >= TO_CLOSE {
                    seen.state = Standing::Lost;
                }
            }
            Standing::Fine => {
                let is_over =
                    silent >= TO_CLOSE && (matches!(activity, None | Some(Activity::Blocked(_))) || sockets::has_ended(fd));
                if is_over || silent >= self.patience {
                    core.sockets.shutdown_number(fd, seen.peer);
                    seen = Seen { since: now, state: Standing::Closing, ..seen };
                }
            }
        }
        seen
    }
}

/// A connection to ourselves, closed at once. `None` if there are no descriptors left, or nobody listens.
pub(super) fn nudge(own: &SocketAddr) -> Option<()> {
    TcpStream::connect_timeout(&reachable(own), TICK).ok().map(drop)
}

fn reachable(own: &SocketAddr) -> SocketAddr {
    let mut address = *own;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
