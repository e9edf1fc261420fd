//! A renewal: the worker process is replaced by a fresh one while orders come and commands run, and nobody notices.
//!
//! The successor takes the socket over first. Then the old worker accepts nothing more, finishes its commands, answers what it still
//! gets with `Connection: close`, and ends. A renewal is asked for with SIGUSR1 to the parent, or comes by itself when a worker
//! has lost or grown too much, or no longer answers. Commands leave a ledger, so that it shows which began and ended.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Folder, PATIENCE, Process, Serving, Worker, comes_true, created, get, head, ids, in_status, is_running, left_out,
    order, orderd, poll_until, post, quick_or_slow,
};

/// How long the commands run that are under way when a renewal begins, in seconds. More than the gap that is allowed.
const COMMAND_S: u64 = 6;
/// The longest that orders may not be stored for: a second is promised, and the machine may be busy.
const GAP: Duration = Duration::from_secs(3);

/// Notes the beginning and the end of each run. Those of `slow-…` take so many seconds.
fn ledger_command(seconds: u64) -> String {
    format!(
        "echo begin $ORDER_ID $ORDER_ATTEMPT >> ledger; case $ORDER_ID in slow-*) sleep {seconds};; esac; \
         echo end $ORDER_ID $ORDER_ATTEMPT >> ledger"
    )
}

fn ledger(folder: &Folder) -> Vec<String> {
    fs::read_to_string(folder.file("ledger")).unwrap_or_default().lines().map(str::to_string).collect()
}

/// Asserts that each order was run once, from its beginning to its end.
#[track_caller]
fn each_ran_once(server: &Process, folder: &Folder) {
    let mut runs = BTreeMap::<String, Vec<String>>::new();
    for line in ledger(folder) {
        let mut words = line.split(' ').map(str::to_string);
        let (what, id, attempt) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        runs.entry(id).or_default().push(format!("{what} {attempt}"));
    }
    for row in server.rows() {
        assert_eq!((row.status.as_str(), row.attempts), ("Completed", 1), "{row:?}: {}", server.stderr());
        assert_eq!(runs[&row.order_id], ["begin 1", "end 1"], "{row:?}: {}", server.stderr());
    }
    assert_eq!(runs.len(), server.rows().len());
}

/// Has four commands run for so long, causes a renewal, and posts orders until the first worker is gone. None of it may be noticed.
#[track_caller]
fn a_renewal_is_no_outage(flags: &[&str], seconds: u64, cause: impl FnOnce(&Process) + Send) {
    let folder = Folder::new();
    let command = ledger_command(seconds);
    let server = Process::start(&folder, &[&["--exec", &command, "--concurrency", "4"], flags].concat());
    server.create((0..4).map(|n| format!("slow-{n}")));
    poll_until(PATIENCE, || ledger(&folder).len() == 4);
    let first = Worker::of(&server);
    let mut kept = server.client();
    kept.ask(get("/order/slow-0")).expect_status(200);

    let (mut last, mut longest, mut stored) = (Instant::now(), Duration::ZERO, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| cause(&server));
        let give_up = Instant::now() + 2 * PATIENCE;
        let mut client = None;
        let mut followed = false;
        // A while longer, as orders come to the successor then.
        let mut until = None;
        while until.is_none_or(|until| Instant::now() < until) {
            assert!(Instant::now() < give_up, "the first worker goes on: {}", server.stderr());
            let connected = client.take().map_or_else(|| Client::connect(server.address()), Ok);
            let id = format!("o-{stored}");
            let answered = connected.and_then(|mut c| {
                c.set_read_timeout(Duration::from_secs(5))?;
                c.try_ask(post(order(&id))).map(|answer| (c, answer))
            });
            if let Ok((c, answer)) = answered {
                answer.expect(200, &created(&id));
                longest = longest.max(std::mem::replace(&mut last, Instant::now()).elapsed());
                stored += 1;
                client = (answer.header("Connection") != Some("close")).then_some(c);
            }
            let begun_again = Worker::of(&server) != first;
            if begun_again && !followed {
                followed = true;
                let ended = ledger(&folder).iter().filter(|line| line.starts_with("end slow-")).count();
                assert!(ended < 4, "it was followed only when its commands had ended: {}", server.stderr());
                old_connections_are_told_to_close(&mut kept);
            }
            if begun_again && !first.lives() && until.is_none() {
                until = Some(Instant::now() + Duration::from_millis(500));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    longest = longest.max(last.elapsed());
    eprintln!("{stored} orders were stored meanwhile; the longest gap was {longest:?}");
    assert!(longest < GAP, "nothing was stored for {longest:?}: {}", server.stderr());
    server.wait_until_completed(4 + stored);
    each_ran_once(&server, &folder);
    server.stop();
}

/// A connection of the old worker's is answered and closed once the successor serves, or only closed; that it hangs is wrong.
#[track_caller]
fn old_connections_are_told_to_close(kept: &mut Client) {
    poll_until(PATIENCE, || match kept.try_ask(get("/order/slow-0")) {
        Ok(answer) => answer.expect_status(200).header("Connection") == Some("close"),
        Err(e) => {
            assert!(e.kind() != std::io::ErrorKind::WouldBlock, "it hangs: {e}");
            true
        }
    });
}

#[test]
fn a_renewal_by_request_is_no_outage_and_runs_no_command_twice() {
    a_renewal_is_no_outage(&[], COMMAND_S, |server| server.signal("USR1"));
}

#[test]
fn a_renewal_after_too_many_absurd_lengths_is_no_outage_and_runs_no_command_twice() {
    a_renewal_is_no_outage(&[], COMMAND_S, |server| {
        for _ in 0..70 {
            let _ = server.client().send(head(&["Content-Length: 9999999999999"]));
        }
    });
}

#[test]
fn a_renewal_by_memory_is_no_outage_and_runs_no_command_twice() {
    if left_out() {
        return;
    }
    // It takes a while to be reached without optimization.
    a_renewal_is_no_outage(&["--max-memory", "64M"], 5 * COMMAND_S, |server| {
        let first = Worker::of(server);
        let mut client = server.client();
        let _ = client.send("GET / HTTP/1.1\r\nX: ");
        // As a client does that is cut when the worker that it fills is let go.
        while Worker::of(server) == first && client.send([b'x'; 1 << 16]).is_ok() {}
    });
}

#[test]
fn renewals_in_a_row_end_with_one_worker_that_serves() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    server.post(order("1")).expect(200, &created("1"));
    for n in 2..7 {
        let before = Worker::of(&server);
        server.signal("USR1");
        if n % 2 == 0 {
            // Two at once are one, or one after the other.
            server.signal("USR1");
        }
        assert!(before.successor(&server).lives());
        server.served_again();
        poll_until(PATIENCE, || !before.lives());
        server.post(order(&n.to_string())).expect(200, &created(&n.to_string()));
    }
    server.wait_until_completed(6);
    poll_until(PATIENCE, || Worker::all_of(&server) == 1);
    assert!(server.rows().iter().all(|row| row.attempts == 1), "{:#?}", server.rows());
    server.stop();
}

#[test]
fn a_stop_during_a_renewal_ends_both_workers() {
    let folder = Folder::new();
    let command = "echo begin >> ledger; while test -e ledger && ! test -e end; do sleep 0.01; done";
    let mut server = Process::start(&folder, &["--exec", command, "--shutdown-timeout", "200ms"]);
    server.create(ids(0..2));
    poll_until(PATIENCE, || ledger(&folder).len() == 2);
    let first = Worker::of(&server);
    server.signal("USR1");
    let second = first.successor(&server);
    assert!(first.lives(), "it finishes its commands");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert!(!first.lives() && !second.lives(), "{}", server.stderr());
    // An orderly stop costs no attempt.
    assert!(server.rows().iter().all(|row| row.status == "Pending" && row.attempts == 0), "{:#?}", server.rows());
}

/// The socket's file stays in its place.
#[test]
fn a_renewal_hands_a_unix_socket_over_too() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    let socket = folder.file("sock");
    command.args(["--listen", &format!("unix:{}", socket.display()), "--concurrency", "0"]);
    let server = Process::spawn(command, &folder);
    for n in 0..3 {
        let before = Worker::of(&server);
        server.signal("USR1");
        before.successor(&server);
        server.served_again();
        poll_until(PATIENCE, || !before.lives());
        server.post(order(&n.to_string())).expect(200, &created(&n.to_string()));
    }
    server.stop();
    assert!(!socket.exists(), "the parent removes it at the end");
}

