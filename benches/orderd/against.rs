//! Several builds of orderd compared, turn by turn: what has a change brought?
//!
//! Each ratio is another build's rate over this one's, in the same rounds, followed by the same for the processor time that the
//! server used for each answer, which depends less on what else the machine does. There are no targets.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::client::{Load, Outcome};
use crate::files::{Contents, verify};
use crate::parts::{COMPLETING, create_and_complete};
use crate::process::{ORDERD, Process};
use crate::report::{Bound, Figure, median, median_ratio};
use crate::rounds::{Bench, Turn};
use crate::workload::Ask;

type Test = fn(&mut Bench, &Path) -> Result<Outcome>;

/// Each with the part of a run that it is like.
const TESTS: [(&str, &str, Test); 4] = [
    ("post", "POST", post),
    ("single", "POST, 1 connection", single),
    ("get", "GET", get),
    ("complete", "completed", complete),
];

/// Runs those that are like one of the parts.
pub fn compare(bench: &mut Bench, others: &[PathBuf], parts: &[&str]) -> Result<()> {
    let mut builds: Vec<(String, PathBuf)> = vec![("this build".into(), ORDERD.into())];
    builds.extend(others.iter().map(|path| (path.display().to_string(), path.clone())));
    let tests: Vec<_> = TESTS.into_iter().filter(|(part, ..)| parts.contains(part)).collect();
    for (at, (_, what, test)) in tests.iter().enumerate() {
        bench.progress.part(what, at + 1, tests.len());
        let names: Vec<String> = builds.iter().map(|(name, _)| format!("{what}, {name}")).collect();
        let turn = |binary: PathBuf| move |bench: &mut Bench| test(bench, &binary);
        let turns: Vec<_> = builds.iter().map(|(_, binary)| turn(binary.clone())).collect();
        let turns: Vec<Turn<'_>> = names.iter().zip(&turns).map(|(name, turn)| (name.as_str(), turn as _)).collect();
        let series = bench.take_turns("/s", &turns)?;
        for other in &series[1..] {
            let name = format!("{} over this build", other.name);
            bench.report.add(Figure::ratio(&name, median_ratio(other, &series[0]), Bound::None));
            let cpu = median(other.samples.iter().zip(&series[0].samples).map(|(other, this)| other.cpu_us / this.cpu_us));
            bench.report.add(Figure::ratio("    its processor time for each", cpu, Bound::None));
        }
    }
    Ok(())
}

fn post(bench: &mut Bench, binary: &Path) -> Result<Outcome> {
    let database = bench.folder.made_by(binary, "post.db")?;
    let server = Process::build(binary, &database, &[])?;
    bench.create(server, &database)
}

fn single(bench: &mut Bench, binary: &Path) -> Result<Outcome> {
    let database = bench.folder.made_by(binary, "single.db")?;
    let server = Process::build(binary, &database, &[])?;
    let seed = bench.seed();
    let outcome = Load { connections: 1, ..bench.load(&server, Ask::Create { seed }) }.run()?;
    server.stop()?;
    verify(&database, &outcome)?;
    Ok(outcome)
}

fn get(bench: &mut Bench, binary: &Path) -> Result<Outcome> {
    // Each build has a file of its own version, filled once.
    let name = format!("many{}.db", binary.display().to_string().replace('/', "-"));
    let database = bench.folder.path(&name);
    if !database.exists() {
        bench.folder.made_by(binary, &name)?;
        bench.folder.fill(&database, Contents { completed: bench.plan.many, ..Contents::default() })?;
    }
    let server = Process::build(binary, &database, &["--concurrency", "0"])?;
    let outcome = bench.ask_status(&server, bench.plan.many)?;
    server.stop()?;
    Ok(outcome)
}

fn complete(bench: &mut Bench, binary: &Path) -> Result<Outcome> {
    let database = bench.folder.made_by(binary, "complete.db")?;
    let server = Process::build(binary, &database, &COMPLETING)?;
    create_and_complete(bench, server, &database)
}
