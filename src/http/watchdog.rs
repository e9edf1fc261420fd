//! The front door: what tiny_http 0.12 lacks, so that a crowd is served and a hostile client hardly noticed.
//!
//! One thread, the keeper, does everything that is not a request's own work: nudges, deadlines, and looking whether tiny_http
//! still accepts. Workers ask the door about each request before they look at it.
//!
//! - **Nudges.** tiny_http queues connections that arrive together behind idle threads that are already spoken for. A connection
//!   to ourselves, closed at once, makes it start or wake one more thread. One nudge for the first request of each connection
//!   releases the next one stuck, whose first request nudges again; a Unix socket, where connections can't be told apart, is
//!   nudged by time while there is traffic.
//! - **Cutting.** tiny_http gives no hold on a connection, so its descriptor is looked up by the peer's address and shut down,
//!   which ends every blocked read or write on it. This is what deadlines are enforced with.
//! - **Defusal.** Dropping a request whose declared body has not come makes tiny_http allocate the rest in one piece, which can
//!   abort the process. Beyond [`MAX_DRAINED_BYTES`] such a request is never dropped but forgotten, with its thread and two
//!   descriptors; after [`MAX_FORGOTTEN`] of them the process asks to be renewed.
//! - **Condemned peers.** What follows a request with invalid framing can't be told from a body, so it is not looked at.
//!
//! When tiny_http itself has failed, the door can only say so, through `on_worn`: a supervisor then starts a fresh process.
//! Without one (embedded), renewal is up to the program.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, SockaddrStorage};

use crate::error::Error;
use crate::http::census::Census;
use crate::http::connections::Peers;
use crate::http::listener::Address;
use crate::http::sockets::{self, Descriptors};
use crate::os::sync::unpoisoned;

/// The longest body that is read and thrown away after its request was refused, in bytes. tiny_http allocates it in one piece.
pub const MAX_DRAINED_BYTES: usize = 64 << 20;
/// So many requests are forgotten before the process should be renewed. Each costs a thread and two descriptors.
const MAX_FORGOTTEN: usize = 64;
/// How long nothing is looked at of a peer whose last answer is still to be sent: longer than a commit can take.
const IGNORED_FOR: Duration = Duration::from_secs(60);
/// How long nothing of a condemned peer is looked at. Its socket is shut down meanwhile, so nothing new comes.
const CONDEMNED_FOR: Duration = Duration::from_secs(5);
/// How long a peer that was refused for good may go on sending, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How often the keeper looks around, at the least.
const TICK: Duration = Duration::from_secs(1);
/// With a read timeout that leaves less, the server renews itself all the time.
const SHORTEST_TICK: Duration = Duration::from_millis(5);
/// When the keeper looks again after it could not connect.
const SOON: Duration = Duration::from_millis(20);
/// On a Unix socket: how often to nudge while there is traffic, and how many at a time. Releases 400 connections a second.
const UNIX_NUDGES: (Duration, usize) = (Duration::from_millis(20), 8);
/// The most nudges at each look around, for connections that no request brings a nudge for. Takes some milliseconds.
const MAX_NUDGES_A_TICK: usize = 128;
/// How long tiny_http may take to answer a line that is no request. Two failures in a row, and it is taken for dead.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The door of one server.
pub struct Door {
    address: Address,
    /// The number of tiny_http's listening socket, open as long as its accept thread lives.
    listening: RawFd,
    read_timeout: Duration,
    /// None on a Unix socket.
    descriptors: Option<Descriptors>,
    /// What every request asks about its peer.
    pub peers: Peers,
    nudges: AtomicUsize,
    traffic: AtomicBool,
    deadlines: Mutex<Vec<(u64, Deadline)>>,
    next_deadline: AtomicU64,
    forgotten: AtomicUsize,
    started: Instant,
    keeper: OnceLock<Thread>,
    closed: AtomicBool,
    worn: AtomicBool,
    on_worn: Box<dyn Fn(&'static str) + Send + Sync>,
}

struct Deadline {
    at: Instant,
    peer: SocketAddr,
    /// Looked for when the time has come, if it is not known.
    descriptor: Option<RawFd>,
    how: Shutdown,
}

/// Takes back a deadline when dropped.
pub struct Watch<'a> {
    door: &'a Door,
    id: Option<u64>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            unpoisoned(&self.door.deadlines).retain(|(other, _)| *other != id);
        }
    }
}

