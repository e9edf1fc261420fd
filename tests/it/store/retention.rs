//! Finished orders that have been kept for long enough are deleted: beside the work with `--keep`, or once by `orderd prune`.

use std::time::{Duration, UNIX_EPOCH};

use crate::harness::{Ended, Folder, Local, PATIENCE, Process, Serving, by_hand, created, order, orderd, poll_until};

const HOUR: Duration = Duration::from_secs(3_600);

/// Puts so many orders into the database that ended `ago_ms` before now, every fourth of them `Failed`, and one that is `Pending`.
fn put_old_orders(server_or_file: &std::path::Path, orders: usize, ago_ms: i64) {
    let ended = UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 - ago_ms;
    let sql = format!(
        "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, started_at, completed_at)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {orders})
         SELECT 'old-' || n, 'u', '[\"i\"]', '1', CASE WHEN n % 4 > 0 THEN 'Completed' ELSE 'Failed' END, {ended} - 7, {ended},
           CASE WHEN n % 4 > 0 THEN {ended} END FROM n;
         INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at)
         VALUES ('pending', 'u', '[\"i\"]', '1', 'Pending', 0)"
    );
    by_hand(server_or_file, &sql);
}

#[test]
fn finished_orders_are_deleted_once_they_have_been_kept_for_long_enough() {
    let server = Local::start(|config| {
        config.keep = Some(2 * HOUR);
        config.processing_time = Duration::ZERO;
    });
    server.create((0..1_200).map(|n| format!("o-{n}")));
    server.wait_until_completed(1_200);
    server.turn(HOUR);
    server.post(order("late")).expect(200, &created("late"));
    server.wait_until_completed(1_201);
    server.turn(HOUR + Duration::from_secs(1));
    poll_until(PATIENCE, || server.metrics().total <= 1);
    assert!(server.metrics().all_completed(1), "{:?}", server.metrics());
    assert_eq!(server.status("late"), "Completed");
    // The id is free again.
    server.post(order("o-1")).expect(200, &created("o-1")).expect_no_header("Idempotent-Replayed");
}

#[test]
fn prune_deletes_what_is_old_and_finished_while_no_server_runs() {
    let folder = Folder::new();
    let prune = |args: &[&str]| {
        let mut command = orderd(&folder);
        command.arg("prune").args(args);
        Ended::of(command)
    };
    prune(&["--older-than", "1h"]).expect_refused(&["orders.db", "--db"]);
    let server = Process::start(&folder, &["--concurrency", "0"]);
    put_old_orders(&server.db(), 4_000, 7_200_000);
    prune(&["--older-than", "1h"]).expect_refused(&["in use", "--keep"]);
    server.stop();
    assert_eq!(prune(&["--older-than", "3h"]).stdout, "0 orders deleted; their room is used again\n");
    let ended = prune(&["--older-than", "1h", "--status", "Failed"]);
    assert_eq!((ended.code, ended.stdout.starts_with("1000 orders deleted")), (Some(0), true), "{ended:?}");
    assert!(prune(&["--older-than", "1h"]).stdout.starts_with("3000 orders deleted"));
    for wrong in [&["--older-than", "x"][..], &["--status", "Failed"], &["--older-than", "1h", "--status", "Pending"], &[]] {
        prune(wrong).expect_refused(&["--"]);
    }
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let metrics = server.metrics();
    assert_eq!((metrics.total, metrics.pending, metrics.average), (1, 1, 0.0));
}

/// What others wait for is one batch.
#[test]
fn deleting_many_orders_refuses_and_delays_no_new_one() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    put_old_orders(&server.db(), 20_000, 7_200_000);
    server.stop();
    let server = Process::start(&folder, &["--concurrency", "0", "--keep", "1h"]);
    let mut client = server.client();
    let mut posted = 0;
    while server.metrics().completed > 0 {
        client.ask(crate::harness::post(order(&format!("new-{posted}")))).expect(200, &created(&format!("new-{posted}")));
        posted += 1;
    }
    assert!(posted > 10, "only {posted} orders beside it");
    poll_until(PATIENCE, || server.metrics().total == posted + 1);
}
