//! The one rule of `http`: a connection has one request under way, and what follows waits in that connection's queue.
//!
//! So the requests of a connection are answered in order, and each sees what those before it did, whatever their bodies are
//! like. And no request that waits for another of its connection keeps a thread, so no such crowd stops the server.

use std::io;
use std::time::Duration;

use orderd::Listen;

use crate::harness::{
    Conversation, Folder, Local, Process, Serving, Worker, badly_framed, created, get, head, in_status, length_of, long_order,
    order, post, quick_or_slow, request,
};

#[test]
fn each_request_of_a_connection_sees_what_those_before_it_did() {
    let server = Local::idle();
    let rounds = quick_or_slow(20, 200);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..rounds {
                    Conversation::about(&format!("{client}-{round}")).on(&mut server.client());
                }
            });
        }
    });
    assert_eq!(server.metrics().total, 8 * rounds * 6);
}

/// With as few workers as there can be, and with more than there are cores.
#[test]
fn each_request_of_a_connection_sees_what_those_before_it_did_however_many_workers_there_are() {
    for workers in [1, 16] {
        let server = Local::start(|config| {
            config.concurrency = Some(0);
            config.workers = workers;
        });
        let mut client = server.client();
        (0..20).for_each(|round| Conversation::about(&round.to_string()).on(&mut client));
    }
}

#[test]
fn each_request_of_a_unix_connection_sees_what_those_before_it_did() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.listen = Listen::Unix(folder.file("sock"));
    });
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..quick_or_slow(10, 100) {
                    Conversation::about(&format!("{client}-{round}")).on(&mut server.client());
                }
            });
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_and_each_sees_the_orders_before_it() {
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.workers = 8;
    });
    for round in 0..5 {
        let mut client = server.client();
        let id = |n: usize| format!("{round}-{n}");
        for n in 0..100 {
            client.send(post(order(&id(n)))).unwrap();
            client.send(get(&format!("/order/{}", id(n)))).unwrap();
            client.send(get("/metrics")).unwrap();
        }
        for n in 0..100 {
            client.answer().expect(200, &created(&id(n)));
            client.answer().expect(200, &in_status(&id(n), "Pending"));
            let total = client.answer().expect_status(200).json()["total_orders"].as_u64().unwrap();
            assert!(total > round * 100 + n as u64, "{total} orders after {round} rounds and {n}");
        }
    }
}

#[test]
fn pipelined_requests_of_many_connections_do_not_wait_for_each_other() {
    let server = Local::idle();
    let mut clients: Vec<_> = (0..16).map(|_| server.client()).collect();
    for (c, client) in clients.iter_mut().enumerate() {
        (0..20).for_each(|n| client.send(post(order(&format!("{c}-{n}")))).unwrap());
    }
    // Those who asked last are read first.
    for (c, client) in clients.iter_mut().enumerate().rev() {
        (0..20).for_each(|n| _ = client.answer().expect(200, &created(&format!("{c}-{n}"))));
    }
}

/// What follows a request whose body is late waits, and others don't.
#[test]
fn a_late_body_holds_its_own_connection_alone() {
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.workers = 1;
    });
    let mut late = server.client();
    let body = long_order("late", 2_000);
    late.send(head(&[&length_of(&body)]) + &body[..100]).unwrap();
    server.post(order("other")).expect(200, &created("other"));
    server.get("/order/late").expect_status(404);
    late.send(body[100..].to_string() + &get("/order/late")).unwrap();
    late.answer().expect(200, &created("late"));
    late.answer().expect(200, &in_status("late", "Pending"));
}

