//! The worker threads: each takes a request, in the order of arrival, and handles it if its connection has nothing else under way.
//!
//! A worker never waits for a client. A request whose body is still to come goes to the blocking pool. A panic costs its own
//! request, which is answered by [`Refused::Dropped`], but no thread.
//!
//! A request that announces more than can be read and thrown away is undroppable: tiny_http would allocate the rest of its body in
//! one piece. It is kept for ever, unanswered, and its connection is cut.

use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::connections::{Activity, Arrival};
use super::head::{Framing, Head, Shape};
use super::turn::{Core, Open, Turn};
use super::{Handler, Refused, Request, body};
use crate::os::sync::unpoisoned;

/// The most requests taken at once, so that those that keep coming do not put off those that came.
const MAX_TAKEN: usize = 64;

/// Handles requests until the server stops. Only one worker takes requests at a time, so that those of one connection stay in order.
/// As long as all that come are writes it is the same one, as they are soon queued, and to wake another costs more than that.
pub(super) fn run<H: Handler>(core: &Arc<Core>, handler: &Arc<H>) {
    let mut taken = Vec::new();
    loop {
        let intake = unpoisoned(&core.intake);
        let other = loop {
            if !core.take(&**handler, &mut taken) {
                return;
            }
            let other = taken.pop_if(|(_, request)| !is_write(request));
            taken.drain(..).for_each(|taken| begin(core, handler, taken));
            if other.is_some() {
                break other;
            }
        };
        drop(intake);
        other.into_iter().for_each(|other| begin(core, handler, other));
    }
}

fn is_write(request: &tiny_http::Request) -> bool {
    *request.method() == tiny_http::Method::Post
}

impl Core {
    /// Waits for a request that has the turn of its connection, and takes those that have come with it: writes, which can share a
    /// commit, up to the first that is none. Returns false when the server stops.
    fn take<H: Handler>(self: &Arc<Self>, handler: &H, taken: &mut Vec<(SocketAddr, tiny_http::Request)>) -> bool {
        handler.gather();
        loop {
            let next = if taken.is_empty() { self.tiny.recv().map(Some) } else { self.tiny.try_recv() };
            let arrived = match next {
                Ok(Some(request)) => self.arrive(request),
                // The accept thread has ended, and this is what of.
                Err(e) if e.raw_os_error().is_some() => {
                    self.watchdog.accepting_ended(&e);
                    None
                }
                // Woken, for a request whose turn has come or for the end, behind all that had arrived; or nothing more is there.
                Ok(None) | Err(_) => match unpoisoned(&self.ready).pop_front() {
                    None if !taken.is_empty() => {
                        if self.stopping.load(Ordering::Acquire) {
                            // This may have been the call that ends a worker, which each of them must hear.
                            self.tiny.unblock();
                        }
                        return true;
                    }
                    None if self.stopping.load(Ordering::Acquire) => return false,
                    ready => ready,
                },
            };
            if let Some((peer, request)) = arrived {
                let is_last = !is_write(&request) || taken.len() + 1 == MAX_TAKEN;
                taken.push((peer, request));
                if is_last {
                    return true;
                }
            }
        }
    }

    fn arrive(self: &Arc<Self>, request: tiny_http::Request) -> Option<(SocketAddr, tiny_http::Request)> {
        // A connection over TCP always has one.
        let peer = *request.remote_addr()?;
        // Asked for each request: a stranger may have taken the port of a connection that has just ended, or waits behind its last one.
        if self.relay.as_ref().is_some_and(|relay| !relay.is_from(&peer)) {
            // Of one that is known many may come, and to look at all descriptors takes long.
            if self.connections.activity(&peer) == Activity::Unknown
                && let Some(socket) = self.sockets.find(&peer)
            {
                self.sockets.shutdown(socket, &peer, Shutdown::Both);
            }
            self.discard(request);
            return None;
        }
        let (arrival, is_new) = self.connections.arrive(peer, request, |blocked| self.is_same(&peer, *blocked));
        if is_new {
            self.watchdog.nudge();
        }
        match arrival {
            Arrival::Goes(request) => return Some((peer, request)),
            Arrival::Waits => {}
            Arrival::Blocked(request) => self.discard(request),
            Arrival::Floods(request) => {
                log::debug!(peer:%; "too many requests wait for each other: a connection is let go");
                self.let_go(peer, request);
            }
        }
        None
    }
}

impl Core {
    /// Ends the connection of a request that is not to be answered.
    fn let_go(self: &Arc<Self>, peer: SocketAddr, request: tiny_http::Request) {
        self.block(peer).cut();
        self.discard(request);
    }
}

/// Handles a request that has the turn, as far as that is done here.
fn begin<H: Handler>(core: &Arc<Core>, handler: &Arc<H>, (peer, request): (SocketAddr, tiny_http::Request)) {
    let turn = Turn { core: core.clone(), peer, begun: Instant::now() };
    // The panic hook has logged it. Whatever was on the way is dropped, and so answered.
    let _ = catch_unwind(AssertUnwindSafe(|| handle(handler, request, turn)));
}

fn handle<H: Handler>(handler: &Arc<H>, request: tiny_http::Request, turn: Turn) {
    let shape = Shape::of(&request);
    if shape.is_undroppable {
        let pool = turn.core.blocking.clone();
        turn.core.keep_for_ever(request);
        // To find the connection may take a look at all descriptors, also below.
        return pool.run(move || turn.let_go());
    }
    if let Err(why) = shape.framing {
        let pool = turn.core.blocking.clone();
        let kind = handler.kind(None, None);
        let (open, handler) = (Open { request, shape, kind, turn }, handler.clone());
        return pool.run(move || open.refuse_for_good(handler.refuse(Refused::BadFraming(why))));
    }
    let head = Head { request: &request, method: shape.method };
    let route = handler.route(&head);
    let kind = handler.kind(route.as_ref().ok(), Some(&head));
    let mut open = Open { request, shape, kind, turn };
    if !shape.body_has_arrived {
        let (pool, handler) = (open.turn.core.blocking.clone(), handler.clone());
        return pool.run(move || body::receive(&*handler, open, route));
    }
    match route {
        Err(reply) => open.answer(reply),
        Ok(route) => {
            let body = match shape.framing {
                Ok(Framing::Length(length @ 1..)) => {
                    let mut body = Vec::with_capacity(length);
                    // It is in memory, so it can be read.
                    let _ = open.request.as_reader().read_to_end(&mut body);
                    body
                }
                _ => Vec::new(),
            };
            handler.handle(route, Request { open: Some(open), body });
        }
    }
}
