//! Several hosts at once: what one of them sends is nothing to another, also where both use the same port.
//!
//! A port number says nothing: thousands of hosts have it, and a host has it again for its next connection. Addresses of
//! 127.0.0.0/8 stand for hosts here.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{
    Answer, Client, Folder, Local, PATIENCE, Process, Serving, badly_framed, comes_true, connect_from, created,
    enough_descriptors, get, head, host, in_status, length_of, long_order, order, post, quick_or_slow, tcp_address,
};

/// A connection from a port of a host.
#[track_caller]
fn connect(server: &impl Serving, number: u8, port: u16) -> Client {
    let from = SocketAddrV4::new(host(number), port);
    let mut last = None;
    // A process that another test starts holds all descriptors for a moment, so an address may not be free as soon as it is closed.
    let connected = comes_true(PATIENCE, || {
        last = Some(connect_from(from, tcp_address(server)));
        !matches!(&last, Some(Err(e)) if e.kind() == io::ErrorKind::AddrNotAvailable)
    });
    match last {
        Some(Ok(stream)) if connected => Client::over(stream),
        other => panic!("cannot connect from {from}: {other:?}"),
    }
}

#[test]
fn an_order_on_its_way_from_one_host_holds_nothing_of_another_with_the_same_port() {
    let server = Local::idle();
    for round in 0..10_u16 {
        let port = 21_000 + round;
        let (mut one, mut other) = (connect(&server, 1, port), connect(&server, 2, port));
        let (id, body) = (format!("o-{round}"), long_order(&format!("o-{round}"), 2_000));
        one.send(head(&[&length_of(&body)]) + &body[..10]).unwrap();
        other.ask(get("/metrics")).expect_status(200);
        other.ask(post(order(&format!("other-{round}")))).expect_status(200);
        one.send(&body[10..]).unwrap();
        one.answer().expect(200, &created(&id));
        other.ask(get(&format!("/order/{id}"))).expect(200, &in_status(&id, "Pending"));
        drop(other);
        // The next connection from there is another one.
        connect(&server, 2, port).ask(get(&format!("/order/{id}"))).expect(200, &in_status(&id, "Pending"));
    }
}

/// What a connection asks in turn.
enum Asks {
    /// An order whose body comes later, and the part that is missing.
    Late(String, String),
    Short(String),
    Read,
}

impl Asks {
    fn number(n: usize, id: String) -> Asks {
        match n % 3 {
            0 => {
                let body = long_order(&id, 2_000);
                Asks::Late(id, body)
            }
            1 => Asks::Short(id),
            _ => Asks::Read,
        }
    }

    fn begin(&self, client: &mut Client) -> io::Result<()> {
        match self {
            Asks::Late(_, body) => client.send(head(&[&length_of(body)]) + &body[..500]),
            Asks::Short(id) => client.send(post(order(id))),
            Asks::Read => client.send(get("/order/unknown")),
        }
    }

    fn end(&self, client: &mut Client) -> io::Result<()> {
        match self {
            Asks::Late(_, body) => client.send(&body[500..]),
            _ => Ok(()),
        }
    }

    #[track_caller]
    fn check(&self, answer: &Answer) {
        match self {
            Asks::Late(id, _) | Asks::Short(id) => _ = answer.expect(200, &created(id)),
            Asks::Read => _ = answer.expect_status(404),
        }
    }
}

