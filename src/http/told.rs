//! The line that the log has of each request, with `debug`: method, path, status, how long it took, and how long the answer's body is.
//!
//! The path is what a client has written, so it is cut, and the log escapes it. Its query is left out, and so are all headers: they
//! may hold what is nobody's business, such as a token. Unless the line is wanted, it costs a request one look at a number.

use std::time::Instant;

use super::response::Reply;

/// The longest path that is logged, in bytes; a valid one of ours is shorter than a thousand.
const MAX_PATH_BYTES: usize = 1_024;

/// A request that is being answered.
pub(super) struct Told {
    begun: Instant,
    method: String,
    path: String,
    status: u16,
    bytes: usize,
}

impl Told {
    /// Of a request whose turn began then, and of its answer, if the log is to have its line.
    pub(super) fn new(begun: Instant, request: &tiny_http::Request, reply: &Reply) -> Option<Told> {
        log::log_enabled!(log::Level::Debug).then(|| Told {
            begun,
            method: cut(request.method().as_str(), 32).into(),
            path: cut(path_of(request.url()), MAX_PATH_BYTES).into(),
            status: reply.status,
            bytes: reply.body.len(),
        })
    }

    /// The kernel has the answer, or whoever sends the rest of it.
    pub(super) fn answered(self) {
        let Told { begun, method, path, status, bytes } = self;
        let ms = begun.elapsed().as_micros() as f64 / 1_000.0;
        log::debug!(method, path, status, ms, bytes; "answered");
    }
}

/// The path of a target, which may be a whole URL.
fn path_of(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_target_only_the_path_is_told() {
        assert_eq!(path_of("/order/1?token=x#y"), "/order/1");
        assert_eq!(path_of("http://user:secret@host/order/1?x"), "/order/1");
        assert_eq!(path_of("http://user:secret@host"), "/");
        assert_eq!(path_of("/a://b/c"), "/a://b/c");
        assert_eq!(path_of("*"), "*");
        assert_eq!(cut("ää", 3), "ä");
    }
}
