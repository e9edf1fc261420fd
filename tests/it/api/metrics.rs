//! `GET /metrics`: who gets which of its two forms, and that the figures are those of what happened.

use std::time::Duration;

use orderd::{Config, Work, WorkError};

use crate::harness::{
    Held, Local, PATIENCE, Scraped, Serving, asked_by_hand, badly_framed, get, head, ids, order, poll_until, post, request,
    step, with,
};

const EMPTY: &str =
    r#"{"total_orders":0,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":0}}"#;

#[test]
fn metrics_are_json_unless_accept_prefers_text() {
    let server = Local::idle();
    server.get("/metrics").expect(200, EMPTY);
    for json in ["*/*", "application/json, text/plain, */*", "application/json", "text/html", "text/plain;q=0.3,application/*"]
    {
        server.ask(with(get("/metrics"), &format!("Accept: {json}"))).expect(200, EMPTY).expect_no_header("Vary");
    }
    for text in ["text/plain", "application/openmetrics-text", "text/plain;q=0.3,application/json;q=0.2"] {
        let answer = server.ask(with(get("/metrics"), &format!("Accept: {text}")));
        assert!(answer.status == 200 && answer.body.starts_with("# HELP orderd_"), "{}", answer.exchange());
        answer.expect_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    }
    let mut client = server.client();
    let answer = client.ask(with(request("HEAD", "/metrics", &[], ""), "Accept: text/plain"));
    answer.expect_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.header("Content-Length").is_some_and(|length| length.parse::<usize>().unwrap() > 1_000));
    client.ask(get("/metrics")).expect(200, EMPTY);
}

/// The clock is turned by hand, so each order waits and is processed for as long as is said here.
#[test]
fn the_figures_are_those_of_what_became_of_the_orders() {
    let server = Local::start(|config: &mut Config| {
        config.concurrency = Some(0);
    });
    let before = Scraped::of(&server);
    assert!(!before.text.contains("\norderd_last_completion_timestamp_seconds "), "{}", before.text);
    assert_eq!(before.value("orderd_oldest_pending_order_age_seconds"), 0.0);
    server.create(ids(0..4));
    server.ask(step("o-3", "cancel")).expect_status(200);
    server.turn(Duration::from_secs(7));
    let waiting = Scraped::of(&server);
    assert_eq!(waiting.value("orderd_oldest_pending_order_age_seconds"), 7.0);
    assert_eq!(waiting.value("orderd_orders_created_total"), 4.0);

    let work = |order: &orderd::Order| match (order.order_id.as_str(), order.attempts) {
        ("o-0", _) => Ok(()),
        ("o-1", 1) => Err(WorkError::retry("no stock")),
        ("o-1", _) => Ok(()),
        _ => Err(WorkError::fatal("no such thing")),
    };
    let server = server.restart(|config| {
        config.concurrency = Some(1);
        config.retry_delay = Duration::ZERO;
        config.work = Work::function(work);
    });
    let finished =
        |figures: &Scraped, outcome: &str| figures.value(&format!("orderd_orders_finished_total{{outcome=\"{outcome}\"}}"));
    poll_until(PATIENCE, || {
        server.turn(Duration::from_millis(10));
        let figures = Scraped::of(&server);
        finished(&figures, "Completed") == 2.0 && finished(&figures, "Failed") == 1.0
    });
    let figures = Scraped::of(&server);
    for (status, orders) in [("Pending", 0.0), ("Processing", 0.0), ("Completed", 2.0), ("Failed", 1.0), ("Cancelled", 1.0)] {
        assert_eq!(figures.value(&format!("orderd_orders{{status=\"{status}\"}}")), orders, "{}", figures.text);
    }
    for (outcome, attempts) in [("Completed", 2.0), ("Failed", 1.0), ("Retried", 1.0), ("PutBack", 0.0)] {
        assert_eq!(figures.value(&format!("orderd_attempts_total{{outcome=\"{outcome}\"}}")), attempts, "{}", figures.text);
    }
    // They count from the start, as that of a process.
    assert_eq!((figures.value("orderd_orders_created_total"), finished(&figures, "Cancelled")), (0.0, 0.0));
    assert_eq!(figures.value("orderd_order_waiting_seconds_count"), 3.0);
    assert!(figures.value("orderd_order_waiting_seconds_sum") >= 21.0, "{}", figures.text);
    assert_eq!(figures.value("orderd_order_waiting_seconds_bucket{le=\"5\"}"), 0.0);
    assert_eq!(figures.value("orderd_order_processing_seconds_count"), 4.0);
    let last: f64 = asked_by_hand(&server.db(), "SELECT max(completed_at) FROM orders").parse().unwrap();
    assert_eq!(figures.value("orderd_last_completion_timestamp_seconds"), last / 1_000.0);
    // A process that has completed none yet knows the last one of those that arrived.
    let server = server.restart(|config| config.concurrency = Some(0));
    assert!(Scraped::of(&server).value("orderd_last_completion_timestamp_seconds") > 1.0);
}

