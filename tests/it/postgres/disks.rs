//! The server's disks are full: that of its data, which has it refuse, and that of its log, which has it end.
//!
//! Held is promise 3: 503 meanwhile; service and processing back when there is room, without a hand at orderd.

use std::time::{Duration, Instant};

use super::{Instance, MINUTE, assert_books_on, under_load};
use crate::harness::{Cluster, Folder, Kind, Serving, SmallDisk, comes_true, get, order, poll_until, quick_or_slow};

/// Small enough to be filled, and with enough room for a database that is empty, or for a minute's orders.
const MEBIBYTES: usize = 128;
const MEBIBYTES_FOR_LONG: usize = 384;

fn is_healthy(instance: &Instance) -> bool {
    instance.ask(get("/healthz")).status == 200
}

#[test]
fn an_order_is_refused_while_the_disk_of_the_data_is_full_and_taken_when_there_is_room() {
    let Some(disk) = SmallDisk::new(quick_or_slow(MEBIBYTES, MEBIBYTES_FOR_LONG)) else { return };
    let elsewhere = Folder::new();
    let log = elsewhere.file("log");
    std::fs::create_dir(&log).unwrap();
    let kind = Kind { data: Some(disk.path()), log: Some(&log), ..Kind::default() };
    let Some(server) = Cluster::of(&kind) else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let (mut rounds, mut longest, begun) = (0, Duration::ZERO, Instant::now());
    let (acknowledged, refused) = under_load(&instance, || {
        while rounds < 1 || begun.elapsed() < quick_or_slow(Duration::ZERO, MINUTE) {
            std::thread::sleep(Duration::from_millis(500));
            disk.fill();
            let full = || instance.post(order(&format!("while-it-is-full-{rounds}"))).status == 503;
            assert!(comes_true(MINUTE, full), "no order is refused");
            disk.make_room();
            server.is_up();
            longest = longest.max(instance.served_again());
            rounds += 1;
        }
    });
    eprintln!("{rounds} rounds, {} acknowledged, {refused} refused, back within {longest:?} of the room", acknowledged.len());
    assert!(server.log().contains("No space left on device"), "it was never full: {}", server.log());
    assert!(is_healthy(&instance), "{}", instance.stderr());
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}

/// It can't go on without its log, and can't come up before there is room.
#[test]
fn orders_are_refused_while_the_server_is_down_as_its_log_has_no_room_and_taken_when_it_is_up() {
    let (Some(data), Some(log)) = (SmallDisk::new(MEBIBYTES), SmallDisk::new(24)) else { return };
    let folder_of_log = log.path().join("log");
    std::fs::create_dir(&folder_of_log).unwrap();
    // So that initdb may enter.
    let kind = Kind {
        data: Some(data.path()),
        log: Some(&folder_of_log),
        settings: &["min_wal_size=2MB", "max_wal_size=8MB", "wal_keep_size=0", "wal_recycle=off"],
        ..Kind::default()
    };
    std::fs::set_permissions(log.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some(server) = Cluster::of(&kind) else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let mut back = None;
    let (acknowledged, refused) = under_load(&instance, || {
        log.fill();
        assert!(comes_true(MINUTE, || server.log().contains("PANIC")), "its log has room: {}", server.log());
        // It tries to recover, and ends.
        poll_until(MINUTE, || server.try_sql("SELECT 1").is_err());
        instance.get("/healthz").expect_error(503, "storage_unavailable");
        instance.post(order("while-it-is-full")).expect_error(503, "storage_unavailable");
        assert!(server.has_ended(), "it came up without room: {}", server.log());
        log.make_room();
        server.start();
        back = Some(instance.served_again());
    });
    eprintln!("{} acknowledged, {refused} refused, back within {:?} of the server", acknowledged.len(), back.unwrap());
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}
