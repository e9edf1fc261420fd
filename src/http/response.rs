//! Answers: what one consists of, its bytes, and how these leave without holding anybody up.
//!
//! Short answers are written as one buffer. A long body is not copied: it follows its head in a second write. A socket takes what
//! fits into the kernel's buffer; the listener gives each connection a write timeout of one tick of the clock, so
//! [`Outgoing::send`] comes back at once when nothing fits. Whoever calls it decides where the rest is sent: see `http.rs`.
//!
//! Nothing that a client sent ever becomes part of a header.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::head::{Connection, Shape};

/// A body up to this many bytes is copied behind its head, which saves a write.
const SHORT_BYTES: usize = 16 << 10;
/// How long to wait before a peer that takes nothing is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// How fast a long answer must be read, in bytes a second, on average: a slow mobile link is faster.
const SLOWEST_READER: usize = 16 << 10;

/// An answer, not yet on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// Headers besides those that every answer has.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

/// An answer on its way to a peer.
pub struct Outgoing {
    writer: Box<dyn Write + Send>,
    head: Vec<u8>,
    body: Cow<'static, [u8]>,
    /// How many bytes of head and body the writer has taken.
    taken: usize,
}

/// How far an answer has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is all in the kernel's hands, or its client has gone away, which is no error: what was asked for is done.
    Sent,
    /// The kernel has taken some more.
    Some,
    /// The kernel takes nothing until the peer has read something.
    Full,
}

impl Outgoing {
    /// Writes what the kernel takes of `reply` at once, and gives back the rest if that is not all.
    ///
    /// # Errors
    /// The rest.
    pub fn send(writer: Box<dyn Write + Send>, shape: &Shape, reply: Reply) -> Result<(), Outgoing> {
        match Outgoing::begin(writer, shape, reply) {
            (_, Progress::Sent) => Ok(()),
            (rest, Progress::Some | Progress::Full) => Err(rest),
        }
    }

    /// The same, keeping the writer in any case.
    pub fn begin(writer: Box<dyn Write + Send>, shape: &Shape, reply: Reply) -> (Outgoing, Progress) {
        let mut outgoing = Outgoing::new(writer, shape, reply);
        let progress = outgoing.send_some();
        (outgoing, progress)
    }

    fn new(writer: Box<dyn Write + Send>, shape: &Shape, reply: Reply) -> Outgoing {
        let mut head = head_of(shape, &reply);
        let mut body = if shape.is_head { Cow::Borrowed(&[][..]) } else { reply.body };
        if body.len() <= SHORT_BYTES {
            head.extend_from_slice(&body);
            body = Cow::Borrowed(&[]);
        }
        Outgoing { writer, head, body, taken: 0 }
    }

    /// How many bytes are still held for it.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// How long all of it may take, for a peer that may be silent for `silence`.
    pub fn bound(&self, silence: Duration) -> Duration {
        silence + Duration::from_millis((self.bytes() * 1_000 / SLOWEST_READER) as u64)
    }

