//! A file system in memory that is so small that a test can fill it. Where none may be mounted, that is said, and the test does nothing.
//!
//! A shell holds it: that ends, and the disk with it, when the pipe to it is closed, also because this program was killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Mounted until it is dropped.
pub struct SmallDisk {
    path: PathBuf,
    shell: Child,
}

impl SmallDisk {
    /// One of so many mebibytes, empty.
    pub fn new(mebibytes: usize) -> Option<SmallDisk> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderd-disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m,mode=700 tmpfs \"$1\" 2>/dev/null && echo mounted || {{ rmdir \"$1\"; exit; }}
             cat >/dev/null; umount -l \"$1\"; rmdir \"$1\""
        );
        let mut shell = Command::new("sh");
        // In a group of its own, as what ends this program may end its whole group.
        shell.args(["-c", &script, "sh"]).arg(&path).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let disk = SmallDisk { path, shell };
        if said.trim() != "mounted" {
            let _ = writeln!(std::io::stderr(), "skipped: no small disk can be mounted here, so none was filled");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what room is left, until [`make_room`](Self::make_room).
    pub fn fill(&self) {
        let mut ballast = File::options().append(true).create(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 4 << 10] {
            while ballast.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
