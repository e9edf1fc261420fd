//! The command line: flags and their twins in the environment, what is refused and how it is said, signals, and sockets.
//!
//! What is refused is refused in one line that names it, with status 2, and leaves no file behind. What a signal means while
//! commands run is held in `stop.rs`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

use orderd::Address;
use orderd::config::SETTINGS;

use crate::harness::{
    Client, Ended, Folder, PATIENCE, Process, Serving, connection, created, in_clean_environment, in_status, order, orderd,
    poll_until, request, signal,
};

fn run(folder: &Folder, args: &[&str]) -> Ended {
    let mut command = orderd(folder);
    command.args(args);
    Ended::of(command)
}

/// Runs it on a free port, for what must be refused before it listens.
fn refused(folder: &Folder, db: &str, words: &[&str]) {
    run(folder, &["--listen", "127.0.0.1:0", "--db", db]).expect_refused(words);
}

#[test]
fn help_names_every_flag_with_its_default() {
    let folder = Folder::new();
    for flag in ["--help", "-h", "help"] {
        let ended = run(&folder, &[flag]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        for setting in SETTINGS {
            let flag = format!("--{} {}", setting.flag, setting.value);
            let (_, rest) = ended.stdout.split_once(&flag).unwrap_or_else(|| panic!("no {flag} in {}", ended.stdout));
            // A long line has its default below.
            let words = rest.split("\n  -").next().unwrap();
            let default = if setting.is_switch() { "" } else { setting.default };
            assert!(words.contains(setting.help) && words.contains(default), "no {default} in {words}");
        }
        let longest = ended.stdout.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "a line of {longest:?} columns in\n{}", ended.stdout);
        assert!(ended.stdout.contains("ORDERD_"), "{}", ended.stdout);
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn each_subcommand_has_a_help_of_its_own_by_every_name() {
    let folder = Folder::new();
    let all = run(&folder, &["--help"]).stdout;
    let (_, list) = all.split_once("--help\n\n").unwrap();
    let names: Vec<_> = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split(' ').nth(2)).collect();
    assert!(names.contains(&"serve") && names.contains(&"retry") && names.contains(&"version"), "{names:?} in {all}");
    for name in names {
        let of_word = run(&folder, &["help", name]);
        let usage = format!("Usage: orderd {name}");
        assert!(of_word.code == Some(0) && of_word.stdout.contains(&usage) && of_word.stderr.is_empty(), "{of_word:?}");
        let of_flag = [[name, "--help"], [name, "-h"]].map(|args| run(&folder, &args).stdout);
        assert!(of_flag.iter().all(|text| *text == of_word.stdout), "{of_flag:?}");
        assert!(of_word.stdout.lines().all(|line| line.chars().count() <= 80), "{}", of_word.stdout);
    }
    let retry = run(&folder, &["retry", "--help"]).stdout;
    assert!(retry.contains("gets one more") && retry.contains("--failed") && retry.contains("--listen"), "{retry}");
    assert!(!retry.contains("--workers"), "what is of no concern: {retry}");
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn the_version_is_that_of_the_crate() {
    let folder = Folder::new();
    for flag in ["--version", "-V", "-v", "version"] {
        let ended = run(&folder, &[flag]);
        let version = format!("orderd {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), version.as_str(), ""));
    }
}

/// That it is the first line is what the harness relies on.
#[test]
fn the_address_is_the_only_line_on_standard_output() {
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["serve"]);
    let Address::Tcp(address) = server.address().clone() else { panic!("no port in {}", server.address()) };
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    server.post(order("1")).expect(200, &created("1"));
    server.signal("TERM");
    server.wait();
    assert_eq!(server.rest_of_stdout(), [""; 0]);
}

#[test]
fn every_flag_has_a_twin_in_the_environment() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.envs([
        ("ORDERD_LISTEN", "127.0.0.1:0"),
        ("ORDERD_DB", "orders.db"),
        ("ORDERD_PROCESSING_TIME", "0s"),
        ("ORDERD_CONCURRENCY", "1"),
        ("ORDERD_WORKERS", "2"),
        ("ORDERD_SHUTDOWN_TIMEOUT", "30s"),
        ("ORDERD_LOG_LEVEL", "off"),
    ]);
    let server = Process::spawn(command, &folder);
    server.post(order("1")).expect(200, &created("1"));
    // Sooner than the default lets it.
    server.wait_until_completed(1);
    assert_eq!(server.stderr(), "");

    // Any text names a file or a command; a token file that is not there is refused elsewhere.
    for setting in SETTINGS.iter().filter(|setting| !["db", "exec", "token-file"].contains(&setting.flag)) {
        let mut command = orderd(&folder);
        command.env(setting.variable(), "?");
        Ended::of(command).expect_refused(&[&setting.variable(), "\"?\""]);
    }
}

#[test]
fn a_variable_that_is_no_twin_is_told_with_the_nearest() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    // The mark of a command, such as one that starts another orderd, is no slip.
    command.env("ORDERD_MAX_ATTEMPS", "3").env("ORDERD_COMMAND_OF", "1:2").args(["--listen", "127.0.0.1:0"]);
    let server = Process::spawn(command, &folder);
    let told: Vec<_> = server.stderr().lines().filter(|line| line.contains("ORDERD_")).map(str::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("ORDERD_MAX_ATTEMPS"), "{told:?}");
    assert!(told[0].contains("did you mean ORDERD_MAX_ATTEMPTS?"), "{told:?}");
    server.stop();
}

