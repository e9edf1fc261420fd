//! One connection, many manners: older HTTP, closing, pipelining, HEAD, and words that tiny_http alone makes of the wrong thing.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use orderd::{Address, Listen};

use crate::harness::{
    Client, Folder, Local, PATIENCE, Serving, created, get, in_status, long_order, old, order, post, post_in_chunks,
    quick_or_slow, request, resets_when_closed, with,
};

/// Asserts that nothing more comes and the server closes the connection, long before the read timeout does.
#[track_caller]
fn is_closed(client: &mut Client) {
    client.set_read_timeout(Duration::from_secs(15)).unwrap();
    match client.read_rest() {
        Ok(rest) => assert_eq!(String::from_utf8_lossy(&rest), ""),
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "it is not closed"),
    }
}

#[test]
fn http_1_0_is_answered_and_closed_unless_it_asks_to_stay() {
    let server = Local::idle();
    let mut client = server.client();
    client.ask(old(post(order("1")))).expect(200, &created("1")).expect_header("Connection", "close");
    is_closed(&mut client);
    // It need not say which host it means.
    server.ask("GET /order/1 HTTP/1.0\r\n\r\n").expect(200, &in_status("1", "Pending")).expect_header("Connection", "close");

    let mut client = server.client();
    for _ in 0..3 {
        let stay = with(old(get("/order/1")), "Connection: Keep-Alive");
        client.ask(stay).expect(200, &in_status("1", "Pending")).expect_header("Connection", "keep-alive");
    }
    client.ask(old(get("/order/1"))).expect(200, &in_status("1", "Pending")).expect_header("Connection", "close");
    is_closed(&mut client);
}

#[test]
fn a_connection_stays_open_unless_told_otherwise() {
    let server = Local::idle();
    let mut client = server.client();
    (0..3).for_each(|_| _ = client.ask(get("/metrics")).expect_status(200).expect_no_header("Connection"));
    client.ask(request("GET", "/metrics", &["Connection: close"], "")).expect_status(200);
    is_closed(&mut client);
}

#[test]
fn connection_close_is_obeyed_and_said() {
    let server = Local::idle();
    for request in [post(order("1")), get("/order/1").into(), get("/nowhere").into(), get("/healthz").into()] {
        let mut client = server.client();
        assert_eq!(client.ask(with(&request, "Connection: close")).header("Connection"), Some("close"));
        is_closed(&mut client);
        let mut client = server.client();
        assert_eq!(client.ask(with(&request, "connection: Foo, CLOSE")).header("Connection"), Some("close"));
        is_closed(&mut client);
    }
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
    let server = Local::start(|config| config.concurrency = Some(0));
    let mut clients: Vec<_> = (0..16).map(|_| server.client()).collect();
    for (c, client) in clients.iter_mut().enumerate() {
        (0..20).for_each(|n| client.send(post(order(&format!("{c}-{n}")))).unwrap());
    }
    // Those who asked last are read first.
    for (c, client) in clients.iter_mut().enumerate().rev() {
        (0..20).for_each(|n| _ = client.answer().expect(200, &created(&format!("{c}-{n}"))));
    }
}

/// Orders whose bodies come in chunks, in one piece, and after tiny_http has handed over their request; each with its id.
fn posts_of_all_kinds(round: usize) -> Vec<(String, Vec<u8>)> {
    let short = |id: &str| post(order(id));
    let long = |id: &str| post(long_order(id, 5_000));
    let chunked = |id: &str| post_in_chunks(&order(id), 9);
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|n| format!("{round}-{n}"));
    let posts = [chunked(&a), short(&b), long(&c), short(&d), chunked(&e), long(&f)];
    [a, b, c, d, e, f].into_iter().zip(posts).collect()
}

#[test]
fn bodies_of_all_kinds_may_be_pipelined_and_what_follows_sees_their_orders() {
    let server = Local::idle();
    for round in 0..100 {
        let mut client = server.client();
        let posts = posts_of_all_kinds(round);
        // Soon after those whose bodies come late, as these are what might be overtaken.
        for pair in posts.chunks(2) {
            pair.iter().for_each(|(_, post)| client.send(post).unwrap());
            pair.iter().for_each(|(id, _)| client.send(get(&format!("/order/{id}"))).unwrap());
        }
        for pair in posts.chunks(2) {
            pair.iter().for_each(|(id, _)| _ = client.answer().expect(200, &created(id)));
            pair.iter().for_each(|(id, _)| _ = client.answer().expect(200, &in_status(id, "Pending")));
        }
    }
}

