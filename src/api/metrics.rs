//! The counts of `GET /metrics` as JSON. Words numbers that the store keeps; counts nothing itself.

use serde::Serialize;

use super::reply;
use crate::http::Reply;
use crate::store::Counts;

/// Answers `GET /metrics`.
pub fn json(counts: &Counts) -> Reply {
    let average_processing_time = match counts.completed {
        0 => 0.0,
        // One division, so that it is rounded once.
        completed => counts.processing_ms as f64 / (1_000 * completed) as f64,
    };
    reply::json(
        200,
        &Body {
            total_orders: counts.total(),
            average_processing_time,
            status_counts: StatusCounts {
                pending: counts.pending,
                processing: counts.processing,
                completed: counts.completed,
                failed: Some(counts.failed).filter(|failed| *failed > 0),
                cancelled: Some(counts.cancelled).filter(|cancelled| *cancelled > 0),
            },
        },
    )
}

#[derive(Serialize)]
struct Body {
    total_orders: u64,
    /// Seconds from creation to completion.
    average_processing_time: f64,
    status_counts: StatusCounts,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusCounts {
    pending: u64,
    processing: u64,
    completed: u64,
    /// The older service does not have this key and the next, so each is only there when it says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(counts: Counts) -> String {
        String::from_utf8(json(&counts).body.into_owned()).unwrap()
    }

    #[test]
    fn an_empty_database_has_an_average_of_zero() {
        assert_eq!(
            text(Counts::default()),
            "{\"total_orders\":0,\"average_processing_time\":0.0,\"status_counts\":{\"Pending\":0,\"Processing\":0,\"Completed\":0}}\n"
        );
    }

    #[test]
    fn failed_and_cancelled_orders_appear_once_there_are_some() {
        let counts = Counts { pending: 1, processing: 2, completed: 4, failed: 1, cancelled: 3, processing_ms: 21_000 };
        assert_eq!(
            text(counts),
            "{\"total_orders\":11,\"average_processing_time\":5.25,\"status_counts\":{\"Pending\":1,\"Processing\":2,\"Completed\":4,\"Failed\":1,\"Cancelled\":3}}\n"
        );
    }
}
