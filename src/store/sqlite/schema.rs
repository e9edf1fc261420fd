//! The shape of the database file, its version, and how a file of an older version is brought up to date.
//!
//! **The next migration**: append one string to [`MIGRATIONS`], never change one that has been released. Its statements take a
//! file from the version that is its index to the next one, inside one transaction together with the new version number, so
//! a crash leaves the old version whole. A test opens a file of every older version.

use std::path::Path;

use rusqlite::Connection;

use crate::error::Error;

/// "ordr": tells an orderd database from any other SQLite file (`PRAGMA application_id`, bytes 68 to 71).
pub(super) const APPLICATION_ID: i32 = 0x6f72_6472;

/// The version that this program writes (`PRAGMA user_version`, bytes 60 to 63).
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

const MIGRATIONS: [&str; 3] = [V1, V2, V3];

/// Times are milliseconds since 1970 (UTC). `seq` is the order of arrival and the cursor of every listing.
///
/// `/metrics` reads `status_counts`, which the triggers keep when another program changes a row, such as the sqlite3 shell. Our own
/// writer keeps it without them (`change.rs`).
const V1: &str = "
CREATE TABLE orders (
  seq          INTEGER PRIMARY KEY,
  order_id     TEXT NOT NULL UNIQUE,
  user_id      TEXT NOT NULL,
  item_ids     TEXT NOT NULL,                -- a JSON list of strings
  total_amount TEXT NOT NULL,                -- the decimal as it was sent
  status       TEXT NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed')),
  attempts     INTEGER NOT NULL DEFAULT 0,   -- counted before each begins
  created_at   INTEGER NOT NULL,
  started_at   INTEGER,
  completed_at INTEGER,
  retry_at     INTEGER NOT NULL DEFAULT 0,   -- not to be claimed before; 0 for at once
  last_error   TEXT
) STRICT;
CREATE INDEX orders_fresh           ON orders (seq)           WHERE status = 'Pending' AND retry_at = 0;
CREATE INDEX orders_due             ON orders (retry_at, seq) WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_delayed         ON orders (seq)           WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_processing      ON orders (seq)           WHERE status = 'Processing';
CREATE INDEX orders_completed       ON orders (seq)           WHERE status = 'Completed';
CREATE INDEX orders_failed          ON orders (seq)           WHERE status = 'Failed';
CREATE INDEX orders_user_unfinished ON orders (user_id, seq)  WHERE status IN ('Pending', 'Processing');
CREATE INDEX orders_user_completed  ON orders (user_id, seq)  WHERE status = 'Completed';
CREATE INDEX orders_user_failed     ON orders (user_id, seq)  WHERE status = 'Failed';

CREATE TABLE status_counts (
  status        TEXT PRIMARY KEY,
  orders        INTEGER NOT NULL,
  processing_ms INTEGER NOT NULL   -- from creation to completion, summed over completed orders
) STRICT, WITHOUT ROWID;
INSERT INTO status_counts VALUES ('Pending', 0, 0), ('Processing', 0, 0), ('Completed', 0, 0), ('Failed', 0, 0);

CREATE TRIGGER orders_inserted AFTER INSERT ON orders BEGIN
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;
CREATE TRIGGER orders_deleted AFTER DELETE ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
END;
CREATE TRIGGER orders_updated AFTER UPDATE OF status, created_at, completed_at ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;

-- Written to find out whether the disk takes a write.
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), written_at INTEGER NOT NULL) STRICT;
INSERT INTO probe VALUES (1, 0);
";

