//! A disk that takes nothing for a while: locked by another program, full, or failing. Held is promise 3.
//!
//! Reads go on, a refused order leaves nothing half done, and the same order is taken once there is room again. Where a small
//! file system is needed and none can be mounted, the test says so.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::harness::{
    Client, Folder, Local, PATIENCE, Process, Scraped, Serving, Worker, connection, created, get, in_clean_environment,
    in_status, left_out, order, poll_until, post,
};

const NO_SUCH_ORDER: &str = r#"{"detail":"Order not found"}"#;

/// Promise 3. The other program is one that forgot its transaction in the sqlite3 shell.
#[test]
fn while_the_disk_takes_no_orders_the_answer_is_503_and_nothing_is_half_done() {
    let server = Local::idle();
    server.post(order("before")).expect_status(200);
    let other = connection(&server.db());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let mut client = patient_client(&server);
    client.send(post(order("1"))).unwrap();
    // Reads go on meanwhile.
    server.get("/order/before").expect(200, &in_status("before", "Pending"));
    let refused = client.answer();
    refused.expect_error(503, "storage_unavailable");
    assert!(refused.header("Retry-After").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{}", refused.exchange());
    server.get("/order/1").expect(404, NO_SUCH_ORDER);

    other.execute_batch("ROLLBACK").unwrap();
    server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
    server.post(order("1")).expect(200, &created("1")).expect_no_header("Idempotent-Replayed");
    assert_eq!(server.metrics().total, 2);
}

/// Promise 3.
#[test]
fn while_the_disk_takes_nothing_the_server_says_that_it_is_not_healthy() {
    if left_out() {
        return;
    }
    let server = Local::idle();
    let other = connection(&server.db());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = patient_client(&server).ask(get("/healthz"));
    assert!(refused.expect_error(503, "storage_unavailable").header("Retry-After").is_some(), "{}", refused.exchange());
    other.execute_batch("ROLLBACK").unwrap();
    server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
}

/// Promise 3. Needs a file system of a few hundred kilobytes, which only a privileged user can mount; elsewhere it says so.
#[test]
fn a_full_disk_is_answered_with_503_until_there_is_room_again() {
    let folder = Folder::new();
    let mount = "mkdir -p small && mount -t tmpfs -o size=1m tmpfs small";
    if !in_own_mounts(&folder, mount).output().is_ok_and(|output| output.status.success()) {
        eprintln!("not tried: no small file system can be mounted here");
        return;
    }
    // What fills the disk can be taken away again.
    let serve = "exec \"$0\" --listen 127.0.0.1:0 --db small/orders.db --concurrency 0";
    let script = format!("{mount} && head -c 600000 /dev/zero > small/ballast && {serve}");
    let server = Process::spawn(in_own_mounts(&folder, &script), &folder);

    let body = |n: u32| order(&format!("o-{n}")).replace("item1", &"i".repeat(255));
    let refused = (0..10_000).find(|n| {
        let answer = server.post(body(*n));
        if answer.status == 200 {
            return false;
        }
        answer.expect_error(503, "storage_unavailable");
        assert!(answer.header("Retry-After").is_some(), "{}", answer.exchange());
        true
    });
    let refused = refused.expect("a disk of 1 MB is full at some time");
    server.get(&format!("/order/o-{refused}")).expect(404, NO_SUCH_ORDER);
    server.get("/order/o-0").expect(200, &in_status("o-0", "Pending"));
    assert_eq!(server.metrics().total, u64::from(refused));
    // Its probe is small and may still find room where an order finds none, but not for long.
    poll_until(PATIENCE, || server.get("/healthz").status == 503);
    server.get("/healthz").expect_error(503, "storage_unavailable");
    poll_until(PATIENCE, || Scraped::of(&server).value("orderd_checkpoint_failing") == 1.0);
    let figures = Scraped::of(&server);
    for name in ["orderd_changes_refused_total", "orderd_checkpoint_failures_total", "orderd_wal_size_bytes"] {
        assert!(figures.value(name) > 0.0, "{name}: {}", figures.text);
    }

    // The process sees its own mounts there.
    let ballast = format!("/proc/{}/root{}", server.id(), folder.file("small/ballast").display());
    fs::remove_file(ballast).unwrap();
    server.post(body(refused)).expect(200, &created(&format!("o-{refused}"))).expect_no_header("Idempotent-Replayed");
    // What could not be copied back is tried again each second.
    server.served_again();
    assert_eq!(Scraped::of(&server).value("orderd_checkpoint_failing"), 0.0);
}

/// Needs a small file system, as above. The log must not take all of it before it is copied back.
#[test]
fn what_is_on_a_small_disk_that_is_full_is_read_also_after_a_restart() {
    let folder = Folder::new();
    let mount = "mkdir -p small && mount -t tmpfs -o size=4m tmpfs small";
    if !in_own_mounts(&folder, mount).output().is_ok_and(|output| output.status.success()) {
        eprintln!("not tried: no small file system can be mounted here");
        return;
    }
    let script = format!("{mount} && exec \"$0\" --listen 127.0.0.1:0 --db small/orders.db --concurrency 0");
    let server = Process::spawn(in_own_mounts(&folder, &script), &folder);
    let mut client = server.client();
    let body = |n: u32| order(&format!("o-{n}")).replace("item1", &"i".repeat(255));
    let stored = (0..100_000).find(|n| client.ask(post(body(*n))).status != 200).unwrap();
    // Four pages each, if none were copied back.
    assert!(stored > 2_000, "only {stored} orders");
    let worker = Worker::of(&server);
    worker.signal("KILL");
    worker.successor(&server);
    for n in [0, stored - 1] {
        server.get(&format!("/order/o-{n}")).expect(200, &in_status(&format!("o-{n}"), "Pending"));
    }
    // To copy the log back has made a little room.
    let mut client = server.client();
    let refused = (stored..).find(|n| client.ask(post(body(*n))).status != 200).unwrap();
    server.post(body(refused)).expect_error(503, "storage_unavailable");
    server.get("/order/o-0").expect(200, &in_status("o-0", "Pending"));
}

/// A limit of the size of files is no broken disk, and a signal that comes with it by default ends nobody.
#[test]
fn at_a_limit_of_the_size_of_files_the_answer_is_503_and_reads_go_on() {
    let folder = Folder::new();
    let script = "ulimit -f 400; exec \"$0\" --listen 127.0.0.1:0 --concurrency 0";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_orderd")]);
    let server = Process::spawn(in_clean_environment(command, &folder), &folder);
    let worker = Worker::of(&server);
    let mut client = server.client();
    let refused = (0..100_000).find(|n| client.ask(post(order(&format!("o-{n}")))).status != 200).unwrap();
    for _ in 0..10 {
        client.ask(post(order(&format!("o-{refused}")))).expect_error(503, "storage_unavailable");
        client.ask(get("/order/o-0")).expect(200, &in_status("o-0", "Pending"));
    }
    assert!(worker.lives(), "{}", server.stderr());
}

/// A log that was cut under a running server takes no order more, as no recovery would find it there.
#[test]
fn nothing_is_acknowledged_into_a_log_that_was_cut() {
    let server = Local::idle();
    server.post(order("before")).expect_status(200);
    let log = server.folder().file("orders.db-wal");
    // As another program may do it.
    let other = connection(&server.db());
    poll_until(PATIENCE, || {
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        fs::metadata(&log).unwrap().len() == 0
    });
    server.post(order("1")).expect_status(200);
    // As it must not.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    server.post(order("2")).expect_error(503, "storage_unavailable");
}

/// A page of the database is overwritten. What doesn't need it goes on; what does is refused, and the process stays.
#[test]
fn a_damaged_page_is_said_once_and_ends_nothing() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create((0..300).map(|n| format!("o-{n}")));
    server.stop();
    let page = connection(&folder.file("orders.db"))
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_orders_1'", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap();
    let file = fs::File::options().write(true).open(folder.file("orders.db")).unwrap();
    file.write_all_at(&[0x55; 4_096], (page as u64 - 1) * 4_096).unwrap();

    // Whoever meets it first, it is kept in mind.
    let write = |server: &Process| _ = server.post(order("new")).expect_error(503, "storage_unavailable");
    let read = |server: &Process| _ = server.get("/order/o-0").expect_status(503);
    for meets in [[&write as &dyn Fn(&Process), &read], [&read, &write]] {
        let server = Process::start(&folder, &["--concurrency", "0"]);
        let worker = Worker::of(&server);
        server.get("/healthz").expect_status(200);
        for deed in meets {
            (0..5).for_each(|_| deed(&server));
            server.get("/healthz").expect_error(503, "storage_unavailable");
        }
        assert_eq!(server.get("/orders").expect_status(200).json()["data"][0]["order_id"], "o-299");
        assert!(worker.lives(), "{}", server.stderr());
        assert_eq!(server.stderr().matches("restore a backup").count(), 1, "{}", server.stderr());
        server.stop();
    }
}

/// A client that waits longer than the server waits for another program's transaction.
fn patient_client(server: &Local) -> Client {
    let mut client = server.client();
    client.set_read_timeout(PATIENCE).unwrap();
    client
}

/// A shell script that runs in a mount namespace of its own, so that its mounts end with it. `$0` is the binary.
fn in_own_mounts(folder: &Folder, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_orderd")]);
    in_clean_environment(command, folder)
}
