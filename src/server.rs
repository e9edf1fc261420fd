//! The accept loop and the worker threads: takes requests from tiny_http, in turn, and sees that each is answered.
//!
//! Each worker takes requests and queues those that need but a commit, until there are no more or one needs something else, which
//! it does; whoever commits then answers what was queued. One worker at a time takes and queues (`intake.rs`), so that the queue
//! keeps the order of their arrival: tiny_http holds an answer back until the earlier requests of its connection are answered, and
//! `commit.rs` says what would come of answering in another order.
//!
//! `server/answers.rs` does what a request asks for, `server/receive.rs` waits for bodies.
//!
//! Embedding programs use [`Server`] alone. Nothing here ends the process: who starts a server says what happens when the
//! database can no longer be written.

mod answers;
mod receive;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tiny_http::Request;

use crate::api::{self, Refusal, Route};
use crate::config::{self, Config, MAX_DURATION};
use crate::error::Error;
use crate::http::blocking::Bodies;
use crate::http::intake::Intake;
use crate::http::listener::{Address, Listener};
use crate::http::response::Head;
use crate::http::turns::{Arrived, Turns};
use crate::http::watchdog::{Door, MAX_DRAINED_BYTES};
use crate::processing::work::{self, Retries};
use crate::processing::{self, Bell, Processor, Settings};
use crate::store::commit::{Committer, Job, Refused};
use crate::store::{self, Lock, Readers};

/// The most requests taken at once, so that those that keep coming do not put off the commit of those that came.
const MAX_TAKEN: usize = 64;

/// How long the last answers may take, once there is no work to wait for.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a server tells the program that runs it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// The database can no longer be written safely. Everything is refused; the process must end, and its successor recovers.
    Broken(Refused),
    /// Only a fresh process can serve as it should, for this reason. What is stored is fine.
    Worn(&'static str),
}

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

    /// Starts a server on a bound socket and a locked database. `on_trouble` is called, from any thread, when the server needs
    /// its process to be replaced; it should only take note.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(
        config: &Config,
        listener: Listener,
        lock: Lock,
        on_trouble: impl Fn(Trouble) + Send + Sync + 'static,
    ) -> Result<Server, Error> {
        // A longer one would overflow where it is added to a time.
        let config = &Config {
            processing_time: config.processing_time.min(MAX_DURATION),
            exec_timeout: config.exec_timeout.min(MAX_DURATION),
            read_timeout: config.read_timeout.min(MAX_DURATION),
            shutdown_timeout: config.shutdown_timeout.min(MAX_DURATION),
            ..config.clone()
        };
        let address = listener.address()?;
        listener.prepare(config.read_timeout)?;
        let (mut writer, readers) = store::open(&lock, config.workers)?;
        if readers.look(|look| look.counts())?.processing > 0 {
            // Their commands may have outlived the server that started them.
            work::end_leftovers(lock.database());
            let interrupted = writer.transaction(|tx| tx.requeue_interrupted())?;
            log::info!("{interrupted} interrupted orders will be processed again");
        }
        let readers = Arc::new(readers);
        let descriptor = listener.descriptor();
        let socket = match listener {
            Listener::Tcp(listener) => tiny_http::Listener::from(listener),
            Listener::Unix(listener) => tiny_http::Listener::from(listener),
        };
        let http = tiny_http::Server::from_listener(socket, None)
            .map_err(|e| Error::Listen { address: address.to_string(), source: io::Error::other(e.to_string()) })?;
        let http = Arc::new(http);
        let on_trouble = Arc::new(on_trouble);
        let on_worn = on_trouble.clone();
        let door = Door::open(address.clone(), descriptor, config.read_timeout, move |why| on_worn(Trouble::Worn(why)))?;
        let (bell, inbox) = processing::inbox();
        let bodies = Bodies::default();
        let committer = Arc::new_cyclic(|committer| {
            let bell = bell_for(&address, http.clone(), bodies.clone(), committer.clone());
            Committer::new(writer, config.clock.clone(), bell, move |e| on_trouble(Trouble::Broken(e)))
        });
        let settings = Settings {
            work: config.work.clone(),
            processing_time: config.processing_time,
            exec_timeout: config.exec_timeout,
            retries: Retries { max_attempts: config.max_attempts, delay: config.retry_delay },
            concurrency: config.concurrency.unwrap_or_else(|| config.work.default_concurrency()),
            clock: config.clock.clone(),
            database: lock.database().to_path_buf(),
        };
        let processor = Processor::start(inbox, committer.clone(), readers.clone(), settings).inspect_err(|_| door.close())?;
        let shared = Arc::new(Shared {
            http,
            intake: Intake::new(config::cores()),
            door,
            bodies,
            turns: Turns::new(),
            committer,
            readers,
            bell,
            processor_alive: processor.alive(),
            stopping: AtomicBool::new(false),
            read_timeout: config.read_timeout,
        });
        let mut server =
            Server { address, shared, workers: Vec::new(), processor, shutdown_timeout: config.shutdown_timeout, lock };
        for n in 0..config.workers.max(1) {
            let shared = server.shared.clone();
            match std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || shared.work(n)) {
                Ok(worker) => server.workers.push(worker),
                Err(e) => {
                    server.stop();
                    return Err(Error::Thread(e));
                }
            }
        }
        Ok(server)
    }

    /// Where the server can be reached, with the port that it really took.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Has the file of a Unix socket outlive this server, because another process listens there too.
    pub fn leave_socket(&self) {
        // tiny_http removes the file when it is dropped. Its accept thread then lives as long as the process.
        std::mem::forget(self.shared.http.clone());
    }

    /// Orderly stop: claims no more orders and gives running work until the configured `shutdown_timeout` to end, answering
    /// meanwhile; then ends it and puts its orders back to `Pending`; answers what has arrived, and closes the database. Takes
    /// little longer than that timeout, whatever happens; what is unfinished then is taken up by the next start, as after a crash.
    pub fn stop(self) {
        self.processor.stop(Instant::now() + self.shutdown_timeout);
        self.shared.stopping.store(true, Ordering::Release);
        // One call wakes one worker, behind the requests that have arrived already.
        self.workers.iter().for_each(|_| self.shared.http.unblock());
        let deadline = Instant::now() + LAST_ANSWERS.min(self.shutdown_timeout);
        while self.workers.iter().any(|w| !w.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let unfinished = self.workers.iter().filter(|w| !w.is_finished()).count();
        if unfinished > 0 {
            log::warn!("{unfinished} answers were still being sent when the time to stop was over");
        }
        self.shared.door.close();
        drop(self.shared);
        drop(self.lock);
    }
}

