//! The lines of an input, with their numbers, in batches.
//!
//! Whoever wants them reads them, and may hand on what has come while more is waited for. However long a line is, no more is kept of
//! it than an order may have.

use std::io::{self, BufRead, BufReader, Read};

/// How much is read at once, in bytes.
const READ_AT_ONCE: usize = 64 << 10;
/// The longest line that is sent, in bytes: more than an order may have is refused anyway.
const MAX_LINE_BYTES: usize = 1 << 20;
/// A batch is given on when it has so many bytes, or when nothing more has come yet.
const BATCH_BYTES: usize = 16 << 10;

/// A line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// What it holds; `None` if that is too long.
    pub text: Option<Vec<u8>>,
}

/// Lines that have come together; none at the end.
pub struct Batch {
    pub lines: Vec<Line>,
    /// How much had been read when they were.
    pub bytes_so_far: u64,
}

/// The lines of a reader.
pub struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
    bytes: u64,
    has_ended: bool,
}

impl<R: Read> Lines<R> {
    /// All that come.
    pub fn new(reader: R) -> Lines<R> {
        Lines { reader: BufReader::with_capacity(READ_AT_ONCE, reader), number: 0, bytes: 0, has_ended: false }
    }

    /// Whether there are no more, or they can't be read.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Those that have come; waits for the first one.
    ///
    /// # Errors
    /// What the system says.
    pub fn batch(&mut self) -> io::Result<Batch> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        self.has_ended = true;
        while lines.is_empty() || (bytes < BATCH_BYTES && !self.reader.buffer().is_empty()) {
            match self.next()? {
                Some(line) => {
                    bytes += line.text.as_ref().map_or(0, Vec::len);
                    lines.push(line);
                }
                None => return Ok(Batch { lines, bytes_so_far: self.bytes }),
            }
        }
        self.has_ended = false;
        Ok(Batch { lines, bytes_so_far: self.bytes })
    }

    fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut text = Vec::new();
            // With its end a line may be one longer.
            let read = self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut text)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.bytes += read as u64;
            let is_whole = text.ends_with(b"\n") || read <= MAX_LINE_BYTES;
            if !is_whole {
                self.skip()?;
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, text: is_whole.then_some(text) }));
            }
        }
    }

    /// Leaves out the rest of a line.
    fn skip(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let read = end.map_or(buffer.len(), |at| at + 1);
            self.reader.consume(read);
            self.bytes += read as u64;
            if end.is_some() || read == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, Option<usize>)> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while !lines.has_ended() {
            let batch = lines.batch().unwrap();
            found.extend(batch.lines.into_iter().map(|line| (line.number, line.text.map(|text| text.len()))));
        }
        assert_eq!(lines.bytes, text.len() as u64);
        found
    }

    #[test]
    fn every_line_has_its_number_and_empty_ones_are_left_out() {
        assert_eq!(all(b"a\n\n  \r\nbb\r\nc"), [(1, Some(2)), (4, Some(4)), (5, Some(1))]);
        assert_eq!(all(b""), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_not_kept() {
        let most = vec![b'x'; MAX_LINE_BYTES];
        for more in [1, 70_000] {
            let text = [&most[..], b"\n", &most, &vec![b'x'; more], b"\nshort\n", &most].concat();
            let expected = [(1, Some(MAX_LINE_BYTES + 1)), (2, None), (3, Some(6)), (4, Some(MAX_LINE_BYTES))];
            assert_eq!(all(&text), expected, "{more}");
        }
    }
}
