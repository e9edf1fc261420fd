//! The blocking pool: threads for what goes at a client's speed, so that no worker ever waits for a client.
//!
//! tiny_http hands over a request whose body is long, chunked or held back for `100 Continue` before that body has come. Reading
//! it, and even dropping it unread, goes at the sender's speed; what a full socket did not take of an answer goes at the reader's.
//! Such a task gets a thread that is idle or a new one; threads go after a quiet spell. Above [`MAX_THREADS`] a task waits for one
//! to be free. A connection has one request under way, so none has more than one task here.
//!
//! [`Room`] bounds the bytes that all such tasks together hold.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::os::sync::unpoisoned;

/// The most threads. tiny_http has one for each connection, too, and this is as many as a small machine should see.
pub const MAX_THREADS: usize = 1_024;
/// How long an idle thread stays.
const QUIET: Duration = Duration::from_secs(5);
/// A task reads or writes in a loop and parses one body: that takes little stack.
const STACK_BYTES: usize = 512 << 10;

type Task = Box<dyn FnOnce() + Send>;

/// The pool.
#[derive(Clone, Default)]
pub struct Blocking(Arc<Shared>);

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

impl Blocking {
    /// Runs `task` on a thread of the pool. A panic in it ends the task alone.
    pub fn run(&self, task: impl FnOnce() + Send + 'static) {
        let mut state = unpoisoned(&self.0.state);
        state.tasks.push_back(Box::new(task));
        // An idle thread stands for a task only as long as it has not been promised to another.
        if state.tasks.len() <= state.idle {
            self.0.given.notify_one();
        } else if state.threads < MAX_THREADS {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("blocking".into()).stack_size(STACK_BYTES);
            if thread.spawn(move || shared.run()).is_ok() {
                state.threads += 1;
                // Counted as idle from the start, as it is about to look for a task.
                state.idle += 1;
            } else if state.threads == 0
                && let Some(task) = state.tasks.pop_back()
            {
                // Nobody would ever come for it.
                drop(state);
                task();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = unpoisoned(&self.state);
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
            let _ = catch_unwind(AssertUnwindSafe(task));
            state = unpoisoned(&self.state);
            state.idle += 1;
        }
    }
}

/// So many bytes may be held at once.
#[derive(Clone)]
pub struct Room(Arc<RoomState>);

struct RoomState {
    free: Mutex<usize>,
    given_back: Condvar,
}

/// Some of the room, given back when dropped.
pub struct Held {
    room: Room,
    bytes: usize,
}

impl Room {
    /// For so many bytes.
    pub fn new(bytes: usize) -> Room {
        Room(Arc::new(RoomState { free: Mutex::new(bytes), given_back: Condvar::new() }))
    }

    /// Takes `bytes` of it, if they are free.
    pub fn hold(&self, bytes: usize) -> Option<Held> {
        let mut free = unpoisoned(&self.0.free);
        *free = free.checked_sub(bytes)?;
        Some(Held { room: self.clone(), bytes })
    }

    /// Waits until `bytes` are free, and says whether they are.
    pub fn wait_for(&self, bytes: usize, patience: Duration) -> bool {
        let free = unpoisoned(&self.0.free);
        let wait = self.0.given_back.wait_timeout_while(free, patience, |free| *free < bytes);
        *wait.unwrap_or_else(|poisoned| poisoned.into_inner()).0 >= bytes
    }
}

impl Held {
    /// Takes `bytes` more, if they are free.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = self.room.hold(bytes);
        let grown = more.is_some();
        if let Some(mut more) = more {
            self.bytes += std::mem::take(&mut more.bytes);
        }
        grown
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *unpoisoned(&self.room.0.free) += self.bytes;
        self.room.0.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn tasks_run_at_once_however_many_wait() {
        let pool = Blocking::default();
        let (release, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..100 {
            let wait = wait.clone();
            pool.run(move || _ = unpoisoned(&wait).recv());
        }
        let (done, finished) = channel();
        pool.run(move || done.send(()).unwrap());
        finished.recv_timeout(PATIENCE).unwrap();
        drop(release);
    }

    #[test]
    fn above_the_most_threads_a_task_waits_for_one() {
        let pool = Blocking::default();
        let (release, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (done, finished) = channel();
        for n in 0..MAX_THREADS + 10 {
            let (wait, done) = (wait.clone(), done.clone());
            pool.run(move || {
                let _ = unpoisoned(&wait).recv();
                done.send(n).unwrap();
            });
        }
        assert!(unpoisoned(&pool.0.state).threads <= MAX_THREADS);
        drop(release);
        let mut ran: Vec<usize> = (0..MAX_THREADS + 10).map(|_| finished.recv_timeout(PATIENCE).unwrap()).collect();
        ran.sort_unstable();
        assert_eq!(ran, (0..MAX_THREADS + 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_leaves_its_thread_usable() {
        let pool = Blocking::default();
        let (done, finished) = channel();
        for n in 0..100 {
            let done = done.clone();
            pool.run(move || {
                done.send(()).unwrap();
                assert!(n % 2 == 0, "a panic on purpose");
            });
        }
        (0..100).for_each(|_| finished.recv_timeout(PATIENCE).unwrap());
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let room = Room::new(10);
        let mut held = room.hold(4).unwrap();
        assert!(room.hold(7).is_none());
        assert!(held.grow(6) && !held.grow(1));
        assert!(!room.wait_for(1, Duration::ZERO));
        drop(held);
        assert!(room.wait_for(10, Duration::ZERO));
    }
}
