//! The statements that ask for orders and change them: all that an instance ever sends once it has begun.
//!
//! Each change is one round trip, and keeps the counts of its own instance in the same transaction. What holds for all of them: an
//! order's row is locked before a row of `counts`, rows are locked in an order that every instance has (that of ids, or of arrival), or
//! skipped where another has them; so no two wait for each other. An attempt is named by (seq, attempts, owner), and every change of
//! one is guarded by all three and by its status. Each status is a literal and no parameter, as a plan that serves every status can't
//! use the index of one.
//!
//! Where a condition reads `status || ''` or `owner + 0`, that keeps the planner from any index but the primary key. A plan is made
//! once, while the table may be small, and the other indexes hold every dead entry of a busy queue. A [`Sql`] is made here alone, so
//! that the test of the plans (`plans.rs`) knows every one.

use std::borrow::Cow;

use crate::order::Status;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Sql(Cow<'static, str>);

impl Sql {
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// Makes the statements that are always the same, and the list of them.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* pub(super) const $name: Sql = Sql(Cow::Borrowed($text));)*
        #[cfg(test)]
        const FIXED: &[Sql] = &[$($name),*];
    };
}

/// What a record is read from.
macro_rules! columns {
    () => {
        "o.order_id, o.user_id, o.item_ids, o.total_amount, o.status, o.created_at, o.started_at, o.completed_at, o.attempts, \
         o.last_error"
    };
}

statements! {
    /// $1 to $4 ids, users, items and amounts, no id twice; $5 now; $6 slot. Places are given in the order of arrival, locks taken in that
    /// of ids: two instances that are sent the same orders in opposite order would wait for each other.
    CREATE = "
WITH new AS (
  INSERT INTO orders (seq, order_id, user_id, item_ids, total_amount, status, created_at)
  SELECT n, a, b, c, d, 'Pending', $5::bigint FROM (
    SELECT nextval('orders_seq') AS n, a, b, c, d FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u (a, b, c, d)
  ) AS placed ORDER BY a COLLATE \"C\"
  ON CONFLICT (order_id) DO NOTHING RETURNING order_id),
counted AS (UPDATE counts SET pending = pending + (SELECT count(*) FROM new) WHERE slot = $6::smallint AND EXISTS (SELECT 1 FROM new))
SELECT order_id FROM new";

    /// $1 to $12 the columns of orders as they were elsewhere, no id twice; $13 slot. Places and locks as with [`CREATE`]. Nobody owns them,
    /// so what was in `Processing` is taken over like that of an instance that is gone.
    IMPORT = "
WITH new AS (
  INSERT INTO orders (seq, order_id, user_id, item_ids, total_amount, status, attempts, created_at, started_at, completed_at,
    ended_at, retry_at, last_error)
  SELECT n, a, b, c, d, e, f, g, h, i, j, k, l FROM (
    SELECT nextval('orders_seq') AS n, u.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[],
      $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[]) AS u (a, b, c, d, e, f, g, h, i, j, k, l)
  ) AS placed ORDER BY a COLLATE \"C\"
  ON CONFLICT (order_id) DO NOTHING RETURNING order_id, status, created_at, completed_at),
t AS (
  SELECT count(*) FILTER (WHERE status = 'Pending') AS pending, count(*) FILTER (WHERE status = 'Processing') AS processing,
    count(*) FILTER (WHERE status = 'Completed') AS completed, count(*) FILTER (WHERE status = 'Failed') AS failed,
    count(*) FILTER (WHERE status = 'Cancelled') AS cancelled,
    coalesce(sum(greatest(0, completed_at - created_at)) FILTER (WHERE status = 'Completed'), 0)::bigint AS ms FROM new),
counted AS (
  UPDATE counts c SET pending = c.pending + t.pending, processing = c.processing + t.processing,
    completed = c.completed + t.completed, failed = c.failed + t.failed, cancelled = c.cancelled + t.cancelled,
    processing_ms = c.processing_ms + t.ms FROM t WHERE c.slot = $13::smallint AND EXISTS (SELECT 1 FROM new))
SELECT order_id FROM new";

    /// $1 ids. Of orders that were there before. A statement of its own: the row of another transaction that has just committed is not
    /// in the snapshot of the one that ran into it.
    OLDER = "SELECT order_id, user_id, item_ids, total_amount FROM orders WHERE order_id = ANY($1::text[])";

    /// $1 limit, $2 now, $3 me, $4 slot, $5 the lowest place to look at, $6 how many of the due go first, $7 the longest wait. Of the due and
    /// the fresh each gets its share, and what one leaves the other takes; last come those whose time lies beyond any wait, as a clock that
    /// has been set back since gave it. Nothing is claimed without a lease.
    CLAIM = "
