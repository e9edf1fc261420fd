//! A request's turn, and what the threads of one server share.
//!
//! [`Request`] is what a handler has, [`Open`] what is left of it once its body is read, [`Turn`] the turn that it holds, [`Blocked`] a connection that is refused for good. What
//! ends a turn, whatever it is, takes up the next request of the connection; what blocks a connection gets rid of what waits there.
//! No function here waits for a client, except [`Open::refuse_for_good`], which says so.

use std::collections::VecDeque;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::blocking::{Blocking, Room};
use super::connections::Connections;
use super::head::Shape;
use super::meters::{Figures, Meters};
use super::relay::Relay;
use super::response::{Outgoing, Reply};
use super::sockets::{Socket, Sockets};
use super::told::Told;
use super::watchdog::Watchdog;
use super::{Options, Refused};
use crate::os::sync::unpoisoned;

/// How long a peer that was refused for good may go on sending, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);

/// A request whose body has come. It holds its connection's turn until it is answered or dropped.
pub struct Request {
    pub(super) open: Option<Open>,
    pub(super) body: Vec<u8>,
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

    /// What the server has done so far, for those who ask. Without what it does for this request.
    pub fn figures(&self) -> Figures {
        self.open.as_ref().expect("only answering takes it away, and that consumes the request").turn.core.meters.read()
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
pub(super) struct Open {
    pub(super) request: tiny_http::Request,
    pub(super) shape: Shape,
    /// Which of the handler's kinds it is.
    pub(super) kind: usize,
    pub(super) turn: Turn,
}

impl Open {
    pub(super) fn answer(self, reply: Reply) {
        self.count(&reply);
        let Open { request, shape, turn, .. } = self;
        let shape = if turn.core.retiring.load(Ordering::Relaxed) { shape.closing() } else { shape };
        let told = Told::new(turn.begun, &request, &reply);
        let sent = Outgoing::send(request.into_writer(), &shape, reply);
        // Before the turn ends, so that lines come in the order of the answers.
        told.into_iter().for_each(Told::answered);
        if let Err(rest) = sent {
            turn.finish(rest);
        }
    }

    /// Answers, and ends the connection, because what follows on it can't be trusted or will not come. Waits for the rest of the
    /// body if that is not in memory, so only the blocking pool may call it then; its connection is cut for that.
    pub(super) fn refuse_for_good(self, reply: Reply) {
        self.count(&reply);
        let Open { request, shape, turn, .. } = self;
        let told = Told::new(turn.begun, &request, &reply);
        // First of all: as soon as the answer is sent, the next connection may come from the same address.
        let last = turn.block();
        if !shape.body_has_arrived {
            last.shutdown(Shutdown::Read);
        }
        let sent = Outgoing::begin(request.into_writer(), &shape.closing(), reply);
        told.into_iter().for_each(Told::answered);
        // While the writer is held nothing else is sent, not even by tiny_http itself; and from now on nothing can be.
        last.shutdown(Shutdown::Write);
        drop(sent);
        last.cut_after(LINGER);
    }

    /// Before the answer is sent, so that whoever has read it finds it counted.
    pub(super) fn count(&self, reply: &Reply) {
        self.turn.core.meters.answered(self.kind, self.turn.begun, reply.status);
    }
}

/// The turn of a connection's request, ended when dropped.
pub(super) struct Turn {
    pub(super) core: Arc<Core>,
    pub(super) peer: SocketAddr,
    /// When it began, if the log is to have a line of it.
    pub(super) begun: Instant,
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
    pub(super) fn finish(self, mut outgoing: Outgoing) {
        let Some(held) = self.core.answers.hold(outgoing.bytes()) else {
            log::debug!(peer:% = self.peer; "too many answers are not read: a connection is let go");
            return self.let_go();
        };
        let deadline = Instant::now() + outgoing.bound(self.core.options.read_timeout);
        self.core.blocking.clone().run(move || {
            if outgoing.send_rest(deadline) {
                drop(outgoing);
                drop(self);
            } else {
                log::debug!(peer:% = self.peer; "an answer was not read in time: its connection is let go");
                self.let_go();
            }
            drop(held);
        });
    }

    /// Ends the connection at once.
    pub(super) fn let_go(self) {
        self.block().cut();
    }

    /// Has nothing more of the connection looked at. What is left to be done with it is up to the caller.
    pub(super) fn block(self) -> Blocked {
        self.core.block(self.peer)
    }
}

/// A connection that is blocked and still to be cut.
pub(super) struct Blocked {
    pub(super) core: Arc<Core>,
    pub(super) peer: SocketAddr,
    pub(super) socket: Option<Socket>,
}

impl Blocked {
    pub(super) fn shutdown(&self, how: Shutdown) {
        if let Some(socket) = self.socket {
            self.core.sockets.shutdown(socket, &self.peer, how);
        }
    }

    /// Cuts it now, and gets rid of what waits.
    pub(super) fn cut(self) {
        self.shutdown(Shutdown::Both);
        self.cut_after(Duration::ZERO);
    }

    /// Cuts it after a while, and gets rid of what waits.
    pub(super) fn cut_after(self, after: Duration) {
        if let Some(socket) = self.socket {
            self.core.watchdog.cut_after(after, self.peer, socket);
        }
        self.core.connections.release(&self.peer).into_iter().for_each(|request| self.core.discard(request));
    }
}

/// What the threads of one server share.
pub(super) struct Core {
    pub(super) tiny: tiny_http::Server,
    /// The number of the descriptor on which tiny_http accepts, as long as it does.
    pub(super) listening: RawFd,
    /// Held while a request is taken and brought to its connection, so that those of one connection stay in order.
    pub(super) intake: Mutex<()>,
    /// Requests whose turn has come.
    pub(super) ready: Mutex<VecDeque<(SocketAddr, tiny_http::Request)>>,
    pub(super) connections: Connections<tiny_http::Request, Option<Socket>>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) watchdog: Watchdog,
    pub(super) blocking: Blocking,
    pub(super) answers: Room,
    pub(super) bodies: Room,
    pub(super) options: Options,
    pub(super) refuse: Box<dyn Fn(Refused) -> Reply + Send + Sync>,
    pub(super) relay: Option<Relay>,
    pub(super) meters: Meters,
    /// Requests that must never be dropped, and so keep a thread and two descriptors.
    pub(super) undroppable: AtomicUsize,
    pub(super) retiring: AtomicBool,
    pub(super) stopping: AtomicBool,
}

impl Core {
    /// Has a worker take up a request whose turn has come.
    pub(super) fn take_up(&self, request: tiny_http::Request) {
        if let Some(peer) = request.remote_addr().copied() {
            unpoisoned(&self.ready).push_back((peer, request));
            self.tiny.unblock();
        }
    }

