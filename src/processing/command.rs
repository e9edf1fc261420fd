//! Running a command for an order: its process group, its input and output, and its end.
//!
//! Each command runs on a thread of its own, which waits for it; two more read what it prints, as a command whose output nobody
//! reads would hang. The command is the leader of its own process group. When it has ended, whatever it left of that group is
//! killed, so that an attempt's end is the end of all its processes.
//!
//! If this process is killed, its commands go on for the moment. They carry the path of the database in their environment, by
//! which [`end_leftovers`] finds and kills them before their orders are taken up again. (Where there is no `/proc`, it can't.)

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::work::{Urge, WorkError};
use crate::order::Order;
use crate::os::sync::unpoisoned;
use crate::supervisor;

/// The exit status that says that another attempt is pointless (`EX_DATAERR` of sysexits.h).
const EX_DATAERR: i32 = 65;
/// Names the database whose order a process works on.
const MARK: &str = "ORDERD_COMMAND_OF";
/// The longest part of a line that is logged, and of the last one that is kept as the order's `last_error`, in bytes.
const MAX_LINE_BYTES: usize = 1_024;
/// How much one attempt may add to the log, in bytes.
const MAX_LOGGED_BYTES: usize = 64 << 10;
/// A pipe takes this much without anybody reading, on every system (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;
/// How long to wait for the last output once all processes of the group are gone. One that has left the group may hold the
/// pipe for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// How long a start waits for leftovers to be gone after they were killed.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);

/// The process group of a running command.
#[derive(Default)]
pub(crate) struct Group(Mutex<State>);

#[derive(Default)]
struct State {
    /// The leader, as long as it has not been reaped, so that the number is not another's.
    leader: Option<Pid>,
    urged: Option<Urge>,
}

impl Group {
    /// Sends the signal that `urge` stands for; a command that is only just being started is killed then.
    pub(crate) fn urge(&self, urge: Urge) {
        let mut state = self.lock();
        state.urged.get_or_insert(urge);
        state.signal(if urge == Urge::Kill { Signal::SIGKILL } else { Signal::SIGTERM });
    }

    fn started(&self, leader: Pid) {
        let mut state = self.lock();
        state.leader = Some(leader);
        if state.urged.is_some() {
            state.signal(Signal::SIGKILL);
        }
    }

    /// Waits until the leader has ended, kills the rest, and returns how the leader ended.
    fn wait(&self, child: &mut Child) -> io::Result<(ExitStatus, Option<Urge>)> {
        wait_without_reaping(child);
        let mut state = self.lock();
        state.signal(Signal::SIGKILL);
        let status = child.wait()?;
        state.leader = None;
        Ok((status, state.urged))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        unpoisoned(&self.0)
    }
}

impl State {
    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Nobody may be left in it.
            let _ = killpg(leader, signal);
        }
    }
}

/// Blocks until the child has ended, but leaves it a zombie, whose process group still bears its number.
fn wait_without_reaping(child: &Child) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let id = || Id::Pid(Pid::from_raw(child.id() as i32));
    while waitid(id(), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::errno::Errno::EINTR) {}
}

/// Runs `command` for `order` and waits for its end.
pub(crate) fn run(command: &str, order: &Order, database: &Path, group: &Group) -> Result<(), WorkError> {
    let cannot = |e: io::Error| WorkError::retry(format!("cannot run the command: {e}"));
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("ORDER_ID", order.order_id.as_str())
        .env("ORDER_ATTEMPT", order.attempts.to_string())
        .env("ORDER_USER_ID", &order.user_id)
        .env(MARK, database)
        .env_remove(supervisor::VARIABLE)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    group.started(Pid::from_raw(child.id() as i32));

    let id = order.order_id.as_str();
    let read = [child.stdout.take().map(|pipe| follow(pipe, id)), child.stderr.take().map(|pipe| follow(pipe, id))];
    if let Some(pipe) = child.stdin.take() {
        feed(pipe, order);
    }
    let (status, urged) = group.wait(&mut child).map_err(cannot)?;

    let until = Instant::now() + LAST_OUTPUT;
    let [_, last_words] = read.map(|follower| {
        let receiver = follower?.ok()?;
        receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    });
    verdict(status, urged, last_words.unwrap_or_default())
}

