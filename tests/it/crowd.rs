//! Crowds: many keep-alive connections opened at once, none of which closes before all are answered.
//!
//! Without the door tiny_http leaves some of them waiting until others close, see `hazards.rs`; the door's nudge every second
//! alone would release one a second. So the deadlines here can be generous and still tell: what is left to that takes minutes.
//! The slowest answer of each burst is printed (`--nocapture`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use orderd::Address;

use crate::harness::{Folder, Local, PATIENCE, Process, Serving, get, poll_until};
use crate::worker::Worker;

/// When all must have been answered.
const DEADLINE: Duration = Duration::from_secs(10);
/// What these tests need at most, and some for others that run at the same time.
const DESCRIPTORS: u64 = 4_096;

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Raises our own limit of open files. Says whether there are enough.
fn enough_descriptors() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < DESCRIPTORS && hard >= DESCRIPTORS {
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard).unwrap();
    }
    if hard < DESCRIPTORS {
        eprintln!("skipped: {hard} open files are allowed here, and {DESCRIPTORS} are needed");
    }
    hard >= DESCRIPTORS
}

fn connect(address: &Address) -> Box<dyn Connection> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            Box::new(stream)
        }
    }
}

/// Has every connection ask at once, and returns when the last was answered. All stay open until then.
#[track_caller]
fn all_are_answered(open: impl Fn(usize) -> Box<dyn Connection>, connections: usize) -> Duration {
    let started = Instant::now();
    let ask = |n| {
        let mut connection = open(n);
        connection.write_all(get("/order/unknown").as_bytes()).unwrap();
        connection
    };
    let mut crowd: Vec<_> = (0..connections).map(ask).collect();
    for (n, connection) in crowd.iter_mut().enumerate() {
        let mut first = [0; 12];
        let read = connection.read_exact(&mut first);
        assert!(read.is_ok(), "connection {n} of {connections} waits after {:?}: {read:?}", started.elapsed());
        assert_eq!(&first, b"HTTP/1.1 404");
        assert!(started.elapsed() < DEADLINE, "{n} of {connections} answered after {:?}", started.elapsed());
    }
    let slowest = started.elapsed();
    eprintln!("{connections} connections at once: all answered within {slowest:?}");
    slowest
}

/// Three rounds right after the start, and three after a spell so quiet that tiny_http's spare threads have gone.
#[track_caller]
fn crowds_are_served(server: &Process, connections: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    let at_first = Worker::of(server).threads();
    for _ in 0..2 {
        times.extend((0..3).map(|_| all_are_answered(|_| connect(server.address()), connections)));
        quiet(server, at_first);
    }
    times
}

/// Waits until few of tiny_http's threads are left. The nudges keep some awake.
#[track_caller]
fn quiet(server: &Process, threads_at_first: usize) {
    poll_until(PATIENCE, || Worker::of(server).threads() <= threads_at_first + 10);
}

#[track_caller]
fn a_new_server_serves_crowds_of(connections: usize) {
    if enough_descriptors() {
        let folder = Folder::new();
        let server = Process::start(&folder, &[]);
        crowds_are_served(&server, connections);
        server.stop();
    }
}

/// Few would be released by the nudge every second before any generous deadline, so here many rounds tell.
#[test]
fn eight_connections_at_once_are_all_answered() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let mut times = crowds_are_served(&server, 8);
    times.extend((0..10).map(|_| all_are_answered(|_| connect(server.address()), 8)));
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(500), "half of the bursts waited for a nudge: {times:?}");
    server.stop();
}

#[test]
fn sixty_four_connections_at_once_are_all_answered() {
    a_new_server_serves_crowds_of(64);
}

#[test]
fn a_thousand_connections_at_once_are_all_answered() {
    a_new_server_serves_crowds_of(1_000);
}

#[test]
fn two_thousand_connections_at_once_are_all_answered() {
    a_new_server_serves_crowds_of(2_000);
}

#[test]
fn two_hundred_connections_at_once_over_a_unix_socket_are_all_answered() {
    let folder = Folder::new();
    let mut command = crate::harness::orderd(&folder);
    command.args(["--listen", &format!("unix:{}", folder.file("sock").display())]);
    let server = Process::spawn(command, &folder);
    crowds_are_served(&server, 200);
    server.stop();
}

/// The library has all of the door.
#[test]
fn a_crowd_is_served_by_an_embedded_server_too() {
    let server = Local::idle();
    for _ in 0..3 {
        all_are_answered(|_| connect(server.address()), 200);
    }
}

/// A host has only so many ports, and a proxy in front uses each of them again and again.
#[test]
fn a_crowd_from_ports_that_were_used_before_is_served_too() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let Address::Tcp(address) = *server.address() else { unreachable!("it listens on TCP") };
    let at_first = Worker::of(&server).threads();
    // An address of our own, so that nobody else has a port of it.
    let [_, _, c, d] = std::process::id().to_be_bytes();
    let ports: Vec<_> = (20_000..20_200).map(|port| SocketAddr::from(([127, 1, c, d], port))).collect();
    for _ in 0..3 {
        all_are_answered(|n| Box::new(connect_from(ports[n], address)), ports.len());
        quiet(&server, at_first);
    }
    server.stop();
}

/// Has it end with a reset when it is closed, which frees its port at once.
pub fn resets_when_closed(socket: &impl AsFd) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(socket, sockopt::Linger, &at_once).unwrap();
}

/// A connection from a port of our choice, which leaves it free when it is closed.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { unreachable!("both are loopback") };
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    resets_when_closed(&socket);
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(from)).unwrap();
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}
