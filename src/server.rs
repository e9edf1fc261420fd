//! A running server: joins the rooms, from the locked database to the open socket, and takes them apart again.
//!
//! Embedding programs use [`Server`], and what it gives out, alone. Nothing here ends the process: who starts a server says what
//! happens when the database can no longer be written, or when only a fresh process can serve.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Listen, MAX_DURATION, Token};
use crate::error::Error;
use crate::http::Http;
use crate::http::listener::{Address, Listener};
use crate::processing::retries::Retries;
use crate::processing::work::Work;
use crate::processing::{Processor, Settings};
use crate::service::{self, Service};
use crate::store::orders::Orders;
use crate::store::retention::Retention;
use crate::store::{Lock, Opening, Refused, Store};

/// How much of a command is in the log, in characters.
const MAX_LOGGED_COMMAND: usize = 200;

/// What a server tells the program that runs it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// The database can no longer be written safely. Everything is refused; the process must end, and its successor recovers.
    Broken(Refused),
    /// Only a fresh process can serve as it should, for this reason. What is stored is fine.
    Renewal(&'static str),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Broken(error) => error.fmt(f),
            Trouble::Renewal(why) => write!(f, "a fresh process is needed: {why}"),
        }
    }
}

/// What a server stands on, made before it, so that a taken port or file costs nothing.
#[derive(Debug)]
pub struct Foundations {
    /// The bound socket, unless the server is to listen nowhere.
    pub listener: Option<Listener>,
    /// The database's lock.
    pub lock: Lock,
    /// Whether another process serves the same socket and still ends orders of the same database; see [`Server::alone`].
    pub predecessor_lives: bool,
    /// How many processes have been started before this one to serve here, for its metrics.
    pub restarts: u64,
}

impl Foundations {
    /// Binds the socket and takes the lock.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Owned`], [`Error::Unusable`].
    pub fn new(config: &Config) -> Result<Foundations, Error> {
        let listener = match &config.listen {
            Listen::None => None,
            listen => Some(Listener::bind(listen)?),
        };
        Ok(Foundations { listener, lock: Lock::acquire(&config.db)?, predecessor_lives: false, restarts: 0 })
    }
}

/// A running server: it takes orders over HTTP and from the program that it runs in, and processes them. [`Server::stop`] ends it in order, and so does dropping it.
pub struct Server(Option<Running>);

struct Running {
    http: Option<Http>,
    orders: Orders,
    processor: Processor,
    store: Arc<Store>,
    retention: Option<Retention>,
    shutdown_timeout: Duration,
    exec_timeout: Duration,
    /// Kept until everything that uses the database has ended.
    lock: Lock,
}

impl Server {
    /// Starts a server. It answers when this returns.
    ///
    /// # Errors
    /// Whatever stands in the way, see [`Error`]; nothing is left running then.
    pub fn start(config: &Config) -> Result<Server, Error> {
        Server::start_on(config, Foundations::new(config)?, |trouble| log::error!("{trouble}"))
    }

