//! The binary as a process: started, told by signals, killed, started again on the same file, and what it said on its way.
//!
//! Only processes started here are ended, by their id. The binary may be one process or a small parent with a worker; what is
//! told or killed is always the one that was started.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orderd::Address;

use super::{Client, Folder, PATIENCE, Serving, comes_true, get};

/// A command that runs the binary with nothing of orderd's in its environment, in `folder`.
pub fn orderd(folder: &Folder) -> Command {
    in_clean_environment(Command::new(env!("CARGO_BIN_EXE_orderd")), folder)
}

/// A command that runs the binary with these words, told where `server` listens.
pub fn asking(folder: &Folder, server: &Process, args: &[&str]) -> Command {
    let listen = match server.address() {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut command = orderd(folder);
    command.args(args).env("ORDERD_LISTEN", listen);
    command
}

/// Runs `command` in `folder`, with nothing of orderd's in its environment.
pub fn in_clean_environment(mut command: Command, folder: &Folder) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ORDERD_")) {
        command.env_remove(name);
    }
    #[cfg(feature = "postgres")]
    if super::by_hand::is_on_postgres() {
        command.env("ORDERD_DB", folder.db());
    }
    command.current_dir(folder.path()).stdin(Stdio::null());
    command
}

/// The binary as a process. Killed when dropped.
pub struct Process {
    child: Child,
    address: Address,
    db: PathBuf,
    /// Its standard output, line by line. Locked to be shared with client threads.
    stdout: Mutex<Receiver<String>>,
    /// What it wrote to standard error so far.
    stderr: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `orderd` on a free port and on `orders.db` in `folder`, with these flags besides.
    pub fn start(folder: &Folder, flags: &[&str]) -> Process {
        let mut command = orderd(folder);
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        Process::spawn(command, folder)
    }

    /// Starts `command`, which must serve `orders.db` in `folder`, and waits until it says where it listens.
    #[track_caller]
    pub fn spawn(command: Command, folder: &Folder) -> Process {
        Process::try_spawn(command, folder).unwrap_or_else(|ended| panic!("expected an address: {ended:?}"))
    }

    /// The same for one that may be refused: how it ended, if it did not say where it listens.
    pub fn try_spawn(mut command: Command, folder: &Folder) -> Result<Process, Ended> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (into, errors) = (stderr.clone(), BufReader::new(child.stderr.take().unwrap()));
        let errors = std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).for_each(|line| *into.lock().unwrap() += &(line + "\n"));
        });
        let (lines, stdout) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        // Nobody listens here; replaced as soon as the address is known.
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let mut process = Process { child, address, db: folder.db(), stdout: Mutex::new(stdout), stderr };
        let first = process.stdout.lock().unwrap().recv_timeout(PATIENCE);
        if let Some(address) = first.as_deref().ok().and_then(address_in) {
            process.address = address;
            return Ok(process);
        }
        let code = match first {
            Err(RecvTimeoutError::Disconnected) => wait_for(&mut process.child).and_then(|status| status.code()),
            _ => None,
        };
        process.kill_and_wait();
        comes_true(PATIENCE, || errors.is_finished());
        Err(Ended { code, stdout: first.unwrap_or_default(), stderr: process.stderr() })
    }

    /// The same process, to be reached at another address, such as the absolute path of its socket.
    pub fn at(mut self, address: Address) -> Process {
        self.address = address;
        self
    }

    /// `SIGKILL`: what a crash looks like.
    pub fn kill(mut self) {
        self.kill_and_wait();
    }

    /// Sends a signal by its name.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        match wait_for(&mut self.child) {
            Some(status) => status,
            None => panic!("it does not end; standard error:\n{}", self.stderr()),
        }
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "standard error:\n{}", self.stderr());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a new connection is answered and an order would be taken. Says how long that took.
    #[track_caller]
    pub fn served_again(&self) -> Duration {
        let asked = Instant::now();
        let healthy = get("/healthz");
        let served = comes_true(PATIENCE, || {
            Client::connect(self.address()).and_then(|mut c| c.try_ask(&healthy)).is_ok_and(|answer| answer.status == 200)
        });
        assert!(served, "not served; standard error:\n{}", self.stderr());
        asked.elapsed()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The lines on standard output after the first, once it has ended.
    pub fn rest_of_stdout(&self) -> Vec<String> {
        let stdout = self.stdout.lock().unwrap();
        let mut lines = Vec::new();
        loop {
            match stdout.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => panic!("standard output is still open"),
            }
        }
    }

    fn kill_and_wait(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, by its name without `SIG`, to a process that the caller started.
#[track_caller]
pub fn signal(id: u32, name: &str) {
    let signal: Signal = format!("SIG{name}").parse().unwrap();
    kill(Pid::from_raw(id as i32), signal).unwrap_or_else(|e| panic!("cannot send {name} to {id}: {e}"));
}

/// Whether there is a process of this id that has not ended. One that nobody has waited for yet has.
pub fn is_running(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before the state may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

impl Serving for Process {
    fn address(&self) -> &Address {
        &self.address
    }

    fn db(&self) -> PathBuf {
        self.db.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_and_wait();
    }
}

fn address_in(line: &str) -> Option<Address> {
    let address = line.strip_prefix("listening on ")?;
    match address.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => address.strip_prefix("http://")?.parse().ok().map(Address::Tcp),
    }
}

fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    comes_true(PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status
}

/// What a run of the binary that ends by itself left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Runs `command` to its end, with this on its standard input.
    #[track_caller]
    pub fn fed(mut command: Command, input: impl Into<Vec<u8>>) -> Ended {
        let (reader, mut writer) = std::io::pipe().unwrap();
        command.stdin(reader);
        let input = input.into();
        // It may end before it has read all.
        std::thread::spawn(move || _ = writer.write_all(&input));
        Ended::of(command)
    }

    /// Runs `command` to its end.
    #[track_caller]
    pub fn of(mut command: Command) -> Ended {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = read_all(child.stdout.take().unwrap());
        let stderr = read_all(child.stderr.take().unwrap());
        // With it goes our end of a pipe.
        command.stdin(Stdio::null());
        let Some(status) = wait_for(&mut child) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end");
        };
        Ended { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    /// Checks that it did what it was to do, and said this alone.
    #[track_caller]
    pub fn expect_done(&self, says: &str) {
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), (Some(0), says, ""), "{self:?}");
    }

    /// Checks that it could not be done: status 1, and one line on standard error that has all of `words`.
    #[track_caller]
    pub fn expect_failed(&self, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.stderr.starts_with("orderd: ") && self.stderr.lines().count() == 1, "expected one line: {self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "expected {word:?} in {self:?}");
        }
    }

    /// Checks that it was refused as the user's to mend: status 2, and one line on standard error that has all of `words`.
    #[track_caller]
    pub fn expect_refused(&self, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:?}");
        assert!(self.stderr.ends_with('\n') && self.stderr.lines().count() == 1, "expected one line: {self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "expected {word:?} in {self:?}");
        }
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}
