//! From the words of the command line and the environment to a subcommand, its [`Config`] and what it was given.
//!
//! The table of subcommands says which flags there are. Flags may stand before the subcommand's name. What is not understood is
//! answered with the nearest thing that would be.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use super::nearest;
use super::table::{SUBCOMMANDS, Subcommand, own_flag};
use crate::config::{Config, SETTINGS, Setting, Token};
use crate::error::Error;
use crate::os::processes::TOKEN;

/// What a subcommand was given besides settings.
#[derive(Debug, Default)]
pub struct Given {
    /// The words behind its name.
    pub words: Vec<OsString>,
    /// Its own flags with their values, empty if they have none, in the order in which they came.
    flags: Vec<(&'static str, String)>,
}

impl Given {
    /// Whether the flag was given.
    pub fn has(&self, flag: &str) -> bool {
        self.all(flag).next().is_some()
    }

    /// The flag's value, or that of the last one.
    pub fn value<'a>(&'a self, flag: &'a str) -> Option<&'a str> {
        self.all(flag).last()
    }

    /// The values of a flag that may be given several times.
    pub fn all<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(name, _)| *name == flag).map(|(_, value)| value.as_str())
    }

    /// The value of a flag that takes a whole number from 1 on.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn number(&self, flag: &str) -> Result<Option<usize>, Error> {
        let number = |text: &str| match text.parse() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(Error::Usage(format!("--{flag}: {text:?} is not understood; use a whole number from 1 on"))),
        };
        self.value(flag).map(number).transpose()
    }

    /// The word at this place.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is no text.
    pub fn word(&self, at: usize) -> Result<Option<&str>, Error> {
        self.words.get(at).map(|word| text(word)).transpose()
    }
}

/// A command line that is understood.
pub enum Call {
    /// A subcommand, with what is set by the environment or by flags, and what it was given besides.
    Run(&'static Subcommand, Box<Config>, Given),
    /// The help, of a subcommand if one was named.
    Help(Option<&'static Subcommand>),
    /// The version.
    Version,
}

/// Reads the command line, and below it the environment.
///
/// # Errors
/// [`Error::Usage`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Call, Error> {
    let mut parser = lexopt::Parser::from_iter(args);
    let usage = |e: lexopt::Error| Error::Usage(format!("{e}; see orderd --help"));
    let mut subcommand = None;
    let mut given = Given::default();
    let mut set: Vec<(&Setting, OsString)> = Vec::new();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Call::Help(subcommand)),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V' | 'v') => return Ok(Call::Version),
            lexopt::Arg::Long(flag) => {
                if let Some(setting) = SETTINGS.iter().find(|setting| setting.flag == flag) {
                    let value = if setting.is_switch() { "true".into() } else { parser.value().map_err(usage)? };
                    set.push((setting, value));
                } else if let Some(flag) = own_flag(flag) {
                    let value = if flag.value.is_empty() { OsString::new() } else { parser.value().map_err(usage)? };
                    given.flags.push((flag.name, text(&value)?.to_string()));
                } else {
                    return Err(unknown_flag(flag, subcommand));
                }
            }
            lexopt::Arg::Value(word) if subcommand.is_none() => subcommand = Some(subcommand_named(&word)?),
            lexopt::Arg::Value(word) => given.words.push(word),
            arg => return Err(usage(arg.unexpected())),
        }
    }
    let subcommand = subcommand.unwrap_or(SUBCOMMANDS[0]);
    let flags = given.flags.iter().map(|(name, _)| *name).chain(set.iter().map(|(setting, _)| setting.flag));
    if let Some(foreign) = flags.into_iter().find(|flag| !subcommand.has(flag)) {
        return Err(misplaced(foreign, subcommand));
    }
    if !subcommand.words.contains(&given.words.len()) {
        return Err(subcommand.misused());
    }
    Ok(Call::Run(subcommand, Box::new(configured(subcommand, set)?), given))
}

