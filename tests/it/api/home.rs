//! `GET /`: the page in a real browser, what curl gets instead, and the rules that come with both.

use std::process::Command;

use orderd::Token;
use serde_json::json;

use crate::harness::{
    Answer, Browser, Folder, Local, PATIENCE, Process, Serving, by_hand, created, get, ids, order, orderd, policy_hash,
    poll_until, request, tcp_address, with,
};

/// How long the page may be, in bytes.
const MAX_PAGE_BYTES: usize = 30_000;
/// What a browser says when one opens an address.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate";

fn page(server: &impl Serving, path: &str) -> Answer {
    server.ask(with(get(path), BROWSER))
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
        let hash = policy_hash(element(html, name));
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
    let html = html.replace("xmlns='http://www.w3.org/2000/svg'", "").replace("${location.origin}", "");
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

/// Each line that the text names is run by a shell, as a person would paste it. Where a token is asked for they bear it.
#[test]
fn the_lines_that_curl_gets_can_be_pasted() {
    can_be_pasted(&Local::idle(), "");
    let token = Token::new("0123456789abcdef").unwrap();
    let guarded = Local::start(|config| (config.concurrency, config.token) = (Some(0), Some(token)));
    can_be_pasted(&guarded, r#" -H "Authorization: Bearer $ORDERD_TOKEN""#);
}

#[track_caller]
fn can_be_pasted(server: &Local, header: &str) {
    let text = curl(&format!("curl -sS{header} {}/", server.address()));
    assert_eq!(text.contains("ORDERD_TOKEN"), !header.is_empty(), "{text}");
    let lines = text.replace("\\\n", " ");
    let commands: Vec<_> = lines.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(commands.len(), 9, "{text}");
    for command in commands {
        let answer = curl(&command.replacen("curl ", "curl -sS ", 1));
        let expected = if command.contains("/retry") { "only an order that has failed" } else { "{\"" };
        assert!(answer.contains(expected), "{command}: {answer}");
    }
    assert_eq!(server.rows()[0].status, "Cancelled");
}

#[track_caller]
fn curl(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).env("ORDERD_TOKEN", "0123456789abcdef").output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A browser that shows the page of this server.
fn watching(server: &impl Serving) -> Option<Browser> {
    let browser = Browser::start()?;
    browser.open(&server.address().to_string());
    Some(browser)
}

/// Has these orders fail for this reason.
fn fail(server: &impl Serving, reason: &str, which: &str) {
    let reason = reason.replace('\'', "''");
    let sql =
        format!("UPDATE orders SET status = 'Failed', attempts = 3, last_error = '{reason}' WHERE order_id LIKE '{which}'");
    by_hand(&server.db(), &sql);
}

#[test]
fn figures_appear_and_a_new_order_shows_up() {
    let server = Local::idle();
    server.post(order("first")).expect(200, &created("first"));
    let Some(browser) = watching(&server) else { return };
    browser.wait_for_text("#rows", |text| text.contains("first"));
    browser.wait_for_text("#counts", |text| text.contains("Pending\n1"));
    server.post(order("second")).expect(200, &created("second"));
    browser.wait_for_text("#rows", |text| text.starts_with("second"));
    browser.wait_for_text("#counts", |text| text.contains("Pending\n2"));
    browser.wait_for_text("#plots", |text| text.contains("pending 2"));
    poll_until(PATIENCE, || browser.run("return document.querySelectorAll('svg path').length >= 2", json!([])) == true);
    assert_eq!(browser.console(), [""; 0]);
}

/// However many orders there are, a refresh asks two things. Those that have failed are asked for now and then, while there are any;
/// nothing comes from elsewhere.
#[test]
fn a_refresh_costs_two_requests() {
    let server = Local::idle();
    server.create(ids(0..300));
    let Some(browser) = watching(&server) else { return };
    let home = server.address().to_string();
    browser.wait_for_text("#counts", |text| text.contains("Pending\n300"));
    let metrics = format!("GET {home}/metrics");
    let expected = [metrics.clone(), format!("GET {home}/orders?limit=15")];
    let mut seen = browser.requests();
    assert_eq!(seen.remove(0), format!("GET {home}/"));
    poll_until(PATIENCE, || {
        seen.extend(browser.requests());
        seen.len() >= 6
    });
    for refresh in seen.chunks_exact(2) {
        assert_eq!(refresh, expected, "{seen:?}");
    }
    fail(&server, "no", "o-%");
    browser.wait_for_text("#failed", |text| text.contains("and 292 more"));
    let mut seen = browser.requests();
    poll_until(2 * PATIENCE, || {
        seen.extend(browser.requests());
        seen.iter().filter(|request| **request == metrics).count() >= 6
    });
    let failed = seen.iter().filter(|request| request.contains("status=Failed")).count();
    assert!((1..=3).contains(&failed) && seen.iter().all(|request| request.contains(&home)), "{seen:?}");
}

#[test]
fn an_order_is_looked_up_with_its_record_and_what_happened_to_it() {
    let server = Local::idle();
    server.create(ids(0..30));
    server.post(order("a/b ä")).expect(200, &created("a/b ä"));
    fail(&server, "the printer is on fire", "o-1");
    let Some(browser) = watching(&server) else { return };
    browser.type_into("#id", "o-1");
    browser.click("#find button");
    browser.wait_for_text("#story", |text| text.contains("Given up after 3 attempts:\nthe printer is on fire"));
    let record = browser.text("#record");
    for field in ["order_id", "user1", "item1\nitem2", "100.0", "Failed", "2023-11-14T22:13:20.000Z", "completed_at\nnull"] {
        assert!(record.contains(field), "{field} is missing in {record}");
    }
    // From a list, and what the address names after a reload.
    browser.click("#rows a");
    browser.wait_for_text("#title", |text| text == "a/b ä");
    browser.open(&format!("{}/#order=nobody", server.address()));
    browser.wait_for_text("#missing", |text| text == "There is no such order.");
}

#[test]
fn hostile_ids_stay_text() {
    let server = Local::idle();
    let hostile = [
        "<script>document.title='taken'</script>",
        "<img src=x onerror=document.title='taken'>",
        "'--><svg/onload=document.title=1>",
        "javascript:document.title=1",
    ];
    for id in hostile {
        server.post(order(id)).expect(200, &created(id));
    }
    server.create(["quiet".into()]);
    fail(&server, "<b onclick=document.title=1>no</b>", "quiet");
    let Some(browser) = watching(&server) else { return };
    for id in hostile {
        browser.wait_for_text("#rows", |text| text.contains(id));
    }
    browser.wait_for_text("#failures", |text| text.contains("<b onclick"));
    for row in 2..=5 {
        browser.click(&format!("#rows tr:nth-child({row}) a"));
        browser.wait_for_text("#title", |text| text == hostile[5 - row]);
    }
    let found = browser.run("return [document.title, document.querySelectorAll('script, img, section svg').length]", json!([]));
    assert_eq!(found, json!(["orderd", 1]));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn failed_orders_are_tried_again_one_or_all_and_a_pending_one_is_cancelled() {
    let server = Local::idle();
    server.create(ids(0..250));
    fail(&server, "declined", "o-%");
    let Some(browser) = watching(&server) else { return };
    browser.wait_for_text("#failed", |text| text.contains("o-249") && text.contains("3 attempts: declined"));
    browser.click("#failures li button");
    browser.wait_for_text("#counts", |text| text.contains("Pending\n1") && text.contains("Failed\n249"));
    assert_eq!(server.status("o-249"), "Pending");
    // At the second press, and more than a page of them.
    browser.click("#all");
    browser.wait_for_text("#all", |text| text.contains("Press again"));
    assert_eq!(server.status("o-0"), "Failed");
    browser.click("#all");
    browser.wait_for_text("#counts", |text| text.contains("Pending\n250") && text.contains("Failed\n0"));
    browser.wait_for_text("#said", |text| text == "249 orders will be tried again.");
    browser.type_into("#id", "o-7");
    browser.click("#find button");
    browser.wait_for_text("#title", |text| text == "o-7");
    browser.click("#cancel");
    browser.click("#cancel");
    browser.wait_for_text("#status", |text| text == "Cancelled");
    assert_eq!(server.status("o-7"), "Cancelled");
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn a_server_that_is_gone_is_said_to_be_and_shows_up_again_by_itself() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("kept")).expect(200, &created("kept"));
    let Some(browser) = watching(&server) else { return };
    browser.wait_for_text("#state", |text| text.starts_with("Live"));
    let address = tcp_address(&server).to_string();
    server.stop();
    browser.wait_for_text("#state", |text| text.starts_with("No answer, since"));
    let opacity = browser.run("return getComputedStyle(document.querySelector('main')).opacity", json!([]));
    assert_ne!(opacity, "1", "what may no longer be true looks like it");
    assert!(browser.text("#rows").contains("kept"), "the last figures stay");
    let mut command = orderd(&folder);
    command.args(["--listen", &address, "--concurrency", "0"]);
    let server = Process::spawn(command, &folder);
    server.post(order("after")).expect(200, &created("after"));
    browser.wait_for_text("#rows", |text| text.starts_with("after"));
    browser.wait_for_text("#state", |text| text.starts_with("Live"));
    server.stop();
}

#[test]
fn it_is_shown_dark_and_light_and_fits_a_phone() {
    let server = Local::idle();
    let long = "an-id-without-any-end-".repeat(11);
    server.create([long.clone(), "pending".into()]);
    fail(&server, &"reason".repeat(100), "an-id%");
    let Some(browser) = watching(&server) else { return };
    let shades = ["light", "dark"].map(|theme| {
        browser
            .command("Emulation.setEmulatedMedia", json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] }));
        let script =
            "return ['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/\\d+/)[0] / 1)";
        let shades: Vec<f64> = serde_json::from_value(browser.run(script, json!([]))).unwrap();
        shades[0] - shades[1]
    });
    assert!(shades[0] > 150.0 && shades[1] < -150.0, "{shades:?}");
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    browser.command("Emulation.setDeviceMetricsOverride", phone);
    browser.wait_for_text("#failures", |text| text.contains("reason"));
    browser.click("#failures a");
    browser.wait_for_text("#title", |text| *text == long);
    assert_eq!(browser.run("return [document.documentElement.scrollWidth, innerWidth]", json!([])), json!([360, 360]));
}

