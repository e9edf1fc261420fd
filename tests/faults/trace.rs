//! System calls watched and tampered with by strace, and what a trace shows: which answer came without a sync before it, and which
//! pages a failed sync has lost.
//!
//! A server is started under it, or it is attached to the parent, the worker and whatever they start. It ends with the server,
//! or, when it was attached, when it is dropped; the server goes on. Lines are in the order in which things happened; a call
//! that another one interrupts has two, and counts as begun at the first and done at the second.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Folder, PATIENCE, Process, Worker, comes_true, in_clean_environment, poll_until, signal};

/// What the cache of the system is kept and dropped in, in bytes.
const PAGE: u64 = 4_096;

/// Watches the log, and the requests and answers with all of their bytes.
pub const ALL: [&str; 4] =
    ["-s", "1000", "-e", "trace=pwrite64,fsync,fdatasync,read,recvfrom,recvmsg,write,sendto,sendmsg,writev"];

/// Has no sync made, though the program is told that it was.
pub const UNSYNCED: [&str; 2] = ["-e", "inject=fsync,fdatasync:retval=0"];

/// The binary under strace from its first moment, with these options of strace's and these flags. What is seen is written to
/// `trace` in `traces`.
pub fn command(folder: &Folder, traces: &Folder, options: &[&str], flags: &[&str]) -> Command {
    let mut command = in_clean_environment(Command::new("strace"), folder);
    // As a grandchild, so that the server itself is our child.
    command.args(["-D", "-qq", "-f", "-y", "-o"]).arg(traces.file("trace")).args(options);
    command.arg(env!("CARGO_BIN_EXE_orderd")).args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// A strace that watches a running server.
pub struct Attached(Child);

impl Attached {
    /// Attaches to the parent and the worker, with these options. What is seen is written to `trace` in `folder`.
    #[track_caller]
    pub fn to(server: &Process, folder: &Folder, options: &[&str]) -> Attached {
        let ids = [server.id(), Worker::of(server).id()];
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-y", "-o"]).arg(folder.file("trace")).args(options);
        ids.iter().for_each(|id| _ = command.arg("-p").arg(id.to_string()));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let attached = Attached(child);
        poll_until(PATIENCE, || ids.iter().all(|id| is_traced(*id)));
        attached
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal(self.0.id(), "TERM");
        }
        // It lets go of the server in either case, but may wait for ever for a thread that is about to start a process.
        if !comes_true(Duration::from_secs(2), || self.0.try_wait().is_ok_and(|ended| ended.is_some())) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Whether all threads of a process are watched, or it has ended.
fn is_traced(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    statuses.into_iter().all(|status| !status.contains("TracerPid:\t0\n"))
}

/// A system call as a trace shows it.
#[derive(Debug)]
pub struct Call {
    name: String,
    /// All of its line, or of both of its lines.
    text: String,
    /// The lines in which it begins and is done. One that is never done has none.
    begun: usize,
    done: Option<usize>,
}

impl Call {
    fn is_good_sync(&self) -> bool {
        self.name.ends_with("sync") && self.text.trim_end().ends_with("= 0")
    }

    pub fn is_failed_sync(&self) -> bool {
        self.name.ends_with("sync") && self.done.is_some() && !self.is_good_sync()
    }

    /// The file, or the socket, that it is about.
    fn file(&self) -> &str {
        self.text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(file, _)| file)
    }

    fn is_of_log(&self) -> bool {
        self.file().ends_with("-wal")
    }
}

/// The calls in the file that strace wrote.
pub fn calls(trace: &Path) -> Vec<Call> {
    parsed(&String::from_utf8_lossy(&std::fs::read(trace).unwrap()))
}

fn parsed(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let Some((thread, what)) = line.split_once(' ') else { continue };
        let what = what.trim_start();
        if let Some(rest) = what.strip_prefix("<... ") {
            let Some(call) = unfinished.remove(thread).map(|call| &mut calls[call]) else { continue };
            call.text += rest.split_once("resumed>").map_or("", |(_, rest)| rest);
            call.done = Some(at);
            continue;
        }
        let Some((name, _)) = what.split_once('(').filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        else {
            continue;
        };
        let whole = !what.ends_with("<unfinished ...>");
        if !whole {
            unfinished.insert(thread, calls.len());
        }
        let text = what.trim_end_matches("<unfinished ...>").to_string();
        calls.push(Call { name: name.into(), text, begun: at, done: whole.then_some(at) });
    }
    calls
}

/// What was found out about the answers in a trace.
#[derive(Debug, Default)]
pub struct Answers {
    pub fresh: usize,
    pub replayed: usize,
    /// Those orders that were acknowledged without a sync, each once for each time.
    pub unsynced: Vec<String>,
}

