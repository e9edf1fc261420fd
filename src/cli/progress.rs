//! How far a subcommand is, on a line of a terminal that is written over; and a signal that has it give up in order.
//!
//! Nothing is shown where nobody looks: in a pipe, a file or a log. The line goes to standard error, and is gone at the end.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::os::signals;
use crate::os::sync::unpoisoned;
use crate::store::copy::{Step, Watch};

/// How often the line is written.
const EVERY: Duration = Duration::from_millis(200);

/// The line, until it is dropped.
pub struct Progress {
    /// When it began, and when it was last written.
    times: Mutex<(Instant, Option<Instant>)>,
    is_shown: bool,
}

impl Progress {
    /// One that is shown if somebody looks.
    pub fn new() -> Arc<Progress> {
        Arc::new(Progress { times: Mutex::new((Instant::now(), None)), is_shown: std::io::stderr().is_terminal() })
    }

    /// Writes the line, unless it was written just now.
    pub fn say(&self, words: impl FnOnce(Duration) -> String) {
        let (begun, said) = &mut *unpoisoned(&self.times);
        if !self.is_shown || said.unwrap_or(*begun).elapsed() < EVERY {
            return;
        }
        *said = Some(Instant::now());
        let mut stderr = std::io::stderr();
        let _ = write!(stderr, "\r\x1b[K{}", words(begun.elapsed())).and_then(|()| stderr.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if unpoisoned(&self.times).1.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Whether a signal has asked for an end: from now on none ends this process by itself.
///
/// # Errors
/// [`Error::Thread`].
pub fn stopped() -> Result<Arc<AtomicBool>, Error> {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stopped.clone();
    signals::watch(&[], move |_| stop.store(true, Ordering::Relaxed))?;
    Ok(stopped)
}

/// Shows the steps of what is done to a file, and says no once a signal asks for an end.
///
/// # Errors
/// [`Error::Thread`].
pub fn watch() -> Result<Watch, Error> {
    let stopped = stopped()?;
    let line = Progress::new();
    Ok(Arc::new(move |step| {
        line.say(|since| match step {
            Step::Copying { done, of } => format!("{} of {}, {} %", size(done), size(of), done * 100 / of.max(1)),
            Step::Checking => format!("checking, {} s", since.as_secs()),
        });
        !stopped.load(Ordering::Relaxed)
    }))
}

/// So many orders of all, and how many that is in a second.
pub fn of_all(done: u64, of: u64, since: Duration) -> String {
    format!("{done} of {}, {:.0}/s", orders(of), done as f64 / since.as_secs_f64().max(0.001))
}

/// So many bytes in words.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.0} kB", (b / 1e3).ceil()),
    }
}

/// So many orders in words.
pub fn orders(number: u64) -> String {
    format!("{number} {}", if number == 1 { "order" } else { "orders" })
}
