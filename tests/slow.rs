//! The last of the test targets, which says how many slow tests the run left out, and how to run them.
//!
//! It has no test of orderd itself. Whether a run is a slow one is told as in `it/harness/slow.rs`, whose calls are counted in
//! the sources. cargo runs the targets in alphabetical order and shows nothing that a passing test prints; so the line goes
//! to standard error itself, which the test runner does not catch.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, also in its helpers")]

use std::io::Write;
use std::path::Path;

#[allow(dead_code, reason = "the other target uses the rest")]
#[path = "it/harness/slow.rs"]
mod slow;

/// How many tests in this folder can be left out.
fn slow_tests(folder: &Path) -> usize {
    let in_entry = |path: &Path| match path.is_dir() {
        true => slow_tests(path),
        false => std::fs::read_to_string(path).unwrap().matches("if left_out() {").count(),
    };
    std::fs::read_dir(folder).unwrap().map(|entry| in_entry(&entry.unwrap().path())).sum()
}

#[test]
fn it_is_said_which_tests_were_left_out() {
    let count = slow_tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"));
    assert!(count > 0, "the slow tests were not found");
    let line = match slow::left_out() {
        true => format!("\n{count} slow tests were left out. To run all: RUN_SLOW_TESTS=1 cargo test\n"),
        false => format!("\n{count} slow tests were run, too.\n"),
    };
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
