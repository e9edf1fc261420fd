//! What all threads of the store, and whoever asks, must know: that nothing more can be written safely, or that a page is damaged.
//!
//! The first is raised by whoever sees it, and told once to the program. There is no way back: the process has to end, and its
//! successor recovers. With a damaged page the process goes on, as most of what is asked doesn't need it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};

use super::Refused;
use crate::error::Error;
use crate::os::sync::unpoisoned;

type OnBroken = Box<dyn FnOnce(Refused) + Send>;

pub(super) struct Alarm {
    broken: OnceLock<Refused>,
    on_broken: Mutex<Option<OnBroken>>,
    corrupt: OnceLock<Refused>,
}

impl Alarm {
    pub(super) fn new(on_broken: impl FnOnce(Refused) + Send + 'static) -> Alarm {
        Alarm { broken: OnceLock::new(), on_broken: Mutex::new(Some(Box::new(on_broken))), corrupt: OnceLock::new() }
    }

    /// Why nothing more is written, once it is so.
    pub(super) fn raised(&self) -> Option<Refused> {
        self.broken.get().cloned()
    }

    /// Why the database is to be mended by a person, if anybody has met a damaged page.
    pub(super) fn corrupt(&self) -> Option<Refused> {
        self.corrupt.get().cloned()
    }

    /// Somebody has met a damaged page. Says whether it is the first time.
    pub(super) fn note_corrupt(&self, error: Refused) -> bool {
        self.corrupt.set(error).is_ok()
    }

    /// What came of a read. A damaged page is said once, and kept in mind.
    pub(super) fn heed<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Corrupt(what)) = &read {
            let error = Refused::new(Error::Corrupt(what.clone()));
            if self.note_corrupt(error.clone()) {
                log::error!(why:% = error; "reads refused");
            }
        }
        read
    }

    pub(super) fn raise(&self, error: Refused) {
        // The first reason stands.
        let _ = self.broken.set(error.clone());
        let on_broken = unpoisoned(&self.on_broken).take();
        if let Some(on_broken) = on_broken {
            // The program that hears of it may panic; those who wait must still hear of theirs.
            let _ = catch_unwind(AssertUnwindSafe(|| on_broken(error)));
        }
    }
}