fn verdict(status: ExitStatus, urged: Option<Urge>, last_words: String) -> Result<(), WorkError> {
    if status.success() && urged.is_none() {
        return Ok(());
    }
    let how = match (urged, status.code(), status.signal()) {
        (Some(Urge::TimeOut), ..) => "timed out".to_string(),
        (Some(_), ..) => "stopped".to_string(),
        (None, Some(code), _) => format!("exit status {code}"),
        (None, None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    };
    // What the command said itself says more than its status; that it ran out of time, it can't know.
    let message = match (urged, last_words.is_empty()) {
        (None, false) => last_words,
        (_, true) => how,
        (Some(_), false) => format!("{how}: {last_words}"),
    };
    match (urged, status.code()) {
        (None, Some(EX_DATAERR)) => Err(WorkError::fatal(message)),
        _ => Err(WorkError::retry(message)),
    }
}

/// Writes the record to the command, which may or may not read it.
fn feed(mut pipe: impl Write + Send + 'static, order: &Order) {
    let mut line = serde_json::to_vec(order).expect("a record always has a JSON form");
    line.push(b'\n');
    // A command that reads nothing, or closes its input early, is free to.
    if line.len() <= PIPE_BYTES {
        let _ = pipe.write_all(&line);
    } else {
        let write = move || {
            let _ = pipe.write_all(&line);
        };
        // Without a thread the command sees an empty input, fails, and is tried again.
        let _ = std::thread::Builder::new().name("work-input".into()).spawn(write);
    }
}

/// Reads a stream to its end on a thread of its own, logs its lines, and sends the last one that is not empty.
fn follow(pipe: impl Read + Send + 'static, id: &str) -> io::Result<Receiver<String>> {
    let (sender, receiver) = channel();
    let id = id.to_string();
    let read = move || {
        let mut lines = Lines { id, line: Vec::new(), last: String::new(), logged_bytes: 0 };
        lines.read(pipe);
        // Nobody listens any more if this took too long.
        let _ = sender.send(lines.last);
    };
    std::thread::Builder::new().name("work-output".into()).spawn(read)?;
    Ok(receiver)
}

/// Cuts output into lines, in bounded memory.
struct Lines {
    id: String,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    last: String,
    logged_bytes: usize,
}

impl Lines {
    fn read(&mut self, mut pipe: impl Read) {
        let mut buffer = [0; 8 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                        let (text, complete) = match piece.split_last() {
                            Some((b'\n', text)) => (text, true),
                            _ => (piece, false),
                        };
                        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
                        self.line.extend_from_slice(&text[..text.len().min(room)]);
                        if complete {
                            self.end_line();
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        let text: String = String::from_utf8_lossy(&self.line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.line.clear();
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        if self.logged_bytes < MAX_LOGGED_BYTES {
            self.logged_bytes += text.len();
            log::info!("order {}: {text}", self.id);
            if self.logged_bytes >= MAX_LOGGED_BYTES {
                log::info!("order {}: the rest of its output is not logged", self.id);
            }
        }
        self.last.clear();
        // Replacing what is no UTF-8 may have made it longer.
        let end = (0..=text.len().min(MAX_LINE_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.last.push_str(&text[..end]);
    }
}

/// Kills every process that still works on an order of `database` for a server that is gone, and waits until they are.
pub(crate) fn end_leftovers(database: &Path) {
    let mark = [MARK.as_bytes(), b"=", database.as_os_str().as_encoded_bytes()].concat();
    let own = [Pid::this(), Pid::parent()];
    let until = Instant::now() + LEFTOVER_PATIENCE;
    loop {
        let leftovers: Vec<Pid> = processes()
            .filter(|pid| !own.contains(pid))
            .filter(|pid| {
                // Of another user's processes we learn nothing, and we have not started them either.
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark)
            })
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

    fn last_line_of(output: &[u8]) -> String {
        let mut lines = Lines { id: "1".into(), line: Vec::new(), last: String::new(), logged_bytes: 0 };
        lines.read(output);
        lines.last
    }

    #[test]
    fn the_last_line_that_says_something_is_kept() {
        assert_eq!(last_line_of(b"one\ntwo\n\n  \n"), "two");
        assert_eq!(last_line_of(b"no newline"), "no newline");
        assert_eq!(last_line_of(b"\x1b[31mred\r\n"), " [31mred");
        assert_eq!(last_line_of(b""), "");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(last_line_of(&vec![b'x'; 10 << 20]), "x".repeat(MAX_LINE_BYTES));
        assert!(last_line_of(&vec![0xff; 10_000]).len() <= MAX_LINE_BYTES);
    }

    #[test]
    fn the_verdict_prefers_the_commands_own_words() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(verdict(exit(0), None, "warning".into()), Ok(()));
        assert_eq!(verdict(exit(1), None, "no stock".into()), Err(WorkError::retry("no stock")));
        assert_eq!(verdict(exit(3), None, String::new()), Err(WorkError::retry("exit status 3")));
        assert_eq!(verdict(exit(65), None, "bad data".into()), Err(WorkError::fatal("bad data")));
        assert_eq!(verdict(ExitStatus::from_raw(9), None, String::new()), Err(WorkError::retry("killed by signal 9")));
        assert_eq!(verdict(exit(0), Some(Urge::TimeOut), String::new()), Err(WorkError::retry("timed out")));
        assert_eq!(verdict(exit(65), Some(Urge::TimeOut), "x".into()), Err(WorkError::retry("timed out: x")));
    }
}
