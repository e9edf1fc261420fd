//! Hostile clients, with ordinary ones beside them: absurd lengths, silence, floods of requests, headers without an end, too many at once.
//!
//! What can't be held inside the worker process is held by replacing it; the worker's memory, threads and descriptors are looked
//! at from the outside.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use orderd::Address;

use crate::harness::{
    Client, Folder, Local, PATIENCE, Process, Serving, Worker, beside, comes_true, created, get, head, in_clean_environment,
    left_out, most_memory_during, order, poll_until, post, quick_or_slow, raw, resets_when_closed,
};

const ABSURD: [&str; 4] = ["9999999999999", "99999999999999999", "9223372036854775808", "18446744073709551616"];

/// Announces a body of absurd length, and leaves.
fn send_absurd_length(server: &impl Serving, n: usize) {
    let request = head(&[&format!("Content-Length: {}", ABSURD[n % ABSURD.len()])]);
    // While the worker is being replaced, a connection may be reset.
    let _ = raw(server).write_all(request.as_bytes());
}

#[test]
fn a_hundred_absurd_lengths_in_two_seconds_cost_others_almost_nothing() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    server.get("/metrics").expect_status(200);
    let ((), report) = beside(&server, 4, 5_000, |_| {
        let started = Instant::now();
        for n in 0..100 {
            send_absurd_length(&server, n);
            std::thread::sleep((Duration::from_millis(20) * (n as u32 + 1)).saturating_sub(started.elapsed()));
        }
    });
    let failed = report.failures.len();
    eprintln!(
        "100 absurd lengths: {failed} of {} requests failed, the slowest took {:?}",
        report.requests(),
        report.times.last()
    );
    assert!(failed * 500 <= report.requests(), "{failed} of {}: {:?}", report.requests(), report.failures);
    server.get("/metrics").expect_status(200);
    server.stop();
}

/// A forgotten request costs a thread and two descriptors, until there are 64.
#[test]
fn a_worker_renewed_after_absurd_lengths_has_nothing_left_of_them() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let first = Worker::of(&server);
    server.get("/metrics").expect_status(200);
    let at_first = (first.threads(), first.descriptors());
    let mut sent = 0;
    poll_until(PATIENCE, || {
        send_absurd_length(&server, 0);
        sent += 1;
        !first.lives()
    });
    assert!(sent >= 64, "renewed after {sent}");
    first.successor(&server);
    // Some of them were for the fresh one, or for one that has followed it since. What is left of 64 would be more than the slack.
    const SLACK: usize = 20;
    let at_rest = || {
        let fresh = Worker::of(&server);
        (fresh.threads(), fresh.descriptors())
    };
    let calm = comes_true(PATIENCE, || {
        let now = at_rest();
        now.0 <= at_first.0 + 2 * (sent - 64) + SLACK && now.1 <= at_first.1 + 2 * (sent - 64) + SLACK
    });
    assert!(calm, "{sent} sent, {at_first:?} at first, {:?} now: {}", at_rest(), server.stderr());
    assert!(server.stderr().contains("absurd lengths"), "{}", server.stderr());
    assert!(!first.lives());
    server.stop();
}

/// A library can't renew its process, but the process lives.
#[test]
fn absurd_lengths_do_not_end_a_process_that_embeds_a_server() {
    let server = Local::idle();
    (0..40).for_each(|n| send_absurd_length(&server, n));
    server.post(order("1")).expect(200, &created("1"));
}

#[test]
fn connections_that_stay_silent_after_half_a_header_are_closed() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--read-timeout", "2s"]);
    let worker = Worker::of(&server);
    server.get("/metrics").expect_status(200);
    let before = worker.descriptors();
    let ((), report) = beside(&server, 4, 0, |_| {
        let mut silent: Vec<_> = (0..200).map(|_| server.client()).collect();
        silent.iter_mut().for_each(|client| client.send("POST /order HTTP/1.1\r\nHost: localhost\r\nConte").unwrap());
        for client in &mut silent {
            client.set_read_timeout(PATIENCE).unwrap();
            assert_eq!(client.read_rest().unwrap(), b"");
        }
    });
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(Worker::of(&server), worker, "it is the same process");
    poll_until(PATIENCE, || worker.descriptors() <= before + 4);
    server.stop();
}

/// Has 8 clients send 50,000 requests each, or what the server takes of them, and read none of the answers. They stay connected.
fn flood(server: &impl Serving) -> Vec<TcpStream> {
    let mute: Vec<_> = (0..8).map(|_| raw(server)).collect();
    std::thread::scope(|scope| {
        for mut client in &mute {
            scope.spawn(move || {
                client.set_write_timeout(Some(PATIENCE)).unwrap();
                let requests = get("/metrics").repeat(1_000);
                // Cut at some time, which is the point.
                let _ = (0..50).try_for_each(|_| client.write_all(requests.as_bytes()));
            });
        }
    });
    mute
}

#[test]
fn clients_that_pipeline_and_never_read_are_let_go() {
    const LIMIT: u64 = 512 << 20;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--max-memory", "512M"]);
    let most = most_memory_during(&server, || {
        let _mute = flood(&server);
        let took = server.served_again();
        eprintln!("8 clients that never read: others are served {took:?} after");
    });
    eprintln!("8 clients that never read: at most {} MiB", most >> 20);
    assert!(most <= LIMIT, "{} MiB", most >> 20);
    // What the kernel still held of the flood may be in front of it.
    let mut client = server.client();
    client.set_read_timeout(2 * PATIENCE).unwrap();
    client.ask(post(order("1"))).expect(200, &created("1"));
    server.stop();
}

