//! Late bodies: waits for one, within a deadline for the whole of it, and hands its request over as if it had been there.
//!
//! Runs on the blocking pool, because reading such a body, and even dropping it unread, goes at the sender's speed. A body is
//! kept as it comes, so what a request announces costs nothing; all bodies under way share one room.

use std::io::{self, Read};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::head::Framing;
use super::response::answer_unread;
use super::told::Told;
use super::turn::Open;
use super::{Handler, Refused, Reply, Request};

/// How long the body of a refused request may take to come, so that the connection can be used again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for the body of a request and goes on with it, or refuses it.
pub(super) fn receive<H: Handler>(handler: &H, mut open: Open, route: Result<H::Route, Reply>) {
    let core = open.turn.core.clone();
    let peer = open.turn.peer;
    let deadline = Instant::now() + core.options.read_timeout;
    let watch = core.watchdog.cut_at(deadline, peer, Shutdown::Read);
    let refusal = match (route, open.shape.framing) {
        // Nobody knows how much is to come.
        (Err(reply), Ok(Framing::Chunked)) => return open.refuse_for_good(reply),
        (Err(reply), _) => reply,
        (Ok(_), Ok(Framing::Length(length))) if length > core.options.max_body_bytes => handler.refuse(Refused::TooLarge),
        (Ok(route), framing) => {
            let expected = if let Ok(Framing::Length(length)) = framing { Some(length) } else { None };
            match read(&mut open, expected, deadline) {
                Ok(body) => {
                    drop(watch);
                    open.shape.body_has_arrived = true;
                    return handler.handle(route, Request { open: Some(open), body });
                }
                Err(Refused::Busy) if expected.is_some() => handler.refuse(Refused::Busy),
                Err(why) => return open.refuse_for_good(handler.refuse(why)),
            }
        }
    };
    // A client that waits for 100 Continue and hears this instead may never send the body.
    drop(watch);
    let drained_by = deadline.min(Instant::now() + DRAIN_TIMEOUT);
    let _watch = core.watchdog.cut_at(drained_by, peer, Shutdown::Both);
    open.count(&refusal);
    let Open { request, turn, .. } = open;
    let told = Told::new(turn.begun, &request, &refusal);
    let is_sent = answer_unread(request, refusal);
    told.into_iter().for_each(Told::answered);
    if !is_sent {
        turn.let_go();
    }
}

fn read(open: &mut Open, expected: Option<usize>, deadline: Instant) -> Result<Vec<u8>, Refused> {
    let core = open.turn.core.clone();
    let mut body = Vec::new();
    let mut held = core.bodies.hold(0).ok_or(Refused::Busy)?;
    // Of a request that asks for another protocol tiny_http gives the raw stream, so the length is kept to here.
    let mut rest = open.request.as_reader().take(expected.unwrap_or(core.options.max_body_bytes + 1) as u64);
    let mut buffer = [0; 16 << 10];
    loop {
        let read = match rest.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // The deadline ends a read as the sender would.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || Instant::now() >= deadline => return Err(Refused::TooSlow),
            Err(_) => return Err(Refused::Broken),
        };
        if !held.grow(read) {
            return Err(Refused::Busy);
        }
        body.extend_from_slice(&buffer[..read]);
        if body.len() > core.options.max_body_bytes {
            return Err(Refused::TooLarge);
        } else if expected == Some(body.len()) {
            return Ok(body);
        } else if Instant::now() >= deadline {
            return Err(Refused::TooSlow);
        } else if read == 0 {
            // Within a chunk this is the end of what was sent; the decoder does not say so, but then the JSON does.
            return if expected.is_none() { Ok(body) } else { Err(Refused::Broken) };
        }
    }
}
