//! Work that is a command: what it is given, what its end and its output mean, and that it ends when it must.
//!
//! Where a command has to run out of time, the test turns the clock. What it leaves behind is looked for in `/proc`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use orderd::Config;
use serde_json::Value;

use crate::harness::{
    Folder, Held, Local, PATIENCE, Process, Serving, Worker, comes_true, created, ids, in_clean_environment, is_running,
    left_out, order, poll_until, signal,
};

/// A server in this process whose work is `command`, which is tried twice.
fn running(command: &str, change: impl FnOnce(&mut Config)) -> Local {
    Local::running(command, |config| {
        config.max_attempts = 2;
        config.shutdown_timeout = Duration::ZERO;
        change(config);
    })
}

/// The process id that a command has written to a file.
#[track_caller]
fn process_in(server: &Local, name: &str) -> u32 {
    let mut id = None;
    let path = server.folder().file(name);
    poll_until(PATIENCE, || {
        // The newline shows that all of it is there.
        id = fs::read_to_string(&path).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        id.is_some()
    });
    id.unwrap()
}

/// An order's status, attempts and last error once it is as it should be.
#[track_caller]
fn ending(server: &impl Serving, id: &str, status: &str) -> (u64, String) {
    let record = server.wait_for(id, status);
    (record["attempts"].as_u64().unwrap(), record["last_error"].as_str().unwrap_or_default().to_string())
}

#[test]
fn a_thousand_orders_are_each_completed_by_one_run_of_true() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "true", "--concurrency", "16"]);
    server.create(ids(0..1_000));
    server.wait_until_completed(1_000);
    assert!(server.rows().iter().all(|row| row.attempts == 1), "a command ran twice");
    server.stop();
}

