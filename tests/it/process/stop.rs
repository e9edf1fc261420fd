//! The end of a server while commands run: an orderly stop tells them, a crash leaves none beside its successor.
//!
//! Commands leave notes in the server's folder: what has begun, what was told to stop, and what found its predecessor running.
//! When a test fails, nobody may be left to end them, so they end by themselves after a while or when the folder is gone.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::harness::{Folder, PATIENCE, Process, Serving, Worker, comes_true, ids, is_running, left_out, poll_until};

/// The lines of a file in the folder; none if there is no such file.
fn lines(folder: &Folder, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.file(name)).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

/// The process ids in a file, one a line.
fn processes(folder: &Folder, name: &str) -> Vec<u32> {
    lines(folder, name).iter().map(|line| line.parse().unwrap()).collect()
}

fn statuses(server: &Process) -> BTreeMap<String, usize> {
    let mut statuses = BTreeMap::new();
    server.rows().into_iter().for_each(|row| *statuses.entry(row.status).or_default() += 1);
    statuses
}

#[test]
fn a_stop_tells_commands_to_end_and_puts_their_orders_back() {
    for flags in [&[][..], &["--no-supervisor"]] {
        let folder = Folder::new();
        let polite = "trap 'echo $ORDER_ID >> told; exit 0' TERM; echo $$ >> begun; while test -e begun; do sleep 0.01; done";
        let mut flags = flags.to_vec();
        flags.extend(["--exec", polite, "--shutdown-timeout", "100ms"]);
        let mut server = Process::start(&folder, &flags);
        server.create(ids(0..10));
        poll_until(PATIENCE, || lines(&folder, "begun").len() == 4);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        assert_eq!(lines(&folder, "told").len(), 4, "{}", server.stderr());
        assert_eq!(statuses(&server), BTreeMap::from([("Pending".into(), 10)]));
        // An orderly stop costs no attempt.
        assert_eq!(server.rows().iter().map(|row| row.attempts).sum::<i64>(), 0);
        poll_until(PATIENCE, || processes(&folder, "begun").iter().all(|id| !is_running(*id)));
    }
}

#[test]
fn a_command_that_will_not_listen_is_killed_and_the_stop_is_still_in_time() {
    let folder = Folder::new();
    let deaf = "trap '' TERM; (sleep 100 & echo $! >> begun; wait) & echo $$ >> begun; sleep 100; sleep 100";
    let mut server = Process::start(&folder, &["--exec", deaf, "--shutdown-timeout", "100ms"]);
    server.create(ids(0..2));
    poll_until(PATIENCE, || lines(&folder, "begun").len() == 4);
    server.signal("TERM");
    // The wait is for less than the commands would last.
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert!(!server.stderr().contains("did not stop in time"), "{}", server.stderr());
    assert_eq!(statuses(&server), BTreeMap::from([("Pending".into(), 2)]));
    poll_until(PATIENCE, || processes(&folder, "begun").iter().all(|id| !is_running(*id)));
}

#[test]
fn a_stop_gives_running_commands_their_time_and_begins_no_others() {
    let folder = Folder::new();
    let slow =
        "echo $ORDER_ID >> begun; while test -e begun && ! test -e end; do sleep 0.01; done; test $ORDER_ID != o-1 || exit 65";
    let mut server = Process::start(&folder, &["--exec", slow, "--shutdown-timeout", "1m", "--concurrency", "2"]);
    server.create(ids(0..5));
    poll_until(PATIENCE, || lines(&folder, "begun").len() == 2);
    server.signal("TERM");
    poll_until(PATIENCE, || server.stderr().contains("stopping"));
    // It still answers meanwhile.
    server.create(ids(5..6));
    let ended = comes_true(Duration::from_millis(200), || server.metrics().processing != 2);
    assert!(!ended, "{}", server.stderr());
    fs::write(folder.file("end"), "").unwrap();
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    let ends: Vec<_> = server.rows().into_iter().map(|row| (row.status, row.attempts)).collect();
    let expected = [("Completed", 1), ("Failed", 1), ("Pending", 0), ("Pending", 0), ("Pending", 0), ("Pending", 0)];
    assert_eq!(ends, expected.map(|(status, attempts)| (status.to_string(), attempts)));
    assert_eq!(lines(&folder, "begun").len(), 2, "{:?}", lines(&folder, "begun"));
}