    /// Starts a server on its foundations. `on_trouble` is called, from any thread, when the server needs its process to be
    /// replaced; it should only take note.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(
        config: &Config,
        foundations: Foundations,
        on_trouble: impl Fn(Trouble) + Send + Sync + 'static,
    ) -> Result<Server, Error> {
        let Foundations { listener, lock, predecessor_lives, restarts } = foundations;
        let token = config.token.as_ref().map(Token::read).transpose()?;
        // A longer one would overflow where it is added to a time.
        let [processing_time, exec_timeout, read_timeout, shutdown_timeout] =
            [config.processing_time, config.exec_timeout, config.read_timeout, config.shutdown_timeout]
                .map(|duration| duration.min(MAX_DURATION));
        let on_trouble = Arc::new(on_trouble);
        let on_broken = on_trouble.clone();
        let opening = Opening {
            readers: config.workers,
            clock: config.clock.clone(),
            predecessor_lives,
            accept_loss: config.accept_loss,
        };
        let store = Store::open(&lock, opening, move |e| on_broken(Trouble::Broken(e)))?;
        let store = Arc::new(store);
        let keep = config.keep.map(|keep| keep.min(MAX_DURATION));
        let retention = keep.map(|keep| Retention::start(store.clone(), config.clock.clone(), keep)).transpose()?;
        let settings = Settings {
            work: config.work.clone(),
            processing_time,
            exec_timeout,
            retries: Retries { max_attempts: config.max_attempts, delay: config.retry_delay },
            concurrency: config.concurrency.unwrap_or_else(|| config.work.default_concurrency()),
            clock: config.clock.clone(),
            database: lock.database().to_path_buf(),
            predecessor_lives,
        };
        let processor = Processor::start(store.clone(), settings)?;
        let for_service = service::Processor { notify: processor.notifier(), is_dead: processor.is_dead() };
        let http = listener.map(|listener| {
            let service = Service::start(store.clone(), for_service, &listener.address()?, &config.allow_hosts)?;
            let options = Service::options(config.workers, read_timeout);
            let service = service.after_restarts(restarts).asking_for(token);
            Http::start(listener, options, service, move |why| on_trouble(Trouble::Renewal(why)))
        });
        match http.transpose() {
            Ok(http) => {
                let orders = Orders::new(store.clone(), processor.notifier());
                let running = Running { http, orders, processor, store, retention, shutdown_timeout, exec_timeout, lock };
                let server = Server(Some(running));
                server.announce(config);
                Ok(server)
            }
            Err(e) => {
                processor.stop(Instant::now());
                store.close();
                Err(e)
            }
        }
    }

    /// What to do with its orders, without HTTP.
    pub fn orders(&self) -> Orders {
        self.running().orders.clone()
    }

    /// Where the server can be reached, with the port that it really took; `None` with [`Listen::None`]. The server's text form is
    /// the same as a URL: `http://127.0.0.1:8000`.
    pub fn address(&self) -> Option<&Address> {
        self.running().http.as_ref().map(Http::address)
    }

    /// The same as the address of a TCP socket, if it is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.address() {
            Some(Address::Tcp(address)) => Some(*address),
            Some(Address::Unix(_)) | None => None,
        }
    }

    /// Has the file of a Unix socket outlive this server, because another process listens there too.
    pub fn leave_socket(&self) {
        self.running().http.iter().for_each(Http::leave_socket);
    }

    /// Says that the predecessor has ended: what it left unfinished is processed again.
    pub fn alone(&self) {
        self.running().processor.alone();
    }

    /// Leaves the service to a successor: claims no more orders, and gives those that are being processed their time. Connections
    /// are the successor's; what is asked on those that were accepted before is answered.
    pub fn retire(&self) {
        let running = self.running();
        running.http.iter().for_each(Http::retire);
        running.http.iter().for_each(Http::end_accepting);
        running.processor.end(Instant::now() + running.exec_timeout);
    }

    /// Whether everything that was being processed when the server began to retire has ended.
    pub fn is_retired(&self) -> bool {
        self.running().processor.has_ended()
    }

    /// Ends a server that has retired: answers what still comes. Ends as soon as
    /// [`stop`](Self::stop) does once `is_urgent`.
    pub fn leave(mut self, is_urgent: impl Fn() -> bool) {
        if let Some(running) = self.0.take() {
            running.http.iter().for_each(|http| http.answer_the_rest(&is_urgent));
            running.stop();
        }
    }

    /// Orderly stop: claims no more orders and gives running work until the configured `shutdown_timeout` to end, answering
    /// meanwhile; then ends it and puts its orders back to `Pending`; answers what has arrived, and closes the database. Takes
    /// little longer than that timeout, whatever happens; what is unfinished then is taken up by the next start, as after a crash.
    pub fn stop(mut self) {
        if let Some(running) = self.0.take() {
            running.stop();
        }
    }

    /// The line that the log begins with.
    fn announce(&self, config: &Config) {
        let processing = match &config.work {
            _ if config.concurrency == Some(0) => "nothing: orders are kept as they come".into(),
            Work::Wait => format!("waiting for {:?}", config.processing_time),
            Work::Command(command) => format!("running {}", command.chars().take(MAX_LOGGED_COMMAND).collect::<String>()),
            Work::Function(_) => "calling a function".into(),
        };
        let running = self.running();
        // Without them there is worse to be said, by whoever reads next.
        let counts = running.store.counts().unwrap_or_default();
        log::info!(
            version = env!("CARGO_PKG_VERSION"), address:% = self, db:% = running.lock,
            orders = counts.total(), pending = counts.pending, failed = counts.failed, processing;
            "serving"
        );
        if config.token.is_none()
            && let Some(own) = self.socket_addr().filter(|own| !own.ip().is_loopback())
        {
            log::warn!(address:% = own; "whoever reaches this address may read, create and cancel orders; ask for a token with --token-file");
        }
    }

    fn running(&self) -> &Running {
        self.0.as_ref().expect("only stopping takes it away, and that consumes the server")
    }
}

/// Where it can be reached.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => f.write_str("nowhere"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.stop();
        }
    }
}

/// What answers 503 to everything in place of a server that can't be started. Its clients would else wait and hear nothing.
pub(crate) struct Refusing(Http);

impl Refusing {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Thread`].
    pub(crate) fn start(config: &Config, listener: Listener) -> Result<Refusing, Error> {
        let options = Service::options(config.workers, config.read_timeout.min(MAX_DURATION));
        // It ends soon anyway.
        let http = Http::start(listener, options, service::Unavailable, |_| {})?;
        http.leave_socket();
        // Each connection is to find the server when it comes again.
        http.retire();
        Ok(Refusing(http))
    }

    /// Leaves new connections to whoever listens next, and answers what has come.
    pub(crate) fn end(self) {
        self.0.answer_the_rest(|| false);
        self.0.stop();
    }
}

impl Running {
    fn stop(self) {
        self.processor.stop(Instant::now() + self.shutdown_timeout);
        self.http.into_iter().for_each(Http::stop);
        drop(self.retention);
        self.store.close();
    }
}
