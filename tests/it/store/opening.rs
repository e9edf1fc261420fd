//! Files that were pulled away, emptied, cut or damaged while nobody looked, or under a running server: orderd says so and touches
//! nothing, so that what was acknowledged is there again once they are put back.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{
    Ended, Folder, PATIENCE, Process, Serving, Worker, created, ids, in_clean_environment, order, orderd, poll_until, rows,
};

pub(super) const ORDERS: usize = 20;
const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--concurrency", "0"];

/// A folder with the files of a server that was killed after it had acknowledged so many orders.
pub(super) fn crashed() -> Folder {
    let folder = Folder::new();
    let server = Process::start(&folder, &FLAGS[2..]);
    // One by one, so that each is a commit of its own.
    ids(0..ORDERS).for_each(|id| _ = server.post(order(&id)).expect(200, &created(&id)));
    server.kill();
    folder
}

#[track_caller]
fn expect_refused(folder: &Folder, words: &[&str]) {
    let before = contents(folder);
    let mut command = orderd(folder);
    command.args(FLAGS);
    Ended::of(command).expect_refused(words);
    assert_eq!(contents(folder), before, "refused, and yet changed");
}

/// All files but the lock, by their names.
pub(super) fn contents(folder: &Folder) -> Vec<(String, Vec<u8>)> {
    let names = folder.names().into_iter().filter(|name| !name.ends_with(".lock"));
    names.map(|name| (name.clone(), fs::read(folder.file(&name)).unwrap())).collect()
}

/// Starts it once with `flags`, and says how many orders it has.
#[track_caller]
pub(super) fn orders_after_a_start(folder: &Folder, flags: &[&str]) -> u64 {
    let server = Process::start(folder, &[&FLAGS[2..], flags].concat());
    let total = server.metrics().total;
    server.stop();
    total
}

pub(super) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn set_length(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_database_that_is_missing_or_empty_beside_its_log_is_refused_and_whole_when_put_back() {
    let folder = crashed();
    let db = folder.file("orders.db");
    let kept = folder.file("kept");
    fs::rename(&db, &kept).unwrap();
    expect_refused(&folder, &["orders.db is missing", "--accept-loss"]);
    File::create(&db).unwrap();
    expect_refused(&folder, &["orders.db is empty", "--accept-loss"]);
    fs::rename(&kept, &db).unwrap();
    assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64);
}

#[test]
fn who_accepts_the_loss_has_the_old_files_set_aside() {
    let folder = crashed();
    fs::remove_file(folder.file("orders.db")).unwrap();
    assert_eq!(orders_after_a_start(&folder, &["--accept-loss"]), 0);
    let aside: Vec<_> = folder.names().into_iter().filter(|name| name.contains(".aside-")).collect();
    assert!(aside.iter().any(|name| name.ends_with("-wal")), "{:?}", folder.names());

    let folder = crashed();
    flip(&folder.file("orders.db-wal"), 20_000);
    assert!(orders_after_a_start(&folder, &["--accept-loss"]) < ORDERS as u64);
    let mut aside = folder.names().into_iter().filter(|name| name.contains(".aside-"));
    assert!(aside.any(|name| name.ends_with('Z')), "the database as well: {:?}", folder.names());
}

#[test]
fn one_flipped_bit_in_the_log_is_told_from_a_torn_tail() {
    for (at, with_index) in [(5, true), (5, false), (100, true), (30_000, true), (30_000, false)] {
        let folder = crashed();
        if !with_index {
            fs::remove_file(folder.file("orders.db-shm")).unwrap();
        }
        let log = folder.file("orders.db-wal");
        flip(&log, at);
        expect_refused(&folder, &["orders.db-wal", "--accept-loss"]);
        flip(&log, at);
        assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64);
    }
    // As after a power failure, which leaves no index that counts: the last transaction is incomplete.
    let folder = crashed();
    fs::remove_file(folder.file("orders.db-shm")).unwrap();
    let log = folder.file("orders.db-wal");
    set_length(&log, fs::metadata(&log).unwrap().len() - 100);
    assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64 - 1);
}