impl Door {
    /// Opens the door of a server that listens at `address` on the descriptor `listening`, and starts the keeper. `on_worn` is
    /// called once, when only a fresh process will do, with the reason.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn open(
        address: Address,
        listening: RawFd,
        read_timeout: Duration,
        on_worn: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Result<Arc<Door>, Error> {
        let descriptors = match &address {
            Address::Tcp(own) => Some(Descriptors::new(own.port())),
            Address::Unix(_) => None,
        };
        let door = Arc::new(Door {
            address,
            descriptors,
            listening,
            read_timeout,
            peers: Peers::new(),
            nudges: AtomicUsize::new(0),
            traffic: AtomicBool::new(false),
            deadlines: Mutex::default(),
            next_deadline: AtomicU64::new(0),
            forgotten: AtomicUsize::new(0),
            started: Instant::now(),
            keeper: OnceLock::new(),
            closed: AtomicBool::new(false),
            worn: AtomicBool::new(false),
            on_worn: Box::new(on_worn),
        });
        let keeper = door.clone();
        let thread = std::thread::Builder::new().name("door".into()).spawn(move || keeper.keep()).map_err(Error::Thread)?;
        let _ = door.keeper.set(thread.thread().clone());
        Ok(door)
    }

    /// Ends the keeper.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Every request passes here first. Nudges if its connection is new.
    pub fn enter(&self, peer: Option<&SocketAddr>) {
        match peer {
            Some(peer) => {
                if self.peers.is_new(peer, self.started.elapsed().as_secs() as u32) {
                    self.nudges.fetch_add(1, Ordering::Relaxed);
                    self.wake();
                }
            }
            None => {
                if !self.traffic.swap(true, Ordering::Relaxed) {
                    self.wake();
                }
            }
        }
    }