/// The parent asks, and a request answered by a worker's thread is what counts.
#[test]
fn a_worker_that_no_longer_answers_is_replaced() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("1")).expect(200, &created("1"));
    let first = Worker::of(&server);
    let begun = Instant::now();
    first.signal("STOP");
    let replaced = comes_true(Duration::from_secs(60), || Worker::of(&server) != first);
    assert!(replaced, "{}", server.stderr());
    server.served_again();
    eprintln!("replaced {:?} after it stopped answering", begun.elapsed());
    poll_until(PATIENCE, || !first.lives());
    server.get("/order/1").expect(200, &in_status("1", "Pending"));
    server.stop();
}

/// The old worker still answers when it has nothing more to process: that is no reason for whoever watches to be alarmed. And
/// whichever of the two takes a fresh connection answers on it.
#[test]
fn whoever_asks_how_it_is_notices_nothing_of_a_renewal() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    let renew = || {
        for _ in 0..quick_or_slow(3, 40) {
            let old = Worker::of(&server).id();
            // To the old worker, as long as it keeps them.
            let mut kept: Vec<Client> = (0..50).map(|_| server.client()).collect();
            kept.iter_mut().for_each(|client| _ = client.ask(get("/healthz")).expect_status(200));
            server.signal("USR1");
            poll_until(PATIENCE, || {
                // One that was silent for long may be closed, and has no answer to give then.
                if let Some(Ok(answer)) = kept.pop().map(|mut client| client.try_ask(get("/healthz"))) {
                    answer.expect_status(200);
                }
                !is_running(old)
            });
        }
    };
    let asked = AtomicUsize::new(0);
    let ask = &|renewals: Arc<ScopedJoinHandle<()>>| {
        while !renewals.is_finished() {
            match server.client().try_ask(get("/healthz")) {
                Ok(answer) => _ = answer.expect_status(200),
                Err(e) => panic!("a fresh connection, and no answer: {e}; standard error:\n{}", server.stderr()),
            }
            asked.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        let renewals = Arc::new(scope.spawn(renew));
        for _ in 0..3 {
            let renewals = renewals.clone();
            scope.spawn(move || ask(renewals));
        }
    });
    eprintln!("{} fresh connections were answered", asked.into_inner());
    server.stop();
}
