//! The API: which request means what, and what each answer says. Never sees a socket, a thread or SQL.
//!
//! [`route`] turns a request line and what headers matter into a [`Route`] or a [`Refusal`]; `service.rs` does what the route asks for
//! and hands the outcome to `api/reply.rs`, which words the answer. Everything that a refusal can be is matched once, where it
//! becomes a `Reply`. The words of the older answers are fixed to the letter by the service that orderd
//! replaces.

pub mod accept;
pub mod metrics;
pub mod openapi;
pub mod origin;
pub mod pages;
pub mod prometheus;
pub mod query;
pub mod reply;
pub mod template;

use crate::http::{Method, percent};
use crate::order::{NewOrder, OrderId};

use self::pages::{Page, SafeHost};
use self::query::Query;
use self::reply::Refusal;

/// The largest body of a request, in bytes. A full order (1,000 items with ids of 255 bytes) has 260 kB.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How much a page of orders holds at the most, in bytes of records: eight of the largest kind.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

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
    /// `POST /orders/{order_id}/cancel`
    Cancel(OrderId),
    /// `GET /metrics`
    Metrics,
    /// `GET /metrics` of one that scrapes
    Prometheus,
    /// `GET /healthz`
    Health,
    /// `GET /openapi.json`
    Document,
    /// `GET /` of a browser, and
    /// `GET /docs`
    Page(&'static Page),
    /// `GET /` of any other client, which has reached this host
    Usage(Option<SafeHost>),
}

/// Finds the route of a request. `target` is the second word of the request line, `header` finds the value of a header.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn route<'a>(method: Method, target: &str, header: impl Fn(&str) -> Option<&'a str>) -> Result<Route, Refusal> {
    let (path, query) = path_and_query(target);
    let get = || only(method, Method::Get);
    match *path.splitn(4, '/').collect::<Vec<_>>() {
        ["order" | "orders", ""] => Err(Refusal::UnknownPath),
        ["order"] => only(method, Method::Post).and_then(|()| says_json(header("Content-Type"))).map(|()| Route::CreateOrder),
        ["order", id] => get().and_then(|()| id_in_path(id)).map(Route::OrderStatus),
        ["orders"] => get().and_then(|()| Query::parse(query).map_err(Refusal::BadQuery)).map(Route::Orders),
        ["orders", id] => get().and_then(|()| id_in_path(id)).map(Route::Order),
        ["orders", id, "retry"] => only(method, Method::Post).and_then(|()| id_in_path(id)).map(Route::Retry),
        ["orders", id, "cancel"] => only(method, Method::Post).and_then(|()| id_in_path(id)).map(Route::Cancel),
        ["metrics"] => get().map(|()| match accept::prefers_text(header("Accept")) {
            true => Route::Prometheus,
            false => Route::Metrics,
        }),
        ["healthz"] => get().map(|()| Route::Health),
        ["docs"] => get().map(|()| Route::Page(&pages::DOCS)),
        ["openapi.json"] => get().map(|()| Route::Document),
        [""] => get().map(|()| match pages::wants_html(header("Accept")) {
            true => Route::Page(&pages::HOME),
            false => Route::Usage(header("Host").and_then(SafeHost::new)),
        }),
        _ => Err(Refusal::UnknownPath),
    }
}

/// Whether a request for this target needs no token: what watches whether all is well need not know one.
pub fn is_open(target: &str) -> bool {
    path_and_query(target).0 == "healthz"
}

fn only(method: Method, allowed: Method) -> Result<(), Refusal> {
    if method == allowed { Ok(()) } else { Err(Refusal::WrongMethod { allowed }) }
}

/// Reads the body of `POST /order`.
///
/// # Errors
/// [`Refusal::Faults`].
pub fn order_in(body: &[u8]) -> Result<NewOrder, Refusal> {
    NewOrder::from_json(body).map_err(Refusal::Faults)
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
    use crate::http::Reply;

    /// The headers of a request that says its body is JSON.
    fn json(name: &str) -> Option<&'static str> {
        (name == "Content-Type").then_some("application/json")
    }

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
            (Method::Post, "/orders/a%2Fb/cancel", Route::Cancel(OrderId::new("a/b").unwrap())),
            (Method::Get, "/orders?limit=5", Route::Orders(Query::parse("limit=5").unwrap())),
            (Method::Get, "/metrics", Route::Metrics),
            (Method::Get, "/healthz", Route::Health),
            (Method::Get, "/openapi.json", Route::Document),
            (Method::Get, "/docs", Route::Page(&pages::DOCS)),
            (Method::Get, "/", Route::Usage(None)),
            (Method::Get, "http://shop?x", Route::Usage(None)),
        ] {
            assert_eq!(super::route(method, target, json).expect(target), route, "{target}");
        }
    }

    #[test]
    fn a_browser_gets_the_page_and_curl_the_address_that_it_has_reached() {
        let asked = |accept, host| {
            route(Method::Get, "/", move |name| if name == "Accept" { accept } else { host }).expect("there is such a path")
        };
        assert_eq!(asked(Some("text/html,*/*;q=0.8"), Some("shop")), Route::Page(&pages::HOME));
        assert_eq!(asked(Some("*/*"), Some("shop:80")), Route::Usage(SafeHost::new("shop:80")));
        assert_eq!(asked(None, Some("$(id)")), Route::Usage(None));
        assert_eq!(status_of(route(Method::Post, "/", json)), 405);
    }

    #[test]
    fn unknown_paths_and_methods_are_refused() {
        for target in [
            "//",
            "/order/",
            "/orders/",
            "/order/1/2",
            "/order/x://y",
            "/orders/1/2",
            "/orders/1/retry/2",
            "/orders/1/cancel/2",
            "/metrics/",
            "//order",
            "*",
        ] {
            assert_eq!(status_of(route(Method::Get, target, |_| None)), 404, "{target}");
        }
        for (method, target) in [(Method::Get, "/order"), (Method::Post, "/order/1"), (Method::Other, "/metrics")] {
            assert_eq!(status_of(route(method, target, json)), 405, "{target}");
        }
    }

    #[test]
    fn a_path_with_a_bad_id_is_refused() {
        let long = format!("/order/{}", "i".repeat(10_000));
        for target in ["/order/%", "/order/%4", "/order/%zz", "/order/%ff", "/order/%00", &long] {
            assert_eq!(status_of(route(Method::Get, target, |_| None)), 400, "{target}");
        }
    }

    #[test]
    fn only_a_body_that_says_it_is_json_is_read() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json"] {
            assert!(route(Method::Post, "/order", |_| Some(yes)).is_ok(), "{yes}");
        }
        for no in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")] {
            assert_eq!(status_of(route(Method::Post, "/order", |_| no)), 415, "{no:?}");
        }
    }
}
