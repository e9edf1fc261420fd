//! `cargo bench`: how fast orderd is, beside the limits of its parts, all measured in one run.
//!
//! A figure that stands alone says more about the machine than about orderd, so nearly all are ratios to something measured in
//! the same round. The contestants take turns, as machines drift, and the median over the rounds counts. Each server is a
//! process of its own on a loopback port; all are driven by the same client in the same way.
//!
//! Bad news stays visible: a server that answers with an error, or an order that was acknowledged and is not in the file
//! afterwards, ends the run with exit status 1 and no table.
//!
//! Reading order: `args` what to do · `parts`, `limits` what is measured · `rounds` taking turns · `workload`, `client` asking ·
//! `contestants`, `process`, `files`, `disk` what is asked · `report` what is printed ·
//! `against` two builds of orderd compared · `postgres` orders on a server, with that feature.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

mod against;
mod args;
mod client;
mod contestants;
mod disk;
mod files;
mod limits;
mod parts;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod report;
mod rounds;
mod workload;

use args::Args;
use files::Folder;
use rounds::Bench;

/// Any problem here ends the run, so its text is all that is needed.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A part of the run, by its name.
type Part = (&'static str, fn(&mut Bench) -> Result<()>);

const PARTS: &[Part] = &[
    ("post", parts::post),
    ("get", parts::get),
    ("complete", parts::complete),
    ("metrics", parts::metrics),
    ("big", parts::big),
    ("beside", parts::beside),
    ("single", parts::single),
    ("burst", limits::burst),
    ("start", limits::start),
    ("size", limits::size),
    #[cfg(feature = "postgres")]
    ("postgres", postgres::postgres),
];

fn main() -> ExitCode {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let outcome = Args::parse(&names).and_then(|args| match args {
        Args::Serve(contestant, database) => contestant.serve(&database),
        Args::Help => say(&format!("{}Parts: {}\n", args::HELP, names.join(", "))),
        Args::Run(options) => run(options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nbench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: args::Options) -> Result<()> {
    let json = options.json;
    let parts: Vec<_> =
        PARTS.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|o| o == name)).collect();
    let mut bench = Bench::new(options.plan, Folder::create()?);
    if !options.against.is_empty() {
        let parts: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        against::compare(&mut bench, &options.against, &parts)?;
        bench.progress.done();
        return say(&if json { bench.report.json() } else { bench.report.table() });
    }
    for (at, (name, part)) in parts.iter().enumerate() {
        bench.progress.part(name, at + 1, parts.len());
        part(&mut bench)?;
    }
    bench.progress.done();
    say(&if json { bench.report.json() } else { bench.report.table() })
}

fn say(text: &str) -> Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The time of day, in milliseconds since 1970.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
