//! A backup: a copy of a database beside a running server or without one, which is whole or not there at all.

use std::fs;
use std::io;
use std::path::Path;

use super::copy::{Watch, copy};
use super::partial::{Partial, cannot_write};
use super::{check, file, lock, recovery};
use crate::error::Error;

/// What a backup holds.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// How many orders.
    pub orders: u64,
    /// How long the file is.
    pub bytes: u64,
}

/// Makes `target` a copy of `database` as it was at a moment after the call: all that was acknowledged before it is in there. The file
/// is on disk, with its name, when this returns `Ok`, and its pages have been looked through.
///
/// # Errors
/// [`Error::Target`] when it exists or can't be written; [`Error::Foreign`], [`Error::TooNew`], [`Error::WouldLose`],
/// [`Error::Corrupt`] when there is nothing good to be copied; [`Error::Refused`] when `watch` says no. There is no file of that
/// name then, unless there was one before.
pub fn backup(database: &Path, target: &Path, watch: &Watch) -> Result<Saved, Error> {
    let database = lock::resolved(database)?;
    is_free(&database, target)?;
    file::look(&database)?;
    if !lock::is_owned(&database) {
        recovery::check(&database)?;
    }
    let partial = Partial::beside(target)?;
    copy(&database, &partial, target, watch)?;
    partial.finish().map_err(cannot_write(target))?;
    let (mut connection, bytes) = check::open_copy(&partial)?;
    if let Some(problem) = check::problems(&mut connection, check::Depth::Structure, watch)?.first() {
        return Err(Error::Corrupt(problem.clone()));
    }
    let orders = check::counted(&connection)?;
    drop(connection);
    partial.become_new(target)?;
    Ok(Saved { orders, bytes })
}

/// Whether nothing has the name, and SQLite gives it no meaning.
pub(super) fn is_free(database: &Path, target: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(cannot_write(target)(io::Error::new(io::ErrorKind::AlreadyExists, "it exists, and is left as it is")));
    }
    let folder = super::partial::folder_of(target).canonicalize().map_err(cannot_write(target))?;
    let Some(name) = target.file_name() else { return Err(cannot_write(target)(io::ErrorKind::InvalidInput.into())) };
    let is_of_database =
        ["-wal", "-shm", "-journal", ".lock"].iter().any(|end| file::with_suffix(database, end) == folder.join(name));
    if is_of_database {
        return Err(cannot_write(target)(io::Error::other("that name belongs to the database")));
    }
    Ok(())
}
