//! What the tests share: folders, deadlines, rows of the database, and all that one asks of anything that serves.
//!
//! Its rooms: `browser` a real one, `by_hand` what a person changes, `requests` what is sent and expected, `client` a connection, `sockets` connections of a special kind, `conversation`
//! pipelines of all kinds, `document` what `openapi.json` says of an answer, `local` a server in this process, `process` the
//! binary as a process, `cluster` a PostgreSQL and `proxy` what stands before it, `worker` the process that serves, `load` well-behaved clients, `readers` slow ones, `scrape` what a
//! collector of metrics is told, `slow` which tests a quick run leaves out, `small_disk`
//! one that can be filled. Everything cleans up behind itself when it is dropped,
//! also when a test fails.

mod browser;
mod by_hand;
mod client;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "the unit tests and the benchmarks, which share this file, use the rest of it")]
mod cluster;
mod conversation;
mod document;
mod load;
mod local;
mod process;
#[cfg(feature = "postgres")]
mod proxy;
mod readers;
mod requests;
mod scrape;
mod slow;
#[cfg(feature = "postgres")]
mod small_disk;
mod sockets;
mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orderd::Address;

pub use browser::{Browser, policy_hash};
pub use by_hand::{Held, OF_A_FILE, asked_by_hand, by_hand, connection, is_server, put_large_order, put_large_orders};
pub use client::{Answer, Client};
#[cfg(feature = "postgres")]
pub use cluster::{Cluster, Kind, cluster};
pub use conversation::Conversation;
pub use document::{Document, Operation, entries};
pub use load::beside;
pub use local::Local;
pub use process::{Ended, Process, asking, in_clean_environment, is_running, orderd, signal};
#[cfg(feature = "postgres")]
pub use proxy::{Proxy, Way};
pub use readers::{SlowReaders, Wanted};
pub use requests::{
    CHUNKED, CONTINUE, HOST, JSON, badly_framed, chunks, created, get, head, ids, in_status, largest_order, length_of,
    long_order, old, order, post, post_in_chunks, request, step, with,
};
pub use scrape::Scraped;
pub use slow::{is_slow_run, left_out, quick_or_slow};
#[cfg(feature = "postgres")]
pub use small_disk::SmallDisk;
pub use sockets::{connect_from, connect_from_afar, enough_descriptors, host, raw, resets_when_closed, tcp_address};
pub use worker::{Worker, most_memory_during};

/// The time to wait for what should come soon: far more than any machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The time at which a manual clock starts: 2023-11-14T22:13:20Z, in milliseconds.
pub const T0: u64 = 1_700_000_000_000;

/// Waits until `condition` holds.
#[track_caller]
pub fn poll_until(deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(comes_true(deadline, condition), "did not come true within {deadline:?}");
}

/// Waits until `condition` holds, and says whether it did.
pub fn comes_true(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A new folder, removed with all that is in it when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Short, as the path of a Unix socket has at most 107 bytes.
        let name = format!("orderd-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // Of a test run that was killed, by a process that had our id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What servers in it are to have as `--db`: a file, or a schema of its own when the tests are run on PostgreSQL.
    pub fn db(&self) -> PathBuf {
        by_hand::place(self)
    }

    /// The names of the files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        #[cfg(feature = "postgres")]
        cluster::assert_no_deadlock();
    }
}

/// A row of the database, as the sqlite3 shell would show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub order_id: String,
    pub total_amount: String,
    pub status: String,
    pub attempts: i64,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub completed_at: Option<i64>,
}

/// All rows of the database at `path`, in the order of their arrival.
pub fn rows(path: &Path) -> Vec<Row> {
    let columns = "order_id, total_amount, status, attempts, created_at, started_at, completed_at";
    let text = asked_by_hand(path, &format!("SELECT {columns} FROM orders ORDER BY seq"));
    let read = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let number = |n: usize| fields[n].parse().ok();
        Row {
            order_id: fields[0].into(),
            total_amount: fields[1].into(),
            status: fields[2].into(),
            attempts: number(3).unwrap(),
            created_at: number(4).unwrap(),
            started_at: number(5),
            completed_at: number(6),
        }
    };
    text.lines().map(read).collect()
}

