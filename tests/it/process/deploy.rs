//! What `deploy/` holds, checked by the programs that it is for.
//!
//! Where such a program is not installed, the test says so and passes.

use std::fs;
use std::path::Path;
use std::process::Command;

use orderd::Config;

use crate::harness::Folder;

fn unit() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/orderd.service")).unwrap()
}

fn value(unit: &str, key: &str) -> String {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key} in\n{unit}")).to_string()
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let folder = Folder::new();
    // A copy that names a program that is here.
    let unit = unit().replace("/usr/local/bin/orderd", env!("CARGO_BIN_EXE_orderd"));
    let path = folder.file("orderd.service");
    fs::write(&path, unit).unwrap();
    let verified = match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output() {
        Ok(verified) => verified,
        Err(e) => return eprintln!("not tried: systemd-analyze: {e}"),
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_it: Vec<_> = said.lines().filter(|line| line.contains("orderd.service")).collect();
    assert!(about_it.is_empty() && verified.status.success(), "{said}");
}

/// A stop is told to the parent alone, and is given all the time that it may take.
#[test]
fn the_unit_gives_a_stop_the_time_that_it_may_take() {
    let unit = unit();
    assert_eq!(value(&unit, "KillMode"), "mixed");
    let seconds: u64 = value(&unit, "TimeoutStopSec").trim_end_matches('s').parse().unwrap();
    assert!(seconds > Config::default().shutdown_timeout.as_secs() + 6, "{seconds}");
    assert_eq!(value(&unit, "RestartPreventExitStatus"), "2");
}
