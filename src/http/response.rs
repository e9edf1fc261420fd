//! HTTP as tiny_http hands it over and takes it back: the few headers that matter, and an answer's bytes.
//!
//! Answers are written as one buffer, which saves tiny_http's own formatting of each header. tiny_http is lenient about framing
//! and reads what it can't make sense of as a second request; [`Head::framing`] says what RFC 9112 says, and `server.rs`
//! refuses the rest.
//!
//! Nothing that a client sent ever becomes part of a header.

use std::cell::RefCell;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tiny_http::{HTTPVersion, Request};

use crate::api::{Method, Reply};

/// Bodies up to this size are in memory when tiny_http hands a request over, unless they are chunked or the client waits for
/// `100 Continue`. In bytes.
const BODY_READ_AHEAD: usize = 1_024;

/// What the headers of a request say about how to handle it.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// HEAD counts as GET.
    pub method: Method,
    /// Whether the body is in memory, so that neither reading nor dropping it can block.
    pub body_has_arrived: bool,
    /// How the end of the body is found, or why it can't be.
    pub framing: Result<Framing, &'static str>,
    /// Where the Content-Type is among the headers.
    content_type: Option<usize>,
    is_head: bool,
    connection: Connection,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes; 0 if it has no body.
    Length(usize),
    /// By its last chunk.
    Chunked,
}

/// What becomes of the connection after the answer. tiny_http decides the same by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// HTTP/1.1's default, so it needs no word.
    Stays,
    /// HTTP/1.0 with `keep-alive`.
    StaysAsAsked,
    Closes,
}

impl Head {
    /// Reads what matters.
    pub fn of(request: &Request) -> Head {
        let old = *request.http_version() == HTTPVersion(1, 0);
        let mut content_type = None;
        let mut connection = None;
        let mut length: Option<Result<usize, &'static str>> = None;
        let mut coding: Option<Result<(), &'static str>> = None;
        let mut waits_for_continue = false;
        for (at, header) in request.headers().iter().enumerate() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            // Few names are looked for; their lengths tell most others apart.
            match name.len() {
                12 if name.eq_ignore_ascii_case("Content-Type") => content_type = content_type.or(Some(at)),
                14 if name.eq_ignore_ascii_case("Content-Length") => {
                    let this = content_length(value);
                    length = Some(match length {
                        Some(before) if before != this => Err("two Content-Length headers differ"),
                        _ => this,
                    });
                }
                17 if name.eq_ignore_ascii_case("Transfer-Encoding") => {
                    let chunked = value.trim().eq_ignore_ascii_case("chunked") && coding.is_none();
                    coding = Some(if chunked { Ok(()) } else { Err("the only Transfer-Encoding understood is chunked") });
                }
                6 if name.eq_ignore_ascii_case("Expect") => waits_for_continue = true,
                // tiny_http looks at the first alone.
                10 if name.eq_ignore_ascii_case("Connection") => connection = connection.or(Some(value)),
                _ => {}
            }
        }
        let connection = connection.map(str::to_ascii_lowercase).unwrap_or_default();
        let upgrade = connection.contains("upgrade");
        let framing = match (length, coding) {
            (_, Some(Err(why))) | (Some(Err(why)), None) => Err(why),
            (Some(_), Some(Ok(()))) => Err("a body has either a Content-Length or a Transfer-Encoding"),
            (None, Some(Ok(()))) if old => Err("HTTP/1.0 has no Transfer-Encoding"),
            // tiny_http doesn't decode the body of a request that asks for another protocol.
            (None, Some(Ok(()))) if upgrade => Err("a request to upgrade can't have a chunked body"),
            (None, Some(Ok(()))) => Ok(Framing::Chunked),
            (Some(Ok(length)), None) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::Length(0)),
        };
        Head {
            method: match request.method() {
                tiny_http::Method::Get | tiny_http::Method::Head => Method::Get,
                tiny_http::Method::Post => Method::Post,
                _ => Method::Other,
            },
            body_has_arrived: coding.is_none()
                && match request.body_length() {
                    None | Some(0) => true,
                    Some(length) => length <= BODY_READ_AHEAD && !waits_for_continue && !upgrade,
                },
            framing,
            content_type,
            is_head: *request.method() == tiny_http::Method::Head,
            connection: if connection.contains("close") || upgrade {
                Connection::Closes
            } else if !old {
                Connection::Stays
            } else if connection.contains("keep-alive") {
                Connection::StaysAsAsked
            } else {
                Connection::Closes
            },
        }
    }

    /// The Content-Type of `request`, whose head this is.
    pub fn content_type<'a>(&self, request: &'a Request) -> Option<&'a str> {
        self.content_type.and_then(|at| request.headers().get(at)).map(|header| header.value.as_str())
    }

    /// Has the answer say that it is the last of its connection.
    pub fn closing(self) -> Head {
        Head { connection: Connection::Closes, ..self }
    }
}

