//! What this machine lets a test cause, and what a test says that can't be run here.
//!
//! Every question is asked of the machine itself, by trying; nothing is derived from a name or a version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::runner::Skip;

/// Runs a program to its end, without its output. Says whether it succeeded.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a program to its end, which must be a good one.
#[track_caller]
pub fn must(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// System calls can be watched and tampered with.
pub fn strace() -> Result<(), Skip> {
    match succeeds("strace", &["-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"]) {
        true => Ok(()),
        false => Err(Skip("strace is not installed, or may not watch".into())),
    }
}

/// The library that turns the clock of a program.
pub fn faketime() -> Result<PathBuf, Skip> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().ok_or_else(|| Skip("faketime is not installed".into()))
}

/// A control group of the test's own, with limits on memory or processes. Removed when dropped.
pub struct Group(PathBuf);

impl Group {
    /// One with a limit on memory in bytes (`memory`) or on processes and threads (`pids`).
    pub fn new(controller: &str, limit: u64) -> Result<Group, Skip> {
        let name = format!("orderd-faults-{}-{controller}", std::process::id());
        let old = Path::new("/sys/fs/cgroup").join(controller);
        let (parent, file) = match (controller, old.is_dir()) {
            ("memory", true) => (old, "memory.limit_in_bytes"),
            ("memory", false) => (PathBuf::from("/sys/fs/cgroup"), "memory.max"),
            (_, true) => (old, "pids.max"),
            (_, false) => (PathBuf::from("/sys/fs/cgroup"), "pids.max"),
        };
        let group = Group(parent.join(name));
        let made = std::fs::create_dir(&group.0).and_then(|()| std::fs::write(group.0.join(file), limit.to_string()));
        match made {
            Ok(()) if group.0.join("cgroup.procs").exists() => Ok(group),
            _ => Err(Skip(format!("no control group for {controller} can be made here"))),
        }
    }

    /// A shell command that moves the shell into it.
    pub fn enter(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Until the last of its processes is gone.
        crate::harness::comes_true(crate::harness::PATIENCE, || std::fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}
