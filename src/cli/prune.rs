//! `orderd prune`: deletes finished orders that ended long ago, while no server runs. A running one does the same with `--keep`.
//!
//! It owns the file meanwhile, as a server would, so the two can't be at it together. On PostgreSQL it is one more instance, beside
//! those that run, and works on no order.

use std::time::{Duration, Instant};

use super::arguments::Given;
use super::table::{Flag, Subcommand};
use super::{check, lock, print, progress};
use crate::Status;
use crate::config::{Config, duration};
use crate::error::Error;
use crate::os::logging;
use crate::store::retention::FINISHED;
use crate::store::{Opening, Store, retention};

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "prune",
    usage: "--older-than D [--status S]",
    summary: "delete finished orders, while no server runs",
    more: "A running server does the same with --keep. Ids are free then, and the room of the orders is used again; a file does not shrink. On PostgreSQL it may be run beside servers.",
    words: 0..=0,
    flags: &[
        Flag { name: "older-than", value: "D", help: "only those that ended longer ago: 12h, 90d" },
        Flag { name: "status", value: "S", help: "only these: Completed, Failed, Cancelled" },
    ],
    settings: Some(&["db", "log-level", "log-format"]),
    run,
};

/// How often to say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let older_than = age(given.value("older-than").ok_or_else(|| SUBCOMMAND.misused())?)?;
    let statuses = given.all("status").map(finished).collect::<Result<Vec<_>, _>>()?;
    prune(config, older_than, if statuses.is_empty() { &FINISHED } else { &statuses })
}

/// Deletes orders in these statuses that ended longer than `older_than` ago.
fn prune(config: &Config, older_than: Duration, statuses: &[Status]) -> Result<(), Error> {
    logging::init(config.log_level, config.log_format);
    check::is_there_or_a_server(&config.db)?;
    let lock = lock(&config.db, "stop it first, or have it delete with --keep")?;
    let clock = config.clock.clone();
    let before_ms = clock.now_ms().saturating_sub(older_than.as_millis() as i64);
    let opening = Opening { readers: 1, clock, predecessor_lives: false, accept_loss: false };
    let store = Store::open(&lock, opening, |_| {})?;
    let (mut deleted, mut said) = (0, Instant::now());
    for status in statuses {
        let progress = |so_far| {
            if said.elapsed() > SAY_EVERY {
                said = Instant::now();
                print(&format!("{} deleted so far\n", deleted + so_far));
            }
        };
        let pruned = retention::prune(&store, *status, before_ms, progress);
        deleted += pruned.map_err(|e| Error::Database(e.to_string().into()))?;
    }
    store.close();
    print(&format!("{} deleted; their room is used again\n", progress::orders(deleted)));
    Ok(())
}

fn age(text: &str) -> Result<Duration, Error> {
    duration(text).map_err(|remedy| Error::Usage(format!("--older-than: {text:?} is not understood; {remedy}")))
}

fn finished(text: &str) -> Result<Status, Error> {
    let status = Status::from_word(text).filter(|status| FINISHED.contains(status));
    status.ok_or_else(|| Error::Usage(format!("--status: {text:?} is not understood; use Completed, Failed or Cancelled")))
}
