//! Running a command for an order: its process group, its input, and its end.
//!
//! Each command runs on a thread of its own, which waits for it; one more serves its pipes (`pipes.rs`), as a command whose output
//! nobody reads would hang. The command is the leader of its own process group. When it has ended, whatever it left of that
//! group is killed, so that an attempt's end is the end of all its processes. A command that could not be started has cost
//! its order nothing.
//!
//! If this process is killed, its commands go on for the moment; they are found by the mark that they carry.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::output::{LastLine, Source};
use super::pipes::Pipes;
use super::task::{Attempt, Terminate};
use super::work::WorkError;
use crate::order::Order;
use crate::os::marks::Mark;
use crate::os::processes;
use crate::os::sync::unpoisoned;

/// The exit status that says that another attempt is pointless (`EX_DATAERR` of sysexits.h).
const EX_DATAERR: i32 = 65;
/// How long to wait for the last output once all processes of the group are gone. One that has left the group may hold the
/// pipe for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The process group of a running command.
#[derive(Default)]
pub(super) struct Group(Mutex<State>);

#[derive(Default)]
struct State {
    /// The leader, as long as it has not been reaped, so that the number is not another's.
    leader: Option<Pid>,
    /// Why it was terminated first.
    told: Option<Terminate>,
}

impl Group {
    /// Sends the signal that `terminate` stands for; a command that is only just being started is killed then.
    pub(super) fn terminate(&self, terminate: Terminate) {
        let mut state = self.lock();
        state.told.get_or_insert(terminate);
        state.signal(if terminate == Terminate::Kill { Signal::SIGKILL } else { Signal::SIGTERM });
    }

    fn started(&self, leader: Pid) {
        let mut state = self.lock();
        state.leader = Some(leader);
        if state.told.is_some() {
            state.signal(Signal::SIGKILL);
        }
    }

    /// Waits until the leader has ended, kills the rest, and returns how the leader ended.
    fn wait(&self, child: &mut Child) -> io::Result<(ExitStatus, Option<Terminate>)> {
        wait_without_reaping(child);
        let mut state = self.lock();
        state.signal(Signal::SIGKILL);
        let status = child.wait()?;
        state.leader = None;
        Ok((status, state.told))
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
pub(super) fn run(command: &str, order: &Order, mark: &Mark, group: &Group) -> Attempt {
    let mut shell = Command::new("sh");
    mark.put_on(&mut shell);
    processes::forget_parent(&mut shell);
    shell
        .arg("-c")
        .arg(command)
        .env("ORDER_ID", order.order_id.as_str())
        .env("ORDER_ATTEMPT", order.attempts.to_string())
        .env("ORDER_USER_ID", &order.user_id)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let source = Source { order: order.order_id.to_string(), attempt: order.attempts };
    let started = Pipes::new(source).and_then(|pipes| Ok((pipes, shell.spawn()?)));
    let (pipes, mut child) = match started {
        Ok(started) => started,
        Err(e) if is_fault_of_command(&e) => return Attempt::Ended(Err(WorkError::fatal(format!("cannot run it: {e}")))),
        Err(e) => return Attempt::NotBegun(format!("no command can be started: {e}")),
    };
    group.started(Pid::from_raw(child.id() as i32));
    let mut line = serde_json::to_vec(order).expect("a record always has a JSON form");
    line.push(b'\n');
    pipes.serve(&mut child, line);
    let ended = group.wait(&mut child);
    let last_line = pipes.last_line(LAST_OUTPUT);
    Attempt::Ended(match ended {
        Ok((status, told)) => verdict(status, told, last_line),
        Err(e) => Err(WorkError::retry(format!("cannot learn how it ended: {e}"))),
    })
}

/// Whether a command can't be started because of what it is, so that no other time is better: it is too long, or holds a NUL.
fn is_fault_of_command(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput)
}

fn verdict(status: ExitStatus, told: Option<Terminate>, last_line: LastLine) -> Result<(), WorkError> {
    if status.success() && told.is_none() {
        return Ok(());
    }
    let how = match (told, status.code(), status.signal()) {
        (Some(Terminate::TimedOut), ..) => "timed out".to_string(),
        (Some(_), ..) => "stopped".to_string(),
        (None, Some(code), _) => format!("exit status {code}"),
        (None, None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    };
    let LastLine { text, logged } = last_line;
    // What the command said itself says more than its status; that it ran out of time, it can't know.
    let message = match (told, text.is_empty()) {
        (None, false) => text,
        (_, true) => how.clone(),
        (Some(_), false) => format!("{how}: {text}"),
    };
    let retry = (told, status.code()) != (None, Some(EX_DATAERR));
    Err(WorkError { message, retry, instead: logged.then_some(how) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_prefers_the_commands_own_words() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let verdict = |status, told, text: &str| verdict(status, told, LastLine { text: text.into(), logged: false });
        assert_eq!(verdict(exit(0), None, "warning"), Ok(()));
        assert_eq!(verdict(exit(1), None, "no stock"), Err(WorkError::retry("no stock")));
        assert_eq!(verdict(exit(3), None, ""), Err(WorkError::retry("exit status 3")));
        assert_eq!(verdict(exit(65), None, "bad data"), Err(WorkError::fatal("bad data")));
        assert_eq!(verdict(ExitStatus::from_raw(9), None, ""), Err(WorkError::retry("killed by signal 9")));
        assert_eq!(verdict(exit(0), Some(Terminate::TimedOut), ""), Err(WorkError::retry("timed out")));
        assert_eq!(verdict(exit(65), Some(Terminate::TimedOut), "x"), Err(WorkError::retry("timed out: x")));
    }

    #[test]
    fn words_that_are_in_the_log_already_are_not_logged_again() {
        let logged = LastLine { text: "no stock".into(), logged: true };
        let error = verdict(ExitStatus::from_raw(1 << 8), None, logged).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.for_log()), ("no stock", "exit status 1"));
        let silent = verdict(ExitStatus::from_raw(1 << 8), None, LastLine::default()).unwrap_err();
        assert_eq!(silent.for_log(), "exit status 1");
    }
}
