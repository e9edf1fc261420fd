//! Errors of the disk, caused at system calls: a sync, a write, a quota, the copying back of the log.
//!
//! The calls are made to fail by strace. What was acknowledged is compared with the trace, in which only a sync that succeeded
//! counts, and with what is there after a start. Held are promises 1 and 3. The control of the traces is that of `syncs`.

use crate::harness::{Folder, PATIENCE, Process, Serving, Worker, comes_true, order};
use crate::load::{Load, SOON, health_of, last_words, serves_soon, status_of};
use crate::means;
use crate::runner::{Outcome, rounds};
use crate::trace::{self, Attached};

const FLAGS: [&str; 2] = ["--processing-time", "10ms"];

pub fn a_sync_that_fails_is_never_followed_by_a_200() -> Outcome {
    let rounds = rounds(1, 3, 10)?;
    // Spares the few syncs of a start.
    each_fails("fsync,fdatasync", rounds, |round| 20 + round)
}

pub fn a_write_that_fails_is_never_followed_by_a_200() -> Outcome {
    let rounds = rounds(0, 3, 10)?;
    each_fails("pwrite64", rounds, |round| 150 + 7 * round)
}

/// Has such calls fail with EIO under load, the one of this number in each thread of each worker.
fn each_fails(calls: &str, rounds: usize, number: impl Fn(usize) -> usize) -> Outcome {
    means::strace()?;
    let (mut acknowledged, mut failures) = (0, 0);
    for round in 0..rounds {
        let folder = Folder::new();
        Process::start(&folder, &FLAGS).stop();
        let inject = format!("inject={calls}:error=EIO:when={}", number(round));
        let server =
            Process::spawn(trace::command(&folder, &folder, &[&trace::ALL[..], &["-e", &inject]].concat(), &FLAGS), &folder);
        let load = Load::start("o", 4, &server);
        for failure in 1..=2 {
            let failed = comes_true(PATIENCE, || trace::injected(&folder.file("trace")) >= failure);
            assert!(failed, "no call fails\n{}", last_words(&server));
            // Service is back by itself.
            let before = load.acknowledged();
            let back = comes_true(SOON, || load.acknowledged() >= before + 10);
            assert!(back, "no 10 orders are taken within {SOON:?} after a failed call\n{}", last_words(&server));
        }
        let told = load.stop();
        server.kill();
        let seen = trace::calls(&folder.file("trace"));
        let found = trace::answers(&seen, "o");
        assert!(found.unsynced.is_empty(), "{} without a good sync: {:?}", found.unsynced.len(), &found.unsynced[..1]);
        let server = Process::start(&folder, &FLAGS);
        told.holds_after_a_drain(&server);
        server.stop();
        acknowledged += told.acknowledged.len();
        failures += trace::injected(&folder.file("trace"));
    }
    Ok(format!("{rounds} rounds, {failures} failed calls, {acknowledged} acknowledged, 0 without a sync, 0 lost"))
}

pub fn a_quota_that_is_used_up_is_answered_with_503() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    means::strace()?;
    for round in 0..rounds {
        let folder = Folder::new();
        let server = Process::start(&folder, &FLAGS);
        server.create(["before".into()]);
        let worker = Worker::of(&server);
        let log = folder.file("orders.db-wal");
        let inject = "inject=pwrite64:error=EDQUOT";
        let used_up = Attached::to(&server, &folder, &["-P", log.to_str().unwrap(), "-e", "trace=pwrite64", "-e", inject]);
        for n in 0..10 {
            server.post(order(&format!("refused-{n}"))).expect_error(503, "storage_unavailable");
            server.get("/order/before").expect_status(200);
        }
        if round % 2 == 1 {
            server.signal("USR1");
            worker.successor(&server);
            let refused = comes_true(SOON, || status_of(&server, "renewed") == Some(503));
            assert!(refused, "no 503 after a renewal\n{}", last_words(&server));
        }
        drop(used_up);
        serves_soon(&server, "after");
        server.wait_for("before", "Completed");
        server.stop();
    }
    Ok(format!("{rounds} rounds, 503 meanwhile, back by itself; no control is possible"))
}

pub fn a_checkpoint_that_fails_is_told_and_made_up_for() -> Outcome {
    let rounds = rounds(0, 1, 10)?;
    means::strace()?;
    let mut acknowledged = 0;
    for _ in 0..rounds {
        let folder = Folder::new();
        let server = Process::start(&folder, &FLAGS);
        let load = Load::start("o", 16, &server);
        load.wait_for_more(1);
        let db = server.db();
        let inject = "inject=fsync,fdatasync:error=EIO";
        let options = ["-P", db.to_str().unwrap(), "-e", "trace=fsync,fdatasync", "-e", inject];
        let failing = Attached::to(&server, &folder, &options);
        let failed = comes_true(4 * PATIENCE, || trace::injected(&folder.file("trace")) > 0);
        assert!(failed, "the log is never copied back: {} orders", load.acknowledged());
        let told_of_it = comes_true(SOON, || health_of(&server) != Some(200) && !server.stderr().is_empty());
        assert!(told_of_it, "nobody is told that the log is not copied back; standard error: {:?}", server.stderr());
        drop(failing);
        serves_soon(&server, "after");
        let healthy = comes_true(SOON, || health_of(&server) == Some(200));
        assert!(healthy, "it stays unhealthy\n{}", last_words(&server));
        let told = load.stop();
        told.holds_after_a_drain(&server);
        server.stop();
        acknowledged += told.acknowledged.len();
    }
    Ok(format!("{rounds} rounds, {acknowledged} acknowledged, 0 lost, told by /healthz and the log; no control is possible"))
}
