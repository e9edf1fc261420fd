//! A server that asks for a token: who does not bear it gets 401, whatever is asked and however, and learns nothing else.

use orderd::Token;
use serde_json::json;

use crate::harness::{
    Browser, CHUNKED, JSON, Local, Serving, badly_framed, created, get, in_status, long_order, order, post, post_in_chunks,
    request, with,
};

const TOKEN: &str = "0123456789-abcdefghij._~+/=";
const WHAT_IS_SAID: &str = r#"{"detail":"send the server's token, as Authorization: Bearer TOKEN","code":"unauthorized"}"#;

fn guarded() -> Local {
    Local::start(|config| {
        config.concurrency = Some(0);
        config.token = Some(Token::new(TOKEN).unwrap());
    })
}

fn bearing(request: impl AsRef<[u8]>, token: &str) -> String {
    with(request, &format!("Authorization: Bearer {token}"))
}

#[test]
fn without_the_token_nothing_is_answered_but_the_health() {
    let server = guarded();
    let ask = |method, path| request(method, path, &[], "");
    let mut client = server.client();
    for asked in [
        get("/order/1"),
        get("/orders"),
        get("/orders/1"),
        get("/metrics"),
        get("/"),
        get("/no/such/path"),
        get("/orders?limit=x"),
        get("/order/%zz"),
        get("http://localhost/metrics"),
        ask("POST", "/orders/1/retry"),
        ask("POST", "/orders/1/cancel"),
        ask("DELETE", "/order/1"),
        ask("OPTIONS", "*"),
        String::from_utf8(post(order("1"))).unwrap(),
        String::from_utf8(post("no json")).unwrap(),
        String::from_utf8(post(long_order("1", 5_000))).unwrap(),
        request("POST", "/order", &["Content-Length: 2"], "{}"),
        // Before where a request is from.
        request("GET", "/metrics", &["Origin: http://evil.example"], ""),
        get("/metrics").replace("localhost", "evil.example"),
    ] {
        let answer = client.ask(&asked);
        answer.expect(401, WHAT_IS_SAID);
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"), "{asked}");
    }
    client.ask(ask("HEAD", "/metrics")).expect_status(401);
    client.ask(get("/healthz")).expect(200, r#"{"status":"ok"}"#);
    client.ask(get("/healthz?x")).expect_status(200);
    client.ask(get("/healthz/")).expect_status(401);
    assert_eq!(server.rows(), []);
    // Nobody knows how much of these is to come: the connection ends.
    server.ask(post_in_chunks(&order("1"), 10)).expect(401, WHAT_IS_SAID);
    server.ask(request("POST", "/order", &[JSON, CHUNKED], "zz\r\n")).expect(401, WHAT_IS_SAID);
    // What framing demands comes first.
    assert_eq!(server.ask(badly_framed(&order("1"))).expect_status(400).json()["code"], "bad_framing");
    assert_eq!(server.rows(), []);
}

#[test]
fn with_the_token_all_is_as_it_was() {
    let server = guarded();
    let mut client = server.client();
    client.ask(bearing(post(order("1")), TOKEN)).expect(200, &created("1"));
    client.ask(with(get("/order/1"), &format!("authorization: bEARER {TOKEN}"))).expect(200, &in_status("1", "Pending"));
    client.ask(bearing(post(long_order("2", 5_000)), TOKEN)).expect(200, &created("2"));
    client.ask(bearing(get("/no/such/path"), TOKEN)).expect_status(404);
    let from_afar = request("GET", "/metrics", &["Origin: http://evil.example"], "");
    client.ask(bearing(from_afar, TOKEN)).expect_status(403);
    for wrong in
        ["", "x", &TOKEN[1..], &TOKEN[..TOKEN.len() - 1], &format!("{TOKEN}="), &TOKEN.to_uppercase(), &TOKEN.repeat(50)]
    {
        client.ask(bearing(get("/order/1"), wrong)).expect(401, WHAT_IS_SAID);
    }
    client.ask(with(get("/order/1"), &format!("Authorization: Basic {TOKEN}"))).expect(401, WHAT_IS_SAID);
    client.ask(get(&format!("/order/1?token={TOKEN}"))).expect(401, WHAT_IS_SAID);
}

#[test]
fn a_browser_gets_the_page_that_can_ask_for_the_token() {
    let server = guarded();
    let page = server.ask(with(get("/"), "Accept: text/html"));
    assert_eq!((page.status, page.header("WWW-Authenticate")), (401, Some("Bearer")));
    assert!(
        page.header("Content-Type").is_some_and(|value| value.starts_with("text/html")),
        "{:?}",
        page.header("Content-Type")
    );
    assert!(page.header("Content-Security-Policy").is_some());
    let with_token = server.ask(bearing(with(get("/"), "Accept: text/html"), TOKEN));
    assert!(with_token.status == 200 && with_token.body == page.body, "it is the same page");
    server.ask(with(get("/orders"), "Accept: text/html")).expect(401, WHAT_IS_SAID);
}

/// What WebDriver calls the key.
const ENTER: &str = "\u{e007}";

#[test]
fn the_page_asks_for_the_token_says_that_one_is_wrong_and_keeps_the_right_one_out_of_every_address() {
    let server = guarded();
    server.ask(bearing(post(order("behind-the-door")), TOKEN)).expect(200, &created("behind-the-door"));
    let Some(browser) = Browser::start() else { return };
    let home = format!("{}/", server.address());
    browser.open(&home);
    let asks = |how: &str| {
        browser.wait_for_text("#ask label", |text| text.starts_with(how));
        browser.wait_for_text("#word", |text| text == "No figures without a token, since");
        assert!(!browser.text("body").contains("behind-the-door"));
    };
    asks("This server asks for a token.");
    let visited = browser.run("return history.length", json!([]));
    browser.type_into("#token", &format!("{TOKEN}x"));
    browser.press(ENTER);
    asks("The server does not take this token.");
    browser.type_into("#token", TOKEN);
    browser.click("#ask button");
    browser.wait_for_text("#rows", |text| text.contains("behind-the-door"));
    browser.wait_for_text("#counts", |text| text.contains("Pending\n1"));
    let left = "const $ = id => document.querySelector(id); \
        return [$('#ask').hidden, $('#token').value, location.href, history.length, document.cookie, localStorage.length]";
    assert_eq!(browser.run(left, json!([])), json!([true, "", home, visited, "", 0]));
    // The same tab knows it still, also on the other page.
    browser.open(&format!("{home}docs"));
    browser.open(&home);
    browser.wait_for_text("#rows", |text| text.contains("behind-the-door"));
    let asked = browser.requests();
    assert!(asked.len() > 4 && asked.iter().all(|request| !request.contains(&TOKEN[..10])), "{asked:?}");
}
