//! `orderd show`: all that is known of one order.

use super::arguments::Given;
use super::output::{self, Table};
use super::remote::{Record, Remote, record_of};
use super::table::{JSON, SERVER, Subcommand};
use super::{list, required};
use crate::config::Config;
use crate::error::Error;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "show",
    usage: "ID [--json]",
    summary: "show all that is known of one order",
    more: "An id that begins with a dash stands behind two of them: orderd show -- -1",
    words: 1..=1,
    flags: &[JSON],
    settings: SERVER,
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let id = required(given.word(0)?, &SUBCOMMAND)?;
    let record = Remote::of(config)?.order(id)?;
    let text = if given.has("json") { list::line(&record) } else { Table::new(None).lines(&rows(record_of(&record)?)) };
    output::write(&text).map(drop)
}

/// Nothing is cut here, and each item has a line.
fn rows(record: Record) -> Vec<Vec<String>> {
    let Record { order_id, user_id, item_ids, total_amount, status, created_at, .. } = record;
    let attempts = record.attempts.to_string();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let [started_at, completed_at, last_error] = [record.started_at, record.completed_at, record.last_error].map(or_none);
    let mut rows = vec![("order_id", order_id), ("status", status), ("user_id", user_id)];
    rows.extend(["item_ids"].into_iter().chain(std::iter::repeat("")).zip(item_ids));
    rows.extend([("total_amount", total_amount.get().into()), ("created_at", created_at), ("started_at", started_at)]);
    rows.extend([("completed_at", completed_at), ("attempts", attempts), ("last_error", last_error)]);
    rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect()
}
