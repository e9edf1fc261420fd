//! Well-behaved clients that go on whatever happens to the server, and what they were told: the measure of every fault here.
//!
//! They order over kept connections, connect again when one is cut, and remember each order that was acknowledged. Their pace is
//! bounded. What is answered with 503 is not sent again; any other answer is wrong. They follow a server that is started anew elsewhere.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use orderd::Address;

use crate::harness::{Client, Folder, PATIENCE, Process, Serving, comes_true, connection, created, get, order, orderd, post};

/// What a client waits between two orders, and after a failure. Bounds what a test leaves on the disk.
const PACE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));
/// Within which something that comes by itself must come, on a busy machine too. No promise rests on it.
pub const SOON: Duration = PATIENCE;
/// Within which service and processing are promised to be back after a fault is over.
const PROMISED: Duration = Duration::from_secs(5);
/// How long a client waits for an answer. A worker that is gone leaves some requests without one, and a test that ends waits for all.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts the binary on a free port in `folder`, with these flags besides.
pub fn command(folder: &Folder, flags: &[&str]) -> Command {
    let mut command = orderd(folder);
    command.args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// The binary on `orders.db` in `folder`, run by a shell after `script`, such as one that sets a limit.
pub fn after_script(folder: &Folder, script: &str, flags: &[&str]) -> Command {
    let mut command = crate::harness::in_clean_environment(Command::new("sh"), folder);
    let script = format!("{script}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_orderd"), "--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// Clients, until they are stopped.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    name: String,
    address: Mutex<Option<Address>>,
    over: AtomicBool,
    sent: AtomicUsize,
    acknowledged: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Starts so many clients, whose orders are `name-0`, `name-1`, …
    pub fn start(name: &str, clients: usize, server: &Process) -> Load {
        let shared = Arc::new(Shared { name: name.into(), ..Shared::default() });
        let client = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.order_until_over())
        };
        let load = Load { threads: (0..clients).map(client).collect(), shared };
        load.follow(server);
        load
    }

    /// Turns to a server that was started anew.
    pub fn follow(&self, server: &Process) {
        *self.shared.address.lock().unwrap() = Some(server.address().clone());
    }

    /// How many orders were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.lock().unwrap().len()
    }

    /// What the clients were told so far.
    pub fn so_far(&self) -> Told {
        let acknowledged = self.shared.acknowledged.lock().unwrap().iter().cloned().collect();
        // Of those that were sent, none may be missed here.
        Told { name: self.shared.name.clone(), acknowledged, sent: usize::MAX }
    }

    /// Waits until so many more orders have been acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, orders: usize) {
        let enough = self.acknowledged() + orders;
        let came = comes_true(PATIENCE, || self.acknowledged() >= enough);
        assert!(came, "no {orders} more orders were acknowledged: {}", self.acknowledged());
    }

    /// Ends it. Says what the clients were told.
    #[track_caller]
    pub fn stop(mut self) -> Told {
        self.end();
        let wrong = std::mem::take(&mut *self.shared.wrong.lock().unwrap());
        assert!(wrong.is_empty(), "{} wrong answers: {}", wrong.len(), wrong[0]);
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        let acknowledged: HashSet<_> = acknowledged.into_iter().collect();
        Told { name: self.shared.name.clone(), acknowledged, sent: self.shared.sent.load(Ordering::Relaxed) }
    }

    fn end(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn order_until_over(&self) {
        let mut client: Option<(Address, Client)> = None;
        while !self.over.load(Ordering::Relaxed) {
            let Some(address) = self.address.lock().unwrap().clone() else {
                std::thread::sleep(PACE.1);
                continue;
            };
            let kept = client.take().filter(|(of, _)| *of == address).map(|(_, client)| Ok(client));
            let connected = kept.unwrap_or_else(|| Client::connect(&address));
            let Ok(mut connected) = connected.and_then(|mut c| c.set_read_timeout(ANSWER).map(|()| c)) else {
                std::thread::sleep(PACE.1);
                continue;
            };
            let id = format!("{}-{}", self.name, self.sent.fetch_add(1, Ordering::Relaxed));
            let failed = match connected.try_ask(post(order(&id))) {
                Ok(answer) if answer.status == 200 && answer.body.trim_end() == created(&id) => {
                    self.acknowledged.lock().unwrap().push(id);
                    client = Some((address, connected));
                    false
                }
                Ok(answer) if answer.status == 503 => true,
                Ok(answer) => {
                    self.wrong.lock().unwrap().push(answer.exchange());
                    true
                }
                // It was killed, or a limit closed the connection.
                Err(_) => true,
            };
            std::thread::sleep(if failed { PACE.1 } else { PACE.0 });
        }
    }
}

/// What clients were told.
#[derive(Default)]
pub struct Told {
    name: String,
    pub acknowledged: HashSet<String>,
    sent: usize,
}

impl Told {
    /// Those acknowledged orders that are not among the rows. A server that is not there any more has none.
    pub fn lost(&self, server: &Process) -> usize {
        let stored: HashSet<_> = server.rows().into_iter().map(|row| row.order_id).collect();
        self.acknowledged.difference(&stored).count()
    }

