//! The subcommands that ask a running server, as an operator types them: list, show, cancel, healthcheck, and completions for shells.
//!
//! What went wrong is one line with a status that a script can tell; what clients have put into ids stays text.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Ended, Folder, PATIENCE, Process, Serving, asking, by_hand, created, ids, in_status, order, orderd};

fn run(folder: &Folder, server: &Process, args: &[&str]) -> Ended {
    Ended::of(asking(folder, server, args))
}

/// Its standard output, of a run that went well.
#[track_caller]
fn shown(ended: &Ended) -> &str {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    &ended.stdout
}

#[test]
fn a_list_is_a_table_of_the_newest_orders_and_follows_the_pages() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let none = run(&folder, &server, &["list"]);
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (Some(0), "", "no such order\n"));
    server.create(ids(0..250));
    server.post(order("mine").replace("user1", "user 2&x")).expect_status(200);
    let failed = "UPDATE orders SET status = 'Failed', attempts = 5, last_error = 'no stock' WHERE order_id = 'o-7'";
    by_hand(&server.db(), failed);

    let list = |args: &[&str]| shown(&run(&folder, &server, &[&["list"][..], args].concat())).to_string();
    let text = list(&["--limit", "3"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "ORDER  STATUS   USER      ITEMS  AMOUNT  CREATED              TRIES  ERROR", "{text}");
    assert!(lines[1].starts_with("mine   Pending  user 2&x  2      100.0   20"), "{text}");
    assert!(lines[2].starts_with("o-249  Pending  user1     2      100.0   20") && lines.len() == 4, "{text}");
    assert!(lines.iter().all(|line| !line.ends_with(' ')), "{text}");

    let names = |text: &str| text.lines().skip(1).map(|line| line.split(' ').next().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&list(&[])).len(), 20);
    let all: Vec<String> =
        std::iter::once("mine".to_string()).chain(ids(0..250).collect::<Vec<_>>().into_iter().rev()).collect();
    assert_eq!(names(&list(&["--limit", "1000000"])), all);
    assert_eq!(names(&list(&["--limit", "101"])), all[..101]);
    assert_eq!(names(&list(&["--user", "user 2&x"])), ["mine"]);
    let failed = list(&["--status", "Failed", "--user", "user1"]);
    assert!(names(&failed) == ["o-7"] && failed.contains("5      no stock"), "{failed}");
    let json: Vec<serde_json::Value> =
        list(&["--limit", "130", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(json.len() == 130 && json[0] == server.record("mine") && json[129]["order_id"] == "o-121");
    assert_eq!(list(&["--user", "nobody", "--json"]), "");
    server.stop();
}

#[test]
fn one_order_is_shown_with_all_that_is_known_of_it() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order("a/b c")).expect(200, &created("a/b c"));
    let ended = run(&folder, &server, &["show", "a/b c"]);
    let rows: Vec<(&str, &str)> = shown(&ended).lines().map(|line| (line[..12].trim_end(), line[12..].trim_start())).collect();
    let (name, created_at) = rows[6];
    assert!(name == "created_at" && created_at.len() == 24, "{rows:?}");
    let expected = [
        ("order_id", "a/b c"),
        ("status", "Pending"),
        ("user_id", "user1"),
        ("item_ids", "item1"),
        ("", "item2"),
        ("total_amount", "100.0"),
        ("created_at", created_at),
        ("started_at", "-"),
        ("completed_at", "-"),
        ("attempts", "0"),
        ("last_error", "-"),
    ];
    assert_eq!(rows, expected);
    let json = run(&folder, &server, &["show", "a/b c", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(shown(&json)).unwrap(), server.record("a%2Fb%20c"));
    run(&folder, &server, &["show", "nobody"]).expect_failed(&["nobody: Order not found"]);
    server.stop();
}

/// Also that a terminal gets no more than fits.
#[test]
fn what_is_in_an_id_stays_text() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    // An API client can put no control characters there; who writes to the file can.
    for id in ["\\u202eevil", "tag<script>", "\\u2028line"] {
        server.post(order(id)).expect_status(200);
    }
    let sql = "UPDATE orders SET order_id = '\u{1b}[31mred', last_error = 'a\nb\u{9b}c' WHERE order_id LIKE 'tag%'";
    by_hand(&server.db(), sql);
    for args in [&["list"][..], &["list", "--json"], &["show", "\u{202e}evil"], &["show", "\u{202e}evil", "--json"]] {
        let ended = run(&folder, &server, args);
        let text = shown(&ended);
        let obeyed = text.chars().find(|c| *c != '\n' && (c.is_control() || ['\u{202e}', '\u{2028}'].contains(c)));
        assert_eq!(obeyed, None, "{text:?}");
        let escape = if args.contains(&"--json") { "\\u202eevil" } else { "\\u{202e}evil" };
        assert!(text.contains(escape), "{text:?}");
    }
    let list = run(&folder, &server, &["list"]);
    assert!(shown(&list).contains("\\u{1b}[31mred") && shown(&list).contains("a\\nb\\u{9b}c"), "{list:?}");
    run(&folder, &server, &["show", "\u{202e}x\u{1b}[2J"]).expect_failed(&["\\u{202e}x\\u{1b}[2J: "]);
    server.stop();
}

