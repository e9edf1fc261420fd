//! Everything at once, for a while: kills, renewals, a full disk, syncs that fail, a database that is moved away and back, another
//! program's transaction, a second orderd, hostile clients; beside well-behaved ones.
//!
//! Afterwards nothing acknowledged is lost, all orders have ended, and memory, threads and descriptors are back where they were
//! when the server was idle. `FAULT_SECONDS` says how long; an hour is meant for it once in a while. Where nothing can be mounted
//! the disk stays as it is, and where nothing can be watched no sync fails. In the control an order is deleted by hand.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::{
    Ended, Folder, PATIENCE, Process, Serving, Worker, comes_true, connection, get, is_running, raw, resets_when_closed,
};
use crate::load::{Back, Chance, Load, command};
use crate::means;
use crate::mounts::Mount;
use crate::runner::{Outcome, rounds};
use crate::trace::Attached;

const FLAGS: [&str; 2] = ["--processing-time", "20ms"];
const WORK: Duration = Duration::from_millis(20);
/// What an idle worker may have more than before, in bytes: its caches are then full.
const MORE_MEMORY: u64 = 24 << 20;
const MORE_THREADS: usize = 4;
const MORE_DESCRIPTORS: usize = 4;

/// What is done to a server. Its parent's death is none of these, as it brings another server.
const DEEDS: [fn(&Process, &Folder, &Means); 8] = [
    |server, _, _| Worker::of(server).signal("KILL"),
    |server, _, _| server.signal("USR1"),
    |_, folder, means| {
        if means.small_disk {
            let ballast = folder.file("ballast");
            let mut file = std::fs::File::create(&ballast).unwrap();
            while file.write_all(&[0; 1 << 16]).is_ok() {}
            std::thread::sleep(Duration::from_millis(300));
            std::fs::remove_file(ballast).unwrap();
        }
    },
    |server, folder, means| {
        if means.strace {
            let (traces, log) = (Folder::new(), folder.file("orders.db-wal"));
            let inject = "inject=fsync,fdatasync:error=EIO";
            let options = ["-P", log.to_str().unwrap(), "-e", "trace=fsync,fdatasync", "-e", inject];
            let failing = Attached::to(server, &traces, &options);
            std::thread::sleep(Duration::from_millis(200));
            drop(failing);
        }
    },
    |server, folder, _| {
        std::fs::rename(server.db(), folder.file("aside")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        std::fs::rename(folder.file("aside"), server.db()).unwrap();
    },
    |server, _, _| {
        // It may itself find the database busy, or its disk full.
        let other = connection(&server.db());
        let _ = other.execute_batch("BEGIN IMMEDIATE");
        std::thread::sleep(Duration::from_millis(200));
        let _ = other.execute_batch("ROLLBACK");
    },
    |_, folder, _| Ended::of(command(folder, &FLAGS)).expect_refused(&["in use by another orderd"]),
    |server, _, _| {
        let mut crowd: Vec<_> = (0..40).map(|_| raw(server)).collect();
        for (n, connection) in crowd.iter_mut().enumerate() {
            resets_when_closed(connection);
            let whole = get("/orders?limit=100");
            let _ = connection.write_all(&whole.as_bytes()[..whole.len() * (n % 5) / 4]);
        }
        std::thread::sleep(Duration::from_millis(100));
    },
];

/// What can be done here.
struct Means {
    small_disk: bool,
    strace: bool,
}

pub fn everything_at_once_loses_nothing_and_leaves_nothing_behind() -> Outcome {
    let seconds = rounds(0, 60, 60)?;
    let seconds = std::env::var("FAULT_SECONDS").map_or(seconds, |text| text.parse().expect("FAULT_SECONDS is a whole number"));
    let folder = Folder::new();
    let disk = Mount::in_memory(&folder, 256 << 20).ok();
    let means = Means { small_disk: disk.is_some(), strace: means::strace().is_ok() };
    let mut server = Process::start(&folder, &FLAGS);
    Back::of(&server, "first", WORK);
    let idle = resources(&server);
    let load = Load::start("o", 8, &server);
    let mut chance = Chance(0x6d_6978_6564);
    let mut deeds = 0;
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    while Instant::now() < end {
        deeds += 1;
        match DEEDS.get(chance.below(DEEDS.len() + 1)) {
            Some(deed) => deed(&server, &folder, &means),
            None => {
                let id = server.id();
                server.kill();
                assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
                server = Process::start(&folder, &FLAGS);
                load.follow(&server);
            }
        }
        std::thread::sleep(Duration::from_millis(chance.next() % 300));
    }
    let back = Back::of(&server, "last", WORK);
    load.wait_for_more(1);
    let told = load.stop();
    told.holds_after_a_drain(&server);
    // At rest again.
    let rests = comes_true(PATIENCE, || {
        let now = resources(&server);
        now.0 <= idle.0 + MORE_MEMORY && now.1 <= idle.1 + MORE_THREADS && now.2 <= idle.2 + MORE_DESCRIPTORS
    });
    let now = resources(&server);
    assert!(rests, "bytes, threads, descriptors: {idle:?} before, {now:?} afterwards");
    told.misses_a_deleted_one(&server);
    server.stop();
    Ok(format!(
        "{seconds} s, {deeds} deeds, {} acknowledged, 0 lost, {back}; control: one deleted by hand is missed; bytes, threads and \
         descriptors idle {idle:?}, afterwards {now:?}",
        told.acknowledged.len()
    ))
}

/// What the worker has: bytes of memory, threads, descriptors.
fn resources(server: &Process) -> (u64, usize, usize) {
    let worker = Worker::of(server);
    (worker.resident_bytes(), worker.threads(), worker.descriptors())
}
