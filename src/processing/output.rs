//! What a command prints: its lines go to the log, the last one is kept as what the command said.
//!
//! Bounded in memory and in what it makes of the log, where a short line costs as much as a long one. What is no text is made
//! text. Nothing here reads a pipe or knows why a command ended.

use crate::os::logging::written_bytes;

/// The longest part of a line that is logged, and of the last one that is kept as the order's `last_error`, in bytes.
const MAX_LINE_BYTES: usize = 1_024;
/// How much one stream of one attempt may add to the log, in bytes.
const MAX_LOGGED_BYTES: usize = 64 << 10;
/// What a line of the log has besides the order's name and what was printed, with the names of all keys, in the longer of its two
/// formats.
const FRAME_BYTES: usize = 128;

/// The last line of a stream that is not empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LastLine {
    pub(super) text: String,
    /// Whether it is in the log.
    pub(super) logged: bool,
}

/// Whose output it is, for the log.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The order's id.
    pub(super) order: String,
    /// Which attempt at it this is.
    pub(super) attempt: u32,
}

/// Cuts output into lines and logs them.
pub(super) struct Lines<'a> {
    source: &'a Source,
    /// Which of the two it is.
    stream: &'static str,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    /// The beginning of the last one that was not empty.
    last: Vec<u8>,
    last_is_logged: bool,
    logged_bytes: usize,
}

impl Lines<'_> {
    /// The lines of one stream.
    pub(super) fn new<'a>(source: &'a Source, stream: &'static str) -> Lines<'a> {
        Lines { source, stream, line: Vec::new(), last: Vec::new(), last_is_logged: false, logged_bytes: 0 }
    }

    /// Takes what has been read.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if complete {
                self.end_line();
            }
        }
    }

    /// There is no more.
    pub(super) fn end(mut self) -> LastLine {
        self.end_line();
        let mut text = words(&self.last);
        // Replacing what is no UTF-8 may have made it longer.
        let end = (0..=text.len().min(MAX_LINE_BYTES)).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        LastLine { text, logged: self.last_is_logged }
    }

    fn end_line(&mut self) {
        if self.line.iter().all(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            self.line.clear();
            return;
        }
        std::mem::swap(&mut self.line, &mut self.last);
        self.line.clear();
        // Most of a flood of lines is neither logged nor kept, and is not made text.
        self.last_is_logged = self.logged_bytes < MAX_LOGGED_BYTES && log::log_enabled!(log::Level::Info);
        if self.last_is_logged {
            let (Source { order, attempt }, stream, text) = (self.source, self.stream, words(&self.last));
            self.logged_bytes += FRAME_BYTES + written_bytes(order) + written_bytes(&text);
            log::info!(order = order, attempt = *attempt, stream = stream, text = text; "its command says");
            if self.logged_bytes >= MAX_LOGGED_BYTES {
                log::info!(order = order, attempt = *attempt, stream = stream; "what else its command says is not logged");
            }
        }
    }
}

/// A line as text, without control characters and without blanks at its end.
fn words(line: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_line_of(output: &[u8]) -> String {
        let source = Source { order: "1".into(), attempt: 1 };
        let mut lines = Lines::new(&source, "stderr");
        output.chunks(1_000).for_each(|piece| lines.add(piece));
        lines.end().text
    }

    #[test]
    fn the_last_line_that_says_something_is_kept() {
        assert_eq!(last_line_of(b"one\ntwo\n\n  \n"), "two");
        assert_eq!(last_line_of(b"no newline"), "no newline");
        assert_eq!(last_line_of(b"\x1b[31mred\r\n"), " [31mred");
        assert_eq!(last_line_of(b""), "");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(last_line_of(&vec![b'x'; 10 << 20]), "x".repeat(MAX_LINE_BYTES));
        assert!(last_line_of(&vec![0xff; 10_000]).len() <= MAX_LINE_BYTES);
    }
}
