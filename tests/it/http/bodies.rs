//! Bodies that come in pieces, late, or not at all: chunked ones, long ones, those held back for `100 Continue`.
//!
//! Each is taken, or refused with its reason and within a time that is set. Whoever else asks meanwhile does not notice.

use std::io;
use std::time::{Duration, Instant};

use orderd::Listen;

use crate::harness::{
    CHUNKED, CONTINUE, Client, Folder, JSON, Local, PATIENCE, Process, Serving, beside, chunks, comes_true, created, get, head,
    length_of, long_order, order, poll_until, post, post_in_chunks, request,
};

const MAX_BODY: usize = 1 << 20;
/// More than a server with a fixed pool of threads for them would have.
const SLOW_BODIES: usize = 100;

/// Asserts that a connection is of use after an answer, or has been closed; that it just hangs is wrong.
#[track_caller]
fn is_of_use_or_closed(client: &mut Client) {
    client.set_read_timeout(PATIENCE).unwrap();
    match client.try_ask(get("/order/unknown")) {
        Ok(answer) => _ = answer.expect_status(404),
        Err(e) => assert!(!matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "it hangs: {e}"),
    }
}

#[test]
fn an_order_may_come_in_chunks() {
    let server = Local::idle();
    let mut client = server.client();
    for (n, bytes) in [1, 7, 50, 10_000].into_iter().enumerate() {
        let id = n.to_string();
        client.ask(post_in_chunks(&order(&id), bytes)).expect(200, &created(&id));
    }
    client.ask(get("/metrics")).expect_status(200);
}

#[test]
fn an_order_may_wait_for_100_continue() {
    for (n, framing) in [length_of(order("0")), CHUNKED.into()].iter().enumerate() {
        let server = Local::idle();
        let mut client = server.client();
        let body = order("0");
        client.send(head(&[framing, CONTINUE])).unwrap();
        assert_eq!(client.read_line().unwrap(), "HTTP/1.1 100 Continue");
        while !client.read_line().unwrap().is_empty() {}
        client.send(if n == 0 { body } else { chunks(&body, 20) }).unwrap();
        client.answer().expect(200, &created("0"));
        client.ask(get("/order/0")).expect_status(200);
    }
}

/// Such a client sends the body after a while even if it hears nothing (RFC 9110, 10.1.1), or at once.
#[test]
fn an_order_need_not_wait_for_100_continue() {
    let server = Local::idle();
    let body = order("1");
    server.ask(head(&[&length_of(&body), CONTINUE]) + &body).expect(200, &created("1"));
}

#[test]
fn an_order_of_900_kb_is_taken() {
    let server = Local::idle();
    let mut client = server.client();
    client.ask(post(long_order("1", 900_000))).expect(200, &created("1"));
    client.ask(post_in_chunks(&long_order("2", 900_000), 70_000)).expect(200, &created("2"));
    client.ask(post(long_order("3", MAX_BODY))).expect(200, &created("3"));
    client.ask(get("/order/3")).expect_status(200);
}

#[test]
fn an_order_of_2_mib_is_refused_and_the_connection_does_not_hang() {
    let server = Local::idle();
    let body = long_order("1", 2 * MAX_BODY);
    for request in [post(&body), post_in_chunks(&body, 100_000)] {
        // A connection that is closed while a body is still being sent may lose the answer, as the sender is reset: so what
        // can't be sent is no fault here, but the answer must be readable.
        let mut client = server.client();
        let _ = client.send(&request);
        client.answer().expect_error(413, "body_too_large");
        is_of_use_or_closed(&mut client);
    }
    for request in [post(long_order("2", MAX_BODY + 1)), post_in_chunks(&long_order("3", MAX_BODY + 1), MAX_BODY + 1)] {
        server.ask(request).expect_error(413, "body_too_large");
    }
    assert_eq!(server.rows(), []);
}