#[test]
fn bodies_of_all_kinds_may_be_pipelined_over_a_unix_socket_too() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.workers = 1;
        config.listen = Listen::Unix(folder.file("sock"));
    });
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..quick_or_slow(20, 100) {
                    let posts = posts_of_all_kinds(1_000 * client + round);
                    let mut client = server.client();
                    posts.iter().for_each(|(_, post)| client.send(post).unwrap());
                    // Here what follows need not see the orders, but must not hold them up either.
                    client.send(get("/metrics").repeat(20)).unwrap();
                    posts.iter().for_each(|(id, _)| _ = client.answer().expect(200, &created(id)));
                    (0..20).for_each(|_| _ = client.answer().expect_status(200));
                }
            });
        }
    });
}

#[test]
fn head_has_the_length_of_get_and_no_body_also_in_a_pipeline() {
    let server = Local::idle();
    server.post(order("1")).expect(200, &created("1"));
    let length = server.get("/order/1").header("Content-Length").unwrap().to_string();
    let mut client = server.client();
    for path in ["/order/1", "/order/1"] {
        client.send(request("HEAD", path, &[], "")).unwrap();
    }
    client.send(get("/order/1")).unwrap();
    for _ in 0..2 {
        let answer = client.read_answer(true).unwrap();
        assert_eq!((answer.status, answer.header("Content-Length")), (200, Some(length.as_str())));
    }
    client.answer().expect(200, &in_status("1", "Pending"));
    client.ask(old(request("HEAD", "/order/1", &[], ""))).expect_header("Connection", "close");
    is_closed(&mut client);
}

/// tiny_http leaves such a body unread and takes the rest of the connection for another protocol's.
#[test]
fn a_request_to_upgrade_is_answered_as_usual_and_closed() {
    let server = Local::idle();
    let upgrade = "Connection: Upgrade\r\nUpgrade: h2c";
    let mut client = server.client();
    client.ask(with(post(order("1")), upgrade)).expect(200, &created("1"));
    is_closed(&mut client);
    // What follows on the connection is not looked at.
    let mut client = server.client();
    client.send(with(post(order("2")), upgrade)).unwrap();
    let _ = client.send(post(order("3")));
    client.answer().expect(200, &created("2"));
    is_closed(&mut client);
    assert_eq!(server.get("/order/3").status, 404);
    server.ask(with(get("/order/1"), upgrade)).expect(200, &in_status("1", "Pending"));
}

/// RFC 9110, 10.1.1.
#[test]
fn an_expectation_that_nobody_knows_is_refused() {
    let server = Local::idle();
    let mut client = server.client();
    assert_eq!(client.ask(with(post(order("1")), "Expect: nonsense")).status, 417);
    is_closed(&mut client);
    assert_eq!(server.rows(), []);
}

/// What no parser takes costs its own connection alone, however it is refused.
#[test]
fn lines_that_are_no_http_end_their_connection() {
    let server = Local::idle();
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let nonsense: [&[u8]; 11] = [
        b"?\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \xff\xfe\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: bare\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        long_path.as_bytes(),
    ];
    for bytes in nonsense {
        let mut client = server.client();
        client.send(bytes).unwrap();
        let _ = client.finish_sending();
        client.set_read_timeout(PATIENCE).unwrap();
        let said = client.read_rest().unwrap_or_default();
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&said));
    }
    server.get("/metrics").expect_status(200);
}

#[test]
fn connections_reset_in_the_middle_of_everything_do_no_harm() {
    let server = Local::start(|config| config.concurrency = Some(0));
    let whole = post(order("1"));
    for cut_after in 0..whole.len() {
        let Address::Tcp(address) = *server.address() else { unreachable!("it listens on TCP") };
        let mut client = TcpStream::connect(address).unwrap();
        resets_when_closed(&client);
        client.write_all(&whole[..cut_after]).unwrap();
    }
    assert_eq!(server.rows(), [], "it was never whole");
    server.post(order("2")).expect(200, &created("2"));
}

#[test]
fn pipelines_are_answered_in_order_over_a_unix_socket_too() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.listen = Listen::Unix(folder.file("sock"));
    });
    let mut client = server.client();
    (0..50).for_each(|n| client.send([post(order(&n.to_string())), get("/metrics").into()].concat()).unwrap());
    for n in 0..50 {
        client.answer().expect(200, &created(&n.to_string()));
        client.answer().expect_status(200);
    }
    client.ask(old(get("/order/1"))).expect_header("Connection", "close");
    is_closed(&mut client);
}
