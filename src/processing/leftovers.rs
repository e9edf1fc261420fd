//! Finding and ending the commands that a killed server left behind.
//!
//! If a server is killed, its commands go on for the moment. They carry the path of its database and a name of its processor in
//! their environment, by which they are found and killed before their orders are taken up again. The processor thread does that,
//! and waits for it a while; what can't be killed is logged and left. Where there is no `/proc`, nothing is found.

use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};

/// Names the database whose order a process works on.
const OF: &str = "ORDERD_COMMAND_OF";
/// Names the processor that has started it.
const BY: &str = "ORDERD_COMMAND_BY";
/// How long to wait for leftovers to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the commands of one processor carry in their environment.
pub(super) struct Mark {
    database: PathBuf,
    /// Tells this processor from all others, before and after it.
    processor: String,
}

impl Mark {
    pub(super) fn new(database: PathBuf) -> Mark {
        Mark { database, processor: format!("{:016x}", RandomState::new().build_hasher().finish()) }
    }

    /// Marks a command that is about to be run.
    pub(super) fn put_on(&self, command: &mut Command) {
        command.env(OF, &self.database).env(BY, &self.processor);
    }

    /// Kills every process that works on an order of the database for another processor, and waits until they are gone. To be
    /// called when no other processor lives.
    pub(super) fn end_leftovers(&self) {
        end_all(|environment| self.is_left_over(environment));
    }

    fn is_left_over(&self, environment: &[u8]) -> bool {
        let has = |name: &str, value: &OsStr| {
            let variable = [name.as_bytes(), b"=", value.as_encoded_bytes()].concat();
            environment.split(|byte| *byte == 0).any(|found| found == variable)
        };
        has(OF, self.database.as_os_str()) && !has(BY, self.processor.as_ref())
    }
}

fn end_all(is_left_over: impl Fn(&[u8]) -> bool) {
    let own = [Pid::this(), Pid::parent()];
    let until = Instant::now() + PATIENCE;
    loop {
        let leftovers: Vec<Pid> = processes()
            .filter(|pid| !own.contains(pid))
            // Of another user's processes we learn nothing, and we have not started them either.
            .filter(|pid| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| is_left_over(&environment)))
            .collect();
        if leftovers.is_empty() {
            return;
        }
        if Instant::now() > until {
            log::warn!(
                "{} processes of a killed server can't be ended; their orders are tried again beside them",
                leftovers.len()
            );
            return;
        }
        log::warn!("ending {} processes that a killed server left behind", leftovers.len());
        for leftover in leftovers {
            // With its group, which is a command's: some of that may have been given another environment.
            let _ = match getpgid(Some(leftover)) {
                Ok(group) if group != getpgrp() => killpg(group, Signal::SIGKILL),
                _ => kill(leftover, Signal::SIGKILL),
            };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_of_the_same_database_and_another_processor_are_left_over() {
        let mark = Mark::new("/x/orders.db".into());
        let of = |variables: &[&str]| mark.is_left_over(variables.join("\0").as_bytes());
        let own = format!("{BY}={}", mark.processor);
        assert!(of(&["A=b", "ORDERD_COMMAND_OF=/x/orders.db", "ORDERD_COMMAND_BY=0"]));
        assert!(of(&["ORDERD_COMMAND_OF=/x/orders.db"]));
        assert!(!of(&["ORDERD_COMMAND_OF=/x/orders.db", &own]));
        assert!(!of(&["ORDERD_COMMAND_OF=/x/orders.db2", "ORDERD_COMMAND_BY=0"]));
        assert!(!of(&["ORDERD_COMMAND_BY=0"]));
    }
}
