//! Steps of the clock: when the time of day is set, what waits for a time goes on waiting by its length.
//!
//! The time that has passed never steps. How far the time of day is from it changes only when somebody sets the clock, or a little
//! when it is slewed; then the times that delayed orders wait for are shifted as far. A step that came while no server ran shows
//! by orders whose last attempt began in the future.

use std::sync::Mutex;

use crate::os::clock::Clock;
use crate::os::sync::unpoisoned;

/// What counts as a step, in milliseconds.
const STEP_MS: i64 = 1_000;

pub(super) struct Steps {
    clock: Clock,
    /// The time of day less the time that has passed, when last looked at.
    offset_ms: Mutex<i64>,
}

impl Steps {
    pub(super) fn new(clock: Clock) -> Steps {
        let offset_ms = Mutex::new(offset_ms(&clock));
        Steps { clock, offset_ms }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// How far the clock has been set since the last look, if it has.
    pub(super) fn look(&self) -> Option<i64> {
        let now = offset_ms(&self.clock);
        let before = std::mem::replace(&mut *unpoisoned(&self.offset_ms), now);
        Some(now.saturating_sub(before)).filter(|step| step.abs() >= STEP_MS)
    }
}

fn offset_ms(clock: &Clock) -> i64 {
    clock.now_ms().saturating_sub(clock.elapsed().as_millis() as i64)
}
