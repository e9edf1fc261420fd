//! Runs the tests of this target, two at a time, and reports them: how many rounds, how long, and what was skipped for which reason.
//!
//! A test gives back what it has shown, in a few words with figures, or why it was skipped; it fails by a panic. The words are
//! printed, as the figures are what one wants to read. Arguments are those of other test programs as far as people use them:
//! parts of names, `--list`, `--test-threads N`.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::is_slow_run;

/// How many run at a time: most of them wait for most of their time.
const THREADS: usize = 2;

/// Why a test has not been run.
pub struct Skip(pub String);

/// What a test has shown.
pub type Outcome = Result<String, Skip>;

/// A test, whose name is a sentence.
pub struct Test {
    pub name: &'static str,
    pub run: fn() -> Outcome,
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// On a developer's machine: what is quick.
    Quick,
    /// Every test, in four minutes.
    Ci,
    /// Every round of the table.
    Full,
}

pub fn extent() -> Extent {
    match std::env::var("FAULT_ROUNDS").unwrap_or_default().as_str() {
        "full" => Extent::Full,
        "ci" => Extent::Ci,
        "quick" => Extent::Quick,
        "" => {
            if is_slow_run() {
                Extent::Ci
            } else {
                Extent::Quick
            }
        }
        other => panic!("FAULT_ROUNDS may be `quick`, `ci` or `full`, and is {other:?}"),
    }
}

/// How many rounds to run. None at all in a quick run means that the test is left out of it.
pub fn rounds(quick: usize, ci: usize, full: usize) -> Result<usize, Skip> {
    match extent() {
        Extent::Quick if quick == 0 => Err(Skip("slow: FAULT_ROUNDS=ci runs it".into())),
        Extent::Quick => Ok(quick),
        Extent::Ci => Ok(ci),
        Extent::Full => Ok(full),
    }
}

/// Runs those that the arguments name.
pub fn run(tests: &[Test]) -> ExitCode {
    let wanted = Wanted::of(std::env::args().skip(1));
    let tests: Vec<&Test> = tests.iter().filter(|test| wanted.has(test.name)).collect();
    if wanted.list {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests of caused faults ({:?})", tests.len(), extent());
    let began = Instant::now();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    tally.lock().unwrap().report(test, in_thread_of_its_name(test));
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!("\n{}", tally.last_line(tests.len(), began));
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// So that the message of a panic names the test.
fn in_thread_of_its_name(test: &Test) -> (Option<Outcome>, Instant) {
    let began = Instant::now();
    let run = test.run;
    let thread = std::thread::Builder::new().name(test.name.into()).spawn(move || catch_unwind(run).ok());
    (thread.unwrap().join().ok().flatten(), began)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<&'static str>,
    /// How many for each reason.
    skipped: BTreeMap<String, usize>,
}

impl Tally {
    fn report(&mut self, test: &Test, (outcome, began): (Option<Outcome>, Instant)) {
        let seconds = began.elapsed().as_secs_f64();
        let said = match outcome {
            Some(Ok(shown)) => {
                self.passed += 1;
                format!("ok ({seconds:.1} s): {shown}")
            }
            Some(Err(Skip(why))) => {
                *self.skipped.entry(why.clone()).or_default() += 1;
                format!("skipped: {why}")
            }
            None => {
                self.failed.push(test.name);
                format!("FAILED ({seconds:.1} s)")
            }
        };
        println!("test {} ... {said}", test.name);
        let _ = std::io::stdout().flush();
    }

    fn last_line(&self, tests: usize, began: Instant) -> String {
        let (failed, skipped) = (self.failed.len(), tests - self.passed - self.failed.len());
        let reasons: Vec<_> = self.skipped.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
        let names: String = self.failed.iter().map(|name| format!("    {name}\n")).collect();
        let failures = if failed > 0 { format!("failures:\n{names}\n") } else { String::new() };
        let result = if failed > 0 { "FAILED" } else { "ok" };
        let seconds = began.elapsed().as_secs_f64();
        format!(
            "{failures}test result: {result} in {seconds:.1} s. {} passed, {failed} failed, {skipped} skipped{reasons}",
            self.passed
        )
    }
}

/// What the arguments ask for.
struct Wanted {
    names: Vec<String>,
    list: bool,
    threads: usize,
}

impl Wanted {
    fn of(arguments: impl Iterator<Item = String>) -> Wanted {
        let mut wanted = Wanted { names: Vec::new(), list: false, threads: THREADS };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => wanted.list = true,
                "--test-threads" => wanted.threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(THREADS),
                option if option.starts_with('-') => {
                    if let Some(threads) = option.strip_prefix("--test-threads=") {
                        wanted.threads = threads.parse().unwrap_or(THREADS);
                    }
                }
                name => wanted.names.push(name.into()),
            }
        }
        wanted.threads = wanted.threads.max(1);
        wanted
    }

    fn has(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}
