//! Clients that read slowly but steadily: their answers are delivered whole, and others hardly notice.
//!
//! An answer is bounded as a whole, so that each bit of progress does not start the patience anew, and no thread that others
//! need does the waiting. What others notice is a ratio to the same load without them, in the same run.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::harness::{
    Folder, PATIENCE, Process, Serving, SlowReaders, Wanted, Worker, beside, connect_from_afar, get, left_out, poll_until,
    put_large_order, put_large_orders, quick_or_slow, request, tcp_address,
};

/// Items of a record of some 60 kB, which is just short of what the server takes for a long answer, and of the largest.
const ITEMS: [usize; 2] = [115, 1_000];
/// The bytes of such a record for each of its items.
const BYTES_PER_ITEM: usize = 513;

/// What slow readers ask for: a record that is nearly a long answer, one that is one, and a page.
fn wanted() -> [Wanted; 3] {
    [
        Wanted { path: "/orders/big-0".into(), bytes: ITEMS[0] * BYTES_PER_ITEM },
        Wanted { path: "/orders/big-1".into(), bytes: ITEMS[1] * BYTES_PER_ITEM },
        Wanted { path: "/orders?user_id=big&limit=2".into(), bytes: ITEMS.iter().sum::<usize>() * BYTES_PER_ITEM },
    ]
}

/// A server with the records that slow readers want.
fn with_long_records(folder: &Folder, flags: &[&str]) -> Process {
    let server = Process::start(folder, &[&["--concurrency", "0"], flags].concat());
    for (n, items) in ITEMS.into_iter().enumerate() {
        put_large_order(&server.db(), n, items);
    }
    server
}

/// The rates of so many readers, in bytes a second: 300 kB to 2 MB, or so much less without optimization, when a core makes some
/// 6 MB of answers a second.
fn rates(readers: usize) -> Vec<usize> {
    let (lowest, highest) = if cfg!(debug_assertions) {
        (300_000 / readers.clamp(8, 16), 2_000_000 / readers.clamp(8, 32))
    } else {
        (300_000, 2_000_000)
    };
    (0..readers).map(|n| lowest + (highest - lowest) * n / readers).collect()
}

/// Compares how long good requests take beside slow readers with how long they take alone. A busy machine may spoil one
/// comparison; a server that waits for readers spoils each of them.
#[track_caller]
fn are_hardly_noticed(readers: usize, wanted: &[Wanted], flags: &[&str]) {
    let folder = Folder::new();
    let server = with_long_records(&folder, flags);
    let spell = quick_or_slow(Duration::from_secs(1), Duration::from_secs(10));
    let worker = Worker::of(&server);
    let mut compared = Vec::new();
    let hardly = (0..3).any(|_| {
        let ((), alone) = beside(&server, 4, 40, |_| std::thread::sleep(spell));
        let slow = SlowReaders::start(&server, &rates(readers), wanted);
        // Answers are under way to all of them.
        poll_until(2 * PATIENCE, || slow.are_all_reading());
        let ((), beside) = beside(&server, 4, 40, |_| std::thread::sleep(spell));
        assert!(alone.failures.is_empty() && beside.failures.is_empty(), "{:?} {:?}", alone.failures, beside.failures);
        compared.push((alone.p99(), beside.p99()));
        beside.p99() < 10 * alone.p99() + Duration::from_millis(100)
    });
    eprintln!("99 of 100 answers alone and beside {readers} slow readers within {compared:?}");
    assert!(hardly, "99 of 100 answers alone and beside them within {compared:?}");
    assert_eq!(Worker::of(&server), worker, "it was renewed: {}", server.stderr());
    server.stop();
}

/// As many as there are workers, with answers that are a little short of what the server takes for long ones.
#[test]
fn four_slow_readers_are_hardly_noticed() {
    are_hardly_noticed(4, &wanted()[..1], &["--workers", "4"]);
}

#[test]
fn nine_slow_readers_are_hardly_noticed() {
    are_hardly_noticed(9, &wanted()[..1], &[]);
}

#[test]
fn sixty_four_slow_readers_of_records_and_pages_are_hardly_noticed() {
    if left_out() {
        return;
    }
    are_hardly_noticed(64, &wanted(), &[]);
}

/// Reads at a steady rate all that comes until the connection is closed, and says how long that took.
#[track_caller]
fn read_slowly(server: &impl Serving, requests: &str, bytes_a_second: usize) -> (Vec<u8>, Duration) {
    let stream = connect_from_afar(tcp_address(server)).unwrap();
    let mut client = &stream;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(requests.as_bytes()).unwrap();
    let begun = Instant::now();
    let (mut all, mut piece) = (Vec::new(), vec![0; bytes_a_second / 50]);
    loop {
        match client.read(&mut piece) {
            Ok(0) => return (all, begun.elapsed()),
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(e) => panic!("cut after {} bytes and {:?}: {e}", all.len(), begun.elapsed()),
        }
        // As slow as the rate says, however long a turn took.
        let due = Duration::from_secs_f64(all.len() as f64 / bytes_a_second as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

/// The bodies of whole answers, each of which says how long it is.
#[track_caller]
fn bodies(mut all: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while !all.is_empty() {
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length").parse::<usize>().unwrap();
        assert!(all.len() >= end + length, "cut after {} of {length} bytes: {head}", all.len() - end);
        bodies.push(&all[end..end + length]);
        all = &all[end + length..];
    }
    bodies
}

/// More than the system takes at once, and for longer than a silent connection is kept. The server heard nothing meanwhile.
#[test]
fn long_answers_read_slowly_but_steadily_are_delivered_whole() {
    const READ_TIMEOUT: Duration = Duration::from_millis(500);
    const PAGES: usize = 3;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0", "--read-timeout", "500ms"]);
    put_large_orders(&server.db(), 7, 1_000);
    let last = request("GET", "/orders?limit=7", &["Connection: close"], "");
    let (all, took) = read_slowly(&server, &(get("/orders?limit=7").repeat(PAGES - 1) + &last), 2_000_000);
    let bodies = bodies(&all);
    assert_eq!(bodies.len(), PAGES, "cut after {} bytes and {took:?}", all.len());
    let end: &[u8] = br#""has_more":false,"next":null}"#;
    assert!(bodies.iter().all(|body| body.trim_ascii_end().ends_with(end)));
    assert!(took > 4 * READ_TIMEOUT, "they were read in {took:?}, which shows nothing");
    server.stop();
}
