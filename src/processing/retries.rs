//! What follows an attempt: whether a failed one is tried again, and after what delay.
//!
//! Pure. The decision is made here; when the next attempt is due is kept in the order's row, so that a restart forgets nothing.
//! How an attempt is made is none of its business.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::work::WorkError;
use crate::store::Outcome;

/// A delay between two attempts never grows beyond this.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3_600);
/// The longest `last_error` that is kept, in bytes: every listing of the order shows it.
const MAX_ERROR_BYTES: usize = 1_024;

/// How often, and after what delay, a failed attempt is followed by another.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// After so many attempts the order is `Failed`.
    pub max_attempts: u32,
    /// The delay after the first attempt; it doubles with each further one, up to an hour, with jitter.
    pub delay: Duration,
}

impl Retries {
    /// What becomes of an order whose attempt number `attempt` ended at `now_ms` with `result`.
    pub fn outcome(&self, attempt: u32, result: Result<(), WorkError>, now_ms: i64) -> Outcome {
        match result {
            Ok(()) => Outcome::Completed,
            Err(WorkError { message, retry: true, .. }) if attempt < self.max_attempts => {
                Outcome::Retry { at_ms: now_ms.saturating_add(self.delay_ms(attempt)).max(1), error: cut(message) }
            }
            Err(WorkError { message, .. }) => Outcome::Failed { error: cut(message) },
        }
    }

    fn delay_ms(&self, attempt: u32) -> i64 {
        let doublings = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let delay = self.delay.saturating_mul(doublings).min(MAX_RETRY_DELAY).as_millis() as u64;
        // Orders that failed together, because what they need was down, must not come back together for ever.
        let jitter = RandomState::new().build_hasher().finish() % (delay / 2 + 1);
        (delay * 3 / 4 + jitter).min(MAX_RETRY_DELAY.as_millis() as u64) as i64
    }
}

fn cut(mut message: String) -> String {
    let end = (0..=message.len().min(MAX_ERROR_BYTES)).rev().find(|at| message.is_char_boundary(*at));
    message.truncate(end.unwrap_or(0));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(delay: Duration) -> Retries {
        Retries { max_attempts: 40, delay }
    }

    fn delay(retries: Retries, attempt: u32) -> i64 {
        match retries.outcome(attempt, Err(WorkError::retry("x")), 0) {
            Outcome::Retry { at_ms, .. } => at_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn delays_double_with_jitter_up_to_an_hour() {
        for attempt in 1..40 {
            let exact = (1_000_i64 << (attempt - 1).min(30)).min(3_600_000);
            for _ in 0..20 {
                let ms = delay(retries(Duration::from_secs(1)), attempt);
                assert!(ms >= exact * 3 / 4 && ms <= (exact * 5 / 4).min(3_600_000), "attempt {attempt}: {ms}");
            }
        }
        assert!(
            (0..20).map(|_| delay(retries(Duration::from_secs(60)), 1)).collect::<std::collections::HashSet<_>>().len() > 1
        );
    }

    #[test]
    fn the_last_attempt_and_a_fatal_error_fail_an_order() {
        let retries = Retries { max_attempts: 3, delay: Duration::ZERO };
        let failed = |error: &str| Outcome::Failed { error: error.into() };
        assert!(matches!(retries.outcome(2, Err(WorkError::retry("x")), 5), Outcome::Retry { at_ms: 5, .. }));
        assert_eq!(retries.outcome(3, Err(WorkError::retry("x")), 5), failed("x"));
        assert_eq!(retries.outcome(1, Err(WorkError::fatal("y")), 5), failed("y"));
        assert_eq!(retries.outcome(3, Ok(()), 5), Outcome::Completed);
    }
}
