//! Deletes finished orders that ended long ago: a bounded batch at a time, through the committer, beside the work.
//!
//! Finished orders are looked through in the order of arrival, from the oldest, by the index of their status: as they end roughly
//! in that order, no index by time is needed, which every order would have to pay for. A round ends where a whole batch is too
//! young. Between two batches there is a pause as long as the first took, so that whoever waits for a commit waits for one batch
//! at most. Deleted pages are used again; the file does not shrink.
//!
//! With `--keep`, a thread does a round now and then. What goes wrong ends its round, and is logged by the committer.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Pruned, Refused, Store, answered};
use crate::error::Error;
use crate::order::Status;
use crate::os::clock::Clock;
use crate::os::sync::unpoisoned;

/// How often to look, as a part of the time for which orders are kept, and within what bounds.
const ROUNDS: u32 = 10;
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// The statuses of which no order changes by itself any more.
pub const FINISHED: [Status; 3] = [Status::Completed, Status::Failed, Status::Cancelled];

/// The thread that deletes what has been kept for long enough. Ends when it is dropped.
pub struct Retention {
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Retention {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(store: Arc<Store>, clock: Clock, keep: Duration) -> Result<Retention, Error> {
        let (stop, stopped) = channel::<()>();
        let pause = (keep / ROUNDS).clamp(PAUSE.0, PAUSE.1);
        let keep_ms = keep.as_millis() as i64;
        let run = move || {
            loop {
                let before_ms = clock.now_ms().saturating_sub(keep_ms);
                let is_stopped = |pause| stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
                for status in FINISHED {
                    let (mut after, mut deleted) = (Some(0), 0);
                    while let Some(place) = after {
                        let begun = Instant::now();
                        let Ok(pruned) = prune_batch(&store, status, before_ms, place) else { break };
                        deleted += pruned.deleted.len();
                        after = pruned.next.filter(|_| !pruned.deleted.is_empty());
                        if is_stopped(begun.elapsed()) {
                            return;
                        }
                    }
                    if deleted > 0 {
                        log::info!(status = status.as_str(), deleted; "orders that were kept for long enough are deleted");
                    }
                }
                if is_stopped(clock.sleep_for(pause)) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("retention".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Retention { stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }
}

impl Drop for Retention {
    fn drop(&mut self) {
        unpoisoned(&self.stop).take();
        // A batch under way takes no longer than a commit.
        let _ = unpoisoned(&self.thread).take().map(JoinHandle::join);
    }
}

/// Deletes all orders in `status` that ended before a time in milliseconds since 1970, a batch after the other, and says how many.
/// `progress` is called after each with the number so far.
///
/// # Errors
/// Why a batch was refused; those before it are done.
pub fn prune(store: &Store, status: Status, before_ms: i64, mut progress: impl FnMut(u64)) -> Result<u64, Refused> {
    let (mut deleted, mut after) = (0, Some(0));
    while let Some(place) = after {
        let pruned = prune_batch(store, status, before_ms, place)?;
        deleted += pruned.deleted.len() as u64;
        after = pruned.next;
        progress(deleted);
    }
    Ok(deleted)
}

fn prune_batch(store: &Store, status: Status, before_ms: i64, after: i64) -> Result<Pruned, Refused> {
    let pruned = answered(|done| store.prune(status, before_ms, after, move |pruned| _ = done.send(pruned)))?;
    pruned.deleted.iter().for_each(|id| log::debug!(order = id, status = status.as_str(); "deleted"));
    Ok(pruned)
}
