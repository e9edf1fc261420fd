//! Attempts that fail: how often they are repeated and when, what a restart remembers of that, and who waits for whom.
//!
//! The test turns the clock, so that no delay is waited for. An order that has failed for good is revived by an operator only.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderd::{Config, Order, Work, WorkError};

use crate::harness::{
    Local, PATIENCE, Serving, T0, asked_by_hand, by_hand, comes_true, created, ids, in_status, order, poll_until,
    quick_or_slow, request, step,
};

/// A server on whose orders the first attempts fail, so many as `failures` says for each.
fn failing(failures: impl Fn(&str) -> u32 + Send + Sync + 'static, change: impl FnOnce(&mut Config)) -> Local {
    Local::start(|config| {
        config.work = Work::function(move |order| match failures(order.order_id.as_str()) {
            failures if order.attempts > failures => Ok(()),
            _ => Err(WorkError::retry(format!("attempt {} failed", order.attempts))),
        });
        change(config);
    })
}

fn retry(id: &str) -> String {
    step(id, "retry")
}

/// `(attempts, retry_at)` of an order once it waits to be tried again.
#[track_caller]
fn waiting(server: &Local, id: &str, attempts: i64) -> i64 {
    let which = format!("order_id = '{id}' AND attempts = {attempts} AND status = 'Pending' AND retry_at > 0");
    let mut retry_at = 0;
    poll_until(PATIENCE, || {
        retry_at = asked_by_hand(&server.db(), &format!("SELECT retry_at FROM orders WHERE {which}")).parse().unwrap_or(0);
        retry_at > 0
    });
    retry_at
}

#[test]
fn a_command_that_fails_twice_and_then_works_completes_its_order_at_the_third_attempt() {
    let server = Local::running("test $ORDER_ATTEMPT -ge 3 || { echo not yet >&2; exit 1; }", |_| {});
    server.create(ids(0..3));
    for id in ids(0..3) {
        let record = server.wait_for(&id, "Completed");
        assert_eq!((&record["attempts"], &record["last_error"]), (&3.into(), &serde_json::Value::Null), "{record:#}");
    }
}

#[test]
fn a_command_that_always_fails_ends_in_failed_with_its_message() {
    let server = Local::running("echo attempt $ORDER_ATTEMPT: no stock >&2; exit 7", |config| config.max_attempts = 3);
    server.create(ids(0..1));
    let record = server.wait_for("o-0", "Failed");
    assert_eq!((&record["attempts"], &record["last_error"]), (&3.into(), &"attempt 3: no stock".into()), "{record:#}");
    server.get("/order/o-0").expect(200, &in_status("o-0", "Failed"));
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":1,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":0,"Failed":1}}"#,
    );
    // It stays so.
    server.turn(Duration::from_secs(100_000));
    assert!(!comes_true(Duration::from_millis(100), || server.status("o-0") != "Failed"));
}

#[test]
fn exit_status_65_fails_an_order_at_once() {
    let server = Local::running("echo bad address >&2; exit 65", |_| {});
    server.create(ids(0..1));
    let record = server.wait_for("o-0", "Failed");
    assert_eq!((&record["attempts"], &record["last_error"]), (&1.into(), &"bad address".into()), "{record:#}");
    assert_eq!(record["completed_at"], serde_json::Value::Null);
}

#[test]
fn the_delay_doubles_and_the_order_waits_for_it() {
    let server = failing(
        |_| 6,
        |config| {
            config.retry_delay = Duration::from_secs(1_000);
            config.max_attempts = 7;
        },
    );
    server.create(ids(0..1));
    for attempt in 1..=6 {
        let now = server.config().clock.now_ms();
        let delay = waiting(&server, "o-0", attempt) - now;
        let exact = (1_000_000 << (attempt - 1)).min(3_600_000);
        assert!((exact * 3 / 4..=(exact * 5 / 4).min(3_600_000)).contains(&delay), "{delay} after attempt {attempt}");
        server.turn(Duration::from_millis(delay as u64 - 1));
        let early = comes_true(Duration::from_millis(50), || server.rows()[0].attempts != attempt);
        assert!(!early, "tried again before its time: {:?}", server.rows());
        server.turn(Duration::from_millis(1));
        poll_until(PATIENCE, || server.rows()[0].attempts == attempt + 1);
    }
    assert_eq!(server.wait_for("o-0", "Completed")["last_error"], serde_json::Value::Null, "it has none any more");
}

/// By the system's clock. The processor wakes for each of them, not only for the first and then for whatever it finds when it
/// looks by itself, once a second. As a ratio, as a loaded machine is late for all.
#[test]
fn every_delayed_order_is_tried_again_when_its_time_has_come() {
    let server = Local::start(|config| {
        config.clock = orderd::Clock::system();
        config.retry_delay = Duration::from_millis(400);
        config.work = Work::function(|order: &Order| match order.attempts {
            1 => Err(WorkError::retry("later")),
            _ => Ok(()),
        });
    });
    let punctual = (0..5).any(|round| {
        let begun = 20 * round;
        server.create(ids(begun..begun + 20));
        server.wait_until_completed(begun as u64 + 20);
        let took = server.rows().into_iter().skip(begun).map(|row| row.completed_at.unwrap() - row.created_at);
        // At most 500 ms of it are the delay.
        took.max().unwrap() < 1_000
    });
    assert!(punctual, "{:#?}", server.rows());
}

