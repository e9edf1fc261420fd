//! `orderd export` and `orderd import` from file to file: nothing is lost or changed, whatever cuts either short, and what is no export
//! stores nothing.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::backup::{expect_done, partial, run};
use crate::harness::{Ended, Folder, Process, Serving, connection, created, ids, in_clean_environment, order, orderd, rows};

/// A folder with a database that has so many orders of every kind, and no server.
pub fn with_orders_of_every_kind(orders: usize) -> Folder {
    let folder = Folder::new();
    Process::start(&folder, &["--concurrency", "0"]).stop();
    put_orders_of_every_kind(&folder.file("orders.db"), orders);
    folder
}

fn put_orders_of_every_kind(db: &Path, orders: usize) {
    if orders == 0 {
        return;
    }
    connection(db)
        .execute_batch(&format!(
            "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, attempts, created_at, started_at, completed_at,
               ended_at, retry_at, last_error)
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {orders}),
               s(n, s) AS (SELECT n, CASE n % 8 WHEN 0 THEN 'Failed' WHEN 1 THEN 'Cancelled' WHEN 2 THEN 'Processing'
                 WHEN 3 THEN 'Pending' WHEN 4 THEN 'Pending' ELSE 'Completed' END FROM n)
             SELECT 'k-' || hex(randomblob(8)), 'ü' || (n % 7), '[\"i\\\"' || n || '\",\"\\u202e\"]', n || '.' || (n % 10) || '0', s,
               CASE s WHEN 'Cancelled' THEN 0 ELSE 1 + n % 3 END, 1700000000000 + n * 7, iif(s = 'Cancelled', NULL, 1700000000000 + n * 9),
               iif(s = 'Completed', 1700000000000 + n * 11, NULL), iif(s IN ('Failed', 'Cancelled'), 1700000000000 + n * 13, NULL),
               iif(n % 8 = 3, 1700000000000 + n * 1000, 0), iif(n % 8 IN (0, 3), 'no \"stock\"' || char(10, 27, 8238) || n, NULL) FROM s"
        ))
        .unwrap();
}

