//! Pages of orders, newest first, each read from the indexes that hold just what was asked for.
//!
//! A page is found in two steps: the places of its orders from one or more partial indexes, merged, and then the records, one by
//! one, until there are enough or they are too long. So its cost is that of the page, whatever the number of orders, and it stays
//! right while new orders arrive: a cursor is a place in the order of arrival. Runs on the thread that asks. A page is one
//! snapshot: it is all of one moment, or an error.

use std::io;

use rusqlite::{Connection, ToSql};

use super::read::{View, by_seq};
use crate::error::Error;
use crate::order::{Order, Status};
use crate::store::{Filter, Page};

/// An index, and the condition under which an order is in it: SQLite takes a partial index only if the query repeats that.
struct Source(&'static str, &'static str);

const FRESH: Source = Source("orders_fresh", "status = 'Pending' AND retry_at = 0");
const DELAYED: Source = Source("orders_delayed", "status = 'Pending' AND retry_at > 0");
const PROCESSING: Source = Source("orders_processing", "status = 'Processing'");
const COMPLETED: Source = Source("orders_completed", "status = 'Completed'");
const FAILED: Source = Source("orders_failed", "status = 'Failed'");
const USER_UNFINISHED: Source = Source("orders_user_unfinished", "status IN ('Pending', 'Processing')");
/// Skips those of the user that are being processed, at most as many as are processed at once.
const USER_PENDING: Source = Source("orders_user_unfinished", "status IN ('Pending', 'Processing') AND status = 'Pending'");
const USER_COMPLETED: Source = Source("orders_user_completed", "status = 'Completed'");
const USER_FAILED: Source = Source("orders_user_failed", "status = 'Failed'");

impl Filter {
    /// The indexes whose union is what is asked for. `None` for the table itself.
    fn sources(&self) -> Option<&'static [Source]> {
        Some(match (self.user_id.is_some(), self.status) {
            (false, None) => return None,
            (false, Some(Status::Pending)) => &[FRESH, DELAYED],
            // Of a user, those being processed are picked from all that are: there are never many.
            (_, Some(Status::Processing)) => &[PROCESSING],
            (false, Some(Status::Completed)) => &[COMPLETED],
            (false, Some(Status::Failed)) => &[FAILED],
            (true, None) => &[USER_UNFINISHED, USER_COMPLETED, USER_FAILED],
            (true, Some(Status::Pending)) => &[USER_PENDING],
            (true, Some(Status::Completed)) => &[USER_COMPLETED],
            (true, Some(Status::Failed)) => &[USER_FAILED],
        })
    }

    /// One query for each source. Parameters: the cursor, the limit, and the user if one is asked for.
    fn queries(&self) -> Vec<String> {
        let user = if self.user_id.is_some() { " AND user_id = ?3" } else { "" };
        let tail = format!("seq < ?1{user} ORDER BY seq DESC LIMIT ?2");
        match self.sources() {
            None => vec![format!("SELECT seq FROM orders WHERE {tail}")],
            Some(sources) => sources
                .iter()
                .map(|Source(index, condition)| {
                    format!("SELECT seq FROM orders INDEXED BY {index} WHERE {condition} AND {tail}")
                })
                .collect(),
        }
    }
}

impl View<'_> {
    /// Up to `limit` orders that arrived before the place `before`, newest first, whose records take up to `max_bytes` as JSON, but
    /// at least one.
    pub(in crate::store) fn page(
        &self,
        filter: &Filter,
        before: Option<i64>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Page, Error> {
        // One snapshot, so that an order that changes meanwhile is neither missed nor shown twice. Ends when it is dropped.
        let _snapshot = self.0.unchecked_transaction()?;
        let places = places(self.0, filter, before.unwrap_or(i64::MAX), limit.saturating_add(1))?;
        let mut page = Page { orders: Vec::new(), next: None };
        let (mut last, mut bytes) = (None, 0);
        for seq in places {
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
}

/// How long the record is as JSON.
fn json_bytes(order: &Order) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, order).expect("a record always has a JSON form");
    counter.0
}

fn places(connection: &Connection, filter: &Filter, before: i64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let limit_parameter = limit as i64;
    let mut parameters: Vec<&dyn ToSql> = vec![&before, &limit_parameter];
    parameters.extend(filter.user_id.as_ref().map(|user| user as &dyn ToSql));
    let mut places: Vec<i64> = Vec::new();
    for query in filter.queries() {
        let mut statement = connection.prepare_cached(&query)?;
        for place in statement.query_map(parameters.as_slice(), |row| row.get(0))? {
            places.push(place?);
        }
    }
    places.sort_unstable_by(|a, b| b.cmp(a));
    places.truncate(limit);
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_read_from_an_index_in_order() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "memory".as_ref()).unwrap();
        for status in [None].into_iter().chain(Status::ALL.map(Some)) {
            for user_id in [None, Some("u".to_string())] {
                let filter = Filter { status, user_id };
                for query in filter.queries() {
                    let plan: Vec<String> = connection
                        .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
                        .unwrap()
                        .query_map(
                            rusqlite::params_from_iter(std::iter::repeat_n(1, 2 + usize::from(filter.user_id.is_some()))),
                            |row| row.get(3),
                        )
                        .unwrap()
                        .collect::<Result<_, _>>()
                        .unwrap();
                    assert_eq!(plan.len(), 1, "no sorting, no second table: {query}: {plan:?}");
                    assert!(plan[0].starts_with("SEARCH"), "{query}: {plan:?}");
                }
            }
        }
    }
}