/// Digits alone: no sign, no space within, no list (RFC 9110, 8.6).
fn content_length(value: &str) -> Result<usize, &'static str> {
    let digits = value.trim_matches([' ', '\t']);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("Content-Length is not a number");
    }
    digits.parse().map_err(|_| "Content-Length is beyond all measure")
}

/// Answers `request`, and calls `before_next` when the answer is on its way and before any later answer of the connection can
/// be. Blocks until the earlier requests of its connection are answered, and first of all until its body has come, if that
/// has not been read; afterwards the request is gone. A peer that takes nothing for longer than `patience` is given up.
///
/// # Errors
/// What the socket says. A client that has gone away is no error: what it asked for is done.
pub fn send(request: Request, head: &Head, reply: &Reply, patience: Duration, before_next: impl FnOnce()) -> io::Result<()> {
    let bytes = to_bytes(head, reply);
    let mut writer = request.into_writer();
    let sent = write_patiently(&mut writer, &bytes, patience);
    before_next();
    match sent {
        Err(e) if is_timeout(&e) => Err(e),
        _ => Ok(()),
    }
}

fn write_patiently(writer: &mut impl Write, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    let mut last_progress = Instant::now();
    loop {
        let step = if bytes.is_empty() { writer.flush().map(|()| 0) } else { writer.write(bytes) };
        match step {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                last_progress = Instant::now();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_timeout(&e) && last_progress.elapsed() < patience => {}
            Err(e) => return Err(e),
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Answers `request` although its body has not been read, and then reads and drops the rest of it.
///
/// # Errors
/// As [`send`].
pub fn send_and_drain(request: Request, reply: &Reply) -> io::Result<()> {
    let mut response = tiny_http::Response::from_data(reply.body.as_slice()).with_status_code(reply.status);
    for (name, value) in [("Content-Type", "application/json"), ("Server", "orderd")].iter().chain(&reply.headers) {
        if let Ok(header) = tiny_http::Header::from_bytes(*name, *value) {
            response.add_header(header);
        }
    }
    request.respond(response)
}

fn to_bytes(head: &Head, reply: &Reply) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + reply.body.len());
    let reason = tiny_http::StatusCode(reply.status).default_reason_phrase();
    DATE.with_borrow_mut(|date| {
        // Writing to memory can't fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {reason}\r\nServer: orderd\r\nDate: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            reply.status,
            date.now(),
            reply.body.len()
        );
    });
    for (name, value) in &reply.headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match head.connection {
        Connection::Stays => {}
        Connection::StaysAsAsked => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Connection::Closes => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    if !head.is_head {
        out.extend_from_slice(&reply.body);
    }
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

    #[test]
    fn a_content_length_is_digits_alone() {
        assert_eq!(content_length(" 42 "), Ok(42));
        assert_eq!(content_length("007"), Ok(7));
        for bad in ["", "abc", "+5", "-1", "5, 5", "0x10", "1 2", "18446744073709551616", "99999999999999999999999"] {
            assert!(content_length(bad).is_err(), "{bad}");
        }
    }
}
