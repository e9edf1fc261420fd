//! Pages of orders, newest first, each read from the index that holds what was asked for.
//!
//! A page is found in two steps: the places of its orders, and then the records, one by one, until there are enough or they are
//! too long. So its cost is that of the page, whatever the number of orders, and it stays right while new orders arrive: a cursor
//! is a place in the order of arrival. No index is by user and status both: of those two the narrower is read, and no more than
//! [`MOST_LOOKED_AT`] orders of it, so that such a page may hold few orders or none and still say where the next begins. Runs on
//! the thread that asks. A page is one snapshot: it is all of one moment, or an error.

use rusqlite::{Connection, params};

use super::read::{View, by_seq};
use crate::error::Error;
use crate::order::Status;
use crate::store::rows::json_bytes;
use crate::store::{Filter, Page};

/// The most orders that are looked at for one page, to find those that are in a status and of a user.
const MOST_LOOKED_AT: usize = 20_000;

/// An index, and the condition under which an order is in it: SQLite takes a partial index only if the query repeats that.
struct Source(&'static str, &'static str);

const FRESH: Source = Source("orders_fresh", "status = 'Pending' AND retry_at = 0");
const DELAYED: Source = Source("orders_delayed", "status = 'Pending' AND retry_at > 0");
const PROCESSING: Source = Source("orders_processing", "status = 'Processing'");
const COMPLETED: Source = Source("orders_completed", "status = 'Completed'");
const FAILED: Source = Source("orders_failed", "status = 'Failed'");
const CANCELLED: Source = Source("orders_cancelled", "status = 'Cancelled'");

/// The indexes whose union is every order in `status`.
fn sources(status: Status) -> &'static [Source] {
    match status {
        Status::Pending => &[FRESH, DELAYED],
        Status::Processing => &[PROCESSING],
        Status::Completed => &[COMPLETED],
        Status::Failed => &[FAILED],
        Status::Cancelled => &[CANCELLED],
    }
}

/// Where orders are, newest first.
struct Places {
    found: Vec<i64>,
    /// What lies below was not looked at.
    looked_down_to: Option<i64>,
}

impl View<'_> {
    /// Up to `limit` orders that arrived before the place `before`, newest first, whose records take up to `max_bytes` as JSON, but
    /// at least one, if any is found.
    pub(in crate::store) fn page(
        &self,
        filter: &Filter,
        before: Option<i64>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, Error> {
        // One snapshot, so that an order that changes meanwhile is neither missed nor shown twice. Ends when it is dropped.
        let _snapshot = self.0.unchecked_transaction()?;
        let places = self.places(filter, before.unwrap_or(i64::MAX), limit.saturating_add(1))?;
        let mut page = Page { orders: Vec::new(), next: places.looked_down_to };
        let (mut last, mut bytes) = (None, 0);
        for seq in places.found {
            let order = if page.orders.len() < limit { by_seq(self.0, seq)? } else { None };
            bytes += order.as_ref().map_or(0, json_bytes);
            match order {
                Some(order) if bytes <= max_bytes || page.orders.is_empty() => page.orders.push(order),
                _ => {
                    page.next = last;
                    break;
                }
            }
            last = Some(seq);
        }
        Ok(page)
    }

    fn places(&self, filter: &Filter, before: i64, limit: usize) -> Result<Places, Error> {
        let all = |query: &str, user: Option<&str>| -> rusqlite::Result<Vec<i64>> {
            let mut statement = self.0.prepare_cached(query)?;
            let read = |row: &rusqlite::Row<'_>| row.get(0);
            match user {
                Some(user) => statement.query_map(params![before, limit as i64, user], read)?.collect(),
                None => statement.query_map(params![before, limit as i64], read)?.collect(),
            }
        };
        let found = match (filter.status, &filter.user_id) {
            (None, None) => all(EVERY, None)?,
            (None, Some(user)) => all(OF_USER, Some(user))?,
            (Some(status), None) => {
                let mut found = Vec::new();
                for source in sources(status) {
                    found.extend(all(&in_source(source), None)?);
                }
                newest(found, limit)
            }
            (Some(status), Some(user)) => return self.of_user_in(status, user, before, limit),
        };
        Ok(Places { found, looked_down_to: None })
    }

    /// Reads the orders of the user and picks those in the status, or the other way round, whichever are fewer.
    fn of_user_in(&self, status: Status, user: &str, before: i64, limit: usize) -> Result<Places, Error> {
        let most = MOST_LOOKED_AT as i64;
        let of_user: i64 = self.0.prepare_cached(COUNT_OF_USER)?.query_row(params![before, most, user], |row| row.get(0))?;
        if of_user as u64 <= self.counts()?.of(status) {
            return Ok(pick(self.0, PICK_OF_USER, params![before, most, user, status.as_str()], limit, MOST_LOOKED_AT)?);
        }
        let sources = sources(status);
        let most = MOST_LOOKED_AT / sources.len();
        let mut all = Places { found: Vec::new(), looked_down_to: None };
        for source in sources {
            let places = pick(self.0, &pick_in_source(source), params![before, most as i64, user], limit, most)?;
            all.found.extend(places.found);
            all.looked_down_to = all.looked_down_to.max(places.looked_down_to);
        }
        // What one source has below the place that another was looked at to is found by the next page.
        all.found.retain(|place| all.looked_down_to.is_none_or(|to| *place >= to));
        all.found = newest(all.found, limit);
        Ok(all)
    }
}

