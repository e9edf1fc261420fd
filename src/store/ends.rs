//! Who waits for the end of an order, and how they hear of it: from the committer thread, after the commit that ended it.
//!
//! What is told is a hint, as every message is: whoever hears it reads the row. So one that is lost, as when another program ends an
//! order, only makes them look later. While nobody waits, a commit pays for this with one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::write::Write;
use crate::order::OrderId;
use crate::os::sync::unpoisoned;

/// All who wait.
#[derive(Default)]
pub(super) struct Ends {
    waiting: AtomicUsize,
    /// By the place of the order that they wait for.
    bells: Mutex<HashMap<i64, Vec<Arc<Bell>>>>,
}

struct Bell {
    /// By which a change knows it that does not know its place.
    id: OrderId,
    is_rung: Mutex<bool>,
    rung: Condvar,
}

/// One that waits, until this is dropped.
pub(super) struct Waiting<'a> {
    ends: &'a Ends,
    place: i64,
    bell: Arc<Bell>,
}

impl Ends {
    /// From now on the end of this order, which is at `place`, is told. Whoever reads the row afterwards misses none.
    pub(super) fn wait_for(&self, place: i64, id: OrderId) -> Waiting<'_> {
        let bell = Arc::new(Bell { id, is_rung: Mutex::default(), rung: Condvar::new() });
        unpoisoned(&self.bells).entry(place).or_default().push(bell.clone());
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { ends: self, place, bell }
    }

    /// Tells of the orders that these changes have ended. They are committed.
    pub(super) fn tell(&self, committed: &[Write]) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let bells = unpoisoned(&self.bells);
        for place in committed.iter().flat_map(Write::ended) {
            bells.get(&place).into_iter().flatten().for_each(|bell| bell.ring());
        }
        for id in committed.iter().filter_map(Write::cancelled) {
            bells.values().flatten().filter(|bell| bell.id == *id).for_each(|bell| bell.ring());
        }
    }

    /// Has all who wait look.
    pub(super) fn tell_all(&self) {
        unpoisoned(&self.bells).values().flatten().for_each(|bell| bell.ring());
    }
}

impl Bell {
    fn ring(&self) {
        *unpoisoned(&self.is_rung) = true;
        self.rung.notify_all();
    }
}

impl Waiting<'_> {
    /// Waits until the end is told, but not longer than `at_most`.
    pub(super) fn wait(&self, at_most: Duration) {
        let is_rung = unpoisoned(&self.bell.is_rung);
        let waited = self.bell.rung.wait_timeout_while(is_rung, at_most, |is_rung| !*is_rung);
        // Told once more if it is tried again meanwhile, and ends again.
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0 = false;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut bells = unpoisoned(&self.ends.bells);
        if let Some(of_place) = bells.get_mut(&self.place) {
            of_place.retain(|bell| !Arc::ptr_eq(bell, &self.bell));
            if of_place.is_empty() {
                bells.remove(&self.place);
            }
        }
        self.ends.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