#[test]
fn a_log_that_was_cut_is_refused() {
    for divisor in [2, u64::MAX] {
        let folder = crashed();
        let log = folder.file("orders.db-wal");
        let whole = fs::read(&log).unwrap();
        set_length(&log, whole.len() as u64 / divisor);
        expect_refused(&folder, &["orders.db-wal", "are left", "--accept-loss"]);
        fs::write(&log, whole).unwrap();
        assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64);
    }
}

/// Promise 1. The successor finds no database, or another one, and must neither make nor take it.
#[test]
fn a_successor_creates_no_database_and_takes_no_other() {
    for put_another in [false, true] {
        let folder = Folder::new();
        let server = Process::start(&folder, &["--concurrency", "0"]);
        ids(0..ORDERS).for_each(|id| _ = server.post(order(&id)).expect(200, &created(&id)));
        let (db, kept) = (folder.file("orders.db"), folder.file("kept"));
        fs::rename(&db, &kept).unwrap();
        if put_another {
            fs::copy(&kept, &db).unwrap();
        }
        let log = fs::read(folder.file("orders.db-wal")).unwrap();
        Worker::of(&server).signal("KILL");
        poll_until(PATIENCE, || server.stderr().contains("replaced while orderd runs"));
        assert_eq!(db.exists(), put_another, "{}", server.stderr());
        assert!(fs::read(folder.file("orders.db-wal")).unwrap() == log, "the log was changed");
        server.kill();
        fs::rename(&kept, &db).unwrap();
        assert_eq!(orders_after_a_start(&folder, &[]), ORDERS as u64);
    }
}

/// Until a start has copied them back, orders may rest on pages whose sync has failed, and which the kernel holds for written.
#[test]
fn what_a_crash_left_in_the_log_is_in_the_database_before_the_first_answer() {
    let folder = crashed();
    let server = Process::start(&folder, &FLAGS[2..]);
    assert_eq!(fs::metadata(folder.file("orders.db-wal")).unwrap().len(), 0);
    server.kill();
    fs::remove_file(folder.file("orders.db-wal")).unwrap();
    assert_eq!(rows(&folder.file("orders.db")).len(), ORDERS);
}

#[test]
fn files_are_made_for_their_owner_alone() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_orderd")]).args(FLAGS);
    let server = Process::spawn(in_clean_environment(command, &folder), &folder);
    server.post(order("1")).expect_status(200);
    let mode = |name: &str| fs::metadata(folder.file(name)).unwrap().permissions().mode() & 0o777;
    folder.names().iter().for_each(|name| assert_eq!(mode(name), 0o600, "{name}"));

    let other = Folder::new();
    let mut command = orderd(&other);
    command.args(["--listen", "unix:socket"]);
    let _server = Process::spawn(command, &other);
    assert_eq!(fs::metadata(other.file("socket")).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_link_to_a_file_that_is_still_to_be_made_is_followed() {
    let folder = Folder::new();
    fs::create_dir(folder.file("volume")).unwrap();
    symlink("volume/other.db", folder.file("orders.db")).unwrap();
    assert_eq!(orders_after_a_start(&folder, &[]), 0);
    assert!(folder.file("volume/other.db").exists() && !folder.file("orders.db.lock").exists(), "{:?}", folder.names());
}

#[test]
fn a_foreign_file_gets_no_lock_beside_it_and_a_missing_folder_is_named() {
    let folder = Folder::new();
    fs::write(folder.file("orders.db"), "root:x:0:0").unwrap();
    expect_refused(&folder, &["orders.db", "not an orderd database"]);
    assert_eq!(folder.names(), ["orders.db"]);

    let mut command = orderd(&folder);
    command.args(FLAGS).args(["--db", "missing/orders.db"]);
    Ended::of(command).expect_refused(&["missing/orders.db", "folder", "does not exist"]);
}

#[test]
fn a_name_that_is_no_utf_8_is_taken_as_it_is() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.db");
    let mut command = orderd(&folder);
    command.args(FLAGS).arg("--db").arg(name);
    let server = Process::spawn(command, &folder);
    assert!(folder.path().join(name).exists());
    server.stop();
}
