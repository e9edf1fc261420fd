//! The worker process of a supervised orderd, seen from the outside: which one it is, what it holds, and how it is ended.
//!
//! Read from `/proc`, so these tests are for Linux. A process that has ended but is not yet waited for counts as ended. While a
//! worker is renewed there may be two: the newest is the one that serves.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{PATIENCE, Process, is_running, poll_until, signal};

/// A worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(u32);

impl Worker {
    /// The one that serves now. Waits for it, as there is none while one is replaced.
    #[track_caller]
    pub fn of(server: &Process) -> Worker {
        let mut found = None;
        poll_until(PATIENCE, || {
            found = children(server.id()).into_iter().rfind(|worker| worker.lives());
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

    /// How many there are. More than one while one is renewed.
    pub fn all_of(server: &Process) -> usize {
        children(server.id()).len()
    }

    /// Any process.
    pub fn with_id(id: u32) -> Worker {
        Worker(id)
    }

    pub fn id(self) -> u32 {
        self.0
    }

    /// Whether it serves nobody, and is there to end the commands of those who do.
    pub fn is_guard(self) -> bool {
        fs::read(self.proc("cmdline")).is_ok_and(|line| line.starts_with(b"orderd: guard"))
    }

    /// Sends a signal by its name.
    #[track_caller]
    pub fn signal(self, name: &str) {
        signal(self.id(), name);
    }

    /// Whether a signal can't end it, because it is ignored or held back.
    pub fn ignores(self, name: &str) -> bool {
        let signal: Signal = format!("SIG{name}").parse().unwrap();
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        ["SigIgn:", "SigBlk:"].iter().any(|kind| {
            let mask = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or("0");
            u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (signal as u32 - 1) != 0
        })
    }

    pub fn lives(&self) -> bool {
        is_running(self.0)
    }

    pub fn threads(self) -> usize {
        fs::read_dir(self.proc("task")).map_or(0, Iterator::count)
    }

    pub fn descriptors(self) -> usize {
        fs::read_dir(self.proc("fd")).map_or(0, Iterator::count)
    }

    pub fn resident_bytes(self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that it has had.
    pub fn peak_bytes(self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The time that it has had a core, in hundredths of a second, as user and as system.
    pub fn processor_time(self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn memory(self, kind: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(kind));
        line.map_or(0, |rest| rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
    }

    fn proc(self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0)
    }
}

/// The children of a process that serve or did, whichever of its threads started them, the oldest first.
fn children(of: u32) -> Vec<Worker> {
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let ids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect();
    let mut children: Vec<_> =
        ids.into_iter().filter(|id| !Worker(*id).is_guard()).filter_map(|id| Some((started(id)?, id))).collect();
    children.sort();
    children.into_iter().map(|(_, id)| Worker(id)).collect()
}

/// When a process started, in ticks since the machine did.
fn started(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The most memory that the worker, or any that follows it, was seen to have.
pub fn most_memory_during<T>(server: &Process, deed: impl FnOnce() -> T) -> u64 {
    let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(Worker::of(server).resident_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        deed();
        over.store(true, Ordering::Relaxed);
    });
    most.into_inner()
}
