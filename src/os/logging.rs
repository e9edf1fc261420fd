//! The binary's log: one line an event, on standard error: the time in UTC, the level, words, and `key=value`; or the same as one
//! object of JSON.
//!
//! What a client or a command has made of an id or a line is a value, and a value stays one: whatever would begin another line or
//! another value, move the cursor, change colours or the direction of writing is shown as an escape. So a line that holds
//! `order=5` is about the order 5, whoever else may have written that somewhere.
//!
//! The library logs through the `log` crate, with the same keys, and leaves it to the embedding program where that goes.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::OnceLock;
use std::time::SystemTime;

use log::kv::{self, Key, Source, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people, and for `grep`: words, then `key=value`.
    #[default]
    Text,
    /// For programs that collect logs: an object with `time`, `level`, `message` and each key.
    Json,
}

static LOGGER: OnceLock<StandardError> = OnceLock::new();

#[derive(Debug)]
struct StandardError {
    format: Format,
    colours: bool,
}

/// Sends log lines of `level` and above to standard error, and panics too, as one line each.
pub fn init(level: LevelFilter, format: Format) {
    let colours = format == Format::Text && std::io::stderr().is_terminal() && colours_are_wanted();
    if log::set_logger(LOGGER.get_or_init(|| StandardError { format, colours })).is_ok() {
        log::set_max_level(level);
    }
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("panic");
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        match std::thread::current().name() {
            Some(name) => log::error!(thread = name, at = place, panic = what; "a thread panicked"),
            // One of tiny_http's, which a client can make panic by resetting its connection: not to be written at its will.
            None => log::debug!(at = place, panic = what; "a connection's thread panicked"),
        }
    }));
}

/// Says why the process ends: for people in the one line that the contract promises, in JSON as the log's last.
pub fn last_words(why: &impl Display) {
    match LOGGER.get() {
        Some(logger) if logger.format == Format::Json => write(&json(Level::Error, &why.to_string(), &[] as &[(&str, &str)])),
        _ => write(&format!("orderd: {why}\n")),
    }
}

/// How many bytes `text` takes as a value, at the most.
pub fn written_bytes(text: &str) -> usize {
    quoted(text).len()
}

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // tiny_http logs each connection.
        metadata.level() <= log::max_level() && !metadata.target().starts_with("tiny_http")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (level, words) = (record.level(), record.args().to_string());
            write(&match self.format {
                Format::Text => text(level, &words, record.key_values(), self.colours),
                Format::Json => json(level, &words, record.key_values()),
            });
        }
    }

    fn flush(&self) {}
}

/// In one piece, so that lines of two processes do not mix. A closed standard error is no reason to stop.
fn write(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn colours_are_wanted() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn text(level: Level, words: &str, pairs: impl Source, colours: bool) -> String {
    let colour = match level {
        _ if !colours => "",
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug | Level::Trace => "\x1b[2m",
    };
    let plain = if colours { "\x1b[0m" } else { "" };
    let mut line = format!("{} {colour}{level:5}{plain} {}", now(), harmless(words));
    // Nothing here fails: writing to memory can't.
    let _ = pairs.visit(&mut TextPairs(&mut line));
    line.push('\n');
    line
}

fn json(level: Level, words: &str, pairs: impl Source) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let mut line = format!(r#"{{"time":"{}","level":"{level}","message":{}"#, now(), json_text(words));
    let _ = pairs.visit(&mut JsonPairs(&mut line));
    line.push_str("}\n");
    line
}

fn now() -> impl Display {
    humantime::format_rfc3339_millis(SystemTime::now())
}

struct TextPairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value.to_string();
        let value = if is_plain(&value) { value } else { quoted(&value) };
        write!(self.0, " {key}={value}").map_err(kv::Error::from)
    }
}

struct JsonPairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for JsonPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        write!(self.0, ",{}:", json_text(key.as_str()))?;
        value.visit(JsonValue(self.0))
    }
}

struct JsonValue<'a>(&'a mut String);

