//! `orderd backup`: a copy of the database, beside a running server or without one.
//!
//! It reads the file that `--db` names and asks no server, so it works as well while none runs.

use std::path::Path;

use super::arguments::Given;
use super::table::Subcommand;
use super::{print, progress};
use crate::config::Config;
use crate::error::Error;
use crate::store::backup;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "backup",
    usage: "FILE",
    summary: "copy the database, also while the server runs",
    more: "FILE holds all that was acknowledged before, and is there only once it is whole, checked and on disk. A file that exists is left as it is.",
    words: 1..=1,
    flags: &[],
    settings: Some(&["db"]),
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    super::check::is_there(&config.db)?;
    let target = Path::new(&given.words[0]);
    let watch = progress::watch()?;
    let saved = backup::backup(&config.db, target, &watch)?;
    // The line on the terminal ends with it.
    drop(watch);
    print(&format!(
        "{} has {} of {} ({})\n",
        target.display(),
        progress::orders(saved.orders),
        config.db.display(),
        progress::size(saved.bytes)
    ));
    Ok(())
}
