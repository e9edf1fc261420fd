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
//! | the accept thread can't be ended | | `leaving.rs`: it is led elsewhere |
//! | HTTP/2 requests and panics keep a thread and two descriptors for ever | | `watchdog.rs`: sweep, renewal |

pub mod bearer;
mod blocking;
mod body;
pub mod client;
mod connections;
mod head;
mod leaving;
pub mod listener;
mod meters;
pub mod percent;
pub mod probe;
mod relay;
mod response;
mod sockets;
mod told;
mod turn;
mod watchdog;
mod workers;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::blocking::{Blocking, Room};
use self::connections::Connections;
use self::listener::{Address, Listener};
use self::meters::Meters;
use self::relay::Relay;
use self::sockets::Sockets;
use self::turn::Core;
use self::watchdog::Watchdog;
use crate::error::Error;

pub use self::head::{Head, Method};
pub use self::meters::Figures;
pub use self::response::Reply;
pub use self::turn::Request;

/// How much may be held at once of answers whose readers are slow, in bytes.
const MAX_ANSWER_BYTES: usize = 96 << 20;
/// How much may be held at once of bodies that are on their way, in bytes.
const MAX_BODIES_BYTES: usize = 64 << 20;
/// How long the last answers may take when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a server does with requests.
pub trait Handler: Send + Sync + 'static {
    /// What a request asks for.
    type Route: Send + 'static;
    /// The kinds of requests that are counted apart.
    const KINDS: &'static [&'static str];

    /// Finds the route of a request, before its body is read.
    ///
    /// # Errors
    /// The answer that refuses it.
    fn route(&self, head: &Head<'_>) -> Result<Self::Route, Reply>;

    /// Of which of [`KINDS`](Self::KINDS) a request is, also one that is refused, and so has no route; without a head, one whose
    /// framing is invalid.
    fn kind(&self, route: Option<&Self::Route>, head: Option<&Head<'_>>) -> usize;

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
        let listening = listener.as_raw_fd();
        let tiny = tiny_http::Server::from_listener(listener, None).map_err(|e| cannot(io::Error::other(e.to_string())))?;
        let handler = Arc::new(handler);
        let refusing = handler.clone();
        let core = Arc::new(Core {
            tiny,
            listening,
            intake: Mutex::default(),
            ready: Mutex::default(),
            connections: Connections::new(),
            sockets: Arc::new(Sockets::new(own).map_err(cannot)?),
            watchdog: Watchdog::new(own, on_renewal),
            blocking: Blocking::default(),
            answers: Room::new(MAX_ANSWER_BYTES),
            bodies: Room::new(MAX_BODIES_BYTES),
            options,
            refuse: Box::new(move |why| refusing.refuse(why)),
            relay,
            meters: Meters::new(H::KINDS),
            undroppable: AtomicUsize::new(0),
            retiring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut http = Http { address, core, workers: Vec::new(), leaves_socket: AtomicBool::new(false) };
        if let Err(e) = http.start_threads(&handler) {
            http.stop();
            return Err(Error::Thread(e));
        }
        Ok(http)
    }

    fn start_threads<H: Handler>(&mut self, handler: &Arc<H>) -> io::Result<()> {
        let core = self.core.clone();
        self.core.watchdog.start(move || watchdog::run(&core))?;
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

    /// Accepts nothing more, as a successor does on the same socket. Takes a moment.
    pub fn end_accepting(&self) {
        if let (Some(relay), Address::Unix(path)) = (&self.core.relay, &self.address) {
            relay.stop(path);
        }
        self.core.end_accepting();
    }

    /// Accepts nothing more, and waits until what has been accepted is answered; not much longer once `is_urgent`.
    pub fn answer_the_rest(&self, is_urgent: impl Fn() -> bool) {
        self.end_accepting();
        self.core.answer_the_rest(is_urgent);
    }

    /// Answers what has arrived, stops, and closes every connection. Takes a few seconds at the most, whatever clients do.
    pub fn stop(mut self) {
        let (core, leaves_socket) = (&self.core, self.leaves_socket.load(Ordering::Relaxed));
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
            if !leaves_socket {
                let _ = std::fs::remove_file(path);
            }
        }
        core.connections.drain().into_iter().for_each(|request| core.discard(request));
        // Otherwise this process ends as well, and its connections with it.
        if !leaves_socket {
            leaving::close(self.core);
        }
    }

    /// Has the file of a Unix socket outlive this server, because another process listens there too.
    pub fn leave_socket(&self) {
        self.leaves_socket.store(true, Ordering::Relaxed);
    }
}
