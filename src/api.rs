//! The API: which request means what, and what each answer says. Never sees a socket or SQL.
//!
//! [`route`] turns a request line and its Content-Type into a [`Route`] or a [`Refusal`]; `server.rs` does what the route asks
//! for and hands the outcome to the function here that words the answer. Everything that a refusal can be is matched once,
//! where it becomes a [`Reply`]. The words of the older answers are fixed to the letter by the service that orderd replaces.

pub mod metrics;
pub mod query;

use std::borrow::Cow;

use serde::Serialize;

use self::query::Query;
use crate::http::percent;
use crate::order::{Fault, NewOrder, Order, OrderId, Status};
use crate::store::commit::Refused;
use crate::store::{Created, Page};

/// The largest body of a request. A full order (1,000 items with ids of 255 bytes) has 260 kB.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// What a client that hears 503 should wait, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// The methods that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, and HEAD, whose answer is the same without its body.
    Get,
    /// POST.
    Post,
    /// Any other.
    Other,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /order`, with a body that says it is JSON.
    CreateOrder,
    /// `GET /order/{order_id}`
    OrderStatus(OrderId),
    /// `GET /orders/{order_id}`
    Order(OrderId),
    /// `GET /orders?…`
    Orders(Query),
    /// `POST /orders/{order_id}/retry`
    Retry(OrderId),
    /// `GET /metrics`
    Metrics,
    /// `GET /healthz`
    Health,
}

/// Finds the route of a request. `target` is the second word of the request line, `content_type` the header's value.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn route(method: Method, target: &str, content_type: Option<&str>) -> Result<Route, Refusal> {
    let (path, query) = path_and_query(target);
    let get = || method.only(Method::Get);
    match *path.splitn(4, '/').collect::<Vec<_>>() {
        ["order"] => method.only(Method::Post).and_then(|()| says_json(content_type)).map(|()| Route::CreateOrder),
        ["order", id] => get().and_then(|()| id_in_path(id)).map(Route::OrderStatus),
        ["orders"] => get().and_then(|()| Query::parse(query).map_err(Refusal::BadQuery)).map(Route::Orders),
        ["orders", id] => get().and_then(|()| id_in_path(id)).map(Route::Order),
        ["orders", id, "retry"] => method.only(Method::Post).and_then(|()| id_in_path(id)).map(Route::Retry),
        ["metrics"] => get().map(|()| Route::Metrics),
        ["healthz"] => get().map(|()| Route::Health),
        _ => Err(Refusal::UnknownPath),
    }
}

impl Method {
    fn only(self, allowed: Method) -> Result<(), Refusal> {
        if self == allowed { Ok(()) } else { Err(Refusal::WrongMethod { allowed }) }
    }
}

/// Reads the body of `POST /order`.
///
/// # Errors
/// [`Refusal::Faults`].
pub fn order_in(body: &[u8]) -> Result<NewOrder, Refusal> {
    NewOrder::from_json(body).map_err(Refusal::Faults)
}

/// An answer, not yet on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers besides those that every answer has.
    pub headers: Vec<(&'static str, &'static str)>,
    /// JSON, with a newline at the end.
    pub body: Vec<u8>,
}

impl Reply {
    /// Answers `POST /order` once its fate is known.
    pub fn created(order_id: &OrderId, outcome: Result<Created, Refused>) -> Reply {
        #[derive(Serialize)]
        struct Body<'a> {
            message: &'static str,
            order_id: &'a OrderId,
        }
        let headers = match outcome {
            Ok(Created::New) => Vec::new(),
            Ok(Created::Replayed) => vec![("Idempotent-Replayed", "true")],
            Ok(Created::Conflict) => return Refusal::Conflict.into(),
            Err(error) => return Refusal::Unavailable(error).into(),
        };
        Reply { headers, ..Reply::json(200, &Body { message: "Order created", order_id }) }
    }

    /// Answers `GET /order/{order_id}`.
    pub fn order_status(order_id: &OrderId, status: Status) -> Reply {
        #[derive(Serialize)]
        struct Body<'a> {
            order_id: &'a OrderId,
            status: &'static str,
        }
        Reply::json(200, &Body { order_id, status: status.as_str() })
    }

    /// Answers `GET /orders/{order_id}`.
    pub fn order(order: &Order) -> Reply {
        Reply::json(200, order)
    }

    /// Answers `GET /orders`.
    pub fn orders(page: &Page) -> Reply {
        #[derive(Serialize)]
        struct Body<'a> {
            data: &'a [Order],
            has_more: bool,
            next: Option<String>,
        }
        Reply::json(200, &Body { data: &page.orders, has_more: page.next.is_some(), next: page.next.map(query::cursor) })
    }

    /// Answers `GET /healthz` when all is well.
    pub fn healthy() -> Reply {
        #[derive(Serialize)]
        struct Body {
            status: &'static str,
        }
        Reply::json(200, &Body { status: "ok" })
    }

    /// An answer whose body is `value` as JSON.
    pub fn json(status: u16, value: &impl Serialize) -> Reply {
        let mut body = Vec::with_capacity(128);
        serde_json::to_writer(&mut body, value).expect("what we answer always has a JSON form");
        body.push(b'\n');
        Reply { status, headers: Vec::new(), body }
    }
}

/// Why a request is not done.
#[derive(Debug)]
pub enum Refusal {
    /// 400: the id in the path is no id, for this reason.
    BadId(Cow<'static, str>),
    /// 400: the query asks for something that there is not; says what there is.
    BadQuery(String),
    /// 404: there is no such path.
    UnknownPath,
    /// 404: there is no such order.
    UnknownOrder,
    /// 405: the path has another method.
    WrongMethod {
        /// The one it has.
        allowed: Method,
    },
    /// 409: another order has the id.
    Conflict,
    /// 409: only a failed order can be tried again.
    NotFailed,
    /// 413: the body is longer than [`MAX_BODY_BYTES`].
    TooLarge,
    /// 415: the body does not say that it is JSON. A browser page can't say so to a server that doesn't expect it, so it can't
    /// post orders to a local one.
    NotJson,
    /// 422: the body is no order.
    Faults(Vec<Fault>),
    /// 400: where the body ends can't be told, for this reason.
    BadFraming(&'static str),
    /// 400: the body ended before it was complete.
    BrokenBody,
    /// 408: the body did not come in time.
    SlowBody,
    /// 503: too many bodies are being waited for.
    Busy,
    /// 503: the order was not stored, or nobody knows.
    Unavailable(Refused),
    /// 503: the processor has died.
    ProcessorDead,
    /// 500: a bug of ours.
    Internal,
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        // The older service answers these with `detail` alone.
        let old = |status, detail| Reply::json(status, &Detail { detail, code: None::<&str> });
        let new = |status, code, detail: Cow<'static, str>| Reply::json(status, &Detail { detail, code: Some(code) });
        match refusal {
            Refusal::UnknownPath => old(404, "Not Found"),
            Refusal::UnknownOrder => old(404, "Order not found"),
            Refusal::Faults(faults) => Reply::json(422, &Detail { detail: faults, code: None::<&str> }),
            Refusal::BadId(why) => new(400, "bad_order_id", why),
            Refusal::BadQuery(why) => new(400, "bad_query", why.into()),
            Refusal::NotFailed => new(409, "order_not_failed", "only an order that has failed can be tried again".into()),
            Refusal::BadFraming(why) => new(400, "bad_framing", why.into()),
            Refusal::SlowBody => new(408, "body_too_slow", "the body did not come in time".into()),
            Refusal::Busy => unavailable(new(503, "busy", "too many bodies are being received; try again".into())),
            Refusal::BrokenBody => new(400, "incomplete_body", "the body ended early".into()),
            Refusal::WrongMethod { allowed } => {
                let allow = if allowed == Method::Post { "POST" } else { "GET, HEAD" };
                let detail = format!("use {allow} here").into();
                Reply { headers: vec![("Allow", allow)], ..new(405, "method_not_allowed", detail) }
            }
            Refusal::Conflict => new(409, "order_id_conflict", "an order with this order_id and other content exists".into()),
            Refusal::TooLarge => new(413, "body_too_large", format!("the body may have at most {MAX_BODY_BYTES} bytes").into()),
            Refusal::NotJson => new(415, "not_json", CURL_HINT.into()),
            Refusal::Unavailable(_) => unavailable(new(
                503,
                "storage_unavailable",
                "the order cannot be stored now; send it again, with the same order_id".into(),
            )),
            Refusal::ProcessorDead => unavailable(new(503, "processor_dead", "orders are not being processed".into())),
            Refusal::Internal => new(500, "internal_error", "the server made a mistake; its log says more".into()),
        }
    }
}

/// A curl line that works, for those whom curl made say `application/x-www-form-urlencoded`.
const CURL_HINT: &str = r#"say that the body is JSON: curl -H 'Content-Type: application/json' -d '{"order_id":"1","user_id":"u","item_ids":["i"],"total_amount":1.5}' http://127.0.0.1:8000/order"#;

#[derive(Serialize)]
struct Detail<D, C> {
    detail: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<C>,
}

fn unavailable(reply: Reply) -> Reply {
    Reply { headers: vec![("Retry-After", RETRY_AFTER_SECONDS)], ..reply }
}

/// The path within a request target, without its first slash, and the query. A target may be absolute (`http://host/path`), as
/// proxies send it (RFC 9112, 3.2.2).
fn path_and_query(target: &str) -> (&str, &str) {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let origin = origin.split('#').next().unwrap_or_default();
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    (path.strip_prefix('/').unwrap_or(path), query)
}

