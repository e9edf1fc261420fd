//! What processing one order means: waiting, running a command, or calling a function of the embedding program; and how an
//! attempt at it fails.
//!
//! This is the part of processing that embedding programs see. It says what is to be done and does none of it: an attempt under
//! way is a task (`task.rs`), what follows a failure is decided in `retries.rs`.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::order::Order;
use crate::os::sync::unpoisoned;

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
    pub(super) message: String,
    pub(super) retry: bool,
    /// What the log says instead of the message, because that is in the log already.
    pub(super) instead: Option<String>,
}

impl WorkError {
    /// A failure that may pass: the order is tried again later, unless this was its last attempt.
    pub fn retry(message: impl Into<String>) -> WorkError {
        WorkError { message: message.into(), retry: true, instead: None }
    }

    /// A failure that no further attempt will mend: the order is `Failed` at once.
    pub fn fatal(message: impl Into<String>) -> WorkError {
        WorkError { message: message.into(), retry: false, instead: None }
    }

    pub(super) fn for_log(&self) -> &str {
        self.instead.as_ref().unwrap_or(&self.message)
    }
}

impl fmt::Display for WorkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WorkError {}
