//! `orderd cancel`: has the running server cancel an order that is not being processed.

use super::arguments::Given;
use super::remote::Remote;
use super::table::{SERVER, Subcommand};
use super::{output, required};
use crate::config::Config;
use crate::error::Error;
use crate::os::logging::harmless;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "cancel",
    usage: "ID",
    summary: "cancel an order that is pending",
    more: "Also one that waits to be tried again. An order in any other status stays as it is.",
    words: 1..=1,
    flags: &[],
    settings: SERVER,
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let id = required(given.word(0)?, &SUBCOMMAND)?;
    Remote::of(config)?.act(id, "cancel")?;
    output::write(&format!("{} is cancelled\n", harmless(id))).map(drop)
}
