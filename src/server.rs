//! The accept loop and the worker threads: takes requests from tiny_http, in turn, and sees that each is answered.
//!
//! Each worker takes the next request, sorts it, and answers it, or queues it for a commit and is free again; whoever commits
//! then answers. Requests are taken and queued under one lock, so that the queue keeps the order of their arrival: tiny_http
//! holds an answer back until the earlier requests of its connection are answered, and `commit.rs` says what would come of
//! answering in another order.
//!
//! A request that pipelines behind an unanswered order of its own connection waits in the same queue, so that it sees that
//! order (RFC 9112, 9.3.2). Unix sockets have no peer address to tell connections apart by; there it may not.
//!
//! Embedding programs use [`Server`] alone. Nothing here ends the process: who starts a server says what happens when the
//! database can no longer be written.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{self, MAX_BODY_BYTES, Refusal, Reply, Route};
use crate::commit::{Committer, Job, Refused, Write, Written};
use crate::config::Config;
use crate::error::Error;
use crate::listener::{Address, Listener};
use crate::metrics;
use crate::order::{NewOrder, OrderId};
use crate::processor::{self, Bell, Processor, Settings};
use crate::store::{self, Created, Lock, Readers};
use crate::wire::{self, Head};

/// A running server. Stop it with [`Server::stop`]; a server that is merely dropped goes on until the process ends.
pub struct Server {
    address: Address,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    processor: Processor,
    shutdown_timeout: Duration,
    /// Kept until everything that uses the database has ended.
    lock: Lock,
}

impl Server {
    /// Starts a server. It answers when this returns.
    ///
    /// # Errors
    /// Whatever stands in the way, see [`Error`]; nothing is left running then.
    pub fn start(config: &Config) -> Result<Server, Error> {
        let listener = Listener::bind(&config.listen)?;
        let lock = Lock::acquire(&config.db)?;
        Server::start_on(config, listener, lock, |_| {})
    }

    /// Starts a server on a bound socket and a locked database. `on_broken` is called once if the database can no longer be
    /// written safely: orders are then refused until the process ends and another takes over.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(
        config: &Config,
        listener: Listener,
        lock: Lock,
        on_broken: impl Fn(Refused) + Send + Sync + 'static,
    ) -> Result<Server, Error> {
        let address = listener.address()?;
        let (mut writer, readers) = store::open(&lock, config.workers)?;
        match writer.transaction(|tx| tx.requeue_interrupted())? {
            0 => {}
            interrupted => log::info!("{interrupted} interrupted orders will be processed again"),
        }
        let readers = Arc::new(readers);
        let socket = match listener {
            Listener::Tcp(listener) => tiny_http::Listener::from(listener),
            Listener::Unix(listener) => tiny_http::Listener::from(listener),
        };
        let http = tiny_http::Server::from_listener(socket, None)
            .map_err(|e| Error::Listen { address: address.to_string(), source: std::io::Error::other(e.to_string()) })?;
        let http = Arc::new(http);
        let (bell, inbox) = processor::inbox();
        let waker = http.clone();
        let committer = Arc::new(Committer::new(writer, config.clock.clone(), move || waker.unblock(), on_broken));
        let settings =
            Settings { processing_time: config.processing_time, concurrency: config.concurrency, clock: config.clock.clone() };
        let processor = Processor::start(inbox, committer.clone(), readers.clone(), settings)?;
        let shared = Arc::new(Shared {
            http,
            arrivals: Mutex::new(()),
            unanswered: Unanswered::default(),
            committer,
            readers,
            bell,
            processor_alive: processor.alive(),
            stopping: AtomicBool::new(false),
        });
        let workers = (0..config.workers.max(1))
            .map(|n| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || shared.work()).map_err(Error::Thread)
            })
            .collect::<Result<_, _>>()?;
        Ok(Server { address, shared, workers, processor, shutdown_timeout: config.shutdown_timeout, lock })
    }

    /// Where the server can be reached, with the port that it really took.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Orderly stop: answers what has arrived, takes nothing more, puts orders in `Processing` back to `Pending`, and closes
    /// the database. Returns within the configured `shutdown_timeout`; whatever is unfinished then is taken up by the next
    /// start, as after a crash.
    pub fn stop(self) {
        let deadline = Instant::now() + self.shutdown_timeout;
        self.shared.stopping.store(true, Ordering::Release);
        // One call wakes one worker, behind the requests that have arrived already.
        self.workers.iter().for_each(|_| self.shared.http.unblock());
        while self.workers.iter().any(|w| !w.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.processor.stop(deadline.saturating_duration_since(Instant::now()));
        let unfinished = self.workers.iter().filter(|w| !w.is_finished()).count();
        if unfinished > 0 {
            log::warn!("{unfinished} answers were still being sent when the time to stop was over");
        }
        drop(self.shared);
        drop(self.lock);
    }
}

