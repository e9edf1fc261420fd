//! `GET /openapi.json`, held to what the server does: every example is sent, and every answer must be one that it describes.
//!
//! That it has every route, code and limit of the code is held beside it, in `src/api/openapi.rs`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Document, Local, Operation, Serving, by_hand, entries, get, length_of, order, post, request, with};

/// A server in which there is an order for every example, in this status.
fn with_orders(document: &Document, status: &str) -> Local {
    let server = Local::idle();
    let content = &document.operation("POST", "/order").value["requestBody"]["content"]["application/json"];
    for (_, example) in entries(&content["examples"]) {
        server.post(example["value"].to_string()).expect_status(200);
    }
    let sql = format!("UPDATE orders SET status = '{status}', attempts = 5");
    by_hand(&server.db(), &sql);
    server
}

/// The requests that the examples of an operation make: one for each example, with the first one of whatever else is required.
fn requests(document: &Document, operation: Operation<'_>) -> Vec<Vec<u8>> {
    let (mut targets, mut queries) = (vec![operation.path.to_string()], vec![String::new()]);
    let of_both = [&operation.item["parameters"], &operation.value["parameters"]];
    for parameter in of_both.into_iter().filter_map(Value::as_array).flatten().map(|parameter| document.resolved(parameter)) {
        let name = parameter["name"].as_str().unwrap();
        let values: Vec<_> = entries(&parameter["examples"]).map(|(_, example)| encoded(&example["value"])).collect();
        assert!(!values.is_empty(), "{name} of {} has no example", operation.path);
        if parameter["in"] == "path" {
            let place = format!("{{{name}}}");
            targets = targets.iter().flat_map(|path| values.iter().map(|value| path.replace(&place, value))).collect();
        } else {
            queries.extend(values.iter().map(|value| format!("?{name}={value}")));
        }
    }
    let bodies: Vec<_> = entries(&operation.value["requestBody"]["content"]["application/json"]["examples"])
        .map(|(_, example)| example["value"].to_string())
        .collect();
    let all = targets.iter().flat_map(|target| queries.iter().map(move |query| format!("{target}{query}")));
    all.flat_map(|target| match bodies.as_slice() {
        [] => without_a_body(operation, &target),
        bodies => bodies.iter().map(post).collect(),
    })
    .collect()
}

/// One for each form of the answer, and one that does not care.
fn without_a_body(operation: Operation<'_>, target: &str) -> Vec<Vec<u8>> {
    let plain = request(operation.method, target, &["Content-Length: 0"], "");
    let forms =
        entries(&operation.value["responses"]["200"]["content"]).map(|(form, _)| with(&plain, &format!("Accept: {form}")));
    [plain.clone()].into_iter().chain(forms).map(String::into_bytes).collect()
}

/// As it stands in a target.
fn encoded(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}

#[test]
fn the_document_is_openapi_and_is_given_to_who_asks() {
    let server = Local::idle();
    let answer = server.get("/openapi.json");
    let document = answer.expect_status(200).json();
    assert_eq!((&document["openapi"], &document["info"]["title"]), (&"3.1.0".into(), &"orderd".into()));
    let head = server.ask(request("HEAD", "/openapi.json", &[], ""));
    head.expect_header("Content-Length", &answer.body.len().to_string());
}

#[test]
fn every_example_is_answered_as_the_document_says() {
    let document = Document::of(&Local::idle());
    let mut sent = 0;
    for operation in document.operations() {
        let mut statuses = BTreeSet::new();
        for status in ["", "Pending", "Failed"] {
            let server = if status.is_empty() { Local::idle() } else { with_orders(&document, status) };
            for request in requests(&document, operation) {
                let answer = server.ask(&request);
                document.expect(operation, &answer);
                let form = String::from_utf8(request).unwrap().split_once("Accept: ").map(|(_, rest)| rest.to_string());
                let given = answer.header("Content-Type").unwrap_or_default();
                let is_asked_for = form.is_none_or(|form| given.starts_with(form.lines().next().unwrap()));
                assert!(answer.status != 200 || is_asked_for, "another form{}", answer.exchange());
                statuses.insert(answer.status);
                sent += 1;
            }
        }
        let Operation { method, path, .. } = operation;
        assert!(statuses.contains(&200), "{method} {path}: no example is answered with 200: {statuses:?}");
        let needs_an_order = path.contains("{order_id}");
        assert!(!needs_an_order || statuses.contains(&404), "{method} {path}: {statuses:?}");
    }
    assert!(sent > 60, "only {sent} examples were sent");
}

