//! The command line: flags and environment → [`Config`] → the subcommand → exit status. Nothing else happens here.
//!
//! What is wrong is said in one line on standard error; the exit status is 2 when the user can mend it, 1 when the machine
//! failed.

mod nearest;
mod prune;
mod retry;
mod serve;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::Status;
use crate::config::{Config, SETTINGS, duration};
use crate::error::Error;
use crate::os::marks::{BY, OF};
use crate::os::processes::{LOCKED, PREDECESSOR_LIVES, WORKER_OF};
use crate::store::retention::FINISHED;

/// The first words that there are.
const SUBCOMMANDS: [&str; 5] = ["serve", "retry", "prune", "help", "version"];
/// Variables of ours that are no settings: a parent's for its child, and a command's mark.
const INTERNAL: [&str; 5] = [WORKER_OF, PREDECESSOR_LIVES, LOCKED, OF, BY];

/// The width that the help keeps to.
const HELP_COLUMNS: usize = 80;

/// The whole program.
pub fn main() -> ExitCode {
    let outcome = match parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => serve::run(&config),
        Ok(Command::Retry(config, id)) => retry::run(&config, id),
        Ok(Command::Prune(config, older_than, statuses)) => prune::run(&config, older_than, &statuses),
        Ok(Command::Print(text)) => {
            print(&text);
            Ok(())
        }
        Err(e) => Err(e),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !e.is_reported() {
                eprintln!("orderd: {e}");
            }
            ExitCode::from(e.exit_status())
        }
    }
}

enum Command {
    Serve(Box<Config>),
    /// Have one failed order, or all of them, tried again.
    Retry(Box<Config>, Option<String>),
    /// Delete orders in these statuses that ended longer ago.
    Prune(Box<Config>, Duration, Vec<Status>),
    Print(String),
}

/// Reads the environment first and the command line over it.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut config = Config::default();
    for setting in SETTINGS {
        let variable = setting.variable();
        if let Some(value) = std::env::var_os(&variable) {
            setting.apply_os(&mut config, &variable, &value)?;
        }
    }
    let usage = |e: lexopt::Error| Error::Usage(format!("{e}; see orderd --help"));
    let mut parser = lexopt::Parser::from_iter(args);
    let mut words: Vec<String> = Vec::new();
    let mut lists: HashMap<&str, String> = HashMap::new();
    let mut failed = false;
    let (mut older_than, mut statuses) = (None, Vec::new());
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Command::Print(help())),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => {
                return Ok(Command::Print(version()));
            }
            lexopt::Arg::Long("failed") => failed = true,
            lexopt::Arg::Long("older-than") => older_than = Some(age(&parser.value().map_err(usage)?)?),
            lexopt::Arg::Long("status") => statuses.push(finished(&parser.value().map_err(usage)?)?),
            lexopt::Arg::Long(flag) => match SETTINGS.iter().find(|s| s.flag == flag) {
                Some(setting) => {
                    let value = if setting.is_switch() { "true".into() } else { parser.value().map_err(usage)? };
                    let mut value = value;
                    if setting.is_list() {
                        let more = value.to_string_lossy().into_owned();
                        // Each flag adds to those before it; together they win over the environment.
                        let list = lists.entry(setting.flag).and_modify(|list| *list += &format!(",{more}")).or_insert(more);
                        value = list.clone().into();
                    }
                    setting.apply_os(&mut config, &format!("--{}", setting.flag), &value)?;
                }
                None => {
                    let flags = SETTINGS.iter().map(|setting| setting.flag).chain(["help", "version", "failed"]);
                    let flags: Vec<_> = flags.map(|flag| format!("--{flag}")).collect();
                    let hint = nearest::hint(&format!("--{flag}"), flags.iter().map(String::as_str));
                    return Err(Error::Usage(format!("{:?} is no flag{hint}; see orderd --help", format!("--{flag}"))));
                }
            },
            lexopt::Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            arg => return Err(usage(arg.unexpected())),
        }
    }
    let config = Box::new(config);
    let is_prune = words.first().is_some_and(|word| word == "prune");
    match older_than {
        Some(older_than) if is_prune && words.len() == 1 && !failed => {
            if statuses.is_empty() {
                statuses = FINISHED.to_vec();
            }
            return Ok(Command::Prune(config, older_than, statuses));
        }
        None if statuses.is_empty() && !is_prune => {}
        _ => return Err(Error::Usage("prune takes --older-than D, such as 30d, and --status; see orderd --help".into())),
    }
    match (words.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), failed) {
        ([] | ["serve"], false) => Ok(Command::Serve(config)),
        (["help"], false) => Ok(Command::Print(help())),
        (["version"], false) => Ok(Command::Print(version())),
        (["retry", id], false) => Ok(Command::Retry(config, Some(id.to_string()))),
        (["retry"], true) => Ok(Command::Retry(config, None)),
        (["retry", ..], _) => Err(Error::Usage("retry takes the id of one order, or --failed; see orderd --help".into())),
        (_, true) => Err(Error::Usage("--failed belongs to retry; see orderd --help".into())),
        (["serve", word, ..] | [word, ..], false) => {
            let hint = nearest::hint(word, SUBCOMMANDS);
            Err(Error::Usage(format!("{word:?} is no subcommand{hint}; use {}, see orderd --help", SUBCOMMANDS.join(", "))))
        }
    }
}