/// What the workers share.
struct Shared {
    http: Arc<tiny_http::Server>,
    /// Held from taking a request until it is sorted, so that requests are queued in the order of their arrival.
    arrivals: Mutex<()>,
    unanswered: Unanswered,
    committer: Arc<Committer>,
    readers: Arc<Readers>,
    bell: Bell,
    processor_alive: Arc<AtomicBool>,
    stopping: AtomicBool,
}

/// A request, sorted by what it takes to answer it.
enum Arrival {
    /// An order is in the queue.
    Queued,
    /// To be answered at once, by this thread.
    Ready(tiny_http::Request, Head, Result<Route, Refusal>),
    /// An order whose body is still to be read.
    Unread(tiny_http::Request, Head),
    /// Somebody must lead a commit.
    Bell,
    /// The server is stopping.
    Stop,
}

impl Shared {
    fn work(self: Arc<Shared>) {
        loop {
            match self.next_arrival() {
                Arrival::Queued | Arrival::Bell => {}
                Arrival::Ready(request, head, route) => self.answer(request, &head, route),
                Arrival::Unread(request, head) => self.read_and_queue(request, head),
                Arrival::Stop => return,
            }
            self.committer.lead();
        }
    }

    fn next_arrival(self: &Arc<Self>) -> Arrival {
        let _in_order = self.arrivals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match self.http.recv() {
            Ok(request) => self.sort(request),
            Err(_) if self.stopping.load(Ordering::Acquire) => Arrival::Stop,
            Err(e) => {
                // Woken by `unblock`, or the accept thread has died of this error.
                if e.raw_os_error().is_some() {
                    log::error!("no more connections are accepted: {e}");
                }
                Arrival::Bell
            }
        }
    }

    fn sort(self: &Arc<Self>, mut request: tiny_http::Request) -> Arrival {
        let head = Head::of(&request);
        let route = api::route(head.method, request.url(), head.content_type(&request));
        match route {
            Ok(Route::CreateOrder) if head.body_has_arrived => {
                let mut body = Vec::with_capacity(request.body_length().unwrap_or(0));
                match request.as_reader().read_to_end(&mut body) {
                    Ok(_) => self.queue_order(request, head, &body),
                    Err(_) => Arrival::Ready(request, head, Err(Refusal::BrokenBody)),
                }
            }
            Ok(Route::CreateOrder) => Arrival::Unread(request, head),
            Ok(route @ (Route::OrderStatus(_) | Route::Metrics)) if self.unanswered.any(request.remote_addr()) => {
                let shared = self.clone();
                self.committer.enqueue(Job {
                    write: Write::Nothing,
                    finish: Box::new(move |_| shared.answer(request, &head, Ok(route))),
                });
                Arrival::Queued
            }
            Ok(Route::Health) => {
                self.queue_probe(request, head);
                Arrival::Queued
            }
            route => Arrival::Ready(request, head, route),
        }
    }

