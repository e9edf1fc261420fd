//! The keeper: registers this instance, keeps its lease, and notices orders whose instance has none any more.
//!
//! It has a thread and a connection of its own, so that a change that waits for a lock costs no lease. Each beat goes to the server,
//! whose clock alone decides; who was declared dead meanwhile registers anew, under another id. What hangs ends with the lease: this
//! one's own work has been stopped before then by whoever looks at [`Lease`]. When the store is closed, the instance leaves, and what
//! it has not put back is anybody's.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::{Call, Connection, Line, WRITE_PATIENCE, jittered};
use super::lease::{Lease, since_boot};
use super::url::Server;
use super::{schema, sql};
use crate::error::Error;
use crate::os::sync::unpoisoned;

/// Beats in the time of a lease.
const BEATS: u32 = 6;
/// How long to wait for the thread when the store is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The thread, and what it has to say.
pub(in crate::store) struct Keeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    closed: Mutex<bool>,
    changed: Condvar,
    trouble: Mutex<Option<String>>,
}

impl Keeper {
    /// Registers the instance as one of `node`, and starts the thread.
    ///
    /// # Errors
    /// What the server says; [`Error::Thread`].
    pub(super) fn start(server: Arc<Server>, connection: Connection, node: String, lease: Arc<Lease>) -> Result<Keeper, Error> {
        let shared = Arc::new(Shared { closed: Mutex::new(false), changed: Condvar::new(), trouble: Mutex::new(None) });
        let line = Line::over(server.clone(), connection);
        let mut worker = Worker { server, line, node, lease, shared: shared.clone(), is_failing: false };
        worker.register()?;
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || worker.run()).map_err(Error::Thread)?;
        Ok(Keeper { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Why the lease can't be kept just now.
    pub(in crate::store) fn trouble(&self) -> Option<String> {
        unpoisoned(&self.shared.trouble).clone()
    }

    /// Leaves, and ends the thread.
    pub(in crate::store) fn close(&self) {
        *unpoisoned(&self.shared.closed) = true;
        self.shared.changed.notify_all();
        let Some(thread) = unpoisoned(&self.thread).take() else { return };
        let deadline = Instant::now() + CLOSE_PATIENCE;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

struct Worker {
    server: Arc<Server>,
    line: Line,
    node: String,
    lease: Arc<Lease>,
    shared: Arc<Shared>,
    is_failing: bool,
}

impl Worker {
    fn run(&mut self) {
        let interval = self.server.lease / BEATS;
        let mut pause = jittered(interval);
        loop {
            let closed = unpoisoned(&self.shared.closed);
            let waited = self.shared.changed.wait_timeout_while(closed, pause, |closed| !*closed);
            if *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0 {
                return self.leave();
            }
            let outcome = self.beat();
            pause = if outcome.is_ok() { jittered(interval) } else { self.line.pause() };
            self.note(outcome);
        }
    }

    /// Says when the lease can't be kept, and when it can again.
    fn note(&mut self, outcome: Result<(), Error>) {
        let trouble = outcome.err().map(|e| format!("the lease can't be kept: {e}"));
        match &trouble {
            Some(why) if !self.is_failing => log::error!("{why}"),
            None if self.is_failing => log::info!("the lease is kept again"),
            _ => {}
        }
        self.is_failing = trouble.is_some();
        *unpoisoned(&self.shared.trouble) = trouble;
    }

    fn register(&mut self) -> Result<(), Error> {
        let sent = since_boot();
        let seconds = self.server.lease.as_secs_f64();
        let call = Call::new(sql::REGISTER, vec![Box::new(self.node.clone()), Box::new(seconds)]);
        // There is no lease yet that could end meanwhile.
        let rows = self.line.transaction(&[call], WRITE_PATIENCE)?;
        let id =
            rows[0].first().and_then(|row| row.try_get(0).ok()).ok_or_else(|| Error::Database("no id was given".into()))?;
        self.lease.extend(id, sent);
        log::info!("instance {id} works with {}", self.server.name);
        // It matters to nobody whether this succeeds.
        let _ = self.line.transaction(&[Call::new(sql::FORGET, Vec::new())], self.patience());
        Ok(())
    }

    fn beat(&mut self) -> Result<(), Error> {
        let id = self.lease.id();
        if id == 0 {
            return self.register();
        }
        let sent = since_boot();
        let seconds = self.server.lease.as_secs_f64();
        let call = Call::new(sql::BEAT, vec![Box::new(id), Box::new(seconds)]);
        let rows = self.line.transaction(&[call], self.patience())?;
        let row = rows[0].first().ok_or_else(|| Error::Database("no answer to a beat".into()))?;
        let read = |e: tokio_postgres::Error| Error::Database(e.into());
        let (lives, readable_from, orphans): (bool, Option<i32>, bool) =
            (row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?, row.try_get(2).map_err(read)?);
        if readable_from.is_none_or(|from| !schema::can_read(from)) {
            self.lease.lose();
            return Err(Error::Database("a newer orderd has brought the database to a schema that this one can't use".into()));
        }
        if !lives {
            log::warn!("instance {id} was silent for longer than its lease: others take its orders over");
            self.lease.lose();
            return self.register();
        }
        self.lease.extend(id, sent);
        self.lease.note_orphans(orphans);
        Ok(())
    }

    fn leave(&mut self) {
        let id = self.lease.id();
        self.lease.lose();
        // Otherwise the lease runs out.
        let _ = self.line.transaction(&[Call::new(sql::LEAVE, vec![Box::new(id)])], CLOSE_PATIENCE / 2);
    }

    /// A beat that takes longer is of no use, nor one that any other change would not wait for.
    fn patience(&self) -> Duration {
        (self.server.lease / BEATS).min(WRITE_PATIENCE)
    }
}
