//! What `deploy/` holds, checked by the programs that it is for.
//!
//! Where such a program is not installed, the test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use orderd::Config;

use crate::harness::Folder;

fn unit() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/orderd.service")).unwrap()
}

fn value(unit: &str, key: &str) -> String {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key} in\n{unit}")).to_string()
}

/// The unit and its socket, as copies of which the first names a program that is here.
fn copies(folder: &Folder) -> [PathBuf; 2] {
    let unit = unit().replace("ExecStart=orderd ", concat!("ExecStart=", env!("CARGO_BIN_EXE_orderd"), " "));
    let socket = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/orderd.socket")).unwrap();
    [("orderd.service", unit), ("orderd.socket", socket)].map(|(name, text)| {
        fs::write(folder.file(name), text).unwrap();
        folder.file(name)
    })
}

/// What `systemd-analyze` says, with its status, unless it is not installed.
fn analyze(arguments: &[&str], files: &[PathBuf]) -> Option<(String, bool)> {
    match Command::new("systemd-analyze").args(arguments).args(files).output() {
        Ok(Output { status, stdout, stderr }) => {
            Some((String::from_utf8_lossy(&[stdout, stderr].concat()).into(), status.success()))
        }
        Err(e) => {
            eprintln!("not tried: systemd-analyze: {e}");
            None
        }
    }
}

#[test]
fn systemd_finds_no_fault_in_the_unit_and_its_socket() {
    let folder = Folder::new();
    let Some((said, is_fine)) = analyze(&["verify", "--man=no"], &copies(&folder)) else { return };
    let about_them: Vec<_> = said.lines().filter(|line| line.contains("orderd.s")).collect();
    assert!(about_them.is_empty() && is_fine, "{said}");
}

/// From 0 to 10, ten times: what stays is what commands of `--exec` need. A unit without any of it is at 96.
#[test]
fn systemd_finds_the_unit_little_exposed() {
    let folder = Folder::new();
    let unit = &copies(&folder)[..1];
    let arguments = ["security", "--offline=true", "--no-pager"];
    let Some((said, is_fine)) = analyze(&[&arguments[..], &["--threshold=20"]].concat(), unit) else { return };
    assert!(is_fine, "{said}");
    fs::write(&unit[0], "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(!analyze(&[&arguments[..], &["--threshold=20"]].concat(), unit).unwrap().1, "nothing is measured");
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
