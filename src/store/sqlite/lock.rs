//! Who owns a database: an exclusive lock on a file beside it, which also says which file it is that is locked.
//!
//! The database itself can't be locked that way, as SQLite's own locks live there and the sqlite3 shell may still read along. The
//! lock file holds the device and inode of the database since the owner has opened it, so that a successor of the process that
//! did neither creates another one nor opens what has been put in its place. Whoever takes the lock anew begins with a clean
//! slate.

use std::fmt;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::file::{self, FileId};
use crate::error::Error;

/// How long to wait for a predecessor that is just ending: a restart must not fail because the old process needs a moment. So short
/// that a second orderd is refused within a second.
const LOCK_PATIENCE: Duration = Duration::from_millis(800);
/// What a file is created with, whatever the umask: orders are nobody else's business.
pub(super) const OWNER_ONLY: u32 = 0o600;
/// The longest chain of links that is followed: Linux's own limit.
const MAX_LINKS: usize = 40;
/// The length of the lock file: two numbers and a newline. Always the same, so that writing it needs no room on a full disk.
const RECORD_BYTES: usize = 42;

/// Proof that this process owns the database, held until dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    database: PathBuf,
}

impl Lock {
    /// Locks the database at `path`, which need not exist yet. Symbolic links are followed first, so two names of one file
    /// have one lock. A file that is no database of ours gets no lock file.
    ///
    /// # Errors
    /// [`Error::Owned`] when another process has it; [`Error::Foreign`] and [`Error::TooNew`]; [`Error::Unusable`] when the lock
    /// file cannot be made.
    pub fn acquire(path: &Path) -> Result<Lock, Error> {
        let database = resolved(path)?;
        let name = name_of_lock(&database);
        // Where there is a lock file, a database of ours has been. It is not looked at here then: if this process uses it, closing
        // it once would drop SQLite's locks.
        if !name.exists() {
            file::inspect(&database)?;
        }
        let file = open(&name).map_err(unusable(&name))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::WouldBlock) => return Err(Error::Owned { file: path.to_path_buf() }),
                Err(TryLockError::Error(source)) => return Err(unusable(&name)(source)),
            }
        }
        let lock = Lock { file, database };
        lock.record(None);
        Ok(lock)
    }

    /// The lock on the database at `path` that another process has acquired and passed on, as the open lock file.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the path can't be resolved.
    pub(crate) fn inherited(path: &Path, file: File) -> Result<Lock, Error> {
        Ok(Lock { file, database: resolved(path)? })
    }

    /// The database, as an absolute path without links. Never a name that SQLite gives a meaning to, like `:memory:`.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The locked file. Whoever holds a duplicate of its descriptor holds the lock too.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether this process or one before it has opened the database since the lock was taken.
    pub(crate) fn has_been_used(&self) -> bool {
        self.opened().is_some()
    }

    /// Which file the owner has opened, if it has opened one.
    pub(super) fn opened(&self) -> Option<FileId> {
        let mut record = [0; RECORD_BYTES];
        self.file.read_exact_at(&mut record, 0).ok()?;
        let (device, inode) = std::str::from_utf8(&record).ok()?.trim().split_once(char::is_whitespace)?;
        Some(FileId { device: device.parse().ok()?, inode: inode.trim().parse().ok()? })
    }

    /// Notes which file the owner has opened.
    pub(super) fn record(&self, opened: Option<FileId>) {
        if self.opened() == opened && opened.is_some() {
            return;
        }
        let half = (RECORD_BYTES - 2) / 2;
        let (device, inode) = opened.map_or_else(Default::default, |id| (id.device.to_string(), id.inode.to_string()));
        let record = format!("{device:>half$} {inode:>half$}\n");
        // Fails only where the disk is full and there has been no record yet. There the successor has to take what it finds.
        let _ = self.file.write_all_at(record.as_bytes(), 0);
    }
}

/// What is locked.
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.database.display().fmt(f)
    }
}

fn name_of_lock(database: &Path) -> PathBuf {
    file::with_suffix(database, ".lock")
}

/// Whether a process owns the database at this absolute path, and so a server runs.
pub(super) fn is_owned(database: &Path) -> bool {
    // Whoever wants to own it just now waits for longer than this takes.
    File::open(name_of_lock(database)).is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether a database of ours has been at this absolute path.
pub(super) fn exists(database: &Path) -> bool {
    name_of_lock(database).exists()
}

fn open(name: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(OWNER_ONLY);
    match options.clone().create_new(true).open(name) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
            Ok(file)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => options.open(name),
        Err(e) => Err(e),
    }
}

pub(super) fn unusable(file: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let file = file.to_path_buf();
    move |source| Error::Unusable { file, source }
}

/// The absolute path of a file that may not exist yet, links followed, also one whose target is still to be made.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, Error> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match target.canonicalize() {
            Ok(path) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(unusable(path)(e)),
        }
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(folder) = folder.canonicalize() else { return Err(Error::NoFolder { file: target }) };
        let Some(name) = target.file_name() else { return Err(Error::NoFolder { file: target }) };
        let file = folder.join(name);
        match fs::read_link(&file) {
            Ok(link) => target = folder.join(link),
            Err(_) => return Ok(file),
        }
    }
    Err(unusable(path)(io::Error::other("too many links")))
}
