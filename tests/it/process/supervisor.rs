//! The parent process that keeps a worker alive: whatever ends a worker, clients and orders hardly notice; whatever ends the
//! parent ends the worker.
//!
//! What the command line promises of signals, refusals and process 1 of a container is held in `cli.rs`.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Ended, Folder, PATIENCE, Process, Serving, Worker, beside, comes_true, connection, created, in_clean_environment,
    in_status, left_out, order, orderd, poll_until, quick_or_slow, request,
};

#[test]
fn whatever_ends_the_worker_a_fresh_one_follows() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("1")).expect(200, &created("1"));
    // Not those that Rust's own handlers take for a fault of the program when it had none, nor what its parent understands.
    for signal in ["KILL", "ABRT", "HUP", "TERM", "INT", "XCPU", "ALRM"] {
        let worker = Worker::of(&server);
        // Its own handlers are in place.
        server.served_again();
        // What whoever started the tests ignores is ignored by all that they start, as SIGHUP is under nohup.
        if worker.ignores(signal) {
            eprintln!("not tried: {signal} is ignored here");
            continue;
        }
        worker.signal(signal);
        assert!(comes_true(PATIENCE, || !worker.lives()), "{signal} did not end it:\n{}", server.stderr());
        worker.successor(&server);
        server.served_again();
        server.get("/order/1").expect(200, &in_status("1", "Pending"));
    }
    let log = server.stderr();
    assert!(log.contains("signal: 6 (SIGABRT)"), "the log says what ended it:\n{log}");
    server.stop();
}

/// tiny_http removes the file of a Unix socket when it is dropped, also where others still listen.
#[test]
fn a_worker_that_stops_in_an_orderly_way_leaves_the_unix_socket_to_its_successor() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    let socket = folder.file("sock");
    command.args(["--listen", &format!("unix:{}", socket.display())]);
    let server = Process::spawn(command, &folder);
    for _ in 0..2 {
        let worker = Worker::of(&server);
        server.served_again();
        worker.signal("TERM");
        worker.successor(&server);
        server.served_again();
    }
    server.stop();
    assert!(!socket.exists(), "the parent removes it at the end");
}

/// Promise 1, and the parent is the process that an operator knows.
#[test]
fn a_worker_killed_twenty_times_under_load_costs_no_acknowledged_order() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    let parent = server.id();
    let mut until_served = Vec::new();
    let ((), report) = beside(&server, 8, 0, |requests| {
        for _ in 0..20 {
            let worker = Worker::of(&server);
            let (before, begun) = (requests.load(Ordering::Relaxed), Instant::now());
            // It is in the middle of its work, and did not die as soon as it started.
            poll_until(PATIENCE, || {
                requests.load(Ordering::Relaxed) > before + 50 && begun.elapsed() > Duration::from_millis(300)
            });
            worker.signal("KILL");
            until_served.push(server.served_again());
            assert!(worker.successor(&server).lives());
        }
    });
    until_served.sort();
    eprintln!("killed under load: served again after {:?} to {:?}", until_served[0], until_served[19]);
    assert!(until_served[10] < Duration::from_secs(5), "{until_served:?}");
    // One request of each client at each death, and some that were in the same pipeline or backlog.
    assert!(report.failures.len() <= 20 * 8 * 2, "{} of {} failed", report.failures.len(), report.requests());
    assert_eq!(server.id(), parent);
    let stored: HashSet<_> = server.rows().into_iter().map(|row| row.order_id).collect();
    let lost: Vec<_> = report.acknowledged.iter().filter(|id| !stored.contains(*id)).collect();
    assert!(report.acknowledged.len() > 20, "there was no load");
    assert!(lost.is_empty(), "{lost:?}");
    poll_until(PATIENCE, || {
        let metrics = server.metrics();
        metrics.all_completed(metrics.total)
    });
    server.stop();
}

#[test]
fn a_killed_parent_takes_its_worker_along_and_another_can_start_on_the_file() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("1")).expect(200, &created("1"));
    let (worker, address) = (Worker::of(&server), server.address().clone());
    server.kill();
    poll_until(PATIENCE, || !worker.lives());
    poll_until(PATIENCE, || Client::connect(&address).is_err());
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.get("/order/1").expect(200, &in_status("1", "Pending"));
    server.stop();
}

