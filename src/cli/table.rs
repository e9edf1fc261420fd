//! The subcommands: one table, which the command line is read by, and which the help is made from.
//!
//! Each subcommand has a file of its own with its row and what it does. A row names the settings that concern it, so that a flag
//! which would change nothing is refused.

use std::ops::RangeInclusive;

use super::arguments::Given;
use super::{
    backup, cancel, check, completions, create, export, healthcheck, help, import, list, prune, restore, retry, serve, show,
    status, version,
};
use crate::config::{Config, SETTINGS, Setting};
use crate::error::Error;

/// A subcommand.
pub struct Subcommand {
    /// The word that it is called by.
    pub name: &'static str,
    /// What follows the name, as the help shows it; its own flags come first.
    pub usage: &'static str,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What else is to be said of it: a line for each paragraph, or nothing.
    pub more: &'static str,
    /// How many words it takes besides its name.
    pub words: RangeInclusive<usize>,
    /// The flags that it alone, or a few others have, too.
    pub flags: &'static [Flag],
    /// The flags of the settings that concern it; `None` if all do.
    pub settings: Option<&'static [&'static str]>,
    /// Does it.
    pub run: fn(&Config, &Given) -> Result<(), Error>,
}

/// A flag that is no setting. Those of one name take a value everywhere or nowhere.
pub struct Flag {
    /// Its name without its dashes.
    pub name: &'static str,
    /// What stands for its value in the help; empty if it takes none.
    pub value: &'static str,
    /// What it does, in a few words.
    pub help: &'static str,
}

/// All of them, in the order of the help. The first one is what `orderd` alone does.
pub const SUBCOMMANDS: &[&Subcommand] = &[
    &serve::SUBCOMMAND,
    &status::SUBCOMMAND,
    &create::SUBCOMMAND,
    &list::SUBCOMMAND,
    &show::SUBCOMMAND,
    &retry::SUBCOMMAND,
    &cancel::SUBCOMMAND,
    &healthcheck::SUBCOMMAND,
    &prune::SUBCOMMAND,
    &backup::SUBCOMMAND,
    &restore::SUBCOMMAND,
    &check::SUBCOMMAND,
    &export::SUBCOMMAND,
    &import::SUBCOMMAND,
    &completions::SUBCOMMAND,
    &help::SUBCOMMAND,
    &version::SUBCOMMAND,
];

/// The settings that tell where the running server is, and who may ask it.
pub const SERVER: Option<&[&str]> = Some(&["listen", "token-file"]);

/// The flag of those that list.
pub const JSON: Flag = Flag { name: "json", value: "", help: "for programs: as JSON" };

impl Subcommand {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Subcommand> {
        SUBCOMMANDS.iter().copied().find(|subcommand| subcommand.name == name)
    }

    /// Whether it asks a running server, which may ask for a token.
    pub fn asks_a_server(&self) -> bool {
        self.settings == SERVER
    }

    /// The settings that concern it. Whoever is told of a database may be told by a file.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        let concern = self.settings;
        let flag_of = |setting: &Setting| if setting.flag == "db-file" { "db" } else { setting.flag };
        SETTINGS.iter().filter(move |setting| concern.is_none_or(|names| names.contains(&flag_of(setting))))
    }

    /// Whether it has a flag of this name.
    pub fn has(&self, flag: &str) -> bool {
        self.flag_names().any(|name| name == flag)
    }

    /// The names of all its flags.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        self.flags.iter().map(|flag| flag.name).chain(self.settings().map(|setting| setting.flag)).chain(["help", "version"])
    }

    /// What is said when it is used in another way than it can be.
    pub fn misused(&self) -> Error {
        let Subcommand { name, usage, .. } = self;
        let space = if usage.is_empty() { "" } else { " " };
        Error::Usage(format!("it is used so: orderd {name}{space}{usage}; see orderd {name} --help"))
    }
}

/// The flag of this name that is no setting, of whatever subcommand.
pub fn own_flag(name: &str) -> Option<&'static Flag> {
    SUBCOMMANDS.iter().flat_map(|subcommand| subcommand.flags).find(|flag| flag.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_takes_a_value_everywhere_or_nowhere_and_is_no_setting() {
        for flag in SUBCOMMANDS.iter().flat_map(|subcommand| subcommand.flags) {
            assert_eq!(flag.value.is_empty(), own_flag(flag.name).unwrap().value.is_empty(), "--{}", flag.name);
            assert!(SETTINGS.iter().all(|setting| setting.flag != flag.name), "--{}", flag.name);
        }
    }

    #[test]
    fn a_subcommand_names_settings_that_there_are() {
        for subcommand in SUBCOMMANDS {
            for name in subcommand.settings.unwrap_or_default() {
                assert!(SETTINGS.iter().any(|setting| setting.flag == *name), "{} names --{name}", subcommand.name);
            }
        }
    }
}
