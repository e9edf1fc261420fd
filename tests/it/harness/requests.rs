//! What the tests send and expect: orders, requests of every framing, and the answers to them to the letter.
//!
//! Nothing here is sent by itself. A length is the caller's to say wherever a test may want to say a wrong one.

/// The `Host` of every request: what a client on the same machine sends.
pub const HOST: &str = "localhost";
pub const JSON: &str = "Content-Type: application/json";
pub const CHUNKED: &str = "Transfer-Encoding: chunked";
pub const CONTINUE: &str = "Expect: 100-continue";

/// The body of an order that differs from others in its id alone. `id` is put into JSON as it is.
pub fn order(id: &str) -> String {
    format!(r#"{{"order_id":"{id}","user_id":"user1","item_ids":["item1","item2"],"total_amount":100.0}}"#)
}

/// An order with so many bytes, in white space and a field that nobody knows.
pub fn long_order(id: &str, bytes: usize) -> String {
    let head = format!(r#"{{"note":"{}","#, "x".repeat(bytes / 2));
    let rest = order(id);
    let spaces = " ".repeat(bytes - head.len() - rest.len() + 1);
    format!("{head}{spaces}{}", &rest[1..])
}

/// An order whose record is the largest there is: a thousand items of 255 characters, each of which JSON escapes.
pub fn largest_order(id: &str) -> String {
    let items = vec![format!("\"{}\"", "\\\"".repeat(255)); 1_000].join(",");
    format!(r#"{{"order_id":"{id}","user_id":"user1","item_ids":[{items}],"total_amount":1}}"#)
}

/// The ids `o-0`, `o-1`, …
pub fn ids(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("o-{n}"))
}

/// The answer to its creation.
pub fn created(id: &str) -> String {
    format!(r#"{{"message":"Order created","order_id":"{id}"}}"#)
}

/// The answer to `GET /order/{id}`.
pub fn in_status(id: &str, status: &str) -> String {
    format!(r#"{{"order_id":"{id}","status":"{status}"}}"#)
}

/// A `GET` request.
pub fn get(path: &str) -> String {
    request("GET", path, &[], "")
}

/// A `POST /order` request with this body, said to be JSON.
pub fn post(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = head(&[&length_of(body)]).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The same in chunks of so many bytes.
pub fn post_in_chunks(body: &str, bytes: usize) -> Vec<u8> {
    (head(&[CHUNKED]) + &chunks(body, bytes)).into_bytes()
}

/// The head of a `POST /order` request of JSON with this framing.
pub fn head(framing: &[&str]) -> String {
    request("POST", "/order", &[&[JSON], framing].concat(), "")
}

/// A `POST /order` request whose length is no number, and its body.
pub fn badly_framed(body: &str) -> String {
    request("POST", "/order", &[JSON, "Content-Length: abc"], body)
}

pub fn length_of(body: impl AsRef<[u8]>) -> String {
    format!("Content-Length: {}", body.as_ref().len())
}

/// A body as chunks of so many bytes each, with their end.
pub fn chunks(body: &str, bytes: usize) -> String {
    let chunk = |part: &[u8]| format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
    body.as_bytes().chunks(bytes).map(chunk).collect::<String>() + "0\r\n\r\n"
}

/// Any HTTP/1.1 request. A length is the caller's to say.
pub fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n{body}")
}

/// `POST /orders/{id}/{step}`, without a body.
pub fn step(id: &str, step: &str) -> String {
    request("POST", &format!("/orders/{id}/{step}"), &["Content-Length: 0"], "")
}

/// The same request as HTTP/1.0.
pub fn old(request: impl AsRef<[u8]>) -> String {
    String::from_utf8(request.as_ref().to_vec()).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1)
}

/// The same request with another header.
pub fn with(request: impl AsRef<[u8]>, header: &str) -> String {
    String::from_utf8(request.as_ref().to_vec()).unwrap().replacen("\r\n", &format!("\r\n{header}\r\n"), 1)
}
