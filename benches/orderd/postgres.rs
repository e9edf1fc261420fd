//! Orders on a PostgreSQL server of the benchmark's own (the feature `postgres`), beside orders in a file.
//!
//! The server syncs each commit, as it does by default, and has room for its log. It runs on the same cores as its clients, so what
//! is measured is how dear an order is, not how far a server of its own would go. Each turn has a schema of its own, and what was
//! acknowledged is looked for in it afterwards.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{Connection, Load, Outcome};
use crate::parts::{COMPLETING, create_and_complete_in, wait_until_completed};
use crate::process::{Process, cpu_of};
use crate::report::{Bound, Figure, grouped, median, median_ratio};
use crate::rounds::{Bench, CONNECTIONS};
use crate::workload::{Ask, Requests, order_id, order_id_text};

#[allow(dead_code, clippy::unwrap_used, reason = "the tests, whose it is, use the rest of it, and may panic")]
#[path = "../../tests/it/harness/cluster.rs"]
mod cluster;
use cluster::Cluster;

/// What somebody would set who means it, and nothing that is less safe than the defaults.
const SETTINGS: [&str; 3] = ["shared_buffers=512MB", "max_wal_size=4GB", "max_connections=50"];
/// As [`COMPLETING`], but with claims that are small beside a tenth of the backlog.
const DRAINING: [&str; 4] = ["--processing-time", "0s", "--concurrency", "500"];
/// Connections that create while a backlog is worked off.
const CALLERS: usize = 4;
/// A backlog is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The share of a backlog whose claims are compared, at its start and its end.
const SHARE: f64 = 0.1;

/// All figures of orders on a server.
pub fn postgres(bench: &mut Bench) -> Result<()> {
    let Some(server) = Cluster::with(&SETTINGS) else {
        eprintln!("skipped: no PostgreSQL is installed");
        return Ok(());
    };
    let server = Server { cluster: server };
    create(bench, &server)?;
    complete(bench, &server)?;
    drain(bench, &server)
}

/// The server and what is asked of it.
struct Server {
    cluster: Cluster,
}

/// A schema of its own, gone when it is dropped.
struct Schema<'a> {
    server: &'a Server,
    name: String,
    url: String,
}

impl Server {
    fn schema(&self, bench: &mut Bench) -> Schema<'_> {
        let name = format!("bench_{}", bench.seed());
        let url = self.cluster.url(&name, "");
        Schema { server: self, name, url }
    }

    fn cpu(&self) -> Duration {
        cpu_of(self.cluster.id())
    }
}

