//! The database file before SQLite sees it: who owns it, and whether it is ours at all.
//!
//! Reads the file's header by itself, because SQLite may change a file by merely opening it, and a file that is not ours stays
//! untouched. Also notices when the file is pulled away under a running server: SQLite would go on acknowledging into a file
//! that has no name any more.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::schema;
use crate::error::Error;

/// How long to wait for a predecessor that is just ending: a restart must not fail because the old process needs a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a SQLite header up to and including `application_id`.
const HEADER_BYTES: usize = 72;

/// Proof that this process owns the database: an exclusive lock on a file beside it, held until dropped. The database itself
/// can't be locked that way, as SQLite's own locks live there and the sqlite3 shell may still read along.
#[derive(Debug)]
pub struct Lock {
    file: File,
    database: PathBuf,
}

impl Lock {
    /// Locks the database at `path`, which need not exist yet. Symbolic links are followed first, so two names of one file
    /// have one lock.
    ///
    /// # Errors
    /// [`Error::Owned`] when another process has it; [`Error::Unusable`] when the lock file cannot be made.
    pub fn acquire(path: &Path) -> Result<Lock, Error> {
        let unusable = |file: &Path| {
            let file = file.to_path_buf();
            move |source| Error::Unusable { file, source }
        };
        let database = resolved(path).map_err(unusable(path))?;
        let mut name = database.clone().into_os_string();
        name.push(".lock");
        let name = PathBuf::from(name);
        let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(unusable(&name))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { file, database }),
                Err(TryLockError::WouldBlock) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::WouldBlock) => return Err(Error::Owned { file: path.to_path_buf() }),
                Err(TryLockError::Error(source)) => return Err(unusable(&name)(source)),
            }
        }
    }

    /// The lock on the database at `path` that another process has acquired and passed on, as the open lock file.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the path can't be resolved.
    pub(crate) fn inherited(path: &Path, file: File) -> Result<Lock, Error> {
        let database = resolved(path).map_err(|source| Error::Unusable { file: path.to_path_buf(), source })?;
        Ok(Lock { file, database })
    }

    /// The database, as an absolute path without links. Never a name that SQLite gives a meaning to, like `:memory:`.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The locked file. Whoever holds a duplicate of its descriptor holds the lock too.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// The absolute path of a file that may not exist yet, links followed.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(e)?;
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(folder.canonicalize()?.join(name))
        }
        other => other,
    }
}

/// Whether the file at `path` is ours to open: absent, empty, or an orderd database of a version that we know.
pub(super) fn inspect(path: &Path) -> Result<(), Error> {
    let unusable = |source| Error::Unusable { file: path.to_path_buf(), source };
    let foreign = || Error::Foreign { file: path.to_path_buf() };
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unusable(e)),
    };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(unusable)?;
    if header.is_empty() {
        return Ok(());
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
    device_and_inode: (u64, u64),
}

impl Identity {
    pub(super) fn of(path: PathBuf) -> io::Result<Identity> {
        let metadata = fs::metadata(&path)?;
        Ok(Identity { device_and_inode: (metadata.dev(), metadata.ino()), path })
    }

    /// An error when the path no longer names the same file. Looks with `stat` only: opening and closing the file here would
    /// drop SQLite's own locks on it.
    pub(super) fn check(&self) -> Result<(), Error> {
        match fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == self.device_and_inode => Ok(()),
            Ok(_) => Err(Error::Broken(format!("{} was replaced by another file", self.path.display()))),
            Err(e) => Err(Error::Broken(format!("{} is gone: {e}", self.path.display()))),
        }
    }
}
