//! Little of everything: a memory of 48 MB for all processes together, 64 descriptors, few processes and threads; under load.
//!
//! Nothing acknowledged is lost, and when the load has gone, service is back by itself, in the same limits. Not all clients are
//! served meanwhile. Held are promises 1 and 3. The control is that without the limits' help the crowd is larger than they allow.

use std::time::Duration;

use crate::harness::{Client, Folder, Process, Serving, comes_true, get};
use crate::load::{Load, SOON, after_script, serves_soon};
use crate::means::Group;
use crate::runner::{Outcome, Skip, rounds};

const FLAGS: [&str; 2] = ["--processing-time", "50ms"];
/// More than 64 descriptors can serve.
const CROWD: usize = 150;

pub fn a_small_memory_few_descriptors_and_few_processes_lose_nothing() -> Outcome {
    let limits = rounds(1, 3, 3)?;
    let mut shown = Vec::new();
    for limit in 0..limits {
        let tried = match limit {
            0 => under("ulimit -n 64").map(|orders| format!("64 descriptors: {orders}")),
            1 => {
                Group::new("memory", 48 << 20).and_then(|group| under(&group.enter())).map(|orders| format!("48 MB: {orders}"))
            }
            _ => Group::new("pids", 24).and_then(|group| under(&group.enter())).map(|orders| format!("24 threads: {orders}")),
        };
        shown.push(tried.unwrap_or_else(|Skip(why)| format!("not tried, as {why}")));
    }
    Ok(format!("{} acknowledged, 0 lost; {CROWD} connections beside", shown.join(", ")))
}

/// Runs load and a crowd under a limit that a shell sets. Says how many orders were acknowledged.
fn under(limit: &str) -> Result<usize, Skip> {
    let folder = Folder::new();
    let server = match Process::try_spawn(after_script(&folder, limit, &FLAGS), &folder) {
        Ok(server) => server,
        Err(ended) => panic!("it does not start with {limit}: {ended:?}"),
    };
    let load = Load::start("o", 8, &server);
    load.wait_for_more(20);
    {
        // Connections that stay, and large answers that nobody reads.
        let mut crowd: Vec<_> = (0..CROWD).filter_map(|_| Client::connect(server.address()).ok()).collect();
        for client in &mut crowd {
            let _ = client.send(get("/orders?limit=100").repeat(20));
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    serves_soon(&server, "after");
    load.wait_for_more(20);
    let healthy = comes_true(SOON, || crate::errors::health_of(&server) == Some(200));
    assert!(healthy, "{limit}: it stays unhealthy\n{}", server.stderr());
    let told = load.stop();
    told.holds_after_a_drain(&server);
    server.stop();
    Ok(told.acknowledged.len())
}
