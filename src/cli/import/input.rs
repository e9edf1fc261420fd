//! What an import reads: the first line of an export, its orders, and its last line, each where it has to be.
//!
//! Pure but for reading. What is wrong is said in words, with the number of the line. Nothing behind that is looked at.

use std::collections::VecDeque;
use std::io::Read;

use crate::cli::export::format::{Numbers, read_first, read_last};
use crate::cli::lines::{Line, Lines};
use crate::cli::progress;
use crate::os::logging::harmless;
use crate::store::Exported;

/// An export that is being read.
pub struct Input<R> {
    lines: Lines<R>,
    waiting: VecDeque<Line>,
    /// The number of the last line that was looked at.
    at: u64,
    /// How many orders were to come.
    pub announced: Numbers,
    /// How many have come.
    read: Numbers,
    /// How much of the input they were.
    pub bytes: u64,
}

impl<R: Read> Input<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn begin(input: R) -> Result<Input<R>, String> {
        let (lines, announced, read) = (Lines::new(input), Numbers::default(), Numbers::default());
        let mut input = Input { lines, waiting: VecDeque::new(), at: 0, announced, read, bytes: 0 };
        let Some(line) = input.line()? else { return Err("the input is empty".into()) };
        let first = read_first(&text(line.text)?).map_err(|why| format!("line {}: {why}", line.number))?;
        input.announced = first;
        Ok(input)
    }

    /// The next order with the number of its line; none when the last line has come, and says that all have.
    ///
    /// # Errors
    /// What is wrong, or missing.
    pub fn next(&mut self) -> Result<Option<(u64, Exported)>, String> {
        let Some(line) = self.line()? else { return Err(self.cut_off(&format!("behind line {}", self.at))) };
        let number = line.number;
        let text = text(line.text).map_err(|why| format!("line {number}: {why}"))?;
        match Exported::from_json(&text) {
            Ok(order) => {
                self.bytes += text.len() as u64;
                self.read.add(order.status);
                Ok(Some((number, order)))
            }
            Err(why) => match read_last(&text) {
                Some(written) => self.end(written).map(|()| None),
                None if !text.ends_with(b"\n") => Err(self.cut_off(&format!("in the middle of line {number}"))),
                // It may quote what it is about.
                None => Err(format!("line {number}: {}", harmless(&why))),
            },
        }
    }

    fn end(&mut self, written: Numbers) -> Result<(), String> {
        let number = self.at;
        if let Some(more) = self.line()? {
            return Err(format!("line {}: the export has ended with line {number}, and here is more", more.number));
        }
        if self.read != written {
            return Err(format!(
                "orders are missing, or there are too many: line {number} says that {} were written ({}), and {} came ({})",
                written.total(),
                written.words(),
                self.read.total(),
                self.read.words()
            ));
        }
        Ok(())
    }

    fn cut_off(&self, place: &str) -> String {
        let (read, announced) = (self.read.total(), progress::orders(self.announced.total()));
        format!("the export was cut off {place}: {read} of {announced} came")
    }

    fn line(&mut self) -> Result<Option<Line>, String> {
        if self.waiting.is_empty() && !self.lines.has_ended() {
            self.waiting = self.lines.batch().map_err(|e| format!("the input can't be read: {e}"))?.lines.into();
        }
        let line = self.waiting.pop_front();
        self.at = line.as_ref().map_or(self.at, |line| line.number);
        Ok(line)
    }
}

fn text(line: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    line.ok_or_else(|| "it is longer than an order may be, 1 MiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::export::format::{first, last};

    fn line(id: &str, status: &str) -> String {
        format!(
            "{{\"order_id\":\"{id}\",\"user_id\":\"u\",\"item_ids\":[\"i\"],\"total_amount\":1,\"status\":\"{status}\",\
             \"created_at\":\"2026-01-31T09:30:00.000Z\",\"attempts\":0}}\n"
        )
    }

    fn numbers(pending: u64, completed: u64) -> Numbers {
        serde_json::from_str(&format!(
            "{{\"Pending\":{pending},\"Processing\":0,\"Completed\":{completed},\"Failed\":0,\"Cancelled\":0}}"
        ))
        .unwrap()
    }

    /// The numbers of the lines with orders, and what is wrong in the end.
    fn read(text: &str) -> (Vec<u64>, Option<String>) {
        let mut input = match Input::begin(text.as_bytes()) {
            Ok(input) => input,
            Err(why) => return (Vec::new(), Some(why)),
        };
        let mut found = Vec::new();
        loop {
            match input.next() {
                Ok(Some((number, _))) => found.push(number),
                Ok(None) => return (found, None),
                Err(why) => return (found, Some(why)),
            }
        }
    }

    #[test]
    fn a_whole_export_is_read_to_its_end_and_one_that_was_cut_off_anywhere_is_not() {
        let whole = first(numbers(2, 1)) + &line("1", "Pending") + "\n" + &line("2", "Completed") + &line("3", "Pending");
        let whole = whole + &last(numbers(2, 1));
        assert_eq!(read(&whole), (vec![2, 4, 5], None));
        assert_eq!(read(whole.trim_end()), (vec![2, 4, 5], None), "a last line without its end is whole");
        for length in 0..whole.trim_end().len() {
            let (orders, why) = read(&whole[..length]);
            let why = why.unwrap_or_else(|| panic!("{length} bytes are taken for all"));
            let lines = whole[..length].lines().filter(|line| line.contains("order_id")).count();
            assert!(orders.len() <= lines && orders.len() + 1 >= lines, "{length}: {orders:?}");
            if length > whole.find('\n').unwrap() {
                assert!(why.contains("cut off") && why.contains("of 3 orders came"), "{length}: {why}");
            }
        }
    }

    #[test]
    fn what_is_no_export_is_refused_with_its_line() {
        let (begin, end) = (first(numbers(1, 0)), last(numbers(1, 0)));
        let long = "x".repeat(3 << 20);
        for (text, words) in [
            (String::new(), "the input is empty"),
            (line("1", "Pending"), "line 1: it is not the first line of an export"),
            (begin.replace("orderd-orders", "other"), "line 1: it is not the first line"),
            (begin.replace(":1,\"orders\"", ":2,\"more\""), "line 1: a newer orderd has written this (format 2"),
            (begin.replace("Failed", "Lost"), "line 1: it is not the first line"),
            (begin.clone() + &line("1", "Lost"), "line 2: status: \"Lost\" is none"),
            (begin.clone() + &line("1", "Pending").replace("attempts", "\\u001b"), "line 2: unknown field `\\u{1b}`"),
            (begin.clone() + "\n" + &long + "\n", "line 3: it is longer than"),
            (begin.clone() + &line("1", "Pending") + &begin, "line 3: "),
            (begin.clone() + &line("1", "Pending") + &end + &line("2", "Pending"), "line 4: the export has ended with line 3"),
            (begin.clone() + &end, "line 2 says that 1 were written (1 Pending, 0 Processing"),
            (begin.clone() + &line("1", "Completed") + &end, "and 1 came (0 Pending, 0 Processing, 1 Completed"),
            (begin.clone() + &line("1", "Pending") + &line("2", "Pending") + &end, "or there are too many"),
        ] {
            let (_, why) = read(&text);
            assert!(why.as_ref().is_some_and(|why| why.contains(words)), "{words:?}: {why:?}");
        }
    }
}
