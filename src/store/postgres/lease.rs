//! What an instance may rely on: its id and until when its work may run, told to all threads by the keeper.
//!
//! The end that counts here comes before the one that the server knows of: it is two thirds of the lease from **before** the beat was
//! sent, by this machine's clock, which counts on while the machine is suspended. So whoever stops working then has stopped before
//! another may begin. No clock is ever compared with another machine's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::os::sync::unpoisoned;

/// An instance's claim to its work.
pub(in crate::store) struct Lease {
    /// The part of the lease that we use, and its whole length.
    length: Duration,
    term: Mutex<Term>,
    orphans: AtomicBool,
}

#[derive(Clone, Copy)]
struct Term {
    /// The instance's id; 0 while it has none.
    id: i64,
    /// When work must have ended, since the machine was started.
    ends: Duration,
}

impl Lease {
    pub(super) fn new(length: Duration) -> Lease {
        let term = Term { id: 0, ends: Duration::ZERO };
        Lease { length, term: Mutex::new(term), orphans: AtomicBool::new(false) }
    }

    /// Under this id, on the strength of what was sent at this time.
    pub(super) fn extend(&self, id: i64, sent: Duration) {
        *unpoisoned(&self.term) = Term { id, ends: sent + self.length * 2 / 3 };
    }

    /// Someone has found orders that nobody who lives is working on, or has not.
    pub(super) fn note_orphans(&self, are_there: bool) {
        self.orphans.store(are_there, Ordering::Relaxed);
    }

    /// It was declared dead.
    pub(super) fn lose(&self) {
        *unpoisoned(&self.term) = Term { id: 0, ends: Duration::ZERO };
    }

    /// The id, whether or not its time is over: what it has claimed is its own until another has it.
    pub(super) fn id(&self) -> i64 {
        unpoisoned(&self.term).id
    }

    /// The id under which work may run now.
    pub(in crate::store) fn holder(&self) -> Option<i64> {
        let term = *unpoisoned(&self.term);
        (term.id != 0 && since_boot() < term.ends).then_some(term.id)
    }

    /// How long work may still run.
    pub(in crate::store) fn time_left(&self) -> Duration {
        unpoisoned(&self.term).ends.saturating_sub(since_boot())
    }

    /// Whether there are orders to be taken over. Each such news is told once.
    pub(in crate::store) fn take_orphans(&self) -> bool {
        self.orphans.swap(false, Ordering::Relaxed)
    }
}

/// The time since the machine was started, that in which it was suspended too.
pub(super) fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    clock.now().map_or(Duration::MAX / 2, Duration::from)
}
