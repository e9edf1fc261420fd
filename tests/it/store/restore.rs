//! Going back to a backup: what is no good changes nothing, the old files are set aside, and a crash leaves the old or the new.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::backup::{expect_done, large, partial, put_orders, run};
use super::opening::{ORDERS, contents, crashed, flip, orders_after_a_start};
use crate::harness::{Ended, Folder, Process, connection, orderd, rows};

/// A folder with a database of so many orders and no server.
fn with_orders(orders: usize) -> Folder {
    let folder = Folder::new();
    Process::start(&folder, &["--concurrency", "0"]).stop();
    put_orders(&folder.file("orders.db"), orders);
    folder
}

/// The backup of a database of so many orders, as a file in `folder`.
fn put_backup(folder: &Folder, name: &str, orders: usize) {
    let other = with_orders(orders);
    let target = folder.file(name);
    expect_done(&run(&other, &["backup", target.to_str().unwrap()]), &[name]);
}

fn aside(folder: &Folder) -> Vec<String> {
    folder.names().into_iter().filter(|name| name.contains(".aside-")).collect()
}

#[test]
fn a_restore_has_the_orders_of_the_backup_and_sets_the_old_ones_aside_with_their_log() {
    // What was acknowledged is in the log alone.
    let folder = crashed();
    put_backup(&folder, "copy.db", 7);
    let backup = fs::read(folder.file("copy.db")).unwrap();
    expect_done(&run(&folder, &["restore", "copy.db"]), &["orders.db now has the 7 orders of copy.db", "is set aside as"]);
    assert!(fs::read(folder.file("copy.db")).unwrap() == backup, "the backup was changed");
    let aside = aside(&folder);
    assert_eq!(aside.len(), 1, "{:?}", folder.names());
    assert_eq!(rows(&folder.file(&aside[0])).len(), ORDERS);
    assert_eq!(orders_after_a_start(&folder, &[]), 7);
    assert_eq!(partial(&folder), [""; 0]);
}

#[test]
fn what_is_no_good_to_be_restored_changes_nothing() {
    let folder = crashed();
    put_backup(&folder, "newer.db", 3);
    connection(&folder.file("newer.db")).pragma_update(None, "user_version", 99).unwrap();
    put_backup(&folder, "damaged.db", 5_000);
    flip(&folder.file("damaged.db"), 50 * 4_096);
    fs::write(folder.file("garbage.db"), "root:x:0:0".repeat(1_000)).unwrap();
    fs::write(folder.file("empty.db"), "").unwrap();
    connection(&folder.file("foreign.db")).execute_batch("CREATE TABLE orders (id)").unwrap();
    let whole = fs::read(folder.file("newer.db")).unwrap();
    fs::write(folder.file("half.db"), &whole[..whole.len() / 2]).unwrap();
    connection(&folder.file("half.db")).pragma_update(None, "user_version", 1).unwrap_err();
    let before = contents(&folder);
    for (from, says) in [
        ("garbage.db", "is no orderd database"),
        ("foreign.db", "is no orderd database"),
        ("empty.db", "is empty"),
        ("none.db", "is no file"),
        (".", "is no file"),
        ("orders.db", "is the database itself"),
        ("newer.db", "newer orderd"),
        ("half.db", ""),
        ("damaged.db", "is damaged"),
    ] {
        run(&folder, &["restore", from]).expect_refused(&[from, says]);
        assert!(contents(&folder) == before, "{from} has changed something: {:?}", folder.names());
    }
    run(&folder, &["restore"]).expect_refused(&["orderd restore FILE"]);
    assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64);
}

#[test]
fn a_restore_is_refused_while_a_server_runs_or_another_program_has_the_database_open() {
    let folder = with_orders(3);
    put_backup(&folder, "copy.db", 5);
    let server = Process::start(&folder, &["--concurrency", "0"]);
    run(&folder, &["restore", "copy.db"]).expect_refused(&["in use by a running orderd"]);
    server.stop();
    let shell = connection(&folder.file("orders.db"));
    assert_eq!(shell.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)), Ok(3));
    run(&folder, &["restore", "copy.db"]).expect_refused(&["another program has it open"]);
    drop(shell);
    assert_eq!(orders_after_a_start(&folder, &[]), 3);
    expect_done(&run(&folder, &["restore", "copy.db"]), &["5 orders"]);
}

