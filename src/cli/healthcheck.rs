//! `orderd healthcheck`: whether the running server could store an order just now and processes orders, by the exit status. For images
//! without curl.
//!
//! Its time is bounded, as who asks may be waited for by others.

use std::time::Duration;

use super::arguments::Given;
use super::table::{SERVER, Subcommand};
use super::{output, remote};
use crate::config::Config;
use crate::error::Error;
use crate::http::client::Client;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "healthcheck",
    usage: "",
    summary: "say by the exit status whether all is well: 0 or 1",
    more: "It needs no token, and takes ten seconds at the most.",
    words: 0..=0,
    flags: &[],
    settings: SERVER,
    run,
};

/// To connect, and then to be answered. The server waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

fn run(config: &Config, _given: &Given) -> Result<(), Error> {
    let answer = Client::new(&config.listen, None).with_patience(PATIENCE).ask("GET", "/healthz", "", b"")?;
    match answer.status {
        200 => output::write("ok\n").map(drop),
        _ => Err(remote::refused("not well", &answer)),
    }
}