#[test]
fn a_command_is_given_the_record_and_who_it_works_for_and_nothing_of_ours() {
    let folder = Folder::new();
    let command = "cat > input; env > environment; ls /proc/self/fd > descriptors; cut -d' ' -f5 /proc/$$/stat > group; \
                   echo $$ > process; test $ORDER_ATTEMPT = 2";
    let server = Process::start(&folder, &["--exec", command, "--retry-delay", "0s"]);
    server.post(order("a b").replace("100.0", "10.50")).expect(200, &created("a b"));
    let record = server.wait_for("a%20b", "Completed");
    let read = |name: &str| fs::read_to_string(folder.file(name)).unwrap();

    // As it was when the attempt began.
    let input = read("input");
    assert_eq!(input.find('\n'), Some(input.len() - 1), "one line: {input:?}");
    let mut given: Value = serde_json::from_str(&input).unwrap();
    assert_eq!((&given["status"], &given["completed_at"], &given["attempts"]), (&"Processing".into(), &Value::Null, &2.into()));
    assert!(input.contains(r#""total_amount":10.50,"#), "{input}");
    given["status"] = record["status"].clone();
    given["completed_at"] = record["completed_at"].clone();
    assert_eq!(given["last_error"].take(), "exit status 1", "of the attempt before; what is completed has none");
    assert_eq!(given, record);

    let environment = read("environment");
    let variable = |name: &str| environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(variable("ORDER_ID"), Some("a b"));
    assert_eq!(variable("ORDER_ATTEMPT"), Some("2"));
    assert_eq!(variable("ORDER_USER_ID"), Some("user1"));
    assert_eq!(variable("PATH"), std::env::var("PATH").ok().as_deref(), "what else there is, is passed on");
    assert_eq!(variable("ORDERD_WORKER_OF"), None);
    // What we have inherited ourselves is passed on, too.
    let own = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    assert_eq!(read("descriptors"), String::from_utf8(own.stdout).unwrap());
    assert_eq!(read("group"), read("process"), "it leads a process group of its own");
    assert_eq!(given["attempts"], 2, "a status other than 0 and 65 means once more");
}

/// Every character of it is escaped, so the record is longer than its body may be; of the other, each takes two bytes.
#[test]
fn the_largest_record_hangs_nothing_whether_it_is_read_or_not() {
    let whole = running("wc -c > size-$ORDER_ID", |_| {});
    let unread = running("true", |_| {});
    let closed = running("exec 0<&-; sleep 0.05", |_| {});
    let begun = running("head -c 10 > /dev/null", |_| {});
    for (id, item) in [("quotes", "\\\"".repeat(255)), ("umlauts", format!("{}x", "ä".repeat(127)))] {
        let items = vec![format!("\"{item}\""); 1_000].join(",");
        let body = format!(r#"{{"order_id":"{id}","user_id":"u","item_ids":[{items}],"total_amount":1}}"#);
        for server in [&whole, &unread, &closed, &begun] {
            server.post(&body).expect(200, &created(id));
            assert_eq!(ending(server, id, "Completed"), (1, String::new()));
        }
        let size: usize = fs::read_to_string(whole.folder().file(&format!("size-{id}"))).unwrap().trim().parse().unwrap();
        // The answer to a request is as long, but for the status and the time of completion.
        let record = whole.get(&format!("/orders/{id}")).body.len();
        assert!(size > items.len() && record.abs_diff(size) < 100, "{size} bytes of a record of {record}");
        unread.get("/healthz").expect(200, r#"{"status":"ok"}"#);
    }
}

#[test]
fn a_command_that_hangs_without_reading_the_largest_record_runs_out_of_time() {
    let server = running("exec sleep 100", |_| {});
    let items = vec![format!("\"{}\"", "i".repeat(255)); 1_000].join(",");
    let body = format!(r#"{{"order_id":"1","user_id":"u","item_ids":[{items}],"total_amount":1}}"#);
    server.post(body).expect(200, &created("1"));
    for attempt in [1, 2] {
        turn_until_over(&server, attempt);
    }
    assert_eq!(ending(&server, "1", "Failed"), (2, "timed out".into()));
}

/// Turns the clock until the attempt is over. The command may be begun only after the first turn, and have its time from then.
#[track_caller]
fn turn_until_over(server: &Local, attempt: i64) {
    poll_until(PATIENCE, || server.rows()[0].attempts == attempt && server.rows()[0].status == "Processing");
    let over = (0..30).any(|_| {
        server.turn(server.config().exec_timeout);
        comes_true(Duration::from_secs(1), || {
            let row = &server.rows()[0];
            row.attempts > attempt || row.status != "Processing"
        })
    });
    assert!(over, "{:?}", server.rows());
}

#[test]
fn a_command_that_cannot_be_run_says_so() {
    // The shell says "Permission denied" instead when it meets a folder in PATH that it may not read.
    for (command, says) in [
        ("PATH=/usr/bin:/bin no-such-command", "not found"),
        ("/etc/passwd", "ermission denied"),
        ("'", "nterminated"),
        ("/", "ermission denied"),
    ] {
        let server = running(command, |_| {});
        server.create(ids(0..1));
        let (attempts, last_error) = ending(&server, "o-0", "Failed");
        assert!(attempts == 2 && last_error.contains(says), "{command}: {attempts}: {last_error:?}");
    }
}

#[test]
fn a_command_that_ends_by_a_signal_is_tried_again() {
    let server = running("test $ORDER_ATTEMPT -gt 1 || kill -9 $$", |_| {});
    server.create(ids(0..1));
    assert_eq!(ending(&server, "o-0", "Completed"), (2, String::new()));
    let server = running("kill -9 $$", |_| {});
    server.create(ids(0..1));
    assert_eq!(ending(&server, "o-0", "Failed"), (2, "killed by signal 9".into()));
}

#[test]
fn a_command_that_hangs_is_ended_with_its_grandchildren_and_tried_again() {
    for deaf in ["", "trap '' TERM; "] {
        // The second attempt works.
        let hang = "test $ORDER_ATTEMPT -gt 1 && exit; echo hanging >&2; (sleep 100 & echo $! > grandchild; wait) & \
                    echo $$ > child; sleep 100; sleep 100";
        let server = running(&format!("{deaf}{hang}"), |_| {});
        server.create(ids(0..1));
        let processes = [process_in(&server, "child"), process_in(&server, "grandchild")];
        assert!(processes.iter().all(|id| is_running(*id)));
        turn_until_over(&server, 1);
        // SIGKILL follows after a second of this clock.
        assert_eq!(ending(&server, "o-0", "Completed"), (2, String::new()));
        poll_until(PATIENCE, || processes.iter().all(|id| !is_running(*id)));
    }
}

#[test]
fn what_a_command_leaves_running_is_ended_with_it() {
    let server = running("sleep 100 & echo $! > left", |_| {});
    server.create(ids(0..1));
    assert_eq!(ending(&server, "o-0", "Completed"), (1, String::new()));
    let left = process_in(&server, "left");
    poll_until(PATIENCE, || !is_running(left));
}

/// It is no longer ours to end, but nobody waits for it either. It holds on to the command's output.
#[test]
fn a_process_that_has_left_the_group_holds_no_order_up() {
    let server = running("setsid sh -c 'echo $$ > left; exec sleep 100' & while ! test -s left; do sleep 0.01; done", |_| {});
    server.create(ids(0..1));
    assert_eq!(ending(&server, "o-0", "Completed"), (1, String::new()));
    let left = process_in(&server, "left");
    assert!(is_running(left));
    signal(left, "KILL");
}

/// Whoever reads its output waits for the rest of it, and then no longer.
#[test]
fn daemons_that_commands_leave_behind_keep_no_thread_and_no_descriptor() {
    let folder = Folder::new();
    let daemon =
        "setsid sh -c 'echo $$ > left-$ORDER_ID; exec sleep 100' & while ! test -s left-$ORDER_ID; do sleep 0.01; done";
    let server = Process::start(&folder, &["--exec", daemon, "--concurrency", "10"]);
    let worker = Worker::of(&server);
    server.served_again();
    let resources = || (worker.threads(), worker.descriptors());
    let (threads, descriptors) = resources();
    server.create(ids(0..20));
    server.wait_until_completed(20);
    let left: Vec<u32> =
        ids(0..20).map(|id| fs::read_to_string(folder.file(&format!("left-{id}"))).unwrap().trim().parse().unwrap()).collect();
    assert!(left.iter().all(|id| is_running(*id)), "they are daemons, and no longer ours to end");
    // A connection of this test's may be open.
    let given_back = comes_true(PATIENCE, || resources().0 <= threads + 2 && resources().1 <= descriptors + 4);
    left.iter().for_each(|id| signal(*id, "KILL"));
    assert!(given_back, "{threads} threads and {descriptors} descriptors before, {:?} after", resources());
    server.stop();
}

/// An ignored signal is inherited, and with this one ignored, nobody can ask how a child has ended.
#[test]
fn how_a_command_ends_is_known_also_to_an_orderd_that_was_started_with_sigchld_ignored() {
    for flags in ["", "--no-supervisor"] {
        let folder = Folder::new();
        let mut command = Command::new("python3");
        let start = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
                             os.execvp(sys.argv[1], sys.argv[1:])";
        command.args(["-c", start, env!("CARGO_BIN_EXE_orderd"), "--listen", "127.0.0.1:0", "--exec", "exit 65"]);
        command.args(flags.split_whitespace());
        let server = Process::spawn(in_clean_environment(command, &folder), &folder);
        server.create(ids(0..1));
        assert_eq!(ending(&server, "o-0", "Failed"), (1, "exit status 65".into()));
        server.stop();
    }
}

#[test]
fn output_goes_to_the_log_a_line_at_a_time_with_the_id_of_the_order() {
    let folder = Folder::new();
    let command = "echo packing; echo; printf 'a bell: \\007\\n'; printf 'no end' >&2";
    let server = Process::start(&folder, &["--exec", command]);
    server.post(order("a b")).expect_status(200);
    server.wait_until_completed(1);
    for (stream, text) in [("stdout", "packing"), ("stdout", r#""a bell:""#), ("stderr", r#""no end""#)] {
        let line = format!(r#"INFO  its command says order="a b" attempt=1 stream={stream} text={text}"#);
        poll_until(PATIENCE, || server.stderr().lines().any(|logged| logged.ends_with(&line)));
    }
    assert_eq!(server.stderr().lines().filter(|line| line.contains("order=\"a b\"")).count(), 3, "{}", server.stderr());
    assert!(!server.stderr().contains('\u{7}'));
}

/// Neither by its id nor by what its command prints can an order put lines of its own into the log, or change how others look.
#[test]
fn an_order_can_forge_no_line_of_the_log() {
    let folder = Folder::new();
    let command = r"printf 'a\342\200\256b \033[31m \342\200\250%s\n' '2026-01-01T00:00:00.000Z WARN  failed order=2'; \
                    printf '\033]0;x\007\342\201\246y\n' >&2; exit 65";
    let server = Process::start(&folder, &["--exec", command]);
    let id = r#"1 order=2\" order=2 the order is Failed \u202e\u20282026-01-01T00:00:00.000Z ERROR failed order=3"#;
    server.post(order(id)).expect_status(200);
    poll_until(PATIENCE, || server.rows()[0].status == "Failed");
    poll_until(PATIENCE, || server.stderr().contains("the order is Failed order="));
    let log = server.stderr();
    assert!(!log.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{2028}', '\u{2066}']), "{log:?}");
    let about: Vec<_> = log.split(['\n', '\u{2028}']).filter(|line| line.contains("order=")).collect();
    assert!(about.len() == 3 && about.iter().all(|line| line.contains(r#" order="1 order\=2\" order\=2 the"#)), "{about:#?}");
    assert!(!log.contains("order=2") && !log.contains("order=3"), "{log}");
    server.stop();
}

/// A short line costs the log as much as a long one.
#[test]
fn short_lines_of_output_take_no_more_of_the_log_than_long_ones() {
    let folder = Folder::new();
    // Lines of one byte; and of what is written as four times as many.
    let command = r#"say() { yes "$1" | head -c 200000; }; say y; say '"\=' >&2; exit 65"#;
    for format in ["text", "json"] {
        let server = Process::start(&folder, &["--exec", command, "--log-format", format]);
        server.post(order(format)).expect_status(200);
        server.wait_for(format, "Failed");
        poll_until(PATIENCE, || server.stderr().contains("the order is Failed"));
        let bytes = server.stderr().len();
        assert!((80 << 10..2 * (64 << 10) + 4_096).contains(&bytes), "{bytes} bytes of log");
        server.stop();
    }
}

#[test]
fn a_hundred_megabytes_of_output_take_no_memory_and_little_of_the_log() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let command = "cat > /dev/null; test $ORDER_ID = small && exit; yes a line of its own | head -c 50000000; \
                   head -c 50000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the last words >&2; exit 65";
    let server = Process::start(&folder, &["--exec", command]);
    server.post(order("small")).expect_status(200);
    server.wait_until_completed(1);
    let peak = || Worker::of(&server).peak_bytes();
    let before = peak();
    server.post(order("large")).expect_status(200);
    assert_eq!(ending(&server, "large", "Failed"), (1, "the last words".into()));
    let grown = peak().saturating_sub(before);
    assert!(grown < 20 << 20, "grown by {} KiB", grown >> 10);
    poll_until(PATIENCE, || server.stderr().contains("what else its command says is not logged order=large"));
    assert!(server.stderr().len() < 1 << 20, "{} bytes of log", server.stderr().len());
}

#[test]
fn the_last_error_is_the_last_line_of_standard_error_and_at_most_a_kibibyte() {
    let long = "head -c 5000 /dev/zero | tr '\\0' x >&2";
    for (command, last_error) in [
        ("echo first >&2; echo second >&2; echo; echo third; exit 65", "second".to_string()),
        ("echo only on standard output; exit 65", "exit status 65".into()),
        (&format!("{long}; exit 65"), "x".repeat(1_024)),
        ("printf 'caf\\351 ferm\\351\\n\\n' >&2; exit 65", "caf\u{fffd} ferm\u{fffd}".into()),
    ] {
        let server = running(command, |_| {});
        server.create(ids(0..1));
        assert_eq!(ending(&server, "o-0", "Failed"), (1, last_error), "{command}");
    }
    let server = running(&format!("{long}; echo $$ > said; exec sleep 100"), |config| config.max_attempts = 1);
    server.create(ids(0..1));
    process_in(&server, "said");
    turn_until_over(&server, 1);
    let (_, last_error) = ending(&server, "o-0", "Failed");
    assert!(last_error.starts_with("timed out: xxx") && last_error.len() <= 1_024, "{} bytes", last_error.len());
}

#[test]
fn between_orders_no_core_is_spent_on_waiting() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--exec", "test $ORDER_ID != o-0 || exec sleep 100", "--shutdown-timeout", "0s"]);
    server.create(ids(0..100));
    poll_until(PATIENCE, || server.metrics().completed == 99);
    let used = || Worker::with_id(server.id()).processor_time() + Worker::of(&server).processor_time();
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    let used = used() - before;
    assert!(used < 10, "{used} hundredths of a second in one second while one command sleeps");
    server.stop();
}

/// Promise 3. The other program holds the write lock for longer than a write waits for it, and meanwhile nobody writes but the
/// processor.
#[test]
fn a_completion_that_cannot_be_written_is_tried_again_until_it_is() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let server =
        Process::start(&folder, &["--exec", "echo >> begun; while test -e begun && ! test -e end; do sleep 0.01; done"]);
    server.create(ids(0..3));
    poll_until(PATIENCE, || server.metrics().processing == 3);
    let held = Held::on(&server.db());
    fs::write(folder.file("end"), "").unwrap();
    poll_until(PATIENCE, || server.stderr().contains("writes refused"));
    assert_eq!(server.metrics().processing, 3, "{}", server.stderr());
    drop(held);
    server.wait_until_completed(3);
    assert!(server.rows().iter().all(|row| row.attempts == 1), "{:#?}", server.rows());
    assert_eq!(fs::read_to_string(folder.file("begun")).unwrap().lines().count(), 3, "nothing is done twice for it");
    server.stop();
}
