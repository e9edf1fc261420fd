//! Server processes: started on a free loopback port, weighed with all their children, and always ended.
//!
//! A [`Process`] that is dropped is stopped: SIGTERM first, SIGKILL to whatever is left of it after [`PATIENCE`]. Signals are
//! sent by the `kill` program, because the standard library knows only SIGKILL.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::PATIENCE;
use crate::contestants::Contestant;

/// The release binary that cargo built beside this program.
pub const ORDERD: &str = env!("CARGO_BIN_EXE_orderd");

/// The unit of `/proc/PID/stat`: Linux promises programs 100 a second, whatever the kernel's own clock does.
const MS_PER_TICK: u64 = 10;

/// A running server.
pub struct Process {
    child: Child,
    /// Where it answers.
    pub address: SocketAddr,
    /// When it was started.
    pub started: Instant,
}

/// Memory of a process and its children, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident, pages that processes share counted for each of them.
    pub rss: u64,
    /// Resident, shared pages divided among those who share them.
    pub pss: u64,
}

impl Process {
    /// Starts orderd on `database`, with further flags.
    pub fn orderd(database: &Path, flags: &[&str]) -> Result<Process> {
        Process::build(ORDERD.as_ref(), database, flags)
    }

    /// Starts another build of orderd.
    pub fn build(binary: &Path, database: &Path, flags: &[&str]) -> Result<Process> {
        let mut command = Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--log-level", "warn", "--db"]).arg(database).args(flags);
        // A setting in our environment would change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ORDERD_")) {
            command.env_remove(name);
        }
        Process::start(command)
    }

    /// Starts another contestant on `database`.
    pub fn contestant(contestant: Contestant, database: &Path) -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([OsStr::new(crate::args::CONTESTANT), contestant.word().as_ref(), database.as_os_str()]);
        Process::start(command)
    }

    fn start(mut command: Command) -> Result<Process> {
        let started = Instant::now();
        // Whoever reads its standard input sees the end of it when this program ends, however it ends.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Process { child, address, started }),
            None => {
                let _ = child.kill();
                Err(format!("{command:?} ended with {} and said {line:?}", child.wait()?).into())
            }
        }
    }

    /// Asks it to stop, and waits. A server that must be killed, or that reports a failure, is an error.
    pub fn stop(mut self) -> Result<()> {
        signal("-TERM", self.child.id());
        match self.wait()? {
            Some(status) if status.success() || status.code().is_none() => Ok(()),
            Some(status) => Err(format!("a server ended with {status}").into()),
            None => Err("a server did not end after SIGTERM".into()),
        }
    }

    /// Ends it as a crash would: all of its processes, at once. Returns when they are gone.
    pub fn kill(mut self) -> Result<()> {
        let family = tree(self.child.id());
        kill_all(&family);
        self.wait()?;
        // Whoever starts next would wait for the file's lock.
        let deadline = Instant::now() + PATIENCE;
        while family.iter().any(|pid| is_running(*pid)) {
            if Instant::now() > deadline {
                return Err("a server did not end after SIGKILL".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                status => return Ok(status),
            }
        }
    }

    /// Processor time that it and its children have used so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// What it and its children hold in memory now.
    pub fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for pid in tree(self.child.id()) {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum.rss += kilobytes(&rollup, "Rss:") * 1_024;
            sum.pss += kilobytes(&rollup, "Pss:") * 1_024;
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let family = tree(self.child.id());
        signal("-TERM", self.child.id());
        if !matches!(self.wait(), Ok(Some(_))) {
            kill_all(&family);
            let _ = self.child.wait();
        }
    }
}

/// Processor time that a process and its living descendants have used so far.
pub fn cpu_of(root: u32) -> Duration {
    let ticks: u64 = tree(root).into_iter().map(ticks).sum();
    Duration::from_millis(ticks * MS_PER_TICK)
}

/// Parents before their children: one that outlived its child for a moment might start another.
fn kill_all(family: &[u32]) {
    family.iter().for_each(|pid| signal("-KILL", *pid));
}

/// A process that nobody has waited for yet is not running any more.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn signal(which: &str, pid: u32) {
    // It may have ended by itself.
    let _ = Command::new("kill").args([which, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Processor time of a process, in user mode and in the kernel: the 14th and 15th field.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The process and its descendants, parents before their children.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // The name in the second field may hold anything, also brackets; the parent is the second field after it.
        let parent = std::fs::read_to_string(entry.path().join("stat"))
            .ok()
            .and_then(|stat| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        family.extend(children.remove(&family[next]).unwrap_or_default());
        next += 1;
    }
    family
}

fn kilobytes(text: &str, label: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(label)?.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}
