//! The binary's log: one line an event, on standard error, with the time in UTC.
//!
//! The library logs through the `log` crate and leaves it to the embedding program where that goes.

use std::io::Write;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // tiny_http logs each connection.
        metadata.level() <= log::max_level() && !metadata.target().starts_with("tiny_http")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = humantime::format_rfc3339_millis(SystemTime::now());
            // One write for a line, so that lines of two processes do not mix. A closed standard error is no reason to stop.
            let line = format!("{now} {:5} {}\n", record.level(), record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Sends log lines of `level` and above to standard error, and panics too, as one line each.
pub fn init(level: LevelFilter) {
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("panic");
        let place = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        match std::thread::current().name() {
            Some(name) => log::error!("thread {name} panicked{place}: {what}"),
            // One of tiny_http's, which a client can make panic by resetting its connection: not to be written at its will.
            None => log::debug!("a connection's thread panicked{place}: {what}"),
        }
    }));
}