impl Schema<'_> {
    fn orderd(&self, flags: &[&str]) -> Result<Process> {
        Process::orderd(Path::new(&self.url), flags)
    }

    /// Looks for every order that was acknowledged. One that is missing is an error.
    fn verify(&self, outcome: &Outcome) -> Result<()> {
        let rows = self.server.cluster.try_sql(&format!("SELECT order_id FROM {}.orders", self.name))?;
        let stored: HashSet<&str> = rows.lines().collect();
        for (seed, count) in &outcome.acknowledged {
            for number in 0..*count {
                let id = order_id(*seed, number);
                if !stored.contains(order_id_text(&id)) {
                    return Err(format!("LOST: order {} was acknowledged and is not on the server", order_id_text(&id)).into());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Schema<'_> {
    fn drop(&mut self) {
        let _ = self.server.cluster.try_sql(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}

/// Created through one instance, and through two, beside a file.
fn create(bench: &mut Bench, server: &Server) -> Result<()> {
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let spent = std::cell::RefCell::new((&mut own, &mut theirs));
    let [file, one, two] = bench.interleave(
        "orders/s",
        [
            ("POST, orderd, a file", &|bench| {
                let database = bench.folder.fresh("post.db")?;
                bench.create(Process::orderd(&database, &[])?, &database)
            }),
            ("POST, orderd, PostgreSQL", &|bench| {
                let schema = server.schema(bench);
                let instance = schema.orderd(&["--concurrency", "0"])?;
                let seed = bench.seed();
                let load = bench.load(&instance, Ask::Create { seed });
                let before = server.cpu();
                let outcome = load.run()?;
                let mut spent = spent.borrow_mut();
                spent.1.push((server.cpu() - before).as_secs_f64() * 1e6 / outcome.orders() as f64);
                spent.0.push(outcome.cpu.unwrap_or_default().as_secs_f64() * 1e6 / outcome.orders() as f64);
                instance.stop()?;
                schema.verify(&outcome)?;
                Ok(outcome)
            }),
            ("POST, two of orderd, PostgreSQL", &|bench| {
                let schema = server.schema(bench);
                let outcome = through_two(bench, &schema)?;
                schema.verify(&outcome)?;
                Ok(outcome)
            }),
        ],
    )?;
    let ratio = |name, one, other, bound| Figure::ratio(name, median_ratio(one, other), bound);
    bench.report.add(ratio("POST /order on PostgreSQL over a file", &one, &file, Bound::AtLeast(0.5)));
    bench.report.add(ratio("POST /order through two instances over one, same cores", &two, &one, Bound::None));
    let us = |name: &str, spent: Vec<f64>| Figure { name: name.into(), value: median(spent), unit: "us", bound: Bound::None };
    bench.report.add(us("processor time of orderd for an order created on PostgreSQL", own));
    bench.report.add(us("processor time of PostgreSQL for it", theirs));
    Ok(())
}

/// Half of the connections each.
fn through_two(bench: &mut Bench, schema: &Schema<'_>) -> Result<Outcome> {
    let instances = [schema.orderd(&["--concurrency", "0"])?, schema.orderd(&["--concurrency", "0"])?];
    let loads: Vec<Load<'_>> = instances
        .iter()
        .map(|instance| {
            let seed = bench.seed();
            Load { connections: CONNECTIONS / 2, ..bench.load(instance, Ask::Create { seed }) }
        })
        .collect();
    let outcomes = std::thread::scope(|scope| {
        let running: Vec<_> = loads.iter().map(|load| scope.spawn(|| load.run())).collect();
        running
            .into_iter()
            .map(|load| load.join().unwrap_or_else(|_| Err("a client thread panicked".into())))
            .collect::<Result<Vec<_>>>()
    })?;
    let both = outcomes.into_iter().reduce(|mut one, other| {
        one.rate += other.rate;
        one.cpu = one.cpu.zip(other.cpu).map(|(one, other)| one + other);
        one.latencies_us.extend(other.latencies_us);
        one.latencies_us.sort_unstable();
        one.acknowledged.extend(other.acknowledged);
        one
    });
    instances.into_iter().try_for_each(Process::stop)?;
    both.ok_or_else(|| "there are two".into())
}

/// Created and completed.
fn complete(bench: &mut Bench, server: &Server) -> Result<()> {
    let [file, on_server] = bench.interleave(
        "orders/s",
        [
            ("created and completed, orderd, a file", &|bench| {
                let database = bench.folder.fresh("complete.db")?;
                crate::parts::create_and_complete(bench, Process::orderd(&database, &COMPLETING)?, &database)
            }),
            ("created and completed, orderd, PostgreSQL", &|bench| {
                let schema = server.schema(bench);
                let outcome = create_and_complete_in(bench, schema.orderd(&COMPLETING)?)?;
                schema.verify(&outcome)?;
                Ok(outcome)
            }),
        ],
    )?;
    let ratio = median_ratio(&on_server, &file);
    bench.report.add(Figure::ratio("created and completed on PostgreSQL over a file", ratio, Bound::None));
    Ok(())
}

/// A backlog is worked off while orders come and somebody's old snapshot keeps every dead row: once.
fn drain(bench: &mut Bench, server: &Server) -> Result<()> {
    let backlog = bench.plan.many;
    let schema = server.schema(bench);
    // An instance makes the schema.
    schema.orderd(&["--concurrency", "0"])?.stop()?;
    bench.progress.step(&format!("putting {} pending orders on the server", grouped(backlog as f64)));
    server.cluster.try_sql(&format!(
        "INSERT INTO {schema}.orders (order_id, user_id, item_ids, total_amount, status, created_at)
           SELECT md5(n::text), 'user1', '[\"item1\",\"item2\"]', '100.0', 'Pending', 1 FROM generate_series(1, {backlog}) AS n;
         UPDATE {schema}.counts SET pending = pending + {backlog} WHERE slot = 0",
        schema = schema.name
    ))?;
    bench.progress.step("working them off beside an old snapshot");
    let _snapshot = Snapshot::hold(&schema)?;
    let instance = schema.orderd(&DRAINING)?;
    let over = Arc::new(AtomicBool::new(false));
    let seed = bench.seed();
    let (looks, created) = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS as u64)
            .map(|n| {
                let (over, address) = (over.clone(), instance.address);
                scope.spawn(move || call(address, seed + n, &over))
            })
            .collect();
        let looks = watch(&instance, backlog);
        over.store(true, Ordering::Relaxed);
        let created: Result<u64> =
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| Err("a client thread panicked".into()))).sum();
        (looks, created)
    });
    let (looks, created) = (looks?, created?);
    wait_until_completed(&instance, backlog + created)?;
    instance.stop()?;
    let part = backlog as f64 * SHARE;
    let first = rate(&looks, 0.0, part);
    let last = rate(&looks, backlog as f64 - part, backlog as f64);
    let name = |which: &str| format!("completed/s, the {which} tenth of {} pending, old snapshot", grouped(backlog as f64));
    let per_second = |which, value| Figure { name: name(which), value, unit: "/s", bound: Bound::None };
    bench.report.add(per_second("first", first));
    bench.report.add(per_second("last", last));
    bench.report.add(Figure::ratio("the last over the first", last / first, Bound::AtLeast(0.5)));
    Ok(())
}

