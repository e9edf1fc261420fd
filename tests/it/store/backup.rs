//! Backups: what one holds that is made under load, and that nothing has its name that is not whole. `restore.rs` goes back to them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::opening::{ORDERS, contents, crashed};
use crate::harness::{
    Ended, Folder, PATIENCE, Process, Serving, beside, comes_true, connection, ids, in_clean_environment, orderd, rows,
};

/// Runs `orderd` with these words in `folder`.
pub fn run(folder: &Folder, words: &[&str]) -> Ended {
    let mut command = orderd(folder);
    command.args(words);
    Ended::of(command)
}

#[track_caller]
pub fn expect_done(ended: &Ended, says: &[&str]) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    says.iter().for_each(|words| assert!(ended.stdout.contains(words), "expected {words:?} in {ended:?}"));
}

/// Puts so many finished orders into the database, which take some 150 bytes each.
pub fn put_orders(db: &Path, orders: usize) {
    connection(db)
        .execute_batch(&format!(
            "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, completed_at)
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {orders})
             SELECT 'p-' || hex(randomblob(8)), 'u', '[\"i\"]', '1', 'Completed', 0, 5 FROM n"
        ))
        .unwrap();
}

/// The names of what is being made, or was left half made.
pub fn partial(folder: &Folder) -> Vec<String> {
    folder.names().into_iter().filter(|name| name.contains("partial")).collect()
}

/// A database that is large enough to be met in the middle of its copy.
pub fn large() -> Folder {
    let folder = Folder::new();
    Process::start(&folder, &["--concurrency", "0"]).stop();
    put_orders(&folder.file("orders.db"), 100_000);
    folder
}

#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_before_and_serves() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "50ms"]);
    server.create(ids(0..500));
    let (copies, report) = beside(&server, 4, 400, |_| {
        ["1.db", "2.db", "3.db"].map(|name| {
            let before: Vec<_> = server.rows().into_iter().map(|row| row.order_id).collect();
            expect_done(&run(&folder, &["backup", name]), &[name, " orders of orders.db ("]);
            (name, before)
        })
    });
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    server.stop();
    for (name, before) in copies {
        let copied: std::collections::HashSet<_> = rows(&folder.file(name)).into_iter().map(|row| row.order_id).collect();
        let lost = before.iter().filter(|id| !copied.contains(*id)).count();
        assert!(before.len() >= 500 && lost == 0, "{lost} of {} are not in {name}", before.len());
        assert_eq!(fs::metadata(folder.file(name)).unwrap().permissions().mode() & 0o777, 0o600);
        expect_done(&run(&folder, &["check", "--db", name]), &["are well"]);
        let server = Process::start(&folder, &["--db", name, "--processing-time", "0s"]);
        server.wait_until_completed(copied.len() as u64);
        server.stop();
    }
    assert_eq!(partial(&folder), [""; 0]);
}

#[test]
fn without_a_server_a_backup_has_what_a_crash_left_in_the_log_and_leaves_it_there() {
    let folder = crashed();
    let before = contents(&folder);
    expect_done(&run(&folder, &["backup", "copy.db"]), &["20 orders", "copy.db"]);
    assert_eq!(rows(&folder.file("copy.db")).len(), ORDERS);
    let after: Vec<_> = contents(&folder).into_iter().filter(|(name, _)| name != "copy.db").collect();
    // The index alone says who reads.
    let without_index = |files: Vec<(String, Vec<u8>)>| files.into_iter().filter(|(name, _)| !name.ends_with("-shm")).collect();
    let [before, after]: [Vec<_>; 2] = [before, after].map(without_index);
    assert!(before == after, "the files were changed");
    assert_eq!(super::opening::orders_after_a_start(&folder, &[]), ORDERS as u64);
}

