//! Threads that wait for bodies, so that workers never do.
//!
//! tiny_http hands over a request whose body is long, chunked or held back for `100 Continue` before that body has come. Reading
//! it, and even dropping it unread, goes at the sender's speed. Such requests are given to these threads: started when needed,
//! at most [`MAX_THREADS`], gone after a quiet spell. When all are busy, the caller is told and refuses the request, or has it
//! wait. What else may block and must hold nobody up is given to them, too: long answers, and commits over Unix sockets.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::os::sync::unpoisoned;

/// The most bodies that are waited for at once. A slow sender can hold one for as long as the read timeout.
pub const MAX_THREADS: usize = 64;
/// How long an idle thread stays.
const QUIET: Duration = Duration::from_secs(5);

type Task = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Clone, Default)]
pub struct Bodies(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    given: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
}

impl Bodies {
    /// Runs `task` on one of the threads; gives its subject back when all are busy.
    ///
    /// # Errors
    /// The subject.
    pub fn give<T: Send + 'static>(&self, subject: T, task: impl FnOnce(T) + Send + 'static) -> Result<(), T> {
        let mut state = self.0.lock();
        if !self.has_thread(&mut state) {
            return Err(subject);
        }
        state.tasks.push_back(Box::new(move || task(subject)));
        self.0.given.notify_one();
        Ok(())
    }

    /// Runs `task` on one of the threads, as soon as one is free.
    pub fn give_patiently(&self, task: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        if !self.has_thread(&mut state) && state.threads == 0 {
            // Nobody would ever come for it.
            drop(state);
            return task();
        }
        state.tasks.push_back(Box::new(task));
        self.0.given.notify_one();
    }

    /// Sees to it that a thread is free for one more task.
    fn has_thread(&self, state: &mut State) -> bool {
        // An idle thread stands for a task only as long as it has not been promised to another.
        if state.tasks.len() < state.idle {
            return true;
        }
        if state.threads >= MAX_THREADS {
            return false;
        }
        let shared = self.0.clone();
        if std::thread::Builder::new().name("body".into()).spawn(move || shared.run()).is_err() {
            return false;
        }
        state.threads += 1;
        // Counted as idle from the start, as it is about to look for a task.
        state.idle += 1;
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        unpoisoned(&self.state)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(task) = state.tasks.pop_front() else {
                let (guard, timeout) = self.given.wait_timeout(state, QUIET).unwrap_or_else(|poisoned| poisoned.into_inner());
                state = guard;
                if timeout.timed_out() && state.tasks.is_empty() {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            state.idle -= 1;
            drop(state);
            // A panic costs its own request, which tiny_http then answers with 500.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
            state = self.lock();
            state.idle += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn as_many_tasks_as_threads_run_at_once_and_one_more_is_given_back_or_waits() {
        let bodies = Bodies::default();
        let (done, finished) = channel();
        let (release, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for n in 0..MAX_THREADS {
            let (done, wait) = (done.clone(), wait.clone());
            let given = bodies.give(n, move |n| {
                let _ = wait.lock().map(|w| w.recv());
                done.send(n).unwrap();
            });
            assert!(given.is_ok());
        }
        assert_eq!(bodies.give(99, |_| {}), Err(99));
        bodies.give_patiently(move || done.send(MAX_THREADS).unwrap());
        drop(release);
        let mut ran: Vec<usize> = (0..=MAX_THREADS).map(|_| finished.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
        ran.sort_unstable();
        assert_eq!(ran, (0..=MAX_THREADS).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_leaves_its_thread_usable() {
        let bodies = Bodies::default();
        let (done, finished) = channel();
        for n in 0..2 * MAX_THREADS {
            let done = done.clone();
            let mut subject = n;
            // All may be busy for a moment.
            while let Err(back) = bodies.give(subject, {
                let done = done.clone();
                move |n| {
                    done.send(()).unwrap();
                    assert!(n % 2 == 0, "a panic on purpose");
                }
            }) {
                subject = back;
                std::thread::yield_now();
            }
        }
        for _ in 0..2 * MAX_THREADS {
            finished.recv_timeout(Duration::from_secs(30)).unwrap();
        }
    }
}
