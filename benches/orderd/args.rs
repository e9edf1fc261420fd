//! The command line of the benchmark, and how much it does in each mode.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::contestants::Contestant;

/// The hidden argument that makes this program a contestant: its name and a database follow.
pub const CONTESTANT: &str = "--contestant";

/// What to do.
pub enum Args {
    /// Measure.
    Run(Options),
    /// Be a server.
    Serve(Contestant, PathBuf),
    /// Say how to use it.
    Help,
}

/// How to measure.
pub struct Options {
    /// Machines read the result.
    pub json: bool,
    /// The parts to run; empty for all.
    pub only: Vec<String>,
    /// Other builds of orderd to compare this one with, instead of running the parts.
    pub against: Vec<PathBuf>,
    /// How much.
    pub plan: Plan,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Whether files are smaller than the figures ask for.
    pub quick: bool,
    /// How often every contestant has its turn.
    pub rounds: usize,
    /// How long a turn is.
    pub turn: Duration,
    /// "1,000,000 orders" in the figures.
    pub many: u64,
    /// "5,000,000 orders" in the figures.
    pub most: u64,
    /// How often 1,000 connections come at once; each time costs the 5 s that processing takes.
    pub bursts: usize,
}

const FULL: Plan =
    Plan { quick: false, rounds: 9, turn: Duration::from_millis(1_500), many: 1_000_000, most: 5_000_000, bursts: 3 };

const QUICK: Plan = Plan { quick: true, rounds: 3, turn: Duration::from_millis(500), many: 50_000, most: 100_000, bursts: 1 };

/// What `--help` says, before the parts.
pub const HELP: &str = "cargo bench [-- [--quick] [--json] [--only PART]... [--against BINARY]...]\n\n\
     Measures the release binary beside the limits of its parts. Exit status: 0 whatever the figures, 1 if a server\n\
     answered with an error, lost an order, or could not be measured.\n\n\
     --quick      under a minute, with smaller files\n\
     --json       the result as JSON on standard output\n\
     --only PART  this part alone; may be repeated\n\
     --against BINARY  compare with another build of orderd instead, to see what a change brought; may be repeated\n\n";

impl Args {
    /// Reads the command line. `parts` are the names that `--only` takes.
    pub fn parse(parts: &[&str]) -> Result<Args> {
        let mut options = Options { json: false, only: Vec::new(), against: Vec::new(), plan: FULL };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.plan = QUICK,
                "--json" => options.json = true,
                "--only" => match args.next() {
                    Some(part) if parts.contains(&part.as_str()) => options.only.push(part),
                    _ => return Err(format!("--only takes one of: {}", parts.join(", ")).into()),
                },
                "--against" => match args.next() {
                    // Cargo runs this program in the folder of the package.
                    Some(binary) => options.against.push(binary.into()),
                    None => return Err("--against takes the path of a build of orderd".into()),
                },
                "--help" | "-h" => return Ok(Args::Help),
                // Cargo passes it to every benchmark.
                "--bench" => {}
                CONTESTANT => {
                    let contestant = args.next().as_deref().and_then(Contestant::from_word);
                    return match (contestant, args.next()) {
                        (Some(contestant), Some(database)) => Ok(Args::Serve(contestant, database.into())),
                        _ => Err("a contestant has a name and a database".into()),
                    };
                }
                other => return Err(format!("{other:?} is not understood; see cargo bench -- --help").into()),
            }
        }
        Ok(Args::Run(options))
    }
}
