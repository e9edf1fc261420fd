//! What this process uses of the machine, as the system counts it: processor time, memory, descriptors.
//!
//! Read when it is asked for, by a few system calls and files in `/proc`. What can't be read is not there.

use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use super::processes::{Memory, Process};

/// The clock ticks of `/proc`, in a second. Whatever the kernel is built with, it tells programs these.
const TICKS: f64 = 100.0;

/// What this process uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Time on a processor, in the program and in the system for it.
    pub cpu: Option<Duration>,
    /// Memory that is held, in bytes.
    pub resident_bytes: Option<u64>,
    /// Memory that is addressed, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// How many may be open.
    pub max_descriptors: Option<u64>,
    /// When it was started, in seconds since 1970.
    pub started: Option<f64>,
}

impl Usage {
    /// That of this process, now.
    pub fn now() -> Usage {
        let memory = Memory::of(Pid::this());
        // The one by which they are looked through is no longer open.
        let descriptors = std::fs::read_dir("/dev/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1));
        Usage {
            cpu: getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| duration(usage.user_time()) + duration(usage.system_time())),
            resident_bytes: Some(memory.resident_bytes()).filter(|bytes| *bytes > 0),
            virtual_bytes: Some(memory.virtual_bytes()).filter(|bytes| *bytes > 0),
            descriptors,
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            started: started(),
        }
    }
}

fn duration(time: TimeVal) -> Duration {
    Duration::new(time.tv_sec().max(0) as u64, time.tv_usec().clamp(0, 999_999) as u32 * 1_000)
}

fn started() -> Option<f64> {
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + Process::with_id(Pid::this())?.started as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something_of_everything() {
        let usage = Usage::now();
        assert!(usage.cpu.unwrap() < Duration::from_secs(86_400), "{usage:?}");
        assert!(usage.virtual_bytes.unwrap() > usage.resident_bytes.unwrap(), "{usage:?}");
        assert!(usage.descriptors.unwrap() < usage.max_descriptors.unwrap(), "{usage:?}");
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() - usage.started.unwrap();
        // Of when the machine was started the system says only the second.
        assert!((-2.0..86_400.0).contains(&age), "{age} s");
    }
}