/// The environment first, and the flags over it.
fn configured(subcommand: &Subcommand, set: Vec<(&Setting, OsString)>) -> Result<Config, Error> {
    let mut config = Config::default();
    for setting in subcommand.settings() {
        let variable = setting.variable();
        if let Some(value) = std::env::var_os(&variable) {
            setting.apply_os(&mut config, &variable, &value)?;
        }
    }
    if subcommand.asks_a_server()
        && let Some(token) = std::env::var_os(TOKEN)
    {
        config.token = Some(Token::new(&token.to_string_lossy()).map_err(|e| Error::Usage(format!("{TOKEN}: {e}")))?);
    }
    let mut lists: HashMap<&str, String> = HashMap::new();
    for (setting, mut value) in set {
        if setting.is_list() {
            let more = value.to_string_lossy().into_owned();
            // Each flag adds to those before it; together they win over the environment.
            let list = lists.entry(setting.flag).and_modify(|list| *list += &format!(",{more}")).or_insert(more);
            value = list.clone().into();
        }
        setting.apply_os(&mut config, &format!("--{}", setting.flag), &value)?;
    }
    Ok(config)
}

/// The subcommand that is called so.
///
/// # Errors
/// [`Error::Usage`] with the nearest one.
pub fn subcommand_named(word: &OsStr) -> Result<&'static Subcommand, Error> {
    let word = word.to_string_lossy();
    Subcommand::named(&word).ok_or_else(|| {
        let hint = nearest::hint(&word, SUBCOMMANDS.iter().map(|subcommand| subcommand.name));
        Error::Usage(format!("{word:?} is no subcommand{hint}; see orderd --help"))
    })
}

fn text(word: &OsStr) -> Result<&str, Error> {
    word.to_str().ok_or_else(|| Error::Usage(format!("{word:?} is not understood; use UTF-8")))
}

fn unknown_flag(flag: &str, subcommand: Option<&Subcommand>) -> Error {
    let typed = format!("--{flag}");
    // Its subcommand may still be to come.
    let of_all = SUBCOMMANDS.iter().filter(|other| subcommand.is_none_or(|subcommand| subcommand.name == other.name));
    let flags: Vec<_> = of_all.flat_map(|subcommand| subcommand.flag_names()).map(|name| format!("--{name}")).collect();
    let hint = nearest::hint(&typed, flags.iter().map(String::as_str));
    Error::Usage(format!("{typed:?} is no flag{hint}; see orderd {}--help", name_before(subcommand)))
}

/// A flag that another subcommand has.
fn misplaced(flag: &str, subcommand: &Subcommand) -> Error {
    let owners: Vec<_> = SUBCOMMANDS.iter().filter(|other| other.has(flag)).map(|other| other.name).collect();
    let owners = owners.join(", ");
    Error::Usage(format!("--{flag} belongs to {owners}, not to {}; see orderd {0} --help", subcommand.name))
}

fn name_before(subcommand: Option<&Subcommand>) -> String {
    subcommand.map_or_else(String::new, |subcommand| format!("{} ", subcommand.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<(&'static str, Config, Given), String> {
        match parse(["orderd"].iter().chain(args).map(OsString::from)) {
            Ok(Call::Run(subcommand, config, given)) => Ok((subcommand.name, *config, given)),
            Ok(_) => panic!("{args:?} asks for a text"),
            Err(e) => Err(e.to_string()),
        }
    }

    fn refused(args: &[&str]) -> String {
        parsed(args).err().unwrap_or_else(|| panic!("{args:?} is understood"))
    }

    #[test]
    fn a_list_may_be_given_in_pieces() {
        let (name, config, _) = parsed(&["--allow-host", "A.example", "--allow-host=b,c:80"]).unwrap();
        assert_eq!((name, config.allow_hosts.join(" ").as_str()), ("serve", "a.example b c"));
    }

    #[test]
    fn flags_may_stand_before_and_behind_the_subcommand() {
        for args in [["--listen", "a:1", "retry", "1"], ["retry", "--listen", "a:1", "1"], ["retry", "1", "--listen", "a:1"]] {
            let (name, config, given) = parsed(&args).unwrap();
            assert_eq!((name, given.word(0).unwrap()), ("retry", Some("1")), "{args:?}");
            assert_eq!(config.listen.to_string(), "a:1", "{args:?}");
        }
    }

    #[test]
    fn a_flag_is_taken_where_it_concerns_something() {
        assert!(refused(&["retry", "1", "--workers", "3"]).contains("--workers belongs to serve, not to retry"));
        assert!(refused(&["--failed"]).contains("--failed belongs to retry, not to serve"));
        assert!(refused(&["retry", "--faild"]).contains("did you mean --failed?"));
        assert!(!refused(&["retry", "--workerss"]).contains("did you mean"));
        assert!(refused(&["--older-thn", "5s", "prune"]).contains("did you mean --older-than?"));
    }
}
