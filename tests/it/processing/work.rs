//! Work that is a function of the embedding program: what its endings mean, that none can harm the processor, and that nobody waits
//! for another's.
//!
//! Also what holds for work of any kind: the guard of each ending.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use orderd::order::Status;
use orderd::{Clock, Config, Order, Work, WorkError};

use crate::harness::{Local, PATIENCE, Serving, comes_true, ids, in_status, left_out, order, poll_until};

/// Something that work waits for, until a test opens it or ends.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Opens the gate also when a test fails, so that no stop has to wait for what is behind it.
struct OpensAtTheEnd(Gate);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

fn gate() -> (Gate, OpensAtTheEnd) {
    let gate = Gate::default();
    (gate.clone(), OpensAtTheEnd(gate))
}

/// A server whose work is `f`, by the system's clock.
fn working(f: impl Fn(&Order) -> Result<(), WorkError> + Send + Sync + 'static) -> Local {
    Local::start(|config| with(config, Work::function(f)))
}

fn with(config: &mut Config, work: Work) {
    config.work = work;
    config.clock = Clock::system();
    config.retry_delay = Duration::ZERO;
}

#[test]
fn a_function_completes_an_order_or_has_it_tried_again_or_fails_it() {
    let server = working(|order| match (order.order_id.as_str(), order.attempts) {
        ("fine", _) | ("better", 3) => Ok(()),
        ("better", attempt) => Err(WorkError::retry(format!("not at attempt {attempt}"))),
        ("hopeless", _) => Err(WorkError::fatal("no such user")),
        _ => Err(WorkError::retry("still no stock")),
    });
    server.create(["fine", "better", "hopeless", "out"].map(String::from));
    for (id, status, attempts, last_error) in [
        ("fine", "Completed", 1, None),
        ("better", "Completed", 3, None),
        ("hopeless", "Failed", 1, Some("no such user")),
        ("out", "Failed", 5, Some("still no stock")),
    ] {
        let record = server.wait_for(id, status);
        assert_eq!((record["attempts"].as_u64(), record["last_error"].as_str()), (Some(attempts), last_error), "{record:#}");
        assert_eq!(record["completed_at"].is_string(), status == "Completed", "{record:#}");
    }
    server.get("/order/out").expect(200, &in_status("out", "Failed"));
    let counts = server.get("/metrics").json()["status_counts"].to_string();
    assert_eq!(counts, r#"{"Completed":2,"Failed":2,"Pending":0,"Processing":0}"#);
}

#[test]
fn of_a_long_message_a_kibibyte_is_kept() {
    let server = working(|_| Err(WorkError::fatal("x".to_string() + &"ä".repeat(100_000))));
    server.create(ids(0..1));
    assert_eq!(server.wait_for("o-0", "Failed")["last_error"], "x".to_string() + &"ä".repeat(511));
}

#[test]
fn a_panic_is_a_failed_attempt_and_the_processor_lives_on() {
    let server = working(|order| match (order.order_id.as_str(), order.attempts) {
        ("late", 1) | ("never", _) => panic!("a bug in the embedding program"),
        _ => Ok(()),
    });
    server.create(["late", "never", "fine"].map(String::from));
    assert_eq!(server.wait_for("fine", "Completed")["attempts"], 1);
    assert_eq!(server.wait_for("late", "Completed")["attempts"], 2);
    let record = server.wait_for("never", "Failed");
    assert_eq!(record["attempts"], 5);
    assert_eq!(record["last_error"], "panicked: a bug in the embedding program", "{record:#}");
    server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
}

#[test]
fn a_function_is_given_the_record_of_the_order() {
    let seen = Arc::new(Mutex::new(None));
    let see = seen.clone();
    let server = working(move |order| {
        *see.lock().unwrap() = Some(order.clone());
        Ok(())
    });
    server.post(order("1").replace("100.0", "10.50")).expect_status(200);
    server.wait_for("1", "Completed");
    let seen: Order = seen.lock().unwrap().clone().unwrap();
    assert_eq!((seen.order_id.as_str(), seen.user_id.as_str(), seen.attempts), ("1", "user1", 1));
    assert_eq!((seen.item_ids, seen.total_amount.as_str()), (vec!["item1".to_string(), "item2".into()], "10.50"));
    assert_eq!((seen.status, seen.completed_at, seen.last_error), (Status::Processing, None, None));
    assert!(seen.started_at >= Some(seen.created_at));
}

#[test]
fn a_function_with_a_state_of_its_own_is_called_for_one_order_at_a_time() {
    let (sum, inside) = (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0));
    let (into, mut calls) = (sum.clone(), 0);
    let work = Work::function_mut(move |order| {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
        std::thread::yield_now();
        calls += 1;
        into.lock().unwrap().push(calls);
        inside.fetch_sub(1, Ordering::SeqCst);
        // A panic must not end the function for the others.
        assert!(order.order_id.as_str() != "o-0" || order.attempts > 1);
        Ok(())
    });
    let server = Local::start(|config| with(config, work));
    server.create(ids(0..100));
    server.wait_until_completed(100);
    assert_eq!(*sum.lock().unwrap(), (1..=101).collect::<Vec<_>>());
}

