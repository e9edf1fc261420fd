//! What a web page may have its visitor's browser do to a server on the same machine: nothing.
//!
//! A browser says which site a request comes from (`Origin`, `Sec-Fetch-Site`), and which name it has looked up (`Host`). A page
//! of another site gets 403, and a name that is not this machine's gets 421, as it may have been rebound to this address.
//! Programs, curl and proxies say none of it or what is true, and notice nothing.

use orderd::Listen;

use crate::harness::{
    Browser, Folder, HOST, Local, Process, Serving, by_hand, created, get, in_status, long_order, order, orderd, post, request,
    with,
};

/// The same request to another host.
fn to_host(request: impl AsRef<[u8]>, host: &str) -> String {
    let request = String::from_utf8(request.as_ref().to_vec()).unwrap();
    request.replacen(&format!("Host: {HOST}\r\n"), &format!("Host: {host}\r\n"), 1)
}

/// A server with one order, which has failed.
fn with_a_failed_order() -> Local {
    let server = Local::idle();
    server.post(order("1")).expect(200, &created("1"));
    by_hand(&server.db(), "UPDATE orders SET status = 'Failed', attempts = 5");
    server
}

/// A request for everything that a page could be after.
fn all_requests() -> Vec<Vec<u8>> {
    let retry = request("POST", "/orders/1/retry", &["Content-Type: text/plain", "Content-Length: 0"], "");
    let reads = ["/order/1", "/orders/1", "/orders?limit=1", "/metrics", "/healthz"];
    let mut all = vec![retry.into_bytes(), post(order("2")), post(long_order("3", 5_000))];
    all.extend(reads.map(|path| get(path).into_bytes()));
    all
}

/// Asserts that whatever is asked is refused when this header comes with it, and nothing happens.
#[track_caller]
fn is_refused_as_cross_site(header: &str) {
    let server = with_a_failed_order();
    let before = server.rows();
    for request in all_requests() {
        let answer = server.ask(with(&request, header));
        answer.expect_error(403, "cross_site");
        assert!(!answer.body.contains("user1"), "{}", answer.exchange());
    }
    let answer = server.ask(with(request("HEAD", "/orders/1", &[], ""), header));
    assert_eq!((answer.status, answer.body.as_str()), (403, ""), "{}", answer.exchange());
    assert_eq!(server.rows(), before, "{header}");
    // The same host may do all of it otherwise.
    server.get("/order/1").expect(200, &in_status("1", "Failed"));
}

#[test]
fn what_a_browser_says_another_sites_page_sends_is_refused() {
    is_refused_as_cross_site("Sec-Fetch-Site: cross-site");
    is_refused_as_cross_site("sec-fetch-site: same-site");
}

#[test]
fn an_origin_that_is_not_the_host_is_refused() {
    is_refused_as_cross_site("Origin: https://evil.example");
    is_refused_as_cross_site("origin: http://localhost.evil.example");
    is_refused_as_cross_site("Origin: http://localhost:1234");
    // What a sandboxed frame or a file says.
    is_refused_as_cross_site("Origin: null");
}

/// One of them is enough, whatever the other says.
#[test]
fn an_origin_is_looked_at_also_when_the_browser_says_same_origin() {
    is_refused_as_cross_site("Origin: https://evil.example\r\nSec-Fetch-Site: same-origin");
    is_refused_as_cross_site("Origin: http://localhost\r\nSec-Fetch-Site: cross-site");
}

/// Both pages are the same for everybody. What else a link can lead to is not shown, and no page shows itself within another.
#[test]
fn a_link_from_another_site_leads_to_a_page_for_people_and_to_nothing_else() {
    let server = with_a_failed_order();
    let html = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let ask = |method: &str, path: &str, fetch: [&str; 3]| {
        let [site, mode, dest] = fetch;
        let headers = format!("{html}\r\nSec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\nSec-Fetch-Dest: {dest}");
        let length = if method == "POST" { &["Content-Length: 0"][..] } else { &[] };
        server.ask(with(request(method, path, length, ""), &headers))
    };
    for site in ["cross-site", "same-site"] {
        for path in ["/", "/docs", "/?from=chat", "/docs?x"] {
            let page = ask("GET", path, [site, "navigate", "document"]);
            assert_eq!(page.status, 200, "{}", page.exchange());
            page.expect_header("Content-Type", "text/html; charset=utf-8");
            page.expect_header("Cross-Origin-Opener-Policy", "same-origin");
            let policy = page.header("Content-Security-Policy").unwrap();
            assert!(policy.contains("; frame-ancestors 'none'; "), "{policy}");
            for dest in ["iframe", "frame", "embed", "object", "fencedframe", "empty", "script", "image"] {
                ask("GET", path, [site, "navigate", dest]).expect_error(403, "cross_site");
            }
            for mode in ["cors", "no-cors", "same-origin", "websocket"] {
                ask("GET", path, [site, mode, "document"]).expect_error(403, "cross_site");
            }
            ask("POST", path, [site, "navigate", "document"]).expect_error(403, "cross_site");
        }
        for path in ["/order/1", "/orders/1", "/orders", "/metrics", "/healthz", "/openapi.json", "/nothing", "/order/nobody"] {
            ask("GET", path, [site, "navigate", "document"]).expect_error(403, "cross_site");
        }
        for path in ["/order", "/orders/1/retry", "/orders/1/cancel"] {
            ask("POST", path, [site, "navigate", "document"]).expect_error(403, "cross_site");
        }
    }
    let link = format!("{html}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document");
    let head = server.client().try_ask(with(request("HEAD", "/", &[], ""), &link)).unwrap();
    assert_eq!(head.status, 200);
    // A form says whose it is, and a name that was rebound is none of ours.
    server.ask(with(get("/"), &format!("{link}\r\nOrigin: null"))).expect_error(403, "cross_site");
    server.ask(to_host(with(get("/"), &link), "evil.example")).expect_error(421, "unknown_host");
    assert_eq!(server.rows()[0].status, "Failed", "nothing has happened");
}