/// What `orderd export` writes to standard output.
#[track_caller]
pub fn exported(folder: &Folder, words: &[&str]) -> String {
    let ended = run(folder, &[&["export"], words].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout
}

/// Imports a text into `orders.db`.
fn import(folder: &Folder, text: &str) -> Ended {
    let mut command = orderd(folder);
    command.arg("import");
    Ended::fed(command, text)
}

/// Compared without showing it all.
#[track_caller]
pub fn assert_same(one: &str, other: &str) {
    let differ = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert!(one == other, "{} and {} lines; the first that differ: {differ:?}", one.lines().count(), other.lines().count());
}

#[test]
fn what_is_imported_is_exported_to_the_letter_and_counted() {
    let (folder, other) = (with_orders_of_every_kind(5_000), Folder::new());
    let text = exported(&folder, &[]);
    assert_eq!(text.lines().count(), 5_002);
    assert!(text.is_ascii() || !text.contains('\u{202e}'), "a terminal obeys nothing of it");
    let counts = r#"{"Pending":1250,"Processing":625,"Completed":1875,"Failed":625,"Cancelled":625}"#;
    assert_eq!(text.lines().next().unwrap(), format!(r#"{{"format":"orderd-orders","version":1,"orders":{counts}}}"#));
    assert_eq!(text.lines().last().unwrap(), format!(r#"{{"written":{counts}}}"#));
    expect_done(&run(&folder, &["export", "--output", "all.jsonl"]), &["all.jsonl has 5000 orders (1."]);
    assert_same(&fs::read_to_string(folder.file("all.jsonl")).unwrap(), &text);

    let from = folder.file("all.jsonl");
    run(&other, &["import", from.to_str().unwrap()]).expect_done("imported 5000, already there 0\n");
    assert_same(&exported(&other, &[]), &text);
    expect_done(&run(&other, &["check"]), &["5000 orders", "are well"]);
    import(&other, &text).expect_done("imported 0, already there 5000\n");
    expect_done(&run(&other, &["check"]), &["5000 orders", "are well"]);
    // Also what no export could have told. The places of the orders are given anew, in the same order.
    assert!(whole_rows(&other) == whole_rows(&folder), "the rows are others");
    let (empty, other) = (with_orders_of_every_kind(0), Folder::new());
    import(&other, &exported(&empty, &[])).expect_done("imported 0, already there 0\n");
}

/// At every place that matters: between two lines, within one, before the last, and nowhere.
#[test]
fn an_import_of_a_cut_off_export_stores_what_came_says_so_and_is_resumed() {
    let (folder, other) = (with_orders_of_every_kind(3_000), Folder::new());
    let text = exported(&folder, &[]);
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    for (length, came, place) in [
        (ends[0], 0, "behind line 1"),
        (ends[700], 700, "behind line 701"),
        (ends[1_900] + 30, 1_900, "in the middle of line 1902"),
        (ends[3_000], 3_000, "behind line 3001"),
    ] {
        let ended = import(&other, &text[..length]);
        ended.expect_failed(&["cut off", place, &format!("{came} of 3000 orders came"), "the whole may be given again"]);
        assert_eq!(rows(&other.file("orders.db")).len(), came, "{ended:?}");
        expect_done(&run(&other, &["check"]), &["are well"]);
    }
    import(&other, &text).expect_done("imported 0, already there 3000\n");
    assert_same(&exported(&other, &[]), &text);
}

#[test]
fn an_import_that_is_killed_anywhere_is_given_again_and_ends_the_same() {
    const ORDERS: usize = 30_000;
    let folder = with_orders_of_every_kind(ORDERS);
    expect_done(&run(&folder, &["export", "--output", "all.jsonl"]), &["all.jsonl"]);
    let from = folder.file("all.jsonl");
    let other = Folder::new();
    let mut met = 0;
    // Each meets it a little later.
    for round in 0..12 {
        let before = orders_in(&other);
        let mut child = orderd(&other).arg("import").arg(&from).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(10 + 25 * round));
        let was_over = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let after = orders_in(&other);
        assert!(after >= before, "{before} {after}");
        met += usize::from(!was_over && after > before && after < ORDERS);
    }
    assert!(met > 0, "none was met in the middle");
    let ended = run(&other, &["import", from.to_str().unwrap()]);
    expect_done(&ended, &["imported ", ", already there "]);
    let said: usize = ended.stdout.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok()).sum();
    assert_eq!(said, ORDERS, "{ended:?}");
    expect_done(&run(&other, &["check"]), &["are well"]);
    assert_same(&exported(&other, &[]), &fs::read_to_string(&from).unwrap());
}

/// As on a disk that becomes full, and has room again.
#[test]
fn an_import_that_finds_no_room_stores_whole_batches_and_is_resumed() {
    let (folder, other) = (with_orders_of_every_kind(20_000), Folder::new());
    expect_done(&run(&folder, &["export", "--output", "all.jsonl"]), &["all.jsonl"]);
    let mut command = in_clean_environment(std::process::Command::new("sh"), &other);
    let script = "trap '' XFSZ; ulimit -f 2000; exec \"$0\" import \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_orderd")]).arg(folder.file("all.jsonl"));
    let ended = Ended::of(command);
    ended.expect_failed(&["the disk ", "imported ", "the whole may be given again"]);
    let stored = orders_in(&other);
    assert!(ended.stderr.contains(&format!("imported {stored}, already there 0")), "{stored} are stored: {ended:?}");
    let ended = run(&other, &["import", folder.file("all.jsonl").to_str().unwrap()]);
    ended.expect_done(&format!("imported {}, already there {stored}\n", 20_000 - stored));
    assert_same(&exported(&other, &[]), &exported(&folder, &[]));
}

