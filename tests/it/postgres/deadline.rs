//! An instance is cut off from the server while its command runs: it ends the command before another may begin the next attempt. The
//! control is one whose clock stands, so that its lease never ends by its own reckoning: then both commands run at once.
//!
//! The clock of the control is stopped by a library of a few lines in C, which the build's compiler makes.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::ledger::overlaps;
use super::{Instance, MINUTE, on_postgres};
use crate::harness::{Folder, Proxy, Serving, Way, comes_true, created, order, orderd};

const LEASE: Duration = Duration::from_secs(6);

/// A library that stops the clock by which an instance knows its own end.
fn stopped_clock(folder: &Folder) -> PathBuf {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/postgres/stopped_clock.c");
    let library = folder.file("stopped_clock.so");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

/// Cuts off an instance whose first attempt writes to a ledger until it is ended, and lets another make the second one beside it. Gives
/// what the ledger shows, and how long after the cut the second attempt began.
fn cut_off(clock_stands: bool) -> Option<(Vec<String>, Duration)> {
    let url = on_postgres(&format!("&lease={}s", LEASE.as_secs()))?;
    let proxy = Proxy::before(&url);
    let (folder, other, shared) = (Folder::new(), Folder::new(), Folder::new());
    let ledger = shared.file("ledger");
    let work = format!(
        "n=0; while [ $ORDER_ATTEMPT -eq 1 -o $n -lt 40 ]; do echo \"$ORDER_ID $ORDER_ATTEMPT\" >>{}; n=$((n+1)); sleep 0.05; done",
        ledger.display()
    );
    let flags = ["--exec", &work, "--retry-delay", "10ms", "--exec-timeout", "10m"];
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--db", &proxy.url(&url)]).args(flags);
    if clock_stands {
        command.env("LD_PRELOAD", stopped_clock(&folder));
    }
    let first = Instance::spawn(command, &folder, &url);
    first.post(order("o-0")).expect(200, &created("o-0"));
    let read = || std::fs::read_to_string(&ledger).unwrap_or_default();
    assert!(comes_true(MINUTE, || read().contains("o-0 1")), "{}", first.stderr());
    let second = Instance::start(&other, &url, &flags);
    proxy.cut(&[Way::ToServer, Way::ToClient]);
    let cut = Instant::now();
    assert!(comes_true(MINUTE, || read().contains("o-0 2")), "{}\n{}", first.stderr(), second.stderr());
    let began = cut.elapsed();
    second.wait_for("o-0", "Completed");
    Some((overlaps(&read()), began))
}

#[test]
fn an_instance_that_is_cut_off_ends_its_command_before_another_begins_unless_its_clock_stands() {
    let Some((overlaps, began)) = cut_off(false) else { return };
    assert!(overlaps.is_empty(), "{overlaps:?}");
    let (control, _) = cut_off(true).unwrap();
    eprintln!(
        "cut off with a lease of {LEASE:?}: the next attempt began after {began:.1?}, 0 lines of the first one after that; control, with a \
         clock that stands: {} lines",
        control.len()
    );
    assert!(!control.is_empty(), "the control shows nothing");
}