/// Tab goes through all of them, each shows that it has the focus, and Enter does what a click does.
#[test]
fn every_control_is_reached_by_keyboard() {
    let server = Local::idle();
    server.create(["pending".into(), "failed".into()]);
    fail(&server, "no", "failed");
    let Some(browser) = watching(&server) else { return };
    browser.wait_for_text("#failures", |text| text.contains("failed"));
    browser.wait_for_text("#rows", |text| text.contains("pending"));
    browser.run("document.getElementById('id').focus()", json!([]));
    ["p", "e", "n", "d", "i", "n", "g", "\u{e007}"].iter().for_each(|key| browser.press(key));
    browser.wait_for_text("#title", |text| text == "pending");
    let all =
        "return [...document.querySelectorAll('a, button, input')].filter(e => e.checkVisibility()).map(e => e.outerHTML)";
    let mut left: Vec<String> = serde_json::from_value(browser.run(all, json!([]))).unwrap();
    let count = left.len();
    assert!(count >= 9, "{left:?}");
    for _ in 0..3 * count {
        let here = "const e = document.activeElement; return [e.outerHTML, e.matches(':focus-visible') ? getComputedStyle(e).outlineStyle : 'none']";
        let (html, outline): (String, String) = serde_json::from_value(browser.run(here, json!([]))).unwrap();
        if let Some(at) = left.iter().position(|control| *control == html) {
            left.remove(at);
            assert_ne!(outline, "none", "{html}");
        }
        browser.press("\u{e004}");
    }
    assert_eq!(left, [""; 0], "not reached");
    browser.run("document.getElementById('cancel').focus()", json!([]));
    browser.press("\u{e007}");
    browser.press("\u{e007}");
    browser.wait_for_text("#status", |text| text == "Cancelled");
}
