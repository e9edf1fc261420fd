//! The tables, their version, and how a database of an older version, or an empty one, is brought up to date.
//!
//! All of it lies in a schema of its own, `orderd` unless the URL names another. **The next migration**: append one string to
//! [`MIGRATIONS`], never change one that has been released. Instances of two versions run side by side while one after the other is
//! replaced, so a migration says in [`READABLE_FROM`] which version can still work with what it makes.
//!
//! Many instances may start at once: one migrates, in one transaction, while the others wait for its lock.

use super::connection::{Connection, MIGRATION_PATIENCE};
use super::url::Server;
use crate::error::Error;

/// The version that this program writes.
const VERSION: i32 = MIGRATIONS.len() as i32;

/// The oldest version of a program that can work with [`VERSION`].
const READABLE_FROM: i32 = 1;

const MIGRATIONS: [&str; 1] = [V1];

/// Times are milliseconds since 1970 (UTC), and those of leases the server's own. Texts are compared byte by byte, whatever the
/// database's language. `counts` has a row for each of 64 slots, of which an instance has one, so that their commits don't wait for
/// each other; a row may be negative, their sum is exact. Both small tables keep room in their pages for new versions of a row.
///
/// An index by status is partial: an order is in one or two at a time, and nothing depends on how many are finished. Every place is
/// above 0; a statement that says so is one that wants the delayed orders by their places, and no claim, which would have to sort them.
const V1: &str = "
CREATE TABLE orderd_meta (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, readable_from integer NOT NULL);
INSERT INTO orderd_meta (version, readable_from) VALUES (0, 0);
CREATE SEQUENCE orders_seq AS bigint;
CREATE TABLE orders (
  seq          bigint  PRIMARY KEY DEFAULT nextval('orders_seq'),
  order_id     text    COLLATE \"C\" NOT NULL UNIQUE,
  user_id      text    COLLATE \"C\" NOT NULL,
  item_ids     text    NOT NULL,
  total_amount text    NOT NULL,
  status       text    COLLATE \"C\" NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed', 'Cancelled')),
  attempts     integer NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 2000000000),
  created_at   bigint  NOT NULL,
  started_at   bigint,
  completed_at bigint,
  ended_at     bigint,
  retry_at     bigint  NOT NULL DEFAULT 0 CHECK (retry_at >= 0),
  owner        bigint,
  last_error   text);
CREATE INDEX orders_fresh      ON orders (seq)           WHERE status = 'Pending' AND retry_at = 0;
CREATE INDEX orders_due        ON orders (retry_at, seq) WHERE status = 'Pending' AND retry_at > 0;
CREATE INDEX orders_delayed    ON orders (seq)           WHERE status = 'Pending' AND retry_at > 0 AND seq > 0;
CREATE INDEX orders_processing ON orders (seq)           WHERE status = 'Processing';
CREATE INDEX orders_completed  ON orders (seq)           WHERE status = 'Completed';
CREATE INDEX orders_failed     ON orders (seq)           WHERE status = 'Failed';
CREATE INDEX orders_cancelled  ON orders (seq)           WHERE status = 'Cancelled';
CREATE INDEX orders_user       ON orders (user_id, seq);
ALTER TABLE orders SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
CREATE TABLE counts (
  slot          smallint PRIMARY KEY,
  pending       bigint NOT NULL DEFAULT 0,
  processing    bigint NOT NULL DEFAULT 0,
  completed     bigint NOT NULL DEFAULT 0,
  failed        bigint NOT NULL DEFAULT 0,
  cancelled     bigint NOT NULL DEFAULT 0,
  processing_ms bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10);
INSERT INTO counts (slot) SELECT generate_series(0, 63);
CREATE TABLE instances (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node        text NOT NULL,
  lease_until timestamptz NOT NULL) WITH (fillfactor = 10);
";

/// Brings the schema to [`VERSION`].
///
/// # Errors
/// [`Error::TooNew`], and [`Error::Usage`] for tables that are not ours, with nothing touched; whatever the server says.
pub(super) fn migrate(connection: &mut Connection, server: &Server) -> Result<(), Error> {
    check_server(connection)?;
    let schema = &server.schema;
    let begin = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock(1869767794)";
    connection.execute(begin, MIGRATION_PATIENCE)?;
    let done = migrate_in_transaction(connection, server);
    connection.execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }, MIGRATION_PATIENCE)?;
    if done? {
        log::info!("the schema {schema} of {} is at version {VERSION}", server.name);
    }
    Ok(())
}