    /// Answers what needs no commit.
    fn answer(&self, request: tiny_http::Request, head: &Head, route: Result<Route, Refusal>) {
        let reply = match route {
            Ok(Route::OrderStatus(id)) => match self.readers.status(&id) {
                Ok(Some(status)) => Ok(Reply::order_status(&id, status)),
                Ok(None) => Err(Refusal::UnknownOrder),
                Err(e) => Err(unreadable(e)),
            },
            Ok(Route::Metrics) => self.readers.counts().map(|counts| metrics::json(&counts)).map_err(unreadable),
            Ok(Route::CreateOrder | Route::Health) => Err(Refusal::Internal),
            Err(refusal) => Err(refusal),
        };
        wire::send(request, head, &reply.unwrap_or_else(Reply::from));
    }

    fn read_and_queue(self: &Arc<Self>, mut request: tiny_http::Request, head: Head) {
        let mut body = Vec::new();
        let read = request.as_reader().take(MAX_BODY_BYTES as u64 + 1).read_to_end(&mut body);
        let refusal = match read {
            Ok(_) if body.len() > MAX_BODY_BYTES => Refusal::TooLarge,
            Ok(_) if request.body_length().is_some_and(|length| body.len() < length) => Refusal::BrokenBody,
            Err(_) => Refusal::BrokenBody,
            Ok(_) => match self.queue_order(request, head, &body) {
                Arrival::Ready(request, head, route) => return self.answer(request, &head, route),
                _ => return,
            },
        };
        wire::send(request, &head, &Reply::from(refusal));
    }

    fn queue_order(self: &Arc<Self>, request: tiny_http::Request, head: Head, body: &[u8]) -> Arrival {
        let order: NewOrder = match api::order_in(body) {
            Ok(order) => order,
            Err(refusal) => return Arrival::Ready(request, head, Err(refusal)),
        };
        let id: OrderId = order.order_id.clone();
        let peer = request.remote_addr().copied();
        self.unanswered.add(peer.as_ref());
        let shared = self.clone();
        self.committer.enqueue(Job {
            write: Write::Create(order),
            finish: Box::new(move |written| {
                // Whatever is read from now on sees this order, or its absence.
                shared.unanswered.remove(peer.as_ref());
                let outcome = written.map(|written| match written {
                    Written::Order(created) => created,
                    Written::Claimed(_) | Written::Done => unreachable!("a create is answered by what became of it"),
                });
                if matches!(outcome, Ok(Created::New)) {
                    shared.bell.ring();
                }
                wire::send(request, &head, &Reply::created(&id, outcome));
            }),
        });
        Arrival::Queued
    }

    /// `/healthz` is answered by a write that reaches the disk, like an order's.
    fn queue_probe(self: &Arc<Self>, request: tiny_http::Request, head: Head) {
        let shared = self.clone();
        self.committer.enqueue(Job {
            write: Write::Probe,
            finish: Box::new(move |written| {
                let reply = match written {
                    Err(error) => Refusal::Unavailable(error).into(),
                    Ok(_) if !shared.processor_alive.load(Ordering::Relaxed) => Refusal::ProcessorDead.into(),
                    Ok(_) => Reply::healthy(),
                };
                wire::send(request, &head, &reply);
            }),
        });
    }
}

fn unreadable(error: Error) -> Refusal {
    log::error!("read refused: {error}");
    Refusal::Unavailable(Arc::new(error))
}

/// How many orders of each peer wait for their commit, by port: a table without a lock, in which two hosts may share an
/// entry. All that comes of it is that a request waits for a commit that it need not wait for.
struct Unanswered(Box<[AtomicU32]>);

impl Default for Unanswered {
    fn default() -> Unanswered {
        Unanswered((0..=u16::MAX).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Unanswered {
    fn entry(&self, peer: Option<&SocketAddr>) -> Option<&AtomicU32> {
        peer.map(|peer| &self.0[usize::from(peer.port())])
    }

    fn add(&self, peer: Option<&SocketAddr>) {
        if let Some(entry) = self.entry(peer) {
            entry.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn remove(&self, peer: Option<&SocketAddr>) {
        if let Some(entry) = self.entry(peer) {
            entry.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn any(&self, peer: Option<&SocketAddr>) -> bool {
        self.entry(peer).is_some_and(|entry| entry.load(Ordering::Acquire) > 0)
    }
}
