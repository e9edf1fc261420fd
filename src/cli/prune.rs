//! `orderd prune`: deletes finished orders that ended long ago, while no server runs. A running one does the same with `--keep`.
//!
//! It owns the database meanwhile, as a server would, so the two can't be at it together.

use std::time::{Duration, Instant};

use super::print;
use crate::Status;
use crate::config::Config;
use crate::error::Error;
use crate::os::logging;
use crate::store::{Lock, Opening, Store, retention};

/// How often to say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Deletes orders in these statuses that ended longer than `older_than` ago.
pub fn run(config: &Config, older_than: Duration, statuses: &[Status]) -> Result<(), Error> {
    logging::init(config.log_level, config.log_format);
    if !config.db.exists() {
        return Err(Error::Usage(format!("{} does not exist; name the database with --db", config.db.display())));
    }
    let lock = Lock::acquire(&config.db).map_err(|e| match e {
        Error::Owned { file } => {
            let file = file.display();
            Error::Usage(format!("{file} is in use by a running orderd; stop it first, or have it delete with --keep"))
        }
        e => e,
    })?;
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
    print(&format!(
        "{deleted} {} deleted; their room in the file is used again\n",
        if deleted == 1 { "order" } else { "orders" }
    ));
    Ok(())
}