WITH due AS MATERIALIZED (
  SELECT seq FROM orders WHERE status = 'Pending' AND retry_at > 0 AND retry_at <= $2::bigint ORDER BY retry_at, seq LIMIT $6::bigint
  FOR UPDATE SKIP LOCKED),
fresh AS MATERIALIZED (
  SELECT seq FROM orders WHERE status = 'Pending' AND retry_at = 0 AND seq >= $5 ORDER BY seq
  LIMIT $1::bigint - (SELECT count(*) FROM due) FOR UPDATE SKIP LOCKED),
more AS MATERIALIZED (
  SELECT seq FROM orders WHERE status = 'Pending' AND retry_at > 0 AND retry_at <= $2
    AND NOT seq = ANY(ARRAY(SELECT seq FROM due)) ORDER BY retry_at, seq
  LIMIT $1::bigint - (SELECT count(*) FROM due) - (SELECT count(*) FROM fresh) FOR UPDATE SKIP LOCKED),
beyond AS MATERIALIZED (
  SELECT seq FROM orders WHERE status = 'Pending' AND retry_at > 0 AND retry_at > $2 + $7::bigint ORDER BY retry_at, seq
  LIMIT $1::bigint - (SELECT count(*) FROM due) - (SELECT count(*) FROM fresh) - (SELECT count(*) FROM more) FOR UPDATE SKIP LOCKED),
mine AS (
  UPDATE orders SET status = 'Processing', started_at = $2, attempts = attempts + 1, retry_at = 0, owner = $3::bigint
  WHERE seq = ANY(ARRAY(SELECT seq FROM due UNION ALL SELECT seq FROM fresh UNION ALL SELECT seq FROM more
      UNION ALL SELECT seq FROM beyond))
    AND EXISTS (SELECT 1 FROM instances WHERE id = $3 AND lease_until > clock_timestamp())
  RETURNING seq, attempts, created_at),
counted AS (
  UPDATE counts SET pending = pending - (SELECT count(*) FROM mine), processing = processing + (SELECT count(*) FROM mine)
  WHERE slot = $4 AND EXISTS (SELECT 1 FROM mine))
SELECT seq, attempts, seq = ANY(ARRAY(SELECT seq FROM fresh)), created_at FROM mine";

    /// $1 places, $2 attempts, $3 statuses, $4 times of the next attempt, $5 errors, $6 now, $7 me, $8 slot. What another instance has begun
    /// may be ended once that has no lease any more.
    END = "
WITH ended AS (
  UPDATE orders o SET status = e.status, retry_at = e.retry_at, owner = NULL,
    completed_at = CASE WHEN e.status = 'Completed' THEN greatest($6::bigint, o.created_at) END,
    ended_at = CASE WHEN e.status = 'Failed' THEN $6::bigint END,
    last_error = CASE WHEN e.status = 'Completed' THEN NULL ELSE e.error END
  FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[], $5::text[]) AS e (seq, attempt, status, retry_at, error)
  WHERE o.seq = e.seq AND o.attempts = e.attempt AND o.status || '' = 'Processing' AND (o.owner + 0 = $7 OR NOT EXISTS (
    SELECT 1 FROM instances i WHERE i.id = o.owner AND i.lease_until > clock_timestamp()))
  RETURNING o.seq, o.status, o.created_at, o.started_at),
t AS (
  SELECT count(*) AS n, count(*) FILTER (WHERE status = 'Completed') AS done, count(*) FILTER (WHERE status = 'Failed') AS failed,
    count(*) FILTER (WHERE status = 'Pending') AS back,
    coalesce(sum(greatest(0, $6::bigint - created_at)) FILTER (WHERE status = 'Completed'), 0)::bigint AS ms FROM ended),
counted AS (
  UPDATE counts c SET processing = c.processing - t.n, completed = c.completed + t.done, failed = c.failed + t.failed,
    pending = c.pending + t.back, processing_ms = c.processing_ms + t.ms FROM t WHERE c.slot = $8)
SELECT seq, status, started_at FROM ended";

    /// $1 places, $2 attempts, $3 me, $4 slot. As if they had not been claimed.
    PUT_BACK = "
