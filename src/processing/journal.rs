//! What the log has of an order while it is processed: by these lines one can find out all that happened to it, by its id.
//!
//! A line an event, and each event once. Words are fixed; the id and the reason of a failure are values, which the log keeps apart
//! from what surrounds them. Nothing here decides anything, and nothing is lost for the orders if nobody reads it.

use crate::order::OrderId;
use crate::store::{Claimed, Outcome};

use super::task::Terminate;

/// An attempt begins.
pub(super) fn begins(id: &OrderId, attempt: u32) {
    log::debug!(order = id.as_str(), attempt; "an attempt begins");
}

/// How an attempt ended, for this reason if it failed.
pub(super) fn ended(id: &OrderId, attempt: u32, why: &str, outcome: &Outcome, now_ms: i64) {
    let order = id.as_str();
    match outcome {
        Outcome::Completed => log::debug!(order, attempt; "completed"),
        Outcome::Retry { at_ms, .. } => {
            let seconds = at_ms.saturating_sub(now_ms) as f64 / 1_000.0;
            log::warn!(order, attempt, why, next_in_s = seconds; "an attempt failed; another follows");
        }
        Outcome::Failed { .. } => log::warn!(order, attempt, why; "an attempt failed; the order is Failed"),
    }
}

/// A killed orderd left the order in `Processing`, and it is taken up again at no cost.
pub(super) fn taken_up_again(id: &OrderId, claimed: Claimed) {
    log::info!(order = id.as_str(), attempt = claimed.attempt; "taken up again; orderd ended while it was processed");
}

/// A stop waits for its attempt.
pub(super) fn waited_for(id: &OrderId, attempt: u32) {
    log::info!(order = id.as_str(), attempt; "its attempt is waited for");
}

/// A stop waits no longer for its attempt.
pub(super) fn told_to_end(id: &OrderId, attempt: u32, how: Terminate) {
    match how {
        Terminate::Kill => log::warn!(order = id.as_str(), attempt; "its command is killed"),
        Terminate::Stopping | Terminate::TimedOut => log::warn!(order = id.as_str(), attempt; "its command is told to end"),
    }
}

/// A stop leaves behind a function that can't be told to end.
pub(super) fn left_behind(id: &OrderId, attempt: u32) {
    log::warn!(order = id.as_str(), attempt; "its function is left behind; the order is Pending again");
}

/// A stop has cut its attempt short.
pub(super) fn cut_short(id: &OrderId, attempt: u32) {
    log::info!(order = id.as_str(), attempt; "its attempt was cut short by the stop; the order is Pending again, at no cost");
}
