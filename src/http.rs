//! The front door: HTTP/1.1 on plain threads, by tiny_http, and all that tiny_http 0.12 lacks. The only place that names it, and it
//! knows nothing of orders.
//!
//! Whoever uses it gives a [`Handler`]. A worker thread asks it for the route of a request, reads the body, and hands it the
//! [`Request`], which owns its connection's turn: answering or dropping it ends the turn and takes up the next request of that
//! connection (`connections.rs`). A dropped one is answered by [`Refused::Dropped`], so every request has one answer.
//!
//! **Who waits for clients.** Late bodies are read by the blocking pool (`body.rs`, `blocking.rs`). An answer is written by whoever
//! has it, as far as the kernel takes it at once; the blocking pool writes the rest, within a bound on the whole answer. So
//! neither workers nor whoever calls [`Request::answer`] ever wait for a client.
//!
//! What tiny_http 0.12 does to a server, and what holds it here. Each is shown on a bare tiny_http in `tests/it/http/hazards.rs`.
//!
//! | hazard | measured | held by |
//! |---|---|---|
//! | connections that come together are queued behind threads that are spoken for | of 200, 66 stuck | `watchdog.rs`: nudges |
//! | dropping a request with an absurd length allocates it, and aborts | one packet | `workers.rs`: undroppable |
//! | a header without end is collected for ever | 250 MB/s | the supervisor: memory |
//! | the accept thread ends on any error | 2 descriptors a connection | `watchdog.rs`: asks for renewal |
//! | nothing times out | | `listener.rs`: inherited options; `watchdog.rs`: deadlines, sweep |
//! | a late body is read by whoever handles the request | 4 slow senders stop 4 workers | `body.rs` |
//! | an answer waits for the earlier ones of its connection, and for its reader | 8 clients stop all | `connections.rs`, `response.rs` |
//! | framing is lenient | 6 of 7 bad requests got two answers | `head.rs` |
//! | HTTP/2 requests and panics keep a thread and two descriptors for ever | | `watchdog.rs`: sweep, renewal |

mod blocking;
mod body;
pub mod client;
mod connections;
mod head;
pub mod listener;
pub mod percent;
pub mod probe;
mod relay;
mod response;
mod sockets;
mod watchdog;
mod workers;

use std::fs::File;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, mem};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::blocking::{Blocking, Room};
use self::connections::Connections;
use self::head::Shape;
use self::listener::{Address, Listener};
use self::relay::Relay;
use self::response::{Outgoing, Progress};
use self::sockets::{Socket, Sockets};
use self::watchdog::Watchdog;
use crate::error::Error;
use crate::os::sync::unpoisoned;

pub use self::head::{Head, Method};
pub use self::response::Reply;

/// The longest body that is read and thrown away after its request was refused, in bytes. tiny_http allocates it in one piece.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How much may be held at once of answers whose readers are slow, in bytes.
const MAX_ANSWER_BYTES: usize = 96 << 20;
/// How much may be held at once of bodies that are on their way, in bytes.
const MAX_BODIES_BYTES: usize = 64 << 20;
/// How long a peer that was refused for good may go on sending, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How long the last answers may take when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long nothing must have arrived before a server that retires takes it that nothing will.
const QUIET: Duration = Duration::from_millis(100);

/// What a server does with requests.
pub trait Handler: Send + Sync + 'static {
    /// What a request asks for.
    type Route: Send + 'static;

    /// Finds the route of a request, before its body is read.
    ///
    /// # Errors
    /// The answer that refuses it.
    fn route(&self, head: &Head<'_>) -> Result<Self::Route, Reply>;

    /// Does what a request asks for. Runs on a worker, or on the blocking pool if the body came late; the request may be answered
    /// later and by any thread.
    fn handle(&self, route: Self::Route, request: Request);

    /// Called before a worker takes requests, by one worker at a time. May wait a moment, so that more come together.
    fn gather(&self) {}

    /// Words the refusal of a request that never reached [`handle`](Self::handle), or was not answered there.
    fn refuse(&self, why: Refused) -> Reply;
}

/// Why a request is refused here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Where the body ends can't be told, or the head is not valid, for this reason.
    BadFraming(&'static str),
    /// The body is longer than is allowed.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// The body ended early, or is badly chunked.
    Broken,
    /// Too many bytes of bodies are on their way.
    Busy,
    /// Whoever handled the request panicked, or forgot to answer.
    Dropped,
}