WITH back AS (
  UPDATE orders o SET status = 'Pending', attempts = o.attempts - 1, owner = NULL,
    started_at = CASE WHEN o.attempts = 1 THEN NULL ELSE o.started_at END
  FROM unnest($1::bigint[], $2::int[]) AS e (seq, attempt)
  WHERE o.seq = e.seq AND o.attempts = e.attempt AND o.status || '' = 'Processing' AND o.owner + 0 = $3
  RETURNING o.seq),
counted AS (
  UPDATE counts SET pending = pending + (SELECT count(*) FROM back), processing = processing - (SELECT count(*) FROM back)
  WHERE slot = $4)
SELECT seq FROM back";

    /// $1 me, $2 the places and $3 the attempts that we know of, $4 slot. After an unknown outcome: a claim whose answer was lost belongs to an instance that
    /// lives, so that no sweep ever finds it. Nobody has begun it.
    RECONCILE = "
WITH back AS (
  UPDATE orders o SET status = 'Pending', attempts = o.attempts - 1, owner = NULL,
    started_at = CASE WHEN o.attempts = 1 THEN NULL ELSE o.started_at END
  WHERE o.status = 'Processing' AND o.owner = $1 AND NOT EXISTS (
    SELECT 1 FROM unnest($2::bigint[], $3::int[]) AS k (seq, attempt) WHERE k.seq = o.seq AND k.attempt = o.attempts)
  RETURNING o.seq),
counted AS (
  UPDATE counts SET pending = pending + (SELECT count(*) FROM back), processing = processing - (SELECT count(*) FROM back)
  WHERE slot = $4)
SELECT seq FROM back";

    /// $1 ids, no id twice; $2 slot.
    REVIVE = "
WITH hit AS MATERIALIZED (SELECT seq FROM orders WHERE order_id = ANY($1::text[]) AND status || '' = 'Failed' ORDER BY seq FOR UPDATE),
up AS (
  UPDATE orders SET status = 'Pending', retry_at = 0, ended_at = NULL WHERE seq = ANY(ARRAY(SELECT seq FROM hit)) RETURNING order_id),
counted AS (
  UPDATE counts SET failed = failed - (SELECT count(*) FROM up), pending = pending + (SELECT count(*) FROM up) WHERE slot = $2)
SELECT order_id FROM up";

    /// $1 ids, no id twice; $2 slot; $3 now.
    CANCEL = "
WITH hit AS MATERIALIZED (SELECT seq FROM orders WHERE order_id = ANY($1::text[]) AND status || '' = 'Pending' ORDER BY seq FOR UPDATE),
up AS (
  UPDATE orders SET status = 'Cancelled', retry_at = 0, ended_at = $3::bigint WHERE seq = ANY(ARRAY(SELECT seq FROM hit)) RETURNING order_id),
counted AS (
  UPDATE counts SET pending = pending - (SELECT count(*) FROM up), cancelled = cancelled + (SELECT count(*) FROM up) WHERE slot = $2)
SELECT order_id FROM up";

    /// $1 slot. Of no meaning, to learn whether the server takes a write.
    PROBE = "UPDATE counts SET pending = pending WHERE slot = $1";

    /// $1 node, $2 the lease in seconds.
    REGISTER = "INSERT INTO instances (node, lease_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2::float8)) RETURNING id";

    /// $1 me, $2 the lease in seconds. Who was declared dead can't come back. Says besides which version the schema has, and whether orders
    /// are being processed by nobody who lives.
    BEAT = "
WITH beat AS (
  UPDATE instances SET lease_until = clock_timestamp() + make_interval(secs => $2::float8)
  WHERE id = $1 AND lease_until > clock_timestamp() RETURNING id)
SELECT EXISTS (SELECT 1 FROM beat), (SELECT readable_from FROM orderd_meta), EXISTS (
  SELECT 1 FROM orders o WHERE o.status = 'Processing' AND NOT EXISTS (
    SELECT 1 FROM instances i WHERE i.id = o.owner AND i.lease_until > clock_timestamp()))";

    /// $1 me.
    LEAVE = "DELETE FROM instances WHERE id = $1";

    /// Rows of instances that have been gone for long enough to tell nobody anything.
    FORGET = "DELETE FROM instances WHERE lease_until < clock_timestamp() - interval '1 day'";

    /// $1 node, $2 me. Ends the lease of whoever was this node before, whose commands have been ended.
    SUPERSEDE = "UPDATE instances SET lease_until = '-infinity' WHERE node = $1 AND id <> $2";

    /// $1 id.
    STATUS = "SELECT status FROM orders WHERE order_id = $1";

    /// $1 id.
    PLACE = "SELECT seq FROM orders WHERE order_id = $1";

    /// $1 id.
    ORDER = concat!("SELECT ", columns!(), " FROM orders o WHERE o.order_id = $1");

    /// $1 ids.
    ORDERS = concat!("SELECT ", columns!(), " FROM orders o WHERE o.order_id = ANY($1::text[])");

    /// $1 place.
    CLAIMED_ORDER = concat!("SELECT ", columns!(), " FROM orders o WHERE o.seq = $1");

    /// Of those that need not wait and those that do, the one that arrived first is looked at.
    OLDEST_PENDING = "
