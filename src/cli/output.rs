//! What subcommands write to standard output: text that a terminal shows and does not obey, in columns that are aligned.
//!
//! On a terminal a line is no longer than the terminal is wide; elsewhere nothing is cut. A reader that has seen enough, such as
//! `head`, is no failure.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::os::logging::harmless;

/// How wide a terminal is taken to be that does not say.
const USUAL_WIDTH: usize = 80;
/// The last column, which has the longest texts, is cut to so much before any other gives way.
const LEAST_LAST: usize = 12;
/// No column is cut to less, however narrow the terminal is.
const LEAST: usize = 3;
/// Between two columns.
const GAP: usize = 2;

/// Writes text. Says whether anybody reads on.
///
/// # Errors
/// [`Error::Output`].
pub fn write(text: &str) -> Result<bool, Error> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::Output(e)),
    }
}

/// How wide standard output is, if it is a terminal.
pub fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    // Asking it oneself needs a system call that has no safe form here; what there is in every Unix asks its standard input.
    let terminal = std::os::fd::AsFd::as_fd(&stdout).try_clone_to_owned().ok()?;
    let asked = Command::new("stty").arg("size").stdin(Stdio::from(terminal)).stderr(Stdio::null()).output();
    let columns =
        asked.ok().and_then(|size| String::from_utf8(size.stdout).ok()?.split_ascii_whitespace().nth(1)?.parse().ok());
    Some(columns.filter(|columns| *columns > 0).unwrap_or(USUAL_WIDTH))
}

/// Rows whose columns are aligned. Those that come later may widen a column, and never narrow one.
pub struct Table {
    widths: Vec<usize>,
    /// The width to keep to.
    within: Option<usize>,
}

impl Table {
    /// A table that keeps to this width, if any.
    pub fn new(within: Option<usize>) -> Table {
        Table { widths: Vec::new(), within }
    }

    /// These rows as lines.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(columns(cell));
            }
        }
        let widths = self.fitting();
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = cut(cell, *width);
                line += &cell;
                line.extend(std::iter::repeat_n(' ', width - columns(&cell) + GAP));
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// The last column gives way first, and then the widest ones.
    fn fitting(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        let Some(within) = self.within else { return widths };
        let gaps = GAP * widths.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(within);
        if let Some(last) = widths.last_mut() {
            let gives = excess.min(last.saturating_sub(LEAST_LAST));
            *last -= gives;
            excess -= gives;
        }
        while excess > 0
            && let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > LEAST)
        {
            *widest -= 1;
            excess -= 1;
        }
        widths
    }
}

/// The beginning of a text that is too wide, with a mark that there was more.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.into();
    }
    let mut left = width.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let fits = columns_of(*c) <= left;
        left -= columns_of(*c).min(left);
        fits
    });
    kept.chain(['…']).collect()
}

/// How many columns of a terminal a text takes.
fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// By the blocks that matter: what combines with the letter before it takes none, East Asian writing and pictures take two.
fn columns_of(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x1f680..=0x1f9ff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| cell.to_string()).collect()).collect()
    }

    #[test]
    fn columns_are_aligned_also_with_letters_that_take_two() {
        let mut table = Table::new(None);
        let text = table.lines(&rows(&[&["ID", "STATUS", "USER"], &["日本", "Pending", "u"], &["e\u{301}", "Failed", "long"]]));
        assert_eq!(text, "ID    STATUS   USER\n日本  Pending  u\ne\u{301}     Failed   long\n");
        assert_eq!(table.lines(&rows(&[&["longer", "x", "y"]])), "longer  x        y\n");
    }

    #[test]
    fn the_widest_column_is_cut_to_the_width_that_there_is() {
        let mut table = Table::new(Some(24));
        let text = table.lines(&rows(&[&["0123456789abcdef", "Pending", "u"], &["日本日本日本日本日本", "Pending", "u"]]));
        assert_eq!(text, "0123456789a…  Pending  u\n日本日本日…   Pending  u\n");
        let text = Table::new(Some(30)).lines(&rows(&[&["0123456789abcdef", "what went wrong is long"]]));
        assert_eq!(text, "0123456789abcdef  what went w…\n", "the last one goes first");
        let text = Table::new(Some(3)).lines(&rows(&[&["0123456789", "Pending"]]));
        assert_eq!(text, "01…  Pe…\n", "there is an end to it");
    }

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        let text = Table::new(None).lines(&rows(&[&["a\u{1b}[31m\u{202e}b\nc", "x"]]));
        assert_eq!(text, "a\\u{1b}[31m\\u{202e}b\\nc  x\n");
    }
}
