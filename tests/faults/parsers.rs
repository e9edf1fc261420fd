//! Mutated bodies, paths, queries and heads: no panic, and what is accepted is given back equal.
//!
//! A corpus of good and nearly good ones is changed a little and a lot by a generator whose seed is printed, so that every run is
//! the same. Bodies go to the parser itself, whose result is compared with another reading of the same JSON, and a sample of what
//! it takes goes through a server and back. Whole requests go to the server. The control is the number that was accepted: if all
//! were refused, nothing would be compared.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};

use orderd::order::NewOrder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::harness::{Client, Folder, PATIENCE, Process, Serving, get, order, post, raw};
use crate::load::Chance;
use crate::runner::{Outcome, rounds};

const SEED: u64 = 0x5eed_0001;
/// How many send requests at a time, each from a seed of its own.
const SENDERS: u64 = 4;

const BODIES: [&str; 14] = [
    r#"{"order_id":"a-1","user_id":"user1","item_ids":["item1","item2"],"total_amount":100.0}"#,
    r#"{"total_amount":1e2,"item_ids":["i"],"user_id":"ü","order_id":"b\u0041\n"}"#,
    r#" { "order_id" : "c" , "user_id" : "u" , "item_ids" : [ "x" ] , "total_amount" : 0 , "note" : [ {} , null , true , -1.5e-3 ] } "#,
    r#"{"order_id":"d","order_id":"e","user_id":"u","item_ids":["x"],"total_amount":12345678901234567890.123456789}"#,
    r#"{"order_id":"","user_id":"u","item_ids":[],"total_amount":-1}"#,
    r#"{"order_id":1,"user_id":null,"item_ids":{"a":1},"total_amount":"1"}"#,
    r#"{"order_id":"\ud83d\ude00","user_id":"\ud83d","item_ids":["a","b","c"],"total_amount":0.10}"#,
    r#"{"order_id":"f/../g?h=1&i#j%2F","user_id":"u v","item_ids":["\\","\"","/"],"total_amount":1E+5}"#,
    r#"{"order_id":"g","user_id":"u","item_ids":["x"],"total_amount":NaN}"#,
    r#"[{"order_id":"h"}]"#,
    r#"{"order_id":"i","user_id":"u","item_ids":["x","x","x","x","x","x","x","x"],"total_amount":0.1e-9223372036854775808}"#,
    r#"{"order_id":"j","user_id":"u","item_ids":["x"],"total_amount":1,"a":{"b":{"c":{"d":[[[[[[[]]]]]]]}}}}"#,
    "\"text\"",
    "",
];

/// What is put into a body or a request where it hurts.
const PIECES: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "1e999999999999999999",
    "-0",
    "\u{0}",
    "\u{7f}",
    "\u{2028}",
    "\\u0000",
    "\\ud800",
    "%",
    "%2F",
    "%zz",
    "\r\n",
    "\n",
    " ",
    "\t",
    "\u{10ffff}",
];

const REQUESTS: [&str; 11] = [
    "GET /order/a-1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /orders?status=Pending&user_id=user1&limit=5&after=1 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    "GET /orders/a%2F1 HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;q=0.5, application/openmetrics-text\r\n\r\n",
    "GET http://localhost/healthz HTTP/1.0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\n\r\n",
    "POST /orders/a-1/retry HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
    "POST /order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 77\r\n\r\n\
     {\"order_id\":\"p-1\",\"user_id\":\"user1\",\"item_ids\":[\"item1\"],\"total_amount\":100.0}",
    "POST /order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
     4d\r\n{\"order_id\":\"q-1\",\"user_id\":\"user1\",\"item_ids\":[\"item1\"],\"total_amount\":100.0}\r\n0\r\n\r\n",
    "POST /order HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:8000\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n\r\n",
];

/// A connection that begins so takes a while, so only one in two hundred does.
const OF_HTTP_2: [&str; 1] = ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];

/// Changes one of `corpus` a few times.
fn mutated(chance: &mut Chance, corpus: &[&str]) -> Vec<u8> {
    let mut bytes = corpus[chance.below(corpus.len())].as_bytes().to_vec();
    // Half of them hardly, so that many are still taken.
    for _ in 0..[0, 1, 1, 2, 4, 12][chance.below(6)] {
        let at = chance.below(bytes.len() + 1);
        let to = (at + chance.below(12)).min(bytes.len());
        match chance.below(8) {
            0 => _ = bytes.get_mut(at).map(|byte| *byte ^= 1 << chance.below(8)),
            1 => _ = bytes.get_mut(at).map(|byte| *byte = chance.next() as u8),
            2 => _ = bytes.drain(at..to),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..to].repeat(1 + chance.below(40));
                bytes.splice(at..at, again);
            }
            5 => {
                let other = corpus[chance.below(corpus.len())].as_bytes();
                let (from, end) = (chance.below(other.len() + 1), other.len());
                bytes.splice(at..to, other[from..end].iter().copied().take(40));
            }
            6 => _ = bytes.get_mut(at).map(|byte| *byte = b"0123456789abcxyz"[chance.below(16)]),
            _ => _ = bytes.splice(at..at, PIECES[chance.below(PIECES.len())].bytes()),
        }
    }
    bytes
}

