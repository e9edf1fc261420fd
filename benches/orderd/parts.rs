//! The figures that are ratios: each part lets its contestants take turns and divides.

use std::path::Path;
use std::time::Duration;

use crate::client::{Connection, Load, Outcome};
use crate::contestants::Contestant;
use crate::files::{Contents, SEED, verify};
use crate::process::Process;
use crate::report::{Bound, Figure, grouped, median, median_ratio};
use crate::rounds::{Bench, CONNECTIONS, Turn};
use crate::workload::{Ask, Requests};
use crate::{Result, disk};

/// With orders that take no time, what limits their completion is how many one transaction takes up.
pub const COMPLETING: [&str; 4] = ["--processing-time", "0s", "--concurrency", "10000"];

/// Orders in the file from which `beside` reads.
const FEW: u64 = 10_000;

/// `POST /order`, beside tiny_http alone, one transaction an order, and SQLite alone.
pub fn post(bench: &mut Bench) -> Result<()> {
    let turns: [Turn<'_>; 4] = [
        ("POST, ceiling: tiny_http alone", &|bench| ceiling(bench, Ask::Create { seed: 0 })),
        ("POST, orderd", &|bench| {
            let database = bench.folder.fresh("post.db")?;
            bench.create(Process::orderd(&database, &[])?, &database)
        }),
        ("POST, one transaction an order", &|bench| {
            let database = bench.folder.fresh("naive.db")?;
            bench.create(Process::contestant(Contestant::Naive, &database)?, &database)
        }),
        ("inserts without HTTP, 64 a transaction", &|bench| {
            let database = bench.folder.fresh("bare.db")?;
            let seed = bench.seed();
            let outcome = disk::inserts(&database, seed, bench.plan.turn)?;
            verify(&database, &outcome)?;
            Ok(outcome)
        }),
    ];
    let [ceiling, orderd, naive, bare] = bench.interleave("orders/s", turns)?;
    bench.report.add(Figure::ratio(
        "POST /order over the ceiling's POST",
        median_ratio(&orderd, &ceiling),
        Bound::AtLeast(0.65),
    ));
    bench.report.add(Figure::ratio(
        "POST /order over one transaction an order",
        median_ratio(&orderd, &naive),
        Bound::AtLeast(5.0),
    ));
    bench.report.add(Figure::ratio("POST /order over inserts without HTTP", median_ratio(&orderd, &bare), Bound::None));
    Ok(())
}

/// `GET /order/{id}` from a big file, beside tiny_http alone.
pub fn get(bench: &mut Bench) -> Result<()> {
    let database = bench.many()?;
    let orders = bench.plan.many;
    let [ceiling, orderd] = bench.interleave(
        "answers/s",
        [
            ("GET, ceiling: tiny_http alone", &|bench| ceiling(bench, Ask::Status { seed: SEED, orders })),
            (&format!("GET, orderd, {} orders", grouped(orders as f64)), &|bench| {
                let server = Process::orderd(&database, &["--concurrency", "0"])?;
                let outcome = bench.ask_status(&server, orders)?;
                server.stop()?;
                Ok(outcome)
            }),
        ],
    )?;
    let name = format!("GET /order/{{id}}, {} orders, over the ceiling's GET", grouped(orders as f64));
    bench.report.add(Figure::ratio(&name, median_ratio(&orderd, &ceiling), Bound::AtLeast(0.92)));
    Ok(())
}

/// Orders created and completed.
pub fn complete(bench: &mut Bench) -> Result<()> {
    let [ceiling, orderd] = bench.interleave(
        "orders/s",
        [
            ("POST, ceiling, again", &|bench| ceiling(bench, Ask::Create { seed: 0 })),
            ("created and completed, orderd", &|bench| {
                let database = bench.folder.fresh("complete.db")?;
                create_and_complete(bench, Process::orderd(&database, &COMPLETING)?, &database)
            }),
        ],
    )?;
    let ratio = median_ratio(&orderd, &ceiling);
    bench.report.add(Figure::ratio("created and completed over the ceiling's POST", ratio, Bound::AtLeast(0.4)));
    Ok(())
}

