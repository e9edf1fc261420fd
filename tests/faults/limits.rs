//! Little of everything: a memory of 48 MB for all processes together, 64 descriptors, few processes and threads; under load.
//!
//! Nothing acknowledged is lost, and when the load has gone, service is back by itself, in the same limits. Not all clients are
//! served meanwhile. Held are promises 1 and 3.

use std::time::Duration;

use crate::harness::{Client, Folder, Process, Serving, comes_true, get};
use crate::load::{Back, Load, SOON, after_script, health_of, last_words};
use crate::means::Group;
use crate::runner::{Outcome, Skip, rounds};

const FLAGS: [&str; 2] = ["--processing-time", "50ms"];
const WORK: Duration = Duration::from_millis(50);
/// More than 64 descriptors, or 40 threads, can serve. Two workers have room in 40, so that one can be renewed.
const CROWD: usize = 150;

pub fn a_small_memory_few_descriptors_and_few_processes_lose_nothing() -> Outcome {
    let limits = rounds(0, 3, 3)?;
    let mut shown = Vec::new();
    for limit in 0..limits {
        let tried = match limit {
            0 => under("ulimit -n 64").map(|shown| format!("64 descriptors: {shown}")),
            1 => Group::new("memory", 48 << 20).and_then(|group| under(&group.enter())).map(|shown| format!("48 MB: {shown}")),
            _ => Group::new("pids", 40).and_then(|group| under(&group.enter())).map(|shown| format!("40 threads: {shown}")),
        };
        shown.push(tried.unwrap_or_else(|Skip(why)| format!("not tried, as {why}")));
    }
    Ok(format!("{}; 0 lost, beside {CROWD} connections; control: one deleted by hand is missed", shown.join("; ")))
}

/// Runs load and a crowd under a limit that a shell sets. Says how many orders were acknowledged, and how long it took until service
/// was back once the crowd had gone.
fn under(limit: &str) -> Result<String, Skip> {
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
    let back = Back::of(&server, "after", WORK);
    load.wait_for_more(20);
    let healthy = comes_true(SOON, || health_of(&server) == Some(200));
    assert!(healthy, "{limit}: it stays unhealthy\n{}", last_words(&server));
    let told = load.stop();
    told.holds_after_a_drain(&server);
    told.misses_a_deleted_one(&server);
    server.stop();
    Ok(format!("{} acknowledged, {back}", told.acknowledged.len()))
}
