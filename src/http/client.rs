//! What the subcommands need to talk to a running server: requests and their answers over one connection, TCP or a Unix socket.
//!
//! Knows nothing of orders, and runs on the thread of whoever asks. Every answer has a bound in time and in bytes. A server closes
//! connections that were idle for long or when it is renewed, so a request whose connection has ended is sent once more over a
//! fresh one: whatever orderd is asked may be asked twice.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::bearer::Secret;
use super::listener::Listen;
use super::probe::connect_unix;
use crate::error::Error;

/// How long the server may take to answer, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The longest body of an answer, in bytes: twice a page of orders in which JSON escapes everything.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A client of the server that listens at an address.
#[derive(Debug)]
pub struct Client {
    listen: Listen,
    authorization: String,
    patience: Duration,
    stream: Option<Stream>,
    /// What has come of the answer under way, or of the one before.
    received: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The lines of its head behind the first.
    headers: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().filter_map(|line| line.split_once(':')).find_map(|(found, value)| {
            let is_it = found.eq_ignore_ascii_case(name);
            is_it.then_some(value.trim())
        })
    }
}

impl Client {
    /// Connects when it is asked for something. Bears this token.
    pub fn new(listen: &Listen, token: Option<&Secret>) -> Client {
        let authorization = token.map_or_else(String::new, |token| format!("Authorization: {}\r\n", token.authorization()));
        Client { listen: listen.clone(), authorization, patience: PATIENCE, stream: None, received: Vec::new() }
    }

    /// The same with another bound on the time that an answer takes.
    pub fn with_patience(self, patience: Duration) -> Client {
        Client { patience, ..self }
    }

    /// Sends a request and waits for its answer. `headers` are whole lines.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub fn ask(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Result<Answer, Error> {
        let was_open = self.stream.is_some();
        let mut answer = self.try_ask(method, target, headers, body);
        if was_open && answer.as_ref().is_err_and(is_end) {
            answer = self.try_ask(method, target, headers, body);
        }
        answer.map_err(|source| self.unreachable(source))
    }

    /// What is said of a server that can't be reached.
    pub fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { address: self.listen.to_string(), source }
    }

    fn try_ask(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
        self.send(method, target, headers, body)?;
        self.receive()
    }

    /// Sends a request, over a fresh connection if there is none.
    ///
    /// # Errors
    /// What the system says; the connection has ended then.
    pub fn send(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::open(&self.listen, self.patience)?,
        };
        // A name that every server takes, wherever it listens.
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{}{headers}", self.authorization).into_bytes();
        if !body.is_empty() {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        // In one piece with its head, so that a small request costs one packet.
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Waits for the answer to what was sent last.
    ///
    /// # Errors
    /// What the system says, or that what came is no answer; the connection has ended then.
    pub fn receive(&mut self) -> io::Result<Answer> {
        let mut stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        let until = Instant::now() + self.patience;
        self.received.clear();
        let head = loop {
            if let Some(head) = Head::of(&self.received)? {
                break head;
            }
            if stream.read_more(&mut self.received, until)? == 0 {
                return Err(if self.received.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { no_http() });
            }
        };
        let end = head.length.map_or(MAX_BODY_BYTES, |length| head.bytes + length);
        while self.received.len() < end {
            if stream.read_more(&mut self.received, until)? == 0 {
                match head.length {
                    Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => break,
                }
            }
        }
        if !head.is_last {
            self.stream = Some(stream);
        }
        let body = self.received[head.bytes..self.received.len().min(end.max(head.bytes))].to_vec();
        Ok(Answer { status: head.status, headers: head.lines, body })
    }
}

/// Whether a connection that was open has ended, so that nothing is known of what was sent over it.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

fn no_http() -> io::Error {
    io::Error::other("what answers there is not HTTP")
}

/// The head of an answer.
struct Head {
    status: u16,
    lines: String,
    /// With the empty line behind it.
    bytes: usize,
    /// The length of the body; `None` if the end of the connection ends it.
    length: Option<usize>,
    /// Whether the connection ends behind the answer.
    is_last: bool,
}

