//! Files that an older orderd has written are opened, brought up to date, and hold what they held; and what the newest schema
//! keeps other programs from.
//!
//! `versions/N.sql` is a dump of a file of version N: orders in every status, among them some that someone has mended by hand.

use crate::harness::{Folder, Process, Serving, connection, created, order, step};

const V1: &str = include_str!("versions/1.sql");
const V2: &str = include_str!("versions/2.sql");

#[test]
fn a_file_of_version_1_is_brought_up_to_date_with_all_that_it_holds() {
    is_brought_up_to_date(V1, &["from schema 1 to 2", "from schema 2 to 3"]);
}

#[test]
fn a_file_of_version_2_is_brought_up_to_date_with_all_that_it_holds() {
    is_brought_up_to_date(V2, &["from schema 2 to 3"]);
}

fn is_brought_up_to_date(dump: &str, said: &[&str]) {
    let folder = Folder::new();
    let db = folder.file("orders.db");
    let old = connection(&db);
    old.execute_batch(dump).unwrap();
    old.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(old);
    let server = Process::start(&folder, &["--concurrency", "0"]);
    said.iter().for_each(|step| assert!(server.stderr().contains(step), "{step}: {}", server.stderr()));
    let metrics = server.metrics();
    assert_eq!((metrics.total, metrics.completed, metrics.average), (8, 2, 0.0065));
    let failed = server.record("f-1");
    assert_eq!((&failed["status"], &failed["last_error"]), (&"Failed".into(), &"no stock".into()));
    let rows = server.rows();
    let mended = rows.iter().find(|row| row.order_id == "neg").unwrap();
    assert_eq!((mended.attempts, mended.total_amount.as_str()), (0, "1.50"));
    let last = connection(&db);
    assert_eq!(last.query_row("SELECT retry_at FROM orders WHERE order_id = 'past'", [], |row| row.get(0)), Ok(0));
    assert_eq!(last.query_row("SELECT count(*) FROM orders WHERE retry_at > 0", [], |row| row.get(0)), Ok(1));
    let of_user: Vec<_> = server.get("/orders?user_id=u2").json()["data"].as_array().unwrap().to_vec();
    assert_eq!(of_user.len(), 2);
    assert_eq!(server.ask(step("r-1", "cancel")).expect_status(200).json()["status"], "Cancelled");
    let ended = "SELECT group_concat(order_id || ' ' || (ended_at >= started_at)) FROM orders WHERE ended_at NOT NULL";
    assert_eq!(last.query_row(ended, [], |row| row.get(0)), Ok("f-1 1,r-1 1".to_string()));
    assert_eq!(last.query_row("PRAGMA integrity_check", [], |row| row.get(0)), Ok("ok".to_string()));
    server.stop();

    let server = Process::start(&folder, &["--processing-time", "0s"]);
    crate::harness::poll_until(crate::harness::PATIENCE, || server.metrics().completed == 6);
    server.stop();
    let counted = "SELECT group_concat(status || ' ' || orders) FROM (SELECT * FROM status_counts ORDER BY status)";
    let counts: String = connection(&db).query_row(counted, [], |row| row.get(0)).unwrap();
    assert_eq!(counts, "Cancelled 1,Completed 6,Failed 1,Pending 0,Processing 0");
}

/// The end of a deleted order was taken for that of the next one, which had got its number.
#[test]
fn the_number_of_a_deleted_order_is_not_given_again() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let hand = connection(&server.db());
    let seq =
        |id: &str| hand.query_row("SELECT seq FROM orders WHERE order_id = ?1", [id], |row| row.get::<_, i64>(0)).unwrap();
    server.post(order("1")).expect(200, &created("1"));
    let first = seq("1");
    hand.execute("DELETE FROM orders", []).unwrap();
    server.post(order("2")).expect(200, &created("2"));
    assert!(seq("2") > first);
}

/// What no attempt can be counted on stopped all processing.
#[test]
fn another_program_can_write_no_number_that_orderd_cannot_count_on() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("1")).expect(200, &created("1"));
    let hand = connection(&server.db());
    for change in ["attempts = attempts - 5", "attempts = 5000000000", "retry_at = -1"] {
        hand.execute(&format!("UPDATE orders SET {change}"), []).expect_err(change);
    }
}

/// There are many of the user and many in the status: one request looks at a part of them, and says where to go on.
#[test]
fn a_page_of_a_user_and_a_status_looks_at_a_bounded_number_of_orders_and_none_is_missed() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    connection(&server.db())
        .execute_batch(
            "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at)
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
             SELECT 'o-' || n, iif(n % 2 = 0 OR n IN (7, 50001), 'most', 'other'), '[\"i\"]', '1',
                    iif(n % 2 = 0, 'Pending', 'Failed'), 0 FROM n",
        )
        .unwrap();
    for (status, expected) in [("Failed", vec!["o-50001", "o-7"]), ("Completed", vec![]), ("Processing", vec![])] {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = server.get(&format!("/orders?user_id=most&status={status}&limit=1{after}")).expect_status(200).json();
            found.extend(page["data"].as_array().unwrap().iter().map(|order| order["order_id"].as_str().unwrap().to_string()));
            pages += 1;
            assert_eq!(page["has_more"], page["next"].is_string(), "{page}");
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, expected, "{status}");
        // Of 50,000, at most 20,000 each.
        assert_eq!(pages, if status == "Failed" { 3 } else { 1 }, "{status}");
    }
}
