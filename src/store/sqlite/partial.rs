//! A file that is being made, under a name of its own until it is whole and on disk.
//!
//! Whatever cuts the work short, the name that was asked for is then as it was before: the last step is one rename. What is left of
//! one that was killed has [`MARK`] in its name, and is removed by the next one in the same folder. Each is locked while it is
//! being made, so none takes another's for such a left-over.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::file::with_suffix;
use super::lock::OWNER_ONLY;
use crate::error::Error;

/// What stands in the name of a file that is not whole, before the id of the process that makes it.
const MARK: &str = ".orderd-partial-";
/// Where the header of a database says how it is to be read and written, and that it is by a journal: then it needs no second file to
/// be read, also where nothing can be written.
const HEADER_MODE: (u64, [u8; 2]) = (18, [1, 1]);

/// A file that is being made.
pub struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Makes an empty file beside `target`, for its owner alone.
    ///
    /// # Errors
    /// [`Error::Target`].
    pub fn beside(target: &Path) -> Result<Partial, Error> {
        remove_left_overs(folder_of(target));
        let path = with_suffix(target, &format!("{MARK}{}", std::process::id()));
        let create = || {
            let file = File::options().read(true).write(true).create_new(true).mode(OWNER_ONLY).open(&path)?;
            file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
            // Not every network file system can.
            let _ = file.try_lock();
            Ok(file)
        };
        create().map(|file| Partial { path: path.clone(), file }).map_err(cannot_write(target))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Has the disk take what was written so far.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Has it be a database that is one file, and have nobody's pages in memory alone.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.file.write_all_at(&HEADER_MODE.1, HEADER_MODE.0)?;
        self.file.sync_all()
    }

    /// Gives it the name `target`, if nothing has that name.
    ///
    /// # Errors
    /// [`Error::Target`]; it is removed then.
    pub fn become_new(self, target: &Path) -> Result<(), Error> {
        rename_to_new(&self.path, target).and_then(|()| sync_folder_of(target)).map_err(cannot_write(target))
    }

    /// Gives it the name `target`, whatever had that name.
    ///
    /// # Errors
    /// [`Error::Target`]; it is removed then, unless it has its name already.
    pub(super) fn replace(self, target: &Path) -> Result<(), Error> {
        fs::rename(&self.path, target).and_then(|()| sync_folder_of(target)).map_err(cannot_write(target))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Unless it has its name by now.
        let _ = fs::remove_file(&self.path);
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Has the disk take the names in a file's folder.
pub(super) fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

/// A file that is to be made, and why it can't be.
pub fn cannot_write(target: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let file = target.to_path_buf();
    move |source| Error::Target { file, source }
}

/// A rename that replaces nothing. Where there is none, by a second name for a moment.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::errno::Errno;
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {}
            done => return Ok(done?),
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

fn remove_left_overs(folder: &Path) {
    let is_partial = |name: &OsStr| name.to_string_lossy().contains(MARK);
    // What can't be read or removed is in nobody's way.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| is_partial(&entry.file_name())) {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