/// One turn of creating orders; the rate counts until the last one is completed.
pub fn create_and_complete(bench: &mut Bench, server: Process, database: &Path) -> Result<Outcome> {
    let outcome = create_and_complete_in(bench, server)?;
    verify(database, &outcome)?;
    Ok(outcome)
}

/// The same, wherever the orders are.
pub fn create_and_complete_in(bench: &mut Bench, server: Process) -> Result<Outcome> {
    let seed = bench.seed();
    let mut outcome = bench.load(&server, Ask::Create { seed }).run()?;
    wait_until_completed(&server, outcome.orders())?;
    outcome.rate = outcome.orders() as f64 / outcome.started.elapsed().as_secs_f64();
    outcome.cpu = Some(server.cpu());
    server.stop()?;
    Ok(outcome)
}

/// `/metrics` must not count.
pub fn metrics(bench: &mut Bench) -> Result<()> {
    let most = bench.most()?;
    let few = bench.filled("few.db", Contents { completed: 1_000, ..Contents::default() })?;
    let ask = |database| {
        move |bench: &mut Bench| {
            let server = Process::orderd(database, &[])?;
            let outcome = bench.load(&server, Ask::Metrics).run()?;
            server.stop()?;
            Ok(outcome)
        }
    };
    let orders = grouped(bench.plan.most as f64);
    let [few, most] = bench.interleave(
        "answers/s",
        [("GET /metrics, 1,000 orders", &ask(&few)), (&format!("GET /metrics, {orders} orders"), &ask(&most))],
    )?;
    let name = format!("GET /metrics with {orders} orders over 1,000");
    bench.report.add(Figure::ratio(&name, median_ratio(&most, &few), Bound::AtLeast(0.9)));
    Ok(())
}

/// `POST /order` into a big file.
pub fn big(bench: &mut Bench) -> Result<()> {
    let most = bench.most()?;
    let orders = grouped(bench.plan.most as f64);
    let [empty, most] = bench.interleave(
        "orders/s",
        [
            ("POST, orderd, empty file", &|bench| {
                let database = bench.folder.fresh("post.db")?;
                bench.create(Process::orderd(&database, &[])?, &database)
            }),
            (&format!("POST, orderd, {orders} orders"), &|bench| bench.create(Process::orderd(&most, &[])?, &most)),
        ],
    )?;
    let name = format!("POST /order with {orders} orders over an empty file");
    bench.report.add(Figure::ratio(&name, median_ratio(&most, &empty), Bound::AtLeast(0.6)));
    Ok(())
}

/// Reading while others write: by one connection, which feels every wait, and by as many as write. Beside tiny_http alone, as
/// what waits for a core does so whatever the server does.
pub fn beside(bench: &mut Bench) -> Result<()> {
    let series = bench.interleave(
        "answers/s",
        [
            ("GET alone, 1 connection", &|bench| orderd_beside(bench, 1, false)),
            ("GET beside 64 that create, 1 connection", &|bench| orderd_beside(bench, 1, true)),
            ("GET alone, 64 connections", &|bench| orderd_beside(bench, CONNECTIONS, false)),
            ("GET beside 64 that create, 64 connections", &|bench| orderd_beside(bench, CONNECTIONS, true)),
            ("GET alone, 1 connection, ceiling", &|bench| ceiling_beside(bench, 1, false)),
            ("GET beside 64 that create, 1 connection, ceiling", &|bench| ceiling_beside(bench, 1, true)),
        ],
    )?;
    let figures = [("", 1, Bound::AtMost(5.0)), ("", CONNECTIONS, Bound::AtMost(5.0)), ("ceiling's ", 1, Bound::None)];
    for ((whose, connections, bound), pair) in figures.into_iter().zip(series.chunks(2)) {
        let ratio = median(pair[0].samples.iter().zip(&pair[1].samples).map(|(alone, beside)| beside.p99_ms / alone.p99_ms));
        let name = format!("{whose}GET p99 (connections: {connections}) beside 64 that create, over GET p99 alone");
        bench.report.add(Figure::ratio(&name, ratio, bound));
    }
    Ok(())
}

