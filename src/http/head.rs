//! What the head of a request says: method, target and headers, where its body ends, and what becomes of its connection.
//!
//! tiny_http is lenient about framing: of two lengths it takes the first, what is no length it takes for none, and it reads what
//! follows as the next request. [`Shape::of`] goes by RFC 9112 (6.3) instead, and refuses what it calls invalid. What tiny_http
//! itself has lost can't be seen here: it trims each line of a head before it is parsed, so a folded line looks like a header.
//!
//! Pure: reads a request, waits for nothing and answers nothing.

use tiny_http::HTTPVersion;

/// Bodies up to this size are in memory when tiny_http hands a request over, unless they are chunked or the client waits for
/// `100 Continue`. In bytes.
const BODY_READ_AHEAD: usize = 1_024;

/// The longest body that is read and thrown away after its request was refused, in bytes. tiny_http allocates it in one piece.
const MAX_DRAINED_BYTES: usize = 64 << 20;

/// The methods that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, and HEAD, whose answer is the same without its body.
    Get,
    /// POST.
    Post,
    /// Any other.
    Other,
}

/// The head of a request whose framing is valid.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub(super) request: &'a tiny_http::Request,
    /// The method.
    pub method: Method,
}

impl<'a> Head<'a> {
    /// The second word of the request line: a path with a query, or a whole URL.
    pub fn target(&self) -> &'a str {
        self.request.url()
    }

    /// The value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let is_named = |header: &&tiny_http::Header| header.field.as_str().as_str().eq_ignore_ascii_case(name);
        self.request.headers().iter().find(is_named).map(|header| header.value.as_str())
    }
}

/// What the head says of the rest of the exchange.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How the end of the body is found, or why it can't be.
    pub framing: Result<Framing, &'static str>,
    /// Whether the body is in memory, so that neither reading nor dropping it can block.
    pub body_has_arrived: bool,
    /// Whether the answer has no body.
    pub is_head: bool,
    /// What becomes of the connection after the answer.
    pub connection: Connection,
    /// The method.
    pub method: Method,
    /// Whether the request must never be dropped: tiny_http would then allocate what is missing of its body in one piece, and a
    /// length like this aborts the process.
    pub is_undroppable: bool,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes; 0 if it has no body.
    Length(usize),
    /// By its last chunk.
    Chunked,
}

/// What becomes of a connection after an answer. tiny_http decides the same by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// HTTP/1.1's default, so it needs no word.
    Stays,
    /// HTTP/1.0 with `keep-alive`.
    StaysAsAsked,
    /// The answer is the last one.
    Closes,
}

impl Shape {
    /// Reads what matters, in one pass over the headers.
    pub fn of(request: &tiny_http::Request) -> Shape {
        let old = *request.http_version() <= HTTPVersion(1, 0);
        let mut connection = None;
        let mut hosts = 0;
        let mut length: Option<Result<usize, &'static str>> = None;
        let mut coding: Option<Result<(), &'static str>> = None;
        let mut waits_for_continue = false;
        for header in request.headers() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            // Few names are looked for; their lengths tell most others apart.
            match name.len() {
                4 if name.eq_ignore_ascii_case("Host") => hosts += 1,
                14 if name.eq_ignore_ascii_case("Content-Length") => {
                    let this = content_length(value);
                    length = Some(match length {
                        Some(before) if before != this => Err("two Content-Length headers differ"),
                        _ => this,
                    });
                }
                17 if name.eq_ignore_ascii_case("Transfer-Encoding") => {
                    let chunked = value.eq_ignore_ascii_case("chunked") && coding.is_none();
                    coding = Some(if chunked { Ok(()) } else { Err("the only Transfer-Encoding understood is chunked") });
                }
                6 if name.eq_ignore_ascii_case("Expect") => waits_for_continue = true,
                // tiny_http looks at the first alone.
                10 if name.eq_ignore_ascii_case("Connection") => connection = connection.or(Some(value)),
                _ => {}
            }
        }
        let mentions = |word: &str| connection.is_some_and(|value| contains_ignoring_case(value, word));
        let upgrade = mentions("upgrade");
        let framing = match (length, coding) {
            _ if hosts > 1 => Err("there is more than one Host header"),
            _ if hosts == 0 && !old => Err("there is no Host header"),
            (_, Some(Err(why))) | (Some(Err(why)), None) => Err(why),
            (Some(_), Some(Ok(()))) => Err("a body has either a Content-Length or a Transfer-Encoding"),
            (None, Some(Ok(()))) if old => Err("HTTP/1.0 has no Transfer-Encoding"),
            // tiny_http doesn't decode the body of a request that asks for another protocol.
            (None, Some(Ok(()))) if upgrade => Err("a request to upgrade can't have a chunked body"),
            (None, Some(Ok(()))) => Ok(Framing::Chunked),
            (Some(Ok(length)), None) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::Length(0)),
        };
        Shape {
            framing,
            body_has_arrived: coding.is_none()
                && match request.body_length() {
                    None | Some(0) => true,
                    Some(length) => length <= BODY_READ_AHEAD && !waits_for_continue && !upgrade,
                },
            is_undroppable: request.body_length().is_some_and(|length| length > MAX_DRAINED_BYTES),
            is_head: *request.method() == tiny_http::Method::Head,
            connection: if mentions("close") || upgrade {
                Connection::Closes
            } else if !old {
                Connection::Stays
            } else if mentions("keep-alive") {
                Connection::StaysAsAsked
            } else {
                Connection::Closes
            },
            method: match request.method() {
                tiny_http::Method::Get | tiny_http::Method::Head => Method::Get,
                tiny_http::Method::Post => Method::Post,
                _ => Method::Other,
            },
        }
    }

    /// Has the answer say that it is the last of its connection.
    pub fn closing(self) -> Shape {
        Shape { connection: Connection::Closes, ..self }
    }
}

fn contains_ignoring_case(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// Digits alone: no sign, no space within, no list (RFC 9110, 8.6).
fn content_length(value: &str) -> Result<usize, &'static str> {
    let digits = value.trim_matches([' ', '\t']);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("Content-Length is not a number");
    }
    digits.parse().map_err(|_| "Content-Length is beyond all measure")
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

    #[test]
    fn a_word_is_found_in_any_case() {
        assert!(contains_ignoring_case("Keep-Alive, Upgrade", "upgrade"));
        assert!(!contains_ignoring_case("clos", "close"));
    }
}
