//! Load and crashes against the real binary: many clients at once, and `kill -9` in the middle of it.
//!
//! What is checked afterwards is what clients were told: every order that was acknowledged is there, and ends as `Completed`
//! (promises 1 and 2).

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{
    Client, Folder, PATIENCE, Process, Serving, comes_true, created, in_clean_environment, order, orderd, poll_until, post,
};

const CLIENTS: usize = 64;

/// Runs `client` on as many threads as there are clients, each of which gets its number.
fn all_clients<T: Send>(client: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let client = &client;
        let threads: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Asserts that each of `ids` is in the database once, completed, and that there are not more orders than `at_most`.
#[track_caller]
fn assert_all_completed(server: &Process, ids: &HashSet<String>, at_most: usize) {
    let rows = server.rows();
    let stored: HashSet<_> = rows.iter().map(|row| row.order_id.clone()).collect();
    let missing: Vec<_> = ids.difference(&stored).collect();
    assert!(missing.is_empty(), "{} acknowledged orders are missing: {missing:?}", missing.len());
    assert_eq!(stored.len(), rows.len(), "an order is there twice");
    assert!(rows.len() <= at_most, "{} orders though {at_most} were sent", rows.len());
    assert!(rows.iter().all(|row| row.status == "Completed" && row.attempts >= 1));
}

/// The exact counts, from the rows themselves.
#[track_caller]
fn assert_metrics_are_exact(server: &Process) {
    let rows = server.rows();
    let took: i64 = rows.iter().map(|row| row.completed_at.unwrap() - row.created_at).sum();
    let metrics = server.metrics();
    assert!(metrics.all_completed(rows.len() as u64), "{metrics:?}");
    let average = took as f64 / (1_000 * rows.len()) as f64;
    // Reading a float from JSON may cost its last digit.
    assert!((metrics.average - average).abs() < 1e-9, "{} instead of {average}", metrics.average);
}

#[test]
fn a_thousand_orders_from_64_clients_at_once_are_each_completed_once() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "20ms"]);
    // 40 of the clients have one order more than the others.
    let ids_of = |client: usize| (client..1_000).step_by(CLIENTS).map(|n| format!("o-{n}"));
    // Connected in one go, so that they arrive as a crowd.
    let connections: Vec<_> = (0..CLIENTS).map(|_| Mutex::new(server.client())).collect();
    let served = AtomicUsize::new(0);
    all_clients(|n| {
        let mut client = connections[n].lock().unwrap();
        for (nth, id) in ids_of(n).enumerate() {
            client.ask(post(order(&id))).expect(200, &created(&id));
            if nth == 0 {
                // Nobody leaves before everybody is served: a connection must not have to wait for another one to close.
                served.fetch_add(1, Ordering::Relaxed);
                poll_until(PATIENCE, || served.load(Ordering::Relaxed) == CLIENTS);
            }
        }
    });
    server.wait_until_completed(1_000);
    assert_all_completed(&server, &(0..1_000).map(|n| format!("o-{n}")).collect(), 1_000);
    assert!(server.rows().iter().all(|row| row.attempts == 1), "an order was processed twice");
    assert_metrics_are_exact(&server);
    server.stop();
}

/// Promises 1 and 2. Several rounds on one file, each killed after a different number of acknowledged orders.
#[test]
fn no_acknowledged_order_is_lost_by_kill_9() {
    let folder = Folder::new();
    let flags = ["--processing-time", "10ms"];
    let load = Load::default();
    let alone = ["--processing-time", "10ms", "--no-supervisor"];
    for (kill_after, flags) in [(1, &flags[..]), (150, &alone), (400, &flags)] {
        let server = Process::start(&folder, flags);
        let before = load.acknowledged();
        std::thread::scope(|scope| {
            let (load, address) = (&load, server.address().clone());
            scope.spawn(move || {
                all_clients(|_| {
                    // Ends when the server does.
                    let _ = Client::connect(&address).and_then(|client| load.run(client));
                })
            });
            let enough = comes_true(PATIENCE, || load.acknowledged() >= before + kill_after);
            server.kill();
            load.over.store(true, Ordering::Relaxed);
            assert!(enough, "only {} orders were acknowledged", load.acknowledged() - before);
        });
        load.over.store(false, Ordering::Relaxed);
    }
    let server = Process::start(&folder, &flags);
    poll_until(2 * PATIENCE, || {
        let metrics = server.metrics();
        metrics.all_completed(metrics.total)
    });
    let (sent, acknowledged) = (load.sent.load(Ordering::Relaxed), std::mem::take(&mut *load.acknowledged.lock().unwrap()));
    assert_all_completed(&server, &acknowledged, sent);
    assert_metrics_are_exact(&server);
    // Those who were not answered ask again, and nothing is processed twice for it.
    let mut client = server.client();
    (0..sent).for_each(|n| _ = client.ask(post(order(&format!("o-{n}")))).expect(200, &created(&format!("o-{n}"))));
    server.wait_until_completed(sent as u64);
    server.stop();
}

/// Orders sent by many clients until the server is gone.
#[derive(Default)]
struct Load {
    sent: AtomicUsize,
    acknowledged: Mutex<HashSet<String>>,
    over: AtomicBool,
}

impl Load {
    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn run(&self, mut client: Client) -> io::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            let id = format!("o-{}", self.sent.fetch_add(1, Ordering::Relaxed));
            client.try_ask(post(order(&id)))?.expect(200, &created(&id));
            self.acknowledged.lock().unwrap().insert(id);
        }
        Ok(())
    }
}

/// Promise 2: each start of the work is on disk before it begins.
#[test]
fn an_order_whose_processing_was_cut_short_by_kill_9_is_processed_anew() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "1h"]);
    server.post(order("1")).expect(200, &created("1"));
    poll_until(PATIENCE, || server.status("1") == "Processing");
    server.kill();

    let server = Process::start(&folder, &["--processing-time", "0s"]);
    server.wait_until_completed(1);
    assert_eq!(server.rows()[0].attempts, 2);
    server.stop();
}

/// Promise 3. The files may not grow beyond a limit that the shell sets, so that writing fails as on a broken disk.
#[test]
fn a_failing_disk_costs_no_acknowledged_order() {
    let folder = Folder::new();
    let mut command = std::process::Command::new("sh");
    // The signal that comes with the limit is ignored; what is left is the error.
    let script = "trap '' XFSZ; ulimit -f 400; exec \"$0\" --listen 127.0.0.1:0 --processing-time 0s";
    command.args(["-c", script, env!("CARGO_BIN_EXE_orderd")]);
    let server = Process::spawn(in_clean_environment(command, &folder), &folder);
    let mut acknowledged = HashSet::new();
    let mut client = server.client();
    let refused = (0..10_000).find(|n| {
        let id = format!("o-{n}");
        match client.try_ask(post(order(&id))) {
            Ok(answer) if answer.status == 200 => !acknowledged.insert(id),
            Ok(answer) => {
                answer.expect_error(503, "storage_unavailable");
                true
            }
            // It ended before it could answer.
            Err(_) => true,
        }
    });
    let refused = refused.expect("the limit is reached at some time");
    server.kill();

    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--processing-time", "0s"]);
    let server = Process::spawn(command, &folder);
    server.post(order(&format!("o-{refused}"))).expect(200, &created(&format!("o-{refused}")));
    acknowledged.insert(format!("o-{refused}"));
    server.wait_until_completed(acknowledged.len() as u64);
    assert_all_completed(&server, &acknowledged, acknowledged.len());
    server.stop();
}
