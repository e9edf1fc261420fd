//! File systems of the test's own: small ones in memory, and ext4 in a file, whose power can be cut.
//!
//! All of this program runs in a mount namespace of its own, so that its mounts end with it even if it is killed; a loop device
//! goes with its mount. What may not be mounted here is a reason to skip a test. A mount is undone when it is dropped, and must
//! be declared after the folder that it lies on.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Folder, PATIENCE, poll_until};
use crate::means::{must, succeeds};
use crate::runner::Skip;

/// Set once this program has a mount namespace of its own.
const ALONE: &str = "FAULTS_IN_OWN_NAMESPACE";
/// What cuts an ext4 off without writing anything more, its journal included: EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// Starts this program once more in a mount namespace of its own, where that is allowed.
pub fn in_own_namespace() {
    let alone = ["--mount", "--propagation", "private"];
    if std::env::var_os(ALONE).is_some() || !succeeds("unshare", &[&alone[..], &["true"]].concat()) {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(alone).arg("--").arg(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1)).env(ALONE, "1");
    // It comes back only if it fails; then the tests that mount are skipped.
    let _ = command.exec();
}

/// A mounted file system.
pub struct Mount {
    at: PathBuf,
    /// The file that it is in, if it is in one.
    image: Option<PathBuf>,
}

impl Mount {
    /// A file system in memory, of so many bytes.
    pub fn in_memory(folder: &Folder, bytes: usize) -> Result<Mount, Skip> {
        let size = format!("size={bytes}");
        Mount::mount(folder.path(), &["-t", "tmpfs", "-o", &size, "tmpfs"]).map(|at| Mount { at, image: None })
    }

    /// A new ext4 in a file of so many mebibytes, which lies in another folder.
    pub fn ext4(folder: &Folder, images: &Folder, mebibytes: u64) -> Result<Mount, Skip> {
        let image = images.file("image");
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        if !succeeds("mkfs.ext4", &["-q", "-F", "-e", "remount-ro", image.to_str().unwrap()]) {
            return Err(Skip("no ext4 can be made here".into()));
        }
        let mut mount = Mount { at: folder.path().into(), image: None };
        Mount::mount(&mount.at, &["-o", "loop", image.to_str().unwrap()])?;
        mount.image = Some(image);
        Ok(mount)
    }

    /// Says whether the power of an ext4 can be cut here.
    pub fn can_be_cut() -> Result<(), Skip> {
        let (folder, images) = (Folder::new(), Folder::new());
        let mount = Mount::ext4(&folder, &images, 8)?;
        match succeeds("python3", &["-c", CUT, mount.at.to_str().unwrap()]) {
            true => Ok(()),
            false => Err(Skip("an ext4 cannot be cut off here".into())),
        }
    }

    /// Cuts its power: whatever was not synced is lost.
    #[track_caller]
    pub fn cut(&self) {
        must("python3", &["-c", CUT, self.at.to_str().unwrap()]);
    }

    /// Mounts it again after its power was cut. Nobody may have a file open in it.
    #[track_caller]
    pub fn again(&self) {
        // A process that was killed may need a moment to let go of it.
        poll_until(PATIENCE, || succeeds("umount", &[self.at.to_str().unwrap()]));
        let image = self.image.as_ref().expect("only one in a file outlives its mount");
        must("mount", &["-o", "loop", image.to_str().unwrap(), self.at.to_str().unwrap()]);
    }

    /// Has an ext4 fail, as it does when it finds itself damaged: the kernel makes it read-only, whoever has files open in it.
    pub fn fail(&self) -> Result<(), Skip> {
        let found = Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.at).output();
        let device =
            found.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace("/dev/", "")).unwrap_or_default();
        let switch = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(switch, "1").map_err(|_| Skip("no ext4 can be made to fail here".into()))
    }

    /// Makes it writable again, if the kernel lets it be, and says whether it did.
    pub fn is_writable_again(&self) -> bool {
        succeeds("mount", &["-o", "remount,rw", self.at.to_str().unwrap()])
    }

    fn mount(at: &Path, arguments: &[&str]) -> Result<PathBuf, Skip> {
        let arguments = [arguments, &[at.to_str().unwrap()]].concat();
        // Without a namespace of our own the mounts could outlive us.
        match std::env::var_os(ALONE).is_some() && succeeds("mount", &arguments) {
            true => Ok(at.to_path_buf()),
            false => Err(Skip("nothing can be mounted here".into())),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, as a process that is just ending may still have it open.
        succeeds("umount", &["-l", self.at.to_str().unwrap()]);
    }
}