/// Neither the commands, which will not listen, nor what they have started in sessions of their own.
#[test]
fn a_second_signal_ends_the_stop_and_leaves_nothing_running() {
    for more in [&[][..], &["--no-supervisor"]] {
        let folder = Folder::new();
        let command = "test $ORDER_ATTEMPT -gt 1 && exit; trap '' TERM; setsid sh -c 'echo $$ >> begun; exec sleep 100' & \
                       env -i sleep 100 & echo $! >> begun; echo $$ >> begun; while :; do sleep 1; done";
        let mut flags = vec!["--exec", command, "--shutdown-timeout", "10m", "--retry-delay", "0s"];
        flags.extend(more);
        let mut server = Process::start(&folder, &flags);
        server.create(ids(0..2));
        poll_until(PATIENCE, || lines(&folder, "begun").len() == 6);
        server.signal("TERM");
        poll_until(PATIENCE, || server.stderr().contains("waiting for attempts that are under way attempts=2 at_most_s=600"));
        server.signal("INT");
        assert_eq!(server.wait().code(), Some(128 + 2), "{}", server.stderr());
        let left: Vec<_> = processes(&folder, "begun").into_iter().filter(|id| is_running(*id)).collect();
        assert!(left.is_empty(), "{more:?}: {left:?} of {:?} still run: {}", processes(&folder, "begun"), server.stderr());
        let server = Process::start(&folder, &flags);
        server.wait_until_completed(2);
        server.stop();
    }
}

/// systemd's default sends each signal to every process of a service, so the worker hears it twice.
#[test]
fn a_signal_to_both_processes_is_one_orderly_stop() {
    for worker_first in [false, true] {
        let folder = Folder::new();
        let slow = "trap '' TERM; echo $$ >> begun; while test -e begun && ! test -e end; do sleep 0.01; done";
        let mut server = Process::start(&folder, &["--exec", slow, "--shutdown-timeout", "1m"]);
        server.create(ids(0..1));
        poll_until(PATIENCE, || lines(&folder, "begun").len() == 1);
        let worker = Worker::of(&server);
        if worker_first {
            worker.signal("TERM");
            server.signal("TERM");
        } else {
            server.signal("TERM");
            worker.signal("TERM");
        }
        poll_until(PATIENCE, || server.stderr().contains("stopping"));
        let ended = comes_true(Duration::from_millis(200), || !worker.lives());
        assert!(!ended, "{}", server.stderr());
        fs::write(folder.file("end"), "").unwrap();
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        assert_eq!(statuses(&server), BTreeMap::from([("Completed".into(), 1)]));
        assert!(!server.stderr().contains("second signal"), "{}", server.stderr());
    }
}

/// A worker that hangs must be killed at the end of the stop, and its commands with it.
#[test]
fn a_stop_that_has_to_kill_its_worker_leaves_no_command() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let command = "echo $$ >> begun; exec sleep 100";
    let mut server = Process::start(&folder, &["--exec", command, "--shutdown-timeout", "100ms"]);
    server.create(ids(0..2));
    poll_until(PATIENCE, || lines(&folder, "begun").len() == 2);
    Worker::of(&server).signal("STOP");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert!(server.stderr().contains("did not stop in time"), "{}", server.stderr());
    assert!(processes(&folder, "begun").iter().all(|id| !is_running(*id)), "{}", server.stderr());
}

