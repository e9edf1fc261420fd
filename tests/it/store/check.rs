//! `orderd check`: every damage that can be found is found, wrong counts are told and corrected, and what is well is left as it is.

use std::fs;

use super::backup::{expect_done, put_orders, run};
use super::opening::{contents, crashed, flip};
use crate::harness::{Ended, Folder, Process, Serving, beside, connection, ids};

#[track_caller]
fn expect_found(ended: &Ended, says: &[&str]) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:?}");
    says.iter().for_each(|words| assert!(ended.stdout.contains(words), "expected {words:?} in {ended:?}"));
}

/// Without its log, whose absence nothing tells.
fn whole() -> Folder {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    server.create(ids(0..300));
    server.wait_until_completed(300);
    server.stop();
    folder
}

#[test]
fn a_flipped_bit_in_the_structure_of_any_page_is_found() {
    let folder = whole();
    expect_done(&run(&folder, &["check"]), &["300 orders", "are well"]);
    let db = folder.file("orders.db");
    let pages = fs::metadata(&db).unwrap().len() / 4_096;
    assert!(pages > 20, "{pages} pages");
    // Of the first page, as of all others, the first byte behind the file's header is what kind of page it is.
    for at in [100].into_iter().chain((1..pages).map(|page| page * 4_096)) {
        flip(&db, at);
        expect_found(&run(&folder, &["check"]), &["orders.db is damaged", "orderd restore"]);
        flip(&db, at);
    }
    // The very beginning: the lock beside it says that it was ours.
    for at in [3, 70] {
        flip(&db, at);
        expect_found(&run(&folder, &["check"]), &["its first page is damaged"]);
        flip(&db, at);
    }
    expect_done(&run(&folder, &["check"]), &["are well"]);
}

#[test]
fn a_text_that_is_not_that_of_its_index_is_found() {
    let folder = whole();
    let db = folder.file("orders.db");
    let bytes = fs::read(&db).unwrap();
    // What was moved to another page may still be seen where it was, in room that is free.
    let places: Vec<_> = (0..bytes.len() - 6).filter(|at| bytes[*at..].starts_with(b"o-150u")).collect();
    let found = places.iter().any(|at| {
        flip(&db, *at as u64 + 2);
        let checked = run(&folder, &["check"]);
        let is_found = checked.code == Some(1);
        if is_found {
            expect_found(&checked, &["orders.db is damaged", "index"]);
        }
        flip(&db, *at as u64 + 2);
        is_found
    });
    assert!(found, "an id beside its user, in one of {places:?}");
}

#[test]
fn a_damaged_log_is_found_and_a_whole_one_is_well_and_left_as_it_is() {
    let folder = crashed();
    let before = contents(&folder);
    expect_done(&run(&folder, &["check"]), &["20 orders", "are well"]);
    let of_orders = |files: Vec<(String, Vec<u8>)>| files.into_iter().filter(|(name, _)| !name.ends_with("-shm")).collect();
    let [before, after]: [Vec<_>; 2] = [before, contents(&folder)].map(of_orders);
    assert!(before == after, "a check has changed something");
    flip(&folder.file("orders.db-wal"), 20_000);
    expect_found(&run(&folder, &["check"]), &["orders.db is damaged", "-wal", "orderd restore"]);
}

#[test]
fn wrong_counts_are_told_and_corrected_beside_a_running_server() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "20ms"]);
    server.create(ids(0..200));
    let wrong = "UPDATE status_counts SET orders = orders + 3 WHERE status = 'Pending';
                 UPDATE status_counts SET orders = orders - 7, processing_ms = processing_ms + 10000 WHERE status = 'Completed'";
    connection(&server.db()).execute_batch(wrong).unwrap();
    expect_found(
        &run(&folder, &["check"]),
        &["not its counts", "Pending: ", "Completed: ", "ms of processing", "--repair-counts"],
    );
    let ((), report) = beside(&server, 4, 200, |_| {
        expect_done(&run(&folder, &["check", "--repair-counts"]), &["have been corrected", "Pending: "]);
    });
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    // What was counted meanwhile stays counted.
    expect_done(&run(&folder, &["check"]), &["are well"]);
    server.stop();
    connection(&folder.file("orders.db")).execute_batch("DELETE FROM status_counts WHERE status = 'Failed'").unwrap();
    expect_done(&run(&folder, &["check"]), &["are well"]);
    connection(&folder.file("orders.db")).execute_batch("DELETE FROM status_counts").unwrap();
    expect_found(&run(&folder, &["check"]), &["Completed: 0 are counted"]);
    expect_done(&run(&folder, &["check", "--repair-counts"]), &["corrected"]);
    expect_done(&run(&folder, &["check"]), &["are well"]);
}

#[test]
fn what_is_no_orderd_database_is_refused_and_not_called_damaged() {
    let folder = Folder::new();
    fs::write(folder.file("text.db"), "root:x:0:0").unwrap();
    connection(&folder.file("foreign.db")).execute_batch("CREATE TABLE orders (id)").unwrap();
    fs::write(folder.file("empty.db"), "").unwrap();
    let names = folder.names();
    for db in ["text.db", "foreign.db", "empty.db"] {
        run(&folder, &["check", "--db", db]).expect_refused(&[db, "is not an orderd database"]);
    }
    run(&folder, &["check"]).expect_refused(&["orders.db does not exist", "--db"]);
    run(&folder, &["check", "orders.db"]).expect_refused(&["orderd check [--repair-counts]"]);
    assert_eq!(folder.names(), names);
}

/// A backup before the upgrade is made with the new program.
#[test]
fn files_of_older_versions_are_checked_and_backed_up_as_they_are() {
    for (version, dump) in [(1, include_str!("versions/1.sql")), (2, include_str!("versions/2.sql"))] {
        let folder = Folder::new();
        connection(&folder.file("orders.db")).execute_batch(dump).unwrap();
        expect_done(&run(&folder, &["check"]), &["8 orders", "are well"]);
        expect_done(&run(&folder, &["backup", "copy.db"]), &["8 orders"]);
        let found = |db: &str| connection(&folder.file(db)).pragma_query_value(None, "user_version", |row| row.get(0));
        assert_eq!((found("orders.db"), found("copy.db")), (Ok(version), Ok(version)));
        expect_done(&run(&folder, &["restore", "copy.db"]), &["8 orders"]);
        assert_eq!(super::opening::orders_after_a_start(&folder, &[]), 8);
    }
}

#[test]
fn a_check_beside_a_load_reads_one_moment() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    put_orders(&server.db(), 20_000);
    let ((), report) = beside(&server, 4, 400, |_| {
        (0..5).for_each(|_| expect_done(&run(&folder, &["check"]), &["are well"]));
    });
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    server.stop();
}
