//! Reading what a command prints: its lines go to the log, the last one is kept as what the command said.
//!
//! Each stream is read on a thread of its own, to its end, in bounded memory and with a bounded part of it logged. What is no text
//! is made text. Nothing here knows why a command ended.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, channel};

/// The longest part of a line that is logged, and of the last one that is kept as the order's `last_error`, in bytes.
const MAX_LINE_BYTES: usize = 1_024;
/// How much one attempt may add to the log, in bytes.
const MAX_LOGGED_BYTES: usize = 64 << 10;

/// The last line of a stream that is not empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LastLine {
    pub(super) text: String,
    /// Whether it is in the log.
    pub(super) logged: bool,
}

/// Reads a stream to its end on a thread of its own, logs its lines, and sends the last one that is not empty.
pub(super) fn follow(pipe: impl Read + Send + 'static, id: &str) -> io::Result<Receiver<LastLine>> {
    let (sender, receiver) = channel();
    let id = id.to_string();
    let read = move || {
        let mut lines = Lines { id, line: Vec::new(), last: LastLine::default(), logged_bytes: 0 };
        lines.read(pipe);
        // Nobody listens any more if this took too long.
        let _ = sender.send(lines.last);
    };
    std::thread::Builder::new().name("work-output".into()).spawn(read)?;
    Ok(receiver)
}

/// Cuts output into lines, in bounded memory.
struct Lines {
    id: String,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    last: LastLine,
    logged_bytes: usize,
}

impl Lines {
    fn read(&mut self, mut pipe: impl Read) {
        let mut buffer = [0; 8 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
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
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        let text: String = String::from_utf8_lossy(&self.line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.line.clear();
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        self.last.logged = self.logged_bytes < MAX_LOGGED_BYTES;
        if self.last.logged {
            self.logged_bytes += text.len();
            log::info!("order {}: {text}", self.id);
            if self.logged_bytes >= MAX_LOGGED_BYTES {
                log::info!("order {}: the rest of its output is not logged", self.id);
            }
        }
        // Replacing what is no UTF-8 may have made it longer.
        let end = (0..=text.len().min(MAX_LINE_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.last.text.clear();
        self.last.text.push_str(&text[..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_line_of(output: &[u8]) -> String {
        let mut lines = Lines { id: "1".into(), line: Vec::new(), last: LastLine::default(), logged_bytes: 0 };
        lines.read(output);
        lines.last.text
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
