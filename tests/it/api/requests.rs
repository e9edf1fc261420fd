//! The API, row by row and error by error: what is asked over a socket, and what comes back to the letter.
//!
//! Bodies that are no orders are in `input`; what becomes of an order later is in `processing`.

use crate::harness::{Answer, Local, Serving, created, get, in_status, largest_order, order, post, request};

const EMPTY_METRICS: &str =
    r#"{"total_orders":0,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":0}}"#;
const NO_SUCH_PATH: &str = r#"{"detail":"Not Found"}"#;
const NO_SUCH_ORDER: &str = r#"{"detail":"Order not found"}"#;

#[test]
fn a_new_order_is_answered_as_it_always_was() {
    let server = Local::idle();
    server.post(order("123")).expect(200, &created("123")).expect_no_header("Idempotent-Replayed");
    server.get("/order/123").expect(200, r#"{"order_id":"123","status":"Pending"}"#);
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":1,"average_processing_time":0.0,"status_counts":{"Pending":1,"Processing":0,"Completed":0}}"#,
    );
}

#[test]
fn an_empty_server_has_metrics_and_is_healthy() {
    let server = Local::start(|_| {});
    server.get("/metrics").expect(200, EMPTY_METRICS);
    server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
}

#[test]
fn a_full_order_is_taken() {
    let server = Local::idle();
    // The longest ids, in bytes, and the longest list: a body that tiny_http does not read ahead.
    let id = format!("{}x", "ä".repeat(127));
    let body = largest_order(&id).replace("user1", &id);
    server.post(&body).expect(200, &created(&id));
    server.post(&body).expect(200, &created(&id)).expect_header("Idempotent-Replayed", "true");
}

