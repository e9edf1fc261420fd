//! Attempts that the end of orderd cut short, and attempts that could not be begun: what they cost, and how every order ends.
//!
//! The commands here kill the worker or its parent, by the process ids that they find in `/proc`. A machine without room is
//! one whose limit of descriptors or processes is used up.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

use crate::harness::{
    Client, Folder, PATIENCE, Process, Serving, Worker, asked_by_hand, comes_true, ids, in_clean_environment, order, orderd,
    poll_until,
};

/// Kills the worker that runs the command.
const KILLS_ITS_WORKER: &str = "echo $ORDER_ID >> begun; kill -9 $PPID; sleep 100";

fn lines(folder: &Folder, name: &str) -> usize {
    fs::read_to_string(folder.file(name)).unwrap_or_default().lines().count()
}

/// Promise 2.
#[test]
fn a_command_that_kills_its_worker_fails_its_order_after_its_attempts() {
    let folder = Folder::new();
    let flags = ["--exec", KILLS_ITS_WORKER, "--max-attempts", "3", "--retry-delay", "10ms"];
    let server = Process::start(&folder, &flags);
    server.post(order("1")).expect_status(200);
    let failed = comes_true(PATIENCE, || server.rows()[0].status == "Failed");
    assert!(failed, "{:?}\n{}", server.rows(), server.stderr());
    server.served_again();
    let record = server.record("1");
    assert_eq!((&record["attempts"], &record["last_error"]), (&3.into(), &"orderd ended during attempt 3".into()));
    assert_eq!(lines(&folder, "begun"), 3, "{}", server.stderr());
    let log = server.stderr();
    let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(
        said(r#"an attempt failed; another follows order=1 attempt=1 why="orderd ended during attempt 1" next_in_s=0.0"#),
        1,
        "{log}"
    );
    assert_eq!(
        said(r#"an attempt failed; the order is Failed order=1 attempt=3 why="orderd ended during attempt 3""#),
        1,
        "{log}"
    );
    server.stop();
}

/// The worker dies with its parent. Whoever keeps orderd alive starts it again.
#[test]
fn a_command_that_kills_the_parent_fails_its_order_after_its_attempts() {
    let folder = Folder::new();
    // By its program, so that nobody else is killed if it has just ended by other means.
    let command = "parent=$(cut -d' ' -f4 /proc/$PPID/stat); echo >> begun; \
                   case $(readlink /proc/$parent/exe) in */orderd*) kill -9 $parent;; esac; sleep 100";
    let flags = ["--listen", "127.0.0.1:0", "--exec", command, "--max-attempts", "2", "--retry-delay", "10ms"];
    let mut server = Process::start(&folder, &flags[2..]);
    server.post(order("1")).expect_status(200);
    server.wait();
    let mut starts = 1;
    let row = loop {
        let mut again = orderd(&folder);
        let mut child =
            again.args(flags).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let has_ended = comes_true(Duration::from_secs(5), || {
            child.try_wait().unwrap().is_some() || crate::harness::rows(&folder.db())[0].status == "Failed"
        });
        let row = crate::harness::rows(&folder.db()).remove(0);
        let _ = child.kill();
        child.wait().unwrap();
        starts += 1;
        if row.status == "Failed" {
            break row;
        }
        assert!(has_ended && starts < 6, "{row:?}");
    };
    assert_eq!((row.attempts, lines(&folder, "begun"), starts), (2, 2, 3));
}

#[test]
fn an_attempt_that_was_cut_short_is_followed_by_the_delay() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "echo >> begun; sleep 100", "--retry-delay", "1h"]);
    server.post(order("1")).expect_status(200);
    poll_until(PATIENCE, || lines(&folder, "begun") == 1);
    Worker::of(&server).signal("KILL");
    poll_until(PATIENCE, || server.rows()[0].status == "Pending");
    let retry_at: f64 = asked_by_hand(&server.db(), "SELECT retry_at FROM orders").parse().unwrap();
    let waits = retry_at - 1_000.0 * UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(waits > 1_800_000.0, "{waits} ms");
    server.stop();
    assert_eq!(lines(&folder, "begun"), 1);
}

/// Promise 2. Waiting can't fail, whatever happens to the process meanwhile.
#[test]
fn an_order_that_only_waits_is_taken_up_again_however_often_it_is_interrupted() {
    let folder = Folder::new();
    let flags = ["--processing-time", "1h", "--max-attempts", "1", "--retry-delay", "1h"];
    let server = Process::start(&folder, &flags);
    server.create(ids(0..3));
    for attempts in 1..=4 {
        poll_until(PATIENCE, || server.rows().iter().all(|row| row.status == "Processing" && row.attempts == attempts));
        let worker = Worker::of(&server);
        worker.signal("KILL");
        worker.successor(&server);
    }
    poll_until(PATIENCE, || server.rows().iter().all(|row| row.status == "Processing" && row.attempts == 5));
    server.stop();
    let server = Process::start(&folder, &["--processing-time", "0s", "--max-attempts", "1"]);
    server.wait_until_completed(3);
    assert_eq!(server.record("o-0")["last_error"], serde_json::Value::Null);
}

