//! The command line: flags and environment → [`Config`](crate::Config) → the subcommand → exit status. Nothing else happens here.
//!
//! `cli/table.rs` has the subcommands, each of which is a file; `cli/arguments.rs` finds the one that is meant.
//!
//! What is wrong is said in one line on standard error; the exit status is 2 when the user can mend it, 1 when the machine
//! failed.

mod arguments;
mod backup;
mod cancel;
mod check;
mod completions;
mod create;
mod export;
mod healthcheck;
mod help;
mod import;
mod lines;
mod list;
mod nearest;
mod output;
mod progress;
mod prune;
mod remote;
mod restore;
mod retry;
mod serve;
mod show;
mod status;
mod table;
mod version;

use std::path::Path;
use std::process::ExitCode;

use self::arguments::Call;
use self::table::Subcommand;
use crate::config::SETTINGS;
use crate::error::Error;
use crate::os::logging;
use crate::os::manager::ACTIVATED;
use crate::os::marks::{BY, OF};
use crate::os::processes::{GUARD_OF, LOCKED, PREDECESSOR_LIVES, RESTARTS, TOKEN, WORKER_OF};
use crate::store::Lock;

/// Variables of ours that are no settings: a parent's for its child, and a command's mark.
const INTERNAL: [&str; 8] = [WORKER_OF, PREDECESSOR_LIVES, LOCKED, RESTARTS, GUARD_OF, ACTIVATED, OF, BY];

/// The whole program.
pub fn main() -> ExitCode {
    match arguments::parse(std::env::args_os()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !e.is_reported() {
                logging::last_words(&e);
            }
            ExitCode::from(e.exit_status())
        }
    }
}

fn run(call: Call) -> Result<(), Error> {
    match call {
        Call::Run(subcommand, config, given) => {
            // A server says it in its log.
            if subcommand.name != serve::SUBCOMMAND.name {
                unknown_variables().for_each(|what| eprintln!("orderd: {what}"));
            }
            return (subcommand.run)(&config, &given);
        }
        Call::Help(None) => print(&help::of_all()),
        Call::Help(Some(subcommand)) => print(&help::of(subcommand)),
        Call::Version => version::say(),
    }
    Ok(())
}

/// What is said of each variable that is named like a setting and is none.
fn unknown_variables() -> impl Iterator<Item = String> {
    let known: Vec<String> = SETTINGS.iter().map(|setting| setting.variable()).chain([TOKEN.into()]).collect();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("ORDERD_")).filter_map(move |name| {
        let is_known = known.contains(&name) || INTERNAL.contains(&name.as_str());
        let hint = nearest::hint(&name, known.iter().map(String::as_str));
        (!is_known).then(|| format!("the variable {name} means nothing to orderd{hint}; see orderd --help"))
    })
}

/// The word that a subcommand can't do without.
fn required<'a>(word: Option<&'a str>, subcommand: &Subcommand) -> Result<&'a str, Error> {
    word.ok_or_else(|| subcommand.misused())
}

/// Owns the database for as long as a subcommand needs it for itself. `advice` is for whom a running server has it.
///
/// # Errors
/// As [`Lock::acquire`], in words for this.
fn lock(db: &Path, advice: &str) -> Result<Lock, Error> {
    Lock::acquire(db).map_err(|e| match e {
        Error::Owned { file } => Error::Usage(format!("{} is in use by a running orderd; {advice}", file.display())),
        e => e,
    })
}

/// Nobody may be reading: `orderd --help | head` closes the pipe early.
fn print(text: &str) {
    let _ = output::write(text);
}
