//! Pages of large records: how much one holds, what many of them cost, and that nobody waits for them.
//!
//! A page holds at most 4 MiB of records, is read outside any write, and its memory is given back. What a listing shows
//! otherwise is held in `records.rs`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::harness::{
    Folder, Local, PATIENCE, Process, Serving, Worker, beside, comes_true, created, get, ids, left_out, order, post,
    put_large_order, put_large_orders, quick_or_slow,
};

/// The most bytes of records in a page. One that is longer is a page by itself.
const MOST: usize = 4 << 20;
/// What is around them.
const FRAME: usize = 256;

/// Reads from the first page to the last. Says which orders there were on each, and how long its answer was.
#[track_caller]
fn walk(server: &impl Serving, limit: usize) -> Vec<(Vec<String>, usize)> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    let mut client = server.client();
    client.set_read_timeout(PATIENCE).unwrap();
    loop {
        let answer = client.ask(get(&format!("/orders?limit={limit}{after}")));
        let json = answer.expect_status(200).json();
        let ids = json["data"].as_array().unwrap().iter().map(|order| order["order_id"].as_str().unwrap().to_string());
        pages.push((ids.collect(), answer.body.len()));
        assert_eq!(json["has_more"], json["next"].is_string());
        match json["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return pages,
        }
    }
}

#[test]
fn a_page_holds_four_mebibytes_of_records_and_the_next_has_the_rest() {
    let server = Local::idle();
    put_large_orders(&server.db(), 12, 1_000);
    for limit in [3, 100] {
        let pages = walk(&server, limit);
        let seen: Vec<_> = pages.iter().flat_map(|(ids, _)| ids.clone()).collect();
        let expected: Vec<_> = (0..12).rev().map(|n| format!("big-{n}")).collect();
        assert_eq!(seen, expected, "each once, newest first, by {limit}");
        for (n, (ids, bytes)) in pages.iter().enumerate() {
            assert!(*bytes <= MOST + FRAME, "page {n} by {limit} has {bytes} bytes");
            // As many as fit, and one more would not.
            let record = bytes / ids.len();
            let full = ids.len() == limit || n + 1 == pages.len() || bytes + record > MOST;
            assert!(full, "page {n} by {limit} has {} orders in {bytes} bytes", ids.len());
        }
    }
}

#[test]
fn small_records_fill_a_page_as_before() {
    let server = Local::idle();
    server.create(ids(0..150));
    let pages = walk(&server, 100);
    assert_eq!(pages.iter().map(|(ids, _)| ids.len()).collect::<Vec<_>>(), [100, 50]);
}

/// Small and large ones in turn, by a filter, so that what is skipped is of no account.
#[test]
fn a_filtered_walk_of_mixed_records_sees_each_once() {
    let server = Local::idle();
    for n in 0..12 {
        server.create(ids(10 * n..10 * n + 10));
        put_large_order(&server.db(), n, 1_000);
    }
    let mut seen = HashSet::new();
    for (ids, bytes) in walk(&server, 100) {
        assert!(bytes <= MOST + FRAME, "{bytes}");
        ids.into_iter().for_each(|id| assert!(seen.insert(id.clone()), "{id} comes twice"));
    }
    assert_eq!(seen.len(), 132);
}

/// Eight of them once had five workers replaced.
#[test]
fn many_clients_that_read_pages_of_the_largest_orders_cost_little_and_hold_nobody_up() {
    let clients = quick_or_slow(8, 64);
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    put_large_orders(&server.db(), 100, 1_000);
    let worker = Worker::of(&server);
    let ((), alone) = beside(&server, 4, 100, |_| std::thread::sleep(Duration::from_millis(500)));
    let pages = quick_or_slow(1, 10);
    let (read, beside) = beside(&server, 4, 100, |_| {
        std::thread::scope(|scope| {
            let reading = || {
                let mut client = server.client();
                // All of them at once take their time, without optimization above all.
                client.set_read_timeout(4 * PATIENCE).unwrap();
                let mut bytes = 0;
                for _ in 0..pages {
                    let answer = client.ask(get("/orders?limit=100&user_id=big"));
                    assert!(answer.status == 200 && answer.body.ends_with("}\n"), "{} {:.200}", answer.status, answer.body);
                    bytes += answer.body.len();
                }
                bytes
            };
            let threads: Vec<_> = (0..clients).map(|_| scope.spawn(reading)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        })
    });
    let peak = worker.peak_bytes() >> 20;
    eprintln!(
        "{} MB of pages: {peak} MiB at most; 99 of 100 others within {:?}, {:?} alone",
        read >> 20,
        beside.p99(),
        alone.p99()
    );
    assert_eq!(Worker::of(&server), worker, "it was renewed: {}", server.stderr());
    assert!(peak < 256, "{peak} MiB");
    assert_eq!(beside.failures, [""; 0]);
    assert!(beside.p99() < 20 * alone.p99() + Duration::from_secs(1), "{:?}, {:?} alone", beside.p99(), alone.p99());
    server.stop();
}

/// They were once looked up within the write transaction of the order before them.
#[test]
fn pages_in_one_packet_with_an_order_hold_no_other_order_up() {
    let server = Local::idle();
    put_large_orders(&server.db(), 10, 1_000);
    let asked = Instant::now();
    server.post(order("first")).expect(200, &created("first"));
    let alone = asked.elapsed();
    let mut greedy = server.client();
    greedy.set_read_timeout(2 * PATIENCE).unwrap();
    let pages = quick_or_slow(4, 30);
    greedy.send([post(order("one-more")), get("/orders?limit=100&user_id=big").repeat(pages).into_bytes()].concat()).unwrap();
    let reader = std::thread::spawn(move || {
        greedy.answer().expect(200, &created("one-more"));
        (0..pages).for_each(|_| _ = greedy.answer().expect_status(200));
    });
    let mut slowest = Duration::ZERO;
    let mut n = 0;
    while !reader.is_finished() {
        let asked = Instant::now();
        server.post(order(&format!("o-{n}"))).expect(200, &created(&format!("o-{n}")));
        slowest = slowest.max(asked.elapsed());
        n += 1;
    }
    reader.join().unwrap();
    eprintln!("{n} orders beside {pages} pages: the slowest took {slowest:?}, {alone:?} alone");
    assert!(slowest < 20 * alone + Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn the_memory_of_large_pages_is_given_back() {
    if left_out() {
        return;
    }
    const AT_REST: u64 = 60 << 20;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    put_large_orders(&server.db(), 20, 1_000);
    let worker = Worker::of(&server);
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for _ in 0..quick_or_slow(6, 16) {
                scope.spawn(|| {
                    let mut client = server.client();
                    client.set_read_timeout(2 * PATIENCE).unwrap();
                    assert_eq!(client.ask(get("/orders?limit=100")).status, 200);
                });
            }
        });
    }
    let given_back = comes_true(Duration::from_secs(15), || worker.resident_bytes() < AT_REST);
    assert!(given_back, "{} MiB are kept: {}", worker.resident_bytes() >> 20, server.stderr());
    assert!(worker.lives(), "a new process is no answer");
    server.stop();
}