impl Head {
    /// `None` if more is to come.
    fn of(received: &[u8]) -> io::Result<Option<Head>> {
        let begins_well = b"HTTP/1.".starts_with(&received[..received.len().min(7)]);
        let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return if begins_well && received.len() <= MAX_HEAD_BYTES { Ok(None) } else { Err(no_http()) };
        };
        let text = std::str::from_utf8(&received[..end]).map_err(|_| no_http())?;
        let (first, lines) = text.split_once("\r\n").unwrap_or((text, ""));
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).ok_or_else(no_http)?;
        let answer = Answer { status, headers: lines.into(), body: Vec::new() };
        let length = match answer.header("Content-Length") {
            Some(length) => Some(length.parse().ok().filter(|length| *length <= MAX_BODY_BYTES).ok_or_else(no_http)?),
            None => None,
        };
        let closes = answer.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok(Some(Head { status, bytes: end + 4, length, is_last: closes || length.is_none(), lines: answer.headers }))
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn open(listen: &Listen, patience: Duration) -> io::Result<Stream> {
        match listen {
            Listen::Tcp(address) => {
                let mut error = io::Error::from(io::ErrorKind::NotFound);
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(patience))?;
                            stream.set_write_timeout(Some(patience))?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(e) => error = e,
                    }
                }
                Err(error)
            }
            Listen::Unix(path) => {
                let stream = connect_unix(path, patience)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Ok(Stream::Unix(stream))
            }
            Listen::None => Err(io::Error::new(io::ErrorKind::Unsupported, "it listens nowhere")),
        }
    }

    /// Reads what has come. An answer that comes a byte at a time is given up as well.
    fn read_more(&mut self, into: &mut Vec<u8>, until: Instant) -> io::Result<usize> {
        let mut part = [0; 16 << 10];
        let read = match self {
            Stream::Tcp(stream) => stream.read(&mut part),
            Stream::Unix(stream) => stream.read(&mut part),
        };
        match read {
            Ok(read) if Instant::now() <= until || read == 0 => {
                into.extend_from_slice(&part[..read]);
                Ok(read)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.read_more(into, until),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time")),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_ends_by_its_length_or_with_its_connection() {
        let head = Head::of(b"HTTP/1.1 409 Conflict\r\nA: b\r\nContent-Length: 3\r\n\r\n{}\n").unwrap().unwrap();
        assert_eq!((head.status, head.bytes, head.length, head.is_last), (409, 50, Some(3), false));
        let head = Head::of(b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.length, head.is_last), (200, None, true));
        for more_to_come in ["", "HT", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n"] {
            assert!(Head::of(more_to_come.as_bytes()).unwrap().is_none(), "{more_to_come}");
        }
        for bad in ["SSH-2.0-x", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"] {
            assert!(Head::of(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// Answers each connection with these bytes and ends it.
    fn serve(answers: &'static [&'static str]) -> Listen {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen::Tcp(listener.local_addr().unwrap().to_string());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            std::thread::sleep(Duration::from_secs(60));
        });
        listen
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn what_is_asked_over_a_connection_that_has_ended_is_asked_again() {
        let mut client = Client::new(&serve(&[OK, OK]), None);
        for _ in 0..2 {
            let answer = client.ask("GET", "/", "", b"").unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
        }
    }

    #[test]
    fn who_says_nothing_or_something_else_is_given_up() {
        for (answer, says) in [("", "end of file"), ("SSH-2.0-x\r\n", "not HTTP"), ("HTTP/1.1 200 OK\r\n", "not HTTP")] {
            let answers: &'static [&'static str] = vec![answer].leak();
            let error = Client::new(&serve(answers), None).ask("GET", "/", "", b"").unwrap_err().to_string();
            assert!(error.contains(says), "{answer:?}: {error}");
        }
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen::Tcp(silent.local_addr().unwrap().to_string());
        let mut client = Client::new(&listen, None).with_patience(Duration::from_millis(100));
        assert!(client.ask("GET", "/", "", b"").unwrap_err().to_string().contains("in time"));
    }
}