#[test]
fn as_many_orders_are_worked_on_at_once_as_allowed_and_not_one_more() {
    let (gate, _opens) = gate();
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (n, m, behind) = (now.clone(), most.clone(), gate.clone());
    let server = Local::start(|config| {
        config.concurrency = Some(7);
        let work = move |_: &Order| {
            m.fetch_max(n.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            behind.pass();
            n.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        with(config, Work::function(work));
    });
    server.create(ids(0..50));
    poll_until(PATIENCE, || now.load(Ordering::SeqCst) == 7);
    let more = comes_true(Duration::from_millis(100), || now.load(Ordering::SeqCst) != 7);
    assert!(!more, "{}", now.load(Ordering::SeqCst));
    gate.open();
    server.wait_until_completed(50);
    assert_eq!(most.load(Ordering::SeqCst), 7);
}

/// As a ratio to the same run without the stuck one.
#[test]
fn a_stuck_order_does_not_slow_down_ten_thousand_quick_ones() {
    if left_out() {
        return;
    }
    let run = |stuck: bool| {
        let (gate, _opens) = gate();
        let behind = gate.clone();
        let server = Local::start(|config| {
            config.concurrency = Some(16);
            let work = move |order: &Order| {
                if order.order_id.as_str() == "stuck" {
                    behind.pass();
                }
                Ok(())
            };
            with(config, Work::function(work));
        });
        if stuck {
            server.create(["stuck".to_string()]);
            server.wait_for("stuck", "Processing");
        }
        let begun = Instant::now();
        server.create(ids(0..10_000));
        poll_until(4 * PATIENCE, || server.metrics().completed == 10_000);
        let took = begun.elapsed();
        if stuck {
            assert_eq!(server.status("stuck"), "Processing");
            gate.open();
            server.wait_until_completed(10_001);
        }
        assert!(server.rows().iter().all(|row| row.attempts == 1));
        took
    };
    let alone = run(false);
    let beside = run(true);
    assert!(beside < 3 * alone + Duration::from_secs(1), "{beside:?} beside a stuck order, {alone:?} alone");
}

/// What it comes to after the stop is not recorded: the order has been put back already.
#[test]
fn a_function_that_does_not_end_holds_no_stop_up_and_its_order_is_put_back() {
    let (gate, _opens) = gate();
    let ended = Arc::new(AtomicU32::new(0));
    let (behind, count) = (gate.clone(), ended.clone());
    let mut server = Local::start(|config| {
        config.shutdown_timeout = Duration::from_millis(50);
        let calls = AtomicU32::new(0);
        let work = move |_: &Order| {
            // Those that the stop leaves behind.
            let is_first_run = calls.fetch_add(1, Ordering::SeqCst) < 2;
            if is_first_run {
                behind.pass();
            }
            count.fetch_add(1, Ordering::SeqCst);
            if is_first_run { Err(WorkError::fatal("too late")) } else { Ok(()) }
        };
        with(config, Work::function(work));
    });
    server.create(ids(0..2));
    server.wait_for("o-1", "Processing");
    server.stop();
    assert!(server.rows().iter().all(|row| row.status == "Pending" && row.attempts == 0), "{:#?}", server.rows());

    let server = server.restart(|_| {});
    server.wait_until_completed(2);
    let before = server.rows();
    gate.open();
    poll_until(PATIENCE, || ended.load(Ordering::SeqCst) == 4);
    assert_eq!(server.rows(), before);
    assert_eq!(before.iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn work_that_ends_in_time_is_recorded_by_an_orderly_stop() {
    let (gate, _opens) = gate();
    let behind = gate.clone();
    let mut server = Local::start(|config| {
        config.shutdown_timeout = PATIENCE;
        config.concurrency = Some(1);
        let work = move |order: &Order| {
            behind.pass();
            if order.order_id.as_str() == "o-1" { Err(WorkError::fatal("no stock")) } else { Ok(()) }
        };
        with(config, Work::function(work));
    });
    server.create(ids(0..3));
    server.wait_for("o-0", "Processing");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The stop has begun, or begins with nothing under way; both end alike for this order.
            std::thread::yield_now();
            gate.open();
        });
        server.stop();
    });
    let rows = server.rows();
    assert_eq!((rows[0].status.as_str(), rows[0].attempts), ("Completed", 1), "{rows:#?}");
    assert!(rows.iter().all(|row| row.status != "Processing"), "{rows:#?}");
}
