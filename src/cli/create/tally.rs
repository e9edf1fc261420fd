//! Counts what became of orders, and shows on a terminal how far it is.
//!
//! Standard error has the progress and the lines that were refused; standard output has the sum of it all, for programs to read.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::os::sync::unpoisoned;

/// How often the progress is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// So many refused lines are told; of the rest only how many there are. A whole file of another kind is no use to read about.
const MAX_TOLD: u64 = 1_000;
/// How wide the bar is.
const BAR: usize = 30;

/// What became of orders so far.
pub struct Tally {
    created: AtomicU64,
    replayed: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    /// How much there is to read, if that is known.
    to_come: Option<u64>,
    begun: Instant,
    /// Whether a progress stands on the terminal; locked while anything is written there.
    screen: Mutex<bool>,
    is_terminal: bool,
}

/// The sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub created: u64,
    pub replayed: u64,
    pub refused: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { created, replayed, refused } = self;
        let all = created + replayed + refused;
        let orders = if all == 1 { "order" } else { "orders" };
        write!(f, "{all} {orders}: {created} created, {replayed} there already, {refused} refused")
    }
}

impl Tally {
    /// Nothing yet, of `to_come` bytes if that is known.
    pub fn new(to_come: Option<u64>) -> Tally {
        Tally {
            created: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            to_come: to_come.filter(|bytes| *bytes > 0),
            begun: Instant::now(),
            screen: Mutex::new(false),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// One more is stored.
    pub fn created(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    /// One more was stored before.
    pub fn replayed(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// A line was refused for this reason, which is told.
    pub fn refused(&self, line: u64, why: &str) {
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        match before {
            ..MAX_TOLD => self.tell(&format!("line {line}: {why}\n")),
            MAX_TOLD => self.tell("further lines that are refused are counted and not told\n"),
            _ => {}
        }
    }

    /// So much of the input has been read.
    pub fn has_read(&self, bytes: u64) {
        self.bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Waits a moment, and draws how far it is.
    pub fn show(&self) {
        std::thread::sleep(if self.is_terminal { DRAW_EVERY } else { DRAW_EVERY / 10 });
        if self.is_terminal {
            let mut is_shown = unpoisoned(&self.screen);
            let counts = self.counts();
            let done = self.to_come.map(|all| self.bytes.load(Ordering::Relaxed).min(all) as f64 / all as f64);
            write(&format!("\r{}\x1b[K", progress(counts, done, self.begun.elapsed())));
            *is_shown = true;
        }
    }

    /// The sum of it all; what was drawn is gone.
    pub fn finish(&self) -> Counts {
        self.tell("");
        self.counts()
    }

    fn counts(&self) -> Counts {
        let [created, replayed, refused] =
            [&self.created, &self.replayed, &self.refused].map(|count| count.load(Ordering::Relaxed));
        Counts { created, replayed, refused }
    }

    fn tell(&self, line: &str) {
        let mut is_shown = unpoisoned(&self.screen);
        let begin = if *is_shown { "\r\x1b[K" } else { "" };
        write(&format!("{begin}{line}"));
        *is_shown = false;
    }
}

/// In one piece. A closed standard error is no reason to stop.
fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn progress(counts: Counts, done: Option<f64>, elapsed: Duration) -> String {
    let all = counts.created + counts.replayed + counts.refused;
    let rate = all as f64 / elapsed.as_secs_f64().max(0.001);
    let refused = if counts.refused == 0 { String::new() } else { format!(", {} refused", counts.refused) };
    let bar = done.map_or_else(String::new, |done| {
        let full = (done * BAR as f64) as usize;
        format!("[{}{}] {:3.0} % ", "#".repeat(full), "-".repeat(BAR - full), (done * 100.0).floor())
    });
    format!("{bar}{all} orders, {rate:.0}/s{refused}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_says_what_there_is_to_say() {
        let counts = Counts { created: 900, replayed: 99, refused: 1 };
        let second = Duration::from_secs(1);
        let half = progress(counts, Some(0.5), 2 * second);
        assert_eq!(half, "[###############---------------]  50 % 1000 orders, 500/s, 1 refused");
        assert_eq!(progress(Counts { refused: 0, ..counts }, None, second), "999 orders, 999/s");
        assert!(progress(counts, Some(1.0), second).starts_with(&format!("[{}] 100 %", "#".repeat(BAR))));
        assert_eq!(counts.to_string(), "1000 orders: 900 created, 99 there already, 1 refused");
    }
}
