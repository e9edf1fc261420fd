//! `orderd check`: whether the database is whole and its counts are right, and what to do where they are not.
//!
//! Reads the file that `--db` names, beside a running server or without one. Exit status 0 when all is well, 1 when something is not.

use std::path::Path;

use super::arguments::Given;
use super::table::{Flag, Subcommand};
use super::{print, progress};
use crate::config::Config;
use crate::error::Error;
use crate::store::check::{self, Checked, Miscount};

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "check",
    usage: "[--repair-counts]",
    summary: "look for damage, also while the server runs",
    more: "Status 0 says that all is well, 1 that something is damaged or miscounted, and standard output what to do. A backup is checked by --db FILE.",
    words: 0..=0,
    flags: &[Flag { name: "repair-counts", value: "", help: "correct counts that are not those of the rows" }],
    settings: Some(&["db"]),
    run,
};

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let db = &config.db;
    is_there(db)?;
    let watch = progress::watch()?;
    let checked = check::check(db, &watch)?;
    drop(watch);
    let Checked { problems, miscounts, orders, bytes } = checked;
    if !problems.is_empty() {
        print(&damaged(db, &problems));
        return Err(Error::Reported { exit_status: 1 });
    }
    let has = format!("{} has {} in {}", db.display(), progress::orders(orders), progress::size(bytes));
    if miscounts.is_empty() {
        print(&format!("{has}; its pages, its indexes and its counts are well\n"));
        return Ok(());
    }
    let wrong: String = miscounts.iter().map(miscount).collect();
    if given.has("repair-counts") {
        check::mend_counts(db, &miscounts)?;
        print(&format!("{has}; its pages and indexes are well, and its counts have been corrected:\n{wrong}"));
        return Ok(());
    }
    print(&format!(
        "{has}; its pages and indexes are well, but not its counts:\n{wrong}\
         orderd check --repair-counts corrects them, also while the server runs\n"
    ));
    Err(Error::Reported { exit_status: 1 })
}

/// Whether there is a database to be read.
///
/// # Errors
/// [`Error::Usage`].
pub fn is_there(db: &Path) -> Result<(), Error> {
    #[cfg(feature = "postgres")]
    is_a_file(db)?;
    match db.exists() {
        true => Ok(()),
        false => Err(Error::Usage(format!("{} does not exist; name the database with --db", db.display()))),
    }
}

/// The same where it may be a server, which says so itself when it is asked.
///
/// # Errors
/// [`Error::Usage`].
pub fn is_there_or_a_server(db: &Path) -> Result<(), Error> {
    #[cfg(feature = "postgres")]
    if crate::store::is_server(db) {
        return Ok(());
    }
    is_there(db)
}

/// Refuses a server, which has tools of its own; and without the URL, as there may be a password in it.
///
/// # Errors
/// [`Error::Usage`].
#[cfg(feature = "postgres")]
pub fn is_a_file(db: &Path) -> Result<(), Error> {
    if crate::store::is_server(db) {
        return Err(Error::Usage(
            "this is for a file; with PostgreSQL pg_dump and pg_basebackup make backups, pg_restore goes back to one, and pg_amcheck \
             looks for damage: see docs/scaling.md"
                .into(),
        ));
    }
    Ok(())
}

fn damaged(db: &Path, problems: &[String]) -> String {
    let named = db.display();
    let lines: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
    format!(
        "{named} is damaged:\n{lines}\
         stop orderd, and go back to a backup by orderd restore FILE, which sets the damaged files aside;\n\
         or save what can be read with the .recover of the sqlite3 shell\n"
    )
}

fn miscount(Miscount { status, kept, rows }: &Miscount) -> String {
    let mut line = format!("  {status}: {} are counted, and there are {}", kept.orders, rows.orders);
    if kept.processing_ms != rows.processing_ms {
        line += &format!("; {} ms of processing are counted, and there were {}", kept.processing_ms, rows.processing_ms);
    }
    line + "\n"
}
