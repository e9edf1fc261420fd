//! Attempts that are under way: each on a thread of its own, which reports its end once, to whoever started it.
//!
//! [`Task`] starts one and can terminate it if it is a command; a function ends when it ends. [`Tasks`] are all that a processor
//! has under way, with the time at which each is terminated. Only the processor thread uses either. Nothing here touches the
//! store. A panic in a function is a failed attempt.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::command::{self, Group};
use super::work::{Work, WorkError};
use crate::order::{Order, OrderId};
use crate::os::marks::Mark;
use crate::store::Claimed;

/// How long a command may take to end after SIGTERM, before SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Why, and how, a task is terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminate {
    /// Its time is over: SIGTERM.
    TimedOut,
    /// The server is stopping: SIGTERM.
    Stopping,
    /// It has not ended since: SIGKILL.
    Kill,
}

/// What came of an attempt that was to be made.
pub(super) enum Attempt {
    /// It was made.
    Ended(Result<(), WorkError>),
    /// The machine had no room for it, and nothing of it was begun. Says why.
    NotBegun(String),
}

/// One attempt that is under way.
pub(super) struct Task {
    group: Option<Arc<Group>>,
}

impl Task {
    /// Begins an attempt at `order` on a thread of its own. `ended` is called there, once.
    ///
    /// # Errors
    /// What stands in the way of the thread; `ended` is not called then. The work that is `Wait` is no task.
    pub(super) fn start(
        work: &Work,
        order: Order,
        mark: Arc<Mark>,
        ended: impl FnOnce(Attempt) + Send + 'static,
    ) -> io::Result<Task> {
        let thread = std::thread::Builder::new().name("work".into());
        match work {
            Work::Wait => Err(io::ErrorKind::Unsupported.into()),
            Work::Command(command) => {
                let group = Arc::new(Group::default());
                let (command, members) = (command.clone(), group.clone());
                thread.spawn(move || ended(command::run(&command, &order, &mark, &members)))?;
                Ok(Task { group: Some(group) })
            }
            Work::Function(function) => {
                let function = function.clone();
                thread.spawn(move || {
                    let result = catch_unwind(AssertUnwindSafe(|| function(&order)));
                    ended(Attempt::Ended(result.unwrap_or_else(|panic| Err(WorkError::retry(message_of(&*panic))))));
                })?;
                Ok(Task { group: None })
            }
        }
    }

    /// Returns false if it can't be told: it is a function.
    fn terminate(&self, terminate: Terminate) -> bool {
        self.group.as_ref().is_some_and(|group| {
            group.terminate(terminate);
            true
        })
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    message.map_or_else(|| "panicked".into(), |message| format!("panicked: {message}"))
}

/// A task, and what the processor has to know of it meanwhile.
pub(super) struct Running {
    task: Task,
    /// For the log.
    pub(super) order_id: OrderId,
    /// When it is terminated next, on the clock's time, and how.
    next: Option<(Duration, Terminate)>,
    /// Why it was terminated first.
    told: Option<Terminate>,
}

impl Running {
    /// A task that is terminated at `times_out` if it can be.
    pub(super) fn new(task: Task, order_id: OrderId, times_out: Duration) -> Running {
        let next = task.group.is_some().then_some((times_out, Terminate::TimedOut));
        Running { task, order_id, next, told: None }
    }

    /// Whether a stop cut it short, so that its failure is none.
    pub(super) fn was_stopped(&self) -> bool {
        self.told == Some(Terminate::Stopping)
    }

    fn terminate(&mut self, terminate: Terminate) -> bool {
        self.told.get_or_insert(terminate);
        self.task.terminate(terminate)
    }
}

/// All tasks that are under way.
#[derive(Default)]
pub(super) struct Tasks(HashMap<Claimed, Running>);

impl Tasks {
    pub(super) fn add(&mut self, order: Claimed, running: Running) {
        self.0.insert(order, running);
    }

    pub(super) fn remove(&mut self, order: Claimed) -> Option<Running> {
        self.0.remove(&order)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The order and the number of each.
    pub(super) fn named(&self) -> impl Iterator<Item = (&OrderId, u32)> {
        self.0.iter().map(|(claimed, running)| (&running.order_id, claimed.attempt))
    }

    pub(super) fn claims(&self) -> impl Iterator<Item = Claimed> {
        self.0.keys().copied()
    }

    /// Terminates those whose time is over at `now`, and kills them a moment later.
    pub(super) fn terminate_overdue(&mut self, now: Duration) {
        for running in self.0.values_mut() {
            if let Some((_, terminate)) = running.next.filter(|(at, _)| *at <= now) {
                running.terminate(terminate);
                running.next = (terminate != Terminate::Kill).then_some((now + GRACE, Terminate::Kill));
            }
        }
    }

    /// Terminates all. Those that can't be told are left behind, and returned: what they come to is not recorded.
    pub(super) fn terminate_all(&mut self, terminate: Terminate) -> Vec<(Claimed, Running)> {
        self.0.extract_if(|_, running| !running.terminate(terminate)).collect()
    }

    /// When the next one is to be terminated, on the clock's time.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0.values().filter_map(|running| running.next).map(|(at, _)| at).min()
    }
}
