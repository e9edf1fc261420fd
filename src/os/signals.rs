//! Signals, turned into calls on a thread of their own.
//!
//! SIGTERM, SIGINT and SIGHUP ask a process to stop. A SIGHUP that was ignored when the process was started stays ignored, as
//! `nohup` wants it. SIGUSR1 and SIGUSR2 are what a parent and its child tell each other, SIGCHLD is the end of a child.
//!
//! Works for process 1 of a container too, for which the kernel has no default action. Must be set up before anything else is
//! started, so that an early signal does not kill a half-started server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;
pub use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::error::Error;

/// Calls `on_signal` with the number of each signal that asks the process to stop, and of each in `others`. Has ended children
/// wait to be asked.
///
/// # Errors
/// [`Error::Thread`].
pub fn watch(others: &[i32], mut on_signal: impl FnMut(i32) + Send + 'static) -> Result<(), Error> {
    // Whoever started us may ignore it, which we would inherit: nobody could then tell how a command or a child has ended.
    signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false))).map_err(Error::Thread)?;
    // At a limit of the size of files a write is to fail, and not to end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(Error::Thread)?;
    let mut wanted = vec![SIGTERM, SIGINT];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    wanted.extend(others);
    let mut signals = Signals::new(wanted).map_err(Error::Thread)?;
    let watch = move || signals.forever().for_each(&mut on_signal);
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(Error::Thread)?;
    Ok(())
}

/// Whether this process ignores `signal`, as far as the system says.
fn is_ignored(signal: i32) -> bool {
    ignores(&std::fs::read_to_string("/proc/self/status").unwrap_or_default(), signal)
}

/// Whether the text of `/proc/ID/status` says that the process ignores `signal`.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is for signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_says_what_is_ignored() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        assert!(ignores(status, SIGHUP) && ignores(status, 13));
        assert!(!ignores(status, SIGTERM) && !ignores(status, SIGINT) && !ignores("", SIGHUP));
    }
}
