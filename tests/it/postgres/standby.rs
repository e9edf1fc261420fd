//! The machine of the server is gone, and its standby takes its place: what was acknowledged is there, as the standby was synchronous,
//! and an instance whose URL names both goes on by itself.

use std::time::Duration;

use super::{Instance, MINUTE, assert_books_on, under_load};
use crate::harness::{Cluster, Folder, Kind, Process, Serving, order, orderd, poll_until};

#[test]
fn a_synchronous_standby_that_is_promoted_under_load_has_all_that_was_acknowledged() {
    let Some(primary) = Cluster::another() else { return };
    let Some(standby) = Cluster::of(&Kind { port: Some(5_433), of: Some(&primary), ..Kind::default() }) else { return };
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("SELECT pg_reload_conf()");
    poll_until(MINUTE, || primary.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1");
    let [first, second] = [&primary, &standby].map(|server| server.folder().display().to_string().replace('/', "%2F"));
    // That which takes no writes comes first.
    let url = format!("postgres://orderd@{second}:5433,{first}:5432/postgres?schema=it_failover&lease=10s");
    let folder = Folder::new();
    let mut command = orderd(&folder);
    command.args(["--listen", "127.0.0.1:0", "--db", &standby.fresh_url("")]).env("XDG_RUNTIME_DIR", folder.path());
    let Err(ended) = Process::try_spawn(command, &folder) else { panic!("a standby takes writes") };
    assert!(ended.code == Some(1) && ended.stderr.contains("does not allow writes"), "{ended:?}");
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    let (mut promoted, mut back) = (false, Duration::ZERO);
    let (acknowledged, refused) = under_load(&instance, || {
        std::thread::sleep(Duration::from_secs(1));
        primary.stop("immediate");
        // The one that is left takes no writes yet.
        instance.post(order("while-none-takes-writes")).expect_error(503, "storage_unavailable");
        instance.get("/healthz").expect_error(503, "storage_unavailable");
        standby.promote();
        promoted = true;
        back = instance.served_again();
    });
    eprintln!("{} acknowledged, {refused} refused, back {back:?} after the promotion", acknowledged.len());
    assert!(promoted && acknowledged.len() > 20, "{}", acknowledged.len());
    assert_books_on(&standby, &[&instance], &url, &acknowledged);
}
