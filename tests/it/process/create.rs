//! `orderd create`: one order from flags, or as many as standard input has.

use std::process::Stdio;
use std::time::Instant;

use crate::harness::{
    Ended, Folder, Held, PATIENCE, Process, Serving, Worker, asking, created, ids, is_slow_run, order, poll_until,
};

fn fed(folder: &Folder, server: &Process, input: impl Into<Vec<u8>>) -> Ended {
    Ended::fed(asking(folder, server, &["create"]), input)
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    ids(numbers).map(|id| order(&id) + "\n").collect()
}

#[test]
fn an_order_is_created_from_flags() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let create = |args: &[&str]| Ended::of(asking(&folder, &server, &[&["create"][..], args].concat()));
    let whole = ["--id", "a\"b/c", "--user", "ü", "--item", "i1", "--item=i 2", "--amount", "1.50"];
    create(&whole).expect_done("a\"b/c is created\n");
    create(&whole).expect_done("a\"b/c was there already\n");
    let record = server.record("a%22b%2Fc");
    assert_eq!((&record["user_id"], &record["item_ids"]), (&"ü".into(), &vec!["i1", "i 2"].into()));
    assert_eq!(server.rows()[0].total_amount, "1.50", "kept as it was written");
    let other = ["--id", "a\"b/c", "--user", "x", "--item", "i", "--amount", "1"];
    create(&other).expect_failed(&["a\"b/c: an order with this order_id and other content exists"]);
    create(&["--id", "1", "--user", "u", "--item", "i", "--amount", "-1"]).expect_failed(&["1: total_amount: "]);
    for (args, words) in [
        (&["--id", "1"][..], &["--user", "orderd create --help"][..]),
        (&["--id", "1", "--user", "u", "--amount", "1"], &["--item"]),
        (&["--id", "1", "--user", "u", "--item", "i", "--amount", "1,5"], &["--amount", "\"1,5\"", "9.99"]),
        (&["--id", "1", "--user", "u", "--item", "i", "--amount", "1}"], &["--amount"]),
        (&["order.json"], &["orderd create [--id I"]),
    ] {
        create(args).expect_refused(words);
    }
    assert_eq!(server.rows().len(), 1);
    server.stop();
}

#[test]
fn of_many_lines_the_wrong_ones_are_told_with_their_numbers_and_the_others_are_stored() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let mut input = lines(0..2_000);
    input += "\n  \n";
    input += "{\"order_id\":\"x\",\"user_id\":\"u\",\"item_ids\":[]}\n";
    input += "no json\n";
    input += &(order("o-5").replace("user1", "another") + "\r\n");
    input += &("x".repeat(3 << 20) + "\n");
    input += &lines(2_000..3_000);
    // The last line has no end.
    let input = input.trim_end().to_string();
    let ended = fed(&folder, &server, input.clone());
    assert_eq!(ended.stdout, "3004 orders: 3000 created, 0 there already, 4 refused\n", "{ended:?}");
    assert_eq!(ended.code, Some(1));
    let mut told: Vec<&str> = ended.stderr.lines().collect();
    told.sort_unstable();
    assert_eq!(told.len(), 4, "{told:?}");
    for (line, words) in [
        ("line 2003: ", &["item_ids: ", "total_amount: Field required"][..]),
        ("line 2004: ", &["JSON"]),
        ("line 2005: ", &["other content exists"]),
        ("line 2006: ", &["longer than an order may be"]),
    ] {
        let said = told.iter().find(|said| said.starts_with(line)).unwrap_or_else(|| panic!("no {line} in {told:?}"));
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert_eq!(server.metrics().total, 3_000);

    // The same again does no harm.
    let again = fed(&folder, &server, input);
    assert_eq!(again.stdout, "3004 orders: 0 created, 3000 there already, 4 refused\n");
    assert_eq!((again.code, server.metrics().total), (Some(1), 3_000));
    fed(&folder, &server, "").expect_done("0 orders: 0 created, 0 there already, 0 refused\n");
    server.stop();
}

