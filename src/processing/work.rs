//! What processing one order means: waiting, running a command, or calling a function of the embedding program.
//!
//! A [`Task`] is one attempt under way on a thread of its own; it reports its end once, to whoever started it, and can be told to
//! stop if it is a command. Whether a failed attempt is followed by another is decided here, in [`Retries`]; when, is kept in
//! the order's row, so that a restart forgets nothing. Nothing here touches the database.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::command::{self, Group};
use crate::order::Order;
use crate::os::sync::unpoisoned;
use crate::store::Outcome;
pub(crate) use command::end_leftovers;

/// A delay between two attempts never grows beyond this.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3_600);
/// The longest `last_error` that is kept, in bytes: every listing of the order shows it.
const MAX_ERROR_BYTES: usize = 1_024;

/// A function that processes one order. It is called on a thread of its own, for several orders at once.
pub type Function = Arc<dyn Fn(&Order) -> Result<(), WorkError> + Send + Sync>;

/// What processing one order means.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Work {
    /// Waiting for the configured processing time.
    #[default]
    Wait,
    /// Running this command by `sh -c`, with the order's record as one line of JSON on its standard input and `ORDER_ID`,
    /// `ORDER_ATTEMPT` and `ORDER_USER_ID` in its environment. Status 0 completes the order, 65 (`EX_DATAERR`) fails it for
    /// good, anything else is tried again. What it leaves running when it ends is ended too.
    Command(String),
    /// Calling a function. A panic in it is a failed attempt.
    Function(Function),
}

impl Work {
    /// Work that is a function.
    pub fn function(f: impl Fn(&Order) -> Result<(), WorkError> + Send + Sync + 'static) -> Work {
        Work::Function(Arc::new(f))
    }

    /// Work that is a function with a state of its own, and therefore called for one order at a time.
    pub fn function_mut(f: impl FnMut(&Order) -> Result<(), WorkError> + Send + 'static) -> Work {
        let f = Mutex::new(f);
        // The function may have panicked with its state half changed, but whether that matters only it can know.
        Work::function(move |order| unpoisoned(&f)(order))
    }

    /// How many orders are worked on at once unless configured otherwise: waiting costs nothing, real work does.
    pub fn default_concurrency(&self) -> usize {
        match self {
            Work::Wait => 1_000,
            Work::Command(_) | Work::Function(_) => 4,
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Wait => f.write_str("Wait"),
            Work::Command(command) => f.debug_tuple("Command").field(command).finish(),
            Work::Function(_) => f.write_str("Function"),
        }
    }
}

/// Why an attempt failed, and whether another may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkError {
    message: String,
    retry: bool,
}

impl WorkError {
    /// A failure that may pass: the order is tried again later, unless this was its last attempt.
    pub fn retry(message: impl Into<String>) -> WorkError {
        WorkError { message: message.into(), retry: true }
    }

    /// A failure that no further attempt will mend: the order is `Failed` at once.
    pub fn fatal(message: impl Into<String>) -> WorkError {
        WorkError { message: message.into(), retry: false }
    }
}

impl fmt::Display for WorkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WorkError {}

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
            Err(WorkError { message, retry: true }) if attempt < self.max_attempts => {
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

/// One attempt that is under way.
pub struct Task {
    group: Option<Arc<Group>>,
}

/// How a task is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urge {
    /// Its time is over: SIGTERM.
    TimeOut,
    /// The server is stopping: SIGTERM.
    Stop,
    /// It has not listened: SIGKILL.
    Kill,
}

impl Task {
    /// Begins an attempt at `order` on a thread of its own. `ended` is called there, once.
    ///
    /// # Errors
    /// What stands in the way of the thread; `ended` is not called then. The work that is `Wait` is no task.
    pub fn start(
        work: &Work,
        order: Order,
        database: PathBuf,
        ended: impl FnOnce(Result<(), WorkError>) + Send + 'static,
    ) -> io::Result<Task> {
        let thread = std::thread::Builder::new().name("work".into());
        match work {
            Work::Wait => Err(io::ErrorKind::Unsupported.into()),
            Work::Command(command) => {
                let group = Arc::new(Group::default());
                let (command, members) = (command.clone(), group.clone());
                thread.spawn(move || ended(command::run(&command, &order, &database, &members)))?;
                Ok(Task { group: Some(group) })
            }
            Work::Function(function) => {
                let function = function.clone();
                thread.spawn(move || {
                    let result = catch_unwind(AssertUnwindSafe(|| function(&order)));
                    ended(result.unwrap_or_else(|_| Err(WorkError::retry("panicked"))));
                })?;
                Ok(Task { group: None })
            }
        }
    }

    /// Tells it to end. Returns false if it can't be told: a function ends when it ends.
    pub fn urge(&self, urge: Urge) -> bool {
        self.group.as_ref().is_some_and(|group| {
            group.urge(urge);
            true
        })
    }
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
