//! The figures that are absolute: a burst, a start, memory, the size of the binary.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{self, Connection, Load, Outcome};
use crate::files::{Contents, verify};
use crate::parts::wait_until_completed;
use crate::process::{ORDERD, Process};
use crate::report::{Bound, Figure, grouped, median};
use crate::rounds::Bench;
use crate::workload::{Ask, Requests};

/// Connections in the burst and open at once.
const CROWD: usize = 1_000;
/// Threads that open the burst: a few, so that they don't keep the server from its work.
const BURST_THREADS: usize = 2;
/// Bytes of a megabyte: the small one.
const MB: f64 = 1e6;

/// 1,000 orders at once on 1,000 connections.
pub fn burst(bench: &mut Bench) -> Result<()> {
    let (mut answered, mut completed) = (Vec::new(), Vec::new());
    for round in 1..=bench.plan.bursts {
        bench.progress.step(&format!("burst {round} of {}", bench.plan.bursts));
        let database = bench.folder.fresh("burst.db")?;
        let server = Process::orderd(&database, &[])?;
        let seed = bench.seed();
        match rush(&server, seed) {
            Ok(outcome) => {
                answered.push(outcome.percentile_ms(1.0) / 1_000.0);
                wait_until_completed(&server, CROWD as u64)?;
                completed.push(outcome.started.elapsed().as_secs_f64());
                server.stop()?;
                verify(&database, &outcome)?;
            }
            // Connections that nobody answers are a bad figure; every other error is the end.
            Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) => {
                answered.push(f64::INFINITY);
                completed.push(f64::INFINITY);
                server.kill()?;
            }
            Err(e) => return Err(e),
        }
    }
    let worst = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    let figure = |name: &str, times: &[f64], most| Figure {
        name: name.into(),
        value: worst(times),
        unit: "s",
        bound: Bound::AtMost(most),
    };
    bench.report.add(figure("1,000 orders at once on 1,000 connections: last answer", &answered, 0.25));
    bench.report.add(figure("the same: last one Completed", &completed, 5.5));
    Ok(())
}

/// Opens all connections without waiting for answers, and asks on each at once. Latencies count from the first connection.
fn rush(server: &Process, seed: u64) -> Result<Outcome> {
    let at_once = Barrier::new(BURST_THREADS);
    let started = Instant::now();
    let share = CROWD / BURST_THREADS;
    let run = |seed| -> Result<Vec<u32>> {
        at_once.wait();
        let mut requests = Requests::new(Ask::Create { seed }, 0);
        let mut connections = Vec::with_capacity(share);
        for _ in 0..share {
            let mut connection = Connection::open(server.address)?;
            connection.send(requests.next())?;
            connections.push(connection);
        }
        let mut answered_us = Vec::with_capacity(share);
        for connection in &mut connections {
            connection.receive()?;
            answered_us.push(started.elapsed().as_micros() as u32);
        }
        Ok(answered_us)
    };
    let seeds: Vec<u64> = (0..BURST_THREADS as u64).map(|n| seed + n).collect();
    let mut latencies_us = std::thread::scope(|scope| {
        let threads: Vec<_> = seeds.iter().map(|seed| scope.spawn(|| run(*seed))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a client thread panicked".into())))
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    latencies_us.sort_unstable();
    let acknowledged = seeds.into_iter().map(|seed| (seed, share as u64)).collect();
    Ok(Outcome { started, rate: f64::NAN, cpu: None, latencies_us, acknowledged })
}

/// Start to first answer after a crash, with many finished and 10,000 unfinished orders.
pub fn start(bench: &mut Bench) -> Result<()> {
    let database = bench.many()?;
    let mut times_ms = Vec::new();
    for round in 1..=2 * bench.plan.rounds + 1 {
        bench.progress.step(&format!("start {round}"));
        let server = Process::orderd(&database, &[])?;
        Connection::open(server.address)?.ask(Requests::new(Ask::Metrics, 0).next())?;
        times_ms.push(server.started.elapsed().as_secs_f64() * 1_000.0);
        // Time to claim some orders, which the next start finds interrupted.
        std::thread::sleep(Duration::from_millis(50));
        server.kill()?;
    }
    let orders = grouped(bench.plan.many as f64);
    let name = format!("start to first answer after a crash, {orders} finished and 10,000 unfinished orders");
    bench.report.add(Figure { name, value: median(times_ms), unit: "ms", bound: Bound::AtMost(50.0) });
    Ok(())
}

/// Memory and the binary.
pub fn size(bench: &mut Bench) -> Result<()> {
    let server = Process::orderd(&bench.folder.fresh("idle.db")?, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    weigh(bench, &server, "idle", 8.0)?;
    let crowd = client::open(server.address, CROWD)?;
    weigh(bench, &server, "with 1,000 open connections", 48.0)?;
    drop(crowd);
    server.stop()?;

    let database = bench.filled("pending.db", Contents { pending: bench.plan.many, ..Contents::default() })?;
    let server = Process::orderd(&database, &[])?;
    // Some traffic first, so that its page caches are as full as in service.
    let seed = bench.seed();
    let outcome = Load { duration: Duration::from_secs(1), ..bench.load(&server, Ask::Create { seed }) }.run()?;
    weigh(bench, &server, &format!("with {} pending orders, after a second of POST", grouped(bench.plan.many as f64)), 32.0)?;
    server.stop()?;
    verify(&database, &outcome)?;

    let bytes = std::fs::metadata(ORDERD)?.len();
    let name = "the stripped release binary".into();
    bench.report.add(Figure { name, value: bytes as f64 / MB, unit: "MB", bound: Bound::AtMost(3.5) });
    Ok(())
}

fn weigh(bench: &mut Bench, server: &Process, when: &str, most: f64) -> Result<()> {
    let memory = server.memory()?;
    let name = format!("memory {when} (PSS {:.1} MB)", memory.pss as f64 / MB);
    bench.report.add(Figure { name, value: memory.rss as f64 / MB, unit: "MB", bound: Bound::AtMost(most) });
    Ok(())
}