impl Answers {
    /// Each came after a good sync.
    #[track_caller]
    pub fn are_synced(&self) {
        assert!(self.unsynced.is_empty(), "{} without a good sync: {:?}", self.unsynced.len(), &self.unsynced[..1]);
    }
}

/// Looks at every 200 to an order whose id begins with `name-`. A good sync of the log must have begun after its request was read
/// and be done before its answer is written. For a replay it is enough that whatever had been written to the log when its
/// request came has been synced by then.
pub fn answers(calls: &[Call], name: &str) -> Answers {
    let syncs: Vec<&Call> = calls.iter().filter(|call| call.is_good_sync() && call.is_of_log()).collect();
    let synced = |after: usize, before: usize| {
        syncs.iter().any(|sync| sync.begun > after && sync.done.is_some_and(|done| done < before))
    };
    let mut requested: HashMap<String, usize> = HashMap::new();
    let mut last_write = None;
    let mut written_at_request: HashMap<String, Option<usize>> = HashMap::new();
    let mut found = Answers::default();
    // A request counts from when it was read, however long that call had waited for it; an answer from when it begins to leave.
    let takes_in = |call: &Call| matches!(call.name.as_str(), "read" | "recvfrom" | "recvmsg" | "pwrite64");
    let mut in_turn: Vec<&Call> = calls.iter().collect();
    in_turn.sort_by_key(|call| call.done.filter(|_| takes_in(call)).unwrap_or(call.begun));
    for call in in_turn {
        if call.name == "pwrite64" && call.is_of_log() {
            last_write = call.done.or(Some(call.begun));
        }
        let Some(id) = id_in(&call.text, name) else { continue };
        match call.name.as_str() {
            "read" | "recvfrom" | "recvmsg" => {
                requested.insert(id.clone(), call.done.unwrap_or(call.begun));
                written_at_request.insert(id, last_write);
            }
            _ if call.text.contains("HTTP/1.1 200") && call.text.contains("Order created") => {
                let replayed = call.text.contains("Idempotent-Replayed");
                let request = *requested.get(&id).unwrap_or_else(|| panic!("an answer without its request: {}", call.text));
                let fine = synced(request, call.begun)
                    || replayed && written_at_request[&id].is_none_or(|write| synced(write, call.begun));
                found.fresh += usize::from(!replayed);
                found.replayed += usize::from(replayed);
                if !fine {
                    found.unsynced.push(id);
                }
            }
            _ => {}
        }
    }
    found
}

/// The id that a request or answer is about, as strace shows a string.
fn id_in(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("order_id\\\":\\\"{name}-"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("{name}-{digits}"))
}

/// The spans of bytes of the log that a failed sync has lost, each within one page: those written since the sync before it, if
/// nothing was written to that page afterwards. The system marks a page clean when it has reported the failure, so no later sync
/// writes it, unless it is changed again.
pub fn lost_of_log(calls: &[Call]) -> Vec<(u64, u64)> {
    let (mut dirty, mut lost) = (Vec::<(u64, u64)>::new(), Vec::<(u64, u64)>::new());
    for call in calls.iter().filter(|call| call.is_of_log() || call.name.starts_with("unlink") && call.text.contains("-wal")) {
        let arguments = call.text.rsplit_once(") = ").map_or("", |(arguments, _)| arguments);
        let numbers: Vec<u64> = arguments.rsplit(", ").map_while(|number| number.parse().ok()).collect();
        match (call.name.as_str(), &numbers[..]) {
            ("pwrite64", [offset, bytes, ..]) => {
                for page in offset / PAGE..=(offset + bytes - 1) / PAGE {
                    lost.retain(|(from, _)| from / PAGE != page);
                    dirty.push(((page * PAGE).max(*offset), ((page + 1) * PAGE).min(offset + bytes)));
                }
            }
            ("ftruncate", [length, ..]) => {
                [&mut dirty, &mut lost].into_iter().for_each(|spans| spans.retain(|(from, _)| from < length))
            }
            ("fsync" | "fdatasync", _) if call.is_good_sync() => dirty.clear(),
            ("fsync" | "fdatasync", _) => lost.append(&mut dirty),
            ("unlink" | "unlinkat", _) => [&mut dirty, &mut lost].into_iter().for_each(Vec::clear),
            _ => {}
        }
    }
    lost
}

/// Has spans of a file read as zeros, as they do when they were never written.
pub fn forget(file: &Path, spans: &[(u64, u64)]) {
    let opened = std::fs::File::options().write(true).open(file).unwrap();
    let length = opened.metadata().unwrap().len();
    for (from, to) in spans.iter().filter(|(from, _)| *from < length) {
        opened.write_all_at(&vec![0; ((*to).min(length) - from) as usize], *from).unwrap();
    }
}

/// How many calls a trace shows that strace has made fail so far.
pub fn injected(trace: &Path) -> usize {
    String::from_utf8_lossy(&std::fs::read(trace).unwrap_or_default()).matches("(INJECTED)").count()
}
