//! One connection, many manners: older HTTP, closing, HEAD, and words of which tiny_http alone makes the wrong thing.
//!
//! What may be pipelined is held in `pipelines.rs`.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use orderd::Address;

use crate::harness::{
    Client, Local, PATIENCE, Serving, created, get, in_status, old, order, post, request, resets_when_closed, with,
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
