//! HTTP as tiny_http hands it over and takes it back: the few headers that matter, and an answer's bytes.
//!
//! Answers are written as one buffer, which saves tiny_http's own formatting of each header. Only a request whose body has
//! not been read goes through tiny_http's `respond`, because that answers first and reads the rest of the body afterwards.
//!
//! Nothing that a client sent ever becomes part of a header.

use std::cell::RefCell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use tiny_http::{HTTPVersion, Header, Request, Response};

use crate::api::{Method, Reply};

/// Bodies up to this size are in memory when tiny_http hands a request over, unless they are chunked or the client waits for
/// `100 Continue`. In bytes.
const BODY_READ_AHEAD: usize = 1_024;

/// What the headers of a request say about how to handle it.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// HEAD counts as GET.
    pub method: Method,
    /// Whether reading the body can't block.
    pub body_has_arrived: bool,
    /// Where the Content-Type is among the headers.
    content_type: Option<usize>,
    is_head: bool,
    connection: Connection,
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
        let mut head = Head {
            method: match request.method() {
                tiny_http::Method::Get | tiny_http::Method::Head => Method::Get,
                tiny_http::Method::Post => Method::Post,
                _ => Method::Other,
            },
            body_has_arrived: request.body_length().is_none_or(|length| length <= BODY_READ_AHEAD),
            content_type: None,
            is_head: *request.method() == tiny_http::Method::Head,
            connection: Connection::Stays,
        };
        let old = *request.http_version() == HTTPVersion(1, 0);
        if old {
            head.connection = Connection::Closes;
        }
        let mut first_connection = true;
        for (at, header) in request.headers().iter().enumerate() {
            let name = header.field.as_str().as_str();
            if name.eq_ignore_ascii_case("Content-Type") {
                head.content_type.get_or_insert(at);
            } else if name.eq_ignore_ascii_case("Transfer-Encoding") || name.eq_ignore_ascii_case("Expect") {
                head.body_has_arrived = false;
            } else if name.eq_ignore_ascii_case("Connection") && first_connection {
                first_connection = false;
                let value = header.value.as_str().to_ascii_lowercase();
                if value.contains("upgrade") {
                    // tiny_http then leaves the body where it is.
                    head.body_has_arrived = false;
                }
                head.connection = if value.contains("close") || value.contains("upgrade") {
                    Connection::Closes
                } else if !old {
                    Connection::Stays
                } else if value.contains("keep-alive") {
                    Connection::StaysAsAsked
                } else {
                    Connection::Closes
                };
            }
        }
        head
    }

    /// The Content-Type of `request`, whose head this is.
    pub fn content_type<'a>(&self, request: &'a Request) -> Option<&'a str> {
        self.content_type.and_then(|at| request.headers().get(at)).map(|header| header.value.as_str())
    }
}

/// Answers `request`. Blocks until the earlier requests of its connection are answered. A client that has gone away is no
/// error: what it asked for is done.
pub fn send(request: Request, head: &Head, reply: &Reply) {
    if head.body_has_arrived {
        let bytes = to_bytes(head, reply);
        let mut writer = request.into_writer();
        let _ = writer.write_all(&bytes).and_then(|()| writer.flush());
        return;
    }
    let mut response = Response::from_data(reply.body.as_slice()).with_status_code(reply.status);
    for (name, value) in [("Content-Type", "application/json"), ("Server", "orderd")].iter().chain(&reply.headers) {
        if let Ok(header) = Header::from_bytes(*name, *value) {
            response.add_header(header);
        }
    }
    let _ = request.respond(response);
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