/// What brings some thread to lead a commit.
fn bell_for(
    address: &Address,
    http: Arc<tiny_http::Server>,
    bodies: Bodies,
    committer: Weak<Committer>,
) -> Box<dyn Fn() + Send + Sync> {
    match address {
        Address::Tcp(_) => Box::new(move || http.unblock()),
        // Without turns, all workers may be waiting for the very answer that only that commit brings.
        Address::Unix(_) => Box::new(move || {
            let Some(committer) = committer.upgrade() else { return };
            if bodies.give((), move |()| committer.lead()).is_err() {
                http.unblock();
            }
        }),
    }
}

/// What the workers share.
struct Shared {
    http: Arc<tiny_http::Server>,
    door: Arc<Door>,
    bodies: Bodies,
    turns: Turns<Request>,
    intake: Intake,
    committer: Arc<Committer>,
    readers: Arc<Readers>,
    bell: Bell,
    processor_alive: Arc<AtomicBool>,
    stopping: AtomicBool,
    read_timeout: Duration,
}

/// A request, sorted by what it takes to answer it.
enum Arrival {
    /// To be queued for a commit.
    Job(Job),
    /// Nothing is left to do, but somebody may have to lead a commit.
    Queued,
    /// To be answered at once, by this thread.
    Ready(Request, Head, Result<Route, Refusal>),
    /// Its body is still to come.
    Unread(Request, Head, Result<Route, Refusal>),
    /// Not to be looked at.
    Condemned(Request, Head),
    /// More than any client means to have answered.
    Flood(VecDeque<Request>),
    /// Not to be dropped.
    Bomb(Request),
    /// The server is stopping.
    Stop,
}

impl Shared {
    fn work(self: Arc<Shared>, worker: usize) {
        loop {
            // Wherever a panic comes from, it costs its own request, which tiny_http answers with 500 when it is dropped, but no
            // thread, and nothing of what was queued before it.
            let step = catch_unwind(AssertUnwindSafe(|| {
                let arrival = self.next_arrival(worker);
                let go_on = !matches!(arrival, Arrival::Stop);
                self.handle(arrival);
                go_on
            }));
            // So does one of the program that hears that the database is broken.
            let _ = catch_unwind(AssertUnwindSafe(|| self.committer.lead()));
            if matches!(step, Ok(false)) {
                return;
            }
        }
    }

