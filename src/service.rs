//! What each route does: asks the store, and words the answer. The only place where HTTP and orders meet.
//!
//! A write is queued in the store, and the committer's thread answers it once it is on disk (promise 1). A read is answered by the
//! worker that took it. A page of orders may be long, so one thread makes all pages, one at a time: neither a worker nor the
//! memory for more than a few is ever taken by those who list orders.

mod unavailable;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::api::origin::{Hosts, Origin};
use crate::api::query::Query;
use crate::api::reply::{self, Refusal};
use crate::api::{self, MAX_BODY_BYTES, MAX_PAGE_BYTES, Route, metrics, openapi, pages, prometheus, template};
use crate::error::Error;
use crate::http::bearer::Secret;
use crate::http::listener::Address;
use crate::http::{Handler, Head, Options, Refused, Reply, Request};
use crate::os::usage::Usage;
use crate::store::{Changed, Created, Refused as Unstored, Store};
pub use unavailable::Unavailable;

/// How long a page may wait until earlier ones have been read by their clients.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a commit may keep workers from taking requests, while all that come are writes: they could but join the next commit, and
/// to wake a thread for each costs more than to handle it. A read that comes meanwhile waits for as long.
const REST: Duration = Duration::from_millis(2);
/// So many writes in a row say that there are next to no reads.
const MANY_WRITES: usize = 256;

/// Tells of orders to be processed.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// What the routes need of the processor.
pub struct Processor {
    /// Called when there are orders to be processed.
    pub notify: Notify,
    /// Says whether it has ended although it was not told to. One that was may end long before its server does, in a renewal.
    pub is_dead: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What the routes need.
pub struct Service {
    store: Arc<Store>,
    processor: Processor,
    address: Address,
    hosts: Hosts,
    /// What requests must bear.
    token: Option<Secret>,
    pages: Sender<(Request, Query)>,
    writes_in_a_row: AtomicUsize,
    restarts: u64,
}

impl Service {
    /// Starts the thread that makes pages, for a server that listens at `address`. `notify` tells of orders to be processed.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(store: Arc<Store>, processor: Processor, address: &Address, allow_hosts: &[String]) -> Result<Service, Error> {
        let hosts = match address {
            Address::Tcp(own) if own.ip().is_loopback() => Hosts::loopback_and(allow_hosts),
            // What comes over a Unix socket comes from this machine, but no browser can send it.
            Address::Tcp(_) | Address::Unix(_) => Hosts::any(),
        };
        let (pages, asked_for) = channel();
        let from = store.clone();
        let thread = std::thread::Builder::new().name("pages".into());
        thread.spawn(move || make_pages(&from, &asked_for)).map_err(Error::Thread)?;
        let writes_in_a_row = AtomicUsize::new(0);
        Ok(Service { store, processor, address: address.clone(), hosts, token: None, pages, writes_in_a_row, restarts: 0 })
    }

    /// Has its metrics say how many processes have served here before.
    pub fn after_restarts(self, restarts: u64) -> Service {
        Service { restarts, ..self }
    }

    /// Has it answer only those who bear the token, but for what is open to all.
    pub fn asking_for(self, token: Option<Secret>) -> Service {
        Service { token, ..self }
    }

    /// How its front door is set up.
    pub fn options(workers: usize, read_timeout: Duration) -> Options {
        Options { workers, read_timeout, max_body_bytes: MAX_BODY_BYTES }
    }

    fn create(&self, request: Request) {
        let order = match api::order_in(request.body()) {
            Ok(order) => order,
            Err(refusal) => return request.answer(refusal.into()),
        };
        let (id, notify) = (order.order_id.clone(), self.processor.notify.clone());
        self.store.create(order, move |stored| {
            if let Ok(created) = &stored {
                log::debug!(order = id.as_str(); "{}", in_words(*created));
            }
            if let Ok(Created::New) = stored {
                notify();
            }
            request.answer(stored.map_or_else(|_| Refusal::Unavailable.into(), |created| reply::created(&id, created)));
        });
    }

    /// Well is who could store an order just now, and processes orders.
    fn health(&self, request: Request) {
        let (is_dead, in_trouble) = (self.processor.is_dead.clone(), self.store.trouble().is_some());
        self.store.probe(move |probed| {
            request.answer(match probed {
                Err(_) => Refusal::Unavailable.into(),
                Ok(()) if is_dead() => Refusal::ProcessorDead.into(),
                Ok(()) if in_trouble => Refusal::InTrouble.into(),
                Ok(()) => reply::healthy(),
            });
        });
    }

    fn prometheus(&self, request: &Request) -> Result<Reply, Error> {
        let (store, http) = (self.store.figures()?, request.figures());
        let (process, restarts) = (Usage::now(), self.restarts);
        Ok(prometheus::text(&prometheus::Figures { store: &store, http: &http, process, restarts }))
    }
}