#[test]
fn unknown_fields_are_ignored() {
    let server = Local::idle();
    let body = r#"{"note":{"a":[1,null]},"order_id":"1","user_id":"u","item_ids":["i"],"total_amount":0,"z":"é"}"#;
    server.post(body).expect(200, &created("1"));
    server.post(r#"{"total_amount":0,"item_ids":["i"],"user_id":"u","order_id":"1"}"#).expect(200, &created("1"));
    assert_eq!(server.metrics().total, 1);
}

#[test]
fn the_same_order_again_is_answered_again_and_stored_once() {
    let server = Local::idle();
    server.post(order("1")).expect(200, &created("1")).expect_no_header("Idempotent-Replayed");
    for body in [order("1"), order("1").replace("100.0", "1e2"), order("1").replace(',', " ,\n")] {
        server.post(body).expect(200, &created("1")).expect_header("Idempotent-Replayed", "true");
    }
    assert_eq!(server.metrics().total, 1);
    assert_eq!(server.rows()[0].total_amount, "100.0");
}

#[test]
fn another_order_with_the_same_id_is_a_conflict_whichever_field_differs() {
    let server = Local::idle();
    server.post(order("1")).expect_status(200);
    let before = server.rows();
    for (was, is) in [
        ("user1", "user2"),
        ("100.0", "100.01"),
        (r#"["item1","item2"]"#, r#"["item2","item1"]"#),
        (r#"["item1","item2"]"#, r#"["item1"]"#),
    ] {
        server.post(order("1").replace(was, is)).expect_error(409, "order_id_conflict").expect_no_header("Idempotent-Replayed");
    }
    assert_eq!(server.rows(), before);
}

#[test]
fn orders_that_differ_in_the_case_of_their_id_are_two() {
    let server = Local::idle();
    for id in ["a", "A", "a ", "ä", "a\u{308}"] {
        server.post(order(id)).expect(200, &created(id)).expect_no_header("Idempotent-Replayed");
    }
    assert_eq!(server.metrics().total, 5);
    server.get("/order/%61").expect(200, &in_status("a", "Pending"));
}

#[test]
fn an_id_in_a_path_is_percent_decoded_after_the_path_is_split() {
    let server = Local::idle();
    for (id, path) in [
        ("a/b", "/order/a%2Fb"),
        ("a/b/../c", "/order/a%2fb%2f..%2fc"),
        ("ä €", "/order/%C3%A4%20%E2%82%AC"),
        ("100%", "/order/100%25"),
        ("%2F", "/order/%252F"),
        ("a?b#c", "/order/a%3Fb%23c?x=1"),
        ("a+b", "/order/a+b"),
        ("..", "/order/.."),
    ] {
        server.post(order(id)).expect(200, &created(id));
        server.get(path).expect(200, &in_status(id, "Pending"));
    }
    server.get("/order/a/b").expect(404, NO_SUCH_PATH);
}

#[test]
fn an_id_that_needs_escapes_in_json_is_given_back_with_them() {
    let server = Local::idle();
    server.post(order(r#"a\"b\\c\u00e4\/d"#)).expect(200, r#"{"message":"Order created","order_id":"a\"b\\cä/d"}"#);
    server.get("/order/a%22b%5Cc%C3%A4%2Fd").expect(200, r#"{"order_id":"a\"b\\cä/d","status":"Pending"}"#);
}

#[test]
fn an_unknown_order_is_not_found() {
    Local::idle().get("/order/nobody").expect(404, NO_SUCH_ORDER);
}

#[test]
fn an_unknown_path_is_not_found() {
    let server = Local::idle();
    for path in ["/orde", "/order/1/2", "/metrics/", "/metrics/x", "//metrics", "/METRICS", "/healthz/live"] {
        server.get(path).expect(404, NO_SUCH_PATH);
    }
    server.ask(request("DELETE", "/nowhere", &[], "")).expect(404, NO_SUCH_PATH);
}

#[test]
fn a_query_does_not_change_the_path() {
    let server = Local::idle();
    server.get("/metrics?a=/b").expect(200, EMPTY_METRICS);
    server.get("/order/1?x").expect(404, NO_SUCH_ORDER);
    server.ask("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect(200, EMPTY_METRICS);
}

#[test]
fn a_bad_id_in_a_path_is_refused() {
    let server = Local::idle();
    let long = format!("/order/{}", "i".repeat(10_000));
    // Without an id there is no such path, as it always was.
    server.get("/order/").expect(404, r#"{"detail":"Not Found"}"#);
    for path in ["/order/%", "/order/%4", "/order/%zz", "/order/%ff", "/order/%00", "/order/a%0Ab", &long] {
        server.get(path).expect_error(400, "bad_order_id");
    }
}

#[test]
fn a_wrong_method_is_refused_with_the_allowed_ones() {
    let server = Local::idle();
    let json = ["Content-Type: application/json", "Content-Length: 0"];
    for (method, path, allow) in [
        ("GET", "/order", "POST"),
        ("HEAD", "/order", "POST"),
        ("PUT", "/order", "POST"),
        ("OPTIONS", "/order", "POST"),
        ("POST", "/order/1", "GET, HEAD"),
        ("DELETE", "/order/1", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PATCH", "/healthz", "GET, HEAD"),
        ("BREW", "/healthz", "GET, HEAD"),
    ] {
        let answer = server.ask(request(method, path, &json, ""));
        answer.expect_header("Allow", allow);
        match method {
            "HEAD" => assert_eq!((answer.status, answer.body.as_str()), (405, ""), "{}", answer.exchange()),
            _ => _ = answer.expect_error(405, "method_not_allowed"),
        }
    }
}

#[test]
fn head_answers_like_get_without_a_body() {
    let server = Local::idle();
    server.post(order("1")).expect_status(200);
    let mut client = server.client();
    for path in ["/order/1", "/metrics", "/healthz", "/order/nobody", "/nowhere", "/order/%"] {
        let full = client.ask(get(path));
        let head = client.ask(request("HEAD", path, &[], ""));
        assert_eq!((head.status, head.body.as_str()), (full.status, ""), "{}", head.exchange());
        head.expect_header("Content-Type", "application/json");
        head.expect_header("Content-Length", &full.body.len().to_string());
    }
    // The connection is still in step.
    client.ask(get("/order/1")).expect(200, &in_status("1", "Pending"));
}

#[test]
fn a_body_that_does_not_say_it_is_json_is_refused_with_the_words_that_curl_lacks() {
    let server = Local::idle();
    let body = order("1");
    let length = format!("Content-Length: {}", body.len());
    let (mut hint, mut answer_body) = (String::new(), String::new());
    for content_type in [
        None,
        Some("Content-Type: application/x-www-form-urlencoded"),
        Some("Content-Type: text/plain"),
        Some("Content-Type: multipart/form-data; boundary=application/json"),
        Some("Content-Type: application/jsonp"),
        Some("Content-Type:"),
    ] {
        let headers: Vec<_> = content_type.into_iter().chain([length.as_str()]).collect();
        let answer = server.ask(request("POST", "/order", &headers, &body));
        hint = answer.expect_error(415, "not_json").json()["detail"].as_str().unwrap().to_string();
        answer_body = answer.body;
    }
    server.get("/metrics").expect(200, EMPTY_METRICS);

    // Pasted behind the line that was refused, it works, as JSON escapes nothing of it.
    let words = hint.split_once("add: ").expect("what to add").1;
    assert_eq!(words, "-H 'Content-Type: application/json'");
    assert!(answer_body.contains(words), "{answer_body}");
    let header = words.trim_start_matches("-H '").trim_end_matches('\'');
    server.ask(request("POST", "/order", &[header, &length], &body)).expect(200, &created("1"));
}

#[test]
fn a_body_that_says_it_is_json_in_any_of_the_ways_is_taken() {
    let server = Local::idle();
    let kinds = ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json;v=1", "application/json "];
    for (id, kind) in ["1", "2", "3", "4"].iter().zip(kinds) {
        let body = order(id);
        let headers = [format!("content-type: {kind}"), format!("content-length: {}", body.len())];
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        server.ask(request("POST", "/order", &headers, &body)).expect(200, &created(id));
    }
}

/// RFC 9112, 9.3.2: only safe requests may overtake each other.
#[test]
fn a_request_does_not_see_what_was_ordered_behind_it() {
    let server = Local::idle();
    let mut client = server.client();
    let ids: Vec<_> = (0..200).map(|n| format!("o-{n}")).collect();
    let pairs = ids.iter().flat_map(|id| [get(&format!("/order/{id}")).into_bytes(), post(order(id))]);
    client.send(pairs.flatten().collect::<Vec<_>>()).unwrap();
    for id in &ids {
        client.answer().expect(404, NO_SUCH_ORDER);
        client.answer().expect(200, &created(id));
    }
}

#[test]
fn one_order_sent_by_many_at_once_is_stored_once() {
    let server = Local::idle();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| server.post(order("one")))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    answers.iter().for_each(|answer| _ = answer.expect(200, &created("one")));
    let new = answers.iter().filter(|answer| answer.header("Idempotent-Replayed").is_none()).count();
    assert_eq!((new, server.metrics().total), (1, 1));
}
