//! A start right after an end that nobody ordered: the port and the database are free at once, whoever held them.
//!
//! Whatever keeps a service alive starts it again without a pause, so "address in use" would be an outage.

use std::time::Duration;

use crate::harness::{Ended, Folder, Process, Serving, created, get, order, orderd, post, quick_or_slow, tcp_address};

#[test]
fn after_kill_9_of_the_parent_under_connections_the_same_port_is_free_at_once() {
    let folder = Folder::new();
    let mut server = Process::start(&folder, &["--concurrency", "0"]);
    let listen = tcp_address(&server).to_string();
    for round in 0..quick_or_slow(10, 30) {
        let mut clients: Vec<_> = (0..100).map(|_| server.client()).collect();
        clients.iter_mut().for_each(|client| _ = client.ask(get("/order/unknown")).expect_status(404));
        // Some requests are on their way.
        for (n, client) in clients.iter_mut().enumerate().step_by(2) {
            let _ = client.send(post(order(&format!("{round}-{n}"))));
        }
        server.kill();
        let mut command = orderd(&folder);
        command.args(["--listen", &listen, "--concurrency", "0"]);
        // It says why if it can't.
        server = Process::spawn(command, &folder);
        server.post(order(&round.to_string())).expect(200, &created(&round.to_string()));
        drop(clients);
    }
    server.stop();
}

/// One that somebody else really holds is still refused soon.
#[test]
fn a_port_that_stays_taken_is_refused_all_the_same() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let mut command = orderd(&folder);
    command.args(["--listen", &tcp_address(&server).to_string(), "--db", "other.db"]);
    let begun = std::time::Instant::now();
    Ended::of(command).expect_refused(&["in use", "--listen"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    server.stop();
}
