//! The clock of the machine set two years forth and back, under load and across restarts, by the library that comes with faketime.
//!
//! Waits and retries take their length, whatever the clock says; no duration is negative and the average is none that nobody has
//! waited. The control is that the times of the orders show that the clock was turned.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Folder, Process, Row, Serving, comes_true, order};
use crate::load::{Load, SOON, command, last_words};
use crate::means;
use crate::runner::{Outcome, rounds};

/// One year, in milliseconds.
const YEAR: i64 = 365 * 24 * 60 * 60 * 1_000;

pub fn a_clock_set_years_forth_and_back_changes_no_wait() -> Outcome {
    let rounds = rounds(0, 4, 4)?;
    let library = means::faketime()?;
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let folder = Folder::new();
        // Forth and back, back and forth; under load, and across a restart.
        let steps = if round % 2 == 0 { ["+730d", "+0d"] } else { ["-730d", "+0d"] };
        let across_a_restart = round >= 2;
        let turn = |to: &str| {
            // In one step, as it is read all the time.
            fs::write(folder.file("time.new"), to).unwrap();
            fs::rename(folder.file("time.new"), folder.file("time")).unwrap();
        };
        turn("+0d");
        let start = || {
            let flags = ["--exec", "test -e mended", "--retry-delay", "100ms", "--max-attempts", "20"];
            let mut command = command(&folder, &flags);
            command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", folder.file("time"));
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            Process::spawn(command, &folder)
        };
        let mut server = start();
        let load = Load::start("o", 2, &server);
        load.wait_for_more(10);
        for step in steps {
            turn(step);
            load.wait_for_more(10);
            if across_a_restart {
                server.stop();
                server = start();
                load.follow(&server);
            }
        }
        let told = load.stop();
        // An order that is made now is tried at once, and again after its delay, not after two years.
        server.post(order("late")).expect_status(200);
        let tried_again = comes_true(SOON, || server.rows().last().is_some_and(|row: &Row| row.attempts >= 2));
        assert!(tried_again, "the last order is not tried again\n{}", last_words(&server));
        fs::write(folder.file("mended"), "").unwrap();
        let mended = Instant::now();
        told.holds_after_a_drain(&server);
        longest = longest.max(mended.elapsed());
        let rows = server.rows();
        let backwards = rows.iter().filter(|row| row.completed_at.unwrap() < row.created_at).count();
        assert_eq!(backwards, 0, "{backwards} of {} orders took a negative time", rows.len());
        let average = server.metrics().average;
        let sum: i64 = rows.iter().map(|row| row.completed_at.unwrap() - row.created_at).sum();
        let mean = sum as f64 / 1_000.0 / rows.len() as f64;
        assert!((average - mean).abs() < 0.01 * mean + 0.01, "an average of {average} s, and {mean} s by the rows");
        let (first, last) = (rows.iter().map(|row| row.created_at).min(), rows.iter().map(|row| row.created_at).max());
        assert!(last.unwrap() - first.unwrap() > YEAR, "the clock was not turned");
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, drained within {longest:.2?}, no negative time, averages those of the rows; control: the orders' times are years apart"
    ))
}
