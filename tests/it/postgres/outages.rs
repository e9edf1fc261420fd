//! The server goes away in the middle of everything, and comes back: nothing acknowledged is lost, nothing is stored twice, and nobody
//! has to do anything.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Instance, MINUTE, Over, assert_books, assert_books_on, on_postgres, schema_of};
use crate::harness::{Client, Cluster, Folder, Serving, cluster, order, poll_until, post, quick_or_slow, signal};

const CLIENTS: usize = 8;

/// Clients send orders until `deed` is done, each again under its id until it is acknowledged. Gives the acknowledged.
fn under_load(instance: &Instance, deed: impl FnOnce()) -> (HashSet<String>, usize) {
    let (sent, refused, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = None::<Client>;
                while !over.load(Ordering::Relaxed) {
                    let id = format!("o-{}", sent.fetch_add(1, Ordering::Relaxed));
                    loop {
                        let answer = match &mut client {
                            Some(client) => client.try_ask(post(order(&id))),
                            None => {
                                Client::connect(instance.address()).and_then(|new| client.insert(new).try_ask(post(order(&id))))
                            }
                        };
                        match answer {
                            Ok(answer) if answer.status == 200 => break,
                            Ok(answer) => {
                                answer.expect_error(503, "storage_unavailable");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => client = None,
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    acknowledged.lock().unwrap().insert(id);
                }
            });
        }
        // Also when a check fails: they are waited for.
        let _over = Over(&over);
        deed();
    });
    (acknowledged.into_inner().unwrap(), refused.into_inner())
}

fn terminate_all(url: &str) {
    // The test has named its sessions by its schema.
    let text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = ";
    let _ = cluster().unwrap().try_sql(&format!("{text}'{}'", schema_of(url)));
}

#[test]
fn ending_all_connections_again_and_again_under_load_loses_and_doubles_nothing() {
    let Some(url) = on_postgres("&lease=10s") else { return };
    let url = format!("{url}&application_name={}", schema_of(&url));
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let rounds = quick_or_slow(20, 240);
    let (acknowledged, refused) = under_load(&instance, || {
        for _ in 0..rounds {
            std::thread::sleep(Duration::from_millis(250));
            terminate_all(&url);
        }
    });
    let begun = Instant::now();
    instance.served_again();
    eprintln!("{} acknowledged, {refused} refused, healthy after {:?}", acknowledged.len(), begun.elapsed());
    assert!(refused > 0, "nothing was cut off");
    assert_books(&[&instance], &url, &acknowledged);
}

/// A backend that is killed has PostgreSQL end all others and recover, as after a crash.
#[test]
fn a_crash_of_the_server_under_load_loses_and_doubles_nothing() {
    // On a server of its own, as it ends everybody's connections.
    let Some(server) = Cluster::another() else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let (acknowledged, refused) = under_load(&instance, || {
        for _ in 0..quick_or_slow(2, 12) {
            std::thread::sleep(Duration::from_secs(1));
            let backend = server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'orderd' LIMIT 1");
            if let Ok(backend) = backend.parse() {
                signal(backend, "KILL");
            }
            poll_until(MINUTE, || server.try_sql("SELECT 1").is_ok());
        }
    });
    let begun = Instant::now();
    instance.served_again();
    eprintln!("{} acknowledged, {refused} refused, healthy after {:?}", acknowledged.len(), begun.elapsed());
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}
