//! Where a body ends: whatever can't be told for certain is refused once, and what follows it is never taken for a request.
//!
//! A proxy in front that reads the same bytes otherwise would let one client's body become another's request (RFC 9112, 11.2).

use std::time::Duration;

use crate::harness::{JSON, Local, PATIENCE, Serving, badly_framed, created, get, length_of, order, post, request};

/// Sends `bytes`, and returns all that comes until the server closes the connection.
#[track_caller]
fn everything_said_to(server: &impl Serving, bytes: impl AsRef<[u8]>) -> String {
    let mut client = server.client();
    client.set_read_timeout(PATIENCE).unwrap();
    client.send(bytes).unwrap();
    let rest = client.read_rest().unwrap_or_else(|e| panic!("it is not closed: {e}"));
    String::from_utf8(rest).unwrap()
}

/// Asserts that a request with these headers, whose body is an order in a request of its own, gets one answer, 400, and nothing
/// else happens.
#[track_caller]
fn is_refused_once(headers: &[&str]) {
    let server = Local::idle();
    let smuggled = String::from_utf8(post(order("smuggled"))).unwrap();
    // Often, as another worker may take what follows before the first knows that it must not be looked at.
    for (method, path) in [("POST", "/order"), ("GET", "/metrics"), ("PUT", "/nowhere")].repeat(10) {
        let headers = [&[JSON], headers].concat();
        let said = everything_said_to(&server, request(method, path, &headers, &smuggled));
        assert!(said.starts_with("HTTP/1.1 400 "), "{headers:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{headers:?}: {said}");
        assert!(said.contains(r#""code":"bad_framing""#), "{headers:?}: {said}");
        assert!(said.contains("\r\nConnection: close\r\n"), "{headers:?}: {said}");
    }
    assert_eq!(server.rows(), [], "{headers:?}");
    // Others, and the same host from other ports, are as welcome as before.
    server.post(order("1")).expect(200, &created("1"));
}

#[test]
fn a_length_that_is_no_number_is_refused_once() {
    is_refused_once(&["Content-Length: abc"]);
    is_refused_once(&["Content-Length: 0x10"]);
    is_refused_once(&["Content-Length:"]);
}

#[test]
fn a_length_with_a_sign_is_refused_once() {
    is_refused_once(&["Content-Length: +5"]);
    is_refused_once(&["Content-Length: -1"]);
}

#[test]
fn a_list_of_lengths_is_refused_once() {
    is_refused_once(&["Content-Length: 5, 5"]);
}

#[test]
fn two_lengths_that_differ_are_refused_once() {
    is_refused_once(&["Content-Length: 5", "Content-Length: 6"]);
    is_refused_once(&["Content-Length: 0", "content-length: 140"]);
    // With the length that tiny_http does not look at in the second place.
    is_refused_once(&["Content-Length: 2000", "Content-Length: 0"]);
}

#[test]
fn a_length_beyond_all_measure_is_refused_once() {
    is_refused_once(&["Content-Length: 18446744073709551616"]);
    is_refused_once(&["Content-Length: 99999999999999999999999999"]);
}

#[test]
fn a_length_and_chunks_together_are_refused_once() {
    is_refused_once(&["Content-Length: 5", "Transfer-Encoding: chunked"]);
    is_refused_once(&["Transfer-Encoding: chunked", "Content-Length: 5"]);
}

#[test]
fn another_transfer_coding_is_refused_once() {
    is_refused_once(&["Transfer-Encoding: gzip"]);
    is_refused_once(&["Transfer-Encoding: gzip, chunked"]);
    is_refused_once(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]);
    is_refused_once(&["Transfer-Encoding: identity"]);
    is_refused_once(&["Transfer-Encoding:"]);
}

#[test]
fn two_lengths_that_agree_are_one() {
    let server = Local::idle();
    let body = order("1");
    let length = format!("Content-Length: {}", body.len());
    server.ask(request("POST", "/order", &[JSON, &length, &length], &body)).expect(200, &created("1"));
}

#[test]
fn what_came_before_a_refused_request_is_answered_first() {
    let server = Local::idle();
    let refused = badly_framed("{}");
    let said =
        everything_said_to(&server, [post(order("1")), get("/order/1").into(), refused.into(), post(order("2"))].concat());
    let statuses: Vec<_> = said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{said}");
    assert_eq!(server.rows().len(), 1);
}

/// Bytes of a body that are no request line would have tiny_http answer them by itself, with a second 400.
#[test]
fn a_refused_body_that_is_no_request_gets_no_answer_of_its_own() {
    let server = Local::idle();
    for body in ["nonsense\r\n\r\n", "{\"order_id\":\"1\"}\r\n\r\n", "\r\n\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let said = everything_said_to(&server, badly_framed(body));
        assert_eq!(said.matches("HTTP/1.").count(), 1, "{body:?}: {said}");
    }
}

/// The mark on a peer ages out, so that another connection from its port is served.
#[test]
fn a_body_sent_long_after_its_refused_request_is_not_looked_at() {
    let server = Local::idle();
    let mut client = server.client();
    client.send(badly_framed("")).unwrap();
    client.answer().expect_error(400, "bad_framing");
    // Either the connection is closed by now, or what is sent gets no answer.
    let _ = client.send(post(order("smuggled")));
    client.set_read_timeout(Duration::from_secs(20)).unwrap();
    assert!(!matches!(client.read_rest(), Ok(rest) if !rest.is_empty()), "there was a second answer");
    assert_eq!(server.rows(), []);
}

/// RFC 9112, 3.2. One of HTTP/1.0 need not say.
#[test]
fn a_request_that_names_no_host_or_two_is_refused_and_does_nothing() {
    let server = Local::idle();
    let body = order("1");
    let rest = format!("{JSON}\r\n{}\r\nConnection: close\r\n\r\n{body}", length_of(&body));
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nhost: 127.0.0.1\r\n"] {
        let said = everything_said_to(&server, format!("POST /order HTTP/1.1\r\n{hosts}{rest}"));
        assert!(said.starts_with("HTTP/1.1 400 "), "{hosts:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1 4").count(), 1, "{hosts:?}: {said}");
        let said = everything_said_to(&server, format!("GET /metrics HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"));
        assert!(said.starts_with("HTTP/1.1 400 "), "{hosts:?}: {said}");
    }
    assert_eq!(server.rows(), []);
}

#[test]
fn a_chunk_that_is_none_is_refused_once() {
    let server = Local::idle();
    for chunks in ["zz\r\n{}\r\n0\r\n\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "2\r\n{}XX0\r\n\r\n"] {
        let said = everything_said_to(
            &server,
            [request("POST", "/order", &[JSON, "Transfer-Encoding: chunked"], chunks).into_bytes(), post(order("2"))].concat(),
        );
        assert!(said.starts_with("HTTP/1.1 400 "), "{chunks:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{chunks:?}: {said}");
    }
    assert_eq!(server.rows(), []);
}