/// Whether an error says that the connection was closed, rather than that nothing came.
fn says_closed(e: &io::Error) -> bool {
    !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// In each round a crowd of connections sends `tail` right behind a valid order. The order must be answered, and `tail` refused
/// or its connection closed, while everybody else is served.
#[track_caller]
fn an_order_before_what_is_refused_hangs_nobody(server: &impl Serving, tail: &str, refused: u16, rounds: usize) {
    for round in 0..rounds {
        let mut crowd: Vec<_> = (0..24).map(|_| server.client()).collect();
        // All have been accepted, so that their requests come together.
        server.get("/healthz").expect_status(200);
        let id = |n: usize| format!("{round}-{n}");
        for (n, client) in crowd.iter_mut().enumerate() {
            client.send([post(order(&id(n))), tail.as_bytes().to_vec()].concat()).unwrap();
        }
        server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
        for (n, client) in crowd.iter_mut().enumerate() {
            client.answer().expect(200, &created(&id(n)));
            match client.read_answer(false) {
                Ok(answer) => _ = answer.expect_status(refused),
                Err(e) => assert!(says_closed(&e), "round {round}: connection {n} hangs behind its order: {e}"),
            }
        }
    }
}

#[test]
fn a_badly_framed_request_behind_a_valid_order_hangs_nobody() {
    for flags in
        [&["--concurrency", "0"][..], &["--concurrency", "0", "--workers", "4"], &["--concurrency", "0", "--workers", "1"]]
    {
        let folder = Folder::new();
        let server = Process::start(&folder, flags);
        an_order_before_what_is_refused_hangs_nobody(&server, &badly_framed(""), 400, quick_or_slow(10, 20));
        assert!(Worker::of(&server).lives());
        server.stop();
    }
}

#[test]
fn a_badly_framed_request_behind_a_valid_order_hangs_nobody_over_a_unix_socket() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.listen = Listen::Unix(folder.file("sock"));
    });
    an_order_before_what_is_refused_hangs_nobody(&server, &badly_framed(""), 400, quick_or_slow(5, 20));
}

#[test]
fn what_is_refused_for_its_media_type_or_its_length_behind_a_valid_order_hangs_nobody() {
    let server = Local::idle();
    let text = request("POST", "/order", &["Content-Type: text/plain", "Content-Length: 5000"], &"x".repeat(5_000));
    an_order_before_what_is_refused_hangs_nobody(&server, &text, 415, quick_or_slow(3, 20));
    let server = Local::idle();
    let too_long = head(&["Content-Length: 9999999"]);
    an_order_before_what_is_refused_hangs_nobody(&server, &too_long, 413, quick_or_slow(3, 20));
}

/// No request here is an invalid one. While many slow bodies are waited for, one more may be told to come back, and what came
/// before it on its connection is answered all the same.
#[test]
fn a_valid_order_before_one_that_comes_slowly_hangs_nobody_while_many_are_slow() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let slow: Vec<_> = (0..64)
        .map(|_| {
            let mut client = server.client();
            client.send(head(&["Content-Length: 5000"]) + "{").unwrap();
            client
        })
        .collect();
    let begun = head(&["Content-Length: 2000"]) + "{";
    for round in 0..quick_or_slow(15, 60) {
        let mut crowd: Vec<_> = (0..20).map(|_| server.client()).collect();
        server.get("/healthz").expect_status(200);
        let id = |n: usize| format!("{round}-{n}");
        for (n, client) in crowd.iter_mut().enumerate() {
            client.send([post(order(&id(n))), begun.clone().into_bytes()].concat()).unwrap();
        }
        server.get("/metrics").expect_status(200);
        for (n, client) in crowd.iter_mut().enumerate() {
            client.answer().expect(200, &created(&id(n)));
        }
    }
    drop(slow);
    server.stop();
}

/// The server goes on also when those who asked do not stay to hear it.
#[test]
fn crowds_that_leave_without_their_answers_hang_nobody() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0", "--workers", "4"]);
    for round in 0..quick_or_slow(10, 50) {
        let mut crowd: Vec<_> = (0..40).map(|_| server.client()).collect();
        for (n, client) in crowd.iter_mut().enumerate() {
            client.send([post(order(&format!("{round}-{n}"))), badly_framed("").into_bytes()].concat()).unwrap();
        }
        drop(crowd);
        let mut client = server.client();
        client.set_read_timeout(Duration::from_secs(10)).unwrap();
        client.ask(post(order(&format!("good-{round}")))).expect(200, &created(&format!("good-{round}")));
    }
    server.stop();
}
