//! Who is never ended: processes that a shell started before it became orderd, and the commands of another database.
//!
//! Whatever orderd ends, it ends because a command of its own database's has left it. What is told to end here was started here.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Folder, PATIENCE, Process, Serving, Worker, comes_true, ids, in_clean_environment, is_running, poll_until, signal,
};

fn process_in(folder: &Folder, name: &str) -> u32 {
    let read = || fs::read_to_string(folder.file(name)).ok()?.strip_suffix('\n')?.parse().ok();
    poll_until(PATIENCE, || read().is_some());
    read().unwrap()
}

/// A container's entrypoint often is such a shell. The second daemon has a session of its own and loses its parent.
#[test]
fn daemons_of_the_shell_that_became_orderd_outlive_its_workers() {
    let folder = Folder::new();
    let daemons = "sleep 100 & echo $! > child; \
                   setsid sh -c 'echo $$ > daemon; while ! test -e go; do sleep 0.01; done; setsid sleep 100 & echo $! > late' &";
    let script = format!("{daemons} exec \"$0\" \"$@\" 2> stderr");
    let mut command = Command::new("sh");
    let work = "test $ORDER_ATTEMPT -gt 1 || { echo $$ > command; sleep 100; }";
    command.args([
        "-c",
        &script,
        env!("CARGO_BIN_EXE_orderd"),
        "--listen",
        "127.0.0.1:0",
        "--exec",
        work,
        "--retry-delay",
        "0s",
    ]);
    let server = Process::spawn(in_clean_environment(command, &folder), &folder);
    server.create(ids(0..1));
    let ours = process_in(&folder, "command");
    let worker = Worker::of(&server);
    // Its parent has ended, so it has become a child of whoever takes orphans.
    fs::write(folder.file("go"), "").unwrap();
    let late = process_in(&folder, "late");
    let daemon = process_in(&folder, "daemon");
    poll_until(PATIENCE, || !is_running(daemon));
    worker.signal("KILL");
    poll_until(PATIENCE, || server.rows()[0].status == "Completed");
    assert!(!is_running(ours));
    let strangers = [process_in(&folder, "child"), late];
    let live = strangers.map(is_running);
    strangers.iter().filter(|id| is_running(**id)).for_each(|id| signal(*id, "KILL"));
    assert_eq!(live, [true; 2], "{}", fs::read_to_string(folder.file("stderr")).unwrap());
    server.stop();
}

/// Containers that see each other's processes, each with a database of its own behind the same path. Needs a mount namespace;
/// where there can be none, it says so.
#[test]
fn commands_of_another_database_with_the_same_path_are_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.file("data")).unwrap();
    let start = |name: &str| {
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs -o size=16m tmpfs data && exec \"$0\" \"$@\"";
        let work = format!("echo $$ > $OLDPWD/{name}; exec sleep 100");
        let work = format!("cd data; {}", work.replace("$OLDPWD", &folder.path().display().to_string()));
        command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_orderd"), "--listen", "127.0.0.1:0"]);
        command.args(["--db", "data/orders.db", "--exec", &work]);
        in_clean_environment(command, &folder)
    };
    let mut can = Command::new("unshare");
    can.args(["-m", "sh", "-c", "mount -t tmpfs -o size=16m tmpfs data"]);
    if !in_clean_environment(can, &folder).status().is_ok_and(|status| status.success()) {
        eprintln!("not tried: nothing can be mounted here");
        return;
    }
    let one = Process::spawn(start("one"), &folder);
    let other = Process::spawn(start("other"), &folder);
    for server in [&one, &other] {
        server.create(ids(0..1));
    }
    let (first, second) = (process_in(&folder, "one"), process_in(&folder, "other"));
    // Its worker and its parent: nobody but the next start can look for what is left.
    other.kill();
    let again = Process::spawn(start("again"), &folder);
    again.create(ids(0..1));
    process_in(&folder, "again");
    let touched = comes_true(Duration::from_millis(300), || !is_running(first));
    assert!(!touched, "{}", again.stderr());
    one.stop();
    // The database of the one that was killed is gone with its mount, so nobody may end its command but us.
    if is_running(second) {
        signal(second, "KILL");
    }
    again.stop();
}
