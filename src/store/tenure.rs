//! Until when the work on what was claimed may run. A file is ours for as long as its lock; a lease on a server ends.
//!
//! Whoever works asks this before beginning anything, and stops when it ends: another may work on the same orders soon after.

use std::time::Duration;

/// The right to work.
#[derive(Clone, Default)]
pub struct Tenure {
    #[cfg(feature = "postgres")]
    pub(super) lease: Option<std::sync::Arc<super::postgres::Lease>>,
}

impl Tenure {
    /// Under which name work may run now, if it may: whatever was begun under another has to stop.
    pub fn holder(&self) -> Option<i64> {
        #[cfg(feature = "postgres")]
        if let Some(lease) = &self.lease {
            return lease.holder();
        }
        Some(0)
    }

    /// How long it may still run, if that is known to end.
    pub fn time_left(&self) -> Option<Duration> {
        #[cfg(feature = "postgres")]
        if let Some(lease) = &self.lease {
            return Some(lease.time_left());
        }
        None
    }

    /// Whether others have left orders in `Processing` since the last call.
    pub fn take_orphans(&self) -> bool {
        #[cfg(feature = "postgres")]
        if let Some(lease) = &self.lease {
            return lease.take_orphans();
        }
        false
    }
}
