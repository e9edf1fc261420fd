//! The mark that every command carries in its environment, and the end of the processes that carry one.
//!
//! A mark names the database whose order the command works on, and the processor that started it. The database is named by
//! device and inode: in another container the same path may be another file. With a marked process go its process group and
//! its descendants, whatever environment those have been given. Nobody else is ever signalled.
//!
//! All of it is read from `/proc`. Where there is none, nothing is found and nothing is ended.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp};

use super::processes::{Process, all_processes};

/// Names the database whose order a process works on.
pub const OF: &str = "ORDERD_COMMAND_OF";
/// Names the processor that has started it.
pub const BY: &str = "ORDERD_COMMAND_BY";
/// How long to wait for processes to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of the file at `path`, the same by every path that leads to it and for no other file. Empty if there is none.
pub fn name_of(path: &Path) -> String {
    std::fs::metadata(path).map_or_else(|_| String::new(), |file| format!("{}:{}", file.dev(), file.ino()))
}

/// What the commands of one processor carry.
pub struct Mark {
    database: String,
    /// Tells this processor from all others, before and after it.
    processor: String,
}

impl Mark {
    /// A mark that no other processor has.
    pub fn new(database: &Path) -> Mark {
        let processor = format!("{:016x}", RandomState::new().build_hasher().finish());
        Mark { database: name_of(database), processor }
    }

    /// Marks a command that is about to be run.
    pub fn put_on(&self, command: &mut Command) {
        command.env(OF, &self.database).env(BY, &self.processor);
    }

    /// Whether a process works on an order of the same database for another processor.
    pub fn is_left_over(&self, process: &Process) -> bool {
        self.is_foreign(&Environment::of(process))
    }

    fn is_foreign(&self, environment: &Environment) -> bool {
        environment.is_of(&self.database) && !environment.has(BY, &self.processor)
    }
}

/// Whether a process works on an order of the database that [`name_of`] names so.
pub fn is_of(process: &Process, database: &str) -> bool {
    Environment::of(process).is_of(database)
}

/// The environment that a process was started with.
struct Environment(Vec<u8>);

impl Environment {
    /// Of another user's processes we learn nothing, and we have not started them either.
    fn of(process: &Process) -> Environment {
        Environment(std::fs::read(format!("/proc/{}/environ", process.id)).unwrap_or_default())
    }

    fn is_of(&self, database: &str) -> bool {
        !database.is_empty() && self.has(OF, database)
    }

    fn has(&self, name: &str, value: &str) -> bool {
        let variable = [name, "=", value].concat();
        self.0.split(|byte| *byte == 0).any(|found| found == variable.as_bytes())
    }
}

/// Kills every process that `is_ours`, with its group and its descendants, and waits until they are gone. Says how many were
/// found, and how many of them can't be ended.
pub fn end_all(is_ours: impl Fn(&Process) -> bool) -> (usize, usize) {
    let until = Instant::now() + PATIENCE;
    let mut found = 0;
    loop {
        let all = all_processes();
        let marked = all.iter().filter(|process| is_ours(process)).copied().collect();
        let doomed = family(marked, &all, &Spared::new(&all));
        found = found.max(doomed.len());
        if doomed.is_empty() || Instant::now() > until {
            return (found, doomed.len());
        }
        for process in doomed {
            // The whole group at once: a process that is just being forked has it, too. Number 0 would mean our own group.
            if process.group.as_raw() > 1 {
                let _ = killpg(process.group, Signal::SIGKILL);
            }
            let _ = kill(process.id, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Who is never ended: this process, its parent, and whoever shares a group with either, such as the shell before them.
struct Spared {
    groups: Vec<Pid>,
    ids: [Pid; 2],
}

impl Spared {
    fn new(all: &[Process]) -> Spared {
        let ids = [Pid::this(), Pid::parent()];
        let of_parent = all.iter().find(|process| process.id == ids[1]).map(|parent| parent.group);
        // 0 is the group of whoever is from outside a container, 1 that of its first process.
        let first = [0, 1].map(Pid::from_raw);
        Spared { groups: of_parent.into_iter().chain([getpgrp()]).chain(first).collect(), ids }
    }

    fn has(&self, process: &Process) -> bool {
        self.ids.contains(&process.id) || self.groups.contains(&process.group)
    }
}

/// Those in `members` and, of `all`, whoever is of their groups or descends from them, but for the spared.
fn family(members: Vec<Process>, all: &[Process], spared: &Spared) -> Vec<Process> {
    let mut family: Vec<_> = members.into_iter().filter(|process| !spared.has(process)).collect();
    let mut at = 0;
    while let Some(member) = family.get(at).copied() {
        let is_new = |process: &&Process| {
            (process.parent == member.id || process.group == member.group) && !family.contains(process) && !spared.has(process)
        };
        let more: Vec<_> = all.iter().filter(is_new).copied().collect();
        family.extend(more);
        at += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_of_the_same_database_and_another_processor_are_left_over() {
        let mark = Mark { database: "7:12".into(), processor: "a".into() };
        let of = |variables: &[&str]| mark.is_foreign(&Environment(variables.join("\0").into_bytes()));
        assert!(of(&["A=b", "ORDERD_COMMAND_OF=7:12", "ORDERD_COMMAND_BY=0"]));
        assert!(of(&["ORDERD_COMMAND_OF=7:12"]));
        assert!(!of(&["ORDERD_COMMAND_OF=7:12", "ORDERD_COMMAND_BY=a"]));
        assert!(!of(&["ORDERD_COMMAND_OF=7:123", "ORDERD_COMMAND_BY=0"]));
        assert!(!of(&["ORDERD_COMMAND_BY=0"]));
        let unnamed = Mark { database: String::new(), processor: "a".into() };
        assert!(!unnamed.is_foreign(&Environment(b"ORDERD_COMMAND_OF=\0".to_vec())));
    }

    #[test]
    fn a_file_has_one_name_by_every_path() {
        assert_eq!(name_of(Path::new("/proc/self/exe")), name_of(&std::env::current_exe().unwrap()));
        assert_ne!(name_of(Path::new("/")), name_of(Path::new("/proc")));
        assert_eq!(name_of(Path::new("/no/such/file")), "");
    }

    #[test]
    fn with_a_process_go_its_group_and_its_descendants_and_nobody_else() {
        let process = |id, parent, group| {
            let [id, parent, group, session] = [id, parent, group, 1].map(Pid::from_raw);
            Process { id, parent, group, session, started: 7 }
        };
        let command = process(10, 1, 10);
        let (of_its_group, child, grandchild) = (process(11, 1, 10), process(12, 10, 12), process(13, 12, 12));
        let all = [process(2, 1, 2), process(3, 2, 3), command, of_its_group, child, grandchild, process(20, 1, 20)];
        let nobody = Spared { groups: vec![], ids: [Pid::from_raw(8), Pid::from_raw(9)] };
        assert_eq!(family(vec![command], &all, &nobody), [command, of_its_group, child, grandchild]);
        let some = Spared { groups: vec![Pid::from_raw(12)], ids: [command.id; 2] };
        assert_eq!(family(vec![command], &all, &some), []);
        assert_eq!(family(vec![of_its_group, command], &all, &Spared { ids: nobody.ids, ..some }), [of_its_group, command]);
    }
}
