//! What the disk and SQLite do without HTTP: the floor of a latency and the ceiling of a rate.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Outcome;
use crate::contestants;
use crate::workload::{STORED, order_id, order_id_text};

/// One order makes SQLite write about so much to its log.
const APPEND_BYTES: usize = 4_096;

/// Orders in one transaction: as many as 64 connections can have under way.
const BATCH: u64 = 64;

/// Appends to a file and waits for the disk, again and again. Returns each wait.
pub fn appends(file: &Path, duration: Duration) -> Result<Outcome> {
    let mut log = std::fs::File::create(file)?;
    let page = [0x5a; APPEND_BYTES];
    repeat(duration, 1, |_| {
        log.write_all(&page)?;
        Ok(log.sync_data()?)
    })
}

/// Inserts orders of the series of `seed` in transactions of [`BATCH`].
pub fn inserts(database: &Path, seed: u64, duration: Duration) -> Result<Outcome> {
    let mut connection = contestants::open(database)?;
    let mut outcome = repeat(duration, BATCH, |first| {
        let transaction = connection.transaction()?;
        let [user, items, amount] = STORED;
        for number in first..first + BATCH {
            contestants::insert(&transaction, order_id_text(&order_id(seed, number)), user, items, amount, crate::now_ms())?;
        }
        Ok(transaction.commit()?)
    })?;
    outcome.acknowledged = vec![(seed, outcome.latencies_us.len() as u64 * BATCH)];
    Ok(outcome)
}

/// Calls `step` with 0, `worth`, 2 `worth`, … until the time is over.
fn repeat(duration: Duration, worth: u64, mut step: impl FnMut(u64) -> Result<()>) -> Result<Outcome> {
    let started = Instant::now();
    let mut latencies_us = Vec::new();
    let mut done = 0;
    while started.elapsed() < duration {
        let before = Instant::now();
        step(done)?;
        done += worth;
        latencies_us.push(before.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    latencies_us.sort_unstable();
    Ok(Outcome { started, rate, cpu: None, latencies_us, acknowledged: Vec::new() })
}
