//! The server goes away in the middle of everything, and comes back: nothing acknowledged is lost, nothing is stored twice, and nobody
//! has to do anything.

use std::time::{Duration, Instant};

use super::{Instance, MINUTE, assert_books, assert_books_on, on_postgres, schema_of, under_load};
use crate::harness::{Cluster, Folder, Serving, cluster, poll_until, quick_or_slow, signal};

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

/// In order, which ends all sessions, and as a crash. It is gone for a while each time.
#[test]
fn restarting_the_server_again_and_again_under_load_loses_and_doubles_nothing() {
    let Some(server) = Cluster::another() else { return };
    let url = server.fresh_url("&lease=10s");
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let mut longest = Duration::ZERO;
    let begun = Instant::now();
    let (acknowledged, refused) = under_load(&instance, || {
        let mut rounds = 0;
        while rounds < 2 || begun.elapsed() < quick_or_slow(Duration::ZERO, MINUTE) {
            std::thread::sleep(Duration::from_millis(500));
            server.stop(["fast", "immediate"][rounds % 2]);
            instance.get("/healthz").expect_error(503, "storage_unavailable");
            server.start();
            longest = longest.max(instance.served_again());
            rounds += 1;
        }
    });
    eprintln!("{} acknowledged, {refused} refused, back within {longest:?} of the server", acknowledged.len());
    assert!(refused > 0, "nothing was cut off");
    assert_books_on(&server, &[&instance], &url, &acknowledged);
}