const EVERY: &str = "SELECT seq FROM orders WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
const OF_USER: &str =
    "SELECT seq FROM orders INDEXED BY orders_user WHERE user_id = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2";
const COUNT_OF_USER: &str =
    "SELECT count(*) FROM (SELECT 1 FROM orders INDEXED BY orders_user WHERE user_id = ?3 AND seq < ?1 LIMIT ?2)";
const PICK_OF_USER: &str =
    "SELECT seq, status = ?4 FROM orders INDEXED BY orders_user WHERE user_id = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2";

fn in_source(Source(index, condition): &Source) -> String {
    format!("SELECT seq FROM orders INDEXED BY {index} WHERE {condition} AND seq < ?1 ORDER BY seq DESC LIMIT ?2")
}

fn pick_in_source(Source(index, condition): &Source) -> String {
    format!("SELECT seq, user_id = ?3 FROM orders INDEXED BY {index} WHERE {condition} AND seq < ?1 ORDER BY seq DESC LIMIT ?2")
}

/// The places that `query` says are wanted, up to `limit`, of the up to `most` that it gives.
fn pick(
    connection: &Connection,
    query: &str,
    parameters: &[&dyn rusqlite::ToSql],
    limit: usize,
    most: usize,
) -> rusqlite::Result<Places> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(parameters)?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let place = row.get(0)?;
        looked_at += 1;
        if row.get(1)? {
            found.push(place);
        }
        if looked_at == most || found.len() == limit {
            return Ok(Places { found, looked_down_to: Some(place) });
        }
    }
    Ok(Places { found, looked_down_to: None })
}

fn newest(mut places: Vec<i64>, limit: usize) -> Vec<i64> {
    places.sort_unstable_by(|a, b| b.cmp(a));
    places.truncate(limit);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_read_from_an_index_in_order() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "memory".as_ref()).unwrap();
        let mut queries = [EVERY, OF_USER, PICK_OF_USER].map(str::to_string).to_vec();
        for source in Status::ALL.iter().flat_map(|status| sources(*status)) {
            queries.extend([in_source(source), pick_in_source(source)]);
        }
        for query in queries {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let parameters = std::iter::repeat_n(1, statement.parameter_count());
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(plan.len(), 1, "no sorting, no second table: {query}: {plan:?}");
            assert!(plan[0].starts_with("SEARCH"), "{query}: {plan:?}");
        }
    }
}