#[test]
fn an_order_with_other_content_is_told_and_the_others_are_imported() {
    let (folder, other) = (Folder::new(), Folder::new());
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..2_000));
    server.stop();
    let text = exported(&folder, &[]);
    let server = Process::start(&other, &["--processing-time", "0s"]);
    // One of them as it is, and one under whose id something else was ordered.
    server.post(order("o-7")).expect(200, &created("o-7"));
    server.post(order("o-9").replace("user1", "another")).expect(200, &created("o-9"));
    server.wait_until_completed(2);
    server.stop();
    let ended = import(&other, &text);
    let counts = "not imported, as others with their ids are there: 1 order; imported 1998, already there 1";
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.stderr, format!("line 11: another order o-9 is there\norderd: {counts}\n"));
    let found = rows(&other.file("orders.db"));
    assert_eq!(found.iter().filter(|row| row.status == "Pending").count(), 1_998);
    assert_eq!((found[0].order_id.as_str(), found[0].status.as_str()), ("o-7", "Completed"), "it stays as it was");
    // What was imported and processed since is no other.
    let server = Process::start(&other, &["--processing-time", "0s"]);
    server.wait_until_completed(2_000);
    server.stop();
    assert!(import(&other, &text).stderr.contains("imported 0, already there 1999"));
    expect_done(&run(&other, &["check"]), &["are well"]);
}

#[test]
fn what_is_wrong_is_refused_with_its_line_and_what_stands_before_it_is_stored() {
    let (folder, other) = (with_orders_of_every_kind(10), Folder::new());
    let text = exported(&folder, &[]);
    let lines: Vec<&str> = text.lines().collect();
    for (wrong, words) in [
        ("\"status\":\"Lost\"", "status: \"Lost\" is none"),
        ("\"attempts\":-1", "attempts: -1 is not between"),
        ("\"total_amount\":-1", "total_amount: Input should be greater"),
        ("\"item_ids\":[]", "item_ids: List should have"),
        ("no json", "JSON decode error"),
    ] {
        let field = wrong.split(':').next().unwrap();
        let line = match lines[5].split_once(&format!("{field}:")) {
            Some((before, behind)) => {
                let end = if behind.starts_with('[') { behind.find(']').unwrap() + 1 } else { behind.find(',').unwrap() };
                format!("{before}{wrong}{}", &behind[end..])
            }
            None => wrong.to_string(),
        };
        let ended = import(&other, &text.replace(lines[5], &line));
        ended.expect_failed(&["line 6: ", words, "the whole may be given again"]);
        assert_eq!(rows(&other.file("orders.db")).len(), 4);
    }
    // A last line that says something else.
    let without = text.replace(&format!("{}\n", lines[4]), "");
    import(&other, &without).expect_failed(&[
        "orders are missing",
        "10 were written",
        "and 9 came",
        "imported 6, already there 3",
    ]);
    import(&other, &text).expect_done("imported 0, already there 10\n");

    let fresh = Folder::new();
    for (no_export, words) in [
        (String::new(), "the input is empty"),
        (lines[1].to_string(), "line 1: it is not the first line of an export"),
        (text.replace("\"version\":1", "\"version\":2"), "a newer orderd has written this (format 2"),
    ] {
        import(&fresh, &no_export).expect_failed(&[words]);
    }
    run(&fresh, &["import", "none.jsonl"]).expect_refused(&["cannot read none.jsonl"]);
    run(&fresh, &["import", "a", "b"]).expect_refused(&["orderd import [FILE | -]"]);
    assert_eq!(fresh.names(), [""; 0], "nothing is made");
}

#[test]
fn beside_a_running_server_an_export_says_so_and_an_import_is_refused() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..300));
    let ended = run(&folder, &["export"]);
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 302), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("what it changes from now on is not in this export"), "{ended:?}");
    import(&folder, &ended.stdout).expect_refused(&["orders.db is in use by a running orderd; stop it first"]);
    server.post(order("o-300")).expect(200, &created("o-300"));
    server.stop();
    assert_eq!(import(&folder, &ended.stdout).stdout, "imported 0, already there 300\n");
}

/// Its attempt is counted, and was cut short as by a crash.
#[test]
fn an_order_in_processing_is_imported_so_and_taken_up_by_the_next_start() {
    let (folder, other) = (Folder::new(), Folder::new());
    let server = Process::start(&folder, &["--exec", "exec sleep 600", "--shutdown-timeout", "100ms"]);
    server.post(order("o-0")).expect(200, &created("o-0"));
    server.wait_for("o-0", "Processing");
    let text = run(&folder, &["export"]).stdout;
    drop(server);
    assert!(text.contains("\"status\":\"Processing\"") && text.contains("\"attempts\":1"), "{text}");
    import(&other, &text).expect_done("imported 1, already there 0\n");
    assert_eq!(rows(&other.file("orders.db"))[0].status, "Processing");
    let server = Process::start(&other, &["--exec", "true", "--retry-delay", "10ms"]);
    let record = server.wait_for("o-0", "Completed");
    assert_eq!(record["attempts"], 2, "{record}");
    server.stop();
}