#[test]
fn every_example_of_an_answer_is_one_by_its_own_schema() {
    let document = Document::of(&Local::idle());
    let (mut faults, mut seen) = (Vec::new(), 0);
    for operation in document.operations() {
        for (status, response) in entries(&operation.value["responses"]) {
            for (kind, content) in entries(&document.resolved(response)["content"]) {
                for (name, example) in entries(&content["examples"]) {
                    let at = format!("{} {} {status} {kind} {name}", operation.method, operation.path);
                    document.check(&content["schema"], &example["value"], &at, &mut faults);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 60, "only {seen} examples were found");
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What is refused of any operation, whatever it is: the method, the host, the site, the framing and the length.
#[test]
fn every_operation_is_refused_as_the_document_says() {
    let server = Local::idle();
    let document = Document::of(&server);
    for operation in document.operations() {
        let usual = String::from_utf8(requests(&document, operation).remove(0)).unwrap();
        let long = with(usual.replace("Content-Length: ", "X: "), &format!("Content-Length: {}", 2 << 20));
        for (status, request) in [
            (421, usual.replace("Host: localhost", "Host: evil.example")),
            (403, with(&usual, "Origin: http://evil.example")),
            (405, usual.replacen(operation.method, "PUT", 1)),
            (400, usual.replace("Content-Length: ", "Content-Length: x")),
            (400, usual.replace("Host: localhost\r\n", "")),
            (413, format!("{long}{}", " ".repeat(2 << 20))),
        ] {
            let answer = server.ask(&request);
            assert_eq!(answer.status, status, "{}", answer.exchange());
            if status != 405 || operation.method != "HEAD" {
                document.expect(operation, &answer);
            }
        }
    }
}

/// A body of each kind that is no order; the words of their faults are all that the document knows.
#[test]
fn bodies_that_are_no_orders_are_refused_with_every_word_that_the_document_has() {
    let server = Local::idle();
    let document = Document::of(&server);
    let create = document.operation("POST", "/order");
    let (good, mut words) = (order("1"), BTreeSet::new());
    let with_items = |items: &str| good.replace(r#"["item1","item2"]"#, items);
    let with_amount = |amount: &str| good.replace("100.0", amount);
    for body in [
        "".into(),
        "{".into(),
        "[]".into(),
        "{}".into(),
        good.replace("\"1\"", "1"),
        good.replace("\"1\"", r#""\ud800""#),
        good.replace("\"1\"", "\"\""),
        good.replace("\"1\"", r#""\n""#),
        order(&"ä".repeat(128)),
        with_items("{}"),
        with_items("[]"),
        with_items(&format!("[{}]", vec!["\"i\""; 1_001].join(","))),
        with_amount("\"1\""),
        with_amount("-1"),
        with_amount("1e400"),
        with_amount(&"9".repeat(65)),
    ] {
        let answer = server.post(body);
        document.expect(create, answer.expect_status(422));
        let found = answer.json()["detail"].as_array().unwrap().clone();
        words.extend(found.iter().map(|fault| fault["type"].as_str().unwrap().to_string()));
    }
    let known = &document.0.pointer("/components/schemas/Faults/properties/detail/items/properties/type/enum").unwrap();
    let known = known.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string());
    assert_eq!(words, known.collect());
    let answer = server.ask(request("POST", "/order", &[&length_of(&good)], &good));
    document.expect(create, answer.expect_error(415, "not_json"));
    server.post(&good).expect_status(200);
    document.expect(create, server.post(with_amount("1")).expect_error(409, "order_id_conflict"));
}

#[test]
fn ids_and_queries_that_make_no_sense_are_refused_as_the_document_says() {
    let server = Local::idle();
    let document = Document::of(&server);
    for path in ["/order/{order_id}", "/orders/{order_id}"] {
        for id in ["%", "%ff", "%00", &"x".repeat(256)] {
            document.expect(document.operation("GET", path), &server.get(&path.replace("{order_id}", id)));
        }
        document.expect(document.operation("GET", path), &server.get(&path.replace("{order_id}", "")));
    }
    for query in ["limit=0", "limit=101", "status=failed", "user_id=", "after=1", "what=1", "limit=1&limit=1"] {
        let answer = server.get(&format!("/orders?{query}"));
        document.expect(document.operation("GET", "/orders"), answer.expect_error(400, "bad_query"));
    }
}

/// The check itself: answers that are a little off are found.
#[test]
fn an_answer_that_is_not_as_documented_is_found() {
    let server = Local::idle();
    let document = Document::of(&server);
    server.post(order("1")).expect_status(200);
    let record = server.get("/orders/1");
    let operation = document.operation("GET", "/orders/{order_id}");
    document.expect(operation, &record);
    for (was, is) in [
        (r#""status":"Pending""#, r#""status":"Waiting""#),
        (r#""attempts":0"#, r#""attempts":-1"#),
        (r#""attempts":0"#, r#""attempts":0.5"#),
        (r#""attempts":0"#, r#""tries":0"#),
        (r#""last_error":null"#, r#""last_error":7"#),
        (r#""user1""#, r#""""#),
        (r#""user1""#, r#""a\nb""#),
        (r#"["item1","item2"]"#, "[]"),
        (r#""started_at":null"#, r#""started_at":"yesterday""#),
        ("100.0", "\"100.0\""),
    ] {
        let mut answer = record.clone();
        answer.body = record.body.replacen(was, is, 1);
        assert_ne!(answer.body, record.body, "{was}");
        assert!(!document.faults(operation, &answer).is_empty(), "{is} is not found");
    }
    // Of another operation, or with another status.
    assert!(!document.faults(document.operation("GET", "/metrics"), &record).is_empty());
    let mut teapot = record.clone();
    teapot.status = 418;
    assert!(!document.faults(operation, &teapot).is_empty());
    // Without a header that is promised.
    let unavailable = server.ask(get("/metrics").replacen("GET", "PUT", 1));
    assert!(document.faults(document.operation("POST", "/order"), &unavailable).iter().any(|fault| fault.contains("Allow")));
}
