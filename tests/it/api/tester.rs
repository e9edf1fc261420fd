//! A property-based tester that knows nothing of orderd but `openapi.json`: it must find no fault.
//!
//! It is schemathesis, which `.ci/run` puts into a folder below `target`. It makes requests of every kind that the document allows and
//! of every kind that it does not, follows the links between operations, and holds each answer to what the document says. Where
//! it is not installed the test says so and passes.

use std::path::Path;
use std::process::Command;

use orderd::{Work, WorkError};

use crate::harness::{Document, Folder, Local, Serving, left_out};

/// Where `.ci/run` puts it.
const PROGRAM: &str = "target/api-tester/bin/schemathesis";
/// How long it may look for faults, in seconds. It ends later by what the last requests take.
const SECONDS: &str = "45";

#[test]
fn a_tester_that_knows_the_document_alone_finds_no_fault() {
    if left_out() {
        return;
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(PROGRAM);
    if !program.exists() {
        return eprintln!("not tried: {} is not installed; .ci/run says how it is", program.display());
    }
    // Some orders fail, so that there are some in each status.
    let server = Local::start(|config| {
        config.work = Work::function(|order| match order.item_ids.len() % 2 {
            0 => Err(WorkError::fatal("an even number of items")),
            _ => Ok(()),
        });
    });
    let folder = Folder::new();
    let mut command = Command::new(program);
    // A seed, so that a fault that is found can be found again.
    command.args(["run", "--checks", "all", "--seed", "1", "--max-time", SECONDS, "--no-color"]);
    // A busy machine is no fault.
    command.args(["--max-response-time", "60", "--request-timeout", "60"]);
    command.arg(format!("{}/openapi.json", server.address())).env("HOME", folder.path()).current_dir(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // It leaves out the one by which it gets the document.
    let document = Document::of(&server);
    let operations = document.operations().into_iter().filter(|of| (of.method, of.path) != ("GET", "/openapi.json")).count();
    assert!(said.contains(&format!("Tested: {operations}\n")), "not all of {operations} operations were tested: {said}");
}
