//! Unix sockets: what is promised over TCP holds there too, although such a connection has no address to be told apart by.
//!
//! That each request of a connection sees what those before it did is held in `pipelines.rs`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use orderd::{Address, Listen};

use crate::harness::{
    Folder, Local, PATIENCE, Serving, badly_framed, comes_true, created, get, head, in_status, order, poll_until, post,
    put_large_orders,
};

/// A server on a Unix socket that processes nothing.
fn listening(folder: &Folder, read_timeout: Duration) -> Local {
    Local::start(|config| {
        config.concurrency = Some(0);
        config.read_timeout = read_timeout;
        config.listen = Listen::Unix(folder.file("sock"));
    })
}

fn raw_unix(server: &impl Serving) -> UnixStream {
    let Address::Unix(path) = server.address() else { unreachable!("it listens on a Unix socket") };
    UnixStream::connect(path).unwrap()
}

#[test]
fn a_unix_client_that_never_reads_is_let_go_and_others_are_served() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_secs(3));
    let mute: Vec<_> = (0..8).map(|_| raw_unix(&server)).collect();
    std::thread::scope(|scope| {
        for mut client in &mute {
            scope.spawn(move || {
                client.set_write_timeout(Some(PATIENCE)).unwrap();
                let requests = get("/metrics").repeat(1_000);
                let cut = comes_true(2 * PATIENCE, || match client.write_all(requests.as_bytes()) {
                    Ok(()) => false,
                    Err(e) => {
                        assert!(e.kind() != std::io::ErrorKind::WouldBlock, "neither read nor closed for {PATIENCE:?}");
                        true
                    }
                });
                assert!(cut, "all was taken for {:?}, and nothing let go", 2 * PATIENCE);
            });
        }
        let begun = Instant::now();
        let (mut n, mut slowest) = (0, Duration::ZERO);
        while begun.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            server.post(order(&n.to_string())).expect(200, &created(&n.to_string()));
            slowest = slowest.max(asked.elapsed());
            n += 1;
        }
        eprintln!("{n} orders beside 8 clients that never read: the slowest took {slowest:?}");
    });
}

#[test]
fn a_silent_unix_connection_is_closed_after_the_read_timeout() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_secs(1));
    let mut half = server.client();
    half.send("POST /order HTTP/1.1\r\nHost: localhost\r\nConte").unwrap();
    let mut idle = server.client();
    idle.ask(get("/order/unknown")).expect_status(404);
    let mut late = server.client();
    late.send(head(&["Content-Length: 5000"]) + "{").unwrap();
    for client in [&mut half, &mut idle, &mut late] {
        client.set_read_timeout(PATIENCE).unwrap();
    }
    late.answer().expect_error(408, "body_too_slow");
    for mut client in [half, idle, late] {
        assert_eq!(client.read_rest().unwrap_or_default(), b"", "it is closed");
    }
    server.post(order("1")).expect(200, &created("1"));
}

#[test]
fn a_header_sent_a_byte_at_a_time_over_a_unix_socket_is_cut_in_the_end() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_millis(300));
    let mut slow = raw_unix(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    poll_until(PATIENCE, || slow.write_all(b"x").is_err());
}

/// And nothing that follows it is taken for a request, and the next connection is as welcome as the first.
#[test]
fn bad_framing_over_a_unix_socket_is_refused_once_and_blocks_no_other_connection() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_secs(30));
    let mut kept = server.client();
    for n in 0..20 {
        let mut bad = server.client();
        bad.send(badly_framed("") + &String::from_utf8(post(order("smuggled"))).unwrap()).unwrap();
        bad.set_read_timeout(PATIENCE).unwrap();
        let said = String::from_utf8(bad.read_rest().unwrap_or_default()).unwrap();
        assert!(said.starts_with("HTTP/1.1 400 ") && said.matches("HTTP/1.1").count() == 1, "{said}");
        server.post(order(&n.to_string())).expect(200, &created(&n.to_string()));
        kept.ask(get(&format!("/order/{n}"))).expect(200, &in_status(&n.to_string(), "Pending"));
    }
    assert_eq!(server.rows().len(), 20);
}

#[test]
fn absurd_lengths_over_a_unix_socket_harm_nobody() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_secs(30));
    for _ in 0..20 {
        let _ = raw_unix(&server).write_all(head(&["Content-Length: 9999999999999"]).as_bytes());
    }
    server.post(order("1")).expect(200, &created("1"));
}

/// The other end of a long answer is as far away as its reader is slow.
#[test]
fn slow_readers_over_a_unix_socket_hold_no_others_up() {
    let folder = Folder::new();
    let server = listening(&folder, Duration::from_secs(5));
    put_large_orders(&server.db(), 2, 1_000);
    let _slow: Vec<_> = (0..16)
        .map(|_| {
            let mut client = server.client();
            client.send(get("/orders/big-0").repeat(3)).unwrap();
            client
        })
        .collect();
    for n in 0..50 {
        server.post(order(&n.to_string())).expect(200, &created(&n.to_string()));
    }
}
