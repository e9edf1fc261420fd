//! `orderd help` and `--help`: of orderd as a whole, or of one subcommand. Made from the table of subcommands and the settings.

use super::arguments::{Given, subcommand_named};
use super::table::{SUBCOMMANDS, Subcommand};
use super::{print, serve};
use crate::config::Config;
use crate::error::Error;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "help",
    usage: "[SUBCOMMAND]",
    summary: "this text, or that of one subcommand",
    more: "",
    words: 0..=1,
    flags: &[],
    settings: Some(&[]),
    run,
};

/// The width that the help keeps to.
const COLUMNS: usize = 80;
/// Where what a flag does begins.
const INDENT: usize = 25;

fn run(_config: &Config, given: &Given) -> Result<(), Error> {
    print(&match given.words.first() {
        Some(name) => of(subcommand_named(name)?),
        None => of_all(),
    });
    Ok(())
}

/// What orderd is, what there is to type, and the flags of a server.
pub fn of_all() -> String {
    let mut text = "orderd takes orders over HTTP, keeps them on disk, and processes them.\n\n\
         Usage: orderd [serve] [--FLAG VALUE]...\n       \
         orderd SUBCOMMAND [--FLAG VALUE]...\n       \
         orderd SUBCOMMAND --help\n\n"
        .to_string();
    for subcommand in SUBCOMMANDS {
        line(&mut text, subcommand.name, subcommand.summary, "");
    }
    text += "\nFlags of a server, which is what orderd alone starts:\n\n";
    flags(&mut text, SUBCOMMANDS[0]);
    line(&mut text, "--version", "which orderd this is", "");
    text.push('\n');
    wrap(&mut text, serve::TWINS);
    text
}

/// One subcommand: how it is used, and its flags.
pub fn of(subcommand: &Subcommand) -> String {
    let Subcommand { name, usage, summary, more, .. } = subcommand;
    let mut text = format!("{}\n\nUsage: orderd {}\n", sentence(summary), [*name, usage].join(" ").trim_end());
    for paragraph in more.lines() {
        text.push('\n');
        wrap(&mut text, paragraph);
    }
    text.push('\n');
    flags(&mut text, subcommand);
    text
}

fn flags(text: &mut String, subcommand: &Subcommand) {
    for flag in subcommand.flags {
        line(text, &format!("--{} {}", flag.name, flag.value), flag.help, "");
    }
    for setting in subcommand.settings() {
        let default = if setting.is_switch() { String::new() } else { format!("[{}]", setting.default) };
        line(text, &format!("--{} {}", setting.flag, setting.value), setting.help, &default);
    }
    line(text, "--help", "this text", "");
}

/// A paragraph, in lines as long as they may be.
fn wrap(text: &mut String, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split(' ') {
        let space = if column == 0 {
            ""
        } else if column + 1 + word.len() <= COLUMNS {
            " "
        } else {
            "\n"
        };
        column = if space == " " { column + 1 + word.len() } else { word.len() };
        *text += &format!("{space}{word}");
    }
    text.push('\n');
}

/// A name and what it does. A default that does not fit stands below.
fn line(text: &mut String, name: &str, does: &str, default: &str) {
    let begun = format!("  {name:<width$} {does}", width = INDENT - 3);
    let begun = begun.trim_end();
    match begun.len() + 1 + default.len() {
        _ if default.is_empty() => *text += begun,
        ..=COLUMNS => *text += &format!("{begun} {default}"),
        _ => *text += &format!("{begun}\n{:INDENT$}{default}", ""),
    }
    text.push('\n');
}

/// With a large letter and a stop.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_fits_its_columns_and_names_every_flag() {
        let one = SUBCOMMANDS.iter().map(|subcommand| (of(subcommand), *subcommand));
        for (text, subcommand) in one.chain([(of_all(), SUBCOMMANDS[0])]) {
            for line in text.lines() {
                assert!(line.chars().count() <= COLUMNS, "{} columns: {line}", line.chars().count());
            }
            for flag in subcommand.flag_names().filter(|flag| *flag != "version") {
                assert!(text.contains(&format!("  --{flag}")), "no --{flag} in {text}");
            }
        }
        for subcommand in SUBCOMMANDS {
            assert!(of_all().contains(&format!("\n  {} ", subcommand.name)), "{}", subcommand.name);
        }
    }
}
