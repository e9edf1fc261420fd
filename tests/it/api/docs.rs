//! `GET /docs`: the reference in a real browser, made of `openapi.json`, and what one can try there.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Browser, Document, Folder, Local, PATIENCE, Process, Serving, comes_true, created, in_status, order, policy_hash, request,
};

/// How long the page may be, in bytes.
const MAX_PAGE_BYTES: usize = 30_000;

/// Opens the page and every operation on it.
#[track_caller]
fn opened(browser: &Browser, server: &impl Serving) {
    browser.open(&format!("{}/docs", server.address()));
    let count = Document::of(server).operations().iter().filter(|operation| operation.method != "HEAD").count();
    let shown = || browser.run("return document.querySelectorAll('details.op').length", json!([])) == json!(count);
    assert!(comes_true(2 * PATIENCE, shown), "{}", browser.text("body"));
    browser.run("document.querySelectorAll('details.op').forEach(part => part.open = true)", json!([]));
    let filled = || browser.run("return document.querySelectorAll('details.op .curl').length", json!([])) == json!(count);
    assert!(comes_true(2 * PATIENCE, filled), "{}", browser.text("body"));
}

/// Fills in one field of an operation, as a person would, and sends the form.
#[track_caller]
fn send(browser: &Browser, operation: &str, field: &str, value: &str) {
    let script = "const form = document.querySelector(`#${arguments[0]} form`), field = form.elements[arguments[1]];
        field.value = arguments[2]; field.dispatchEvent(new Event('input', { bubbles: true })); form.requestSubmit();";
    browser.run(script, json!([operation, field, value]));
}

#[test]
fn the_reference_is_one_file_whose_policy_names_what_is_within_it() {
    let server = Local::idle();
    let answer = server.get("/docs");
    answer.expect_header("Content-Type", "text/html; charset=utf-8");
    let html = &answer.body;
    assert!(html.len() <= MAX_PAGE_BYTES, "{} bytes", html.len());
    let policy = answer.header("Content-Security-Policy").unwrap();
    for name in ["script", "style"] {
        let within = html.split_once(&format!("<{name}>")).unwrap().1.split_once(&format!("</{name}>")).unwrap().0;
        let hash = policy_hash(within);
        assert!(policy.contains(&format!("; {name}-src '{hash}'; ")), "src/api/pages.rs must say {hash} for the {name}");
    }
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("src="), "it names another place");
    let posted = server.ask(request("POST", "/docs", &["Content-Length: 0"], ""));
    posted.expect_error(405, "method_not_allowed").expect_header("Allow", "GET, HEAD");
}

#[test]
fn every_operation_is_shown_in_both_themes_and_fits_a_phone() {
    let Some(browser) = Browser::start() else { return };
    let server = Local::idle();
    opened(&browser, &server);
    let body = browser.text("body");
    for operation in Document::of(&server).operations().into_iter().filter(|operation| operation.method != "HEAD") {
        assert!(body.contains(operation.path), "{} is missing", operation.path);
        assert!(body.contains(operation.value["summary"].as_str().unwrap()), "{} has no summary", operation.path);
    }
    for (theme, is_light) in [("light", true), ("dark", false)] {
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        browser.command("Emulation.setEmulatedMedia", feature);
        let script = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] / 1";
        let shade = browser.run(script, json!([])).as_f64().unwrap();
        assert_eq!(shade > 150.0, is_light, "{theme}: {shade}");
    }
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    browser.command("Emulation.setDeviceMetricsOverride", phone);
    assert_eq!(browser.run("return [document.documentElement.scrollWidth, innerWidth]", json!([])), json!([360, 360]));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn a_tried_operation_shows_its_answer_and_the_curl_line_does_the_same() {
    let Some(browser) = Browser::start() else { return };
    let server = Local::idle();
    opened(&browser, &server);
    send(&browser, "createOrder", "body", &order("it's <b>"));
    browser.wait_for_text("#createOrder .answer", |text| text.trim() == created("it's <b>"));
    let line = browser.text("#createOrder .curl");
    let output = Command::new("sh").args(["-c", &format!("{line} -sS -i")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Idempotent-Replayed: true") && said.contains(&created("it's <b>")), "{line}: {said}");
    send(&browser, "getOrderStatus", "order_id", "it's <b>");
    browser.wait_for_text("#getOrderStatus .answer", |text| text.trim() == in_status("it's <b>", "Pending"));
    send(&browser, "listOrders", "limit", "0");
    browser.wait_for_text("#listOrders .out", |text| text.contains("400") && text.contains("bad_query"));
    assert_eq!(browser.run("return document.title", json!([])), "orderd: the API");
}

#[test]
fn ids_stay_text_and_a_server_that_has_gone_is_said() {
    let Some(browser) = Browser::start() else { return };
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let hostile = "<script>document.title=1</script><img src=x>";
    server.post(order(hostile)).expect(200, &created(hostile));
    opened(&browser, &server);
    send(&browser, "listOrders", "limit", "5");
    browser.wait_for_text("#listOrders .answer", |text| text.contains(hostile));
    let found: Value = browser.run("return [document.title, document.querySelectorAll('script, img').length]", json!([]));
    assert_eq!(found, json!(["orderd: the API", 1]));
    server.stop();
    send(&browser, "listOrders", "limit", "6");
    browser.wait_for_text("#listOrders .out", |text| text.contains("No answer"));
    browser.wait_for_text("#state", |text| text.contains("does not answer"));
}