    pub(super) fn block(self: &Arc<Self>, peer: SocketAddr) -> Blocked {
        let socket = self.sockets.find(&peer);
        self.connections.block(&peer, socket);
        Blocked { core: self.clone(), peer, socket }
    }

    /// Whether what comes from `peer` is of the connection that was blocked: that is still there, or it has gone and no other is.
    pub(super) fn is_same(&self, peer: &SocketAddr, blocked: Option<Socket>) -> bool {
        match self.sockets.find(peer) {
            Some(connected) => blocked.is_some_and(|socket| socket.is_of(&connected)),
            None => true,
        }
    }

    /// Gets rid of a request without an answer.
    pub(super) fn discard(&self, request: tiny_http::Request) {
        let shape = Shape::of(&request);
        if shape.is_undroppable {
            self.keep_for_ever(request);
        } else if shape.body_has_arrived {
            // Without the 500 that dropping it alone would bring.
            drop(request.into_writer());
        } else {
            // Waits for the rest of the body, which ends when the connection is cut.
            self.blocking.run(move || drop(request.into_writer()));
        }
    }

    pub(super) fn keep_for_ever(&self, request: tiny_http::Request) {
        mem::forget(request);
        self.undroppable.fetch_add(1, Ordering::Relaxed);
        self.watchdog.look_now();
    }
}