#[test]
fn an_order_of_2_mib_that_waits_for_100_continue_is_refused_and_the_connection_does_not_hang() {
    let server = Local::start(|config| config.read_timeout = Duration::from_secs(1));
    let body = long_order("1", 2 * MAX_BODY);
    // One that never sends the body, and one that does all the same.
    for sends in [false, true] {
        let mut client = server.client();
        client.send(head(&[&length_of(&body), CONTINUE])).unwrap();
        client.answer().expect_error(413, "body_too_large");
        if sends {
            let _ = client.send(&body);
        }
        is_of_use_or_closed(&mut client);
    }
    let mut client = server.client();
    client.send(head(&[CHUNKED, CONTINUE])).unwrap();
    let _ = client.send(chunks(&body, 100_000));
    client.answer().expect_error(413, "body_too_large");
    is_of_use_or_closed(&mut client);
    assert_eq!(server.rows(), []);
}

#[test]
fn a_refused_request_with_a_long_body_gets_its_answer_and_the_connection_does_not_hang() {
    let server = Local::start(|config| config.read_timeout = Duration::from_secs(1));
    let body = long_order("1", 100_000);
    let refused = [
        (request("POST", "/nowhere", &[JSON, &length_of(&body)], &body), 404),
        (request("POST", "/nowhere", &[JSON, CHUNKED], &chunks(&body, 5_000)), 404),
        (request("POST", "/order", &["Content-Type: text/plain", &length_of(&body)], &body), 415),
        (request("POST", "/nowhere", &[JSON, &length_of(&body), CONTINUE], ""), 404),
        (request("PUT", "/order", &[JSON, CHUNKED, CONTINUE], ""), 405),
    ];
    for (request, status) in refused {
        let mut client = server.client();
        let _ = client.send(&request);
        client.answer().expect_status(status);
        is_of_use_or_closed(&mut client);
    }
}

/// A body that a GET has is read and dropped, so that it isn't taken for the next request.
#[test]
fn a_body_that_nobody_asked_for_is_skipped() {
    let server = Local::idle();
    let mut client = server.client();
    let body = String::from_utf8(post(order("smuggled"))).unwrap();
    client.ask(request("GET", "/metrics", &[&length_of(&body)], &body)).expect_status(200);
    client.ask(request("GET", "/metrics", &[CHUNKED], &chunks(&body, 30))).expect_status(200);
    client.ask(get("/order/smuggled")).expect_status(404);
    assert_eq!(server.rows(), []);
}

#[test]
fn a_body_that_ends_early_is_refused() {
    let server = Local::idle();
    let long = long_order("1", 5_000);
    // Within a chunk the end looks like that of the body, and the JSON is what ends early.
    let ends = [(length_of(&long), &long[..4_000], 400), (CHUNKED.into(), "1", 400), (CHUNKED.into(), "fff\r\n{", 422)];
    for (framing, part, status) in ends {
        let mut client = server.client();
        client.send(head(&[&framing]) + part).unwrap();
        client.finish_sending().unwrap();
        let answer = client.answer();
        match status {
            400 => answer.expect_error(400, "incomplete_body"),
            _ => answer.expect_status(status),
        };
    }
    assert_eq!(server.rows(), []);
}

#[test]
fn a_body_that_does_not_come_is_refused_or_cut_by_its_deadline() {
    let server = Local::start(|config| config.read_timeout = Duration::from_secs(1));
    let parts = [("Content-Length: 100000", ""), (CHUNKED, ""), (CHUNKED, "fff\r\n{")];
    // All of them wait at the same time.
    let waiting = parts.map(|(framing, part)| {
        let mut client = server.client();
        client.send(head(&[framing]) + part).unwrap();
        client.set_read_timeout(PATIENCE).unwrap();
        client
    });
    for mut client in waiting {
        client.answer().expect_error(408, "body_too_slow");
        assert_eq!(client.read_rest().unwrap_or_default(), b"", "it is closed");
    }
}

