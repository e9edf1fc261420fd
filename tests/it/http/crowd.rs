//! Crowds: many keep-alive connections opened at once, none of which closes before all are answered.
//!
//! Without nudges tiny_http leaves some of them waiting until others close, see `hazards.rs`; the nudge that comes every second
//! alone would release one a second. So the deadlines here can be generous and still tell: what is left to that takes minutes.
//! The slowest answer of each burst is printed (`--nocapture`).

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use orderd::Address;

use crate::harness::{
    Folder, Local, PATIENCE, Process, Serving, Worker, connect_from, created, enough_descriptors, get, host, is_slow_run,
    left_out, long_order, orderd, poll_until, post, quick_or_slow, tcp_address,
};

/// When all must have been answered.
const DEADLINE: Duration = Duration::from_secs(10);
trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

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

/// Has so many connections ask at once, three times.
#[track_caller]
fn crowds_are_served(server: &Process, connections: usize) -> Vec<Duration> {
    (0..3).map(|_| all_are_answered(|_| connect(server.address()), connections)).collect()
}

/// Waits until few of tiny_http's threads are left. The nudges keep some awake.
#[track_caller]
fn quiet(server: &Process, threads_at_first: usize) {
    poll_until(PATIENCE, || Worker::of(server).threads() <= threads_at_first + 10);
}

fn listening_on_a_unix_socket(folder: &Folder) -> Process {
    let mut command = orderd(folder);
    command.args(["--listen", &format!("unix:{}", folder.file("sock").display())]);
    Process::spawn(command, folder)
}

/// Few would be released by the nudge every second before any generous deadline, so here many rounds tell.
#[test]
fn eight_connections_at_once_are_all_answered() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let mut times: Vec<_> = (0..16).map(|_| all_are_answered(|_| connect(server.address()), 8)).collect();
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(500), "half of the bursts waited for a nudge: {times:?}");
    server.stop();
}

#[test]
fn crowds_of_up_to_two_thousand_connections_at_once_are_all_answered() {
    if enough_descriptors() {
        let folder = Folder::new();
        let server = Process::start(&folder, &[]);
        [64, 1_000, 2_000].iter().for_each(|connections| _ = crowds_are_served(&server, *connections));
        server.stop();
    }
}

#[test]
fn two_hundred_connections_at_once_over_a_unix_socket_are_all_answered() {
    let folder = Folder::new();
    let server = listening_on_a_unix_socket(&folder);
    crowds_are_served(&server, 200);
    server.stop();
}

/// Then tiny_http's spare threads have gone.
#[test]
fn crowds_after_a_quiet_spell_are_all_answered() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    for connections in [8, 64, 200, 1_000, 2_000].into_iter().filter(|connections| *connections < 200 || enough_descriptors()) {
        let server = if connections == 200 { listening_on_a_unix_socket(&folder) } else { Process::start(&folder, &[]) };
        let at_first = Worker::of(&server).threads();
        for _ in 0..3 {
            crowds_are_served(&server, connections);
            quiet(&server, at_first);
        }
        server.stop();
    }
}

/// The library has all of it.
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
    let at_first = Worker::of(&server).threads();
    let from = |n: usize| SocketAddrV4::new(host(0), 20_000 + n as u16);
    for _ in 0..3 {
        all_are_answered(
            |n| {
                let stream = connect_from(from(n), tcp_address(&server)).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                Box::new(stream)
            },
            200,
        );
        // With the threads that served them, and in a slow run also without.
        if is_slow_run() {
            quiet(&server, at_first);
        }
    }
    server.stop();
}

/// Orders that tiny_http does not read ahead. Once only 64 of them could come at a time, and the others were refused or cut.
#[test]
fn a_crowd_that_posts_orders_of_two_kilobytes_is_served_like_one_of_small_ones() {
    const THREADS: usize = 8;
    if !enough_descriptors() {
        return;
    }
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let connections = quick_or_slow(200, 1_000) / THREADS;
    let spell = quick_or_slow(Duration::from_secs(2), Duration::from_secs(20));
    let stored: usize = std::thread::scope(|scope| {
        let server = &server;
        let post_for_a_spell = |thread: usize| {
            let mut crowd: Vec<_> = (0..connections).map(|_| server.client()).collect();
            let (over, mut stored) = (Instant::now() + spell, 0);
            while Instant::now() < over {
                let id = |n: usize| format!("{thread}-{}", stored + n);
                for (n, client) in crowd.iter_mut().enumerate() {
                    client.send(post(long_order(&id(n), 2_000))).unwrap();
                }
                for (n, client) in crowd.iter_mut().enumerate() {
                    client.set_read_timeout(PATIENCE).unwrap();
                    client.answer().expect(200, &created(&id(n)));
                }
                stored += crowd.len();
            }
            stored
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || post_for_a_spell(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    eprintln!("{stored} orders of 2 kB in {spell:?}");
    assert_eq!(server.metrics().total, stored as u64);
    server.stop();
}
