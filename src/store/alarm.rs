//! That nothing more can be written safely: known to all threads of the store, and told once to the program.
//!
//! Raised by whoever sees it first. There is no way back: the process has to end, and its successor recovers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};

use super::Refused;
use crate::os::sync::unpoisoned;

type OnBroken = Box<dyn FnOnce(Refused) + Send>;

pub(super) struct Alarm {
    broken: OnceLock<Refused>,
    on_broken: Mutex<Option<OnBroken>>,
}

impl Alarm {
    pub(super) fn new(on_broken: impl FnOnce(Refused) + Send + 'static) -> Alarm {
        Alarm { broken: OnceLock::new(), on_broken: Mutex::new(Some(Box::new(on_broken))) }
    }

    /// Why nothing more is written, once it is so.
    pub(super) fn raised(&self) -> Option<Refused> {
        self.broken.get().cloned()
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
