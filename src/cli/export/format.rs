//! What stands around the orders of an export: a first line that says what it is and how many orders are to come, and a last one that says
//! how many came. An export that was cut off has none.
//!
//! A line for an order is what `order` makes of it.

use serde::{Deserialize, Serialize};

use crate::Status;
use crate::store::Counts;

/// What an export calls itself.
const FORMAT: &str = "orderd-orders";
/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// Orders by their status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Numbers {
    pending: u64,
    processing: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
}

impl Numbers {
    /// One more.
    pub fn add(&mut self, status: Status) {
        *match status {
            Status::Pending => &mut self.pending,
            Status::Processing => &mut self.processing,
            Status::Completed => &mut self.completed,
            Status::Failed => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
        } += 1;
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        let Numbers { pending, processing, completed, failed, cancelled } = self;
        [pending, processing, completed, failed, cancelled].into_iter().fold(0, |sum, number| sum.saturating_add(*number))
    }

    /// In words.
    pub fn words(&self) -> String {
        let Numbers { pending, processing, completed, failed, cancelled } = self;
        format!("{pending} Pending, {processing} Processing, {completed} Completed, {failed} Failed, {cancelled} Cancelled")
    }
}

impl From<Counts> for Numbers {
    fn from(counts: Counts) -> Numbers {
        let Counts { pending, processing, completed, failed, cancelled, .. } = counts;
        Numbers { pending, processing, completed, failed, cancelled }
    }
}

#[derive(Serialize, Deserialize)]
struct First {
    format: String,
    version: u32,
    /// As they are counted beside the orders. Another version may have others.
    orders: Option<Numbers>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    written: Numbers,
}

/// The first line.
pub fn first(orders: Numbers) -> String {
    line(&First { format: FORMAT.into(), version: VERSION, orders: Some(orders) })
}

/// The last line.
pub fn last(written: Numbers) -> String {
    line(&Last { written })
}

fn line(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("words and numbers always have a JSON form") + "\n"
}

/// Reads the first line: how many orders are to come.
///
/// # Errors
/// In words, why that is no export which this program can read.
pub fn read_first(line: &[u8]) -> Result<Numbers, String> {
    let none = || "it is not the first line of an export, as orderd export writes it".to_string();
    let first: First = serde_json::from_slice(line).map_err(|_| none())?;
    if first.format != FORMAT {
        return Err(none());
    }
    if first.version > VERSION {
        return Err(format!(
            "a newer orderd has written this (format {}, this program knows {VERSION}); install that version",
            first.version
        ));
    }
    first.orders.ok_or_else(none)
}

/// Reads the last line, if it is one: how many orders were written.
pub fn read_last(line: &[u8]) -> Option<Numbers> {
    serde_json::from_slice(line).ok().map(|Last { written }| written)
}
