//! What this room counts: answers by the kind of their request and by their status, how long each took, and open connections.
//!
//! The kinds are the handler's: a short list of names, so that there is a bound on what is kept whatever clients ask for. A request
//! is timed from when a worker takes it up, with its connection's turn, until its answer is ready to be sent: for an order that is
//! the commit; for a body that comes late it is its sender's time, too. What its reader takes for the answer does not count. A
//! request that is never answered, because its connection is cut, is not counted either.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::os::meters::{Counter, Distribution, Histogram, SHORT_TIMES};

/// HTTP statuses have three digits and begin with 1 to 5.
const STATUSES: std::ops::Range<usize> = 100..600;

/// The live figures of a server.
pub(super) struct Meters {
    kinds: Vec<Kind>,
    connections: AtomicUsize,
}

struct Kind {
    name: &'static str,
    /// One for each of [`STATUSES`].
    statuses: Box<[Counter]>,
    time: Histogram,
}

/// What a server has done so far.
#[derive(Debug)]
pub struct Figures {
    /// The requests that were answered, by their kind.
    pub requests: Vec<Requests>,
    /// Connections that were open when the watchdog last looked: a second ago at the most, five if nobody was connected.
    pub connections: usize,
}

/// The answered requests of a kind.
#[derive(Debug)]
pub struct Requests {
    /// The kind's name, from the handler.
    pub kind: &'static str,
    /// How many were answered with which status; those with none are left out.
    pub statuses: Vec<(usize, u64)>,
    /// How long they took, in microseconds.
    pub time: Distribution,
}

impl Meters {
    /// With everything at zero, for requests of these kinds.
    pub(super) fn new(kinds: &[&'static str]) -> Meters {
        let kind = |name: &&'static str| Kind {
            name,
            statuses: STATUSES.map(|_| Counter::default()).collect(),
            time: Histogram::new(&SHORT_TIMES),
        };
        Meters { kinds: kinds.iter().map(kind).collect(), connections: AtomicUsize::new(0) }
    }

    /// A request of this kind, whose turn began then, is about to be answered with this status.
    pub(super) fn answered(&self, kind: usize, begun: Instant, status: u16) {
        let Some(kind) = self.kinds.get(kind) else { return };
        if let Some(count) = usize::from(status).checked_sub(STATUSES.start).and_then(|at| kind.statuses.get(at)) {
            count.add(1);
        }
        kind.time.record_time(begun.elapsed());
    }

    /// So many connections are open.
    pub(super) fn connections(&self, open: usize) {
        self.connections.store(open, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Figures {
        let of = |kind: &Kind| Requests {
            kind: kind.name,
            statuses: STATUSES.zip(kind.statuses.iter().map(Counter::get)).filter(|(_, count)| *count > 0).collect(),
            time: kind.time.read(),
        };
        Figures { requests: self.kinds.iter().map(of).collect(), connections: self.connections.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_are_counted_by_kind_and_status() {
        let meters = Meters::new(&["/order", "other"]);
        let now = Instant::now();
        for (kind, status) in [(0, 200), (0, 200), (0, 503), (1, 404), (1, 99), (1, 600), (2, 200)] {
            meters.answered(kind, now, status);
        }
        let read = meters.read();
        let told: Vec<_> = read.requests.iter().map(|kind| (kind.kind, &kind.statuses[..])).collect();
        assert_eq!(told, [("/order", &[(200, 2), (503, 1)][..]), ("other", &[(404, 1)])]);
        assert_eq!(read.requests[0].time.counts.iter().sum::<u64>(), 3);
    }

    /// The best of many tries, as this machine may do something else meanwhile: both looks at the clock, and all that is added up.
    #[test]
    fn to_count_a_request_takes_less_than_a_microsecond() {
        const EACH: u32 = 1_000;
        let meters = Meters::new(&["/order", "other"]);
        let of_each = |_| {
            let begun = Instant::now();
            (0..EACH).for_each(|_| meters.answered(0, Instant::now(), 200));
            begun.elapsed() / EACH
        };
        let best = (0..200).map(of_each).min().unwrap_or_default();
        eprintln!("counting a request takes {best:?}");
        assert!(best < Duration::from_micros(1), "{best:?}");
    }
}