    /// Takes requests as long as a commit is all that they need, and returns the first that needs more, if there is one.
    fn next_arrival(self: &Arc<Self>, worker: usize) -> Arrival {
        let taker = self.intake.enter(worker);
        if let Some(rest) = taker.rest {
            self.committer.rest(rest);
        }
        let mut taken = 0;
        let arrival = loop {
            let next = if taken == 0 { self.http.recv().map(Some) } else { self.http.try_recv() };
            let request = match next {
                Ok(Some(request)) => request,
                _ if self.stopping.load(Ordering::Acquire) => break Arrival::Stop,
                Ok(None) => break Arrival::Queued,
                Err(e) => {
                    // Woken by `unblock`, or the accept thread has ended, and this is what of.
                    if e.raw_os_error().is_some() {
                        log::error!("accepting a connection: {e}");
                        self.door.wear("connections are no longer accepted");
                    }
                    break Arrival::Queued;
                }
            };
            taken += 1;
            let arrival = match self.sort(request) {
                Arrival::Job(job) => {
                    self.committer.enqueue(job);
                    Arrival::Queued
                }
                arrival => arrival,
            };
            if taken == MAX_TAKEN || !matches!(arrival, Arrival::Queued) {
                break arrival;
            }
        };
        if matches!(arrival, Arrival::Queued) {
            taker.leave_with_writes(taken);
        } else if taken > 1 {
            // Answering it may take a while, and those taken before it must not wait so long. Over a Unix socket it may even have to
            // wait for one of them.
            self.committer.call();
        }
        arrival
    }

    fn sort(self: &Arc<Self>, request: Request) -> Arrival {
        let Some(peer) = request.remote_addr().copied() else {
            self.door.enter(None);
            return self.sort_in_turn(request);
        };
        self.door.enter(Some(&peer));
        match self.turns.arrive(&self.door.peers, &peer, request) {
            Arrived::Goes(request) => self.sort_in_turn(request),
            Arrived::Waits => Arrival::Queued,
            Arrived::Floods(requests) => Arrival::Flood(requests),
        }
    }

    /// Sorts a request that no other of its connection is in the way of.
    fn sort_in_turn(self: &Arc<Self>, mut request: Request) -> Arrival {
        let head = Head::of(&request);
        let peer = request.remote_addr();
        // First of all, as such a request must not be dropped on any path.
        if request.body_length().is_some_and(|length| length > MAX_DRAINED_BYTES) {
            return Arrival::Bomb(request);
        }
        if self.door.is_condemned(peer) {
            return Arrival::Condemned(request, head);
        }
        let route = match head.framing {
            Ok(_) => api::route(head.method, request.url(), head.content_type(&request)),
            Err(why) => {
                // Here and now: another worker may be about to take what follows on the connection.
                self.door.ignore(peer);
                Err(Refusal::BadFraming(why))
            }
        };
        if !head.body_has_arrived {
            // As soon as its body has been read, what follows on the connection may be taken, and would overtake it.
            self.begin_turn(peer);
            return Arrival::Unread(request, head, route);
        }
        let mut body = Vec::new();
        if matches!(route, Ok(Route::CreateOrder)) {
            body.reserve_exact(request.body_length().unwrap_or(0));
            if request.as_reader().read_to_end(&mut body).is_err() {
                return self.ready(request, head, Err(Refusal::BrokenBody));
            }
        }
        self.sort_with_body(request, head, route, &body)
    }

    /// Sorts a request whose body has been read, if its route takes one.
    fn sort_with_body(self: &Arc<Self>, request: Request, head: Head, route: Result<Route, Refusal>, body: &[u8]) -> Arrival {
        match route {
            Ok(Route::CreateOrder) => self.queue_order(request, head, body),
            Ok(Route::Health) => self.queue_probe(request, head),
            Ok(Route::Retry(id)) => self.queue_retry(request, head, id),
            route => self.ready(request, head, route),
        }
    }

    /// Sorts a request that needs no commit: its answer waits for those that do, if they came before it on its connection.
    fn ready(self: &Arc<Self>, request: Request, head: Head, route: Result<Route, Refusal>) -> Arrival {
        let peer = request.remote_addr();
        match route {
            route if matches!(route, Err(Refusal::BadFraming(_))) || !self.door.peers.has_queued(peer) => {
                self.begin_turn(peer);
                Arrival::Ready(request, head, route)
            }
            route => self.queue_look(request, head, route),
        }
    }

    fn begin_turn(&self, peer: Option<&SocketAddr>) {
        if let Some(peer) = peer {
            self.door.peers.begin_turn(peer);
        }
    }