/// A chunk's length, and an extension behind it, are read by the decoder before it has anything to hand on.
#[test]
fn a_line_of_chunks_that_never_ends_is_cut_by_the_deadline() {
    let server = Local::start(|config| config.read_timeout = Duration::from_secs(1));
    let mut clients = ["0", "1;x"].map(|part| (server.client(), part, false));
    clients.iter_mut().for_each(|(client, ..)| client.send(head(&[CHUNKED]) + "1").unwrap());
    let ended = comes_true(PATIENCE, || {
        clients.iter_mut().for_each(|(client, part, cut)| *cut = *cut || client.send(part).is_err());
        clients.iter().all(|(.., cut)| *cut)
    });
    assert!(ended, "a line is read for ever");
    server.post(order("1")).expect(200, &created("1"));
}

#[test]
fn however_many_bodies_are_slow_others_are_received() {
    let server = Local::idle();
    let slow: Vec<_> = (0..SLOW_BODIES)
        .map(|_| {
            let mut client = server.client();
            client.send(head(&["Content-Length: 100000"]) + "{").unwrap();
            client
        })
        .collect();
    for n in 0..10 {
        let id = format!("long-{n}");
        server.ask(post(long_order(&id, 5_000))).expect(200, &created(&id));
    }
    server.post(order("short")).expect(200, &created("short"));
    drop(slow);
    server.post(order("last")).expect(200, &created("last"));
}

/// They hold all the threads that wait for bodies, and no other.
#[test]
fn clients_that_send_a_byte_a_second_are_cut_off_and_others_hardly_notice() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--read-timeout", "3s", "--processing-time", "0s"]);
    let ((), before) = beside(&server, 4, 1_000, |_| ());
    let ((), meanwhile) = beside(&server, 4, 0, |_| {
        let mut slow: Vec<_> = (0..SLOW_BODIES).map(|_| server.client()).collect();
        slow.iter_mut().for_each(|client| client.send(head(&["Content-Length: 100000"]) + "{").unwrap());
        let mut next_byte = Instant::now();
        for client in &mut slow {
            client.set_read_timeout(Duration::from_millis(50)).unwrap();
        }
        let mut cut = 0;
        poll_until(PATIENCE, || {
            let due = Instant::now() >= next_byte;
            if due {
                next_byte += Duration::from_secs(1);
            }
            slow.retain_mut(|client| match client.read_answer(false) {
                Ok(answer) => {
                    answer.expect_error(408, "body_too_slow");
                    cut += 1;
                    false
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if due {
                        let _ = client.send("x");
                    }
                    true
                }
                Err(_) => {
                    cut += 1;
                    false
                }
            });
            slow.is_empty()
        });
        assert_eq!(cut, SLOW_BODIES);
    });
    eprintln!("99 of 100 answers within {:?} without slow clients, {:?} beside them", before.p99(), meanwhile.p99());
    assert_eq!(meanwhile.failures, [""; 0]);
    assert!(meanwhile.p99() < before.p99() * 10 + Duration::from_millis(100), "{:?}", meanwhile.p99());
    // All threads are free again.
    poll_until(PATIENCE, || server.ask(post(long_order("last", 5_000))).status == 200);
    server.stop();
}

#[test]
fn bodies_are_read_over_a_unix_socket_too() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.concurrency = Some(0);
        config.listen = Listen::Unix(folder.file("sock"));
    });
    let mut client = server.client();
    client.ask(post(order("1"))).expect(200, &created("1"));
    client.ask(post(long_order("2", 900_000))).expect(200, &created("2"));
    client.ask(post_in_chunks(&order("3"), 9)).expect(200, &created("3"));
    let body = order("a/b%");
    client.ask(head(&[&length_of(&body), CONTINUE]) + &body).expect(200, &created("a/b%"));
    client.ask(get("/order/a%2Fb%25")).expect(200, r#"{"order_id":"a/b%","status":"Pending"}"#);
    let mut client = server.client();
    let _ = client.send(post(long_order("5", 2 * MAX_BODY)));
    client.answer().expect_error(413, "body_too_large");
}
