//! Well-behaved clients beside an attack: their requests are counted, their failures too, and how long each took.
//!
//! An ordinary client keeps its connection, opens another when it is closed, and does not send a failed request again: here every
//! failure counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, Serving, get, order, post};

/// What became of the requests of ordinary clients.
#[derive(Debug, Default)]
pub struct Report {
    /// How long each answered request took, in ascending order.
    pub times: Vec<Duration>,
    pub failures: Vec<String>,
    /// The orders that were acknowledged.
    pub acknowledged: Vec<String>,
}

impl Report {
    pub fn requests(&self) -> usize {
        self.times.len() + self.failures.len()
    }

    /// The time that 99 of 100 requests took at most.
    pub fn p99(&self) -> Duration {
        self.times[self.times.len() * 99 / 100]
    }
}

/// Does `deed` while `clients` ordinary ones read and order, until it is done and they have made at least so many requests.
pub fn beside<T>(server: &impl Serving, clients: usize, at_least: usize, deed: impl FnOnce(&AtomicUsize) -> T) -> (T, Report) {
    let (over, requests, orders) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(acknowledged_before(server)));
    let address = server.address().clone();
    std::thread::scope(|scope| {
        let regular = || {
            let mut report = Report::default();
            let mut client = None;
            let give_up = Instant::now() + 4 * PATIENCE;
            while (!over.load(Ordering::Relaxed) || requests.load(Ordering::Relaxed) < at_least) && Instant::now() < give_up {
                let n = orders.fetch_add(1, Ordering::Relaxed);
                let (id, unknown) = (format!("o-{n}"), get("/order/unknown"));
                let (request, expected) = if n % 2 == 0 { (post(order(&id)), 200) } else { (unknown.into(), 404) };
                let asked = Instant::now();
                let connected = client.take().map_or_else(|| Client::connect(&address), Ok);
                let answered = connected.and_then(|mut c| c.try_ask(request).map(|answer| (c, answer)));
                match answered {
                    Ok((c, answer)) if answer.status == expected => {
                        report.times.push(asked.elapsed());
                        report.acknowledged.extend((expected == 200).then_some(id));
                        client = Some(c);
                    }
                    Ok((_, answer)) => report.failures.push(answer.exchange()),
                    Err(e) => report.failures.push(e.to_string()),
                }
                requests.fetch_add(1, Ordering::Relaxed);
            }
            report
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(regular)).collect();
        let done = {
            let _over = OnDrop(&over);
            deed(&requests)
        };
        let mut all = Report::default();
        for report in threads.into_iter().map(|thread| thread.join().unwrap()) {
            all.times.extend(report.times);
            all.failures.extend(report.failures);
            all.acknowledged.extend(report.acknowledged);
        }
        all.times.sort();
        (done, all)
    })
}

/// So that orders of a second load have names of their own.
fn acknowledged_before(server: &impl Serving) -> usize {
    4 * server.metrics().total as usize
}

/// Ends the load also when the deed panics.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
