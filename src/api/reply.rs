//! What each answer says: the bodies, and for every refusal its status, its code word and its sentence.
//!
//! A body is JSON with a newline behind it, so that a shell prompt stays on its own line. An answer says nothing of the inside;
//! the log does.

use std::borrow::Cow;

use serde::Serialize;

use super::query::cursor;
use super::{MAX_BODY_BYTES, MAX_PAGE_BYTES};
use crate::http::{Method, Refused, Reply};
use crate::order::{Fault, Order, OrderId, Status};
use crate::store::{Created, Page};

/// What a client that hears 503 should wait, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// Answers `POST /order` once it is stored, or was already.
pub fn created(order_id: &OrderId, created: Created) -> Reply {
    #[derive(Serialize)]
    struct Body<'a> {
        message: &'static str,
        order_id: &'a OrderId,
    }
    let headers = match created {
        Created::New => Vec::new(),
        Created::Replayed => vec![("Idempotent-Replayed", "true")],
        Created::Conflict => return Refusal::Conflict.into(),
    };
    Reply { headers, ..json(200, &Body { message: "Order created", order_id }) }
}

/// Answers `GET /order/{order_id}`.
pub fn order_status(order_id: &OrderId, status: Status) -> Reply {
    #[derive(Serialize)]
    struct Body<'a> {
        order_id: &'a OrderId,
        status: &'static str,
    }
    json(200, &Body { order_id, status: status.as_str() })
}

/// Answers with the whole record of an order.
pub fn order(order: &Order) -> Reply {
    json(200, order)
}

/// Answers `GET /orders`.
pub fn orders(page: &Page) -> Reply {
    #[derive(Serialize)]
    struct Body<'a> {
        data: &'a [Order],
        has_more: bool,
        next: Option<String>,
    }
    let body = Body { data: &page.orders, has_more: page.next.is_some(), next: page.next.map(cursor) };
    // A long page fits without growing, which would copy it again and again.
    let most: usize = page.orders.iter().map(|order| 512 + order.item_ids.iter().map(|id| id.len() + 3).sum::<usize>()).sum();
    json_within(most.min(2 * MAX_PAGE_BYTES), 200, &body)
}

/// Answers `GET /healthz` when all is well.
pub fn healthy() -> Reply {
    #[derive(Serialize)]
    struct Body {
        status: &'static str,
    }
    json(200, &Body { status: "ok" })
}

/// An answer whose body is `value` as JSON.
pub fn json(status: u16, value: &impl Serialize) -> Reply {
    json_within(128, status, value)
}

fn json_within(bytes: usize, status: u16, value: &impl Serialize) -> Reply {
    let mut body = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut body, value).expect("what we answer always has a JSON form");
    body.push(b'\n');
    Reply { status, content_type: "application/json", headers: Vec::new(), body: Cow::Owned(body) }
}

/// Why a request is not done.
#[derive(Debug)]
pub enum Refusal {
    /// 400: the id in the path is no id, for this reason.
    BadId(Cow<'static, str>),
    /// 400: the query asks for something that there is not; says what there is.
    BadQuery(String),
    /// 401: it does not bear the token.
    Unauthorized,
    /// 403: another site's page sends it.
    CrossSite,
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
    /// 409: only a pending order can be cancelled.
    NotPending,
    /// 415: the body does not say that it is JSON. A browser page can't say so to a server that doesn't expect it, so it can't
    /// post orders to a local one.
    NotJson,
    /// 421: the server listens on loopback, and was reached by a name that is not its own.
    UnknownHost,
    /// 422: the body is no order.
    Faults(Vec<Fault>),
    /// 503: the order was not stored, or nobody knows.
    Unavailable,
    /// 503: the orders can't be read.
    Unreadable,
    /// 503: the processor has died.
    ProcessorDead,
    /// 503: orders may be stored, but somebody has to look at the database.
    InTrouble,
    /// As the front door says.
    Http(Refused),
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        // The older service answers these with `detail` alone.
        let old = |status, detail| json(status, &Detail { detail, code: None::<&str> });
        match refusal {
            Refusal::UnknownPath => old(404, "Not Found"),
            Refusal::UnknownOrder => old(404, "Order not found"),
            Refusal::Faults(faults) => json(422, &Detail { detail: faults, code: None::<&str> }),
            Refusal::BadId(why) => coded(400, "bad_order_id", why),
            Refusal::BadQuery(why) => coded(400, "bad_query", why),
            Refusal::Unauthorized => Reply {
                headers: vec![("WWW-Authenticate", "Bearer")],
                ..coded(401, "unauthorized", "send the server's token, as Authorization: Bearer TOKEN")
            },
            Refusal::CrossSite => coded(403, "cross_site", "another site's page may not ask this"),
            Refusal::WrongMethod { allowed } => {
                let allow = if allowed == Method::Post { "POST" } else { "GET, HEAD" };
                Reply { headers: vec![("Allow", allow)], ..coded(405, "method_not_allowed", format!("use {allow} here")) }
            }
            Refusal::Conflict => coded(409, "order_id_conflict", "an order with this order_id and other content exists"),
            Refusal::NotFailed => coded(409, "order_not_failed", "only an order that has failed can be tried again"),
            Refusal::NotPending => coded(409, "order_not_pending", "only an order that is pending can be cancelled"),
            Refusal::NotJson => coded(415, "not_json", CURL_HINT),
            Refusal::UnknownHost => coded(
                421,
                "unknown_host",
                "orderd listens on loopback and is not known by this Host; name it with --allow-host",
            ),
            Refusal::Unavailable => {
                unavailable("storage_unavailable", "the order cannot be stored now; send it again, with the same order_id")
            }
            Refusal::Unreadable => unavailable("storage_unavailable", "orders cannot be read now; ask again"),
            Refusal::ProcessorDead => unavailable("processor_dead", "orders are not being processed"),
            Refusal::InTrouble => {
                unavailable("storage_unavailable", "the database needs somebody to look at it; the server's log says why")
            }
            Refusal::Http(refused) => match refused {
                Refused::BadFraming(why) => coded(400, "bad_framing", why),
                Refused::Broken => coded(400, "incomplete_body", "the body ended early"),
                Refused::TooSlow => coded(408, "body_too_slow", "the body did not come in time"),
                Refused::TooLarge => coded(413, "body_too_large", format!("the body may have at most {MAX_BODY_BYTES} bytes")),
                Refused::Dropped => coded(500, "internal_error", "the server made a mistake; its log says more"),
                Refused::Busy => unavailable("busy", "too much is being received or sent; try again"),
            },
        }
    }
}

/// What to add, for those whom curl made say `application/x-www-form-urlencoded`. No whole line, as one that works would create an
/// order; nothing that JSON escapes, so that it can be pasted.
const CURL_HINT: &str = "the Content-Type does not say JSON; with curl, add: -H 'Content-Type: application/json'";

#[derive(Serialize)]
struct Detail<D, C> {
    detail: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<C>,
}

fn coded(status: u16, code: &str, detail: impl Into<Cow<'static, str>>) -> Reply {
    json(status, &Detail { detail: detail.into(), code: Some(code) })
}

fn unavailable(code: &str, detail: &'static str) -> Reply {
    Reply { headers: vec![("Retry-After", RETRY_AFTER_SECONDS)], ..coded(503, code, detail) }
}
