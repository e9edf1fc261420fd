//! What becomes of an order: each transition of its life, in which order and how many at a time, and that the counts agree.
//!
//! Orders are processed by a clock that the test turns, so nothing here takes the time that it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orderd::{Clock, Foundations, Server, Work};

use crate::harness::{
    Client, Folder, Local, PATIENCE, Row, Serving, T0, by_hand, comes_true, created, get, ids, in_status, order, poll_until,
    post,
};

const PROCESSING_TIME: Duration = Duration::from_secs(5);

fn count(rows: &[Row], status: &str) -> usize {
    rows.iter().filter(|row| row.status == status).count()
}

#[test]
fn an_order_is_pending_then_processing_then_completed() {
    let server = Local::start(|config| config.concurrency = Some(1));
    server.create(ids(0..2));
    poll_until(PATIENCE, || server.status("o-0") == "Processing");
    // There is room for one.
    server.get("/order/o-1").expect(200, &in_status("o-1", "Pending"));
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":2,"average_processing_time":0.0,"status_counts":{"Pending":1,"Processing":1,"Completed":0}}"#,
    );
    server.turn_until(|| server.status("o-0") == "Completed");
    poll_until(PATIENCE, || server.status("o-1") == "Processing");
    server.turn_until(|| server.status("o-1") == "Completed");
    server.get("/order/o-0").expect(200, &in_status("o-0", "Completed"));
    assert_eq!(server.rows().iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn an_order_is_not_completed_before_its_time() {
    let server = Local::start(|_| {});
    server.create(ids(0..1));
    poll_until(PATIENCE, || server.status("o-0") == "Processing");
    server.turn(PROCESSING_TIME - Duration::from_millis(1));
    let early = comes_true(Duration::from_millis(200), || server.status("o-0") != "Processing");
    assert!(!early, "completed early: {:?}", server.rows());
    server.turn_until(|| server.status("o-0") == "Completed");
    let row = &server.rows()[0];
    let took = row.completed_at.unwrap() - row.started_at.unwrap();
    assert!(took >= PROCESSING_TIME.as_millis() as i64, "{row:?}");
}

#[test]
fn a_thousand_orders_created_together_are_completed_together() {
    let server = Local::start(|_| {});
    server.create(ids(0..1_000));
    poll_until(PATIENCE, || server.metrics().processing == 1_000);
    server.turn_until(|| server.metrics().all_completed(1_000));
    let rows = server.rows();
    assert!(rows.iter().all(|row| row.attempts == 1 && row.created_at == T0 as i64));
    // One after another they would have taken 5,000 s.
    let last = rows.iter().filter_map(|row| row.completed_at).max().unwrap();
    assert!(last - T0 as i64 <= 150_000, "the last one was completed after {} ms", last - T0 as i64);
}

#[test]
fn orders_are_processed_in_the_order_of_their_arrival_and_never_more_than_allowed() {
    let server = Local::start(|config| config.concurrency = Some(3));
    server.create(ids(0..20));
    let mut most = 0;
    let done = comes_true(2 * PATIENCE, || {
        let rows = server.rows();
        most = most.max(count(&rows, "Processing"));
        // At any time those that have begun are the first ones, and so are those that are done.
        let begun = rows.iter().take_while(|row| row.status != "Pending").count();
        assert!(rows[begun..].iter().all(|row| row.status == "Pending"), "not in the order of arrival: {rows:#?}");
        let completed = count(&rows, "Completed");
        assert!(rows[..completed].iter().all(|row| row.status == "Completed"), "not in the order of arrival: {rows:#?}");
        server.turn(Duration::from_secs(1));
        completed == 20
    });
    assert!(done, "{:#?}", server.rows());
    assert_eq!(most, 3);
    let starts: Vec<_> = server.rows().iter().map(|row| row.started_at.unwrap()).collect();
    assert!(starts.is_sorted(), "{starts:?}");
}

#[test]
fn a_concurrency_of_zero_takes_orders_and_processes_none() {
    let server = Local::idle();
    server.create(ids(0..10));
    server.turn(PROCESSING_TIME);
    let begun = comes_true(Duration::from_millis(200), || server.metrics().pending != 10);
    assert!(!begun, "{:#?}", server.rows());
    let server = server.restart(|config| config.concurrency = Some(1_000));
    poll_until(PATIENCE, || server.metrics().processing == 10);
}

/// The clock stands while orders are created and has been turned before they are processed, so the average is exact.
#[test]
fn the_average_counts_from_creation_to_completion() {
    let server = Local::idle();
    server.create(ids(0..3));
    server.turn(Duration::from_millis(1_500));
    server.create(ids(3..4));
    server.turn(Duration::from_millis(5_750));
    let server = server.restart(|config| {
        config.concurrency = Some(1_000);
        config.processing_time = Duration::ZERO;
    });
    server.wait_until_completed(4);
    // Three orders took 7.25 s and one 5.75 s.
    server.get("/metrics").expect(
        200,
        r#"{"total_orders":4,"average_processing_time":6.875,"status_counts":{"Pending":0,"Processing":0,"Completed":4}}"#,
    );
}

#[test]
fn a_replayed_order_is_not_processed_again() {
    let server = Local::start(|_| {});
    let replay = || {
        let answer = server.post(order("o-0"));
        answer.expect(200, &created("o-0")).expect_header("Idempotent-Replayed", "true");
    };
    server.create(ids(0..1));
    poll_until(PATIENCE, || server.status("o-0") == "Processing");
    replay();
    server.turn_until(|| server.status("o-0") == "Completed");
    let before = server.rows();
    replay();
    // A later order has been processed, so the earlier one would have been too.
    server.create(ids(1..2));
    poll_until(PATIENCE, || server.status("o-1") == "Processing");
    server.turn_until(|| server.status("o-1") == "Completed");
    assert_eq!(server.rows()[..1], before);
    assert!(server.metrics().all_completed(2));
}

#[test]
fn the_counts_stay_exact_when_someone_corrects_the_rows() {
    let server = Local::idle();
    server.create(ids(0..4));
    let change = |sql: &str, metrics: &str| {
        by_hand(&server.db(), sql);
        server.get("/metrics").expect(200, metrics);
    };
    change(
        "UPDATE orders SET status = 'Completed', completed_at = created_at + 2500 WHERE order_id = 'o-0'",
        r#"{"total_orders":4,"average_processing_time":2.5,"status_counts":{"Pending":3,"Processing":0,"Completed":1}}"#,
    );
    change(
        "UPDATE orders SET completed_at = created_at + 4000 WHERE order_id = 'o-0'",
        r#"{"total_orders":4,"average_processing_time":4.0,"status_counts":{"Pending":3,"Processing":0,"Completed":1}}"#,
    );
    change(
        "DELETE FROM orders WHERE order_id IN ('o-0', 'o-1')",
        r#"{"total_orders":2,"average_processing_time":0.0,"status_counts":{"Pending":2,"Processing":0,"Completed":0}}"#,
    );
    change(
        "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, completed_at)
         VALUES ('x', 'u', '[\"i\"]', '1', 'Completed', 1000, 1250), ('y', 'u', '[\"i\"]', '1', 'Processing', 1000, NULL)",
        r#"{"total_orders":4,"average_processing_time":0.25,"status_counts":{"Pending":2,"Processing":1,"Completed":1}}"#,
    );
    change(
        "UPDATE orders SET status = 'Failed' WHERE order_id = 'y'",
        r#"{"total_orders":4,"average_processing_time":0.25,"status_counts":{"Pending":2,"Processing":0,"Completed":1,"Failed":1}}"#,
    );
    change(
        "DELETE FROM orders",
        r#"{"total_orders":0,"average_processing_time":0.0,"status_counts":{"Pending":0,"Processing":0,"Completed":0}}"#,
    );
}

/// Promise 2. No message tells the processor of it; the table does.
#[test]
fn an_order_that_someone_puts_back_is_processed_again() {
    let server = Local::start(|config| {
        config.processing_time = Duration::ZERO;
        config.clock = Clock::system();
    });
    server.create(ids(0..1));
    server.wait_until_completed(1);
    by_hand(&server.db(), "UPDATE orders SET status = 'Pending', completed_at = NULL");
    poll_until(PATIENCE, || server.rows()[0].status == "Completed");
    assert_eq!(server.rows()[0].attempts, 2);
}

/// Promise 2.
#[test]
fn an_order_that_someone_puts_in_is_processed() {
    let server = Local::start(|config| config.processing_time = Duration::ZERO);
    let columns = "order_id, user_id, item_ids, total_amount, status, created_at";
    by_hand(&server.db(), &format!("INSERT INTO orders ({columns}) VALUES ('x', 'u', '[\"i\"]', '1', 'Pending', 1000)"));
    poll_until(PATIENCE, || server.status("x") == "Completed");
}

#[test]
fn an_order_that_someone_takes_away_while_it_is_processed_stays_away() {
    let server = Local::start(|_| {});
    server.create(ids(0..3));
    poll_until(PATIENCE, || server.metrics().processing == 3);
    by_hand(&server.db(), "DELETE FROM orders WHERE order_id = 'o-0'");
    by_hand(&server.db(), "UPDATE orders SET status = 'Completed', completed_at = created_at WHERE order_id = 'o-1'");
    server.turn_until(|| server.metrics().all_completed(2));
    assert_eq!(server.status("o-0"), "");
    assert_eq!(server.rows()[0].completed_at, Some(T0 as i64), "what someone completed by hand is not completed again");
}

/// Promise 2.
#[test]
fn an_orderly_stop_puts_orders_back_and_the_next_start_takes_them_up() {
    let mut server = Local::start(|config| config.concurrency = Some(2));
    server.create(ids(0..3));
    poll_until(PATIENCE, || server.metrics().processing == 2);
    server.stop();
    let stopped = server.rows();
    assert_eq!(count(&stopped, "Pending"), 3, "{stopped:#?}");
    // An orderly stop costs no attempt.
    assert_eq!(stopped.iter().map(|row| row.attempts).collect::<Vec<_>>(), [0, 0, 0]);

    let server = server.restart(|config| config.processing_time = Duration::ZERO);
    server.wait_until_completed(3);
    assert_eq!(server.rows().iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn an_order_whose_time_has_come_is_completed_by_an_orderly_stop() {
    let mut server = Local::start(|_| {});
    server.create(ids(0..5));
    poll_until(PATIENCE, || server.metrics().processing == 5);
    // Far enough for a claim that the processor has heard of only after the first turn.
    server.turn_until(|| server.metrics().completed == 5);
    server.stop();
    assert_eq!(count(&server.rows(), "Completed"), 5);
}

/// Promise 2: what a crash leaves behind.
#[test]
fn orders_found_in_processing_at_the_start_are_processed_anew() {
    let mut server = Local::idle();
    server.create(ids(0..3));
    server.stop();
    by_hand(&server.db(), "UPDATE orders SET status = 'Processing', attempts = 1, started_at = created_at WHERE seq < 3");
    let server = server.restart(|config| {
        config.concurrency = Some(10);
        config.processing_time = Duration::ZERO;
    });
    server.wait_until_completed(3);
    assert_eq!(server.rows().iter().map(|row| row.attempts).collect::<Vec<_>>(), [2, 2, 1]);
}

/// Promise 4, also within one process.
#[test]
fn a_second_server_on_the_same_file_is_refused_and_the_first_goes_on() {
    let server = Local::start(|_| {});
    match Server::start(server.config()) {
        Err(orderd::Error::Owned { file }) => assert_eq!(file, server.db()),
        Err(e) => panic!("refused for another reason: {e}"),
        Ok(_) => panic!("two servers own one file"),
    }
    server.create(ids(0..1));
}

/// Promise 4: its threads must not serve on while another owns the file, and both process the same order.
#[test]
fn a_server_that_is_dropped_stops_before_it_gives_the_file_away() {
    let folder = Folder::new();
    let listen = orderd::Listen::Tcp("127.0.0.1:0".into());
    let calls = Arc::new(AtomicU32::new(0));
    let counts = calls.clone();
    let work = Work::function(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let config = orderd::Config { listen, db: folder.db(), work, ..orderd::Config::default() };
    for n in 1..=3 {
        let server = Server::start(&config).unwrap();
        let address = server.address().unwrap().clone();
        let mut client = Client::connect(&address).unwrap();
        client.ask(post(order(&format!("o-{n}")))).expect_status(200);
        poll_until(PATIENCE, || calls.load(Ordering::SeqCst) == n);
        drop(server);
        assert!(Client::connect(&address).and_then(|mut client| client.try_ask(get("/metrics"))).is_err(), "it answers");
    }
    assert_eq!(crate::harness::rows(&config.db).iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_server_that_does_not_start_leaves_nothing_running() {
    let folder = Folder::new();
    let listen = orderd::Listen::Tcp("127.0.0.1:0".into());
    let config = orderd::Config { listen, db: folder.db(), ..orderd::Config::default() };
    let foundations = Foundations::new(&config).unwrap();
    // What is no database before is refused without a lock file beside it.
    std::fs::write(&config.db, "notes").unwrap();
    let held = Arc::new(());
    let holder = held.clone();
    let started = Server::start_on(&config, foundations, move |_| _ = holder.clone());
    assert!(matches!(started, Err(orderd::Error::Foreign { .. })));
    drop(started);
    // Whatever thread it left behind would still hold what it was given.
    poll_until(PATIENCE, || Arc::strong_count(&held) == 1);
}

#[test]
fn a_stopped_server_answers_nobody_and_gives_everything_back() {
    let mut server = Local::start(|_| {});
    server.create(ids(0..1));
    // An idle connection does not hold the stop up.
    let mut idle = server.client();
    idle.ask(get("/metrics")).expect_status(200);
    server.stop();
    let answered = || Client::connect(server.address()).and_then(|mut client| client.try_ask(get("/metrics"))).is_ok();
    poll_until(PATIENCE, || !answered());
    // SQLite removes its log when the last connection is closed.
    assert_eq!(server.folder().names(), ["orders.db", "orders.db.lock"]);
    let server = server.restart(|_| {});
    server.get("/order/o-0").expect_status(200);
}
