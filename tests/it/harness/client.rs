//! A small HTTP/1.1 client over a TCP or Unix socket: keep-alive, pipelining, and any bytes that a test wants to send.
//!
//! It believes nothing: an answer whose framing is wrong is an error. The functions that return `io::Result` are for tests in
//! which the server may be killed; the others panic and print the whole exchange.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use orderd::Address;

/// How long to wait for the next bytes of an answer, unless a test says otherwise.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request is printed when a check fails, in bytes.
const SHOWN_BYTES: usize = 2_000;

/// A connection.
pub struct Client {
    stream: BufReader<Stream>,
    /// What was sent since the last answer began, for the report.
    sent: Vec<u8>,
}

impl Client {
    pub fn connect(address: &Address) -> io::Result<Client> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let mut client = Client { stream: BufReader::new(stream), sent: Vec::new() };
        client.set_read_timeout(READ_TIMEOUT)?;
        Ok(client)
    }

    /// One that talks over a connection which the test has made.
    pub fn over(stream: TcpStream) -> Client {
        let mut client = Client { stream: BufReader::new(Stream::Tcp(stream)), sent: Vec::new() };
        client.set_read_timeout(READ_TIMEOUT).unwrap();
        client
    }

    pub fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.sent.extend_from_slice(bytes.as_ref());
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Sends one whole request and reads its answer.
    pub fn try_ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Answer> {
        self.sent.clear();
        let to_head = request.as_ref().starts_with(b"HEAD ");
        self.send(request)?;
        self.read_answer(to_head)
    }

    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        match self.try_ask(request) {
            Ok(answer) => answer,
            Err(e) => panic!("no answer: {e}\n--- sent ---\n{}", shown(&self.sent)),
        }
    }

    /// Reads the next answer to what was sent.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        match self.read_answer(false) {
            Ok(answer) => answer,
            Err(e) => panic!("no answer: {e}\n--- sent ---\n{}", shown(&self.sent)),
        }
    }

    /// Reads an answer's head and body; one to HEAD has no body. Interim answers are skipped.
    pub fn read_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        loop {
            let answer = self.read_one(to_head)?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    /// Reads one line without its end.
    pub fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        line.strip_suffix("\r\n").map(str::to_string).ok_or_else(|| broken(format!("a line without its end: {line:?}")))
    }

    /// Whatever comes until the server closes the connection.
    pub fn read_rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }

    fn read_one(&mut self, to_head: bool) -> io::Result<Answer> {
        let first = self.read_line()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .or(first.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse::<u16>().ok())
            .ok_or_else(|| broken(format!("no status line: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("no header: {line:?}")))?;
            headers.push((name.to_string(), value.trim().to_string()));
        }
        let mut answer = Answer { sent: shown(&self.sent), first, status, headers, body: String::new() };
        let body = if to_head || status < 200 { Vec::new() } else { self.read_body(&answer)? };
        answer.body = String::from_utf8(body).map_err(|e| broken(format!("a body that is not UTF-8: {e}")))?;
        Ok(answer)
    }

    fn read_body(&mut self, head: &Answer) -> io::Result<Vec<u8>> {
        if head.header("Transfer-Encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.read_line()?;
                let length = usize::from_str_radix(&line, 16).map_err(|_| broken(format!("no chunk: {line:?}")))?;
                self.read_exactly(length, &mut body)?;
                self.read_line()?;
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        match head.header("Content-Length") {
            Some(length) => {
                let length = length.parse().map_err(|_| broken(format!("no length: {length:?}")))?;
                let mut body = Vec::new();
                self.read_exactly(length, &mut body).map(|()| body)
            }
            None => self.read_rest(),
        }
    }

    fn read_exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let read = (&mut self.stream).take(length as u64).read_to_end(into)?;
        if read == length { Ok(()) } else { Err(broken(format!("{read} of {length} bytes of a body"))) }
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
    if bytes.len() > SHOWN_BYTES { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What came back, and what it came back to. Its checks print both.
#[derive(Debug, Clone)]
pub struct Answer {
    sent: String,
    first: String,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The value of a header, which may come only once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} comes twice{}", self.exchange());
        value
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(e) => panic!("the body is no JSON: {e}{}", self.exchange()),
        }
    }

    /// Checks the status, the body to the letter (a newline follows it), and that it says it is JSON.
    #[track_caller]
    pub fn expect(&self, status: u16, body: &str) -> &Answer {
        self.expect_status(status);
        assert!(self.body == format!("{body}\n"), "expected the body {body:?} and a newline{}", self.exchange());
        self
    }

    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Answer {
        assert!(self.status == status, "expected {status}{}", self.exchange());
        self.expect_header("Content-Type", "application/json")
    }

    #[track_caller]
    pub fn expect_header(&self, name: &str, value: &str) -> &Answer {
        assert!(self.header(name) == Some(value), "expected {name}: {value}{}", self.exchange());
        self
    }

    #[track_caller]
    pub fn expect_no_header(&self, name: &str) -> &Answer {
        assert!(self.header(name).is_none(), "expected no {name}{}", self.exchange());
        self
    }

    /// Checks an error of the newer kind: `{"detail":"…","code":"…"}`, in this order, with something to read in `detail`.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> &Answer {
        self.expect_status(status);
        let detail = self.json()["detail"].as_str().unwrap_or_default().to_string();
        assert!(!detail.is_empty(), "expected a detail{}", self.exchange());
        let detail = serde_json::to_string(&detail).unwrap();
        self.expect(status, &format!(r#"{{"detail":{detail},"code":"{code}"}}"#))
    }

    /// The whole exchange, for the message of a failed check.
    pub fn exchange(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!("\n--- sent ---\n{}\n--- got ---\n{}\n{headers}\n{}---", self.sent, self.first, self.body)
    }
}
