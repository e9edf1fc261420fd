//! What time it is: the system's, or one that a test turns.
//!
//! Two times are needed and kept apart: the time of day, which is stored and may be set back by an operator, and the time
//! that has passed, which decides when an order is due and never goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A source of both times. Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    System { started: Instant },
    Manual { ms: Arc<AtomicU64> },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(Kind::System { started: Instant::now() })
    }

    /// A clock that stands at `now_ms` milliseconds since 1970 until it is [advanced](Clock::advance). For tests.
    pub fn manual(now_ms: u64) -> Clock {
        Clock(Kind::Manual { ms: Arc::new(AtomicU64::new(now_ms)) })
    }

    /// Turns a manual clock forward, by whole milliseconds. The system's clock does not care.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual { ms } = &self.0 {
            ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }

    /// The time of day in milliseconds since 1970 (UTC).
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Kind::System { .. } => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
            }
            Kind::Manual { ms } => ms.load(Ordering::SeqCst) as i64,
        }
    }

    /// The time that has passed since some fixed moment. Never goes back.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Kind::System { started } => started.elapsed(),
            Kind::Manual { ms } => Duration::from_millis(ms.load(Ordering::SeqCst)),
        }
    }

    /// How long to sleep so as to wake `wanted` from now: on a clock that is turned by hand only a moment, to look again.
    pub(crate) fn sleep_for(&self, wanted: Duration) -> Duration {
        match &self.0 {
            Kind::System { .. } => wanted,
            Kind::Manual { .. } => wanted.min(Duration::from_millis(2)),
        }
    }
}
