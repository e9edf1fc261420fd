//! What tiny_http 0.12 does by itself, shown on a bare server of it: the reasons for much of `http` and for the supervisor.
//!
//! These are controls. If one fails after an update of tiny_http, the hazard is gone, and so can be what holds it in orderd.
//! A hazard that ends the process is shown in a process of its own: this test binary, told to run one ignored test.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{PATIENCE, Worker, comes_true};

/// How long to wait for an answer that should not come. One that comes late would only hide a hazard, never show one.
const A_WHILE: Duration = Duration::from_millis(300);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: bare\r\n\r\n";

/// tiny_http as its documentation has it: so many threads that read a body and answer.
struct Bare {
    http: Arc<tiny_http::Server>,
    workers: usize,
}

impl Bare {
    fn start(workers: usize) -> Bare {
        let http = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
        for _ in 0..workers {
            let http = http.clone();
            std::thread::spawn(move || {
                for mut request in http.incoming_requests() {
                    let _ = request.as_reader().read_to_end(&mut Vec::new());
                    let _ = request.respond(tiny_http::Response::from_string("hello"));
                }
            });
        }
        Bare { http, workers }
    }

    fn connect(&self) -> TcpStream {
        connect(self.http.server_addr().to_ip().unwrap())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        (0..self.workers).for_each(|_| self.http.unblock());
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    stream
}

/// Whether anything comes within a while.
fn hears(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1_024]) {
        Ok(read) => read > 0,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// Hazard 1, which nudges mend.
#[test]
fn of_eight_connections_at_once_some_wait_until_others_close() {
    // It takes bad luck, of which there is plenty: seldom does it need a second round.
    let waited = comes_true(PATIENCE, || {
        let server = Bare::start(2);
        let mut crowd: Vec<_> = (0..8).map(|_| server.connect()).collect();
        crowd.iter_mut().for_each(|connection| connection.write_all(GET).unwrap());
        let (served, mut waiting): (Vec<_>, Vec<_>) =
            crowd.into_iter().map(|mut connection| (hears(&mut connection), connection)).partition(|(heard, _)| *heard);
        drop(served);
        // The others have left.
        waiting.iter().for_each(|(_, connection)| connection.set_read_timeout(Some(PATIENCE)).unwrap());
        !waiting.is_empty() && waiting.iter_mut().all(|(_, connection)| hears(connection))
    });
    assert!(waited, "every burst was served at once");
}

/// Hazard 2: such a request must never be dropped.
#[test]
fn one_request_aborts_the_whole_process() {
    let mut server = BareProcess::start();
    connect(server.address).write_all(b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999\r\n\r\n").unwrap();
    let mut status = None;
    let ended = comes_true(PATIENCE, || {
        status = server.child.try_wait().unwrap();
        status.is_some()
    });
    assert!(ended, "it lives");
    assert_eq!(status.and_then(|status| status.signal()), Some(nix::libc::SIGABRT));
}

/// Hazard 3, which the supervisor's limit of memory mends.
#[test]
fn a_header_without_an_end_is_collected() {
    const SENT: usize = 8 << 20;
    let server = BareProcess::start();
    let memory = || Worker::with_id(server.child.id()).resident_bytes();
    let before = memory();
    let mut client = connect(server.address);
    client.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    (0..SENT >> 16).for_each(|_| client.write_all(&[b'x'; 1 << 16]).unwrap());
    assert!(comes_true(PATIENCE, || memory() >= before + SENT as u64), "it does not grow");
}

/// Hazard 6, which a pool of its own for what blocks mends.
#[test]
fn a_slow_body_holds_a_worker() {
    let server = Bare::start(1);
    let (mut slow, mut other) = (server.connect(), server.connect());
    slow.write_all(b"POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n{").unwrap();
    // The worker has taken it once it waits for the body, and nothing tells; so the other asks until it is not answered.
    let held = comes_true(PATIENCE, || {
        other.write_all(GET).unwrap();
        !hears(&mut other)
    });
    assert!(held, "the worker is free");
    drop(slow);
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(hears(&mut other));
}

/// Hazard 11, which a look at the framing before the body mends.
#[test]
fn a_body_of_unclear_length_is_taken_for_a_request() {
    let server = Bare::start(2);
    for header in ["Content-Length: abc", "Content-Length: 18446744073709551616", "Content-Length: 0\r\nContent-Length: 30"] {
        let mut client = server.connect();
        let first = format!("POST / HTTP/1.1\r\n{header}\r\n\r\n");
        let last = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        client.write_all([first.as_bytes(), last.as_bytes()].concat().as_slice()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{header}: {answers}");
    }
}

/// Not among the numbered ones: tiny_http means to answer 505, but waits for the end of the very request that it refuses. The
/// connection's thread and descriptors are lost, and nobody hears of it.
#[test]
fn a_request_of_http_2_is_never_answered_nor_let_go() {
    let server = Bare::start(1);
    let mut client = server.connect();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let heard = client.read(&mut [0; 64]);
    assert!(heard.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "not even closed: {heard:?}");
}

/// The bare server in a process of its own.
struct BareProcess {
    child: Child,
    address: SocketAddr,
}

impl BareProcess {
    fn start() -> BareProcess {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["http::hazards::the_bare_server_in_its_own_process", "--exact", "--ignored", "--nocapture"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| line.split_once("bare: ")?.1.parse().ok());
        BareProcess { child, address: address.unwrap() }
    }
}

impl Drop for BareProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "serves until its standard input is closed; started by the tests above"]
#[expect(clippy::print_stdout, reason = "its parent reads the address there")]
fn the_bare_server_in_its_own_process() {
    let server = Bare::start(2);
    println!("bare: {}", server.http.server_addr());
    let _ = std::io::stdin().read(&mut [0]);
}