    /// Ends a turn of `peer`, and takes up what has waited for it, one after the other.
    fn end_turn(self: &Arc<Self>, peer: Option<&SocketAddr>) {
        let Some(peer) = peer else { return };
        while let Some(request) = self.turns.next(&self.door.peers, peer) {
            // A panic costs its own request, and must not leave the turn taken for ever.
            let _ = catch_unwind(AssertUnwindSafe(|| match self.sort_in_turn(request) {
                Arrival::Ready(request, head, route) => {
                    if self.answer(request, &head, route) {
                        self.door.peers.end_turn(peer);
                    }
                }
                arrival => self.handle(arrival),
            }));
        }
    }

    fn handle(self: &Arc<Self>, arrival: Arrival) {
        match arrival {
            Arrival::Job(job) => self.committer.enqueue(job),
            Arrival::Queued | Arrival::Stop => {}
            Arrival::Ready(request, head, route) => {
                let peer = request.remote_addr().copied();
                if self.answer(request, &head, route) {
                    self.end_turn(peer.as_ref());
                }
            }
            Arrival::Unread(request, head, route) => {
                let peer = request.remote_addr().copied();
                let shared = self.clone();
                let receive = move |(request, head, route)| {
                    // A panic costs its own request, and must not leave the turn taken for ever.
                    let _ = catch_unwind(AssertUnwindSafe(|| shared.receive(request, head, route)));
                    shared.end_turn(peer.as_ref());
                    shared.committer.lead();
                };
                if peer.is_none() {
                    // There is no way to refuse it without waiting for its body.
                    self.bodies.give_patiently(move || receive((request, head, route)));
                } else if let Err((request, head, _)) = self.bodies.give((request, head, route), receive) {
                    self.refuse_for_good(request, head, Refusal::Busy);
                    self.end_turn(peer.as_ref());
                }
            }
            Arrival::Condemned(request, head) => {
                if !head.body_has_arrived {
                    let peer = request.remote_addr();
                    self.door.cut(peer, self.door.descriptor(peer), Shutdown::Read);
                }
                // Without an answer, and without the 500 that dropping it alone would bring.
                drop(request.into_writer());
            }
            Arrival::Flood(requests) => {
                log::debug!("{} requests of one connection wait for each other", requests.len());
                self.let_go(requests.front().and_then(|request| request.remote_addr()).copied().as_ref());
                for request in requests {
                    let head = Head::of(&request);
                    let bomb = request.body_length().is_some_and(|length| length > MAX_DRAINED_BYTES);
                    self.handle(if bomb { Arrival::Bomb(request) } else { Arrival::Condemned(request, head) });
                }
            }
            Arrival::Bomb(request) => self.door.forget(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;
    use std::io::{Read, Write as _};
    use std::net::TcpStream;

    #[test]
    fn a_handler_that_panics_costs_its_own_request_a_500_and_no_thread() {
        let folder = std::env::temp_dir().join(format!("orderd-panic-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listen = Listen::Tcp("127.0.0.1:0".into());
        let config = Config { listen, db: folder.join("orders.db"), workers: 1, ..Config::default() };
        let server = Server::start(&config).unwrap();
        let Address::Tcp(address) = server.address() else { panic!("TCP was asked for") };
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut ask = |path: &str| {
            write!(client, "GET {path} HTTP/1.1\r\nHost: o\r\n\r\n").unwrap();
            let mut answer = String::new();
            while !answer.ends_with("}\n") {
                let mut buffer = [0; 1_024];
                let read = client.read(&mut buffer).unwrap();
                assert!(read > 0, "closed after {answer:?}");
                answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            answer
        };
        for _ in 0..3 {
            let answer = ask("/order/panic");
            assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("\"code\":\"internal_error\""), "{answer}");
            assert!(!answer.contains("on purpose"), "{answer}");
            assert!(ask("/metrics").starts_with("HTTP/1.1 200 "));
        }
        server.stop();
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_that_panics_over_a_broken_database_loses_no_worker() {
        let folder = std::env::temp_dir().join(format!("orderd-broken-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listen = Listen::Tcp("127.0.0.1:0".into());
        let config = Config { listen, db: folder.join("orders.db"), workers: 1, concurrency: Some(0), ..Config::default() };
        let (listener, lock) = (Listener::bind(&config.listen).unwrap(), Lock::acquire(&config.db).unwrap());
        let server = Server::start_on(&config, listener, lock, |_| panic!("on purpose")).unwrap();
        let Address::Tcp(address) = server.address() else { panic!("TCP was asked for") };
        let ask = |request: &str| {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            write!(client, "{request} HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        };
        // A database that is gone can't be written any more, and the probe notices.
        std::fs::remove_file(&config.db).unwrap();
        assert!(ask("GET /healthz").starts_with("HTTP/1.1 500 "));
        assert!(ask("GET /metrics").starts_with("HTTP/1.1 200 "));
        server.stop();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