#[test]
fn a_stopped_parent_leaves_no_worker() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new();
        let mut server = Process::start(&folder, &[]);
        let worker = Worker::of(&server);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        assert!(!worker.lives(), "after {signal}");
    }
}

/// Ctrl-C while a worker is being replaced must not leave one behind, nor hang.
#[test]
fn a_stop_while_the_worker_is_being_replaced_is_an_orderly_one() {
    for _ in 0..5 {
        let folder = Folder::new();
        let mut server = Process::start(&folder, &[]);
        Worker::of(&server).signal("KILL");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        assert!(Client::connect(server.address()).is_err(), "something still listens");
    }
}

/// A worker that does not hear its signal is killed with its parent's second one.
#[test]
fn a_worker_that_hangs_does_not_outlive_the_second_signal() {
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["--shutdown-timeout", "10m"]);
    let worker = Worker::of(&server);
    worker.signal("STOP");
    server.signal("TERM");
    // Two of a kind that come at once may be one; of another kind it is another.
    server.signal("INT");
    assert!(matches!(server.wait().code(), Some(130 | 143)), "{}", server.stderr());
    poll_until(PATIENCE, || !worker.lives());
}

#[test]
fn a_worker_that_hangs_is_killed_when_the_time_to_stop_is_over() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["--shutdown-timeout", "100ms"]);
    let worker = Worker::of(&server);
    worker.signal("STOP");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert!(!worker.lives());
}

#[test]
fn without_a_supervisor_it_is_one_process() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--no-supervisor"]);
    server.get("/metrics").expect_status(200);
    assert_eq!(Worker::all_of(&server), 0);
    server.stop();
}

/// Then whoever keeps it alive must start it again, so its status says that only that is needed.
#[test]
fn without_a_supervisor_it_ends_with_status_75_when_only_a_fresh_process_will_do() {
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["--no-supervisor"]);
    let absurd = request("POST", "/order", &["Content-Length: 9999999999999"], "");
    poll_until(PATIENCE, || Client::connect(server.address()).and_then(|mut client| client.send(&absurd)).is_err());
    assert_eq!(server.wait().code(), Some(75), "{}", server.stderr());
    let server = Process::start(&folder, &["--no-supervisor"]);
    server.get("/metrics").expect_status(200);
    server.stop();
}

/// Every write beyond the size of an empty file ends a process, as a broken disk might.
#[test]
fn a_worker_that_can_never_start_ends_the_parent_too() {
    let folder = Folder::new();
    for trap in ["", "trap '' XFSZ; "] {
        let mut command = Command::new("sh");
        let script = format!("{trap}ulimit -f 0; exec \"$0\" --listen 127.0.0.1:0 --db new.db");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_orderd")]);
        let ended = Ended::of(in_clean_environment(command, &folder));
        assert!(matches!(ended.code, Some(1 | 2)) && ended.stdout.is_empty(), "{ended:?}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("orderd: ") || last.contains("no worker process can start"), "{ended:?}");
    }
}

/// Promise 4: the parent holds the lock, whether there is a worker or not.
#[test]
fn a_second_orderd_is_refused_also_while_the_worker_is_being_replaced() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    // Each of them waits for the lock for a second.
    for _ in 0..quick_or_slow(1, 5) {
        let worker = Worker::of(&server);
        worker.signal("KILL");
        let mut second = orderd(&folder);
        second.args(["--listen", "127.0.0.1:0"]);
        Ended::of(second).expect_refused(&["orders.db", "another orderd"]);
        worker.successor(&server);
        server.served_again();
    }
    server.stop();
}

/// A file that can't be used any more is told by each worker that tries, and is served again as soon as it is mended.
#[test]
fn a_worker_that_says_what_the_user_must_mend_is_followed_by_another_until_that_is_done() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    server.post(order("1")).expect(200, &created("1"));
    let set_version = |version: i32| {
        let newer = connection(&server.db());
        newer.pragma_update(None, "user_version", version).unwrap();
        // Out of the log and into the file.
        newer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    let ours: i32 = connection(&server.db()).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    set_version(1_000);
    Worker::of(&server).signal("KILL");
    poll_until(PATIENCE, || server.stderr().matches("newer orderd").count() >= 2);
    set_version(ours);
    server.served_again();
    server.get("/order/1").expect_status(200);
    server.stop();
}
