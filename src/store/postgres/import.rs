//! Orders that come from another place, as the parameters of one statement.
//!
//! Other instances may be running: an order is theirs to claim as soon as it is committed, and counted in the same transaction.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use super::connection::Parameter;
use crate::order::{Exported, Timestamp};
use crate::store::rows::items_to_text;

/// Those of [`super::sql::IMPORT`]. Of an id that comes twice, the first order is what is stored.
pub(super) fn parameters(orders: &[Exported], slot: i16) -> Vec<Parameter<'static>> {
    fn column<T: ToSql + Sync + Send + 'static>(orders: &[&Exported], of: impl Fn(&Exported) -> T) -> Parameter<'static> {
        Box::new(orders.iter().map(|exported| of(exported)).collect::<Vec<_>>())
    }
    let mut seen = HashSet::new();
    let orders: Vec<&Exported> = orders.iter().filter(|o| seen.insert(o.order.order_id.as_str())).collect();
    let orders = orders.as_slice();
    let ms = |time: Option<Timestamp>| time.map(|time| time.0);
    vec![
        column(orders, |o| o.order.order_id.as_str().to_string()),
        column(orders, |o| o.order.user_id.clone()),
        column(orders, |o| items_to_text(&o.order.item_ids)),
        column(orders, |o| o.order.total_amount.as_str().to_string()),
        column(orders, |o| o.status.as_str()),
        column(orders, |o| o.attempts as i32),
        column(orders, |o| o.created_at.0),
        column(orders, |o| ms(o.started_at)),
        column(orders, |o| ms(o.completed_at)),
        column(orders, |o| ms(o.ended_at)),
        column(orders, |o| ms(o.retry_at).unwrap_or(0)),
        // The one character that PostgreSQL's texts can't hold; a command may say anything.
        column(orders, |o| o.last_error.as_ref().map(|error| error.replace('\0', "\u{fffd}"))),
        Box::new(slot),
    ]
}