SELECT least(
  (SELECT created_at FROM orders WHERE status = 'Pending' AND retry_at = 0 ORDER BY seq LIMIT 1),
  (SELECT created_at FROM orders WHERE status = 'Pending' AND retry_at > 0 AND seq > 0 ORDER BY seq LIMIT 1))";

    NEWEST_COMPLETION = "SELECT completed_at FROM orders WHERE status = 'Completed' ORDER BY seq DESC LIMIT 1";

    COUNTS = "
SELECT sum(pending)::bigint, sum(processing)::bigint, sum(completed)::bigint, sum(failed)::bigint, sum(cancelled)::bigint,
  sum(processing_ms)::bigint FROM counts";

    /// $1 node.
    PROCESSING_HERE = "
SELECT count(*) FROM orders o WHERE o.status = 'Processing' AND o.owner = ANY(ARRAY(SELECT id FROM instances WHERE node = $1))";

    NEXT_CLAIM = "
SELECT coalesce((SELECT 0::bigint FROM orders WHERE status = 'Pending' AND retry_at = 0 LIMIT 1),
  (SELECT retry_at FROM orders WHERE status = 'Pending' AND retry_at > 0 ORDER BY retry_at LIMIT 1))";

    /// $1 how many at most.
    ORPHANS = "
SELECT o.seq, o.attempts, o.order_id FROM orders o WHERE o.status = 'Processing' AND NOT EXISTS (
  SELECT 1 FROM instances i WHERE i.id = o.owner AND i.lease_until > clock_timestamp())
ORDER BY o.seq LIMIT $1";

    /// $1 the place to begin behind, $2 how many.
    EXPORTED = concat!("SELECT ", columns!(), ", o.ended_at, o.retry_at, o.seq FROM orders o WHERE o.seq > $1 ORDER BY o.seq LIMIT $2");

    /// Whether anybody works with the orders.
    IN_USE = "SELECT EXISTS (SELECT 1 FROM instances WHERE lease_until > clock_timestamp())";

    /// $1 the most to tell of. The last row sums up those who are gone.
    INSTANCES = "
WITH work AS MATERIALIZED (SELECT owner, count(*) AS orders FROM orders WHERE status = 'Processing' GROUP BY owner),
living AS MATERIALIZED (
  SELECT id, node, extract(epoch FROM lease_until - clock_timestamp())::float8 AS lease
  FROM instances WHERE lease_until > clock_timestamp() ORDER BY id LIMIT $1),
gone AS MATERIALIZED (
  SELECT orders FROM work WHERE NOT EXISTS (
    SELECT 1 FROM instances WHERE id = work.owner AND lease_until > clock_timestamp()))
SELECT id, node, lease, coalesce((SELECT orders FROM work WHERE owner = id), 0)::bigint FROM living
UNION ALL SELECT NULL, NULL, (SELECT count(*) FROM gone)::float8, (SELECT coalesce(sum(orders), 0) FROM gone)::bigint";
}

/// Deletes of the next few orders in a status those that ended before a time. $1 the place to begin behind, $2 that time, $3 slot,
/// $4 how many to look at.
pub(super) fn prune(status: Status) -> Sql {
    let took = if status == Status::Completed {
        "processing_ms = processing_ms - (SELECT coalesce(sum(took), 0) FROM gone)::bigint,"
    } else {
        ""
    };
    let status = status.as_str();
    // As the statuses, in small letters.
    let column = status.to_lowercase();
    made(format!(
        "WITH looked AS MATERIALIZED (
           SELECT seq, coalesce(completed_at, ended_at, created_at) AS ended FROM orders
           WHERE status = '{status}' AND seq > $1 ORDER BY seq LIMIT $4),
         old AS MATERIALIZED (
           SELECT seq FROM orders WHERE seq = ANY(ARRAY(SELECT seq FROM looked WHERE ended < $2)) AND status || '' = '{status}'
           ORDER BY seq FOR UPDATE SKIP LOCKED),
         gone AS (
           DELETE FROM orders WHERE seq = ANY(ARRAY(SELECT seq FROM old))
           RETURNING order_id, greatest(0, coalesce(completed_at, created_at) - created_at) AS took),
         counted AS (
           UPDATE counts SET {took} {column} = {column} - (SELECT count(*) FROM gone) WHERE slot = $3)
         SELECT ARRAY(SELECT order_id FROM gone), (SELECT count(*) FROM looked), (SELECT max(seq) FROM looked)"
    ))
}

