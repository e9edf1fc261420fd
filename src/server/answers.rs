//! What each sorted request comes to: looked up, or queued for a commit, and answered.
//!
//! Requests of one connection see each other in order (RFC 9112, 9.3.2): one that came behind a write of its own connection is
//! looked up within that write's transaction, one that came behind a read or a late body waits for its turn (`turns.rs`). Unix
//! sockets have no peer address to tell connections apart by; there they may not.
//!
//! Runs on the workers, and on whoever leads the commit that a request waited for.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tiny_http::Request;

use super::{Arrival, Shared};
use crate::api::metrics;
use crate::api::{self, Refusal, Reply, Route};
use crate::error::Error;
use crate::http::response::{self as wire, Head};
use crate::order::OrderId;
use crate::os::sync::unpoisoned;
use crate::store::commit::{Job, Refused, Write, Written};
use crate::store::{Created, Look, Revived};

/// An answer longer than this is not sent by a worker. The kernel takes less at once without its reader's help.
const LONG_ANSWER_BYTES: usize = 64 << 10;

impl Shared {
    /// Answers what needs no commit. Returns false if that goes on elsewhere, and its turn with it.
    pub(super) fn answer(self: &Arc<Self>, request: Request, head: &Head, route: Result<Route, Refusal>) -> bool {
        let reply = match route {
            Ok(route) => {
                // A panic costs this request alone.
                let looked = catch_unwind(AssertUnwindSafe(|| self.readers.look(|look| Ok(look_up(look, &route)))));
                match looked {
                    Ok(reply) => reply.unwrap_or_else(|e| unreadable(e).into()),
                    Err(_) => Refusal::Internal.into(),
                }
            }
            Err(refusal @ Refusal::BadFraming(_)) => {
                self.refuse_for_good(request, *head, refusal);
                return true;
            }
            Err(refusal) => refusal.into(),
        };
        if reply.body.len() > LONG_ANSWER_BYTES {
            return self.answer_at_length(request, *head, reply);
        }
        self.send(request, head, &reply);
        true
    }

    /// A long answer goes at its reader's speed, so it is sent where that holds up nobody, if there is room.
    fn answer_at_length(self: &Arc<Self>, request: Request, head: Head, reply: Reply) -> bool {
        let peer = request.remote_addr().copied();
        let shared = self.clone();
        let given = self.bodies.give((request, reply), move |(request, reply)| {
            shared.send_within(request, &head, &reply, shared.read_timeout);
            shared.end_turn(peer.as_ref());
            shared.committer.lead();
        });
        if let Err((request, reply)) = given {
            self.send(request, &head, &reply);
            return true;
        }
        false
    }

    pub(super) fn queue_order(self: &Arc<Self>, request: Request, head: Head, body: &[u8]) -> Arrival {
        let order = match api::order_in(body) {
            Ok(order) => order,
            Err(refusal) => return self.ready(request, head, Err(refusal)),
        };
        let id = order.order_id.clone();
        let shared = self.clone();
        self.queue_write(request, Write::Create(order), move |request, written| {
            let outcome = written.map(|written| match written {
                Written::Order(created) => created,
                _ => unreachable!("a create comes back as what became of it"),
            });
            if matches!(outcome, Ok(Created::New)) {
                shared.bell.ring();
            }
            shared.send(request, &head, &Reply::created(&id, outcome));
        })
    }

    /// A write to be queued, which hands its request to `finish` once its fate is known. Until then, what its peer sends later
    /// waits in the same queue.
    fn queue_write(
        self: &Arc<Self>,
        request: Request,
        write: Write,
        finish: impl FnOnce(Request, Result<Written, Refused>) + Send + 'static,
    ) -> Arrival {
        let peer = request.remote_addr().copied();
        self.door.peers.queued(peer.as_ref());
        let door = self.door.clone();
        let finish = Box::new(move |written| {
            // Whatever is read from now on sees the write, or its absence.
            door.peers.settled(peer.as_ref());
            finish(request, written);
        });
        Arrival::Job(Job { write, finish })
    }

    /// `/healthz` is answered by a write that reaches the disk, like an order's.
    pub(super) fn queue_probe(self: &Arc<Self>, request: Request, head: Head) -> Arrival {
        let shared = self.clone();
        self.queue_write(request, Write::Probe, move |request, written| {
            let reply = match written {
                Err(error) => Refusal::Unavailable(error).into(),
                Ok(_) if !shared.processor_alive.load(Ordering::Relaxed) => Refusal::ProcessorDead.into(),
                Ok(_) => Reply::healthy(),
            };
            shared.send(request, &head, &reply);
        })
    }

