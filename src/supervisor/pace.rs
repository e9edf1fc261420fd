//! When the next child may be started: at once after one that has served, later and later after those that ended before.
//!
//! While another child serves, nobody waits for the next, so the delays are long. While none does, connections wait in the
//! backlog, and the delays are so short that their clients hardly notice.

use std::time::{Duration, Instant};

/// The delay after the first failure and the longest, while nobody serves.
const ALONE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(2));
/// The same while another child serves.
const BESIDE_ANOTHER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After so many failures in a row, with no child that ever served, none ever will.
const HOPELESS: u32 = 10;

/// How fast children follow each other.
#[derive(Debug)]
pub struct Pace {
    /// The next child is started no earlier.
    pub start_at: Instant,
    /// So many in a row ended before they served, or as soon as they did.
    pub failures: u32,
}

impl Pace {
    /// The first child may be started now.
    pub fn new() -> Pace {
        Pace { start_at: Instant::now(), failures: 0 }
    }

    /// A child has served for a while. What failed before it is forgotten.
    pub fn forget_failures(&mut self) {
        self.failures = 0;
    }

    /// A child has failed. Returns whether it is hopeless to go on, provided that none has ever served.
    pub fn count_failure(&mut self) -> bool {
        self.failures += 1;
        self.failures >= HOPELESS
    }

    /// Puts the next start off by a delay that grows with the failures in a row, and returns it.
    pub fn put_off(&mut self, another_serves: bool) -> Duration {
        let (first, longest) = if another_serves { BESIDE_ANOTHER } else { ALONE };
        let delay = match self.failures {
            0 => Duration::ZERO,
            n => longest.min(first.saturating_mul(2_u32.saturating_pow(n - 1))),
        };
        self.start_at = Instant::now() + delay;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_are_forgotten_with_the_failures() {
        let mut pace = Pace::new();
        assert_eq!(pace.put_off(false), Duration::ZERO);
        let mut next = |another_serves| {
            let is_hopeless = pace.count_failure();
            (pace.put_off(another_serves).as_millis(), is_hopeless)
        };
        let delays: Vec<_> = (0..10).map(|_| next(false)).collect();
        assert_eq!(delays[..5], [25, 50, 100, 200, 400].map(|ms| (ms, false)));
        assert_eq!(delays[8..], [(2_000, false), (2_000, true)]);
        pace.forget_failures();
        let mut next = |another_serves| {
            pace.count_failure();
            pace.put_off(another_serves).as_secs()
        };
        let delays: Vec<_> = (0..40).map(|_| next(true)).collect();
        assert_eq!((&delays[..4], delays[39]), (&[1, 2, 4, 8][..], 60));
    }
}
