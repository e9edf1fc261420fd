//! Processes as the system shows them: who they are, how much memory one holds, and what a child has from its parent.
//!
//! All of it is read from `/proc`. Where there is none, nobody has children and nobody holds memory: then nothing is ended that
//! need not be, and nothing is limited.
//!
//! The environment is how a parent tells its child what it is. Those variables are for that child alone, so a command that the
//! child runs is freed from them by [`forget_parent`].

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::manager;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Tells a child that it is one, by its parent's process id.
pub const WORKER_OF: &str = "ORDERD_WORKER_OF";
/// Tells a child that another one serves, which still has commands of its own.
pub const PREDECESSOR_LIVES: &str = "ORDERD_PREDECESSOR_LIVES";
/// Tells a child which file its parent has locked, as a path without links: where a link points may have changed since.
pub const LOCKED: &str = "ORDERD_LOCKED";
/// Tells a child how many have been started before it.
pub const RESTARTS: &str = "ORDERD_RESTARTS";
/// Tells a process that it is to end the commands of the node with this file when nobody else is left to do so.
pub const GUARD_OF: &str = "ORDERD_GUARD_OF";
/// The token that subcommands bear. It is theirs alone: a server that has it in its environment keeps it from its commands.
pub const TOKEN: &str = "ORDERD_TOKEN";
/// Has glibc give memory back: large pieces go back to the system when they are freed, which it unlearns after the first ones unless
/// told. It reads this when a process starts, so only a parent can say it. The number of arenas stays: with two, an order cost 6
/// microseconds more, as what one thread allocates another frees.
pub const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// The variables of [`ALLOCATOR`] that a child is to get: those that the user has not set.
pub fn allocator_settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALLOCATOR.into_iter().filter(|(name, _)| std::env::var_os(name).is_none())
}

/// Frees `command` of what this process has from its parent, and of the token.
pub fn forget_parent(command: &mut Command) {
    command.env_remove(TOKEN);
    manager::forget(command);
    if std::env::var_os(WORKER_OF).is_none() {
        return;
    }
    for name in [WORKER_OF, PREDECESSOR_LIVES, LOCKED, RESTARTS] {
        command.env_remove(name);
    }
    for (name, value) in ALLOCATOR {
        if std::env::var_os(name).is_some_and(|set| set == OsStr::new(value)) {
            command.env_remove(name);
        }
    }
}

/// A process, and whom it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub id: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// When it was started, in clock ticks since the machine was. With the id it names one process for ever.
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    pub fn with_id(id: Pid) -> Option<Process> {
        Process::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// From the text of `/proc/ID/stat`.
    fn parse(stat: &str) -> Option<Process> {
        // The name in parentheses may itself hold spaces and parentheses.
        let (id, rest) = stat.split_once(" (")?;
        let words: Vec<&str> = rest.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let id_at = |at: usize| words.get(at)?.parse().ok().map(Pid::from_raw);
        Some(Process {
            id: Pid::from_raw(id.parse().ok()?),
            parent: id_at(1)?,
            group: id_at(2)?,
            session: id_at(3)?,
            started: words.get(19)?.parse().ok()?,
        })
    }
}

/// All processes that this one can see.
pub fn all_processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    ids.filter_map(Process::with_id).collect()
}

/// The end of a child.
#[derive(Debug)]
pub struct Ended {
    /// Its process id, which may be another's from now on.
    pub id: Pid,
    /// Its exit status, if it ended by itself.
    pub code: Option<i32>,
    /// How it ended, in words.
    pub how: String,
}

impl Ended {
    /// That of a child of which nothing more is known.
    pub fn unexplained(id: Pid) -> Ended {
        Ended { id, code: None, how: "nobody knows how".into() }
    }
}

/// Takes note of a child that has ended, any child. Nobody else may wait for one then.
pub fn next_ended() -> Option<Ended> {
    loop {
        let (id, code, raw) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(id, code)) => (id, Some(code), code << 8),
            Ok(WaitStatus::Signaled(id, signal, dumped)) => (id, None, signal as i32 | i32::from(dumped) << 7),
            // A real-time signal ended one, which nix can't name. It has been waited for all the same.
            Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) | Err(Errno::EINTR | Errno::EINVAL) => continue,
            Ok(_) | Err(_) => return None,
        };
        return Some(Ended { id, code, how: ExitStatus::from_raw(raw).to_string() });
    }
}

/// A look at the memory of one process. The file stays open, so a look costs one system call and never sees another process
/// that has got the same id.
#[derive(Debug)]
pub struct Memory(Option<File>);

impl Memory {
    /// That of the process `id`.
    pub fn of(id: Pid) -> Memory {
        Memory(File::open(format!("/proc/{id}/status")).ok())
    }

    /// How much of it is resident, in bytes. 0 where the system does not say.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes("VmRSS:")
    }

    /// How much of it is addressed, in bytes. 0 where the system does not say.
    pub fn virtual_bytes(&self) -> u64 {
        self.bytes("VmSize:")
    }

    fn bytes(&self, name: &str) -> u64 {
        // The line comes within the first 1,500 bytes, of which the name of the program is at most 64.
        let mut text = [0; 4_096];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
    }
}

/// Each connection costs two descriptors, and the usual soft limit of 1,024 is for programs that use `select`.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "12 (a) b (c) S 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 11\n";
        let [id, parent, group, session] = [12, 3, 4, 5].map(Pid::from_raw);
        assert_eq!(Process::parse(stat), Some(Process { id, parent, group, session, started: 987_654 }));
        for bad in ["", "12", "12 (x", "12 (x) S 3", "x (x) S 3 4 5"] {
            assert_eq!(Process::parse(bad), None, "{bad}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_finds_its_child_and_its_memory() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let id = Pid::from_raw(child.id() as i32);
        let found = all_processes();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|process| process.id == id && process.parent == Pid::this()), "{found:?}");
        assert!(Memory::of(Pid::this()).resident_bytes() > 1 << 20);
        assert_eq!(Memory::of(id).resident_bytes(), 0);
    }
}
