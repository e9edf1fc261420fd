//! The binary's log: what it begins with, what it has of an order and of a request, and that each of its lines is one.
//!
//! That nothing that a client or a command writes can forge a line is held in `processing/command.rs`, what a stop says in `stop.rs`.

use serde_json::Value;

use crate::harness::{
    Ended, Folder, PATIENCE, Process, Serving, Worker, comes_true, get, ids, order, orderd, poll_until, post, request, step,
};

/// The lines about one order, without their times.
fn about(server: &Process, order: &str) -> Vec<String> {
    let named = format!(" order={order} ");
    let log = server.stderr();
    let lines = log.lines().filter(|line| format!("{line} ").contains(&named) && !line.contains("answered"));
    lines.map(|line| line[25..].to_string()).collect()
}

#[track_caller]
fn parsed(log: &str) -> Vec<Value> {
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?} of\n{log}"))).collect();
    for line in &lines {
        assert!(line["time"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    lines
}

#[test]
fn the_log_begins_with_what_serves_where_and_what() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "exit 65"]);
    server.create(ids(0..2));
    ids(0..2).for_each(|id| _ = server.wait_for(&id, "Failed"));
    server.stop();
    // With a processor that works, those that are pending would be so for a moment only.
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(2..5));
    server.stop();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    poll_until(PATIENCE, || server.stderr().contains('\n'));
    let first = server.stderr().lines().next().unwrap_or_default().to_string();
    let expected = [
        format!(" INFO  serving version={} address={} db=", env!("CARGO_PKG_VERSION"), server.address()),
        r#"/orders.db orders=5 pending=3 failed=2 processing="nothing: orders are kept as they come""#.into(),
    ];
    for words in expected {
        assert!(first.contains(&words), "no {words:?} in {first:?}");
    }
    let server = Process::start(&Folder::new(), &["--exec", "echo 'two words' && exit 65"]);
    poll_until(PATIENCE, || server.stderr().contains(r#" processing="running echo 'two words' && exit 65""#));
    let server = Process::start(&Folder::new(), &["--processing-time", "250ms"]);
    poll_until(PATIENCE, || server.stderr().contains(r#" processing="waiting for 250ms""#));
}

#[test]
fn all_that_happens_to_an_order_is_found_by_its_id() {
    let folder = Folder::new();
    let command = "test $ORDER_ATTEMPT = 3 || { echo no stock >&2; exit 1; }";
    let flags = ["--log-level", "debug", "--exec", command, "--max-attempts", "2", "--retry-delay", "1ms"];
    let server = Process::start(&folder, &flags);
    server.post(order("a")).expect_status(200);
    server.post(order("a")).expect_status(200);
    server.wait_for("a", "Failed");
    server.ask(step("a", "retry")).expect_status(200);
    server.wait_for("a", "Completed");
    let completed = "DEBUG completed order=a attempt=3";
    poll_until(PATIENCE, || about(&server, "a").contains(&completed.to_string()));
    let lines = about(&server, "a");
    // When the next attempt comes is not the same each time, and neither is when the order was sent again.
    let lines: Vec<_> = lines.iter().map(|line| line.split(" next_in_s=").next().unwrap()).collect();
    let again = "DEBUG sent again; it was there already order=a";
    assert_eq!(lines.iter().filter(|line| **line == again).count(), 1, "{lines:#?}");
    let lines: Vec<_> = lines.into_iter().filter(|line| *line != again).collect();
    let says = |attempt| format!(r#"INFO  its command says order=a attempt={attempt} stream=stderr text="no stock""#);
    let expected = [
        "DEBUG created order=a",
        "DEBUG an attempt begins order=a attempt=1",
        &says(1),
        r#"WARN  an attempt failed; another follows order=a attempt=1 why="exit status 1""#,
        "DEBUG an attempt begins order=a attempt=2",
        &says(2),
        r#"WARN  an attempt failed; the order is Failed order=a attempt=2 why="exit status 1""#,
        "INFO  an operator has it tried again order=a attempts=2",
        "DEBUG an attempt begins order=a attempt=3",
        completed,
    ];
    // The committer tells of the order when the processor may have begun.
    let (mut lines, mut expected) = (lines, expected.to_vec());
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{}", server.stderr());
    assert!(server.stderr().contains(" next_in_s=0"), "{}", server.stderr());
    server.stop();
}

#[test]
fn what_an_operator_does_to_an_order_is_found_by_its_id() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--log-level", "debug", "--concurrency", "0", "--keep", "1ms"]);
    server.post(order("a")).expect_status(200);
    server.ask(step("a", "cancel")).expect_status(200);
    let deleted = "DEBUG deleted order=a status=Cancelled";
    poll_until(PATIENCE, || about(&server, "a").contains(&deleted.to_string()));
    assert_eq!(about(&server, "a"), ["DEBUG created order=a", "INFO  cancelled by an operator order=a attempts=0", deleted]);
    poll_until(PATIENCE, || server.stderr().contains("kept for long enough are deleted status=Cancelled deleted=1"));
}

/// Where what a command says is not logged, the line of its failure has it.
#[test]
fn a_failure_is_told_with_its_reason_also_where_output_is_not() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--log-level", "warn", "--exec", "echo no stock >&2; exit 65"]);
    server.post(order("a")).expect_status(200);
    server.wait_for("a", "Failed");
    poll_until(PATIENCE, || about(&server, "a").len() == 1);
    assert_eq!(about(&server, "a"), [r#"WARN  an attempt failed; the order is Failed order=a attempt=1 why="no stock""#]);
}

#[test]
fn waiting_is_told_as_work_is_and_a_start_names_what_it_takes_up_again() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "1h"]);
    server.create(ids(0..2));
    poll_until(PATIENCE, || server.metrics().processing == 2);
    server.kill();
    let server = Process::start(&folder, &["--processing-time", "0s", "--log-level", "debug"]);
    server.wait_until_completed(2);
    for id in ["o-0", "o-1"] {
        let completed = format!("DEBUG completed order={id} attempt=2");
        poll_until(PATIENCE, || about(&server, id).contains(&completed));
        let again = format!("INFO  taken up again; orderd ended while it was processed order={id} attempt=1");
        assert_eq!(about(&server, id), [again, format!("DEBUG an attempt begins order={id} attempt=2"), completed]);
    }
}

/// With what a client sends as its path: nothing of its query, and no more than a bound of it.
#[test]
fn with_debug_each_request_has_a_line_without_its_secrets() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--log-level", "debug", "--concurrency", "0"]);
    let id = "x".repeat(5_000);
    // Of one connection the lines come in the order of the answers.
    let mut client = server.client();
    client.ask(post(order("1"))).expect_status(200);
    client.ask("GET /order/1?token=secret HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n\r\n");
    client.ask(get(&format!("/order/{id}"))).expect_status(400);
    client.ask(get("/\"order=9")).expect_status(404);
    client.ask(request("PUT", "/order", &[], "")).expect_status(405);
    poll_until(PATIENCE, || server.stderr().matches("DEBUG answered ").count() >= 5);
    let log = server.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("DEBUG answered ")).collect();
    assert!(
        lines[0].contains("answered method=POST path=/order status=200 ms=") && lines[0].ends_with(" bytes=43"),
        "{}",
        lines[0]
    );
    assert!(lines[1].contains("method=GET path=/order/1 status="), "{}", lines[1]);
    assert!(lines[2].contains("path=/order/xxx") && lines[2].len() < 1_200, "{} bytes", lines[2].len());
    assert!(lines[3].contains(r#"path="/\"order\=9" status=404"#), "{}", lines[3]);
    assert!(lines[4].contains("method=PUT path=/order status=405"), "{}", lines[4]);
    assert!(!log.contains("secret"), "{log}");
    server.stop();
}

#[test]
fn with_json_every_line_of_parent_and_child_is_an_object() {
    let folder = Folder::new();
    let command = r#"printf '"\\\033\342\200\250=%s\n' "$ORDER_ID" >&2; exit 65"#;
    let server = Process::start(&folder, &["--log-format", "json", "--log-level", "debug", "--exec", command]);
    let id = "\"\\ \u{202e}\u{2028}ä";
    server.post(order(r#"\"\\ \u202e\u2028ä"#)).expect_status(200);
    let has_failed = |server: &Process| {
        parsed(&server.stderr()).iter().any(|line| line["message"] == "an attempt failed; the order is Failed")
    };
    assert!(comes_true(PATIENCE, || has_failed(&server)), "{}", server.stderr());
    let worker = Worker::of(&server);
    worker.signal("KILL");
    worker.successor(&server);
    server.served_again();
    let mut server = server;
    server.signal("TERM");
    server.wait();
    let log = server.stderr();
    assert!(!log.contains(['\u{1b}', '\u{202e}', '\u{2028}']), "{log:?}");
    let lines = parsed(&log);
    let with = |message: &str| {
        lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {log}"))
    };
    let failed = with("an attempt failed; the order is Failed");
    assert_eq!((&failed["order"], &failed["attempt"], &failed["level"]), (&id.into(), &1.into(), &"warn".into()));
    assert_eq!(with("serving")["orders"], 0);
    assert_eq!(with("the serving process ended")["how"], "signal: 9 (SIGKILL)");
    assert_eq!(with("answered")["status"], 200);
    with("stopped");
}

#[test]
fn with_json_the_reason_of_an_end_is_an_object_too() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--log-format", "json", "--listen", "127.0.0.1:0", "--db", "no/such/orders.db"]);
    let ended = Ended::of(command);
    let lines = parsed(&ended.stderr);
    assert!(ended.code == Some(2) && lines.len() == 1 && lines[0]["level"] == "error", "{ended:?}");
    let message = lines[0]["message"].as_str().unwrap();
    assert!(message.contains("the folder no/such does not exist") && message.contains("mkdir -p"), "{message}");
}

/// Nothing but a terminal has colours.
#[test]
fn a_log_in_a_pipe_has_no_colours() {
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--log-level", "debug"]).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let server = Process::spawn(command, &folder);
    server.get("/order/1").expect_status(404);
    poll_until(PATIENCE, || server.stderr().contains("DEBUG answered"));
    assert!(!server.stderr().contains('\u{1b}'), "{}", server.stderr());
}
