//! Who takes an instance's orders over, and when: stopped in order, its serving process killed, gone altogether, frozen.
//!
//! Times are printed, and held to what tells one way from the other: less than the lease, or about as much.

use std::time::{Duration, Instant};

use super::{Instance, MINUTE, on_postgres};
use crate::harness::{Folder, Serving, Worker, comes_true, created, order, poll_until, rows, signal};

const LONG: Duration = Duration::from_secs(60);

/// An instance that has `o-0` in `Processing` for ever, and the URL.
fn busy(folder: &Folder, lease: &str) -> Option<(Instance, String)> {
    let url = on_postgres(&format!("&lease={lease}"))?;
    let busy =
        Instance::start(folder, &url, &["--exec", "exec sleep 600", "--exec-timeout", "1h", "--shutdown-timeout", "100ms"]);
    busy.post(order("o-0")).expect(200, &created("o-0"));
    poll_until(MINUTE, || busy.status("o-0") == "Processing");
    Some((busy, url))
}

fn attempts(url: &str) -> i64 {
    rows(url.as_ref())[0].attempts
}

#[test]
fn an_instance_that_stops_in_order_leaves_its_orders_to_another_at_once() {
    let (folder, other) = (Folder::new(), Folder::new());
    let Some((first, url)) = busy(&folder, "60s") else { return };
    let second = Instance::start(&other, &url, &["--exec", "true"]);
    first.signal("TERM");
    let asked = Instant::now();
    assert!(comes_true(LONG, || second.status("o-0") == "Completed"), "{:?}", second.record("o-0"));
    let took = asked.elapsed();
    eprintln!("stopped in order: taken over after {took:?} of a lease of 60 s");
    assert!(took < LONG / 2, "{took:?}");
    assert_eq!(attempts(&url), 1, "an orderly stop costs no attempt");
}

#[test]
fn the_successor_of_a_killed_worker_takes_its_orders_up_at_once_and_no_command_is_left() {
    let folder = Folder::new();
    let url = on_postgres("&lease=60s");
    let Some(url) = url else { return };
    // The first attempt stays until it is killed.
    let work = "[ $ORDER_ATTEMPT -gt 1 ] || { echo $$ >pid; exec sleep 600; }";
    let server = Instance::start(&folder, &url, &["--exec", work, "--retry-delay", "10ms"]);
    server.post(order("o-0")).expect(200, &created("o-0"));
    let mut command = 0;
    poll_until(MINUTE, || {
        command = std::fs::read_to_string(folder.file("pid")).unwrap_or_default().trim().parse().unwrap_or(0);
        command > 0
    });
    Worker::of(&server).signal("KILL");
    let killed = Instant::now();
    server.served_again();
    server.wait_for("o-0", "Completed");
    let took = killed.elapsed();
    eprintln!("worker killed: taken over after {took:?} of a lease of 60 s");
    assert!(took < LONG / 2, "{took:?}");
    assert_eq!(attempts(&url), 2);
    assert!(!Worker::with_id(command).lives(), "its command runs on");
}

/// Its processes may still be ending when the next one starts: that has to find what they left all the same.
#[test]
fn whoever_is_started_where_all_was_killed_takes_the_orders_up_at_once_and_no_command_is_left() {
    let folder = Folder::new();
    let Some(url) = on_postgres("&lease=60s") else { return };
    let work = "[ $ORDER_ATTEMPT -gt 1 ] || { echo $$ >pid; exec sleep 600; }";
    let flags = ["--exec", work, "--retry-delay", "10ms"];
    let first = Instance::start(&folder, &url, &flags);
    first.post(order("o-0")).expect(200, &created("o-0"));
    let command = || std::fs::read_to_string(folder.file("pid")).unwrap_or_default().trim().parse::<u32>().unwrap_or(0);
    poll_until(MINUTE, || command() > 0);
    first.signal("KILL");
    let killed = Instant::now();
    let second = Instance::start(&folder, &url, &flags);
    second.wait_for("o-0", "Completed");
    let took = killed.elapsed();
    eprintln!("all killed and started again: taken over after {took:?} of a lease of 60 s");
    assert!(took < LONG / 2, "{took:?}");
    assert_eq!(attempts(&url), 2);
    assert!(!Worker::with_id(command()).lives(), "its command runs on");
}

