//! `orderd restore`: puts a backup in the place of the database, while no server runs.
//!
//! It owns the database meanwhile, as a server would, so the two can't be at it together.

use std::path::Path;

use super::arguments::Given;
use super::table::Subcommand;
use super::{lock, print, progress};
use crate::config::Config;
use crate::error::Error;
use crate::store::restore;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "restore",
    usage: "FILE",
    summary: "go back to a backup, while no server runs",
    more: "FILE is checked first and stays as it is. The old files are set aside, never deleted; the orders that came after the backup are in them alone.",
    words: 1..=1,
    flags: &[],
    settings: Some(&["db"]),
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    #[cfg(feature = "postgres")]
    super::check::is_a_file(&config.db)?;
    let lock = lock(&config.db, "stop it first")?;
    let from = Path::new(&given.words[0]);
    let watch = progress::watch()?;
    let restored = restore::restore(&lock, from, &watch)?;
    drop(watch);
    let mut text = format!("{} now has the {} of {}\n", config.db.display(), progress::orders(restored.orders), from.display());
    if restored.is_recounted {
        text += "its counts did not agree with its orders; they do now\n";
    }
    for (old, aside) in &restored.aside {
        text += &format!("{} is set aside as {}\n", old.display(), aside.display());
    }
    print(&text);
    Ok(())
}
