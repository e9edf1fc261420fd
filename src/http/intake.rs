//! Which worker takes requests from tiny_http: one at a time, so that they are queued in the order of their arrival.
//!
//! With few cores, and while all that comes are writes, the same worker takes them, commits them, answers them and takes again,
//! and the others sleep: to wake them costs more than they help. One of them, the deputy, looks whether the taker has been away
//! for long, as a request that only reads may have come meanwhile, and then takes over.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::os::sync::unpoisoned;

/// How long a commit may keep a worker from taking requests, while all that come are writes: they could but join the next commit,
/// and to be woken for each costs more than to handle it. One that reads would wait, too, so not for long if any have come of late.
const REST: Duration = Duration::from_micros(100);

/// The same after [`MANY_WRITES`], and how long the taker may then be away.
const LONG_REST: Duration = Duration::from_millis(2);

/// So many writes in a row say that there are next to no reads.
const MANY_WRITES: usize = 256;

/// With more cores than this, one worker can answer while another takes: there nothing was measured.
const FEW_CORES: usize = 2;

/// Where workers wait to take requests.
pub struct Intake {
    state: Mutex<State>,
    changed: Condvar,
    few_cores: bool,
}

#[derive(Default)]
struct State {
    taker: Option<usize>,
    /// Since when the taker handles what it took, to come back for more.
    away_since: Option<Instant>,
    /// How many requests in a row, up to the last one taken, needed but a commit.
    writes_in_a_row: usize,
    /// Whether somebody is the deputy.
    deputy: bool,
    /// Whether anything was taken since the deputy last looked.
    busy: bool,
}

/// The worker that takes requests, until this is dropped.
pub struct Taker<'a> {
    intake: &'a Intake,
    /// How long to wait first, should a commit be under way.
    pub rest: Option<Duration>,
    writes: Option<usize>,
}

impl Intake {
    /// For a machine with so many cores.
    pub fn new(cores: usize) -> Intake {
        Intake { state: Mutex::default(), changed: Condvar::new(), few_cores: cores <= FEW_CORES }
    }

    /// Waits until `worker` may take requests.
    pub fn enter(&self, worker: usize) -> Taker<'_> {
        let mut state = unpoisoned(&self.state);
        while !state.lets_in(worker) {
            if state.deputy || !self.keeps_its_taker(&state) {
                state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            state.deputy = true;
            let away_for = state.away_since.map(|since| since.elapsed());
            let look_again_in = LONG_REST.saturating_sub(away_for.unwrap_or_default());
            (state, _) = self.changed.wait_timeout(state, look_again_in).unwrap_or_else(|poisoned| poisoned.into_inner());
            state.deputy = false;
            if !std::mem::take(&mut state.busy) && away_for.is_none() {
                // It has become quiet, and the next request may be of any kind.
                state.writes_in_a_row = 0;
            }
        }
        let takes_over = state.taker.replace(worker).is_some_and(|before| before != worker);
        state.away_since = None;
        self.appoint_deputy(&state);
        let rest = match state.writes_in_a_row {
            0 => None,
            // It has waited enough.
            _ if takes_over => None,
            1..MANY_WRITES => Some(REST),
            _ => Some(LONG_REST),
        };
        Taker { intake: self, rest, writes: None }
    }

    fn keeps_its_taker(&self, state: &State) -> bool {
        self.few_cores && state.writes_in_a_row >= MANY_WRITES
    }

    /// Wakes somebody to be the deputy, if one is needed.
    fn appoint_deputy(&self, state: &State) {
        if self.keeps_its_taker(state) && !state.deputy {
            self.changed.notify_one();
        }
    }
}

impl State {
    fn lets_in(&self, worker: usize) -> bool {
        self.taker.is_none_or(|taker| taker == worker) || self.away_since.is_some_and(|since| since.elapsed() >= LONG_REST)
    }
}

impl Taker<'_> {
    /// Goes, having taken so many requests that need but a commit, and no others.
    pub fn leave_with_writes(mut self, writes: usize) {
        self.writes = Some(writes);
    }
}

