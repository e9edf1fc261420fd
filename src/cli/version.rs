//! `orderd version` and `--version`.

use super::arguments::Given;
use super::print;
use super::table::Subcommand;
use crate::config::Config;
use crate::error::Error;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "version",
    usage: "",
    summary: "which orderd this is",
    more: "",
    words: 0..=0,
    flags: &[],
    settings: Some(&[]),
    run: |_config: &Config, _given: &Given| -> Result<(), Error> {
        say();
        Ok(())
    },
};

/// Says it.
pub fn say() {
    print(&format!("orderd {}\n", env!("CARGO_PKG_VERSION")));
}
