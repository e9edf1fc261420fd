//! Puts a backup in the place of a database whose lock is held, so no server runs.
//!
//! The backup is copied beside the database, looked through and synced first; until then nothing is touched. The old files get second
//! names, and last of all one rename puts the copy in place. So a crash leaves the old database or the new one, and the old files
//! under their second names at the latest when it is the new one.
//!
//! The old database is one file at that time, its log copied back and gone: SQLite would take a log that is left for the new one's.
//! Where the old one is so damaged that this can't be done, a server refuses it anyway. Then a note takes its place before its log is
//! removed, and a start in between is refused with what the note says: run the restore again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::check::{self, Depth};
use super::copy::{Watch, copy};
use super::file::{FileId, RESTORE_NOTE, set_aside, with_suffix};
use super::partial::{Partial, cannot_write, folder_of, sync_folder_of};
use super::{connect, file, lock, recovery};
use crate::error::Error;
use crate::store::Lock;

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// How many orders there are now.
    pub orders: u64,
    /// Whether the counts in the backup were wrong, and are right now.
    pub is_recounted: bool,
    /// The old files, each with its new name.
    pub aside: Vec<(PathBuf, PathBuf)>,
}

/// Makes the database that `lock` owns what `from` holds.
///
/// # Errors
/// [`Error::Usage`] when `from` is no good, [`Error::Target`] when there is no room or the old files can't be moved,
/// [`Error::Refused`] when `watch` says no. The database is as it was then.
pub fn restore(lock: &Lock, from: &Path, watch: &Watch) -> Result<Restored, Error> {
    let database = lock.database();
    let from = is_backup(from, database)?;
    let partial = Partial::beside(database)?;
    copy(&from, &partial, database, watch)?;
    partial.finish().map_err(cannot_write(database))?;
    let (mut connection, _) = check::open_copy(&partial)?;
    if let Some(problem) = check::problems(&mut connection, Depth::All, watch)?.first() {
        return Err(Error::Usage(format!(
            "{} is damaged ({problem}); nothing was changed, take another backup",
            from.display()
        )));
    }
    let miscounts = check::miscounts(&connection)?;
    check::mend(&mut connection, &miscounts)?;
    let orders = check::counted(&connection)?;
    drop(connection);
    keep_owner(database, partial.path()).and_then(|()| partial.finish()).map_err(cannot_write(database))?;

    let aside = if is_one_file(database)? { set_all_aside(database, &[""])? } else { make_way(database)? };
    partial.replace(database)?;
    Ok(Restored { orders, is_recounted: !miscounts.is_empty(), aside })
}

/// The file to restore from, if it is a database of ours and another one.
fn is_backup(from: &Path, database: &Path) -> Result<PathBuf, Error> {
    let named = from.display();
    let no = |why: &str| Err(Error::Usage(format!("{named} {why}; nothing was changed")));
    let from = match lock::resolved(from) {
        Ok(from) if from.is_file() => from,
        _ => return no("is no file"),
    };
    if fs::metadata(&from).is_ok_and(|file| file.len() == 0) {
        return no("is empty");
    }
    let id = |path: &Path| fs::metadata(path).map(|metadata| FileId::of(&metadata)).ok();
    if id(&from) == id(database) {
        return no("is the database itself");
    }
    match file::look(&from) {
        Err(Error::Foreign { .. }) => return no("is no orderd database"),
        looked => looked?,
    }
    if !lock::is_owned(&from) {
        match recovery::check(&from) {
            Err(Error::WouldLose { what }) => return no(&format!("has a damaged log ({what})")),
            checked => checked?,
        }
    }
    Ok(from)
}

/// A restore by root must not take the file away from who runs the server.
fn keep_owner(database: &Path, copy: &Path) -> io::Result<()> {
    let owner = fs::metadata(database).or_else(|_| fs::metadata(folder_of(database)))?;
    let made = fs::metadata(copy)?;
    if (made.uid(), made.gid()) != (owner.uid(), owner.gid()) && made.uid() == 0 {
        chown(copy, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Has SQLite make the old database one file, if there is one and it can.
fn is_one_file(database: &Path) -> Result<bool, Error> {
    let is_there = |suffix: &str| fs::metadata(with_suffix(database, suffix)).is_ok_and(|file| file.len() > 0);
    if !is_there("") {
        return Ok(!is_there("-wal") && !is_there("-journal"));
    }
    if file::look(database).is_err() || recovery::check(database).is_err() {
        return Ok(false);
    }
    let closed = || -> Result<(), Error> {
        let connection = connect(database)?;
        // Only who is alone can have it changed; the log is copied back, synced and removed.
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
        if mode == "delete" { Ok(()) } else { Err(Error::Busy) }
    };
    match closed() {
        Ok(()) => Ok(true),
        Err(Error::Busy) => {
            let what = "another program has it open; end that first";
            Err(cannot_write(database)(io::Error::other(what)))
        }
        Err(Error::Corrupt(_) | Error::Broken(_) | Error::Database(_)) => Ok(false),
        Err(e) => Err(cannot_write(database)(io::Error::other(e.to_string()))),
    }
}

/// Gives the old files second names, and has the disk know them.
fn set_all_aside(database: &Path, suffixes: &[&str]) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    // Not every file system has second names.
    let keep = |from: &Path, to: &Path| match fs::hard_link(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()),
        linked => linked,
    };
    let aside = set_aside(database, suffixes, keep)?;
    sync_folder_of(database).map_err(cannot_write(database))?;
    Ok(aside)
}

/// Takes a damaged database away with its log, step by step, so that no server takes what is left for a whole one.
fn make_way(database: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    // With the note in place, this was done before.
    let is_noted = matches!(file::look(database), Err(Error::Unrestored { .. }));
    let aside = if is_noted { Vec::new() } else { set_all_aside(database, &["-journal", "-shm", "-wal", ""])? };
    let note = with_suffix(database, ".restoring");
    let take_away = || {
        let mut file = File::create(&note)?;
        file.write_all(RESTORE_NOTE)?;
        file.sync_all()?;
        fs::rename(&note, database)?;
        sync_folder_of(database)?;
        for suffix in ["-journal", "-shm", "-wal"] {
            match fs::remove_file(with_suffix(database, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        sync_folder_of(database)
    };
    take_away().map_err(cannot_write(database))?;
    Ok(aside)
}