impl Handler for Service {
    type Route = Route;
    const KINDS: &'static [&'static str] = template::TEMPLATES;

    fn route(&self, head: &Head<'_>) -> Result<Route, Reply> {
        // First of all: who does not bear the token learns nothing else.
        let is_known = self.token.as_ref().is_none_or(|token| token.is_borne_by(head.header("Authorization")));
        let asked = api::route(head.method, head.target(), |name| head.header(name));
        if !is_known && !api::is_open(head.target()) {
            // Of what is asked only that matters now: a page can ask for the token.
            return Err(match asked {
                Ok(Route::Page(page)) => page.unauthorized(),
                _ => Refusal::Unauthorized.into(),
            });
        }
        let from = Origin {
            target: head.target(),
            host: head.header("Host"),
            origin: head.header("Origin"),
            site: head.header("Sec-Fetch-Site"),
            mode: head.header("Sec-Fetch-Mode"),
            dest: head.header("Sec-Fetch-Dest"),
            is_for_page: matches!(asked, Ok(Route::Page(_))),
        };
        self.hosts.check(from)?;
        Ok(asked?)
    }

    fn kind(&self, route: Option<&Route>, head: Option<&Head<'_>>) -> usize {
        let refused = || head.map_or(template::OTHER, |head| template::of_target(head.target()));
        route.map_or_else(refused, template::of_route)
    }

    fn handle(&self, route: Route, request: Request) {
        if route == Route::CreateOrder {
            self.writes_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else {
            self.writes_in_a_row.store(0, Ordering::Relaxed);
        }
        let read = match route {
            Route::CreateOrder => return self.create(request),
            Route::Retry(id) => {
                let notify = self.processor.notify.clone();
                return self.store.revive(id, move |revived| {
                    if let Ok(Changed::To(order)) = &revived {
                        let id = order.order_id.as_str();
                        log::info!(order = id, attempts = order.attempts; "an operator has it tried again");
                        notify();
                    }
                    request.answer(changed(revived, Refusal::NotFailed));
                });
            }
            Route::Cancel(id) => {
                return self.store.cancel(id, move |cancelled| {
                    if let Ok(Changed::To(order)) = &cancelled {
                        log::info!(order = order.order_id.as_str(), attempts = order.attempts; "cancelled by an operator");
                    }
                    request.answer(changed(cancelled, Refusal::NotPending));
                });
            }
            Route::Health => return self.health(request),
            Route::Document => return request.answer(openapi::document()),
            Route::Orders(query) => {
                // Without the thread it is dropped, and so answered with 500.
                let _ = self.pages.send((request, query));
                return;
            }
            Route::Page(page) => return request.answer(page.reply()),
            Route::Usage(host) => return request.answer(pages::usage(&self.address, host.as_ref(), self.token.is_some())),
            Route::OrderStatus(id) => {
                #[cfg(test)]
                assert!(id.as_str() != "panic", "a panic on purpose");
                self.store.status(&id).map(|found| found.map(|status| reply::order_status(&id, status)))
            }
            Route::Order(id) => self.store.order(&id).map(|found| found.map(|order| reply::order(&order))),
            Route::Metrics => self.store.counts().map(|counts| Some(metrics::json(&counts))),
            Route::Prometheus => self.prometheus(&request).map(Some),
        };
        let found = read.map(|found| found.unwrap_or_else(|| Refusal::UnknownOrder.into()));
        request.answer(found.unwrap_or_else(unreadable));
    }

    fn gather(&self) {
        if self.writes_in_a_row.load(Ordering::Relaxed) >= MANY_WRITES {
            self.store.rest(REST);
        }
    }

    fn refuse(&self, why: Refused) -> Reply {
        Refusal::Http(why).into()
    }
}

fn in_words(created: Created) -> &'static str {
    match created {
        Created::New => "created",
        Created::Replayed => "sent again; it was there already",
        Created::Conflict => "refused; another order has this id",
    }
}

/// Answers with the order as it is now, or with why it was left alone.
fn changed(outcome: Result<Changed, Unstored>, if_not: Refusal) -> Reply {
    match outcome {
        Ok(Changed::To(order)) => reply::order(&order),
        Ok(Changed::Not) => if_not.into(),
        Ok(Changed::Unknown) => Refusal::UnknownOrder.into(),
        Err(_) => Refusal::Unavailable.into(),
    }
}

fn unreadable(error: Error) -> Reply {
    // A damaged page has been said by the store, once, as it may be asked for again and again.
    if !matches!(error, Error::Corrupt(_)) {
        log::error!(why:% = error; "read refused");
    }
    Refusal::Unreadable.into()
}

fn make_pages(store: &Store, asked_for: &Receiver<(Request, Query)>) {
    for (request, query) in asked_for {
        // The panic hook has logged it; the request is dropped, and so answered.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if !request.wait_for_room(MAX_PAGE_BYTES, PAGE_PATIENCE) {
                return request.answer(Refusal::Http(Refused::Busy).into());
            }
            let page = store.page(&query.filter, query.after, query.limit, MAX_PAGE_BYTES);
            request.answer(page.map_or_else(unreadable, |page| reply::orders(&page)));
        }));
    }
}
