//! Requests whose body is still to come: waits for it, with a deadline for the whole of it, and goes on as if it had been there.
//!
//! Runs on the threads of `bodies.rs`, because reading such a body, and even dropping it unread, goes at the sender's speed.

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::Request;

use super::{Arrival, Shared};
use crate::api::{MAX_BODY_BYTES, Refusal, Reply, Route};
use crate::http::response::{self as wire, Framing, Head};

/// How long the body of a refused request may take to come, so that the connection can be used again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    /// Waits for a body and goes on with its request. Runs where it may block.
    pub(super) fn receive(self: &Arc<Self>, mut request: Request, mut head: Head, route: Result<Route, Refusal>) {
        // As soon as the body has been read, what follows on the connection may be queued.
        let place = self.committer.keep_place();
        let peer = request.remote_addr().copied();
        let deadline = Instant::now() + self.read_timeout;
        let watch = self.door.watch(peer.as_ref(), deadline, Shutdown::Read);
        let refusal = match (route, head.framing) {
            (Err(refusal @ Refusal::BadFraming(_)), _) | (Err(refusal), Ok(Framing::Chunked)) => {
                return self.refuse_for_good(request, head, refusal);
            }
            (Err(refusal), _) => refusal,
            (Ok(_), Ok(Framing::Length(length))) if length > MAX_BODY_BYTES => Refusal::TooLarge,
            (Ok(route), framing) => match self.read_body(&mut request, framing, deadline) {
                Ok(body) => {
                    drop(watch);
                    head.body_has_arrived = true;
                    return match self.sort_with_body(request, head, Ok(route), &body) {
                        Arrival::Job(job) => self.committer.enqueue_at(place, job),
                        arrival => self.handle(arrival),
                    };
                }
                Err(refusal) => return self.refuse_for_good(request, head, refusal),
            },
        };
        // A client that waits for 100 Continue and hears this instead may never send the body.
        drop(watch);
        let _watch = self.door.watch(peer.as_ref(), deadline.min(Instant::now() + DRAIN_TIMEOUT), Shutdown::Both);
        if let Err(e) = wire::send_and_drain(request, &Reply::from(refusal)) {
            self.unsendable(peer.as_ref(), &e);
        }
    }

    fn read_body(
        &self,
        request: &mut Request,
        framing: Result<Framing, &'static str>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Refusal> {
        let expected = match framing.map_err(Refusal::BadFraming)? {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let mut body = Vec::with_capacity(expected.unwrap_or(0));
        // Of a request that asks for another protocol tiny_http gives the raw stream, so the length is kept to here.
        let mut rest = request.as_reader().take(expected.unwrap_or(MAX_BODY_BYTES + 1) as u64);
        let mut buffer = [0; 16 << 10];
        loop {
            let read = match rest.read(&mut buffer) {
                Ok(read) => read,
                // The deadline ends a read as the sender would.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || Instant::now() >= deadline => return Err(Refusal::SlowBody),
                Err(_) => return Err(Refusal::BrokenBody),
            };
            body.extend_from_slice(&buffer[..read]);
            if body.len() > MAX_BODY_BYTES {
                return Err(Refusal::TooLarge);
            } else if expected == Some(body.len()) {
                return Ok(body);
            } else if Instant::now() >= deadline {
                return Err(Refusal::SlowBody);
            } else if read == 0 {
                // Within a chunk this is the end of what was sent; the decoder does not say so, but then the JSON does.
                return if expected.is_none() { Ok(body) } else { Err(Refusal::BrokenBody) };
            }
        }
    }
}