#[test]
fn on_a_terminal_a_line_is_as_long_as_the_terminal_is_wide() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.post(order(&"i".repeat(200))).expect_status(200);
    let mut command = in_a_terminal(&folder, &server, "stty cols 60; $ORDERD list");
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let widths: Vec<usize> = output.lines().map(|line| line.trim_end().chars().count()).collect();
    assert!(widths.len() == 2 && widths.iter().all(|width| *width <= 60) && output.contains("iii…"), "{widths:?} {output:?}");
    let mut command = in_a_terminal(&folder, &server, "stty cols 20; $ORDERD list");
    assert!(command.output().unwrap().status.success(), "narrower than anything fits");
    server.stop();
}

/// A shell that has a terminal, by util-linux' `script`.
fn in_a_terminal(folder: &Folder, server: &Process, line: &str) -> Command {
    let asking = asking(folder, server, &[]);
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).current_dir(folder.path()).stdin(Stdio::null());
    command.env("ORDERD", asking.get_program());
    command.envs(asking.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn the_status_says_what_is_going_on() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..1_200));
    let failed = "UPDATE orders SET status = 'Failed', attempts = 5, last_error = '\u{1b}[2Jno stock' WHERE order_id = 'o-7'";
    by_hand(&server.db(), failed);
    let ended = run(&folder, &server, &["status"]);
    let text = shown(&ended);
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    assert!(row("Pending").ends_with(" 1,199") && row("Failed").ends_with(" 1") && row("Completed").ends_with(" 0"), "{text}");
    assert!(row("created").ends_with(" 0/s") && row("finished").ends_with(" 0/s"), "{text}");
    assert!(row("oldest pending").contains("created ") && row("oldest pending").ends_with("s ago"), "{text}");
    assert!(row("o-7").contains(" 5 ") && row("o-7").ends_with("\\u{1b}[2Jno stock"), "{text}");

    // Between the two looks some are created.
    let creating = std::thread::scope(|scope| {
        let asked = scope.spawn(|| run(&folder, &server, &["status", "--json"]));
        let mut next = 10_000;
        while !asked.is_finished() {
            server.create(ids(next..next + 10));
            next += 10;
        }
        asked.join().unwrap()
    });
    let json: serde_json::Value = serde_json::from_str(shown(&creating)).unwrap();
    assert!(json["created_per_second"].as_f64().unwrap() > 5.0 && json["finished_per_second"] == 0.0, "{json}");
    assert!(json["orders"]["Pending"].as_u64().unwrap() > 1_199 && json["orders"]["Failed"] == 1, "{json}");
    assert!(json["oldest_pending_seconds"].as_f64().unwrap() > 0.5 && json["failed"][0]["order_id"] == "o-7", "{json}");
    server.stop();
    Ended::of(asking_nobody(&folder, "status")).expect_failed(&["start it", "--listen"]);
}

fn asking_nobody(folder: &Folder, word: &str) -> Command {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = orderd(folder);
    command.args([word, "--listen", &free]);
    command
}

/// It tells of a server that is gone and of one that is back, clears a terminal, and writes no escapes elsewhere.
#[test]
fn a_status_that_is_watched_goes_on() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let listen = server.address().to_string().replace("http://", "");
    let mut watching = asking(&folder, &server, &["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut wait_for = |word: &str| {
        let until = Instant::now() + PATIENCE;
        let found = lines.by_ref().find(|line| line.contains(word) || Instant::now() > until).unwrap();
        assert!(found.contains(word) && !found.contains('\u{1b}'), "no {word}: {found}");
    };
    wait_for("oldest pending");
    wait_for("oldest pending");
    server.stop();
    wait_for("cannot reach orderd");
    let server = Process::start(&folder, &["--concurrency", "0", "--listen", &listen]);
    wait_for("oldest pending");
    // Nobody reads any more, so it ends.
    drop(lines);
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let seen = in_a_terminal(&folder, &server, "timeout 4 $ORDERD status --watch").output().unwrap().stdout;
    assert!(String::from_utf8(seen).unwrap().contains("\u{1b}[H\u{1b}[2J"), "it begins at the upper left");
    server.stop();
}

