//! Errors of the disk, caused at system calls: a sync, a write, the copying back of the log.
//!
//! The calls are made to fail by strace. What was acknowledged is compared with the trace, in which only a sync that succeeded
//! counts, and with what is there after a start. Held are promises 1 and 3. The control of the traces is that of `syncs`.

use std::time::{Duration, Instant};

use crate::harness::{Folder, PATIENCE, Process, Serving, comes_true};
use crate::load::{Back, Load, SOON, health_of, last_words};
use crate::means;
use crate::runner::{Outcome, rounds};
use crate::trace::{self, Attached};

const FLAGS: [&str; 2] = ["--processing-time", "10ms"];
const WORK: Duration = Duration::from_millis(10);

pub fn a_sync_that_fails_is_never_followed_by_a_200() -> Outcome {
    let rounds = rounds(1, 2, 10)?;
    // Spares the few syncs of a start.
    each_fails("fsync,fdatasync", rounds, |round| 20 + round)
}

pub fn a_write_that_fails_is_never_followed_by_a_200() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    each_fails("pwrite64", rounds, |round| 150 + 7 * round)
}

/// Has such calls fail with EIO under load, the one of this number in each thread of each worker.
fn each_fails(calls: &str, rounds: usize, number: impl Fn(usize) -> usize) -> Outcome {
    means::strace()?;
    let (mut acknowledged, mut failures, mut longest) = (0, 0, Duration::ZERO);
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
            let (before, began) = (load.acknowledged(), Instant::now());
            let back = comes_true(SOON, || load.acknowledged() >= before + 10);
            assert!(back, "no 10 orders are taken within {SOON:?} after a failed call\n{}", last_words(&server));
            longest = longest.max(began.elapsed());
        }
        let told = load.stop();
        server.kill();
        let seen = trace::calls(&folder.file("trace"));
        trace::answers(&seen, "o").are_synced();
        let server = Process::start(&folder, &FLAGS);
        told.holds_after_a_drain(&server);
        server.stop();
        acknowledged += told.acknowledged.len();
        failures += trace::injected(&folder.file("trace"));
    }
    let longest = longest.as_secs_f64();
    Ok(format!(
        "{rounds} rounds, {failures} failed calls, {acknowledged} acknowledged, 0 without a sync, 0 lost, 10 more orders taken after \
         {longest:.2} s"
    ))
}

pub fn a_checkpoint_that_fails_is_told_and_made_up_for() -> Outcome {
    let rounds = rounds(0, 1, 10)?;
    means::strace()?;
    let (mut acknowledged, mut longest) = (0, Back::default());
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
        longest = longest.longer(Back::of(&server, "after", WORK).in_time(&server));
        let healthy = comes_true(SOON, || health_of(&server) == Some(200));
        assert!(healthy, "it stays unhealthy\n{}", last_words(&server));
        let told = load.stop();
        told.holds_after_a_drain(&server);
        server.stop();
        acknowledged += told.acknowledged.len();
    }
    Ok(format!(
        "{rounds} rounds, {acknowledged} acknowledged, 0 lost, told by /healthz and the log, {longest}; no control is possible"
    ))
}