    /// Whether nothing of this peer is to be looked at.
    pub fn is_condemned(&self, peer: Option<&SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.peers.is_condemned(peer, || self.now_ms()))
    }

    /// Nothing more of this peer is looked at, at least until it is condemned.
    pub fn ignore(&self, peer: Option<&SocketAddr>) {
        if let Some(peer) = peer {
            self.peers.condemn(peer, self.now_ms() + IGNORED_FOR.as_millis() as u64);
        }
    }

    /// Nothing more of this peer is looked at, and its connection, if it still has this descriptor, ends as soon as it has had
    /// time to read the last answer.
    pub fn condemn(&self, peer: Option<&SocketAddr>, descriptor: Option<RawFd>) {
        if let Some(peer) = peer {
            self.peers.condemn(peer, self.now_ms() + CONDEMNED_FOR.as_millis() as u64);
            // Without one it has ended already.
            if descriptor.is_some() {
                self.add_deadline(Deadline { at: Instant::now() + LINGER, peer: *peer, descriptor, how: Shutdown::Both });
            }
        }
    }

    /// The descriptor of the peer's connection. Best asked for while a request of it is at hand: of one that has ended meanwhile
    /// it takes a look at all descriptors to know. `None` on a Unix socket.
    pub fn descriptor(&self, peer: Option<&SocketAddr>) -> Option<RawFd> {
        self.descriptors.as_ref()?.find(peer?)
    }

    /// Shuts the peer's connection down, if it still has this descriptor, which ends every read or write that is blocked on it.
    pub fn cut(&self, peer: Option<&SocketAddr>, descriptor: Option<RawFd>, how: Shutdown) {
        if let (Some(peer), Some(descriptor), Some(descriptors)) = (peer, descriptor, &self.descriptors)
            && descriptors.is_of(descriptor, peer)
        {
            // Should it have ended just now, nothing is left to be shut down.
            let _ = socket::shutdown(
                descriptor,
                match how {
                    Shutdown::Read => socket::Shutdown::Read,
                    Shutdown::Write => socket::Shutdown::Write,
                    Shutdown::Both => socket::Shutdown::Both,
                },
            );
        }
    }

    /// Cuts the peer's connection at a time, unless the returned watch is dropped before.
    #[must_use]
    pub fn watch(&self, peer: Option<&SocketAddr>, at: Instant, how: Shutdown) -> Watch<'_> {
        let deadline = |peer: &SocketAddr| Deadline { at, peer: *peer, descriptor: None, how };
        Watch { door: self, id: peer.map(|peer| self.add_deadline(deadline(peer))) }
    }

    /// Gets rid of a request that must never be dropped. Its client sees the connection close.
    pub fn forget(&self, request: tiny_http::Request) {
        let peer = request.remote_addr().copied();
        let descriptor = self.descriptor(peer.as_ref());
        std::mem::forget(request);
        self.cut(peer.as_ref(), descriptor, Shutdown::Both);
        if self.forgotten.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FORGOTTEN {
            self.wear("too many requests with absurd lengths hold threads that cannot be freed");
        }
    }

    /// Asks for a fresh process.
    pub fn wear(&self, why: &'static str) {
        if !self.worn.swap(true, Ordering::AcqRel) {
            log::warn!("a fresh process is needed: {why}");
            (self.on_worn)(why);
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn add_deadline(&self, deadline: Deadline) -> u64 {
        let id = self.next_deadline.fetch_add(1, Ordering::Relaxed);
        let at = deadline.at;
        let mut deadlines = unpoisoned(&self.deadlines);
        deadlines.push((id, deadline));
        drop(deadlines);
        // The keeper looks at them at each tick anyway.
        if at < Instant::now() + TICK {
            self.wake();
        }
        id
    }

    fn wake(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    fn keep(&self) {
        let mut liveness = Liveness::default();
        let mut next_tick = Instant::now();
        let mut census = match &self.address {
            Address::Tcp(own) => Some(Census::new(own.port(), 2 * self.read_timeout + TICK)),
            Address::Unix(_) => None,
        };
        let mut next_census = Instant::now();
        while !self.closed.load(Ordering::Acquire) {
            let mut nudges = self.nudges.swap(0, Ordering::Relaxed);
            let mut wake_at = self.cut_the_late(next_tick);
            let now = Instant::now();
            if now >= next_tick {
                // accept() gives up after the read timeout, too, and a nudge must come before that.
                next_tick = now + TICK.min(self.read_timeout / 4).max(SHORTEST_TICK);
                // A thread that panics over a connection that was reset takes up no other, so one nudge would release one of many.
                nudges += self.connections().clamp(1, MAX_NUDGES_A_TICK);
                if liveness.is_dead(&self.address, now) {
                    self.wear("connections are accepted but not read");
                }
            }
            if let Some(census) = census.as_mut().filter(|_| now >= next_census) {
                next_census = now + TICK.max(self.read_timeout / 4);
                if census.look(&self.peers) >= MAX_FORGOTTEN {
                    self.wear("too many connections hold threads that cannot be freed");
                }
            }
            if !self.accepts() {
                self.wear("connections are no longer accepted");
            }
            if self.traffic.swap(false, Ordering::Relaxed) {
                nudges += UNIX_NUDGES.1;
                wake_at = wake_at.min(now + UNIX_NUDGES.0);
            }
            // Without a descriptor for a nudge there is none for the next client either, and tiny_http does not survive that.
            if (0..nudges).any(|_| connect(&self.address).is_none()) {
                wake_at = wake_at.min(Instant::now() + SOON);
            }
            let pause = wake_at.min(next_tick).saturating_duration_since(Instant::now());
            match self.address {
                Address::Tcp(_) => std::thread::park_timeout(pause),
                // Traffic is collected, not answered one by one.
                Address::Unix(_) if pause <= UNIX_NUDGES.0 => std::thread::sleep(pause),
                Address::Unix(_) => std::thread::park_timeout(pause),
            }
        }
    }

    /// How many are open; 0 on a Unix socket, which is nudged by its traffic.
    fn connections(&self) -> usize {
        let Address::Tcp(own) = &self.address else { return 0 };
        // tiny_http has two descriptors of each.
        sockets::all().into_iter().filter(|fd| sockets::is_on(*fd, own.port())).count() / 2
    }

    /// Enforces the deadlines that have passed, and returns when the next one does, or `otherwise`.
    fn cut_the_late(&self, otherwise: Instant) -> Instant {
        let now = Instant::now();
        let mut deadlines = unpoisoned(&self.deadlines);
        let late: Vec<_> = deadlines.extract_if(.., |(_, d)| d.at <= now).collect();
        let next = deadlines.iter().map(|(_, d)| d.at).min().unwrap_or(otherwise);
        drop(deadlines);
        for (_, deadline) in late {
            let peer = Some(&deadline.peer);
            self.cut(peer, deadline.descriptor.or_else(|| self.descriptor(peer)), deadline.how);
        }
        next
    }

    /// Whether tiny_http's accept thread lives. It owns the listening socket, and closes it when it ends, however it ends. Then
    /// the descriptor is invalid, or another file has its number, perhaps even a connection of ours, which has a peer.
    fn accepts(&self) -> bool {
        let unconnected = socket::getpeername::<SockaddrStorage>(self.listening) == Err(nix::errno::Errno::ENOTCONN);
        unconnected
            && match &self.address {
                Address::Tcp(own) => sockets::is_on(self.listening, own.port()),
                Address::Unix(_) => true,
            }
    }
}

/// Whether a server at `address` answers within `patience`. Tries again as long as it does not.
pub(crate) fn is_answered(address: &Address, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if let Some(mut stream) = connect(address).and_then(|mut s| s.write_all(NO_REQUEST).ok().map(|()| s)) {
            let retry_at = Instant::now() + TICK;
            while Instant::now() < retry_at {
                match stream.read(&mut [0; 64]) {
                    Ok(0) => break,
                    Ok(_) => return true,
                    Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// A line that is no request: tiny_http answers it with 400 by itself, without a worker.
const NO_REQUEST: &[u8] = b"?\r\n";

/// Whether connections are read: tiny_http answers a line that is no request by itself, without a worker.
#[derive(Default)]
struct Liveness {
    asked: Option<(Instant, Stream)>,
    failures: u32,
}

impl Liveness {
    fn is_dead(&mut self, address: &Address, now: Instant) -> bool {
        let Some((at, stream)) = &mut self.asked else {
            let asked = connect(address).and_then(|mut stream| stream.write_all(NO_REQUEST).ok().map(|()| stream));
            self.asked = asked.map(|stream| (now, stream));
            return false;
        };
        // The stream does not block; whatever comes is an answer.
        if matches!(stream.read(&mut [0; 64]), Ok(n) if n > 0) {
            *self = Liveness::default();
        } else if now - *at >= LIVENESS_TIMEOUT {
            self.asked = None;
            self.failures += 1;
        }
        self.failures >= 2
    }
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}
type Stream = Box<dyn ReadWrite>;

/// A connection to ourselves that never blocks. `None` if there are no descriptors left, or nobody listens.
fn connect(address: &Address) -> Option<Stream> {
    match address {
        Address::Tcp(address) => {
            let mut address = *address;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            let stream = TcpStream::connect_timeout(&address, TICK).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(Box::new(stream))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(Box::new(stream))
        }
    }
}