/// `seq` is never given twice, so that the end of an order that was deleted meanwhile can't be taken for that of a newer one. What
/// no attempt can be counted on, or no time be waited for, is refused to other programs, and mended where it has been written.
///
/// The indexes by status are partial, so that an order is in one or two of them at a time: the processor claims from `orders_fresh`
/// and `orders_due`, a start requeues from `orders_processing`, and the pages of a listing are read from them (`list.rs`). So
/// nothing depends on how many orders are finished. The one by user holds every order, and a change of status leaves it alone:
/// three partial ones in its place made a completion five times as expensive.
const V2: &str = "
DROP TRIGGER orders_inserted;
DROP TRIGGER orders_deleted;
DROP TRIGGER orders_updated;
ALTER TABLE orders RENAME TO orders_1;
CREATE TABLE orders (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,
  order_id     TEXT NOT NULL UNIQUE,
  user_id      TEXT NOT NULL,
  item_ids     TEXT NOT NULL,                -- a JSON list of strings
  total_amount TEXT NOT NULL,                -- the decimal as it was sent
  status       TEXT NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed')),
  attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 2000000000),   -- counted before each begins
  created_at   INTEGER NOT NULL,
  started_at   INTEGER,
  completed_at INTEGER,
  retry_at     INTEGER NOT NULL DEFAULT 0 CHECK (retry_at >= 0),   -- not to be claimed before; 0 for at once
  last_error   TEXT
) STRICT;
INSERT INTO orders (seq, order_id, user_id, item_ids, total_amount, status, attempts, created_at, started_at, completed_at,
                    retry_at, last_error)
  SELECT seq, order_id, user_id, item_ids, total_amount, status, min(max(attempts, 0), 2000000000), created_at, started_at,
         completed_at, max(retry_at, 0), last_error FROM orders_1 ORDER BY seq;
DROP TABLE orders_1;
CREATE INDEX orders_fresh      ON orders (seq)           WHERE status = 'Pending' AND retry_at = 0;
CREATE INDEX orders_due        ON orders (retry_at, seq) WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_delayed    ON orders (seq)           WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_processing ON orders (seq)           WHERE status = 'Processing';
CREATE INDEX orders_completed  ON orders (seq)           WHERE status = 'Completed';
CREATE INDEX orders_failed     ON orders (seq)           WHERE status = 'Failed';
CREATE INDEX orders_user       ON orders (user_id, seq);
CREATE TRIGGER orders_inserted AFTER INSERT ON orders BEGIN
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;
CREATE TRIGGER orders_deleted AFTER DELETE ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
END;
CREATE TRIGGER orders_updated AFTER UPDATE OF status, created_at, completed_at ON orders BEGIN
  UPDATE status_counts SET orders = orders - 1, processing_ms = processing_ms
    - iif(old.status = 'Completed', max(0, coalesce(old.completed_at - old.created_at, 0)), 0)
    WHERE status = old.status;
  UPDATE status_counts SET orders = orders + 1, processing_ms = processing_ms
    + iif(new.status = 'Completed', max(0, coalesce(new.completed_at - new.created_at, 0)), 0)
    WHERE status = new.status;
END;
";

/// Orders can be cancelled, and one that is given up or cancelled has its own time of that. The table stays where it is: a CHECK is no
/// part of its rows, and may be changed in the text of the schema (SQLite's documentation of ALTER TABLE, "Making Other Kinds Of
/// Table Schema Changes").
const V3: &str = "
ALTER TABLE orders ADD COLUMN ended_at INTEGER;   -- when it became Failed or Cancelled
UPDATE orders SET ended_at = coalesce(started_at, created_at) WHERE status = 'Failed';
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '''Completed'', ''Failed'')', '''Completed'', ''Failed'', ''Cancelled'')')
  WHERE type = 'table' AND name = 'orders';
PRAGMA writable_schema = RESET;
CREATE INDEX orders_cancelled ON orders (seq) WHERE status = 'Cancelled';
INSERT INTO status_counts VALUES ('Cancelled', 0, 0);
";

/// From so many bytes on it is said that a file is being brought up to date, as it takes a while.
const LARGE_BYTES: u64 = 16 << 20;

/// Brings the database behind `connection`, whose file is at `path`, to [`VERSION`]. A fresh file is at version 0.
///
/// # Errors
/// [`Error::TooNew`]: the header of the file is looked at before it is opened, but a newer version may still be in the log.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    let mut is_fresh = false;
    loop {
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(Error::TooNew { file: path.to_path_buf(), found: version, known: VERSION });
        }
        let Some(step) = usize::try_from(version).ok().and_then(|v| MIGRATIONS.get(v)) else { return Ok(()) };
        is_fresh |= version == 0;
        if !is_fresh {
            log::info!("{} is brought from schema {version} to {}", path.display(), version + 1);
            if std::fs::metadata(path).is_ok_and(|file| file.len() > LARGE_BYTES) {
                log::info!("that takes up to half a minute for each million orders, and as much room again");
            }
        }
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version + 1)?;
        transaction.commit()?;
    }
}