/// Another reading of the same body. One in which a field is repeated is not read.
#[derive(Deserialize)]
struct Sent<'a> {
    order_id: String,
    user_id: String,
    item_ids: Vec<String>,
    #[serde(borrow)]
    total_amount: &'a RawValue,
}

pub fn mutated_bodies_are_refused_or_given_back_equal() -> Outcome {
    let bodies = rounds(50_000, 200_000, 900_000)?;
    let samples = rounds(100, 800, 2_000)?;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let mut client = server.client();
    let mut chance = Chance(SEED);
    let (mut accepted, mut compared, mut returned) = (0, 0, 0);
    for _ in 0..bodies {
        let body = mutated(&mut chance, &BODIES);
        let Ok(order) = NewOrder::from_json(&body) else { continue };
        accepted += 1;
        if let Ok(sent) = serde_json::from_slice::<Sent<'_>>(&body) {
            let same = sent.order_id == order.order_id.as_str()
                && sent.user_id == order.user_id
                && sent.item_ids == order.item_ids
                && sent.total_amount.get() == order.total_amount.as_str();
            assert!(same, "seed {SEED:#x}: {:?} is read as {order:?}", String::from_utf8_lossy(&body));
            compared += 1;
        }
        if returned < samples {
            returned += usize::from(comes_back(&mut client, &order, &body));
        }
    }
    assert!(
        accepted > bodies / 20 && compared > accepted / 2,
        "{accepted} accepted, {compared} compared: too few to say anything"
    );
    assert!(returned > samples / 2, "{returned} came back: too few to say anything");
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    server.stop();
    Ok(format!(
        "seed {SEED:#x}: {bodies} bodies, {accepted} accepted and {compared} equal, {returned} given back equal by a server"
    ))
}

/// Sends a body that the parser takes and reads it back. Says whether it was new, as some others have the same id.
#[track_caller]
fn comes_back(client: &mut Client, order: &NewOrder, body: &[u8]) -> bool {
    let answer = client.ask(post(body));
    if answer.status == 409 || answer.header("Idempotent-Replayed").is_some() {
        return false;
    }
    answer.expect_status(200);
    let id: String = order.order_id.as_str().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let record = client.ask(get(&format!("/orders/{id}")));
    let json = record.expect_status(200).json();
    assert_eq!(json["order_id"], order.order_id.as_str(), "{}", record.exchange());
    assert_eq!(json["user_id"], order.user_id, "{}", record.exchange());
    assert_eq!(json["item_ids"], serde_json::json!(order.item_ids), "{}", record.exchange());
    let amount = format!("\"total_amount\":{},", order.total_amount.as_str());
    assert!(record.body.contains(&amount), "expected {amount}{}", record.exchange());
    // The newest of its user, whose name goes through a query.
    let user: String = order.user_id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let page = client.ask(get(&format!("/orders?user_id={user}&limit=1")));
    assert_eq!(page.expect_status(200).json()["data"][0]["order_id"], order.order_id.as_str(), "{}", page.exchange());
    true
}

pub fn mutated_requests_are_answered_and_leave_the_server_whole() -> Outcome {
    let requests = rounds(500, 10_000, 100_000)?;
    let folder = Folder::new();
    // Short, as some requests wait for more although the client has said that there is none.
    let server = Process::start(&folder, &["--concurrency", "0", "--read-timeout", "200ms"]);
    let (answered, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in SEED..SEED + SENDERS {
            let (server, answered, good) = (&server, &answered, &good);
            scope.spawn(move || {
                let mut chance = Chance(seed);
                for _ in 0..requests / SENDERS as usize {
                    let corpus = if chance.below(200) == 0 { &OF_HTTP_2[..] } else { &REQUESTS };
                    let first = first_line_to(server, seed, &mutated(&mut chance, corpus));
                    answered.fetch_add(usize::from(!first.is_empty()), Ordering::Relaxed);
                    good.fetch_add(usize::from(first.starts_with("HTTP/1.1 200")), Ordering::Relaxed);
                }
            });
        }
    });
    let (answered, good) = (answered.into_inner(), good.into_inner());
    assert!(good > requests / 50, "{good} of {requests} were good ones: too few to say anything");
    server.post(order("afterwards")).expect_status(200);
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    server.stop();
    Ok(format!("seeds from {SEED:#x}: {requests} requests, {answered} answered, {good} with 200, no panic"))
}

/// Sends a request on a connection of its own. Gives back the first line of the answer, which must be one of HTTP, if there is any.
#[track_caller]
fn first_line_to(server: &Process, seed: u64, request: &[u8]) -> String {
    let sent = format!("seed {seed:#x}: {:?}", String::from_utf8_lossy(request));
    let mut connection = raw(server);
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    // Whoever is refused early may find the door closed.
    let _ = connection.write_all(request).and_then(|()| connection.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(e) = connection.read_to_end(&mut answer) {
        assert!(e.kind() == ErrorKind::ConnectionReset, "{e} after {sent}");
    }
    let first = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    assert!(first.is_empty() || first.starts_with("HTTP/"), "{sent} is answered with {first:?}");
    assert!(!first.contains(" 500 "), "{sent} is answered with {first:?}");
    first
}
