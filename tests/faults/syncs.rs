//! The order of system calls: no 200 leaves before what it says is on disk, whoever wrote it.
//!
//! A build that does not sync can't be made by a flag. So in the control strace keeps the syncs of the log from being made, and says
//! that they were: that is what SQLite's `synchronous=NORMAL` does. Held is promise 1.

use crate::harness::{Folder, PATIENCE, Process, Serving, Worker, comes_true, created, ids, order, post};
use crate::runner::{Outcome, rounds};
use crate::{means, trace};

pub fn no_order_is_acknowledged_without_a_sync_between_request_and_answer() -> Outcome {
    let orders = rounds(200, 1_000, 1_000)?;
    means::strace()?;
    let folder = Folder::new();
    let server = Process::spawn(trace::command(&folder, &folder, &trace::ALL, &["--processing-time", "20ms"]), &folder);
    let all: Vec<_> = ids(0..orders).collect();
    std::thread::scope(|scope| {
        for part in all.chunks(orders.div_ceil(4)) {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                for id in part {
                    // A replay of every other order follows it at once, of every fourth by another request in between.
                    client.ask(post(order(id))).expect(200, &created(id));
                    client.ask(post(order(id))).expect(200, &created(id));
                }
            });
        }
    });
    server.stop();
    let calls = trace::calls(&folder.file("trace"));
    let found = trace::answers(&calls, "o");
    assert_eq!((found.fresh, found.replayed), (orders, orders), "the trace does not show all answers");
    assert!(found.unsynced.is_empty(), "{} of {orders} without a sync: {:?}", found.unsynced.len(), &found.unsynced[..1]);
    let control = control();
    Ok(format!("{orders} orders and as many replays, 0 unsynced; control with NORMAL: {control} of 100 unsynced"))
}

/// How many of 100 orders are seen to be acknowledged without a sync when none is made.
fn control() -> usize {
    let folder = Folder::new();
    let options = [&trace::ALL[..], &trace::UNSYNCED].concat();
    let server = Process::spawn(trace::command(&folder, &folder, &options, &["--concurrency", "0"]), &folder);
    let mut client = server.client();
    ids(0..100).for_each(|id| _ = client.ask(post(order(&id))).expect_status(200));
    server.stop();
    let found = trace::answers(&trace::calls(&folder.file("trace")), "o");
    assert!(found.unsynced.len() == 100, "the check does not see that no sync was made: {found:?}");
    found.unsynced.len()
}

pub fn what_a_dead_worker_left_unsynced_is_synced_before_it_is_acknowledged() -> Outcome {
    let rounds = rounds(1, 3, 10)?;
    means::strace()?;
    for round in 0..rounds {
        let folder = Folder::new();
        // The worker dies at this sync, when the order's pages are written and not synced. So does each one after it, later.
        let inject = format!("inject=fsync,fdatasync:signal=SIGKILL:when={}", 12 + round);
        let options = [&trace::ALL[..], &["-e", &inject]].concat();
        let server = Process::spawn(trace::command(&folder, &folder, &options, &["--concurrency", "0"]), &folder);
        let worker = Worker::of(&server);
        let mut client = server.client();
        let unanswered = (0..100).map(|n| format!("o-{n}")).find(|id| match client.try_ask(post(order(id))) {
            Ok(answer) => answer.status != 200,
            Err(_) => true,
        });
        let unanswered = unanswered.expect("the worker dies at one of its first syncs");
        assert!(comes_true(PATIENCE, || !worker.lives()), "the worker lives");
        worker.successor(&server);
        // The first that the fresh worker is asked. Nothing else may do the work for it.
        server.post(order(&unanswered)).expect(200, &created(&unanswered));
        server.kill();
        let found = trace::answers(&trace::calls(&folder.file("trace")), "o");
        assert!(found.unsynced.is_empty(), "acknowledged without a sync: {:?}", found.unsynced);
    }
    Ok(format!("{rounds} rounds, 0 unsynced; the control is that of the trace of all orders"))
}