/// What is said of each variable that is named like a setting and is none.
fn unknown_variables() -> impl Iterator<Item = String> {
    let known: Vec<String> = SETTINGS.iter().map(|setting| setting.variable()).collect();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("ORDERD_")).filter_map(move |name| {
        let is_known = known.contains(&name) || INTERNAL.contains(&name.as_str());
        let hint = nearest::hint(&name, known.iter().map(String::as_str));
        (!is_known).then(|| format!("the variable {name} means nothing to orderd{hint}; see orderd --help"))
    })
}

fn version() -> String {
    format!("orderd {}\n", env!("CARGO_PKG_VERSION"))
}

fn age(text: &OsStr) -> Result<Duration, Error> {
    let text = text.to_string_lossy();
    duration(&text).map_err(|remedy| Error::Usage(format!("--older-than: {text:?} is not understood; {remedy}")))
}

fn finished(text: &OsStr) -> Result<Status, Error> {
    let text = text.to_string_lossy();
    let status = Status::from_word(&text).filter(|status| FINISHED.contains(status));
    status.ok_or_else(|| Error::Usage(format!("--status: {text:?} is not understood; use Completed, Failed or Cancelled")))
}

fn help() -> String {
    let mut text = "orderd takes orders over HTTP, keeps them on disk, and processes them.\n\n\
         Usage: orderd [serve] [--FLAG VALUE]...\n       \
         orderd retry ID         have a failed order tried again\n       \
         orderd retry --failed   have all failed orders tried again\n       \
         orderd prune --older-than D [--status S]\n       \
         \x20                       delete finished orders\n       \
         orderd help | version\n\n\
         An order whose attempts are used up gets one more by each retry.\n\n"
        .to_string();
    for setting in SETTINGS {
        let flag = format!("--{} {}", setting.flag, setting.value);
        let default = if setting.is_switch() { String::new() } else { format!(" [{}]", setting.default) };
        let line = format!("  {flag:<22} {}{default}", setting.help);
        // A line that is too long has its default below.
        match line.len() {
            ..=HELP_COLUMNS => text += &line,
            _ => text += &format!("  {flag:<22} {}\n{:25}{}", setting.help, "", default.trim_start()),
        }
        text.push('\n');
    }
    text += "  --version\n  --help\n\n\
         Every flag has a twin in the environment, such as ORDERD_LISTEN; the flag wins.\n";
    text
}

/// Nobody may be reading: `orderd --help | head` closes the pipe early.
fn print(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_be_given_in_pieces() {
        let args = ["orderd", "--allow-host", "A.example", "--allow-host=b,c:80"].map(OsString::from);
        let Ok(Command::Serve(config)) = parse(args) else { panic!("not understood") };
        assert_eq!(config.allow_hosts, ["a.example", "b", "c"]);
    }
}