#[test]
fn a_flag_wins_over_its_twin() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.env("ORDERD_DB", "twin.db").env("ORDERD_LISTEN", "127.0.0.1:1").env("ORDERD_CONCURRENCY", "10");
    command.args(["--db=orders.db", "--listen", "127.0.0.1:0", "--concurrency", "0"]);
    let server = Process::spawn(command, &folder);
    server.post(order("1")).expect(200, &created("1"));
    assert!(!folder.file("twin.db").exists() && folder.file("orders.db").exists(), "{:?}", folder.names());
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line_that_names_it() {
    let folder = Folder::new();
    for (args, words) in [
        (&["--colour", "red"][..], &["--colour", "--help"][..]),
        (&["--lsiten", "red"], &["--lsiten", "did you mean --listen?"]),
        (&["--no-supervisr"], &["did you mean --no-supervisor?"]),
        (&["serv"], &["\"serv\"", "did you mean serve?"]),
        (&["rerty", "1"], &["\"rerty\"", "did you mean retry?"]),
        (&["help", "me"], &["\"me\"", "--help"]),
        (&["help", "rerty"], &["did you mean retry?"]),
        (&["help", "retry", "prune"], &["orderd help", "--help"]),
        (&["retry", "--faild"], &["\"--faild\"", "did you mean --failed?", "orderd retry --help"]),
        (&["retry", "1", "--workers", "2"], &["--workers", "serve", "orderd retry --help"]),
        (&["-x"], &["-x", "--help"]),
        (&["frobnicate"], &["frobnicate", "--help"]),
        (&["serve", "serve"], &["serve", "--help"]),
        (&["--workers"], &["--workers", "--help"]),
        (&["--workers", "0"], &["--workers", "\"0\"", "1 to 256"]),
        (&["--workers=many"], &["--workers", "\"many\""]),
        (&["--concurrency", "-1"], &["--concurrency"]),
        (&["--processing-time", "5"], &["--processing-time", "\"5\"", "5s"]),
        (&["--processing-time", "99999999999999999999y"], &["--processing-time"]),
        (&["--shutdown-timeout", "soon"], &["--shutdown-timeout", "\"soon\""]),
        (&["--log-level", "loud"], &["--log-level", "\"loud\"", "debug"]),
        (&["--listen", "8000"], &["--listen", "\"8000\"", "127.0.0.1:8000"]),
        (&["--listen", "127.0.0.1:99999"], &["--listen", "99999"]),
        (&["--listen", "unix:"], &["--listen", "unix:/run/orderd.sock"]),
        (&["--listen", "192.0.2.1:0"], &["192.0.2.1:0", "--listen"]),
        (&["--listen", "unix:no/such/folder/s"], &["no/such/folder/s", "--listen"]),
        (&["--db", ""], &["--db"]),
        (&["--db", "two\nlines?", "--workers", "two\nlines"], &["--workers", "two\\nlines"]),
    ] {
        run(&folder, args).expect_refused(words);
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_file_that_is_no_orderd_database_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let foreign = |db: &str| {
        let before = fs::read(folder.file(db)).unwrap();
        refused(&folder, db, &[db, "not an orderd database", "--db"]);
        assert!(fs::read(folder.file(db)).unwrap() == before, "{db} was touched");
    };
    let random: Vec<u8> = (0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.file("random.db"), &random).unwrap();
    foreign("random.db");
    fs::write(folder.file("one-byte.db"), "o").unwrap();
    foreign("one-byte.db");
    fs::write(folder.file("cut-short.db"), "SQLite format 3\0").unwrap();
    foreign("cut-short.db");

    let other = connection(&folder.file("other.db"));
    other.execute_batch("CREATE TABLE orders (id INTEGER); PRAGMA user_version = 1").unwrap();
    drop(other);
    foreign("other.db");
    let other = connection(&folder.file("other-with-a-log.db"));
    other.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE orders (id INTEGER); PRAGMA application_id = 7").unwrap();
    drop(other);
    foreign("other-with-a-log.db");

    let left: Vec<_> = folder.names().into_iter().filter(|name| !name.ends_with(".db") && !name.ends_with(".lock")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_file_of_a_newer_orderd_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    Process::start(&folder, &[]).stop();
    let newer = connection(&folder.file("orders.db"));
    let known: i64 = newer.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    newer.pragma_update(None, "user_version", known + 1).unwrap();
    drop(newer);
    let before = fs::read(folder.file("orders.db")).unwrap();
    refused(&folder, "orders.db", &["orders.db", "newer orderd", "install that version"]);
    assert!(fs::read(folder.file("orders.db")).unwrap() == before, "the file was touched");
    assert_eq!(folder.names(), ["orders.db", "orders.db.lock"]);
}

#[test]
fn a_database_that_cannot_be_opened_is_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.file("folder")).unwrap();
    refused(&folder, "folder", &["folder", "--db"]);
    refused(&folder, "no/such/folder/orders.db", &["no/such/folder/orders.db", "--db"]);
    // Not writable for root either.
    refused(&folder, "/proc/orders.db", &["/proc/orders.db", "--db"]);
    fs::write(folder.file("file"), "").unwrap();
    refused(&folder, "file/orders.db", &["file/orders.db", "--db"]);
    assert!(folder.file("folder").is_dir());
}

