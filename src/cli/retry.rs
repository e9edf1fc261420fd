//! `orderd retry`: asks the running server to have failed orders tried again, and says how many.

use super::arguments::Given;
use super::table::{Flag, SERVER, Subcommand};
use super::{print, unknown_variables};
use crate::config::Config;
use crate::error::Error;
use crate::http::client::Client;

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
    unknown_variables().for_each(|what| eprintln!("orderd: {what}"));
    let client = Client(&config.listen);
    let retried = match (given.word(0)?, given.has("failed")) {
        (Some(id), false) => client.retry(id).map(|()| 1)?,
        (None, true) => client.retry_failed()?,
        _ => return Err(SUBCOMMAND.misused()),
    };
    print(&format!("{retried} {} will be tried again\n", if retried == 1 { "order" } else { "orders" }));
    Ok(())
}
