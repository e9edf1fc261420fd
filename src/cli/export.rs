//! `orderd export`: all orders as lines of JSON, as `orderd import` takes them, beside a running server or without one.
//!
//! It reads what `--db` names and asks no server. The orders are those of one moment, read a few at a time, however many there are.
//! `export/format.rs` has the first line and the last. A file that is asked for is there only once it is whole and on disk.

pub mod format;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use self::format::Numbers;
use super::arguments::Given;
use super::progress::{self, Progress};
use super::table::{Flag, Subcommand};
use super::{check, print};
use crate::config::Config;
use crate::error::Error;
use crate::os::logging::harmless_json;
use crate::store::export::{self, Snapshot};
use crate::store::partial::cannot_write;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "export",
    usage: "[--output FILE]",
    summary: "write all orders as lines of JSON, for orderd import",
    more: "They are those of one moment, on standard output unless --output names a file, which is there only once it is whole and on \
           disk. While a server runs, what it changes afterwards is missing: to move orders, stop it first.",
    words: 0..=0,
    flags: &[Flag { name: "output", value: "FILE", help: "a new file in place of standard output" }],
    settings: Some(&["db"]),
    run,
};

/// How much is written at once, in bytes.
const WRITTEN_AT_ONCE: usize = 64 << 10;

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    check::is_there_or_a_server(&config.db)?;
    let target = given.value("output").map(Path::new);
    let partial = target.map(|target| export::begin_file(&config.db, target)).transpose()?;
    let snapshot = Snapshot::open(&config.db)?;
    if snapshot.is_in_use() {
        eprintln!("orderd: a server works with these orders; what it changes from now on is not in this export");
    }
    let (Some(target), Some(partial)) = (target, partial) else { return to_standard_output(snapshot) };
    let stopped = progress::stopped()?;
    let mut file = BufWriter::with_capacity(WRITTEN_AT_ONCE, partial.file());
    let written = write(snapshot, |line| match stopped.load(Ordering::Relaxed) {
        true => Err(Error::Refused(format!("stopped by a signal; there is no {}", target.display()))),
        false => file.write_all(line.as_bytes()).map_err(cannot_write(target)),
    })?;
    file.flush().map_err(cannot_write(target))?;
    drop(file);
    partial.file().sync_all().map_err(cannot_write(target))?;
    let bytes = partial.file().metadata().map_or(0, |file| file.len());
    partial.become_new(target)?;
    print(&format!("{} has {} ({})\n", target.display(), progress::orders(written.total()), progress::size(bytes)));
    Ok(())
}

fn to_standard_output(snapshot: Snapshot) -> Result<(), Error> {
    // Without the buffer that std's has of its own, which is written with each line.
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(Error::Output)?;
    let mut output = BufWriter::with_capacity(WRITTEN_AT_ONCE, File::from(output));
    let written = write(snapshot, |line| output.write_all(line.as_bytes()).map_err(Error::Output))
        .and_then(|_| output.flush().map_err(Error::Output));
    match written {
        // Whoever reads has seen enough.
        Err(Error::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Puts all lines, and says how many orders they have.
fn write(mut snapshot: Snapshot, mut put: impl FnMut(&str) -> Result<(), Error>) -> Result<Numbers, Error> {
    let announced = Numbers::from(snapshot.counts());
    let (progress, mut written) = (Progress::new(), Numbers::default());
    put(&format::first(announced))?;
    loop {
        let orders = snapshot.next()?;
        if orders.is_empty() {
            break;
        }
        for order in orders {
            put(&(harmless_json(&order.to_json()) + "\n"))?;
            written.add(order.status);
        }
        progress.say(|since| progress::of_all(written.total(), announced.total(), since));
    }
    put(&format::last(written))?;
    drop(progress);
    if written != announced {
        let (kept, found) = (announced.words(), written.words());
        eprintln!("orderd: the counts that are kept are wrong ({kept}); the export has all that are there ({found})");
    }
    Ok(written)
}