/// Orders that fail all the time, and as many of them as there are places, keep no other from its turn.
#[test]
fn orders_that_are_tried_again_and_fresh_ones_take_turns() {
    let folder = Folder::new();
    let command = "case $ORDER_ID in bad*) exit 1;; esac";
    let flags = ["--exec", command, "--concurrency", "2", "--retry-delay", "0s", "--max-attempts", "100000"];
    let server = Process::start(&folder, &flags);
    server.create((0..4).map(|n| format!("bad-{n}")));
    poll_until(PATIENCE, || server.rows().iter().all(|row| row.attempts > 2));
    server.create(ids(0..10));
    ids(0..10).for_each(|id| _ = server.wait_for(&id, "Completed"));
    let before: Vec<_> = server.rows()[..4].iter().map(|row| row.attempts).collect();
    poll_until(PATIENCE, || server.rows()[..4].iter().zip(&before).all(|(row, before)| row.attempts > *before));
    server.stop();
}

/// Runs orderd with a command of `sh` before it.
fn limited(folder: &Folder, before: &str, flags: &[&str]) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{before}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_orderd"), "--listen", "127.0.0.1:0"]);
    command.args(flags);
    Process::spawn(in_clean_environment(command, folder), folder)
}

#[test]
fn a_command_that_could_not_be_started_costs_no_attempt_and_is_started_when_it_can_be() {
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 < 100 {
        eprintln!("not tried: too few descriptors");
        return;
    }
    let folder = Folder::new();
    // Nobody finds a shell there until there is one.
    let path = folder.file("bin");
    fs::create_dir(&path).unwrap();
    let before = format!("PATH={}; export PATH", path.display());
    let server = limited(&folder, &before, &["--exec", "exit 0", "--max-attempts", "1"]);
    server.create(ids(0..3));
    poll_until(PATIENCE, || server.stderr().contains("no command can be started"));
    // The next try comes within a second.
    let ended = comes_true(Duration::from_millis(1_500), || server.rows().iter().any(|row| row.status == "Failed"));
    assert!(!ended, "{:?}", server.rows());
    let tried = server.stderr().matches("no command can be started").count();
    assert_eq!(tried, 1, "it is said once: {}", server.stderr());
    std::os::unix::fs::symlink("/bin/sh", path.join("sh")).unwrap();
    server.wait_until_completed(3);
    assert!(server.rows().iter().all(|row| row.attempts == 1), "{:?}", server.rows());
    assert!(server.stderr().contains("attempts can be begun again"), "{}", server.stderr());
    server.stop();
}

#[test]
fn idle_connections_that_use_up_the_descriptors_fail_no_order() {
    let folder = Folder::new();
    let server = limited(&folder, "ulimit -n 100", &["--exec", "true", "--max-attempts", "1"]);
    let worker = Worker::of(&server);
    server.served_again();
    let mut client = server.client();
    let mut idle = Vec::new();
    let begun = Instant::now();
    while worker.descriptors() < 96 && begun.elapsed() < PATIENCE {
        idle.extend(Client::connect(server.address()));
        std::thread::sleep(Duration::from_millis(5));
    }
    client.ask(crate::harness::post(order("1"))).expect_status(200);
    let failed = comes_true(Duration::from_millis(2_500), || server.rows()[0].status == "Failed");
    assert!(!failed, "{:?}\n{}", server.rows(), server.stderr());
    drop(idle);
    poll_until(PATIENCE, || server.rows()[0].status == "Completed");
    assert_eq!(server.rows()[0].attempts, 1, "{}", server.stderr());
    server.stop();
}

/// It will never be shorter.
#[test]
fn a_command_that_no_machine_can_run_fails_its_order_at_once() {
    let server = crate::harness::Local::running(&"x".repeat(1 << 20), |_| {});
    server.create(ids(0..1));
    let record = server.wait_for("o-0", "Failed");
    assert_eq!(record["attempts"], 1);
    assert!(record["last_error"].as_str().unwrap().contains("cannot run it"), "{record:#}");
}

/// The parent may give up, as no worker has served yet; whoever starts it again sees each attempt counted.
#[test]
fn a_first_start_among_orders_that_kill_every_worker_gets_through_them() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..3));
    server.stop();
    let mut starts = 0;
    let done = comes_true(2 * PATIENCE, || {
        starts += 1;
        let mut command = orderd(&folder);
        command.args(["--listen", "127.0.0.1:0", "--exec", KILLS_ITS_WORKER, "--max-attempts", "2", "--retry-delay", "0s"]);
        let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let all_failed = || crate::harness::rows(&folder.db()).iter().all(|row| row.status == "Failed");
        comes_true(Duration::from_secs(10), || child.try_wait().unwrap().is_some() || all_failed());
        let _ = child.kill();
        child.wait().unwrap();
        all_failed()
    });
    assert!(done, "{starts} starts: {:?}", crate::harness::rows(&folder.db()));
}
