//! What a program does with the orders of a server that runs inside it, without HTTP: each call blocks until it is done.
//!
//! The same as the routes do, on the same store: a change returns after its commit (promise 1), shares it with whatever is asked for
//! at the same time, and the processor is told. Any thread may call, several at once; a call must not be made where the server calls
//! the program back to say that it is in trouble, as that may be the thread that commits.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::retention::FINISHED;
use super::{Changed, Counts, Created, Filter, Page, Refused, Store, answered};
use crate::error::Error;
use crate::order::{NewOrder, Order, OrderId};

/// How often whoever waits looks at the row although nothing was told: another program may have changed it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The orders of a running server. Cheap to clone, and good for any thread. After the server has stopped every call is refused.
#[derive(Clone)]
pub struct Orders {
    store: Arc<Store>,
    notify: Arc<dyn Fn() + Send + Sync>,
}

/// How an order came to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there already, with the same content.
    Replayed,
}

/// Why a call did not do what it was asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OrderError {
    /// There is no order of this id.
    Unknown,
    /// An order with this id and other content exists.
    Conflict,
    /// Only a failed order can be tried again.
    NotFailed,
    /// Only a pending order can be cancelled.
    NotPending,
    /// The order has not ended within the time. It is as it stands here, and goes on.
    TimedOut(Box<Order>),
    /// The store refuses, and nothing is changed; where [`Error::is_transient`] says so, the same call may succeed later.
    Store(Arc<Error>),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::Unknown => f.write_str("there is no such order"),
            OrderError::Conflict => f.write_str("an order with this id and other content exists"),
            OrderError::NotFailed => f.write_str("only a failed order can be tried again"),
            OrderError::NotPending => f.write_str("only a pending order can be cancelled"),
            OrderError::TimedOut(order) => write!(f, "order {} is still {}", order.order_id, order.status.as_str()),
            OrderError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OrderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OrderError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for OrderError {
    fn from(error: Error) -> OrderError {
        OrderError::Store(Arc::new(error))
    }
}

impl From<Refused> for OrderError {
    fn from(error: Refused) -> OrderError {
        OrderError::Store(error)
    }
}

impl Orders {
    pub(crate) fn new(store: Arc<Store>, notify: Arc<dyn Fn() + Send + Sync>) -> Orders {
        Orders { store, notify }
    }

    /// Stores an order. It is on disk when this returns `Ok`, and will be processed. The same order again does no harm.
    ///
    /// # Errors
    /// [`OrderError::Conflict`], [`OrderError::Store`].
    pub fn create(&self, order: NewOrder) -> Result<Stored, OrderError> {
        match answered(|done| self.store.create(order, move |created| _ = done.send(created)))? {
            Created::New => {
                (self.notify)();
                Ok(Stored::New)
            }
            Created::Replayed => Ok(Stored::Replayed),
            Created::Conflict => Err(OrderError::Conflict),
        }
    }

    /// The whole record of an order.
    ///
    /// # Errors
    /// [`OrderError::Unknown`], [`OrderError::Store`].
    pub fn get(&self, order_id: impl AsRef<str>) -> Result<Order, OrderError> {
        self.store.order(&named(order_id))?.ok_or(OrderError::Unknown)
    }

    /// Up to `limit` orders, the newest first; more of them with [`Page::next`] as `after`. With a status and a user both, a page may
    /// hold fewer than `limit`, or none, and yet have a next one.
    ///
    /// # Errors
    /// [`OrderError::Store`].
    pub fn list(&self, filter: &Filter, after: Option<i64>, limit: usize) -> Result<Page, OrderError> {
        Ok(self.store.page(filter, after, limit, usize::MAX)?)
    }

    /// Has a failed order tried again, at once, and returns it as `Pending`.
    ///
    /// # Errors
    /// [`OrderError::Unknown`], [`OrderError::NotFailed`], [`OrderError::Store`].
    pub fn retry(&self, order_id: impl AsRef<str>) -> Result<Order, OrderError> {
        let revived = answered(|done| self.store.revive(named(order_id), move |revived| _ = done.send(revived)))?;
        let order = changed(revived, OrderError::NotFailed)?;
        (self.notify)();
        Ok(order)
    }

    /// Takes a pending order back, also one that waits to be tried again, and returns it as `Cancelled`.
    ///
    /// # Errors
    /// [`OrderError::Unknown`], [`OrderError::NotPending`], [`OrderError::Store`].
    pub fn cancel(&self, order_id: impl AsRef<str>) -> Result<Order, OrderError> {
        let cancelled = answered(|done| self.store.cancel(named(order_id), move |cancelled| _ = done.send(cancelled)))?;
        changed(cancelled, OrderError::NotPending)
    }

    /// How many orders there are in each status. Costs the same with ten orders and with ten million.
    ///
    /// # Errors
    /// [`OrderError::Store`].
    pub fn counts(&self) -> Result<Counts, OrderError> {
        Ok(self.store.counts()?)
    }

    /// Waits until an order has ended, as `Completed` or otherwise, and returns it. One that is tried again has not ended.
    ///
    /// # Errors
    /// [`OrderError::TimedOut`], [`OrderError::Unknown`], also when it is deleted meanwhile, and [`OrderError::Store`].
    pub fn wait(&self, order_id: impl AsRef<str>, timeout: Duration) -> Result<Order, OrderError> {
        let id = named(order_id);
        // Beyond what an `Instant` can say, it is for ever.
        let until = Instant::now().checked_add(timeout);
        let place = self.store.place(&id)?.ok_or(OrderError::Unknown)?;
        let waiting = self.store.wait_for(place, id.clone());
        loop {
            let order = self.store.order(&id)?.ok_or(OrderError::Unknown)?;
            if FINISHED.contains(&order.status) {
                return Ok(order);
            }
            let left = until.map_or(LOOK_EVERY, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(OrderError::TimedOut(Box::new(order)));
            }
            waiting.wait(left.min(LOOK_EVERY));
        }
    }
}

/// An id that breaks the limits of one is as unknown as any other that nobody has used.
fn named(order_id: impl AsRef<str>) -> OrderId {
    OrderId::from_stored(order_id.as_ref().to_string())
}

fn changed(outcome: Changed, if_not: OrderError) -> Result<Order, OrderError> {
    match outcome {
        Changed::To(order) => Ok(*order),
        Changed::Not => Err(if_not),
        Changed::Unknown => Err(OrderError::Unknown),
    }
}