    /// Asserts that each acknowledged order is there and none is there twice; that all end; that the counts are exact; and that
    /// whoever asks again is told the same, without another order.
    #[track_caller]
    pub fn holds_after_a_drain(&self, server: &Process) {
        self.holds(server);
        let drained = comes_true(2 * PATIENCE, || {
            let rows = server.rows();
            rows.iter().all(|row| row.status == "Completed" && row.attempts >= 1)
        });
        assert!(drained, "not all orders end: {:?}\n{}", server.metrics(), last_words(server));
        let rows = server.rows();
        let metrics = server.metrics();
        assert!(metrics.all_completed(rows.len() as u64), "{} rows and {metrics:?}", rows.len());
        // Some of them, as all would take longer than the fault.
        let mut client = server.client();
        for id in self.acknowledged.iter().take(100) {
            client.ask(post(order(id))).expect(200, &created(id)).expect_header("Idempotent-Replayed", "true");
        }
        assert_eq!(server.rows().len(), rows.len(), "an order that was sent again is there twice");
    }

    /// The control of all checks here: deletes an acknowledged order by hand, which must be seen to be lost.
    #[track_caller]
    pub fn misses_a_deleted_one(&self, server: &Process) {
        // Killed at one of its first writes, a server has acknowledged nothing.
        let Some(id) = self.acknowledged.iter().next() else { return };
        connection(&server.db()).execute("DELETE FROM orders WHERE order_id = ?1", [id]).unwrap();
        assert_eq!(self.lost(server), 1, "the check does not see that an order is lost");
    }

    /// Asserts that each acknowledged order is there, none is there twice, and none was invented.
    #[track_caller]
    pub fn holds(&self, server: &Process) {
        let rows = server.rows();
        let ours: Vec<_> = rows.iter().filter(|row| row.order_id.starts_with(&format!("{}-", self.name))).collect();
        let stored: HashSet<_> = ours.iter().map(|row| row.order_id.clone()).collect();
        let missing: Vec<_> = self.acknowledged.difference(&stored).take(5).collect();
        let lost = self.lost(server);
        assert!(
            lost == 0,
            "{lost} of {} acknowledged orders are lost: {missing:?}…\n{}",
            self.acknowledged.len(),
            last_words(server)
        );
        assert_eq!(stored.len(), ours.len(), "an order is there twice");
        assert!(ours.len() <= self.sent, "{} orders though {} were sent", ours.len(), self.sent);
    }
}

/// How long it took until service and processing were back once a fault was over.
#[derive(Debug, Default, Clone, Copy)]
pub struct Back {
    /// Until an order was taken.
    pub service: Duration,
    /// Until such an order was completed, less the time that its processing takes.
    pub processing: Duration,
}

impl Back {
    /// Posts one order after another, under the name `name`, until one is acknowledged, and waits until that one is completed. Called
    /// when the fault is over; `work` is how long processing takes.
    #[track_caller]
    pub fn of(server: &Process, name: &str, work: Duration) -> Back {
        let began = Instant::now();
        let mut n = 0;
        let mut taken = None;
        let served = comes_true(2 * PATIENCE, || {
            n += 1;
            let id = format!("{name}-{n}");
            taken = (status_of(server, &id) == Some(200)).then_some(id);
            taken.is_some()
        });
        assert!(served, "no order is taken {:?} after the fault is over\n{}", began.elapsed(), last_words(server));
        let service = began.elapsed();
        let id = taken.expect("one was taken");
        let done = comes_true(2 * PATIENCE, || server.rows().iter().any(|row| row.order_id == id && row.status == "Completed"));
        assert!(done, "{id} is not completed {:?} after the fault is over\n{}", began.elapsed(), last_words(server));
        Back { service, processing: began.elapsed().saturating_sub(work) }
    }

    /// The longer times of two.
    pub fn longer(self, other: Back) -> Back {
        Back { service: self.service.max(other.service), processing: self.processing.max(other.processing) }
    }

    /// Asserts that both came within what is promised; on a machine that is too busy for that, within what a start takes there now.
    #[track_caller]
    pub fn in_time(self, server: &Process) -> Back {
        let took = self.service.max(self.processing);
        if took > PROMISED {
            let most = PROMISED.max(100 * start_takes());
            assert!(took <= most, "{self} after the fault is over, and {most:?} are promised\n{}", last_words(server));
        }
        self
    }
}

impl std::fmt::Display for Back {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "service back after {:.2} s, processing after {:.2} s",
            self.service.as_secs_f64(),
            self.processing.as_secs_f64()
        )
    }
}

/// How long a start on an empty folder takes just now: some hundredths of a second on a machine that does nothing else.
pub fn start_takes() -> Duration {
    let folder = Folder::new();
    let began = Instant::now();
    let server = Process::start(&folder, &[]);
    let took = began.elapsed();
    server.stop();
    took
}

/// The status of the answer to a request on a connection of its own, if there is an answer within a second or two.
fn asked(server: &Process, request: impl AsRef<[u8]>) -> Option<u16> {
    let mut client = Client::connect(server.address()).ok()?;
    client.set_read_timeout(Duration::from_secs(2)).ok()?;
    client.try_ask(request).ok().map(|answer| answer.status)
}

/// The status of the answer to an order, if there is an answer.
pub fn status_of(server: &Process, id: &str) -> Option<u16> {
    asked(server, post(order(id)))
}

/// The status of the answer to `/healthz`, if there is an answer.
pub fn health_of(server: &Process) -> Option<u16> {
    asked(server, get("/healthz"))
}

/// The last lines that it wrote to standard error.
pub fn last_words(server: &Process) -> String {
    let all = server.stderr();
    let lines: Vec<_> = all.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A generator of numbers that look like chance and are the same in every run: xorshift64*.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `below`.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next() >> 33) as usize % below.max(1)
    }
}