#[test]
fn a_target_that_exists_or_cannot_be_written_is_refused_and_nothing_is_touched() {
    let folder = crashed();
    fs::write(folder.file("taken"), "mine").unwrap();
    symlink("nowhere", folder.file("dangling")).unwrap();
    fs::create_dir(folder.file("folder")).unwrap();
    let names = folder.names();
    for (target, says) in [
        ("taken", "it exists"),
        ("dangling", "it exists"),
        ("folder", "it exists"),
        ("orders.db", "it exists"),
        ("orders.db-wal", "it exists"),
        ("orders.db-journal", "belongs to the database"),
        ("missing/copy.db", "cannot write missing/copy.db"),
        ("taken/copy.db", "cannot write taken/copy.db"),
        ("/proc/copy.db", "cannot write /proc/copy.db"),
        ("..", "cannot write"),
    ] {
        run(&folder, &["backup", target]).expect_refused(&["orderd: cannot write", says]);
        assert_eq!(folder.names(), names, "{target}");
    }
    assert_eq!(fs::read(folder.file("taken")).unwrap(), b"mine");
    run(&folder, &["backup", "--db", "none.db", "copy.db"]).expect_refused(&["none.db does not exist", "--db"]);
    run(&folder, &["backup", "--db", "taken", "copy.db"]).expect_refused(&["taken is not an orderd database"]);
    run(&folder, &["backup"]).expect_refused(&["orderd backup FILE"]);
    assert_eq!(folder.names(), names);
}

#[test]
fn a_backup_that_is_killed_leaves_no_file_of_its_name_and_the_next_one_tidies_up() {
    let folder = large();
    let mut met = 0;
    for round in 0..40 {
        let name = format!("copy-{round}.db");
        let mut command = orderd(&folder);
        let mut child = command.args(["backup", &name]).stdout(Stdio::null()).spawn().unwrap();
        comes_true(PATIENCE, || !partial(&folder).is_empty() || child.try_wait().unwrap().is_some());
        std::thread::sleep(std::time::Duration::from_millis(round * 2));
        child.kill().unwrap();
        child.wait().unwrap();
        if partial(&folder).is_empty() {
            continue;
        }
        met += 1;
        assert!(!folder.file(&name).exists(), "it was cut short, and has its name");
    }
    assert!(met > 0, "none was met in the middle");
    expect_done(&run(&folder, &["backup", "copy.db"]), &["100000 orders"]);
    assert_eq!(partial(&folder), [""; 0]);
    expect_done(&run(&folder, &["check", "--db", "copy.db"]), &["are well"]);
}

#[test]
fn a_signal_ends_a_backup_and_nothing_of_it_is_left() {
    let folder = large();
    let ended = (0..20).any(|round| {
        let name = format!("copy-{round}.db");
        let mut command = orderd(&folder);
        let child = command.args(["backup", &name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        comes_true(PATIENCE, || !partial(&folder).is_empty() || folder.file(&name).exists());
        crate::harness::signal(child.id(), "INT");
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(partial(&folder), [""; 0], "{said}");
        // It may have been done by then.
        assert_eq!(folder.file(&name).exists(), output.status.success(), "{said}");
        output.status.code() == Some(1) && said.contains("stopped by a signal")
    });
    assert!(ended, "none heard of it in time");
}

/// As on a disk that becomes full: what is written before is not enough for what is to come.
#[test]
fn a_backup_that_finds_no_room_leaves_nothing() {
    let folder = large();
    let names = folder.names();
    let mut command = in_clean_environment(Command::new("sh"), &folder);
    let script = "ulimit -f 4000; exec \"$0\" backup copy.db";
    command.args(["-c", script, env!("CARGO_BIN_EXE_orderd")]);
    Ended::of(command).expect_refused(&["cannot write copy.db"]);
    assert_eq!(folder.names(), names);
}

#[test]
fn a_damaged_database_is_not_backed_up_in_silence() {
    let folder = Folder::new();
    Process::start(&folder, &["--concurrency", "0"]).stop();
    put_orders(&folder.file("orders.db"), 5_000);
    super::opening::flip(&folder.file("orders.db"), 50 * 4_096);
    let names = folder.names();
    run(&folder, &["backup", "copy.db"]).expect_refused(&["the database is damaged"]);
    assert_eq!(folder.names(), names);
}
