//! SIGTERM and SIGINT, turned into calls on a thread of their own.
//!
//! Works for process 1 of a container too, for which the kernel has no default action. Must be set up before anything else is
//! started, so that an early signal does not kill a half-started server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::Error;

/// Calls `on_signal` with the number of each signal that asks the process to stop. Has ended children wait to be asked.
///
/// # Errors
/// [`Error::Thread`].
pub fn watch(mut on_signal: impl FnMut(i32) + Send + 'static) -> Result<(), Error> {
    // Whoever started us may ignore it, which we would inherit: nobody could then tell how a command or a worker has ended.
    signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false))).map_err(Error::Thread)?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Error::Thread)?;
    let watch = move || signals.forever().for_each(&mut on_signal);
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(Error::Thread)?;
    Ok(())
}