impl Drop for Taker<'_> {
    fn drop(&mut self) {
        let mut state = unpoisoned(&self.intake.state);
        state.busy = true;
        state.writes_in_a_row = self.writes.map_or(0, |writes| state.writes_in_a_row.saturating_add(writes));
        if self.intake.keeps_its_taker(&state) {
            state.away_since = Some(Instant::now());
            self.intake.appoint_deputy(&state);
        } else {
            state.taker = None;
            self.intake.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// An intake whose last taker, worker 0, has left with as many writes as it takes to come back first.
    fn in_the_middle_of_writes() -> Intake {
        let intake = Intake::new(FEW_CORES);
        intake.enter(0).leave_with_writes(MANY_WRITES);
        intake
    }

    #[test]
    fn one_worker_at_a_time_takes_requests_whatever_they_are() {
        for cores in [FEW_CORES, FEW_CORES + 1] {
            let (intake, takers, turns) = (Intake::new(cores), AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for worker in 0..4 {
                    let (intake, takers, turns) = (&intake, &takers, &turns);
                    scope.spawn(move || {
                        for turn in 0..2_000 {
                            let taker = intake.enter(worker);
                            assert_eq!(takers.fetch_add(1, Ordering::SeqCst), 0);
                            turns.fetch_add(1, Ordering::SeqCst);
                            takers.fetch_sub(1, Ordering::SeqCst);
                            // Now and then there are many writes in a row, and now and then none.
                            if turn % 500 > 100 {
                                taker.leave_with_writes(10);
                            }
                        }
                    });
                }
            });
            assert_eq!(turns.into_inner(), 8_000);
        }
    }

    #[test]
    fn only_many_writes_in_a_row_and_few_cores_let_a_taker_come_back_first() {
        for (cores, writes, stays) in
            [(FEW_CORES, MANY_WRITES, true), (FEW_CORES, MANY_WRITES - 1, false), (FEW_CORES + 1, MANY_WRITES, false)]
        {
            let intake = Intake::new(cores);
            intake.enter(0).leave_with_writes(writes);
            assert_eq!(unpoisoned(&intake.state).taker, stays.then_some(0), "{cores} cores, {writes} writes");
        }
        let intake = in_the_middle_of_writes();
        drop(intake.enter(0));
        assert_eq!(unpoisoned(&intake.state).taker, None, "what it took last was no write");
    }

    #[test]
    fn a_taker_that_stays_away_is_replaced_and_waits_when_it_comes_back() {
        let intake = in_the_middle_of_writes();
        let entered = intake.enter(1);
        assert_eq!(entered.rest, None, "it has waited");
        let back = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let taker = intake.enter(0);
                back.store(true, Ordering::SeqCst);
                drop(taker);
            });
            std::thread::sleep(2 * LONG_REST);
            assert!(!back.load(Ordering::SeqCst));
            drop(entered);
        });
        assert!(back.into_inner());
    }

    #[test]
    fn of_several_that_stay_away_each_is_replaced_by_the_next() {
        let intake = in_the_middle_of_writes();
        let (entered, enters) = channel();
        std::thread::scope(|scope| {
            for worker in 1..4 {
                let (intake, entered) = (&intake, entered.clone());
                scope.spawn(move || {
                    intake.enter(worker).leave_with_writes(1);
                    entered.send(worker).unwrap();
                });
            }
            let mut workers: Vec<usize> = (1..4).map(|_| enters.recv_timeout(PATIENCE).unwrap()).collect();
            workers.sort_unstable();
            assert_eq!(workers, [1, 2, 3]);
        });
    }

    #[test]
    fn when_it_becomes_quiet_the_deputy_lies_down() {
        let intake = in_the_middle_of_writes();
        let taker = intake.enter(0);
        assert_eq!(taker.rest, Some(LONG_REST));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(intake.enter(1)));
            let deadline = Instant::now() + PATIENCE;
            while unpoisoned(&intake.state).writes_in_a_row > 0 {
                assert!(Instant::now() < deadline, "it looks for ever");
                std::thread::sleep(LONG_REST);
            }
            drop(taker);
        });
    }
}