#[test]
fn an_export_that_cannot_be_exact_or_whole_leaves_no_file() {
    let folder = with_orders_of_every_kind(600);
    fs::write(folder.file("old.jsonl"), "old").unwrap();
    run(&folder, &["export", "--output", "old.jsonl"]).expect_refused(&["cannot write old.jsonl: it exists"]);
    run(&folder, &["export", "--output", "orders.db-wal"]).expect_refused(&["that name belongs to the database"]);
    run(&folder, &["export", "--output", "no/such/folder"]).expect_refused(&["cannot write no/such/folder"]);
    run(&folder, &["export", "all.jsonl"]).expect_refused(&["orderd export [--output FILE]"]);
    run(&folder, &["export", "--db", "none.db"]).expect_refused(&["none.db does not exist", "--db"]);
    run(&folder, &["export", "--db", "old.jsonl"]).expect_refused(&["old.jsonl is not an orderd database"]);
    let mut command = in_clean_environment(std::process::Command::new("sh"), &folder);
    command.args(["-c", "ulimit -f 100; exec \"$0\" export --output all.jsonl", env!("CARGO_BIN_EXE_orderd")]);
    Ended::of(command).expect_refused(&["cannot write all.jsonl"]);
    // By hand, as no client could have sent it.
    connection(&folder.file("orders.db")).execute("UPDATE orders SET total_amount = 'much' WHERE seq = 500", []).unwrap();
    for words in [&["export", "--output", "all.jsonl"][..], &["export"]] {
        let ended = run(&folder, words);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("total_amount: ") && ended.stderr.contains("seq = 500"), "{ended:?}");
    }
    connection(&folder.file("orders.db")).pragma_update(None, "user_version", 2).unwrap();
    run(&folder, &["export"]).expect_refused(&["an older orderd (schema 2", "start this one"]);
    assert_eq!((folder.file("all.jsonl").exists(), partial(&folder)), (false, Vec::new()));
    assert_eq!(fs::read_to_string(folder.file("old.jsonl")).unwrap(), "old");
}

/// The shell's reader may have seen enough, and a signal may have it end.
#[test]
fn an_export_that_nobody_wants_any_more_ends_and_leaves_nothing() {
    let folder = with_orders_of_every_kind(50_000);
    let mut child = orderd(&folder).arg("export").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut begin = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut begin).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));

    let heard = (0..20).any(|round| {
        let name = format!("{round}.jsonl");
        let mut command = orderd(&folder);
        command.args(["export", "--output", &name]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 * (round + 1)));
        crate::harness::signal(child.id(), "INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(folder.file(&name).exists(), output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.code() == Some(1) && said.contains("stopped by a signal")
    });
    assert!(heard, "none heard of it in time");
    // Of one that a signal has met before it was heard of, the next one removes what is left.
    expect_done(&run(&folder, &["export", "--output", "all.jsonl"]), &["all.jsonl has 50000 orders"]);
    assert_eq!(partial(&folder), [""; 0]);
}

/// All columns but the list of items, whose text may have had other escapes.
fn whole_rows(folder: &Folder) -> Vec<String> {
    let columns = "order_id, user_id, total_amount, status, attempts, created_at, started_at, completed_at, ended_at, retry_at";
    let quoted = columns.split(", ").chain(["last_error"]).map(|column| format!("quote({column})")).collect::<Vec<_>>();
    let connection = connection(&folder.file("orders.db"));
    let mut statement = connection.prepare(&format!("SELECT {} FROM orders ORDER BY seq", quoted.join(" || "))).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// How many orders there are, if there is a database yet.
fn orders_in(folder: &Folder) -> usize {
    let db = folder.file("orders.db");
    let count = |db| connection(db).query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0));
    if db.exists() { count(&db).unwrap_or(0) as usize } else { 0 }
}