#[test]
fn a_stop_says_what_it_waits_for_and_that_it_ended_commands() {
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["--exec", "echo >> begun; exec sleep 100", "--shutdown-timeout", "300ms"]);
    server.create(ids(0..1));
    poll_until(PATIENCE, || lines(&folder, "begun").len() == 1);
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    let order = "order=o-0 attempt=1";
    for line in [
        "waiting for attempts that are under way attempts=1 at_most_s=0.3".to_string(),
        format!("its attempt is waited for {order}"),
        format!("its command is told to end {order}"),
        format!("its attempt was cut short by the stop; the order is Pending again, at no cost {order}"),
        "stopped".into(),
    ] {
        assert!(server.stderr().lines().any(|logged| logged.ends_with(&line)), "no {line:?} in {}", server.stderr());
    }
}

/// The first attempt at an order does not end by itself, unless all is calm. A later one leaves a note for each process of the
/// first that still runs.
const LEFT_BEHIND: &str = r#"
    for before in $(cat pids-$ORDER_ID 2> /dev/null); do
        case "$(sed 's/.*) //' /proc/$before/stat 2> /dev/null)" in
            ''|Z*|X*) ;;
            *) echo "$ORDER_ID $before" >> beside ;;
        esac
    done
    echo $ORDER_ID >> begun
    test -e calm && exit
    sleep 100 & echo $! > pids-$ORDER_ID
    env -i sleep 100 & echo $! >> pids-$ORDER_ID
    echo $$ >> pids-$ORDER_ID
    echo $ORDER_ID >> hanging
    wait
"#;

/// Has `kill` end what it is about while 16 commands run, and checks what comes of their orders and of 24 others.
fn assert_nothing_runs_beside_its_successor(more: &[&str], kill: impl FnOnce(&Folder, &[&str], Process) -> Process) {
    let folder = Folder::new();
    let mut flags = vec!["--exec", LEFT_BEHIND, "--concurrency", "16"];
    flags.extend(more);
    let server = Process::start(&folder, &flags);
    server.create(ids(0..40));
    poll_until(PATIENCE, || lines(&folder, "hanging").len() == 16);
    let left: Vec<_> = ids(0..16).flat_map(|id| processes(&folder, &format!("pids-{id}"))).collect();
    assert!(left.len() == 3 * 16 && left.iter().all(|id| is_running(*id)));
    fs::write(folder.file("calm"), "").unwrap();

    let server = kill(&folder, &flags, server);
    let completed = comes_true(2 * PATIENCE, || server.rows().iter().all(|row| row.status == "Completed"));
    assert!(completed, "{:?}\n{}", statuses(&server), server.stderr());
    assert_eq!(lines(&folder, "beside"), [""; 0], "{}", server.stderr());
    assert!(left.iter().all(|id| !is_running(*id)), "{}", server.stderr());
    let begun = lines(&folder, "begun");
    for (n, row) in server.rows().iter().enumerate() {
        assert_eq!(row.attempts, if n < 16 { 2 } else { 1 }, "{row:?}");
        assert_eq!(begun.iter().filter(|id| **id == row.order_id).count() as i64, row.attempts, "{row:?}");
    }
    server.stop();
}

#[test]
fn after_kill_9_no_command_runs_beside_its_successor_and_attempts_tell_the_truth() {
    assert_nothing_runs_beside_its_successor(&[], |folder, flags, server| {
        server.kill();
        Process::start(folder, flags)
    });
}

#[test]
fn after_kill_9_of_a_server_without_a_supervisor_no_command_runs_beside_its_successor() {
    assert_nothing_runs_beside_its_successor(&["--no-supervisor"], |folder, flags, server| {
        server.kill();
        Process::start(folder, flags)
    });
}

#[test]
fn after_kill_9_of_the_worker_alone_no_command_runs_beside_its_successor() {
    assert_nothing_runs_beside_its_successor(&[], |_, _, server| {
        Worker::of(&server).signal("KILL");
        server
    });
}
