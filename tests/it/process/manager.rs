//! What a service manager such as systemd sees of the binary: that it is ready, that it lives and that it stops, and the socket that
//! it passes on. No manager is needed for it: a datagram socket of the test hears the notices, and Python passes a socket.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orderd::Address;

use crate::harness::{
    Client, Ended, Folder, PATIENCE, Process, Serving, Worker, created, get, in_clean_environment, is_running, order, orderd,
    poll_until, signal,
};

/// The next notice, or none if none comes for so long.
fn next(notices: &UnixDatagram, patience: Duration) -> Option<String> {
    notices.set_read_timeout(Some(patience)).unwrap();
    let mut bytes = [0; 1_000];
    match notices.recv(&mut bytes) {
        Ok(read) => Some(String::from_utf8_lossy(&bytes[..read]).into_owned()),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(e) => panic!("{e}"),
    }
}

/// Waits for a notice that has this line.
#[track_caller]
fn expect(notices: &UnixDatagram, line: &str) -> String {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match next(notices, PATIENCE) {
            Some(notice) if notice.lines().any(|said| said == line) => return notice,
            _ => {}
        }
    }
    panic!("no {line}")
}

#[test]
fn a_manager_is_told_when_orders_are_taken_that_they_still_are_and_when_the_end_begins() {
    for flags in [&["--concurrency", "0"][..], &["--concurrency", "0", "--no-supervisor"]] {
        let folder = Folder::new();
        let notices = UnixDatagram::bind(folder.file("notices")).unwrap();
        let mut command = orderd(&folder);
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        command.env("NOTIFY_SOCKET", folder.file("notices")).env("WATCHDOG_USEC", "2000000");
        let mut server = Process::spawn(command, &folder);
        let ready = next(&notices, PATIENCE).unwrap();
        assert_eq!(ready, format!("READY=1\nSTATUS=listening on {}", server.address()));
        (0..3).for_each(|_| _ = expect(&notices, "WATCHDOG=1"));
        server.signal("TERM");
        expect(&notices, "STOPPING=1");
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    }
}

#[test]
fn while_the_child_does_not_answer_the_manager_hears_of_no_life() {
    let folder = Folder::new();
    let name = format!("orderd-{}", std::process::id());
    let notices = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "1000000");
    let server = Process::spawn(command, &folder);
    expect(&notices, "WATCHDOG=1");
    let worker = Worker::of(&server);
    worker.signal("STOP");
    // One may be on its way.
    while next(&notices, Duration::from_secs(2)).is_some() {}
    assert!(is_running(worker.id()), "{}", server.stderr());
    worker.signal("CONT");
    expect(&notices, "WATCHDOG=1");
    server.stop();
}

/// Another process's variables, as a shell that was started by a manager passes them on.
#[test]
fn what_a_manager_says_is_for_one_process_alone() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--exec", "env > seen"]);
    command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("NOTIFY_SOCKET", "/nowhere"), ("WATCHDOG_USEC", "1000000")]);
    let server = Process::spawn(command, &folder);
    server.post(order("1")).expect(200, &created("1"));
    server.wait_for("1", "Completed");
    let seen = fs::read_to_string(folder.file("seen")).unwrap();
    assert!(
        seen.contains("ORDER_ID=1") && !["LISTEN_", "NOTIFY_", "WATCHDOG_"].iter().any(|name| seen.contains(name)),
        "{seen}"
    );
    server.stop();
}

/// Binds a socket, passes it on as systemd does, and becomes the program that its arguments name.
const PASS: &str = r#"
import os, socket, sys
where, sockets = sys.argv[1], int(sys.argv[2])
kind = socket.AF_UNIX if where.startswith("/") else socket.AF_INET
s = socket.socket(kind)
s.bind(where if kind == socket.AF_UNIX else (where, 0))
if sockets: s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(sockets or 1)
os.execv(sys.argv[3], sys.argv[3:])
"#;

fn passing(folder: &Folder, where_: &str, sockets: usize, flags: &[&str]) -> Command {
    let mut command = in_clean_environment(Command::new("python3"), folder);
    command.args(["-c", PASS, where_, &sockets.to_string(), env!("CARGO_BIN_EXE_orderd")]).args(flags);
    command
}

#[test]
fn a_socket_that_a_manager_passes_is_served_and_left_to_it() {
    for alone in [&[][..], &["--no-supervisor"]] {
        let folder = Folder::new();
        let flags = [&["--listen", "127.0.0.1:1", "--exec", "ls -l /proc/$$/fd > descriptors"], alone].concat();
        let server = Process::spawn(passing(&folder, "127.0.0.1", 1, &flags), &folder);
        let Address::Tcp(address) = server.address() else { panic!("{}", server.address()) };
        assert_ne!(address.port(), 1);
        server.post(order("1")).expect(200, &created("1"));
        server.wait_for("1", "Completed");
        let descriptors = fs::read_to_string(folder.file("descriptors")).unwrap();
        assert!(descriptors.contains("pipe:") && !descriptors.contains("socket:"), "no command has it: {descriptors}");
        if alone.is_empty() {
            Worker::of(&server).signal("KILL");
            server.served_again();
        }
        server.stop();
    }
    let folder = Folder::new();
    let path = folder.file("socket");
    let server = Process::spawn(passing(&folder, path.to_str().unwrap(), 1, &[]), &folder);
    assert_eq!(server.address(), &Address::Unix(path.clone()));
    server.post(order("1")).expect(200, &created("1"));
    server.stop();
    assert!(path.exists(), "the socket is the manager's to remove");
}

#[test]
fn what_is_passed_and_is_no_one_socket_that_listens_is_refused() {
    let folder = Folder::new();
    Ended::of(passing(&folder, "127.0.0.1", 0, &[])).expect_refused(&["none that listens", "--listen"]);
    Ended::of(passing(&folder, "127.0.0.1", 2, &[])).expect_refused(&["2 sockets", "ListenStream"]);
}

/// With the program that systemd itself has for trying this out.
#[test]
fn systemd_socket_activate_starts_it_with_the_first_client() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let mut command = in_clean_environment(Command::new("systemd-socket-activate"), &folder);
    command.arg("--listen").arg(&path).arg(env!("CARGO_BIN_EXE_orderd"));
    let mut child = match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(e) => return eprintln!("not tried: systemd-socket-activate: {e}"),
    };
    poll_until(PATIENCE, || path.exists());
    let address = Address::Unix(path);
    let answered = Client::connect(&address).and_then(|mut client| client.try_ask(get("/healthz")));
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(answered.unwrap().status, 200);
}
