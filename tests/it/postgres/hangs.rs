//! A server that is there and of no use: it hangs, lets nobody in, takes no writes, or has no connection left.
//!
//! Each is answered 503 in time, and all is well by itself once the server is.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Instance, MINUTE, assert_books_on};
use crate::harness::{Cluster, Folder, Kind, Process, Serving, comes_true, created, get, order, orderd, poll_until, signal};

/// What `docs/scaling.md` says of a server that hangs.
const NOTICED_AFTER: Duration = Duration::from_secs(15);

fn is_healthy(instance: &Instance) -> bool {
    instance.ask(get("/healthz")).status == 200
}

#[test]
fn a_server_that_hangs_is_noticed_and_all_is_well_when_it_goes_on() {
    let Some(server) = Cluster::another() else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    instance.post(order("before")).expect(200, &created("before"));
    instance.wait_until_completed(1);
    let (answered, of_read) = server.frozen(|| {
        let asked = Instant::now();
        let mut client = instance.client();
        client.set_read_timeout(2 * MINUTE).unwrap();
        client.ask(get("/order/before")).expect_error(503, "storage_unavailable");
        let of_read = asked.elapsed();
        client.ask(crate::harness::post(order("o-0"))).expect_error(503, "storage_unavailable");
        client.ask(get("/healthz")).expect_error(503, "storage_unavailable");
        (asked.elapsed(), of_read)
    });
    let back = instance.served_again();
    eprintln!("a read was refused after {of_read:?}, a write and one more within {answered:?}, back after {back:?}");
    assert!(of_read < NOTICED_AFTER, "{of_read:?}");
    assert!(answered < 3 * NOTICED_AFTER, "{answered:?}");
    instance.post(order("o-0")).expect(200, &created("o-0"));
    let acknowledged = ["before", "o-0"].map(String::from).into();
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}

/// As where what stands in front of the server takes connections while the server is cut off. Others may reach it, and take over.
#[test]
fn commands_end_before_the_lease_does_also_where_a_connection_can_be_made_and_nobody_answers() {
    const LEASE: Duration = Duration::from_secs(4);
    let Some(server) = Cluster::another() else { return };
    let url = server.fresh_url("&lease=4s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--exec", "exec sleep 600", "--retry-delay", "10ms"]);
    instance.post(order("o-0")).expect(200, &created("o-0"));
    poll_until(MINUTE, || !instance.commands().is_empty());
    let took = server.deaf(|| {
        let begun = Instant::now();
        poll_until(MINUTE, || instance.commands().is_empty());
        begun.elapsed()
    });
    eprintln!("its command was ended after {took:?} of a lease of {LEASE:?}");
    // What the machine adds is allowed for.
    assert!(took < 2 * LEASE, "{took:?}");
    instance.served_again();
    poll_until(MINUTE, || !instance.commands().is_empty());
}

#[test]
fn a_server_that_is_read_only_for_a_while_takes_orders_again() {
    let Some(server) = Cluster::another() else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    instance.post(order("before")).expect(200, &created("before"));
    let set = |words: &str| {
        server.sql(&format!("ALTER SYSTEM {words} default_transaction_read_only {}", if words == "SET" { "= on" } else { "" }));
        server.sql("SELECT pg_reload_conf()");
    };
    set("SET");
    poll_until(MINUTE, || instance.post(order("refused")).status == 503);
    instance.post(order("refused")).expect_error(503, "storage_unavailable");
    instance.get("/healthz").expect_error(503, "storage_unavailable");
    set("RESET");
    eprintln!("read-only: back after {:?}", instance.served_again());
    instance.post(order("refused")).expect_status(200);
    assert_books_on(&server, &[&instance], &url, &["before", "refused"].map(String::from).into());
    assert!(instance.stderr().contains("takes no writes") || instance.stderr().contains("read-only"), "{}", instance.stderr());
}

/// Connections that are held by somebody else.
struct Held(Vec<UnixStream>);

impl Held {
    /// Takes another, unless there is none left.
    fn one_more(&mut self, server: &Cluster) -> bool {
        let mut stream = UnixStream::connect(server.folder().join(".s.PGSQL.5432")).unwrap();
        let words = b"user\0orderd\0database\0postgres\0\0";
        let mut hello = (8 + words.len() as u32).to_be_bytes().to_vec();
        hello.extend(196_608_u32.to_be_bytes());
        hello.extend(words);
        stream.write_all(&hello).unwrap();
        let mut answer = [0];
        let is_in = stream.read_exact(&mut answer).is_ok() && answer == *b"R";
        if is_in {
            self.0.push(stream);
        }
        is_in
    }

    fn all(&mut self, server: &Cluster) {
        // One that has just ended may take a moment to be gone.
        while comes_true(Duration::from_millis(300), || self.one_more(server)) {}
    }
}

#[test]
fn without_a_free_connection_a_running_instance_goes_on_and_comes_back_and_a_fresh_one_says_why_it_ends() {
    let kind = Kind { settings: &["max_connections=24", "max_wal_senders=2"], ..Kind::default() };
    let Some(server) = Cluster::of(&kind) else { return };
    let url = server.fresh_url("&lease=60s");
    let (folder, other) = (Folder::new(), Folder::new());
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s", "--workers", "1"]);
    instance.post(order("o-0")).expect(200, &created("o-0"));
    instance.wait_until_completed(1);
    let mut held = Held(Vec::new());
    held.all(&server);
    instance.post(order("o-1")).expect(200, &created("o-1"));
    assert!(is_healthy(&instance), "{}", instance.stderr());

    let mut command = orderd(&other);
    command
        .args(["--listen", "127.0.0.1:0", "--db", &url])
        .env_remove("RUNTIME_DIRECTORY")
        .env("XDG_RUNTIME_DIR", other.path());
    let Err(ended) = Process::try_spawn(command, &other) else { panic!("a connection was left") };
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("too many clients already"), "{ended:?}");

    // Its own are ended, and others take their place before it can.
    let all = instance.all_processes();
    all.iter().for_each(|id| signal(*id, "STOP"));
    held.0.pop();
    poll_until(MINUTE, || {
        server.try_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'orderd'").is_ok()
    });
    held.all(&server);
    all.iter().for_each(|id| signal(*id, "CONT"));
    instance.post(order("o-2")).expect_error(503, "storage_unavailable");
    instance.get("/healthz").expect_error(503, "storage_unavailable");
    drop(held);
    server.is_up();
    eprintln!("out of connections: back after {:?}", instance.served_again());
    instance.post(order("o-2")).expect_status(200);
    let acknowledged: HashSet<String> = ["o-0", "o-1", "o-2"].map(String::from).into();
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}
