//! `GET /`: the page in a real browser, what curl gets instead, and the rules that come with both.

use std::process::Command;

use serde_json::json;

use crate::harness::{Answer, Browser, Local, PATIENCE, Serving, created, get, ids, order, poll_until, request, with};

/// How long the page may be, in bytes.
const MAX_PAGE_BYTES: usize = 30_000;
/// What a browser says when one opens an address.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate";

fn page(server: &impl Serving, path: &str) -> Answer {
    server.ask(with(get(path), BROWSER))
}

/// The hash of a text as a policy names it.
fn hash(text: &str) -> String {
    let script = "import base64, hashlib, sys\nprint('sha256-' + base64.b64encode(hashlib.sha256(sys.argv[1].encode()).digest()).decode())";
    let output = Command::new("python3").args(["-c", script, text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// What stands between the first `<name>` and its end.
fn element<'a>(html: &'a str, name: &str) -> &'a str {
    html.split_once(&format!("<{name}>")).unwrap().1.split_once(&format!("</{name}>")).unwrap().0
}

#[test]
fn the_page_runs_and_shows_what_is_within_it_and_nothing_else() {
    let server = Local::idle();
    let answer = page(&server, "/");
    assert_eq!(answer.status, 200);
    let html = &answer.body;
    assert!(html.len() <= MAX_PAGE_BYTES, "{} bytes", html.len());
    let policy = answer.header("Content-Security-Policy").unwrap();
    for name in ["script", "style"] {
        assert_eq!(html.matches(&format!("<{name}")).count(), 1, "one {name}, which has no attributes");
        let hash = hash(element(html, name));
        assert!(
            policy.contains(&format!("; {name}-src '{hash}'; ")),
            "src/api/pages.rs must say {hash} for the {name} of the page"
        );
    }
    for rule in [
        "default-src 'none'; ",
        "connect-src 'self'; ",
        "base-uri 'none'; ",
        "form-action 'none'; ",
        "frame-ancestors 'none'; ",
    ] {
        assert!(policy.contains(rule), "{rule} is missing in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // The one other source is what stands in the page itself.
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("src="), "it names another place");
}

#[test]
fn both_forms_come_with_the_same_care() {
    let server = Local::idle();
    let text = server.get("/");
    let html = page(&server, "/");
    text.expect_header("Content-Type", "text/plain; charset=utf-8").expect_no_header("Content-Security-Policy");
    html.expect_header("Content-Type", "text/html; charset=utf-8");
    for answer in [&text, &html] {
        answer.expect_header("X-Content-Type-Options", "nosniff").expect_header("Referrer-Policy", "no-referrer");
        answer.expect_header("Vary", "Accept").expect_header("Cache-Control", "no-cache");
    }
    server.ask(with(get("/"), "Sec-Fetch-Site: cross-site")).expect_error(403, "cross_site");
    server
        .ask(request("POST", "/", &["Content-Length: 0"], ""))
        .expect_error(405, "method_not_allowed")
        .expect_header("Allow", "GET, HEAD");
}

/// Each line that the text names is run by a shell, as a person would paste it.
#[test]
fn the_lines_that_curl_gets_can_be_pasted() {
    let server = Local::idle();
    let text = curl(&format!("curl -sS {}/", server.address()));
    let lines = text.replace("\\\n", " ");
    let commands: Vec<_> = lines.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(commands.len(), 8, "{text}");
    for command in commands {
        let answer = curl(&command.replacen("curl ", "curl -sS ", 1));
        let expected = if command.contains("/retry") { "only an order that has failed" } else { "{\"" };
        assert!(answer.contains(expected), "{command}: {answer}");
    }
    assert_eq!(server.status("1"), "Pending");
}

#[track_caller]
fn curl(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn figures_appear_and_a_new_order_shows_up() {
    let Some(browser) = Browser::start() else { return };
    let server = Local::idle();
    server.post(order("first")).expect(200, &created("first"));
    browser.open(&server.address().to_string());
    browser.wait_for_text("#newest", |text| text.contains("first"));
    browser.wait_for_text("#counts", |text| text.contains("Pending\n1"));
    server.post(order("second")).expect(200, &created("second"));
    browser.wait_for_text("#newest", |text| text.contains("second"));
    assert_eq!(browser.console(), [""; 0]);
}

/// Whatever the page shows, a refresh asks two things, and nothing comes from elsewhere.
#[test]
fn a_refresh_costs_two_requests() {
    let Some(browser) = Browser::start() else { return };
    let server = Local::idle();
    server.create(ids(0..300));
    let home = server.address().to_string();
    browser.open(&home);
    browser.wait_for_text("#counts", |text| text.contains("Pending\n300"));
    let expected = [format!("GET {home}/metrics"), format!("GET {home}/orders?limit=20")];
    let mut seen = browser.requests();
    assert_eq!(seen.remove(0), format!("GET {home}/"));
    poll_until(PATIENCE, || {
        seen.extend(browser.requests());
        seen.len() >= 6
    });
    for refresh in seen.chunks_exact(2) {
        assert_eq!(refresh, expected, "{seen:?}");
    }
}

#[test]
fn hostile_ids_stay_text() {
    let Some(browser) = Browser::start() else { return };
    let server = Local::idle();
    let hostile = [
        "<script>document.title='taken'</script>",
        "<img src=x onerror=document.title='taken'>",
        "'--><svg/onload=document.title=1>",
    ];
    for id in hostile {
        server.post(order(id)).expect(200, &created(id));
    }
    browser.open(&server.address().to_string());
    for id in hostile {
        browser.wait_for_text("#newest", |text| text.contains(id));
    }
    let found = browser.run("return [document.title, document.querySelectorAll('script, img, body svg').length]", json!([]));
    assert_eq!(found, json!(["orderd", 1]));
    assert_eq!(browser.console(), [""; 0]);
}
