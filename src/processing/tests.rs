//! The processor beside another one on the same database, and at its end: whose claims it touches, and what that costs.
//!
//! What holds of one processor alone is tested from outside, through HTTP.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;

use super::work::WorkError;
use super::*;
use crate::order::Status;
use crate::os::marks;
use crate::store::Outcome;
use crate::store::tests::{Fixture, PATIENCE};

fn settings(f: &Fixture, work: Work) -> Settings {
    Settings {
        work,
        processing_time: Duration::from_secs(3_600),
        exec_timeout: Duration::from_secs(3_600),
        retries: Retries { max_attempts: 3, delay: Duration::ZERO },
        concurrency: 2,
        clock: f.clock.clone(),
        database: f.lock.database().to_path_buf(),
        predecessor_lives: false,
    }
}

fn successor(f: &Fixture, work: Work) -> Processor {
    Processor::start(f.store.clone(), Settings { predecessor_lives: true, ..settings(f, work) }).unwrap()
}

#[track_caller]
fn wait_until(mut come_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come_true() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Each of the orders `1`, `2`, …: its status, and how many attempts it has had.
fn orders<const N: usize>(f: &Fixture) -> [(Status, u32); N] {
    std::array::from_fn(|n| {
        let record = f.record(&(n + 1).to_string());
        (record.status, record.attempts)
    })
}

use Status::{Completed, Failed, Pending, Processing};

#[test]
fn a_start_requeues_what_a_crash_interrupted_and_that_attempt_stays_counted() {
    let f = Fixture::new();
    f.create_all(["1", "2", "3"]);
    f.claim(1);
    let processor = Processor::start(f.store.clone(), settings(&f, Work::Wait)).unwrap();
    wait_until(|| orders(&f) == [(Processing, 2), (Processing, 1), (Pending, 0)]);
    processor.stop(Instant::now());
    assert_eq!(orders(&f), [(Pending, 1), (Pending, 0), (Pending, 0)], "the stop cost nothing");
}

#[test]
fn beside_a_predecessor_only_the_room_that_it_leaves_is_used() {
    let f = Fixture::new();
    f.create_all(["1", "2", "3", "4"]);
    let predecessors = f.claim(1)[0];
    let processor = successor(&f, Work::Wait);
    wait_until(|| orders(&f) == [(Processing, 1), (Processing, 1), (Pending, 0), (Pending, 0)]);

    // Its end makes room, without a notice.
    let ended = vec![Ending { order: predecessors, outcome: Outcome::Completed }];
    crate::store::tests::answer(|done| f.store.process(ended, 0, false, done)).unwrap();
    wait_until(|| orders(&f) == [(Completed, 1), (Processing, 1), (Processing, 1), (Pending, 0)]);
    processor.stop(Instant::now());
    assert_eq!(orders(&f), [(Completed, 1), (Pending, 0), (Pending, 0), (Pending, 0)]);
}

#[test]
fn what_a_dead_predecessor_left_is_taken_up_once_that_is_known() {
    let f = Fixture::new();
    f.create_all(["1", "2"]);
    f.claim(1);
    let processor = successor(&f, Work::Wait);
    wait_until(|| orders(&f) == [(Processing, 1), (Processing, 1)]);
    processor.alone();
    wait_until(|| orders(&f) == [(Processing, 2), (Processing, 1)]);
    processor.stop(Instant::now());
    assert_eq!(orders(&f), [(Pending, 1), (Pending, 0)]);
}

#[test]
fn a_stop_leaves_the_claims_of_another_processor_alone() {
    let f = Fixture::new();
    f.create_all(["1", "2"]);
    f.claim(1);
    let processor = successor(&f, Work::Wait);
    wait_until(|| orders(&f) == [(Processing, 1), (Processing, 1)]);
    processor.stop(Instant::now());
    assert_eq!(orders(&f), [(Processing, 1), (Pending, 0)]);
}

#[test]
fn the_commands_of_a_dead_predecessor_are_ended_and_our_own_are_not() {
    let f = Fixture::new();
    f.create_all(["1", "2"]);
    f.claim(1);
    let mut left_behind =
        Command::new("sleep").arg("60").env(marks::OF, marks::name_of(f.lock.database())).process_group(0).spawn().unwrap();
    let begun = f.lock.database().with_extension("begun");
    let goes_on = f.lock.database().with_extension("goes-on");
    // Our own waits until it is allowed to end.
    let command = format!("echo $ORDER_ID >> {}; while [ ! -e {} ]; do sleep 0.01; done", begun.display(), goes_on.display());
    let processor = successor(&f, Work::Command(command));
    wait_until(|| std::fs::read_to_string(&begun).is_ok_and(|ids| ids == "2\n"));
    assert!(left_behind.try_wait().unwrap().is_none(), "the predecessor's are its own business while it lives");
    processor.alone();
    wait_until(|| left_behind.try_wait().unwrap().is_some());
    wait_until(|| std::fs::read_to_string(&begun).is_ok_and(|ids| ids == "2\n1\n"));
    std::fs::write(&goes_on, "").unwrap();
    wait_until(|| orders(&f) == [(Completed, 2), (Completed, 1)]);
    processor.stop(Instant::now());
}

#[test]
fn a_command_that_a_stop_terminates_costs_no_attempt_and_one_that_ends_in_time_is_recorded() {
    let f = Fixture::new();
    f.create_all(["1", "2", "3"]);
    let command = r#"test $ORDER_ID = 2 || sleep 60; exit 65"#;
    let processor = Processor::start(f.store.clone(), settings(&f, Work::Command(command.into()))).unwrap();
    wait_until(|| orders(&f) == [(Processing, 1), (Failed, 1), (Processing, 1)]);
    processor.stop(Instant::now() + Duration::from_millis(50));
    assert_eq!(orders(&f), [(Pending, 0), (Failed, 1), (Pending, 0)]);
    assert_eq!((f.record("1").started_at, f.record("1").last_error), (None, None));
}

#[test]
fn a_command_that_ignores_its_termination_is_killed_and_costs_no_attempt_either() {
    let f = Fixture::new();
    f.create_all(["1"]);
    let work = Work::Command("trap '' TERM; while :; do sleep 0.05; done".into());
    let processor = Processor::start(f.store.clone(), settings(&f, work)).unwrap();
    wait_until(|| orders(&f) == [(Processing, 1)]);
    processor.stop(Instant::now() + Duration::from_millis(100));
    assert_eq!(orders(&f), [(Pending, 0)]);
}

#[test]
fn a_function_that_does_not_end_is_put_back_and_what_it_comes_to_is_not_recorded() {
    let f = Fixture::new();
    f.create_all(["1"]);
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let work = Work::function(move |_| {
        let _ = wait.lock().unwrap().recv();
        Err(WorkError::fatal("too late"))
    });
    let processor = Processor::start(f.store.clone(), settings(&f, work)).unwrap();
    wait_until(|| orders(&f) == [(Processing, 1)]);
    processor.stop(Instant::now());
    drop(go);
    assert_eq!(orders(&f), [(Pending, 0)]);
}

#[test]
fn the_message_of_a_panic_is_kept() {
    let f = Fixture::new();
    f.create_all(["1"]);
    let work = Work::function(|order| panic!("no case for {}", order.order_id));
    let processor = Processor::start(f.store.clone(), settings(&f, work)).unwrap();
    wait_until(|| orders(&f) == [(Failed, 3)]);
    assert_eq!(f.record("1").last_error.as_deref(), Some("panicked: no case for 1"));
    processor.stop(Instant::now());
}

#[test]
fn a_stop_that_can_write_nothing_ends_all_the_same() {
    let f = Fixture::new();
    f.create_all(["1"]);
    let processor = Processor::start(f.store.clone(), settings(&f, Work::Wait)).unwrap();
    wait_until(|| orders(&f) == [(Processing, 1)]);
    f.store.close();
    let alive = processor.alive();
    let begun = Instant::now();
    processor.stop(Instant::now());
    assert!(begun.elapsed() >= 2 * GRACE && begun.elapsed() < 4 * GRACE, "{:?}", begun.elapsed());
    wait_until(|| !alive.load(Ordering::Relaxed));
}

#[test]
fn a_notice_wakes_the_processor() {
    let f = Fixture::new();
    let processor = Processor::start(f.store.clone(), settings(&f, Work::Wait)).unwrap();
    let notifier = processor.notifier();
    f.create_all(["1"]);
    notifier();
    wait_until(|| orders(&f) == [(Processing, 1)]);
    notifier.clone()();
    processor.stop(Instant::now());
}
