//! The database file before SQLite sees it: whether it is ours, whether it is whole, and what is done when it is not.
//!
//! Reads files by itself, because SQLite changes them by merely opening them: a file that is not ours stays untouched, and a
//! database that is gone, empty, or whose log is damaged (`recovery.rs`) is not opened, as SQLite would go on without what was
//! acknowledged. Only the very first start creates a database. Also notices when the file is pulled away under a running server:
//! SQLite would go on acknowledging into a file that has no name any more.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lock::{Lock, OWNER_ONLY, unusable};
use super::{recovery, schema};
use crate::error::Error;

/// What stands in the place of a database while a restore takes a damaged one away, so that no server begins with what is left.
pub(super) const RESTORE_NOTE: &[u8] =
    b"orderd: a restore was cut short; run it again. The old files are set aside beside this one.\n";

/// Bytes of a SQLite header up to and including `application_id`.
const HEADER_BYTES: usize = 72;

/// Which file on which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &fs::Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Makes sure that SQLite may open the database that `lock` owns, and creates it if nobody ever has. `is_shared` says whether a
/// predecessor still uses it: then its log is not looked at. With `accept_loss`, files that are not whole are set aside.
///
/// # Errors
/// [`Error::Foreign`], [`Error::TooNew`], [`Error::Replaced`], [`Error::WouldLose`], [`Error::Unusable`]; nothing is changed then.
pub(super) fn prepare(lock: &Lock, is_shared: bool, accept_loss: bool) -> Result<(), Error> {
    let path = lock.database();
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(unusable(path)(e)),
    };
    let is_empty = found.as_ref().is_none_or(|found| found.is_file() && found.len() == 0);
    // A successor opens what its predecessor had, or nothing; and it accepts no loss in anybody's name.
    if let Some(opened) = lock.opened() {
        if is_empty || found.as_ref().map(FileId::of) != Some(opened) {
            return Err(Error::Replaced { file: path.to_path_buf() });
        }
        inspect(path)?;
        return if is_shared { Ok(()) } else { recovery::check(path) };
    }
    if is_empty && fs::metadata(with_suffix(path, "-wal")).is_ok_and(|log| log.len() > 0) {
        if !accept_loss {
            let state = if found.is_some() { "is empty" } else { "is missing" };
            let what = format!("{} {state}, though the log beside it holds orders", path.display());
            return Err(Error::WouldLose { what });
        }
        set_aside(path, &SUFFIXES, |from, to| fs::rename(from, to)).map(say_set_aside)?;
    } else {
        inspect(path)?;
        match recovery::check(path) {
            Err(Error::WouldLose { what }) if accept_loss => {
                log::warn!("{what}");
                // Copies, as what can be read of them is what is gone on with.
                let copy = |from: &Path, to: &Path| fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
                set_aside(path, &SUFFIXES, copy).map(say_set_aside)?;
            }
            checked => checked?,
        }
    }
    create(path)
}

/// Makes an empty file that only its owner may read, if there is none. What SQLite puts beside it gets the same permissions.
fn create(path: &Path) -> Result<(), Error> {
    match File::options().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Ok(file) => file.set_permissions(Permissions::from_mode(OWNER_ONLY)).map_err(unusable(path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(unusable(path)(e)),
    }
}

/// The database and what is beside it, with the database last.
const SUFFIXES: [&str; 3] = ["-shm", "-wal", ""];

/// Has `keep` bring the files with these suffixes, as far as they exist, to names that no program uses. They still belong together
/// there: the sqlite3 shell can look at them. Gives each with its new name.
pub(super) fn set_aside(
    path: &Path,
    suffixes: &[&str],
    keep: impl Fn(&Path, &Path) -> io::Result<()>,
) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string().replace(':', "-");
    let aside = with_suffix(path, &format!(".aside-{now}"));
    let mut kept = Vec::new();
    for suffix in suffixes {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match keep(&from, &to) {
            Ok(()) => kept.push((from, to)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(unusable(&to)(e)),
        }
    }
    Ok(kept)
}

fn say_set_aside(kept: Vec<(PathBuf, PathBuf)>) {
    kept.iter().for_each(|(from, to)| log::warn!("{} is set aside as {}", from.display(), to.display()));
}

/// The name of a file that SQLite keeps beside the database.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// Whether the file at `path` is ours to open and change: absent, empty, or an orderd database of a version that we know.
pub(super) fn inspect(path: &Path) -> Result<(), Error> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => is_ours(path, file, true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(unusable(path)(e)),
    }
}

/// Whether the file at `path`, which is only to be read, is an orderd database of a version that we know.
pub(super) fn look(path: &Path) -> Result<(), Error> {
    File::open(path).map_err(unusable(path)).and_then(|file| is_ours(path, file, false))
}

fn is_ours(path: &Path, file: File, may_be_empty: bool) -> Result<(), Error> {
    let foreign = || Error::Foreign { file: path.to_path_buf() };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    file.take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(unusable(path))?;
    if header.is_empty() && may_be_empty {
        return Ok(());
    }
    // Not by its first letter alone, which is that of many files.
    if RESTORE_NOTE.starts_with(&header) && header.starts_with(b"orderd: ") {
        return Err(Error::Unrestored { file: path.to_path_buf() });
    }
    let number_at = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes);
    if !header.starts_with(b"SQLite format 3\0") || number_at(68) != Some(schema::APPLICATION_ID) {
        return Err(foreign());
    }
    let found = i64::from(number_at(60).ok_or_else(foreign)?);
    if found > schema::VERSION {
        return Err(Error::TooNew { file: path.to_path_buf(), found, known: schema::VERSION });
    }
    Ok(())
}

/// Which file a path named when it was opened.
pub(super) struct Identity {
    path: PathBuf,
    id: FileId,
}

impl Identity {
    pub(super) fn of(path: PathBuf) -> Result<Identity, Error> {
        let metadata = fs::metadata(&path).map_err(unusable(&path))?;
        Ok(Identity { id: FileId::of(&metadata), path })
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// How long the file is now.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        fs::metadata(&self.path).map(|now| now.len()).map_err(|e| self.gone(&e))
    }

    /// An error when the path no longer names the same file. Looks with `stat` only: opening and closing the file here would
    /// drop SQLite's own locks on it.
    pub(super) fn check(&self) -> Result<(), Error> {
        match fs::metadata(&self.path) {
            Ok(now) if FileId::of(&now) == self.id => Ok(()),
            Ok(_) => Err(Error::Broken(format!("{} was replaced by another file", self.path.display()))),
            Err(e) => Err(self.gone(&e)),
        }
    }

    fn gone(&self, e: &io::Error) -> Error {
        Error::Broken(format!("{} is gone: {e}", self.path.display()))
    }
}