/// Promise 4.
#[test]
fn a_second_orderd_on_the_same_file_says_so_and_the_first_goes_on() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("1")).expect(200, &created("1"));
    refused(&folder, "orders.db", &["orders.db", "another orderd", "--db"]);
    // Another name for the same file is no way around.
    std::os::unix::fs::symlink("orders.db", folder.file("link.db")).unwrap();
    refused(&folder, "link.db", &["link.db", "another orderd"]);
    server.get("/order/1").expect(200, &in_status("1", "Pending"));
    server.post(order("2")).expect(200, &created("2"));
}

#[test]
fn a_taken_port_is_refused_before_any_file_is_made() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(&folder, &["--listen", &address]).expect_refused(&[&address, "in use", "--listen"]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_signal_stops_it_in_an_orderly_way() {
    let supervised = ["--processing-time", "1h"];
    let alone = ["--processing-time", "1h", "--no-supervisor"];
    for (signal, flags) in [("TERM", &supervised[..]), ("INT", &supervised), ("TERM", &alone), ("INT", &alone)] {
        let folder = Folder::new();
        let mut server = Process::start(&folder, flags);
        server.post(order("1")).expect(200, &created("1"));
        poll_until(PATIENCE, || server.status("1") == "Processing");
        // A client that stays connected does not hold the stop up.
        let mut idle = server.client();
        idle.ask(request("GET", "/metrics", &[], "")).expect_status(200);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        // The log is written back and gone, so the one file can be copied.
        assert_eq!(folder.names(), ["orders.db", "orders.db.lock"], "{signal} {flags:?}");
        assert_eq!(server.rows()[0].status, "Pending", "{signal} {flags:?}");
        assert!(Client::connect(server.address()).is_err(), "something still listens after {signal} {flags:?}");
    }
}

/// The kernel has no default action for signals to process 1. Needs a process namespace; where there can be none, it says so.
#[test]
fn process_1_of_a_container_stops_in_an_orderly_way() {
    let folder = Folder::new();
    let in_container = |program: &str| {
        let mut command = in_clean_environment(Command::new("unshare"), &folder);
        command.args(["--pid", "--fork", "--kill-child", program]);
        command
    };
    if !in_container("true").status().is_ok_and(|status| status.success()) {
        eprintln!("not tried: no process namespace can be made here");
        return;
    }
    let mut command = in_container(env!("CARGO_BIN_EXE_orderd"));
    command.args(["--listen", "127.0.0.1:0"]);
    let mut server = Process::spawn(command, &folder);
    let id = server.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let first: u32 = children.trim().parse().unwrap_or_else(|_| panic!("expected one child, got {children:?}"));
    signal(first, "TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert_eq!(folder.names(), ["orders.db", "orders.db.lock"]);
}

#[test]
fn a_second_signal_cuts_the_stop_short() {
    for flags in [&["--shutdown-timeout", "10m"][..], &["--shutdown-timeout", "10m", "--no-supervisor"]] {
        let folder = Folder::new();
        let mut server = Process::start(&folder, &[flags, &["--exec", "echo > begun; exec sleep 100"]].concat());
        // The stop has to wait for its command.
        server.post(order("1")).expect(200, &created("1"));
        poll_until(PATIENCE, || folder.file("begun").exists());
        server.signal("TERM");
        poll_until(PATIENCE, || server.stderr().contains("stopping"));
        server.signal("INT");
        assert_eq!(server.wait().code(), Some(128 + 2), "{flags:?}: {}", server.stderr());
    }
}

#[test]
fn it_serves_on_a_unix_socket_and_replaces_one_that_nobody_listens_on() {
    let folder = Folder::new();
    let socket = folder.file("orderd.sock");
    let listen = format!("unix:{}", socket.display());
    let start = || {
        let mut command = orderd(&folder);
        command.args(["--listen", &listen, "--concurrency", "0"]);
        Process::spawn(command, &folder)
    };
    let server = start();
    assert_eq!(*server.address(), Address::Unix(socket.clone()));
    server.post(order("1")).expect(200, &created("1"));
    run(&folder, &["--listen", &listen, "--db", "other.db"]).expect_refused(&[&listen, "in use", "--listen"]);
    server.get("/order/1").expect(200, &in_status("1", "Pending"));

    server.kill();
    assert!(socket.exists(), "a killed server leaves its socket behind");
    poll_until(PATIENCE, || Client::connect(&Address::Unix(socket.clone())).is_err());
    let server = start();
    server.get("/order/1").expect(200, &in_status("1", "Pending"));
    server.stop();

    // One that another program left behind is as stale.
    let _ = fs::remove_file(&socket);
    drop(UnixListener::bind(&socket).unwrap());
    start().stop();
}

#[test]
fn a_plain_file_in_the_place_of_a_socket_is_not_removed() {
    let folder = Folder::new();
    fs::write(folder.file("notes"), "mine").unwrap();
    run(&folder, &["--listen", "unix:notes"]).expect_refused(&["unix:notes", "--listen"]);
    assert_eq!(fs::read_to_string(folder.file("notes")).unwrap(), "mine");
    assert_eq!(folder.names(), ["notes"]);
}