/// The time is in the row.
#[test]
fn a_restart_forgets_no_delay() {
    let mut server = failing(|_| 1, |config| config.retry_delay = Duration::from_secs(1_000));
    server.create(ids(0..1));
    let before = waiting(&server, "o-0", 1);
    server.stop();
    let server = server.restart(|_| {});
    let early = comes_true(Duration::from_millis(100), || server.status("o-0") != "Pending");
    assert!(!early, "{:?}", server.rows());
    assert_eq!(waiting(&server, "o-0", 1), before);
    server.turn(Duration::from_millis((before - T0 as i64) as u64));
    let record = server.wait_for("o-0", "Completed");
    assert_eq!((&record["attempts"], &record["last_error"]), (&2.into(), &serde_json::Value::Null));
}

#[test]
fn a_time_that_came_while_the_server_was_down_is_not_missed() {
    let mut server = failing(|_| 1, |config| config.retry_delay = Duration::from_secs(1_000));
    server.create(ids(0..2));
    waiting(&server, "o-0", 1);
    waiting(&server, "o-1", 1);
    server.stop();
    server.turn(Duration::from_secs(2_000));
    let server = server.restart(|_| {});
    server.wait_until_completed(2);
}

#[test]
fn orders_that_wait_to_be_tried_again_hold_no_others_up() {
    let server = failing(
        |id| u32::from(id.starts_with("bad")),
        |config| {
            config.retry_delay = Duration::from_secs(1_000);
            config.concurrency = Some(2);
        },
    );
    // More than may be processed at once.
    server.create((0..20).map(|n| format!("bad-{n}")));
    (0..20).for_each(|n| _ = waiting(&server, &format!("bad-{n}"), 1));
    server.create(ids(0..50));
    poll_until(PATIENCE, || server.metrics().completed == 50);
    assert_eq!(server.metrics().pending, 20);
    server.turn(Duration::from_secs(2_000));
    server.wait_until_completed(70);
}

#[test]
fn a_backlog_of_fresh_orders_does_not_starve_one_whose_time_has_come() {
    let calls = Arc::new(Mutex::new(Vec::<String>::new()));
    let call = calls.clone();
    let server = Local::start(|config| {
        config.concurrency = Some(1);
        config.retry_delay = Duration::from_secs(1_000);
        config.work = Work::function(move |order: &Order| {
            call.lock().unwrap().push(order.order_id.to_string());
            if order.order_id.as_str() == "again" && order.attempts == 1 { Err(WorkError::retry("later")) } else { Ok(()) }
        });
    });
    server.create(["again".to_string()]);
    waiting(&server, "again", 1);
    let backlog = quick_or_slow(500, 2_000);
    server.create(ids(0..backlog));
    server.turn(Duration::from_secs(2_000));
    server.wait_for("again", "Completed");
    let finished = calls.lock().unwrap().len();
    server.wait_until_completed(backlog as u64 + 1);
    let calls = calls.lock().unwrap();
    let place = calls.iter().rposition(|id| id == "again").unwrap();
    // The backlog is of many times the orders that can be finished before the next claim.
    assert!(place + 50 < backlog, "tried again as number {place} of {}, seen after {finished}", calls.len());
}

#[test]
fn a_failed_order_that_is_revived_is_tried_again_with_its_attempts_counted_on() {
    let server = failing(
        |_| 4,
        |config| {
            config.retry_delay = Duration::ZERO;
            config.max_attempts = 2;
        },
    );
    server.create(ids(0..1));
    for attempts in [2, 3, 4] {
        let record = server.wait_for("o-0", "Failed");
        assert_eq!(record["attempts"], attempts, "one more for each time it is revived: {record:#}");
        let answer = server.ask(retry("o-0"));
        let revived = answer.expect_status(200).json();
        assert_eq!(revived["status"], "Pending", "{}", answer.exchange());
        let expected = serde_json::json!({
            "order_id": "o-0", "user_id": "user1", "item_ids": ["item1", "item2"], "total_amount": 100.0, "status": "Pending",
            "created_at": record["created_at"], "started_at": record["started_at"], "completed_at": null,
            "attempts": attempts, "last_error": format!("attempt {attempts} failed"),
        });
        assert_eq!(revived, expected, "{}", answer.exchange());
        poll_until(PATIENCE, || server.rows()[0].attempts == attempts + 1);
    }
    let record = server.wait_for("o-0", "Completed");
    assert_eq!(record["attempts"], 5);
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":1,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":1}}"#,
    );
}

#[test]
fn only_a_failed_order_can_be_revived() {
    let server = failing(
        |id| u32::from(id == "later"),
        |config| {
            config.retry_delay = Duration::from_secs(1_000);
        },
    );
    server.create(["later", "done"].map(String::from));
    waiting(&server, "later", 1);
    server.wait_for("done", "Completed");
    let before = server.rows();
    for id in ["later", "done"] {
        server.ask(retry(id)).expect_error(409, "order_not_failed");
    }
    server.expect_step_only_by_post("done", "retry");
    assert_eq!(server.rows(), before);
}

#[test]
fn an_order_is_revived_whatever_its_id_and_whatever_the_body() {
    let server = Local::idle();
    let id = "a/b ä?#%";
    let in_path = "a%2Fb%20%C3%A4%3F%23%25";
    server.post(order(id)).expect(200, &created(id));
    for body in ["", "{}", "no JSON at all"] {
        by_hand(&server.db(), "UPDATE orders SET status = 'Failed', attempts = 1");
        let length = format!("Content-Length: {}", body.len());
        let answer = server.ask(request("POST", &format!("/orders/{in_path}/retry"), &[&length], body));
        assert_eq!(answer.expect_status(200).json()["order_id"], id, "{}", answer.exchange());
        assert_eq!(server.record(in_path)["status"], "Pending");
        server.ask(retry(in_path)).expect_error(409, "order_not_failed");
    }
}
