//! What each route does: asks the store, and words the answer. The only place where HTTP and orders meet.
//!
//! A write is queued in the store, and the committer's thread answers it once it is on disk (promise 1). A read is answered by the
//! worker that took it. A page of orders may be long, so one thread makes all pages, one at a time: neither a worker nor the
//! memory for more than a few is ever taken by those who list orders.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::api::origin::{Hosts, Origin};
use crate::api::query::Query;
use crate::api::reply::{self, Refusal};
use crate::api::{self, MAX_PAGE_BYTES, Route, metrics};
use crate::error::Error;
use crate::http::{Handler, Head, Refused, Reply, Request};
use crate::order::OrderId;
use crate::processing::Notifier;
use crate::store::{Created, Revived, Store};

/// How long a page may wait until earlier ones have been read by their clients.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a commit may keep workers from taking requests, while all that come are writes: they could but join the next commit, and
/// to wake a thread for each costs more than to handle it. A read that comes meanwhile waits for as long.
const REST: Duration = Duration::from_millis(2);
/// So many writes in a row say that there are next to no reads.
const MANY_WRITES: usize = 256;

/// What the routes need.
pub struct Service {
    store: Arc<Store>,
    notifier: Notifier,
    processor_alive: Arc<AtomicBool>,
    hosts: Hosts,
    pages: Sender<(Request, Query)>,
    writes_in_a_row: AtomicUsize,
}

impl Service {
    /// Starts the thread that makes pages.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(
        store: Arc<Store>,
        notifier: Notifier,
        processor_alive: Arc<AtomicBool>,
        hosts: Hosts,
    ) -> Result<Service, Error> {
        let (pages, asked_for) = channel();
        let from = store.clone();
        let thread = std::thread::Builder::new().name("pages".into());
        thread.spawn(move || make_pages(&from, &asked_for)).map_err(Error::Thread)?;
        Ok(Service { store, notifier, processor_alive, hosts, pages, writes_in_a_row: AtomicUsize::new(0) })
    }

    fn create(&self, request: Request) {
        let order = match api::order_in(request.body()) {
            Ok(order) => order,
            Err(refusal) => return request.answer(refusal.into()),
        };
        let (id, notifier) = (order.order_id.clone(), self.notifier.clone());
        self.store.create(order, move |stored| {
            if let Ok(Created::New) = stored {
                notifier.notify();
            }
            request.answer(stored.map_or_else(|_| Refusal::Unavailable.into(), |created| reply::created(&id, created)));
        });
    }

    fn retry(&self, id: OrderId, request: Request) {
        let notifier = self.notifier.clone();
        self.store.revive(id, move |revived| {
            request.answer(match revived {
                Ok(Revived::Pending(order)) => {
                    notifier.notify();
                    reply::order(&order)
                }
                Ok(Revived::NotFailed) => Refusal::NotFailed.into(),
                Ok(Revived::Unknown) => Refusal::UnknownOrder.into(),
                Err(_) => Refusal::Unavailable.into(),
            });
        });
    }

    /// Well is who could store an order just now, and processes orders.
    fn health(&self, request: Request) {
        let alive = self.processor_alive.clone();
        self.store.probe(move |probed| {
            request.answer(match probed {
                Err(_) => Refusal::Unavailable.into(),
                Ok(()) if !alive.load(Ordering::Relaxed) => Refusal::ProcessorDead.into(),
                Ok(()) => reply::healthy(),
            });
        });
    }

    fn status_of(&self, id: &OrderId) -> Result<Reply, Error> {
        #[cfg(test)]
        assert!(id.as_str() != "panic", "a panic on purpose");
        Ok(self.store.status(id)?.map_or_else(|| Refusal::UnknownOrder.into(), |status| reply::order_status(id, status)))
    }

    fn order(&self, id: &OrderId) -> Result<Reply, Error> {
        Ok(self.store.order(id)?.map_or_else(|| Refusal::UnknownOrder.into(), |order| reply::order(&order)))
    }
}

impl Handler for Service {
    type Route = Route;

    fn route(&self, head: &Head<'_>) -> Result<Route, Reply> {
        let from = Origin {
            target: head.target(),
            host: head.header("Host"),
            origin: head.header("Origin"),
            site: head.header("Sec-Fetch-Site"),
        };
        self.hosts.check(from)?;
        Ok(api::route(head.method, head.target(), head.header("Content-Type"))?)
    }

    fn handle(&self, route: Route, request: Request) {
        if route == Route::CreateOrder {
            self.writes_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else {
            self.writes_in_a_row.store(0, Ordering::Relaxed);
        }
        let read = match route {
            Route::CreateOrder => return self.create(request),
            Route::Retry(id) => return self.retry(id, request),
            Route::Health => return self.health(request),
            Route::Orders(query) => {
                // Without the thread it is dropped, and so answered with 500.
                let _ = self.pages.send((request, query));
                return;
            }
            Route::OrderStatus(id) => self.status_of(&id),
            Route::Order(id) => self.order(&id),
            Route::Metrics => self.store.counts().map(|counts| metrics::json(&counts)),
        };
        request.answer(read.unwrap_or_else(unreadable));
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

fn unreadable(error: Error) -> Reply {
    log::error!("read refused: {error}");
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