#[test]
fn a_database_that_is_missing_or_damaged_is_replaced_by_the_backup() {
    type Harm = fn(&Folder);
    let harms: [(&str, Harm); 5] = [
        ("missing", |folder| fs::remove_file(folder.file("orders.db")).unwrap()),
        ("a damaged header", |folder| flip(&folder.file("orders.db"), 3)),
        ("a damaged page", |folder| flip(&folder.file("orders.db"), 2 * 4_096)),
        ("a damaged log", |folder| flip(&folder.file("orders.db-wal"), 20_000)),
        ("nothing left", |folder| {
            folder.names().iter().for_each(|name| fs::remove_file(folder.file(name)).unwrap());
        }),
    ];
    for (what, harm) in harms {
        let folder = crashed();
        harm(&folder);
        put_backup(&folder, "copy.db", 7);
        let were_there = folder.names().iter().any(|name| name.starts_with("orders.db-wal"));
        expect_done(&run(&folder, &["restore", "copy.db"]), &["7 orders"]);
        assert_eq!(aside(&folder).is_empty(), !were_there, "{what}: {:?}", folder.names());
        assert_eq!(orders_after_a_start(&folder, &[]), 7, "{what}");
        expect_done(&run(&folder, &["check"]), &["are well"]);
    }
}

/// What the note says that takes the place of a damaged database for a moment.
#[test]
fn a_restore_over_a_damaged_database_that_was_cut_short_is_told_at_the_start_and_run_again() {
    let folder = crashed();
    put_backup(&folder, "copy.db", 7);
    let note = "orderd: a restore was cut short; run it again. The old files are set aside beside this one.\n";
    fs::write(folder.file("orders.db"), note).unwrap();
    let before = contents(&folder);
    for flags in [&[][..], &["--accept-loss"]] {
        let mut command = orderd(&folder);
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        Ended::of(command).expect_refused(&["a restore of", "cut short", "orderd restore"]);
        assert!(contents(&folder) == before, "refused, and yet changed");
    }
    expect_done(&run(&folder, &["restore", "copy.db"]), &["7 orders"]);
    assert_eq!(orders_after_a_start(&folder, &[]), 7);
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_orders_or_the_new_ones() {
    let backup = large();
    expect_done(&run(&backup, &["backup", "copy.db"]), &[]);
    let mut outcomes = Vec::new();
    for round in 0..24 {
        let folder = crashed();
        let mut command = orderd(&folder);
        let mut child = command.arg("restore").arg(backup.file("copy.db")).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let orders = orders_after_a_start(&folder, &[]);
        assert!([ORDERS as u64, 100_000].contains(&orders), "{orders} orders after {round}: {:?}", folder.names());
        if orders == 100_000 {
            let aside = aside(&folder);
            assert_eq!(rows(&folder.file(&aside[0])).len(), ORDERS, "{aside:?}");
        }
        outcomes.push(orders);
    }
    assert_eq!(outcomes[0], ORDERS as u64, "{outcomes:?}");
}

#[test]
fn counts_that_are_wrong_in_a_backup_are_right_after_its_restore() {
    let folder = with_orders(3);
    put_backup(&folder, "copy.db", 5);
    let backup = connection(&folder.file("copy.db"));
    backup.execute_batch("UPDATE status_counts SET orders = orders + 4, processing_ms = 1 WHERE status = 'Completed'").unwrap();
    drop(backup);
    expect_done(&run(&folder, &["restore", "copy.db"]), &["5 orders", "counts did not agree"]);
    expect_done(&run(&folder, &["check"]), &["5 orders", "are well"]);
}
