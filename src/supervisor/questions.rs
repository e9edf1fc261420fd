//! Whether the process that serves answers: asked now and then by a thread of its own, as an answer may take its time.
//!
//! Who hears an answer decides what follows: the supervisor counts silences, and a service manager is told of life only when there
//! is some. Nothing here ends a process.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::http::listener::Address;
use crate::http::probe::{self, Heard};
use crate::os::manager::Manager;

/// How often it is asked.
pub const PAUSE: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks whoever serves at `address`, until `on_answer` returns false. It gets what came of each question, and when that was asked.
/// `watchdog` is within what time a manager wants a sign of life.
///
/// # Errors
/// [`Error::Thread`].
pub fn ask(
    address: Address,
    watchdog: Option<Duration>,
    on_answer: impl Fn(Instant, Heard) -> bool + Send + 'static,
) -> Result<(), Error> {
    // Within the time that the manager gives there are to be several answers.
    let pause = watchdog.map_or(PAUSE, |watchdog| PAUSE.min(watchdog / 4));
    let ask = move || {
        let mut heard = Heard::Unasked;
        loop {
            // After silence it is asked again at once.
            if heard != Heard::Silence {
                std::thread::sleep(pause);
            }
            let asked_at = Instant::now();
            heard = probe::ask(&address, PATIENCE);
            if !on_answer(asked_at, heard) {
                return;
            }
        }
    };
    std::thread::Builder::new().name("probe".into()).spawn(ask).map(drop).map_err(Error::Thread)
}

/// Tells the manager, if it wants to hear it, that this process answers at `address`, for as long as it does.
///
/// # Errors
/// [`Error::Thread`].
pub fn keep_telling(manager: Manager, address: Address) -> Result<(), Error> {
    if manager.watchdog().is_none() {
        return Ok(());
    }
    let watchdog = manager.watchdog();
    ask(address, watchdog, move |_, heard| {
        if heard == Heard::Answer {
            manager.lives();
        }
        true
    })
}
