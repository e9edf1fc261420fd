//! The pages for people: what is served at `GET /` and `GET /docs`, and under which rules a browser shows it.
//!
//! A page is one file that loads nothing: its script and style are within it, named in its `Content-Security-Policy` by their
//! hashes, so that nothing else is run or shown, whatever an order's id says. All that a page tells it asks of the API as any
//! other client does, so the file holds no secret and is served alike to everybody. To clients that are no browsers `GET /` says
//! how to use curl. Pure: makes answers, asks nobody.

use std::borrow::Cow;

use crate::http::Reply;
use crate::http::listener::Address;

/// The longest name of a host, in bytes (RFC 1035), with a port behind it.
const MAX_HOST_BYTES: usize = 253 + 6;

/// A page, with the rules for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it is.
    pub path: &'static str,
    html: &'static str,
    policy: &'static str,
}

/// The policy of a page whose script and style have these hashes. Beside them it may ask this server and show what stands in the
/// page itself. Its script can make no markup of a text, also by mistake.
macro_rules! policy {
    ($script:literal, $style:literal) => {
        concat!(
            "default-src 'none'; script-src '",
            $script,
            "'; style-src '",
            $style,
            "'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'"
        )
    };
}

/// What is going on: `GET /`. The test that compares the hashes with the file says the right ones.
pub static HOME: Page = Page {
    path: "/",
    html: include_str!("pages/home.html"),
    policy: policy!(
        "sha256-1qXeTPOp2hRgZUrQppWLnHDZH/1MTYs4/4Qp5nvkGcI=",
        "sha256-Dp7e89gId6nWeEv1YxniDfKq1USYBf8T5+KHz5ExFbQ="
    ),
};

/// The reference: `GET /docs`, which the page makes of `openapi.json`.
pub static DOCS: Page = Page {
    path: "/docs",
    html: include_str!("pages/docs.html"),
    policy: policy!(
        "sha256-jM1Pm4J+N8unCiyJbh7JMgTGZhAKvzOttubHUYZwbgE=",
        "sha256-IhZIr161pI42NE2PIa1y+p3U7OqBxvLy8KqK3s7Ovmc="
    ),
};

impl Page {
    /// Answers with the page.
    pub fn reply(&self) -> Reply {
        Reply {
            status: 200,
            content_type: "text/html; charset=utf-8",
            // Another site's page may open this one, and must have no hold on its window.
            headers: headers([("Content-Security-Policy", self.policy), ("Cross-Origin-Opener-Policy", "same-origin")]),
            body: Cow::Borrowed(self.html.as_bytes()),
        }
    }
}

impl Page {
    /// Answers who does not bear the token: with the page all the same, so that it can ask for it. It says nothing of any order.
    pub fn unauthorized(&self) -> Reply {
        let mut reply = self.reply();
        reply.headers.push(("WWW-Authenticate", "Bearer"));
        Reply { status: 401, ..reply }
    }
}

/// The headers that all answers here have. Who has an older version's page must get the new one's.
fn headers<const N: usize>(more: [(&'static str, &'static str); N]) -> Vec<(&'static str, &'static str)> {
    let all = [
        ("Cache-Control", "no-cache"),
        ("Vary", "Accept"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ];
    all.into_iter().chain(more).collect()
}

/// Whether `Accept` asks for HTML by its name, as browsers do. curl says `*/*`.
pub fn wants_html(accept: Option<&str>) -> bool {
    accept.unwrap_or_default().split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/html"));
        let is_refused = |parameter: &str| {
            let quality = parameter.strip_prefix("q=").or(parameter.strip_prefix("Q="));
            quality.and_then(|quality| quality.parse().ok()).is_some_and(|quality: f32| quality <= 0.0)
        };
        is_html && !parts.any(is_refused)
    })
}

/// A `Host` that may stand in a shell command: names, addresses and ports are made of these characters alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeHost(String);

impl SafeHost {
    /// `None` if it is anything else.
    pub fn new(host: &str) -> Option<SafeHost> {
        let is_safe = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
        let fits = (1..=MAX_HOST_BYTES).contains(&host.len()) && host.bytes().all(is_safe) && !host.starts_with('-');
        fits.then(|| SafeHost(host.to_string()))
    }
}

