//! Bodies that are no orders: each is answered 422 with everything that is wrong with it, and nothing is stored.
//!
//! The answers have the form that clients of the first order server know. What is a fault, the unit tests of `order` say in full;
//! here it comes over a socket.

use crate::harness::{Local, Serving, created, order};

const GOOD: &str = r#"{"order_id":"1","user_id":"u","item_ids":["i"],"total_amount":1.5}"#;

fn fault(kind: &str, loc: &str, msg: &str) -> String {
    format!(r#"{{"type":"{kind}","loc":["body"{loc}],"msg":"{msg}"}}"#)
}

fn faults(faults: &[String]) -> String {
    format!(r#"{{"detail":[{}]}}"#, faults.join(","))
}

#[test]
fn a_missing_field_is_named_as_it_always_was() {
    let server = Local::idle();
    server
        .post(r#"{"order_id":"123","user_id":"user1","item_ids":["item1","item2"]}"#)
        .expect(422, r#"{"detail":[{"type":"missing","loc":["body","total_amount"],"msg":"Field required"}]}"#);
}

#[test]
fn all_faults_are_told_at_once() {
    let server = Local::idle();
    server.post("{}").expect(
        422,
        &faults(
            &["order_id", "user_id", "item_ids", "total_amount"]
                .map(|field| fault("missing", &format!(r#","{field}""#), "Field required")),
        ),
    );
    server.post(r#"{"order_id":7,"user_id":"","item_ids":["a",null,""],"total_amount":"1"}"#).expect(
        422,
        &faults(&[
            fault("string_type", r#","order_id""#, "Input should be a valid string"),
            fault("string_too_short", r#","user_id""#, "String should have at least 1 character"),
            fault("string_type", r#","item_ids",1"#, "Input should be a valid string"),
            fault("string_too_short", r#","item_ids",2"#, "String should have at least 1 character"),
            fault("float_type", r#","total_amount""#, "Input should be a valid number"),
        ]),
    );
}

#[test]
fn what_is_no_json_says_where_it_goes_wrong() {
    let server = Local::idle();
    for (body, offset) in
        [(&b"{"[..], 1), (b"{\"order_id\":\"\xff\"}", 13), (b"{\"total_amount\":NaN}", 16), (b"{} {}", 3), (b"order_id=1", 0)]
    {
        server.post(body).expect(422, &faults(&[fault("json_invalid", &format!(",{offset}"), "JSON decode error")]));
    }
}

#[test]
fn an_empty_body_is_missing() {
    let server = Local::idle();
    for body in ["", " \r\n\t"] {
        server.post(body).expect(422, r#"{"detail":[{"type":"missing","loc":["body"],"msg":"Field required"}]}"#);
    }
}

#[test]
fn json_that_is_no_object_is_refused() {
    let server = Local::idle();
    let msg = "Input should be a valid dictionary or object to extract fields from";
    for body in ["[]", "null", "1", "\"order\"", "[[1]]"] {
        server.post(body).expect(422, &faults(&[fault("model_attributes_type", "", msg)]));
    }
}

/// Each of them over a socket, as `order`'s own tests never meet one; after all of them nothing is stored and the server
/// serves.
#[test]
fn bad_input_is_refused_and_nothing_is_stored() {
    let server = Local::idle();
    let amount = |number: &str| GOOD.replace("1.5", number).into_bytes();
    let id = |text: &str| GOOD.replace(r#""1""#, text).into_bytes();
    let items = |list: &str| GOOD.replace(r#"["i"]"#, list).into_bytes();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let long = "i".repeat(10_000);
    let many = format!("[{}]", vec!["\"i\""; 1_001].join(","));
    let table: Vec<(Vec<u8>, &str)> = vec![
        // Broken UTF-8: alone, overlong, cut short, a surrogate.
        (b"{\"order_id\":\"\xff\xfe\"}".to_vec(), "json_invalid"),
        (b"{\"order_id\":\"\xc0\xaf\"}".to_vec(), "json_invalid"),
        (b"{\"order_id\":\"\xe2\x82\"}".to_vec(), "json_invalid"),
        (b"{\"order_id\":\"\xed\xa0\x80\"}".to_vec(), "json_invalid"),
        (vec![0; 64], "json_invalid"),
        // Broken JSON.
        (GOOD.as_bytes()[..GOOD.len() - 1].to_vec(), "json_invalid"),
        (GOOD.replace('"', "'").into_bytes(), "json_invalid"),
        (GOOD.replace('}', ",}").into_bytes(), "json_invalid"),
        (format!("\u{feff}{GOOD}").into_bytes(), "json_invalid"),
        (amount("1.5}{"), "json_invalid"),
        // Numbers that are none, or too large, or too long.
        (amount("NaN"), "json_invalid"),
        (amount("Infinity"), "json_invalid"),
        (amount("-Infinity"), "json_invalid"),
        (amount("0x10"), "json_invalid"),
        (amount("01"), "json_invalid"),
        (amount(".5"), "json_invalid"),
        (amount("+1"), "json_invalid"),
        (amount(&"9".repeat(400)), "decimal_max_digits"),
        (amount(&format!("0.{}", "9".repeat(400))), "decimal_max_digits"),
        (amount("1e400"), "finite_number"),
        (amount("1e99999999999999999999"), "finite_number"),
        (amount("-0.01"), "greater_than_equal"),
        (amount("true"), "float_type"),
        (amount("null"), "float_type"),
        (amount("{}"), "float_type"),
        // Nesting ten levels too deep, where it counts and where it is ignored, and without an end.
        (nested(138).into_bytes(), "json_invalid"),
        (items(&nested(138)), "json_invalid"),
        (amount(&format!("1,\"x\":{}", nested(138))), "json_invalid"),
        (r#"{"x":"#.repeat(100_000).into_bytes(), "json_invalid"),
        // Ids.
        (id(r#""""#), "string_too_short"),
        (id(&format!("\"{long}\"")), "string_too_long"),
        (id(&format!("\"{}\"", "ä".repeat(128))), "string_too_long"),
        (id(r#""a\u0000b""#), "value_error"),
        (id(r#""a\nb""#), "value_error"),
        (id("\"a\nb\""), "json_invalid"),
        (id(r#""\ud800""#), "string_unicode"),
        (id("1"), "string_type"),
        (id("null"), "string_type"),
        (id(r#"["1"]"#), "string_type"),
        // Lists.
        (items("[]"), "too_short"),
        (items(&many), "too_long"),
        (items("\"i\""), "list_type"),
        (items(r#"{"0":"i"}"#), "list_type"),
        (items(r#"["i",7]"#), "string_type"),
        (items(&format!("[\"{long}\"]")), "string_too_long"),
    ];
    for (body, kind) in &table {
        let answer = server.post(body);
        let faults = answer.expect_status(422).json();
        let found = faults["detail"].as_array().map(|list| list.iter().map(|fault| &fault["type"]).collect::<Vec<_>>());
        assert_eq!(found, Some(vec![&serde_json::Value::from(*kind)]), "{}", answer.exchange());
    }
    assert_eq!(server.metrics().total, 0);
    assert_eq!(server.rows(), []);
    server.post(order("1")).expect(200, &created("1"));
}
