//! Orders that come together share a commit. Seen from outside by `created_at`, the time of its commit, so that the orders of one
//! commit have one time, and any order of theirs that was committed alone most likely a time of its own. And whoever only reads
//! does not pay for it.

use std::collections::BTreeSet;

use orderd::{Config, Listen};

use crate::harness::{Folder, Local, Process, Serving, connection, created, get, ids, in_status, order, post};

/// A commit takes at least a tenth of a millisecond, and times are in milliseconds: so many commits one by one would take a
/// hundred, where groups of 64 take 16.
const ORDERS: usize = 1_000;

/// How many of them one client sends at once. As a connection has one request under way, only those of others share its commit.
const AT_ONCE: usize = 5;

/// Has clients send orders that all arrive while another program keeps them from being committed, and asserts that they share
/// commits then. Who asks for an order behind them sees it.
fn share_commits(server: &impl Serving, most_times: usize) {
    let other = connection(&server.db());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ids: Vec<_> = ids(0..ORDERS).collect();
    let mut clients: Vec<_> = ids
        .chunks(AT_ONCE)
        .map(|ids| {
            let mut client = server.client();
            client.send(ids.iter().flat_map(|id| post(order(id))).collect::<Vec<_>>()).unwrap();
            client.send(get(&format!("/order/{}", ids[0]))).unwrap();
            client
        })
        .collect();
    other.execute_batch("ROLLBACK").unwrap();
    for (client, ids) in clients.iter_mut().zip(ids.chunks(AT_ONCE)) {
        ids.iter().for_each(|id| _ = client.answer().expect(200, &created(id)));
        client.answer().expect(200, &in_status(&ids[0], "Pending"));
    }
    let times: BTreeSet<_> = server.rows().iter().map(|row| row.created_at).collect();
    assert_eq!(server.rows().len(), ORDERS);
    assert!(times.len() <= most_times, "{ORDERS} orders were created at {} times", times.len());
}

#[test]
fn a_single_worker_commits_together_what_came_while_it_was_busy() {
    let folder = Folder::new();
    share_commits(&Process::start(&folder, &["--workers", "1", "--concurrency", "0"]), ORDERS / 20);
}

#[test]
fn orders_share_commits_over_a_unix_socket_too() {
    let folder = Folder::new();
    let server = Local::start(|config| {
        config.listen = Listen::Unix(folder.file("sock"));
        config.concurrency = Some(0);
        config.clock = Config::default().clock;
    });
    // Each connection passes two more threads, so its orders come less together.
    share_commits(&server, ORDERS / 8);
}

/// After many writes in a row one worker takes and commits all, but not for longer than a read may be kept waiting.
#[test]
fn a_read_is_answered_while_the_commit_of_many_writes_hangs() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--workers", "2", "--concurrency", "0"]);
    let (mut writer, mut reader) = (server.client(), server.client());
    let ids: Vec<_> = ids(0..ORDERS).collect();
    ids.iter().for_each(|id| writer.send(post(order(id))).unwrap());
    ids.iter().for_each(|id| _ = writer.answer().expect(200, &created(id)));
    let other = connection(&server.db());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    writer.send(post(order("late"))).unwrap();
    for id in &ids[..20] {
        reader.ask(get(&format!("/order/{id}"))).expect(200, &in_status(id, "Pending"));
    }
    other.execute_batch("ROLLBACK").unwrap();
    // A commit hangs for 5 s at most and then fails. So the reader did not wait for that.
    writer.answer().expect(200, &created("late"));
}
