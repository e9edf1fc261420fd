//! The binary's log: one line an event, on standard error, with the time in UTC.
//!
//! What a client or a command has made of an id or a line stays within its line: whatever would begin another one, move the
//! cursor, change colours or the direction of writing is shown as an escape.
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
            let line = format!("{now} {:5} {}\n", record.level(), harmless(&record.args().to_string()));
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// The same text on one line, with nothing in it that a terminal obeys.
pub fn harmless(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.extend(c.escape_default()),
            c if is_obeyed(c) => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// Whether a terminal does something at this character besides showing it: controls; line and paragraph separators; marks,
/// embeddings, overrides and isolates of direction; marks of annotations.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_obeys_nobody() {
        assert_eq!(harmless("order ä-1: 日本語 \u{1f600}"), "order ä-1: 日本語 \u{1f600}");
        assert_eq!(harmless("a\nb\r\tc\u{7f}"), "a\\nb\\r\\tc\\u{7f}");
        assert_eq!(harmless("\u{1b}[31m \u{9b}1m"), "\\u{1b}[31m \\u{9b}1m");
        assert_eq!(harmless("a\u{2028}b\u{202e}c\u{2066}d"), "a\\u{2028}b\\u{202e}c\\u{2066}d");
    }
}
