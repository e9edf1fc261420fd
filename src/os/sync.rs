//! Mutexes whose value is whole between any two statements, so that a panic under the lock leaves nothing half done.
//!
//! All of this crate's are: a queue, a list, a flag, a connection that only reads or whose transaction rolls back when it is
//! dropped. What is poisoned is therefore as good as new. (Of a function given to us only its author knows; `work.rs` says so.)

use std::sync::{Mutex, MutexGuard, TryLockError};

/// Locks `mutex`, whether or not a thread panicked while it held it.
pub fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Locks `mutex` if nobody holds it, whether or not a thread panicked while it did.
pub fn try_unpoisoned<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
