//! `kill -9` under load: of the worker, of the parent, of both, at random times; and at each write of the log.
//!
//! Nothing is unsynced by a kill, as the system lives on; what may break is what was half done. Held are promises 1 and 2.
//! A build that loses orders to a kill can't be made by a flag; so in the control an order is deleted by hand, which the check
//! must see.

use std::time::Duration;

use crate::harness::{Folder, PATIENCE, Process, Worker, comes_true, is_running};
use crate::load::{Chance, Load, command};
use crate::means;
use crate::runner::{Outcome, rounds};
use crate::trace;

/// Longer than a claim takes, so that some orders are interrupted.
const FLAGS: [&str; 2] = ["--processing-time", "10ms"];

pub fn kill_9_of_worker_parent_or_both_loses_and_doubles_nothing() -> Outcome {
    let rounds = rounds(4, 24, 100)?;
    let folder = Folder::new();
    let mut chance = Chance(0x6f72_6465_7264);
    let mut server = Process::start(&folder, &FLAGS);
    let load = Load::start("o", 8, &server);
    for round in 0..rounds {
        load.wait_for_more(1 + chance.below(100));
        std::thread::sleep(Duration::from_millis(chance.next() % 40));
        let worker = Worker::of(&server);
        match round % 3 {
            0 => {
                worker.signal("KILL");
                worker.successor(&server);
                continue;
            }
            // The system kills the worker with it.
            1 => server.kill(),
            _ => {
                worker.signal("KILL");
                server.kill();
            }
        }
        assert!(comes_true(PATIENCE, || !worker.lives()), "the worker outlives its parent");
        server = Process::start(&folder, &FLAGS);
        load.follow(&server);
    }
    load.wait_for_more(1);
    let told = load.stop();
    told.holds_after_a_drain(&server);
    told.misses_a_deleted_one(&server);
    Ok(format!(
        "{rounds} rounds, {} acknowledged, 0 lost, 0 doubled; control: one deleted by hand is missed",
        told.acknowledged.len()
    ))
}

pub fn a_kill_at_any_write_of_the_log_loses_and_doubles_nothing() -> Outcome {
    let rounds = rounds(0, 16, 100)?;
    means::strace()?;
    let folder = Folder::new();
    let mut acknowledged = 0;
    for round in 0..rounds {
        // All of 1 to 100, or a sample of them.
        let nth = 1 + round * 100 / rounds;
        let log = folder.file("orders.db-wal");
        let inject = format!("inject=pwrite64:signal=SIGKILL:when={nth}");
        let options = ["-P", log.to_str().unwrap(), "-e", "trace=pwrite64", "-e", &inject];
        // Without a supervisor, whose next worker would be killed, too.
        let flags = [&FLAGS[..], &["--no-supervisor"]].concat();
        let server = Process::spawn(trace::command(&folder, &folder, &options, &flags), &folder);
        let load = Load::start(&format!("n{nth}"), 4, &server);
        let killed = comes_true(PATIENCE, || !is_running(server.id()));
        assert!(killed, "it is not killed at write {nth}");
        let told = load.stop();
        server.kill();
        let server = Process::spawn(command(&folder, &FLAGS), &folder);
        told.holds_after_a_drain(&server);
        told.misses_a_deleted_one(&server);
        acknowledged += told.acknowledged.len();
        server.stop();
    }
    Ok(format!("{rounds} writes, {acknowledged} acknowledged, 0 lost, 0 doubled; control: one deleted by hand is missed"))
}