    /// For a request that came behind a write of its own connection: answered after that, with what it would have seen, had it
    /// waited for it.
    pub(super) fn queue_look(self: &Arc<Self>, request: Request, head: Head, route: Result<Route, Refusal>) -> Arrival {
        let (shared, seen) = (self.clone(), Arc::new(Mutex::new(None)));
        let see = seen.clone();
        let (route, refused) = match route {
            Ok(route) => (Some(route), None),
            Err(refusal) => (None, Some(Reply::from(refusal))),
        };
        Arrival::Job(Job {
            write: Write::Look(Box::new(move |look| {
                if let Some(route) = &route {
                    let reply = look_up(look, route);
                    *unpoisoned(&see) = Some(reply);
                }
            })),
            finish: Box::new(move |written| {
                let seen = unpoisoned(&seen).take();
                let reply = match written {
                    Ok(_) => refused.or(seen).unwrap_or_else(|| Refusal::Internal.into()),
                    Err(error) => refused.unwrap_or_else(|| Refusal::Unavailable(error).into()),
                };
                shared.send(request, &head, &reply);
            }),
        })
    }

    pub(super) fn queue_retry(self: &Arc<Self>, request: Request, head: Head, id: OrderId) -> Arrival {
        let shared = self.clone();
        self.queue_write(request, Write::Revive(id), move |request, written| {
            let reply = match written {
                Ok(Written::Revived(Revived::Pending(order))) => {
                    shared.bell.ring();
                    Reply::order(&order)
                }
                Ok(Written::Revived(Revived::Unknown)) => Refusal::UnknownOrder.into(),
                Ok(_) => Refusal::NotFailed.into(),
                Err(error) => Refusal::Unavailable(error).into(),
            };
            shared.send(request, &head, &reply);
        })
    }

    /// Answers a request whose body, if any, has been read.
    fn send(&self, request: Request, head: &Head, reply: &Reply) {
        // Its peer has already left much unread if the kernel can't take it at once.
        self.send_within(request, head, reply, Duration::ZERO);
    }

    fn send_within(&self, request: Request, head: &Head, reply: &Reply, patience: Duration) {
        let peer = request.remote_addr().copied();
        if let Err(e) = wire::send(request, head, reply, patience, || {}) {
            self.unsendable(peer.as_ref(), &e);
        }
    }

    /// Answers and ends the connection, because what follows on it can't be trusted or will not come.
    pub(super) fn refuse_for_good(&self, request: Request, head: Head, refusal: Refusal) {
        let peer = request.remote_addr().copied();
        // Before the answer: tiny_http goes on reading the connection meanwhile.
        self.door.ignore(peer.as_ref());
        let descriptor = self.door.descriptor(peer.as_ref());
        if !head.body_has_arrived {
            if peer.is_none() {
                // Over a Unix socket nothing can end the wait for the rest of this body but its sender.
                return self.door.forget(request);
            }
            self.door.cut(peer.as_ref(), descriptor, Shutdown::Read);
        }
        // So that nothing else is answered on it, not even by tiny_http itself.
        let before_next = || self.door.cut(peer.as_ref(), descriptor, Shutdown::Write);
        let _ = wire::send(request, &head.closing(), &refusal.into(), Duration::ZERO, before_next);
        // Only now, as the answers to earlier requests may have taken their time.
        self.door.condemn(peer.as_ref(), descriptor);
    }

    /// A peer that does not read its answers holds whoever writes them, so it is let go.
    pub(super) fn unsendable(&self, peer: Option<&SocketAddr>, e: &io::Error) {
        log::debug!("answers are not read: {e}");
        self.let_go(peer);
    }

    /// Ends a connection at once.
    pub(super) fn let_go(&self, peer: Option<&SocketAddr>) {
        self.door.ignore(peer);
        let descriptor = self.door.descriptor(peer);
        self.door.cut(peer, descriptor, Shutdown::Both);
        self.door.condemn(peer, descriptor);
    }
}

/// What a request that only reads is answered.
fn look_up(look: Look<'_>, route: &Route) -> Reply {
    #[cfg(test)]
    assert!(*route != Route::OrderStatus(OrderId::from_stored("panic".into())), "a panic on purpose");
    let found = match route {
        Route::OrderStatus(id) => look.status(id).map(|status| status.map(|status| Reply::order_status(id, status))),
        Route::Order(id) => look.order(id).map(|order| order.map(|order| Reply::order(&order))),
        Route::Orders(query) => look.page(&query.filter, query.after, query.limit).map(|page| Some(Reply::orders(&page))),
        Route::Metrics => look.counts().map(|counts| Some(metrics::json(&counts))),
        Route::CreateOrder | Route::Health | Route::Retry(_) => unreachable!("these write"),
    };
    match found {
        Ok(reply) => reply.unwrap_or_else(|| Refusal::UnknownOrder.into()),
        Err(e) => unreadable(e).into(),
    }
}

fn unreadable(error: Error) -> Refusal {
    log::error!("read refused: {error}");
    Refusal::Unavailable(Arc::new(error))
}
