//! `orderd list`: orders as lines of a table, the newest first, or as lines of JSON.

use serde_json::value::RawValue;

use super::arguments::Given;
use super::nearest;
use super::output::{self, Table};
use super::remote::{Query, Record, Remote, record_of};
use super::table::{Flag, JSON, SERVER, Subcommand};
use crate::Status;
use crate::config::Config;
use crate::error::Error;
use crate::os::logging::harmless_json;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "list",
    usage: "[--status S] [--user U] [--limit N] [--json]",
    summary: "show orders, the newest first",
    more: "With --json each line is one order's whole record, which orderd create takes.",
    words: 0..=0,
    flags: &[
        Flag { name: "status", value: "S", help: "only those in this status, such as Failed" },
        Flag { name: "user", value: "U", help: "only those of this user" },
        Flag { name: "limit", value: "N", help: "how many at the most [20]" },
        JSON,
    ],
    settings: SERVER,
    run,
};

const DEFAULT_LIMIT: usize = 20;

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let status = given.value("status").map(status_named).transpose()?;
    let query = Query { status, user: given.value("user"), limit: given.number("limit")?.unwrap_or(DEFAULT_LIMIT) };
    let mut remote = Remote::of(config)?;
    let mut table = Table::new(output::width());
    let heading = ["ORDER", "STATUS", "USER", "ITEMS", "AMOUNT", "CREATED", "TRIES", "ERROR"].map(String::from).to_vec();
    let mut rows = vec![heading];
    let mut shown = 0;
    remote.each_page(&query, |_, page| {
        shown += page.data.len();
        if given.has("json") {
            return output::write(&page.data.iter().map(|record| line(record)).collect::<String>());
        }
        for record in &page.data {
            rows.push(row(record_of(record)?));
        }
        // The heading waits for the first orders, as a page may have none.
        if shown == 0 { Ok(true) } else { output::write(&table.lines(&std::mem::take(&mut rows))) }
    })?;
    if shown == 0 && !given.has("json") {
        eprintln!("no such order");
    }
    Ok(())
}

/// A record as a line of JSON.
pub fn line(record: &RawValue) -> String {
    harmless_json(record.get()) + "\n"
}

fn row(record: Record) -> Vec<String> {
    let Record { order_id, status, user_id, item_ids, total_amount, created_at, attempts, last_error, .. } = record;
    let items = item_ids.len().to_string();
    let (attempts, error) = (attempts.to_string(), last_error.unwrap_or_default());
    // To the second.
    let created_at = created_at.split('.').next().unwrap_or_default().replace('T', " ");
    vec![order_id, status, user_id, items, total_amount.get().into(), created_at, attempts, error]
}

fn status_named(word: &str) -> Result<&'static str, Error> {
    let words = Status::ALL.map(Status::as_str);
    Status::from_word(word).map(Status::as_str).ok_or_else(|| {
        let hint = nearest::hint(word, words);
        Error::Usage(format!("--status: {word:?} is not understood{hint}; use {}", words.join(", ")))
    })
}