    /// Writes what the kernel takes in one go, and waits at most a tick of the clock for that.
    fn send_some(&mut self) -> Progress {
        loop {
            let rest = match self.taken.checked_sub(self.head.len()) {
                None => &self.head[self.taken..],
                Some(taken) => &self.body[taken..],
            };
            let step = if rest.is_empty() { self.writer.flush().map(|()| 0) } else { self.writer.write(rest) };
            match step {
                Ok(_) if rest.is_empty() => return Progress::Sent,
                Ok(written) => {
                    let all = written == rest.len();
                    self.taken += written;
                    if !all {
                        return if written == 0 { Progress::Sent } else { Progress::Some };
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Progress::Full,
                Err(_) => return Progress::Sent,
            }
        }
    }

    /// Writes the rest, at its reader's speed, and says whether that was done by `deadline`. Blocks until then at the most.
    pub fn send_rest(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            match self.send_some() {
                Progress::Sent => return true,
                Progress::Some => {}
                Progress::Full => std::thread::sleep(PAUSE),
            }
        }
        false
    }
}

/// Answers `request` although its body has not been read, and then reads and drops the rest of it, at its sender's speed.
/// Returns false if the answer could not be sent. tiny_http's own formatting, as only that leaves the body unread until then.
pub fn answer_unread(request: tiny_http::Request, reply: Reply) -> bool {
    let mut response = tiny_http::Response::from_data(reply.body).with_status_code(reply.status);
    for (name, value) in [("Content-Type", reply.content_type), ("Server", "orderd")].iter().chain(&reply.headers) {
        if let Ok(header) = tiny_http::Header::from_bytes(*name, *value) {
            response.add_header(header);
        }
    }
    request.respond(response).is_ok()
}

fn head_of(shape: &Shape, reply: &Reply) -> Vec<u8> {
    let body_to_copy = if reply.body.len() <= SHORT_BYTES { reply.body.len() } else { 0 };
    let mut out = Vec::with_capacity(256 + body_to_copy);
    let reason = tiny_http::StatusCode(reply.status).default_reason_phrase();
    DATE.with_borrow_mut(|date| {
        // Writing to memory can't fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {reason}\r\nServer: orderd\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
            reply.status,
            date.now(),
            reply.content_type,
            reply.body.len()
        );
    });
    for (name, value) in &reply.headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match shape.connection {
        Connection::Stays => {}
        Connection::StaysAsAsked => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Connection::Closes => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    out
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: 0, text: String::new() }) };
}

/// The `Date` header's value, made once a second.
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use crate::http::Method;
    use crate::http::head::Framing;
    use crate::os::sync::unpoisoned;

    /// A socket whose peer reads now and then: takes so many bytes in all, and then nothing until it is given more room.
    #[derive(Clone, Default)]
    struct Peer(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Peer {
        fn reads(&self, bytes: usize) {
            unpoisoned(&self.0).0 += bytes;
        }

        fn has(&self) -> Vec<u8> {
            unpoisoned(&self.0).1.clone()
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = unpoisoned(&self.0);
            let taken = bytes.len().min(state.0);
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.0 -= taken;
            state.1.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shape(is_head: bool) -> Shape {
        Shape {
            framing: Ok(Framing::Length(0)),
            body_has_arrived: true,
            is_head,
            connection: Connection::Stays,
            method: Method::Get,
            is_undroppable: false,
        }
    }

    fn reply(bytes: usize) -> Reply {
        Reply { status: 200, content_type: "text/plain", headers: Vec::new(), body: vec![b'x'; bytes].into() }
    }

    #[test]
    fn an_answer_arrives_whole_however_little_is_taken_at_once() {
        for bytes in [0, 10, SHORT_BYTES, SHORT_BYTES + 1, 100_000] {
            let whole = Peer::default();
            whole.reads(usize::MAX / 2);
            assert!(Outgoing::send(Box::new(whole.clone()), &shape(false), reply(bytes)).is_ok());
            assert!(whole.has().ends_with(&vec![b'x'; bytes]));

            let slow = Peer::default();
            slow.reads(7);
            let Err(mut rest) = Outgoing::send(Box::new(slow.clone()), &shape(false), reply(bytes)) else {
                panic!("{bytes}: it can't be sent yet")
            };
            let mut steps = 0;
            while rest.send_some() != Progress::Sent {
                slow.reads(10_007);
                steps += 1;
                assert!(steps < 100, "it is never sent");
            }
            assert_eq!(slow.has().len(), whole.has().len(), "{bytes}");
        }
    }

    #[test]
    fn a_reader_has_the_more_time_the_longer_the_answer_is_and_no_more() {
        let stuck = Peer::default();
        let Err(mut rest) = Outgoing::send(Box::new(stuck), &shape(false), reply(1 << 20)) else { panic!("nobody reads") };
        let bound = rest.bound(Duration::from_secs(30));
        assert!(bound > Duration::from_secs(90) && bound < Duration::from_secs(100), "{bound:?}");
        assert!(!rest.send_rest(Instant::now() + Duration::from_millis(30)));
    }

    #[test]
    fn the_answer_to_head_has_a_length_and_no_body() {
        let peer = Peer::default();
        peer.reads(10_000);
        assert!(Outgoing::send(Box::new(peer.clone()), &shape(true), reply(1_000)).is_ok());
        let text = String::from_utf8(peer.has()).unwrap();
        assert!(text.contains("\r\nContent-Length: 1000\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