/// How a server is set up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many threads handle requests.
    pub workers: usize,
    /// How long a connection may be silent, and how long a whole body may take.
    pub read_timeout: Duration,
    /// The longest body, in bytes.
    pub max_body_bytes: usize,
}

/// A request whose body has come. It holds its connection's turn until it is answered or dropped.
pub struct Request {
    open: Option<Open>,
    body: Vec<u8>,
}

impl Request {
    /// Its body; empty if it has none.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Answers it. Never waits for its client: what does not fit into the kernel's buffer is sent by the blocking pool.
    pub fn answer(mut self, reply: Reply) {
        if let Some(open) = self.open.take() {
            open.answer(reply);
        }
    }

    /// Waits until there is room to hold a long answer of so many bytes, and says whether there is.
    pub fn wait_for_room(&self, bytes: usize, patience: Duration) -> bool {
        self.open.as_ref().is_some_and(|open| open.turn.core.answers.wait_for(bytes, patience))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let reply = (open.turn.core.refuse)(Refused::Dropped);
            open.answer(reply);
        }
    }
}

/// A request that is to be answered, and its turn. Dropped unanswered, tiny_http answers 500 before the turn ends.
struct Open {
    request: tiny_http::Request,
    shape: Shape,
    turn: Turn,
}

impl Open {
    fn answer(self, reply: Reply) {
        let Open { request, shape, turn } = self;
        let shape = if turn.core.retiring.load(Ordering::Relaxed) { shape.closing() } else { shape };
        let mut outgoing = Outgoing::new(request.into_writer(), &shape, reply);
        if outgoing.send_some() != Progress::Sent {
            turn.finish(outgoing);
        }
    }

    /// Answers, and ends the connection, because what follows on it can't be trusted or will not come. Waits for the rest of the
    /// body if that is not in memory, so only the blocking pool may call it then; its connection is cut for that.
    fn refuse_for_good(self, reply: Reply) {
        let Open { request, shape, turn } = self;
        // First of all: as soon as the answer is sent, the next connection may come from the same address.
        let last = turn.block();
        if !shape.body_has_arrived {
            last.shutdown(Shutdown::Read);
        }
        let mut outgoing = Outgoing::new(request.into_writer(), &shape.closing(), reply);
        outgoing.send_some();
        // While the writer is held nothing else is sent, not even by tiny_http itself; and from now on nothing can be.
        last.shutdown(Shutdown::Write);
        drop(outgoing);
        last.cut_after(LINGER);
    }
}

/// The turn of a connection's request, ended when dropped.
struct Turn {
    core: Arc<Core>,
    peer: SocketAddr,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Of a blocked connection it is over already.
        if let Some(next) = self.core.connections.end_turn(&self.peer) {
            self.core.take_up(next);
        }
    }
}

impl Turn {
    /// Sends the rest of an answer that the kernel did not take at once.
    fn finish(self, mut outgoing: Outgoing) {
        let Some(held) = self.core.answers.hold(outgoing.bytes()) else {
            log::debug!("too many answers are not read: {} is let go", self.peer);
            return self.let_go();
        };
        let deadline = Instant::now() + outgoing.bound(self.core.options.read_timeout);
        self.core.blocking.clone().run(move || {
            if outgoing.send_rest(deadline) {
                drop(outgoing);
                drop(self);
            } else {
                log::debug!("an answer was not read in time: {} is let go", self.peer);
                self.let_go();
            }
            drop(held);
        });
    }

    /// Ends the connection at once.
    fn let_go(self) {
        self.block().cut();
    }

    /// Has nothing more of the connection looked at. What is left to be done with it is up to the caller.
    fn block(self) -> Blocked {
        self.core.block(self.peer)
    }
}

/// A connection that is blocked and still to be cut.
struct Blocked {
    core: Arc<Core>,
    peer: SocketAddr,
    socket: Option<Socket>,
}

impl Blocked {
    fn shutdown(&self, how: Shutdown) {
        if let Some(socket) = self.socket {
            self.core.sockets.shutdown(socket, &self.peer, how);
        }
    }

    /// Cuts it now, and gets rid of what waits.
    fn cut(self) {
        self.shutdown(Shutdown::Both);
        self.cut_after(Duration::ZERO);
    }

