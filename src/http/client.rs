//! What the subcommands need to talk to a running server: one request, one answer, over TCP or a Unix socket.
//!
//! Operators' commands go through the server, as it alone owns the database.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Deserialize;

use super::listener::Listen;
use super::percent;
use crate::error::Error;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, by the address that it is configured to listen on.
pub struct Client<'a>(pub &'a Listen);

#[derive(Deserialize)]
struct Page {
    data: Vec<Failed>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    order_id: String,
}

#[derive(Deserialize)]
struct Detail {
    detail: String,
}

impl Client<'_> {
    /// Has a failed order tried again.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or [`Error::Refused`] with what the server says.
    pub fn retry(&self, order_id: &str) -> Result<(), Error> {
        match self.ask("POST", &retry_path(order_id))? {
            (200, _) => Ok(()),
            (status, body) => Err(refused(order_id, status, &body)),
        }
    }

    /// Has every order that has failed by now tried again, and says how many.
    ///
    /// # Errors
    /// As [`Client::retry`]. Those before the one that was refused have been put back.
    pub fn retry_failed(&self) -> Result<usize, Error> {
        let (mut retried, mut after) = (0, String::new());
        loop {
            let (status, body) = self.ask("GET", &format!("/orders?status=Failed&limit=100{after}"))?;
            let page: Page = match serde_json::from_slice(&body) {
                Ok(page) if status == 200 => page,
                _ => return Err(refused("the list of failed orders", status, &body)),
            };
            for Failed { order_id } in page.data {
                match self.ask("POST", &retry_path(&order_id))? {
                    (200, _) => retried += 1,
                    // Somebody else has had it tried again, or has removed it.
                    (404 | 409, _) => {}
                    (status, body) => return Err(refused(&order_id, status, &body)),
                }
            }
            match page.next {
                Some(next) => after = format!("&after={}", percent::encode(&next)),
                None => return Ok(retried),
            }
        }
    }

    fn ask(&self, method: &str, path: &str) -> Result<(u16, Vec<u8>), Error> {
        let unreachable = |source| Error::Unreachable { address: self.0.to_string(), source };
        let mut answer = Vec::new();
        // A name that every server takes, wherever it listens.
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        match self.0 {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).map_err(unreachable)?;
                stream.set_read_timeout(Some(PATIENCE)).and_then(|()| exchange(stream, &request, &mut answer))
            }
            Listen::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(unreachable)?;
                stream.set_read_timeout(Some(PATIENCE)).and_then(|()| exchange(stream, &request, &mut answer))
            }
            Listen::None => Err(std::io::Error::other("there is no address")),
        }
        .map_err(unreachable)?;
        parse(answer).ok_or_else(|| unreachable(std::io::Error::other("what answers there is not HTTP")))
    }
}

fn retry_path(order_id: &str) -> String {
    format!("/orders/{}/retry", percent::encode(order_id))
}

fn exchange(mut stream: impl Read + Write, request: &str, answer: &mut Vec<u8>) -> std::io::Result<()> {
    stream.write_all(request.as_bytes())?;
    stream.read_to_end(answer).map(drop)
}

/// The status and the body. The server closes the connection behind the body and never chunks it.
fn parse(mut answer: Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[..end]).ok()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer.split_off(end + 4)))
}

fn refused(what: &str, status: u16, body: &[u8]) -> Error {
    let said = serde_json::from_slice::<Detail>(body).map_or_else(|_| format!("status {status}"), |body| body.detail);
    Error::Refused(format!("{what}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_body() {
        assert_eq!(parse(b"HTTP/1.1 409 Conflict\r\nA: b\r\n\r\n{}\n".to_vec()), Some((409, b"{}\n".to_vec())));
        for bad in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(bad.into()), None, "{bad}");
        }
    }
}
