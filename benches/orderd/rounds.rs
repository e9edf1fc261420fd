//! Taking turns: every contestant once a round, so that whatever slows the machine for a while slows all of them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::args::Plan;
use crate::client::{Load, Outcome};
use crate::files::{Contents, Folder, SEED};
use crate::process::Process;
use crate::report::{Report, Sample, Series};
use crate::workload::Ask;

/// As many as the figures ask for.
pub const CONNECTIONS: usize = 64;

/// The state of a run.
pub struct Bench {
    /// How much is done.
    pub plan: Plan,
    /// Where the files are.
    pub folder: Folder,
    /// What has been found so far.
    pub report: Report,
    /// What stands on standard error meanwhile.
    pub progress: Progress,
    seeds: u64,
    most: Option<PathBuf>,
    many: Option<PathBuf>,
}

/// A contestant's turn.
pub type Turn<'a> = (&'a str, &'a dyn Fn(&mut Bench) -> Result<Outcome>);

impl Bench {
    /// Begins.
    pub fn new(plan: Plan, folder: Folder) -> Bench {
        Bench { plan, folder, report: Report::new(plan), progress: Progress::default(), seeds: 0, most: None, many: None }
    }

    /// Lets each contestant have a turn in each round; notes and returns one series for each.
    pub fn interleave<const N: usize>(&mut self, unit: &'static str, turns: [Turn<'_>; N]) -> Result<[Series; N]> {
        let series = self.take_turns(unit, &turns)?;
        series.try_into().map_err(|_| "every contestant has a series".into())
    }

    /// The same for any number of contestants.
    pub fn take_turns(&mut self, unit: &'static str, turns: &[Turn<'_>]) -> Result<Vec<Series>> {
        let new = |(name, _): &Turn<'_>| Series { name: name.to_string(), unit, samples: Vec::new() };
        let mut series: Vec<Series> = turns.iter().map(new).collect();
        for round in 1..=self.plan.rounds {
            for ((name, turn), series) in turns.iter().zip(&mut series) {
                self.progress.step(&format!("round {round} of {}: {name}", self.plan.rounds));
                let outcome = turn(self).map_err(|e| format!("{name}: {e}"))?;
                series.samples.push(Sample::of(&outcome));
            }
        }
        self.report.series.extend(series.iter().cloned());
        Ok(series)
    }

    /// A series of orders that no other load creates.
    pub fn seed(&mut self) -> u64 {
        self.seeds += 1_000;
        self.seeds
    }

    /// Full speed for one turn.
    pub fn load<'a>(&self, server: &'a Process, ask: Ask) -> Load<'a> {
        Load { server, ask, connections: CONNECTIONS, duration: self.plan.turn }
    }

    /// The file with as many orders as a figure asks for at most, made when first needed.
    pub fn most(&mut self) -> Result<PathBuf> {
        if let Some(path) = &self.most {
            return Ok(path.clone());
        }
        let contents = Contents { completed: self.plan.most, ..Contents::default() };
        let path = self.filled("most.db", contents)?;
        self.most = Some(path.clone());
        Ok(path)
    }

    /// The file with many finished orders and 10,000 that a crash interrupted or that still wait.
    pub fn many(&mut self) -> Result<PathBuf> {
        if let Some(path) = &self.many {
            return Ok(path.clone());
        }
        let contents = Contents { completed: self.plan.many, processing: 1_000, pending: 9_000 };
        let path = self.filled("many.db", contents)?;
        self.many = Some(path.clone());
        Ok(path)
    }

    /// A filled file, with a word about it on standard error.
    pub fn filled(&mut self, name: &str, contents: Contents) -> Result<PathBuf> {
        let orders = contents.completed + contents.processing + contents.pending;
        self.progress.step(&format!("making a file with {} orders", crate::report::grouped(orders as f64)));
        self.folder.filled(name, contents)
    }

    /// One turn of asking for the status of the first `orders` of a filled file.
    pub fn ask_status(&self, server: &Process, orders: u64) -> Result<Outcome> {
        self.load(server, Ask::Status { seed: SEED, orders }).run()
    }

    /// One turn of creating orders, after which the server is killed and every acknowledged order looked up.
    pub fn create(&mut self, server: Process, database: &Path) -> Result<Outcome> {
        let seed = self.seed();
        let outcome = self.load(&server, Ask::Create { seed }).run()?;
        server.kill()?;
        crate::files::verify(database, &outcome)?;
        Ok(outcome)
    }
}

/// A line on standard error that says what is going on: rewritten on a terminal, one line a part elsewhere.
#[derive(Default)]
pub struct Progress {
    part: String,
}

impl Progress {
    /// A part begins.
    pub fn part(&mut self, name: &str, number: usize, parts: usize) {
        self.part = format!("[{number}/{parts}] {name}");
        if !std::io::stderr().is_terminal() {
            eprintln!("{}", self.part);
        }
    }

    /// Something happens within it.
    pub fn step(&self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{}: {what}", self.part);
            let _ = std::io::stderr().flush();
        }
    }

    /// All is done.
    pub fn done(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