    /// Cuts it after a while, and gets rid of what waits.
    fn cut_after(self, after: Duration) {
        if let Some(socket) = self.socket {
            self.core.watchdog.cut_after(after, self.peer, socket);
        }
        self.core.connections.release(&self.peer).into_iter().for_each(|request| self.core.discard(request));
    }
}

/// What the threads of one server share.
struct Core {
    tiny: tiny_http::Server,
    /// Held while a request is taken and brought to its connection, so that those of one connection stay in order.
    intake: Mutex<()>,
    /// Requests whose turn has come.
    ready: Mutex<Vec<(SocketAddr, tiny_http::Request)>>,
    connections: Connections<tiny_http::Request, Option<Socket>>,
    sockets: Sockets,
    watchdog: Watchdog,
    blocking: Blocking,
    answers: Room,
    bodies: Room,
    options: Options,
    refuse: Box<dyn Fn(Refused) -> Reply + Send + Sync>,
    relay: Option<Relay>,
    /// Requests that must never be dropped, and so keep a thread and two descriptors.
    undroppable: AtomicUsize,
    retiring: AtomicBool,
    stopping: AtomicBool,
}

impl Core {
    /// Has a worker take up a request whose turn has come.
    fn take_up(&self, request: tiny_http::Request) {
        if let Some(peer) = request.remote_addr().copied() {
            unpoisoned(&self.ready).push((peer, request));
            self.tiny.unblock();
        }
    }

    fn block(self: &Arc<Self>, peer: SocketAddr) -> Blocked {
        let socket = self.sockets.find(&peer);
        self.connections.block(&peer, socket);
        Blocked { core: self.clone(), peer, socket }
    }

    /// Whether what comes from `peer` is of the connection that was blocked: that is still there, or it has gone and no other is.
    fn is_same(&self, peer: &SocketAddr, blocked: Option<Socket>) -> bool {
        match self.sockets.find(peer) {
            Some(connected) => blocked.is_some_and(|socket| socket.is_of(&connected)),
            None => true,
        }
    }

    /// Gets rid of a request without an answer.
    fn discard(&self, request: tiny_http::Request) {
        if is_undroppable(&request) {
            self.keep_for_ever(request);
        } else if Shape::of(&request).body_has_arrived {
            // Without the 500 that dropping it alone would bring.
            drop(request.into_writer());
        } else {
            // Waits for the rest of the body, which ends when the connection is cut.
            self.blocking.run(move || drop(request.into_writer()));
        }
    }

    fn keep_for_ever(&self, request: tiny_http::Request) {
        mem::forget(request);
        self.undroppable.fetch_add(1, Ordering::Relaxed);
        self.watchdog.look_now();
    }
}

/// Dropping a request makes tiny_http allocate what is missing of its body, in one piece: a length like this aborts the process.
fn is_undroppable(request: &tiny_http::Request) -> bool {
    request.body_length().is_some_and(|length| length > MAX_DRAINED_BYTES)
}

/// A running server.
pub struct Http {
    address: Address,
    core: Arc<Core>,
    workers: Vec<JoinHandle<()>>,
    leaves_socket: AtomicBool,
}

