//! Running a command for an order: its process group, its input, and its end.
//!
//! Each command runs on a thread of its own, which waits for it; `output.rs` reads what it prints on two more, as a command whose
//! output nobody reads would hang. The command is the leader of its own process group. When it has ended, whatever it left of that
//! group is killed, so that an attempt's end is the end of all its processes.
//!
//! If this process is killed, its commands go on for the moment; `leftovers.rs` finds them by the mark that they carry.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::leftovers::Mark;
use super::output::{self, LastLine};
use super::task::Terminate;
use super::work::WorkError;
use crate::order::Order;
use crate::os::processes;
use crate::os::sync::unpoisoned;

/// The exit status that says that another attempt is pointless (`EX_DATAERR` of sysexits.h).
const EX_DATAERR: i32 = 65;
/// A pipe takes this much without anybody reading, on every system (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;
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
pub(super) fn run(command: &str, order: &Order, mark: &Mark, group: &Group) -> Result<(), WorkError> {
    let cannot = |e: io::Error| WorkError::retry(format!("cannot run the command: {e}"));
    let mut shell = Command::new("sh");
    mark.put_on(&mut shell);
    processes::forget_parent(&mut shell);
    let mut child = shell
        .arg("-c")
        .arg(command)
        .env("ORDER_ID", order.order_id.as_str())
        .env("ORDER_ATTEMPT", order.attempts.to_string())
        .env("ORDER_USER_ID", &order.user_id)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    group.started(Pid::from_raw(child.id() as i32));

    let id = order.order_id.as_str();
    let read =
        [child.stdout.take().map(|pipe| output::follow(pipe, id)), child.stderr.take().map(|pipe| output::follow(pipe, id))];
    if let Some(pipe) = child.stdin.take() {
        feed(pipe, order);
    }
    let (status, told) = group.wait(&mut child).map_err(cannot)?;

    let until = Instant::now() + LAST_OUTPUT;
    let [_, last_line] = read.map(|follower| {
        let receiver = follower?.ok()?;
        receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    });
    verdict(status, told, last_line.unwrap_or_default())
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
