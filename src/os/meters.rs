//! Figures that are kept while others work: counters, and distributions of what was measured.
//!
//! Whoever records one adds to atomics and waits for nobody: no lock, no system call, no allocation. Whoever reads them sees each
//! number as it is at that moment, so one that was recorded meanwhile may be in some of them and not yet in others. They begin
//! with the process and end with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds for what may take from a tenth of a millisecond to some seconds, in microseconds.
pub const SHORT_TIMES: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
/// Bounds for what may take from milliseconds to a day, in microseconds.
pub const LONG_TIMES: [u64; 18] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there have been.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a measured value was how large.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, for what is no larger than that and larger than the one before; the last for what is beyond all.
    counts: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// One that sorts values by `bounds`, which grow.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| Counter::default()).collect(), sum: Counter::default() }
    }

    /// Records a value.
    pub fn record(&self, value: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].add(1);
        self.sum.add(value);
    }

    /// Records how long something took. Its bounds are in microseconds then.
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What has been recorded.
    pub fn read(&self) -> Distribution {
        Distribution { bounds: self.bounds, counts: self.counts.iter().map(Counter::get).collect(), sum: self.sum.get() }
    }
}

/// What a [`Histogram`] had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The upper bounds.
    pub bounds: &'static [u64],
    /// How many values each bound has to itself, and behind them how many are beyond all bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_the_first_bound_that_is_no_smaller() {
        let histogram = Histogram::new(&[10, 20]);
        [0, 10, 11, 20, 21, 1_000].into_iter().for_each(|value| histogram.record(value));
        assert_eq!(histogram.read(), Distribution { bounds: &[10, 20], counts: vec![2, 2, 2], sum: 1_062 });
    }

    #[test]
    fn what_threads_record_at_once_is_all_there() {
        let histogram = Histogram::new(&SHORT_TIMES);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|n| histogram.record(n)));
            }
        });
        let read = histogram.read();
        assert_eq!((read.counts.iter().sum::<u64>(), read.sum), (40_000, 4 * 10_000 * 9_999 / 2));
    }

    #[test]
    fn bounds_grow() {
        for bounds in [&SHORT_TIMES[..], &LONG_TIMES] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