impl Http {
    /// Starts to answer requests on `listener`. `on_renewal` is called once, from any thread, when only a fresh process will do,
    /// with the reason.
    ///
    /// # Errors
    /// [`Error::Listen`] or [`Error::Thread`]; nothing is left running then.
    pub fn start<H: Handler>(
        listener: Listener,
        options: Options,
        handler: H,
        on_renewal: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Result<Http, Error> {
        let address = listener.address()?;
        listener.prepare(options.read_timeout)?;
        let (listener, relay) = match listener {
            Listener::Tcp(listener) => (listener, None),
            Listener::Unix(listener) => {
                let (inner, relay) = Relay::start(listener, options.read_timeout)?;
                (inner, Some(relay))
            }
        };
        let cannot = |source| Error::Listen { address: address.to_string(), source };
        let own = listener.local_addr().map_err(cannot)?;
        let descriptor = listener.as_raw_fd();
        let tiny = tiny_http::Server::from_listener(listener, None).map_err(|e| cannot(io::Error::other(e.to_string())))?;
        let handler = Arc::new(handler);
        let refusing = handler.clone();
        let core = Arc::new(Core {
            tiny,
            intake: Mutex::default(),
            ready: Mutex::default(),
            connections: Connections::new(),
            sockets: Sockets::new(own.port()).map_err(cannot)?,
            watchdog: Watchdog::new(on_renewal),
            blocking: Blocking::default(),
            answers: Room::new(MAX_ANSWER_BYTES),
            bodies: Room::new(MAX_BODIES_BYTES),
            options,
            refuse: Box::new(move |why| refusing.refuse(why)),
            relay,
            undroppable: AtomicUsize::new(0),
            retiring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut http = Http { address, core, workers: Vec::new(), leaves_socket: AtomicBool::new(false) };
        if let Err(e) = http.start_threads(own, descriptor, &handler) {
            http.stop();
            return Err(Error::Thread(e));
        }
        Ok(http)
    }

    fn start_threads<H: Handler>(&mut self, own: SocketAddr, listening: RawFd, handler: &Arc<H>) -> io::Result<()> {
        let core = self.core.clone();
        self.core.watchdog.start(move || watchdog::run(&core, own, listening))?;
        for n in 0..self.core.options.workers.max(1) {
            let (core, handler) = (self.core.clone(), handler.clone());
            let worker = std::thread::Builder::new().name(format!("worker-{n}"));
            self.workers.push(worker.spawn(move || workers::run(&core, &handler))?);
        }
        Ok(())
    }

    /// Where the server can be reached, with the port that it really took.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// From now on every answer says that it is the last of its connection, as a successor answers on the same socket.
    pub fn retire(&self) {
        self.core.retiring.store(true, Ordering::Relaxed);
    }

    /// Accepts nothing more, while a successor does, and answers what has been accepted.
    pub fn finish_retiring(&self) {
        if let (Some(relay), Address::Unix(path)) = (&self.core.relay, &self.address) {
            relay.stop(path);
        }
        self.core.end_accepting();
        let until = Instant::now() + LAST_ANSWERS;
        let mut quiet_since = Instant::now();
        while Instant::now() < until && quiet_since.elapsed() < QUIET {
            if self.core.connections.any_busy() {
                quiet_since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Answers what has arrived, and stops. Takes little longer than two seconds, whatever clients do.
    pub fn stop(mut self) {
        let core = &self.core;
        core.stopping.store(true, Ordering::Release);
        // One call wakes one worker, behind the requests that have arrived already.
        self.workers.iter().for_each(|_| core.tiny.unblock());
        let deadline = Instant::now() + LAST_ANSWERS;
        let unfinished = |workers: &[JoinHandle<()>]| workers.iter().any(|w| !w.is_finished()) || core.connections.any_busy();
        while unfinished(&self.workers) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if unfinished(&self.workers) {
            log::warn!("answers were still being sent when the time to stop was over");
        }
        self.workers.clear();
        core.watchdog.stop();
        if let (Some(relay), Address::Unix(path)) = (&core.relay, &self.address) {
            relay.stop(path);
            if !self.leaves_socket.load(Ordering::Relaxed) {
                let _ = std::fs::remove_file(path);
            }
        }
        core.connections.drain().into_iter().for_each(|request| core.discard(request));
    }

    /// Has the file of a Unix socket outlive this server, because another process listens there too.
    pub fn leave_socket(&self) {
        self.leaves_socket.store(true, Ordering::Relaxed);
    }
}

impl Core {
    /// Ends tiny_http's accept thread, which nothing else can while requests are to be taken: it ends when there is no descriptor
    /// for the next connection. One that is blocked in accept() has its descriptor already and needs a duplicate of it, so just
    /// one more is left; and it needs one more connection, for which the sockets are made beforehand.
    fn end_accepting(&self) {
        let Some(address) = self.tiny.server_addr().to_ip() else { return };
        self.watchdog.expects_the_end_of_accepting();
        let nudges: Vec<_> = (0..NUDGES_TO_END).filter_map(|_| watchdog::unconnected_socket(&address)).collect();
        let highest = sockets::highest_number();
        let mut last = 0;
        // Numbers below the highest that are free would be given out as well.
        while last <= highest {
            let Ok(filler) = File::open("/dev/null") else { return };
            last = filler.as_raw_fd();
            mem::forget(filler);
        }
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, last as u64 + 2, hard);
        }
        nudges.iter().for_each(|socket| watchdog::connect_socket(socket, &address));
    }
}

/// So many connections at once, as the successor may accept some of them.
const NUDGES_TO_END: usize = 8;
