//! Commands that bring everything down: the worker, the parent, their own group, the memory; and one that never ends.
//!
//! Such an order ends as `Failed` after exactly `--max-attempts`, each of which the command itself has noted; other orders are
//! completed beside it. Where the parent ends, it is started again, as an init system does. Held is promise 2. The control is the
//! count: a command that is run once more or less is seen.

use std::fs;

use crate::harness::{Folder, PATIENCE, Process, Serving, comes_true, is_running, order, poll_until};
use crate::load::{after_script, command, last_words, status_of};
use crate::means::Group;
use crate::runner::{Outcome, rounds};

const ATTEMPTS: usize = 3;

/// What it is called, and what the command for the order `bad` does after it has noted its attempt. `sh`'s parent is the worker.
const COMMANDS: [(&str, &str); 5] = [
    ("kills its worker", "kill -9 $PPID; sleep 10"),
    ("kills its parent", "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 10"),
    ("kills its group", "kill -9 0; sleep 10"),
    ("fills the memory", "ulimit -v 200000; x=$(head -c 500m /dev/zero | tr '\\0' x); exit 1"),
    ("never ends", "trap '' TERM; while :; do sleep 0.1; done"),
];

pub fn an_order_whose_command_brings_everything_down_fails_after_its_attempts() -> Outcome {
    // A quick run has that one which was once run for ever.
    let commands = &COMMANDS[..rounds(1, COMMANDS.len(), COMMANDS.len())?];
    let mut wrong: Vec<String> = commands.iter().filter_map(|(name, command)| fault_of(name, command, "").err()).collect();
    let mut memory = "";
    if commands.len() > 1 {
        // All of them in one small group, in which the system kills whom it chooses.
        match Group::new("memory", 96 << 20) {
            Ok(group) => {
                let fill = "x=$(head -c 500m /dev/zero | tr '\\0' x); exit 1";
                wrong.extend(fault_of("fills the memory of all", fill, &group.enter()).err());
                memory = ", one in a small memory";
            }
            Err(_) => memory = ", none in a small memory, as no control group can be made here",
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(format!(
        "{} commands{memory}: each Failed after exactly {ATTEMPTS} attempts; control: the command counts them",
        commands.len()
    ))
}

/// What is wrong with the attempts of one such command.
fn fault_of(name: &str, deed: &str, before: &str) -> Result<(), String> {
    let folder = Folder::new();
    let attempts = ATTEMPTS.to_string();
    let script = format!("test $ORDER_ID = bad || exit 0; echo $ORDER_ATTEMPT >> attempts; {deed}");
    let flags = ["--exec", &script, "--exec-timeout", "500ms", "--retry-delay", "10ms", "--max-attempts", &attempts];
    let start = || match before {
        "" => Process::try_spawn(command(&folder, &flags), &folder),
        before => Process::try_spawn(after_script(&folder, before, &flags), &folder),
    };
    let mut server = start().map_err(|ended| format!("{name}: it does not start: {ended:?}"))?;
    server.post(order("bad")).expect_status(200);
    // Its attempts are over when it has failed, or after some more than there may be.
    let mut starts = 1;
    let noted = || fs::read_to_string(folder.file("attempts")).unwrap_or_default().lines().count();
    let row_of = |server: &Process| server.rows().into_iter().find(|row| row.order_id == "bad");
    let ended = comes_true(PATIENCE, || {
        if !is_running(server.id()) && starts <= ATTEMPTS + 3 {
            starts += 1;
            if let Ok(started) = start() {
                server = started;
            }
        }
        row_of(&server).is_some_and(|row| row.status == "Failed") || noted() > ATTEMPTS + 2
    });
    // Nothing follows.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let row = row_of(&server);
    let all = format!("{name}: {} attempts noted, {starts} starts, {row:?}\n{}", noted(), last_words(&server));
    if !ended || noted() != ATTEMPTS || !row.is_some_and(|row| row.status == "Failed" && row.attempts == ATTEMPTS as i64) {
        return Err(all);
    }
    if !is_running(server.id()) {
        server = start().map_err(|ended| format!("{name}: it does not start: {ended:?}"))?;
    }
    poll_until(PATIENCE, || status_of(&server, "good") == Some(200));
    server.wait_for("good", "Completed");
    server.stop();
    Ok(())
}