/// Which orders a page shows, and among which they are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Listed {
    All,
    OfUser,
    InStatus(Status),
    /// Of a user, among those in a status.
    OfUserInStatus(Status),
    /// In a status, among those of a user.
    InStatusOfUser(Status),
}

/// The most orders that are looked at for one page, to find those that are in a status and of a user.
pub(super) const MOST_LOOKED_AT: i64 = 20_000;

/// $1 the place to begin below, $2 how many, $3 the user if it is one's, and last how many bytes. A record is read only if those before
/// it leave room for it: as JSON each is no shorter than in its row. Each row says besides how many were looked at, the lowest place
/// of these, and how many are to be shown.
pub(super) fn page(listed: Listed) -> Sql {
    let (looked_at, bytes) = match listed {
        Listed::All => ("SELECT seq, true AS hit FROM orders WHERE seq < $1 ORDER BY seq DESC LIMIT $2".into(), "$3"),
        Listed::OfUser => {
            ("SELECT seq, true AS hit FROM orders WHERE user_id = $3 AND seq < $1 ORDER BY seq DESC LIMIT $2".into(), "$4")
        }
        Listed::InStatus(status) => (in_status(status, "true", "$2"), "$3"),
        Listed::OfUserInStatus(status) => (in_status(status, "user_id = $3", &MOST_LOOKED_AT.to_string()), "$4"),
        Listed::InStatusOfUser(status) => {
            let looked_at = format!(
                "SELECT seq, status = '{}' AS hit FROM orders WHERE user_id = $3 AND seq < $1
                 ORDER BY seq DESC LIMIT {MOST_LOOKED_AT}",
                status.as_str()
            );
            (looked_at, "$4")
        }
    };
    made(format!(
        "WITH looked AS MATERIALIZED ({looked_at}),
         places AS MATERIALIZED (SELECT seq FROM looked WHERE hit ORDER BY seq DESC LIMIT $2),
         sized AS MATERIALIZED (
           SELECT p.seq, coalesce(sum(octet_length(o.item_ids)) OVER (
             ORDER BY p.seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS above
           FROM places p JOIN orders o ON o.seq = p.seq),
         known AS (SELECT count(*) AS looked, min(seq) AS lowest FROM looked),
         shown AS (SELECT o.* FROM sized s JOIN orders o ON o.seq = s.seq WHERE s.above <= {bytes})
         SELECT {columns}, o.seq, known.looked, known.lowest, (SELECT count(*) FROM places)
         FROM known LEFT JOIN shown o ON true ORDER BY o.seq DESC",
        columns = columns!()
    ))
}

/// Those in a status, each part of them from the index that holds it.
fn in_status(status: Status, hit: &str, limit: &str) -> String {
    let from = |condition: &str| {
        format!("(SELECT seq, {hit} AS hit FROM orders WHERE {condition} AND seq < $1 ORDER BY seq DESC LIMIT {limit})")
    };
    match status {
        Status::Pending => format!(
            "SELECT seq, hit FROM ({} UNION ALL {}) AS pending ORDER BY seq DESC LIMIT {limit}",
            from("status = 'Pending' AND retry_at = 0"),
            from("status = 'Pending' AND retry_at > 0 AND seq > 0")
        ),
        status => from(&format!("status = '{}'", status.as_str())),
    }
}

fn made(text: String) -> Sql {
    Sql(Cow::Owned(text))
}

/// Every statement there is. One that is missing here is refused by the connection of a test.
#[cfg(test)]
pub(super) fn all() -> Vec<Sql> {
    let of_status = |status| {
        let pages = [Listed::InStatus(status), Listed::OfUserInStatus(status), Listed::InStatusOfUser(status)].map(page);
        pages.into_iter().chain([prune(status)])
    };
    let made = [Listed::All, Listed::OfUser].map(page).into_iter().chain(Status::ALL.into_iter().flat_map(of_status));
    FIXED.iter().cloned().chain(made).collect()
}