/// What `/metrics` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    pub total: u64,
    pub average: f64,
    pub pending: u64,
    pub processing: u64,
    pub completed: u64,
}

impl Metrics {
    /// Only completed orders, and so many of them.
    pub fn all_completed(&self, orders: u64) -> bool {
        (self.total, self.pending, self.processing, self.completed) == (orders, 0, 0, orders)
    }
}

/// Something that answers HTTP and keeps its orders in a file.
pub trait Serving {
    fn address(&self) -> &Address;
    fn db(&self) -> PathBuf;

    #[track_caller]
    fn client(&self) -> Client {
        Client::connect(self.address()).unwrap_or_else(|e| panic!("cannot connect to {}: {e}", self.address()))
    }

    /// What holds of each step that a client can ask of an order, here of `known`: no order, no id, and no other method will do.
    #[track_caller]
    fn expect_step_only_by_post(&self, known: &str, name: &str) {
        self.ask(step("nobody", name)).expect(404, r#"{"detail":"Order not found"}"#);
        for id in ["", "%ff", "%00", &"i".repeat(256)] {
            self.ask(step(id, name)).expect_error(400, "bad_order_id");
        }
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let answer = self.ask(request(method, &format!("/orders/{known}/{name}"), &["Content-Length: 0"], ""));
            answer.expect_error(405, "method_not_allowed").expect_header("Allow", "POST");
        }
    }

    /// Asks over a connection of its own.
    #[track_caller]
    fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.client().ask(request)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        self.ask(get(path))
    }

    #[track_caller]
    fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.ask(post(body))
    }

    /// The status of an order; empty if there is no such order.
    #[track_caller]
    fn status(&self, id: &str) -> String {
        self.get(&format!("/order/{id}")).json()["status"].as_str().unwrap_or_default().to_string()
    }

    #[track_caller]
    fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        let json = answer.expect_status(200).json();
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| panic!("no count{}", answer.exchange()));
        Metrics {
            total: number(&json["total_orders"]),
            average: json["average_processing_time"].as_f64().unwrap_or_else(|| panic!("no average{}", answer.exchange())),
            pending: number(&json["status_counts"]["Pending"]),
            processing: number(&json["status_counts"]["Processing"]),
            completed: number(&json["status_counts"]["Completed"]),
        }
    }

    fn rows(&self) -> Vec<Row> {
        rows(&self.db())
    }

    /// The whole record of an order. `id` is put into the path as it is.
    #[track_caller]
    fn record(&self, id: &str) -> serde_json::Value {
        self.get(&format!("/orders/{id}")).expect_status(200).json()
    }

    /// Waits until an order is in `status`, and gives its record.
    #[track_caller]
    fn wait_for(&self, id: &str, status: &str) -> serde_json::Value {
        let done = comes_true(PATIENCE, || self.status(id) == status);
        let record = self.record(id);
        assert!(done, "{id} should be {status}: {record:#}");
        record
    }

    /// Creates these orders over one connection, many at once.
    #[track_caller]
    fn create(&self, ids: impl IntoIterator<Item = String>) {
        let mut client = self.client();
        let ids: Vec<_> = ids.into_iter().collect();
        // Not so many that the answers fill the connection while nobody reads them.
        for ids in ids.chunks(500) {
            client.send(ids.iter().flat_map(|id| post(order(id))).collect::<Vec<_>>()).unwrap();
            ids.iter().for_each(|id| _ = client.answer().expect(200, &created(id)));
        }
    }

    /// Waits until all orders are completed, and there are so many.
    #[track_caller]
    fn wait_until_completed(&self, orders: u64) {
        let done = comes_true(2 * PATIENCE, || self.metrics().all_completed(orders));
        assert!(done, "{orders} orders should be completed: {:?}", self.metrics());
    }
}