/// What was listed can be created elsewhere.
#[test]
fn what_list_writes_create_takes() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let server = Process::start(&folder, &["--concurrency", "0"]);
    server.create(ids(0..150));
    server.post(order("\\u202e\\u2028ü")).expect_status(200);
    let listed = Ended::of(asking(&folder, &server, &["list", "--limit", "1000", "--json"])).stdout;
    let other = Process::start(&elsewhere, &["--concurrency", "0"]);
    fed(&elsewhere, &other, listed).expect_done("151 orders: 151 created, 0 there already, 0 refused\n");
    assert_eq!(other.record("%E2%80%AE%E2%80%A8%C3%BC")["user_id"], "user1");
    server.stop();
    other.stop();
}

/// What comes slowly is sent as it comes.
#[test]
fn a_line_is_sent_before_the_next_one_comes() {
    use std::io::Write;
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let mut child = asking(&folder, &server, &["create"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for id in ids(0..20) {
        writeln!(input, "{}", order(&id)).unwrap();
        poll_until(PATIENCE, || server.status(&id) == "Pending");
    }
    drop(input);
    assert_eq!(child.wait_with_output().unwrap().stdout, b"20 orders: 20 created, 0 there already, 0 refused\n");
    server.stop();
}

/// Also where the serving process is killed: nothing is told, and nothing is lost.
#[test]
fn renewals_and_a_crash_of_the_serving_process_cost_no_order() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let orders = if is_slow_run() { 100_000 } else { 20_000 };
    let command = asking(&folder, &server, &["create"]);
    let creating = std::thread::spawn(move || Ended::fed(command, lines(0..orders)));
    poll_until(PATIENCE, || server.metrics().total > 500);
    server.signal("USR1");
    poll_until(PATIENCE, || server.stderr().contains("a fresh process serves"));
    Worker::of(&server).signal("KILL");
    let ended = creating.join().unwrap();
    assert!(ended.code == Some(0) && ended.stderr.is_empty(), "{ended:?}");
    assert!(ended.stdout.starts_with(&format!("{orders} orders: ")) && ended.stdout.ends_with(" 0 refused\n"), "{ended:?}");
    assert_eq!(server.metrics().total, orders as u64);
    server.stop();
}

#[test]
fn a_server_that_can_store_nothing_for_the_moment_is_waited_for() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    // Another program holds the write lock for longer than the server waits.
    let held = Held::on(&server.db());
    let command = asking(&folder, &server, &["create"]);
    let creating = std::thread::spawn(move || Ended::fed(command, lines(0..100)));
    poll_until(2 * PATIENCE, || server.stderr().contains("write"));
    drop(held);
    creating.join().unwrap().expect_done("100 orders: 100 created, 0 there already, 0 refused\n");
    server.stop();
}

#[test]
fn who_takes_no_orders_is_told_once() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    let command = asking(&folder, &server, &["create"]);
    server.stop();
    Ended::fed(command, lines(0..100)).expect_failed(&["cannot reach orderd", "start it"]);
}

/// The bar is for terminals; the sum is for everybody.
#[test]
fn a_terminal_sees_how_far_it_is() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--concurrency", "0"]);
    std::fs::write(folder.file("orders.jsonl"), lines(0..5_000)).unwrap();
    let asking = asking(&folder, &server, &[]);
    let mut command = std::process::Command::new("script");
    command.args(["-qec", "$ORDERD create < orders.jsonl", "/dev/null"]).current_dir(folder.path()).stdin(Stdio::null());
    command.env("ORDERD", asking.get_program());
    command.envs(asking.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let begun = Instant::now();
    let seen = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(seen.contains("% ") && seen.contains(" orders, ") && seen.contains("[#"), "{seen:?} after {:?}", begun.elapsed());
    assert!(seen.ends_with("5000 orders: 5000 created, 0 there already, 0 refused\r\n"), "{seen:?}");
    server.post(order("later")).expect(200, &created("later"));
    server.stop();
}