/// Says whether anything was done.
fn migrate_in_transaction(connection: &mut Connection, server: &Server) -> Result<bool, Error> {
    let schema = &server.schema;
    let exists = |connection: &mut Connection, what: &str| -> Result<bool, Error> {
        Ok(connection.text(&format!("SELECT ({what})::text"))?.as_deref() == Some("true"))
    };
    if !exists(connection, &format!("to_regnamespace('{schema}') IS NOT NULL"))? {
        connection.execute(&format!("CREATE SCHEMA {schema}"), MIGRATION_PATIENCE)?;
    }
    let version = if exists(connection, &format!("to_regclass('{schema}.orderd_meta') IS NOT NULL"))? {
        connection.text("SELECT version::text FROM orderd_meta")?.and_then(|text| text.parse().ok()).unwrap_or(0)
    } else if exists(connection, &format!("to_regclass('{schema}.orders') IS NOT NULL"))? {
        return Err(Error::Usage(format!(
            "the schema {schema} of {} has a table orders that is not orderd's; name another schema with ?schema=",
            server.name
        )));
    } else {
        0
    };
    if version > VERSION {
        let readable = connection.text("SELECT readable_from::text FROM orderd_meta")?.and_then(|text| text.parse().ok());
        if readable.is_some_and(|from: i32| from <= VERSION) {
            return Ok(false);
        }
        return Err(Error::TooNew { file: server.name.clone().into(), found: version.into(), known: VERSION.into() });
    }
    for step in MIGRATIONS.iter().skip(version as usize) {
        connection.execute(step, MIGRATION_PATIENCE)?;
    }
    if version < VERSION {
        let note = format!("UPDATE orderd_meta SET version = {VERSION}, readable_from = {READABLE_FROM}");
        connection.execute(&note, MIGRATION_PATIENCE)?;
    }
    Ok(version < VERSION)
}

/// Whether there are tables that this program can read as they are.
///
/// # Errors
/// [`Error::Usage`] when there are none; [`Error::TooNew`].
pub(super) fn look(connection: &mut Connection, server: &Server) -> Result<(), Error> {
    let schema = &server.schema;
    let is_there = format!("SELECT (to_regclass('{schema}.orderd_meta') IS NOT NULL)::text");
    if connection.text(&is_there)?.as_deref() != Some("true") {
        return Err(Error::Usage(format!("the schema {schema} of {} holds no orders of orderd's", server.name)));
    }
    let mut number = |column: &str| -> Result<i32, Error> {
        let text = connection.text(&format!("SELECT {column}::text FROM orderd_meta"))?;
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
    };
    let (version, readable_from) = (number("version")?, number("readable_from")?);
    if readable_from > VERSION {
        return Err(Error::TooNew { file: server.name.clone().into(), found: version.into(), known: VERSION.into() });
    }
    if version < VERSION {
        return Err(Error::Usage(format!(
            "the schema {schema} of {} is that of an older orderd (version {version}, this program has {VERSION}); start this \
             one with it once",
            server.name
        )));
    }
    Ok(())
}

/// Whether a program of this version can work with a schema that is readable from a version on.
pub(super) fn can_read(readable_from: i32) -> bool {
    readable_from <= VERSION
}

/// What the server must be, or should.
fn check_server(connection: &mut Connection) -> Result<(), Error> {
    let encoding = connection.text("SHOW server_encoding")?.unwrap_or_default();
    if encoding != "UTF8" {
        return Err(Error::Usage(format!("the database has the encoding {encoding}; make one with UTF8")));
    }
    for setting in ["fsync", "full_page_writes"] {
        if connection.text(&format!("SHOW {setting}"))?.as_deref() == Some("off") {
            log::warn!(
                "PostgreSQL runs with {setting}=off: an order that was answered 200 may be gone after its machine fails"
            );
        }
    }
    Ok(())
}