fn orderd_beside(bench: &mut Bench, connections: usize, creating: bool) -> Result<Outcome> {
    let database = bench.folder.filled("beside.db", Contents { completed: FEW, ..Contents::default() })?;
    let server = Process::orderd(&database, &[])?;
    let (read, written) = read_beside(bench, &server, connections, creating)?;
    server.stop()?;
    if let Some(written) = written {
        verify(&database, &written)?;
    }
    Ok(read)
}

fn ceiling_beside(bench: &mut Bench, connections: usize, creating: bool) -> Result<Outcome> {
    let server = Process::contestant(Contestant::Ceiling, &bench.folder.path("none"))?;
    let (read, _) = read_beside(bench, &server, connections, creating)?;
    server.stop()?;
    Ok(read)
}

/// One turn of reading, with or without 64 connections that create meanwhile.
fn read_beside(bench: &mut Bench, server: &Process, connections: usize, creating: bool) -> Result<(Outcome, Option<Outcome>)> {
    let seed = bench.seed();
    let reads = Load { connections, ..bench.load(server, Ask::Status { seed: SEED, orders: FEW }) };
    let writes = bench.load(server, Ask::Create { seed });
    let (read, written) = std::thread::scope(|scope| {
        let writer = creating.then(|| scope.spawn(|| writes.run()));
        let read = reads.run();
        (read, writer.map(|writer| writer.join().unwrap_or_else(|_| Err("a client thread panicked".into()))))
    });
    // The server's processor time was for both.
    Ok((Outcome { cpu: None, ..read? }, written.transpose()?))
}

/// One client, one order at a time.
pub fn single(bench: &mut Bench) -> Result<()> {
    let [floor, orderd] = bench.interleave(
        "/s",
        [
            ("append of 4 kB and fdatasync", &|bench| disk::appends(&bench.folder.path("append"), bench.plan.turn)),
            ("POST, orderd, one connection", &|bench| {
                let database = bench.folder.fresh("single.db")?;
                let server = Process::orderd(&database, &[])?;
                let seed = bench.seed();
                let load = Load { connections: 1, ..bench.load(&server, Ask::Create { seed }) };
                let outcome = load.run()?;
                server.kill()?;
                verify(&database, &outcome)?;
                Ok(outcome)
            }),
        ],
    )?;
    let ratio = median(floor.samples.iter().zip(&orderd.samples).map(|(f, o)| o.p50_ms / f.p50_ms));
    bench.report.add(Figure::ratio("one order at a time: POST p50 over fdatasync p50", ratio, Bound::AtMost(2.0)));
    Ok(())
}

fn ceiling(bench: &mut Bench, ask: Ask) -> Result<Outcome> {
    let server = Process::contestant(Contestant::Ceiling, &bench.folder.path("none"))?;
    let outcome = bench.load(&server, ask).run()?;
    server.stop()?;
    Ok(outcome)
}

/// Waits until `/metrics` counts `orders` as completed.
pub fn wait_until_completed(server: &Process, orders: u64) -> Result<()> {
    let mut connection = Connection::open(server.address)?;
    let mut requests = Requests::new(Ask::Metrics, 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        connection.ask(requests.next())?;
        let completed = completed(&connection)?;
        if completed >= orders {
            return Ok(());
        }
        if std::time::Instant::now() > deadline {
            return Err(format!("of {orders} orders only {completed} were completed after 60 s").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many are completed, by the answer of `/metrics` that a connection has.
pub fn completed(connection: &Connection) -> Result<u64> {
    let metrics: serde_json::Value = serde_json::from_slice(connection.body())?;
    metrics["status_counts"]["Completed"].as_u64().ok_or_else(|| "/metrics does not count completed orders".into())
}