impl<'v> VisitValue<'v> for JsonValue<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        write!(self.0, "{value}").map_err(kv::Error::from)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        write!(self.0, "{value}").map_err(kv::Error::from)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has neither NaN nor an infinity.
        if value.is_finite() { write!(self.0, "{value}").map_err(kv::Error::from) } else { self.visit_null() }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        write!(self.0, "{value}").map_err(kv::Error::from)
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0.push_str("null");
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0.push_str(&json_text(value));
        Ok(())
    }
}

/// A text as JSON has it, with nothing in it that a terminal obeys.
fn json_text(text: &str) -> String {
    harmless_json(&serde_json::to_string(text).unwrap_or_default())
}

/// The same JSON, with nothing in it that a terminal obeys. Such characters stand only within texts, where an escape means the same.
pub fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        if is_obeyed(c) {
            let _ = write!(harmless, "\\u{:04x}", c as u32);
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// Whether a value needs no quotes to be told from what surrounds it.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| c.is_alphanumeric() || "-_./:#@+%".contains(c))
}

/// In quotes, within which there is neither a quote nor an `=` without a backslash before it.
fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in harmless(&value.replace('\\', "\\\\")).chars() {
        if matches!(c, '"' | '=') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
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
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the time.
    fn text_of(words: &str, pairs: &[(&str, &str)]) -> String {
        let line = text(Level::Info, words, pairs, false);
        line[25..].strip_suffix('\n').unwrap().to_string()
    }

    fn json_of(words: &str, pairs: impl Source) -> serde_json::Value {
        let line = json(Level::Warn, words, pairs);
        assert!(line.ends_with('\n') && !line[..line.len() - 1].contains(is_obeyed), "{line:?}");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    #[test]
    fn a_line_stays_one_line_and_obeys_nobody() {
        assert_eq!(harmless("order ä-1: 日本語 \u{1f600}"), "order ä-1: 日本語 \u{1f600}");
        assert_eq!(harmless("a\nb\r\tc\u{7f}"), "a\\nb\\r\\tc\\u{7f}");
        assert_eq!(harmless("\u{1b}[31m \u{9b}1m"), "\\u{1b}[31m \\u{9b}1m");
        assert_eq!(harmless("a\u{2028}b\u{202e}c\u{2066}d"), "a\\u{2028}b\\u{202e}c\\u{2066}d");
    }

    #[test]
    fn a_value_can_be_taken_for_no_other() {
        assert_eq!(
            text_of("done", &[("order", "ä-1"), ("to", "http://127.0.0.1:80")]),
            "INFO  done order=ä-1 to=http://127.0.0.1:80"
        );
        assert_eq!(text_of("done", &[("order", "1 order=2")]), r#"INFO  done order="1 order\=2""#);
        assert_eq!(text_of("done", &[("order", r#"1" order="2\"#)]), r#"INFO  done order="1\" order\=\"2\\""#);
        assert_eq!(text_of("done", &[("order", "")]), r#"INFO  done order="""#);
        assert_eq!(text_of("done", &[("order", "a\nb\u{1b}")]), r#"INFO  done order="a\nb\u{1b}""#);
    }

    #[test]
    fn json_keeps_every_value_as_it_is() {
        let odd = "a\"\\\n\u{1b}\u{9b}\u{7f}\u{2028}\u{202e}ä\u{1f600}";
        let line = json_of(odd, &[("order", odd)][..]);
        assert_eq!((&line["message"], &line["order"], &line["level"]), (&odd.into(), &odd.into(), &"warn".into()));
        let numbers =
            [("a", Value::from(3_u64)), ("b", Value::from(-1_i64)), ("c", Value::from(1.5)), ("d", Value::from(f64::NAN))];
        let line = json_of("", &numbers[..]);
        assert_eq!((&line["a"], &line["b"], &line["c"]), (&3.into(), &(-1).into(), &1.5.into()));
        assert!(line["d"].is_null() && line["time"].is_string(), "{line}");
    }

    #[test]
    fn only_the_level_has_a_colour_and_only_if_it_is_to_have_one() {
        let line = text(Level::Error, "\u{1b}[1m", [("k", "\u{1b}[2m")], true);
        assert_eq!(&line[25..], "\u{1b}[31mERROR\u{1b}[0m \\u{1b}[1m k=\"\\u{1b}[2m\"\n");
    }
}