#[test]
fn a_pending_order_is_cancelled_and_no_other() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..2));
    run(&folder, &server, &["cancel", "o-0"]).expect_done("o-0 is cancelled\n");
    server.get("/order/o-0").expect(200, &in_status("o-0", "Cancelled"));
    run(&folder, &server, &["cancel", "o-0"]).expect_failed(&["o-0: "]);
    run(&folder, &server, &["cancel", "nobody"]).expect_failed(&["nobody: Order not found"]);
    server.get("/order/o-1").expect(200, &in_status("o-1", "Pending"));
    run(&folder, &server, &["cancel"]).expect_refused(&["orderd cancel ID", "--help"]);
    server.stop();
}

#[test]
fn a_health_check_says_by_its_status_whether_all_is_well_and_takes_no_longer_than_it_may() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    run(&folder, &server, &["healthcheck"]).expect_done("ok\n");
    server.stop();
    let ask = |listen: &str| {
        let mut command = orderd(&folder);
        command.args(["healthcheck", "--listen", listen]);
        Ended::of(command)
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    ask(&free).expect_failed(&[&free, "start it"]);
    ask("unix:nobody.sock").expect_failed(&["nobody.sock"]);

    // One that is silent, one that says a byte now and then, and one that is not well.
    for says in [
        "",
        "HTTP/1.1 200 OK\r\nA: ",
        "HTTP/1.1 503 x\r\nContent-Length: 41\r\n\r\n{\"detail\":\"no disk\",\"code\":\"unavailable\"}\n",
    ] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(says.as_bytes()).unwrap();
            while !says.is_empty() && stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(300));
            }
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let begun = Instant::now();
        let words = if says.contains("503") { "not well: no disk" } else { "in time" };
        ask(&address).expect_failed(&[words]);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..500));
    for args in [&["list", "--limit", "1000", "--json"][..], &["list", "--limit", "1000"]] {
        let mut command = asking(&folder, &server, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{first}");
    }
    let mut command = asking(&folder, &server, &["list"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(full.stderr).unwrap();
    assert!(full.status.code() == Some(1) && said.contains("cannot write to standard output"), "{said}");
    server.stop();
}

#[test]
fn what_was_typed_wrong_is_refused_with_what_would_be_right() {
    let folder = Folder::new();
    let run = |args: &[&str]| {
        let mut command = orderd(&folder);
        command.args(args);
        Ended::of(command)
    };
    run(&["list", "--status", "pendin"]).expect_refused(&["--status", "did you mean Pending?", "Completed"]);
    run(&["list", "--limit", "0"]).expect_refused(&["--limit", "\"0\"", "from 1 on"]);
    run(&["list", "o-1"]).expect_refused(&["orderd list [--status S]", "orderd list --help"]);
    run(&["lits"]).expect_refused(&["\"lits\"", "did you mean list?"]);
    run(&["show"]).expect_refused(&["orderd show ID", "--help"]);
    run(&["show", "1", "--jsn"]).expect_refused(&["did you mean --json?", "orderd show --help"]);
    run(&["completions", "bsh"]).expect_refused(&["\"bsh\"", "did you mean bash?"]);
    assert_eq!(folder.names(), [""; 0]);
}

/// The shells that are there read it; bash also completes by it.
#[test]
fn shells_complete_what_there_is() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let mut command = orderd(&folder);
        command.args(["completions", shell]);
        let ended = Ended::of(command);
        let script = shown(&ended);
        for word in ["list", "healthcheck", "status", "Cancelled", "token-file", "log-level"] {
            assert!(script.contains(word), "no {word} for {shell}:\n{script}");
        }
        std::fs::write(folder.file(shell), script).unwrap();
        match Command::new(shell).arg("-n").arg(folder.file(shell)).output() {
            Ok(checked) => assert!(checked.status.success() && checked.stderr.is_empty(), "{shell}: {checked:?}"),
            Err(_) => eprintln!("not tried: {shell} is not here"),
        }
    }
    let complete = |words: &str| {
        let script = format!(
            "source ./bash; COMP_WORDS=(orderd {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _orderd; echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    };
    assert_eq!(complete("li"), "list");
    assert_eq!(complete("--lis"), "--listen");
    assert_eq!(complete("list --l"), "--limit --listen");
    assert_eq!(complete("list --status C"), "Completed Cancelled");
    assert_eq!(complete("help hea"), "healthcheck");
    assert_eq!(complete("serve --token-file ba"), "bash");
    assert_eq!(complete("show --w"), "");
}
