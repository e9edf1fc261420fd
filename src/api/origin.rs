//! Whose request it is: a browser sends requests for any page that it shows, also to a server on its own machine.
//!
//! A browser says which site's page sends a request (`Sec-Fetch-Site`, and `Origin` where it matters); programs say neither. A page
//! whose name an attacker points at 127.0.0.1 (DNS rebinding) is of the same site, so while orderd listens on loopback, only
//! names that are known to be ours may stand in `Host`.
//!
//! A link on another site may lead to a page for people, though: that page is the same for everybody, and what it shows it asks by
//! itself, as a page of ours. A record or a list is no such page, even if it could be shown as harmlessly: whether it is there, and
//! how long it takes, is nobody else's business, and `/#order=ID` is the link to an order.

use super::reply::Refusal;

/// The names that `Host` may have.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// `None` if any will do, as the server does not listen on loopback.
    allowed: Option<Vec<String>>,
}

/// What a request says of where it comes from and where it means to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The request line's target, which names the host itself if it is a whole URL (RFC 9112, 3.2.2).
    pub target: &'a str,
    /// `Host`. HTTP/1.0 need not say it.
    pub host: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub site: Option<&'a str>,
    /// `Sec-Fetch-Mode`.
    pub mode: Option<&'a str>,
    /// `Sec-Fetch-Dest`.
    pub dest: Option<&'a str>,
    /// Whether all that it asks for is a page for people.
    pub is_for_page: bool,
}

impl Hosts {
    /// Any name will do.
    pub fn any() -> Hosts {
        Hosts { allowed: None }
    }

    /// Loopback addresses, `localhost`, and these.
    pub fn loopback_and(names: &[String]) -> Hosts {
        Hosts { allowed: Some(names.to_vec()) }
    }

    /// Refuses what another site's page sends, and what was not meant for us.
    ///
    /// # Errors
    /// [`Refusal::CrossSite`] or [`Refusal::UnknownHost`].
    pub fn check(&self, from: Origin<'_>) -> Result<(), Refusal> {
        let host = authority(from.target).or(from.host);
        if let (Some(names), Some(host)) = (&self.allowed, host) {
            let (name, _) = split_port(host);
            let name = name.strip_suffix('.').unwrap_or(name);
            if !is_loopback(name) && !names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
                return Err(Refusal::UnknownHost);
            }
        }
        // Shown by itself, that is, and not within another page.
        let follows_link = from.is_for_page && from.mode == Some("navigate") && from.dest == Some("document");
        let same_site = follows_link || from.site.is_none_or(|site| matches!(site, "same-origin" | "none"));
        let same_origin = from.origin.is_none_or(|origin| host.is_some_and(|host| is_same(origin, host)));
        if same_site && same_origin { Ok(()) } else { Err(Refusal::CrossSite) }
    }
}

/// The host and port in a target that is a whole URL.
fn authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?']))?;
    let _ = scheme;
    rest.split(['/', '?', '#']).next()
}

/// A proxy in front may speak TLS, so the scheme is not compared; a port that is its scheme's own need not be said.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, origin)) = origin.split_once("://") else { return false };
    let default = if scheme == "https" { "443" } else { "80" };
    let parts = |authority| {
        let (name, port) = split_port(authority);
        (name.to_ascii_lowercase(), port.unwrap_or(default).to_string())
    };
    parts(origin) == parts(host)
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // Within brackets a colon belongs to an IPv6 address.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    }
}

fn is_loopback(name: &str) -> bool {
    let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || unbracketed.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(hosts: &Hosts, from: Origin<'_>) -> &'static str {
        match hosts.check(from) {
            Ok(()) => "fine",
            Err(Refusal::CrossSite) => "cross site",
            Err(Refusal::UnknownHost) => "unknown host",
            Err(_) => "something else",
        }
    }

    #[test]
    fn on_loopback_only_known_names_are_served() {
        let hosts = Hosts::loopback_and(&["orders.example.com".into()]);
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]:8000",
            "[::1]",
            "localhost.",
            "Orders.Example.com:443",
        ] {
            assert_eq!(outcome(&hosts, Origin { host: Some(host), ..Origin::default() }), "fine", "{host}");
        }
        for host in
            ["evil.example", "evil.example:8000", "10.0.0.1", "localhost.evil.example", "", "[::2]", "127.0.0.1.evil.example"]
        {
            assert_eq!(outcome(&hosts, Origin { host: Some(host), ..Origin::default() }), "unknown host", "{host}");
            assert_eq!(outcome(&Hosts::any(), Origin { host: Some(host), ..Origin::default() }), "fine", "{host}");
        }
        assert_eq!(outcome(&hosts, Origin::default()), "fine", "HTTP/1.0 without a Host");
        let absolute = Origin { target: "http://evil.example/order", host: Some("localhost"), ..Origin::default() };
        assert_eq!(outcome(&hosts, absolute), "unknown host", "the target goes before Host");
    }

    #[test]
    fn what_another_site_s_page_sends_is_refused() {
        let ask = |site, origin, host| outcome(&Hosts::any(), Origin { site, origin, host: Some(host), ..Origin::default() });
        for site in [None, Some("same-origin"), Some("none")] {
            assert_eq!(ask(site, None, "localhost:8000"), "fine");
        }
        for site in ["cross-site", "same-site", "whatever"] {
            assert_eq!(ask(Some(site), None, "localhost:8000"), "cross site");
        }
        // A link from there, and what only looks like one.
        let follow = |is_for_page, mode, dest, origin| {
            let from = Origin { site: Some("cross-site"), is_for_page, mode, dest, origin, ..Origin::default() };
            outcome(&Hosts::any(), Origin { host: Some("localhost:8000"), ..from })
        };
        let (navigate, document) = (Some("navigate"), Some("document"));
        assert_eq!(follow(true, navigate, document, None), "fine");
        assert_eq!(follow(false, navigate, document, None), "cross site", "what it leads to is no page");
        assert_eq!(follow(true, navigate, document, Some("null")), "cross site", "a form, or the like");
        for dest in [None, Some("iframe"), Some("frame"), Some("embed"), Some("object"), Some("empty"), Some("Document")] {
            assert_eq!(follow(true, navigate, dest, None), "cross site", "{dest:?}");
        }
        for mode in [None, Some("no-cors"), Some("cors"), Some("same-origin"), Some("websocket")] {
            assert_eq!(follow(true, mode, document, None), "cross site", "{mode:?}");
        }
        for (origin, host) in [
            ("http://localhost:8000", "localhost:8000"),
            ("https://Shop.example", "shop.example"),
            ("https://shop.example", "shop.example:443"),
            ("http://[::1]:8000", "[::1]:8000"),
        ] {
            assert_eq!(ask(None, Some(origin), host), "fine", "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "localhost:8000"),
            ("http://evil.example", "localhost:8000"),
            ("http://localhost:9000", "localhost:8000"),
            ("http://shop.example", "shop.example:443"),
            ("http://localhost:8000.evil.example", "localhost:8000"),
        ] {
            assert_eq!(ask(None, Some(origin), host), "cross site", "{origin} {host}");
        }
    }
}