/// Answers `GET /` for curl: the lines to type, with the address that this client has reached, or else the server's own, and with
/// the token's header where the server asks for one.
pub fn usage(own: &Address, host: Option<&SafeHost>, asks_for_token: bool) -> Reply {
    let (curl, base) = match (own, host) {
        // Quoted for a shell, whatever the path holds.
        (Address::Unix(path), _) => {
            (format!("curl --unix-socket '{}'", path.display().to_string().replace('\'', r"'\''")), "http://localhost".into())
        }
        (Address::Tcp(_), Some(SafeHost(host))) => ("curl".into(), format!("http://{host}")),
        (Address::Tcp(_), None) => ("curl".into(), own.to_string()),
    };
    let (token, header) = if asks_for_token { (TOKEN, TOKEN_HEADER) } else { ("", "") };
    let text = USAGE.replace("{version}", env!("CARGO_PKG_VERSION")).replace("{token}", token);
    let text = text.replace("{base}", &base).replace("{curl}", &(curl + header));
    Reply { status: 200, content_type: "text/plain; charset=utf-8", headers: headers([]), body: Cow::Owned(text.into_bytes()) }
}

/// The variable is the one that the subcommands read.
const TOKEN: &str = "This server asks for a token, which these lines take from the variable ORDERD_TOKEN.\n";
const TOKEN_HEADER: &str = r#" -H "Authorization: Bearer $ORDERD_TOKEN""#;

/// The addresses are quoted, as shells read meaning into `[` and `?`.
const USAGE: &str = r#"orderd {version} takes orders, keeps them and processes them.
{token}
Create an order; the same one again is harmless:
  {curl} -H 'Content-Type: application/json' '{base}/order' \
    -d '{"order_id":"1","user_id":"user1","item_ids":["item1"],"total_amount":9.5}'

Its status, and its whole record:
  {curl} '{base}/order/1'
  {curl} '{base}/orders/1'

The newest orders, and those that have failed:
  {curl} '{base}/orders?limit=5'
  {curl} '{base}/orders?status=Failed'

Have a failed one tried again:
  {curl} -X POST '{base}/orders/1/retry'

Take back one that is still pending:
  {curl} -X POST '{base}/orders/1/cancel'

Counts by status, and whether all is well:
  {curl} '{base}/metrics'
  {curl} '{base}/healthz'

A browser shows a page here.
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_html_gets_it() {
        for yes in [
            "text/html",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json, TEXT/HTML;q=0.1",
            "text/html ; charset=utf-8",
        ] {
            assert!(wants_html(Some(yes)), "{yes}");
        }
        for no in
            [None, Some("*/*"), Some("text/*"), Some(""), Some("text/html;q=0"), Some("text/html; q=0.0"), Some("text/htmlx")]
        {
            assert!(!wants_html(no), "{no:?}");
        }
    }

    #[test]
    fn a_host_that_a_shell_would_read_meaning_into_is_not_shown() {
        let own: Address = "127.0.0.1:8000".parse().map(Address::Tcp).unwrap();
        let text = |own: &Address, host: &str| {
            String::from_utf8(usage(own, SafeHost::new(host).as_ref(), false).body.into_owned()).unwrap()
        };
        for host in ["localhost:8000", "[::1]:8000", "shop.example", "my_host-2:443"] {
            assert!(text(&own, host).contains(&format!("curl 'http://{host}/order/1'")), "{host}");
        }
        let long = "a".repeat(300);
        for host in ["", "a b", "a'b", "$(id)", "a;b", "a\nb", "<b>", "-x", "ä", "a/b", "a@b", &long] {
            let text = text(&own, host);
            assert!(
                text.contains("curl 'http://127.0.0.1:8000/order/1'") && (host.is_empty() || !text.contains(host)),
                "{host}"
            );
        }
        let socket = Address::Unix("/run/it's here/sock".into());
        assert!(text(&socket, "localhost").contains(r"curl --unix-socket '/run/it'\''s here/sock' 'http://localhost/order/1'"));
    }
}