/// Each of them may hold a worker until its answers can no longer be sent, but not one after the other.
#[test]
fn clients_that_never_read_do_not_hold_others_up_for_long() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let server = Process::start(&folder, &["--max-memory", "2G"]);
    let _mute = flood(&server);
    // To wait for each of them as long as for one that sends slowly would be eight times 30 s, and even 2 s for each would be 16 s.
    // The flood itself has to be gone through as well, which takes its time on a busy machine.
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(12) {
        let (mut client, asked) = (server.client(), Instant::now());
        client.set_read_timeout(2 * PATIENCE).unwrap();
        client.ask(get("/order/unknown")).expect_status(404);
        slowest = slowest.max(asked.elapsed());
    }
    eprintln!("beside 8 clients that never read: the slowest answer took {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    server.stop();
}

#[test]
fn a_header_without_an_end_is_stopped_by_the_limit_of_memory() {
    const LIMIT: u64 = 64 << 20;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--max-memory", "64M"]);
    let first = Worker::of(&server);
    let most = most_memory_during(&server, || {
        let until = Instant::now() + quick_or_slow(Duration::from_secs(1), Duration::from_secs(3));
        while Instant::now() < until || first.lives() && Instant::now() < until + PATIENCE {
            let Ok(mut client) = Client::connect(server.address()) else { continue };
            let _ = client.send("GET / HTTP/1.1\r\nX: ");
            while (Instant::now() < until || first.lives()) && client.send([b'x'; 1 << 16]).is_ok() {}
        }
    });
    eprintln!("a header without an end: {} MiB at most, with a limit of {}", most >> 20, LIMIT >> 20);
    assert!(!first.lives(), "nobody noticed");
    poll_until(PATIENCE, || Worker::of(&server).resident_bytes() < LIMIT);
    server.served_again();
    assert!(server.stderr().contains("is being replaced"), "{}", server.stderr());
    server.stop();
}

#[test]
fn running_out_of_descriptors_is_no_end() {
    let run_out = |listen: &str| {
        let folder = Folder::new();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64; exec \"$0\" --listen \"$1\"", env!("CARGO_BIN_EXE_orderd"), listen]);
        let server = Process::spawn(in_clean_environment(command, &folder), &folder);
        let server = match listen.strip_prefix("unix:") {
            Some(name) => server.at(Address::Unix(folder.file(name))),
            None => server,
        };
        server.get("/metrics").expect_status(200);
        let crowd: Vec<_> = (0..200).filter_map(|_| Client::connect(server.address()).ok()).collect();
        let asking: Vec<_> = crowd.into_iter().map(|mut client| client.send(get("/metrics")).map(|()| client)).collect();
        drop(asking);
        // What is left of the crowd may still take the descriptors of a connection after one that was served.
        let ordered = comes_true(2 * PATIENCE, || {
            Client::connect(server.address()).and_then(|mut c| c.try_ask(post(order("1")))).is_ok_and(|a| a.status == 200)
        });
        assert!(ordered, "{listen}: {}", server.stderr());
        server.stop();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run_out("127.0.0.1:0"));
        scope.spawn(|| run_out("unix:sock"));
    });
}

/// tiny_http waits for ever behind each of these, so they are counted as soon as their clients are gone, and the process is
/// renewed. A minute passed once until one was counted, twice the read timeout.
#[test]
fn requests_of_http_2_do_not_pile_up() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    server.get("/healthz").expect_status(200);
    let first = Worker::of(&server);
    let at_first = first.descriptors();
    // More than it takes, as one that is reset before it was read holds nothing.
    let mut asked: Vec<_> = (0..200).map(|_| raw(&server)).collect();
    asked.iter_mut().for_each(|client| client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap());
    // Some close with a reset, some leave, some stay.
    asked[..40].iter().for_each(resets_when_closed);
    asked.drain(..190);
    let begun = Instant::now();
    let renewed = comes_true(Duration::from_secs(20), || Worker::of(&server) != first);
    assert!(renewed, "{} descriptors and {} threads are held: {}", first.descriptors(), first.threads(), server.stderr());
    eprintln!("renewed {:?} after 190 requests of HTTP/2", begun.elapsed());
    drop(asked);
    poll_until(PATIENCE, || !first.lives() && Worker::of(&server).descriptors() <= at_first + 2);
    server.get("/metrics").expect_status(200);
    assert!(server.stderr().contains("cannot be freed"), "{}", server.stderr());
    server.stop();
}

/// Each byte comes before the read timeout has passed.
#[test]
fn a_header_sent_a_byte_at_a_time_is_cut_in_the_end() {
    let server = Local::start(|config| config.read_timeout = Duration::from_millis(300));
    let mut slow = raw(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut ordinary = server.client();
    poll_until(PATIENCE, || {
        ordinary.ask(get("/order/unknown")).expect_status(404);
        slow.write_all(b"x").is_err()
    });
}

/// tiny_http's accept gives up after the read timeout when nobody comes, and does not go on.
#[test]
fn a_quiet_spell_longer_than_the_read_timeout_is_no_reason_to_stop_accepting() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--read-timeout", "500ms", "--log-level", "warn"]);
    let mut idle = server.client();
    idle.ask(get("/order/unknown")).expect_status(404);
    // Its own timeout, of the same length, has passed after the one of accept.
    idle.set_read_timeout(PATIENCE).unwrap();
    (0..3).for_each(|_| {
        assert_eq!(idle.read_rest().unwrap(), b"");
        idle = server.client();
    });
    assert_eq!(server.stderr(), "");
    server.stop();
}