/// Creates orders one after the other until it is over, with a pause that leaves the cores to the processor.
fn call(address: std::net::SocketAddr, seed: u64, over: &AtomicBool) -> Result<u64> {
    let mut connection = Connection::open(address)?;
    let mut requests = Requests::new(Ask::Create { seed }, 0);
    let mut created = 0;
    while !over.load(Ordering::Relaxed) {
        connection.ask(requests.next())?;
        created += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(created)
}

/// How many are completed at which time, until so many are.
fn watch(instance: &Process, orders: u64) -> Result<Vec<(f64, f64)>> {
    let mut connection = Connection::open(instance.address)?;
    let mut requests = Requests::new(Ask::Metrics, 0);
    let begun = Instant::now();
    let mut looks = Vec::new();
    loop {
        connection.ask(requests.next())?;
        let completed = crate::parts::completed(&connection)?;
        looks.push((begun.elapsed().as_secs_f64(), completed as f64));
        if completed >= orders {
            return Ok(looks);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How many a second from one count to another.
fn rate(looks: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let at = |count: f64| looks.iter().find(|(_, completed)| *completed >= count).copied().unwrap_or((f64::NAN, f64::NAN));
    let ((begun, first), (ended, last)) = (at(from.max(1.0)), at(to));
    (last - first) / (ended - begun)
}

/// A session that has looked at the orders and stays where it is.
struct Snapshot(std::process::Child);

impl Snapshot {
    fn hold(schema: &Schema<'_>) -> Result<Snapshot> {
        let mut child = schema.server.cluster.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let text = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {}.counts;\n", schema.name);
        child.stdin.as_mut().ok_or("it has an input")?.write_all(text.as_bytes())?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().ok_or("it has an output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        if line.trim() == "64" { Ok(Snapshot(child)) } else { Err(format!("no snapshot: {line:?}").into()) }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