#[test]
fn requests_are_counted_by_route_and_status_before_their_answers_are_read() {
    let server = Local::idle();
    let requests = |route: &str, status: u16| {
        Scraped::of(&server).value(&format!("orderd_http_requests_total{{route=\"{route}\",status=\"{status}\"}}"))
    };
    let order_1 = order("1");
    for (asked, route, status) in [
        (post(&order_1), "/order", 200),
        (post(&order_1), "/order", 200),
        (post(order_1.replace("100.0", "2")), "/order", 409),
        (post("{}"), "/order", 422),
        (post(format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20))), "/order", 413),
        (head(&["Content-Length: 2000000"]).into_bytes(), "/order", 413),
        (get("/order").into_bytes(), "/order", 405),
        (get("/order/1").into_bytes(), "/order/{order_id}", 200),
        (get("/order/2").into_bytes(), "/order/{order_id}", 404),
        (get("/order/%zz").into_bytes(), "/order/{order_id}", 400),
        (request("HEAD", "/orders/1", &[], "").into_bytes(), "/orders/{order_id}", 200),
        (get("/orders?user_id=1").into_bytes(), "/orders", 200),
        (get("/orders?nothing=1").into_bytes(), "/orders", 400),
        (get("/healthz").into_bytes(), "/healthz", 200),
        (get("/etc/passwd").into_bytes(), "other", 404),
        (badly_framed("").into_bytes(), "other", 400),
        (with(get("/order/1"), "Origin: https://example.com").into_bytes(), "/order/{order_id}", 403),
    ] {
        let before = requests(route, status);
        assert_eq!(server.ask(&asked).status, status);
        assert_eq!(requests(route, status), before + 1.0, "{route} {status}");
    }
    let figures = Scraped::of(&server);
    let all: f64 =
        figures.samples().filter(|name| name.starts_with("orderd_http_requests_total{")).map(|name| figures.value(name)).sum();
    let timed: f64 = figures
        .samples()
        .filter(|name| name.starts_with("orderd_http_request_duration_seconds_count{"))
        .map(|name| figures.value(name))
        .sum();
    assert_eq!(all, timed);
}

/// Else whoever asks for ever new paths fills the collector's disk.
#[test]
fn no_client_can_make_new_series() {
    let server = Local::idle();
    server.get("/nothing");
    server.get("/order/nothing");
    server.post(order("o"));
    let _ = Scraped::of(&server);
    let before: Vec<String> = Scraped::of(&server).samples().map(str::to_string).collect();
    let mut client = server.client();
    for n in 0..200 {
        client.ask(get(&format!("/{n}/nothing")));
        client.ask(get(&format!("/order/{n}")));
        client.ask(post(order(&format!("\\\"{n}"))));
    }
    let after: Vec<String> = Scraped::of(&server).samples().map(str::to_string).collect();
    assert_eq!(before, after);
}

/// Promise 3, as a collector sees it.
#[test]
fn changes_that_are_refused_and_open_connections_show() {
    let server = Local::idle();
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = server.client();
            client.ask(get("/healthz"));
            client
        })
        .collect();
    poll_until(PATIENCE, || Scraped::of(&server).value("orderd_http_connections") >= 10.0);
    drop(clients);
    poll_until(PATIENCE, || Scraped::of(&server).value("orderd_http_connections") < 10.0);
    assert_eq!(Scraped::of(&server).value("orderd_changes_refused_total"), 0.0);
    let held = Held::on(&server.db());
    let mut client = server.client();
    client.set_read_timeout(PATIENCE).unwrap();
    assert_eq!(client.ask(post(order("1"))).status, 503);
    drop(held);
    let figures = Scraped::of(&server);
    assert_eq!(figures.value("orderd_changes_refused_total"), 1.0);
    assert_eq!(figures.value("orderd_orders_created_total"), 0.0);
}