/// As a browser sends it, of a page that is of no site.
#[test]
fn a_real_link_is_followed_to_the_page_and_to_no_figures() {
    let server = Local::idle();
    let Some(browser) = Browser::start() else { return };
    let home = format!("{}/", server.address());
    let elsewhere = format!("data:text/html,<a id=page href={home}>orders</a> <a id=figures href={home}metrics>figures</a>");
    browser.open(&elsewhere);
    browser.click("#page");
    browser.wait_for_text("#word", |text| text.starts_with("Live"));
    browser.open(&elsewhere);
    browser.click("#figures");
    browser.wait_for_text("body", |text| text.contains("cross_site"));
}

#[test]
fn pages_of_the_same_site_and_requests_that_no_page_sends_are_answered() {
    let headers = [
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Site: none",
        "Origin: http://localhost",
        "Origin: https://localhost",
        "Origin: http://LOCALHOST\r\nSec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: cors",
        "Referer: https://evil.example/",
    ];
    let server = Local::idle();
    for (n, header) in headers.iter().enumerate() {
        server.ask(with(post(order(&n.to_string())), header)).expect(200, &created(&n.to_string()));
        server.ask(with(get("/order/0"), header)).expect(200, &in_status("0", "Pending"));
    }
    // The port is part of both.
    let with_port = to_host(with(get("/order/0"), "Origin: http://localhost:8000"), "localhost:8000");
    server.ask(with_port).expect(200, &in_status("0", "Pending"));
    server.ask(to_host(with(get("/order/0"), "Origin: http://localhost"), "localhost:8000")).expect_error(403, "cross_site");
}

/// DNS rebinding: the page's own name leads to this address, so to the browser it is the same origin.
#[test]
fn a_host_that_is_not_this_machine_is_refused() {
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "192.0.2.1:80",
        "[2001:db8::1]",
        "[2001:db8::1]:8000",
        "0.0.0.0",
        "128.0.0.1",
        "evil-localhost",
    ] {
        let server = with_a_failed_order();
        let before = server.rows();
        for request in all_requests() {
            let answer = server.ask(to_host(&request, host));
            answer.expect_error(421, "unknown_host");
            assert!(!answer.body.contains("user1"), "{}", answer.exchange());
            let same = with(to_host(&request, host), &format!("Origin: http://{host}\r\nSec-Fetch-Site: same-origin"));
            server.ask(same).expect_error(421, "unknown_host");
        }
        assert_eq!(server.rows(), before, "{host}");
    }
}

#[test]
fn every_name_of_this_machine_is_answered() {
    let server = Local::idle();
    for host in ["localhost", "localhost:8000", "LocalHost", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3", "[::1]", "[::1]:8000"]
    {
        server.ask(to_host(get("/healthz"), host)).expect(200, r#"{"status":"ok"}"#);
    }
    server.post(order("1")).expect(200, &created("1"));
}

#[test]
fn a_host_that_is_allowed_is_answered() {
    let folder = Folder::new();
    let names = ["--allow-host", "shop.example,api.example", "--allow-host", "third.example", "--concurrency", "0"];
    let server = Process::start(&folder, &names);
    for host in ["shop.example", "shop.example:443", "API.example", "third.example", "localhost", "127.0.0.1:80"] {
        server.ask(to_host(get("/healthz"), host)).expect(200, r#"{"status":"ok"}"#);
    }
    // What a browser says through a proxy that ends TLS.
    let page = "Origin: https://shop.example\r\nSec-Fetch-Site: same-origin";
    server.ask(to_host(with(post(order("1")), page), "shop.example")).expect(200, &created("1"));
    for host in ["evil.example", "www.shop.example", "shop.example.evil.example"] {
        server.ask(to_host(get("/healthz"), host)).expect_error(421, "unknown_host");
    }
    let other = "Origin: https://api.example";
    server.ask(to_host(with(get("/healthz"), other), "shop.example")).expect_error(403, "cross_site");
    server.stop();
}

#[test]
fn hosts_may_be_allowed_by_the_environment() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0"]).env("ORDERD_ALLOW_HOST", "shop.example,api.example");
    let server = Process::spawn(command, &folder);
    for host in ["shop.example", "api.example:8443"] {
        server.ask(to_host(get("/healthz"), host)).expect(200, r#"{"status":"ok"}"#);
    }
    server.ask(to_host(get("/healthz"), "evil.example")).expect_error(421, "unknown_host");
    server.stop();
}

/// No browser gets there, and each client says what it likes.
#[test]
fn over_a_unix_socket_any_host_is_answered() {
    let folder = Folder::new();
    let server = Local::start(|config| config.listen = Listen::Unix(folder.file("sock")));
    for host in ["localhost", "orderd", "shop.example", "unix"] {
        server.ask(to_host(get("/healthz"), host)).expect(200, r#"{"status":"ok"}"#);
    }
}