/// Every host has a connection from each of the ports. What it asks on all of them is under way at the same time.
#[test]
fn hosts_that_share_their_ports_are_all_answered() {
    const HOSTS: u8 = 8;
    const PORTS: u16 = 40;
    if !enough_descriptors() {
        return;
    }
    let server = Local::idle();
    let over = Instant::now() + quick_or_slow(Duration::from_secs(2), Duration::from_secs(60));
    std::thread::scope(|scope| {
        for number in 1..=HOSTS {
            let server = &server;
            scope.spawn(move || {
                let mut clients: Vec<_> = (0..PORTS).map(|n| connect(server, number, 22_000 + n)).collect();
                let mut round = 0;
                while Instant::now() < over {
                    let asks: Vec<_> = (0..clients.len())
                        .map(|n| Asks::number(round + n + number as usize, format!("{number}-{n}-{round}")))
                        .collect();
                    clients.iter_mut().zip(&asks).for_each(|(client, ask)| ask.begin(client).unwrap());
                    clients.iter_mut().zip(&asks).for_each(|(client, ask)| ask.end(client).unwrap());
                    clients.iter_mut().zip(&asks).for_each(|(client, ask)| ask.check(&client.answer()));
                    round += 1;
                }
                assert!(round > 1, "there was no load");
            });
        }
    });
}

/// In each round one host is refused for its framing and another, or the same one anew, sends good orders from the same port.
#[track_caller]
fn bad_framing_is_nothing_to(same_host: bool) {
    let server = Local::idle();
    let base = if same_host { 23_000 } else { 23_100 };
    for round in 0..20_u16 {
        let port = base + round % 10;
        let mut bad = connect(&server, 1, port);
        bad.send(badly_framed("")).unwrap();
        bad.answer().expect_error(400, "bad_framing");
        // Closed by its host, or only refused and still there, which a host that has the port again can't have.
        let kept = if same_host || round % 2 == 0 {
            drop(bad);
            None
        } else {
            Some(bad)
        };
        let mut good = connect(&server, if same_host { 1 } else { 2 }, port);
        for n in 0..5 {
            let id = format!("{round}-{n}");
            good.ask(post(order(&id))).expect(200, &created(&id));
            good.ask(get(&format!("/order/{id}"))).expect(200, &in_status(&id, "Pending"));
        }
        drop(kept);
    }
}

#[test]
fn bad_framing_of_one_host_blocks_no_other_with_the_same_port() {
    bad_framing_is_nothing_to(false);
}

#[test]
fn bad_framing_blocks_no_later_connection_of_its_host_from_the_same_port() {
    bad_framing_is_nothing_to(true);
}

/// Good clients of a second host on the ports that a first one keeps being refused on.
#[test]
fn good_requests_beside_bad_framing_on_the_same_ports_are_all_answered() {
    let server = Local::idle();
    let over = Instant::now() + quick_or_slow(Duration::from_secs(1), Duration::from_secs(10));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut answered = 0;
                while Instant::now() < over {
                    let mut good = connect(server, 2, 24_000 + n);
                    for _ in 0..5 {
                        let id = format!("{n}-{answered}");
                        good.ask(post(order(&id))).expect(200, &created(&id));
                        answered += 1;
                    }
                }
                assert!(answered > 0);
            });
            scope.spawn(move || {
                while Instant::now() < over {
                    let mut bad = connect(server, 1, 24_000 + n);
                    bad.send(badly_framed("")).unwrap();
                    bad.answer().expect_error(400, "bad_framing");
                }
            });
        }
    });
}

/// A connection that never reads is let go, and with it nothing of a host with the same port.
#[test]
fn a_client_that_never_reads_blocks_no_other_host_with_the_same_port() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--read-timeout", "1s", "--concurrency", "0"]);
    let from = |number| SocketAddrV4::new(host(number), 25_000);
    let mute: TcpStream = connect_from(from(1), tcp_address(&server)).unwrap();
    mute.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = get("/metrics").repeat(1_000);
    let cut = comes_true(2 * PATIENCE, || io::Write::write_all(&mut &mute, requests.as_bytes()).is_err());
    assert!(cut, "it is not let go");
    let mut other = connect(&server, 2, 25_000);
    (0..10).for_each(|n| _ = other.ask(post(order(&n.to_string()))).expect(200, &created(&n.to_string())));
    drop(mute);
    let mut same = connect(&server, 1, 25_000);
    (0..10).for_each(|n| _ = same.ask(get(&format!("/order/{n}"))).expect(200, &in_status(&n.to_string(), "Pending")));
    server.stop();
}
