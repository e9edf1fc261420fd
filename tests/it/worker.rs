//! The worker process of a supervised orderd, seen from the outside: which one it is, what it holds, and how it is ended.
//!
//! Read from `/proc`, so these tests are for Linux. A process that has ended but is not yet waited for counts as ended.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{PATIENCE, Process, poll_until};

/// A worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(i32);

impl Worker {
    /// The one that serves now. Waits for it, as there is none while one is replaced.
    #[track_caller]
    pub fn of(server: &Process) -> Worker {
        let mut found = None;
        poll_until(PATIENCE, || {
            found = children(server.id()).first().copied().filter(Worker::lives);
            found.is_some()
        });
        found.unwrap()
    }

    /// The one that has taken the place of this one.
    #[track_caller]
    pub fn successor(self, server: &Process) -> Worker {
        let mut found = self;
        poll_until(PATIENCE, || {
            found = Worker::of(server);
            found != self
        });
        found
    }

    /// Whether there is none.
    pub fn none_of(server: &Process) -> bool {
        children(server.id()).is_empty()
    }

    /// Any process.
    pub fn with_id(id: u32) -> Worker {
        Worker(id as i32)
    }

    #[track_caller]
    pub fn signal(self, signal: Signal) {
        kill(Pid::from_raw(self.0), signal).unwrap();
    }

    pub fn lives(&self) -> bool {
        let stat = fs::read_to_string(self.proc("stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; the state follows it.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    pub fn threads(self) -> usize {
        fs::read_dir(self.proc("task")).map_or(0, Iterator::count)
    }

    pub fn descriptors(self) -> usize {
        fs::read_dir(self.proc("fd")).map_or(0, Iterator::count)
    }

    pub fn resident_bytes(self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.map_or(0, |rest| rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }
}

fn children(of: u32) -> Vec<Worker> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().map(|id| Worker(id.parse().unwrap())).collect()
}
