//! The instances that share the server, for those who watch: who has a lease, for how long, what each works on, and what of those who
//! are gone waits to be taken over.
//!
//! Read by whoever asks for metrics, in one statement that looks at the orders in `Processing` alone. Decides nothing.

use super::read::{View, get};
use super::sql;
use crate::error::Error;

/// The most instances that are told of one by one, in the order of their ids.
const MOST_INSTANCES: i64 = 200;
/// What a node's name may be made of, wherever the row comes from: it becomes part of a text.
const NAME_LENGTH: usize = 32;

/// What there is to know of the instances.
#[derive(Debug)]
pub struct Instances {
    /// This one's id; 0 while it has none.
    pub own: i64,
    /// Those that have a lease.
    pub living: Vec<Instance>,
    /// How many have none and orders in `Processing` all the same.
    pub gone: u64,
    /// How many orders these are.
    pub orphans: u64,
}

/// One with a lease.
#[derive(Debug)]
pub struct Instance {
    /// Its id.
    pub id: i64,
    /// The name of its node: letters and digits.
    pub node: String,
    /// How long the lease lasts if it is not extended, in seconds by the server's clock.
    pub lease_seconds: f64,
    /// How many orders it has in `Processing`.
    pub processing: u64,
}

impl View<'_> {
    /// The instances as they are now.
    pub(in crate::store) fn instances(&self) -> Result<Instances, Error> {
        let mut all = Instances { own: self.own_instance(), living: Vec::new(), gone: 0, orphans: 0 };
        for row in &self.rows(sql::INSTANCES, vec![Box::new(MOST_INSTANCES)])? {
            let (seconds, orders): (f64, i64) = (get(row, 2)?, get(row, 3)?);
            match get::<Option<i64>>(row, 0)? {
                Some(id) => all.living.push(Instance {
                    id,
                    node: get::<&str>(row, 1)?.chars().filter(char::is_ascii_alphanumeric).take(NAME_LENGTH).collect(),
                    lease_seconds: seconds,
                    processing: orders.max(0) as u64,
                }),
                None => (all.gone, all.orphans) = (seconds as u64, orders.max(0) as u64),
            }
        }
        Ok(all)
    }
}
