//! The log under a running writer: how long it has to be, and whether another program has cut it.
//!
//! Recovery takes the frames of a log up to the first wrong one. So what is written behind a cut is lost with the next crash, though
//! SQLite goes on and acknowledges. A cut log is too short before a transaction. One that is cut while a transaction is written has
//! its length again afterwards, with zeros from the cut to what was written; then its header, or the frame before the first one of that
//! transaction, is no longer of the same round. Both are looked at before anything is acknowledged, on the committer's thread.
//!
//! What it can't see is a cut within the one page before a transaction's own: that is found by the check at the next start.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::checkpoint::{self, LOG_HEADER_BYTES, LOG_PAGE_BYTES};
use super::file::{Identity, with_suffix};
use super::lock::unusable;
use super::recovery::{FRAME_SALTS_AT, HEADER_SALTS_AT, Salts};
use crate::error::Error;

/// What the writer knows of its log.
pub(super) struct Log {
    identity: Identity,
    /// Open for reading. To close it drops none of SQLite's locks, as they lie on the database and the log's index.
    file: File,
    written: Arc<Written>,
}

/// What SQLite tells of each commit that has written anything.
#[derive(Default)]
pub(super) struct Written {
    /// The pages in the log after the last one.
    pages: AtomicU64,
    commits: AtomicU64,
}

impl Written {
    /// Has `connection` tell it from now on. Takes the place of SQLite's own checkpoints, whose result nobody sees.
    pub(super) fn by(connection: &mut Connection) -> Result<Arc<Written>, Error> {
        let written = Arc::new(Written::default());
        let told = written.clone();
        connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            told.pages.store(pages.max(0) as u64, Ordering::Relaxed);
            told.commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(written)
    }

    fn now(&self) -> (u64, u64) {
        (self.pages.load(Ordering::Relaxed), self.commits.load(Ordering::Relaxed))
    }
}

/// How far the log was before a transaction.
#[derive(Clone, Copy)]
pub(super) struct Before {
    pages: u64,
    commits: u64,
}

impl Log {
    /// The log of the database at `path`, which exists from the first transaction on.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub(super) fn of(path: &Path, written: Arc<Written>) -> Result<Log, Error> {
        let path = with_suffix(path, "-wal");
        let file = File::open(&path).map_err(unusable(&path))?;
        Ok(Log { identity: Identity::of(path)?, file, written })
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> u64 {
        self.written.now().0
    }

    /// Before a transaction: it must not be shorter than its pages.
    ///
    /// # Errors
    /// [`Error::Broken`], also when it is gone.
    pub(super) fn check(&self, connection: &Connection) -> Result<Before, Error> {
        let (pages, commits) = self.written.now();
        // Another program may have emptied it as it should be done.
        if self.is_short_of(pages)? && self.is_short_of(checkpoint::pages(connection)?)? {
            return Err(cut());
        }
        Ok(Before { pages, commits })
    }

    /// After a commit: it must be the same file, and whole up to what this commit has written.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub(super) fn check_commit(&self, connection: &Connection, before: Before) -> Result<(), Error> {
        self.identity.check()?;
        let (pages, commits) = self.written.now();
        if commits == before.commits || self.is_whole(before.pages, pages) {
            return Ok(());
        }
        // Unless another program has emptied it since, or begun it anew.
        if checkpoint::pages(connection)? == pages { Err(cut()) } else { Ok(()) }
    }

    /// Looks at both ends of what a commit has found there, as far as it has `pages` now and had `before`. One that was begun anew
    /// has nothing from before.
    fn is_whole(&self, before: u64, pages: u64) -> bool {
        if self.is_short_of(pages).unwrap_or(true) {
            return false;
        }
        let header = self.salts_at(HEADER_SALTS_AT);
        let last = if before < pages { before } else { 0 };
        let frame = match last.checked_sub(1) {
            Some(page) => self.salts_at(LOG_HEADER_BYTES + page * LOG_PAGE_BYTES + FRAME_SALTS_AT),
            None => header,
        };
        header.is_some_and(|salts| salts != Salts::default()) && frame == header
    }

    fn is_short_of(&self, pages: u64) -> Result<bool, Error> {
        Ok(self.identity.bytes()? < checkpoint::log_bytes(pages))
    }

    fn salts_at(&self, at: u64) -> Option<Salts> {
        let mut salts = Salts::default();
        self.file.read_exact_at(&mut salts, at).ok().map(|()| salts)
    }
}

fn cut() -> Error {
    Error::Broken("the log was cut by another program".into())
}
