//! Orders that are taken back: from which statuses, what is said, and that nothing is done for them afterwards.

use std::time::Duration;

use orderd::{Config, Work, WorkError};
use serde_json::Value;

use crate::harness::{
    Folder, Local, PATIENCE, Process, Serving, by_hand, created, ids, in_status, order, poll_until, quick_or_slow, step,
};

fn cancel(id: &str) -> String {
    step(id, "cancel")
}

#[test]
fn a_pending_order_is_cancelled_and_answered_with_its_record() {
    let server = Local::idle();
    let id = "a/b ä?#%";
    let in_path = "a%2Fb%20%C3%A4%3F%23%25";
    server.post(order(id)).expect(200, &created(id));
    let before = server.record(in_path);
    let answer = server.ask(cancel(in_path));
    let record = answer.expect_status(200).json();
    let mut expected = before;
    expected["status"] = "Cancelled".into();
    assert_eq!(record, expected, "{}", answer.exchange());
    assert_eq!(server.record(in_path), record);
    server.get(&format!("/order/{in_path}")).expect(200, &in_status(id, "Cancelled"));
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":1,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":0,"Cancelled":1}}"#,
    );
    let listed = server.get("/orders?status=Cancelled&user_id=user1").expect_status(200).json();
    assert_eq!(listed["data"], Value::Array(vec![record]));
    // It is still the same order, and not another.
    server.post(order(id)).expect(200, &created(id)).expect_header("Idempotent-Replayed", "true");
    server.post(order(id).replace("user1", "user2")).expect_error(409, "order_id_conflict");
    assert_eq!(server.rows()[0].status, "Cancelled");
}

#[test]
fn an_order_that_waits_to_be_tried_again_is_cancelled_and_not_tried_again() {
    let server = Local::start(|config: &mut Config| {
        config.work = Work::function(|_| Err(WorkError::retry("no stock")));
        config.retry_delay = Duration::from_secs(1_000);
    });
    server.create(ids(0..1));
    poll_until(PATIENCE, || server.rows()[0].status == "Pending" && server.rows()[0].attempts == 1);
    let record = server.ask(cancel("o-0")).expect_status(200).json();
    assert_eq!((&record["status"], &record["last_error"]), (&"Cancelled".into(), &"no stock".into()));
    server.turn(Duration::from_secs(100_000));
    server.create(["next".to_string()]);
    poll_until(PATIENCE, || server.rows()[1].attempts == 1);
    assert_eq!(server.rows()[0].attempts, 1);
}

#[test]
fn only_a_pending_order_can_be_cancelled() {
    let server = Local::idle();
    server.create(ids(0..4));
    let statuses = ["Processing", "Completed", "Failed", "Cancelled"];
    for (id, status) in ids(0..4).zip(statuses) {
        let change = format!("UPDATE orders SET status = '{status}' WHERE order_id = '{id}'");
        by_hand(&server.db(), &change);
    }
    let before = server.rows();
    for id in ids(0..4) {
        server.ask(cancel(&id)).expect_error(409, "order_not_pending");
    }
    server.expect_step_only_by_post("o-0", "cancel");
    server.ask(step("o-3", "retry")).expect_error(409, "order_not_failed");
    assert_eq!(server.rows(), before);
}

/// Whoever comes first, an order is either cancelled and never begun, or begun and not cancelled.
#[test]
fn an_order_that_is_cancelled_while_orders_are_claimed_is_either_cancelled_or_processed() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "echo $ORDER_ID >> begun; sleep 0.1", "--concurrency", "2"]);
    let orders = quick_or_slow(40, 200);
    server.create(ids(0..orders));
    let mut cancelled = Vec::new();
    // Those that come last are cancelled first.
    for id in ids(0..orders).collect::<Vec<_>>().into_iter().rev() {
        let answer = server.ask(cancel(&id));
        match answer.status {
            200 => cancelled.push(id),
            _ => _ = answer.expect_error(409, "order_not_pending"),
        }
    }
    assert!(!cancelled.is_empty(), "the last of them have not begun yet");
    poll_until(PATIENCE, || server.rows().iter().all(|row| ["Completed", "Cancelled"].contains(&row.status.as_str())));
    let begun = std::fs::read_to_string(folder.file("begun")).unwrap_or_default();
    for row in server.rows() {
        let is_cancelled = cancelled.contains(&row.order_id);
        assert_eq!(row.status, if is_cancelled { "Cancelled" } else { "Completed" }, "{}", row.order_id);
        assert_eq!(begun.lines().filter(|line| **line == row.order_id).count(), usize::from(!is_cancelled), "{}", row.order_id);
    }
}