#[test]
fn the_orders_of_an_instance_that_is_gone_are_taken_over_within_its_lease() {
    let (folder, other) = (Folder::new(), Folder::new());
    let Some((first, url)) = busy(&folder, "6s") else { return };
    let second = Instance::start(&other, &url, &["--exec", "true", "--retry-delay", "10ms"]);
    first.kill_all();
    let killed = Instant::now();
    assert!(comes_true(LONG, || second.status("o-0") == "Completed"), "{:?}", second.record("o-0"));
    eprintln!("gone: taken over after {:?} of a lease of 6 s", killed.elapsed());
    assert!(killed.elapsed() > Duration::from_secs(1), "its lease had not ended");
    assert_eq!(attempts(&url), 2);
}

/// As the kernel ends a process that takes too much memory, and nobody starts it anew. Its commands would run on beside the next ones.
#[test]
fn the_commands_of_an_instance_whose_parent_is_killed_are_ended_before_its_lease_is() {
    let folder = Folder::new();
    let Some((first, url)) = busy(&folder, "60s") else { return };
    // It may be a shell for a moment yet.
    poll_until(MINUTE, || first.commands().len() == 1);
    let command = first.commands();
    let guard = guard_of(&first);
    first.signal("KILL");
    let killed = Instant::now();
    poll_until(MINUTE, || !Worker::with_id(command[0]).lives());
    eprintln!("parent killed: its command is ended after {:?} of a lease of 60 s", killed.elapsed());
    assert!(killed.elapsed() < LONG / 2);
    poll_until(MINUTE, || !guard.lives());
    // In its place the next one takes its orders over at once.
    let next = Instance::start(&folder, &url, &["--exec", "true", "--retry-delay", "10ms"]);
    next.wait_for("o-0", "Completed");
    assert!(killed.elapsed() < LONG, "{:?}", killed.elapsed());
    assert_eq!(attempts(&url), 2);
}

#[test]
fn a_guard_that_is_killed_is_replaced_and_none_outlives_an_orderly_stop() {
    let folder = Folder::new();
    let Some((first, _)) = busy(&folder, "60s") else { return };
    let guard = guard_of(&first);
    guard.signal("KILL");
    poll_until(MINUTE, || guards(&first).iter().any(|id| *id != guard.id()));
    let next = guard_of(&first);
    first.stop();
    poll_until(MINUTE, || !next.lives());
}

/// The process that ends an instance's commands when nobody else can.
fn guard_of(instance: &Instance) -> Worker {
    poll_until(MINUTE, || !guards(instance).is_empty());
    Worker::with_id(guards(instance)[0])
}

fn guards(instance: &Instance) -> Vec<u32> {
    instance.all_processes().into_iter().filter(|id| Worker::with_id(*id).is_guard()).collect()
}

/// It wakes when its orders are another's, and writes nothing of what it thinks that they are.
#[test]
fn an_instance_that_was_frozen_for_longer_than_its_lease_drops_its_work_and_serves_again() {
    let (folder, other) = (Folder::new(), Folder::new());
    let Some((first, url)) = busy(&folder, "6s") else { return };
    let second = Instance::start(&other, &url, &["--exec", "true", "--retry-delay", "10ms"]);
    let frozen = first.all_processes();
    frozen.iter().for_each(|id| signal(*id, "STOP"));
    assert!(comes_true(LONG, || second.status("o-0") == "Completed"), "{:?}", second.record("o-0"));
    // The commands first: whoever runs them ends them as soon as it goes on.
    frozen.iter().rev().for_each(|id| signal(*id, "CONT"));
    first.served_again();
    poll_until(MINUTE, || first.commands().is_empty());
    assert_eq!((first.status("o-0").as_str(), attempts(&url)), ("Completed", 2));
    // It is as good as any other.
    second.kill_all();
    first.post(order("o-1")).expect(200, &created("o-1"));
    poll_until(MINUTE, || first.status("o-1") == "Processing");
}