fn says_json(content_type: Option<&str>) -> Result<(), Refusal> {
    if content_type.is_some_and(is_json) { Ok(()) } else { Err(Refusal::NotJson) }
}

/// Percent-decoded after the path was split, so that `a%2Fb` is an id with a slash.
fn id_in_path(segment: &str) -> Result<OrderId, Refusal> {
    let text = percent::decode(segment).ok_or(Refusal::BadId("the id in the path is not percent-encoded UTF-8".into()))?;
    OrderId::new(text).map_err(|fault| Refusal::BadId(fault.msg))
}

/// `application/json`, or any type in its own notation (`application/vnd.shop+json`), whatever its parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");

    fn status_of(result: Result<Route, Refusal>) -> u16 {
        Reply::from(result.expect_err("should be refused")).status
    }

    #[test]
    fn every_route_is_found() {
        let id = |text: &str| Route::OrderStatus(OrderId::new(text).unwrap());
        for (method, target, route) in [
            (Method::Post, "/order", Route::CreateOrder),
            (Method::Post, "/order?x=1", Route::CreateOrder),
            (Method::Post, "http://shop:80/order", Route::CreateOrder),
            (Method::Get, "/order/1", id("1")),
            (Method::Get, "/order/a%2Fb", id("a/b")),
            (Method::Get, "/order/%C3%A4?now", id("ä")),
            (Method::Get, "/order/a+b", id("a+b")),
            (Method::Get, "/orders/1", Route::Order(OrderId::new("1").unwrap())),
            (Method::Post, "/orders/a%2Fb/retry", Route::Retry(OrderId::new("a/b").unwrap())),
            (Method::Get, "/orders?limit=5", Route::Orders(Query::parse("limit=5").unwrap())),
            (Method::Get, "/metrics", Route::Metrics),
            (Method::Get, "/healthz", Route::Health),
        ] {
            assert_eq!(super::route(method, target, JSON).expect(target), route, "{target}");
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_refused() {
        for target in [
            "/",
            "/order/1/2",
            "/order/x://y",
            "/orders/1/2",
            "/orders/1/retry/2",
            "/metrics/",
            "//order",
            "",
            "*",
            "http://host",
        ] {
            assert_eq!(status_of(route(Method::Get, target, None)), 404, "{target}");
        }
        for (method, target) in [(Method::Get, "/order"), (Method::Post, "/order/1"), (Method::Other, "/metrics")] {
            assert_eq!(status_of(route(method, target, JSON)), 405, "{target}");
        }
    }

    #[test]
    fn a_path_with_a_bad_id_is_refused() {
        let long = format!("/order/{}", "i".repeat(10_000));
        for target in ["/order/", "/order/%", "/order/%4", "/order/%zz", "/order/%ff", "/order/%00", &long] {
            assert_eq!(status_of(route(Method::Get, target, None)), 400, "{target}");
        }
    }

    #[test]
    fn only_a_body_that_says_it_is_json_is_read() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json"] {
            assert!(route(Method::Post, "/order", Some(yes)).is_ok(), "{yes}");
        }
        for no in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")] {
            assert_eq!(status_of(route(Method::Post, "/order", no)), 415, "{no:?}");
        }
    }
}
