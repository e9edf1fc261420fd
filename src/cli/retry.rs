//! `orderd retry`: asks the running server to have failed orders tried again, and says how many.

use super::arguments::Given;
use super::output;
use super::remote::{Query, Remote};
use super::table::{Flag, SERVER, Subcommand};
use crate::config::Config;
use crate::error::Error;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "retry",
    usage: "ID | --failed",
    summary: "have failed orders tried again",
    more: "An order whose attempts are used up gets one more by each retry.",
    words: 0..=1,
    flags: &[Flag { name: "failed", value: "", help: "all orders that have failed" }],
    settings: SERVER,
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let mut remote = Remote::of(config)?;
    let retried = match (given.word(0)?, given.has("failed")) {
        (Some(id), false) => remote.act(id, "retry").map(|()| 1)?,
        (None, true) => remote.act_on_all(&Query { status: Some("Failed"), user: None, limit: usize::MAX }, "retry")?,
        _ => return Err(SUBCOMMAND.misused()),
    };
    output::write(&format!("{retried} {} will be tried again\n", if retried == 1 { "order" } else { "orders" })).map(drop)
}
