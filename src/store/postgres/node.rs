//! Which node this is: a small file on this machine, locked for as long as an orderd uses it, that holds the node's name.
//!
//! An instance that is started in place of one that was killed gets the same file, as it is free again: so it finds the commands that
//! were left behind, which are named by that file, and takes their orders over at once. Two instances on one machine have two files.
//! The files lie in the folder that the system has for such things, and hold nothing that is worth keeping.

use std::fs::{File, Permissions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::O_NOFOLLOW;
use nix::unistd::Uid;

use super::url::Server;
use crate::error::Error;

/// The most instances that one machine may have on one database.
const MOST: usize = 1_000;
const OWNER_ONLY: u32 = 0o600;
/// How long to wait for the end of whoever has a node, before another is made. A second instance on a machine starts so much later.
const PATIENCE: Duration = Duration::from_secs(1);

/// Locks a node of this machine that is free, and gives its file: one that has been used before, if there is any. Of an orderd that was
/// killed a moment ago a process may still be ending, and who took another node meanwhile would not find the commands that it left.
///
/// # Errors
/// [`Error::Usage`] when there can't be one.
pub(super) fn acquire(server: &Server) -> Result<(PathBuf, File), Error> {
    let folder = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].iter().find_map(std::env::var_os);
    let folder = folder.map(PathBuf::from).filter(|folder| folder.is_dir()).unwrap_or_else(std::env::temp_dir);
    let name = format!("orderd-{}-{:016x}", Uid::effective(), hash(&format!("{}/{}", server.name, server.schema)));
    let nodes: Vec<PathBuf> = (0..MOST).map(|n| folder.join(format!("{name}-{n}.node"))).collect();
    let patience = Instant::now() + PATIENCE;
    loop {
        let used: Vec<&PathBuf> = nodes.iter().filter(|path| path.exists()).collect();
        if let Some(node) = first_free(used.iter().copied())? {
            return Ok(node);
        }
        if used.is_empty() || Instant::now() >= patience {
            break;
        }
        std::thread::sleep(PATIENCE / 50);
    }
    let full =
        || Error::Usage(format!("{MOST} instances of this database run on this machine already, by {}", folder.display()));
    first_free(nodes.iter())?.ok_or_else(full)
}

/// The first of these that nobody has locked, locked and named.
fn first_free<'a>(nodes: impl Iterator<Item = &'a PathBuf>) -> Result<Option<(PathBuf, File)>, Error> {
    for path in nodes {
        let unusable = |e: io::Error| {
            let folder = "name a folder of your own in XDG_RUNTIME_DIR";
            Error::Usage(format!("cannot open {}, which marks this machine's instance: {e}; {folder}", path.display()))
        };
        let file = open(path).map_err(unusable)?;
        match file.try_lock() {
            // Its last owner may have removed it since it was opened.
            Ok(())
                if std::fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) =>
            {
                name_in(&file).map_err(unusable)?;
                return Ok(Some((path.clone(), file)));
            }
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
    }
    Ok(None)
}

/// The name of the node whose file this is, given if it has none.
///
/// # Errors
/// What the system says.
pub(super) fn name_in(mut file: &File) -> io::Result<String> {
    use std::io::Seek;
    file.rewind()?;
    let mut name = String::new();
    file.take(64).read_to_string(&mut name)?;
    if name.len() != 32 {
        let lot = || RandomState::new().build_hasher().finish();
        name = format!("{:016x}{:016x}", lot(), lot());
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(name.as_bytes())?;
    }
    Ok(name)
}

/// A file of our own that nobody else may write: the folder may be everybody's.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY).custom_flags(O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if found.uid() != Uid::effective().as_raw() || !found.is_file() {
        return Err(io::Error::other("it is another's"));
    }
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    Ok(file)
}

/// FNV-1a: the same in every build, as a node outlives the program.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
