//! `orderd export` and `orderd import` between a file and a server: the same lines come out of both, the counts of the server are exact, and
//! what a lost connection has cut short is resumed.

use std::fs;
use std::process::Stdio;

use super::{Instance, MINUTE, on_postgres, schema_of};
use crate::harness::{Ended, Folder, Process, Serving, cluster, comes_true, created, order, orderd, poll_until};
use crate::store::backup::{expect_done, run};
use crate::store::moving::{assert_same, exported, with_orders_of_every_kind};

/// Runs `orderd` with these words on a server, with the URL where nobody else sees it.
fn on(url: &str, folder: &Folder, words: &[&str]) -> Ended {
    fs::write(folder.file("url"), url).unwrap();
    let mut command = orderd(folder);
    command.args(words).args(["--db-file", "url"]).env("XDG_RUNTIME_DIR", folder.path());
    Ended::of(command)
}

#[track_caller]
fn assert_counts_are_exact(url: &str) {
    let schema = schema_of(url);
    let columns = ["pending", "processing", "completed", "failed", "cancelled", "processing_ms"];
    let kept = columns.map(|column| format!("sum({column})")).join(", ");
    let counted = ["Pending", "Processing", "Completed", "Failed", "Cancelled"];
    let counted = counted.map(|status| format!("count(*) FILTER (WHERE status = '{status}')")).join(", ");
    let took = "coalesce(sum(greatest(0, completed_at - created_at)) FILTER (WHERE status = 'Completed'), 0)";
    let sql = |text: String| cluster().unwrap().sql(&text);
    assert_eq!(
        sql(format!("SELECT {kept} FROM {schema}.counts")),
        sql(format!("SELECT {counted}, {took} FROM {schema}.orders")),
        "the counts are not exact"
    );
}

#[test]
fn from_a_file_to_a_server_and_back_is_the_same_to_the_letter() {
    let Some(url) = on_postgres("") else { return };
    let (folder, back) = (with_orders_of_every_kind(5_000), Folder::new());
    let text = exported(&folder, &[]);
    fs::write(folder.file("all.jsonl"), &text).unwrap();
    on(&url, &folder, &["export"]).expect_refused(&["holds no orders of orderd's"]);
    on(&url, &folder, &["import", "all.jsonl"]).expect_done("imported 5000, already there 0\n");
    assert_counts_are_exact(&url);
    let ended = on(&url, &folder, &["export", "--output", "server.jsonl"]);
    expect_done(&ended, &["server.jsonl has 5000 orders"]);
    assert_same(&fs::read_to_string(folder.file("server.jsonl")).unwrap(), &text);
    on(&url, &folder, &["import", "all.jsonl"]).expect_done("imported 0, already there 5000\n");
    assert_counts_are_exact(&url);
    let from = folder.file("server.jsonl");
    run(&back, &["import", from.to_str().unwrap()]).expect_done("imported 5000, already there 0\n");
    assert_same(&exported(&back, &[]), &text);
    expect_done(&run(&back, &["check"]), &["5000 orders", "are well"]);
}

#[test]
fn an_import_whose_connections_are_ended_says_so_and_is_resumed() {
    const ORDERS: usize = 40_000;
    let Some(url) = on_postgres("&application_name=moving") else { return };
    let folder = with_orders_of_every_kind(ORDERS);
    expect_done(&run(&folder, &["export", "--output", "all.jsonl"]), &["all.jsonl"]);
    let cluster = cluster().unwrap();
    let stored = || {
        let count = cluster.try_sql(&format!("SELECT count(*) FROM {}.orders", schema_of(&url)));
        count.ok().and_then(|count| count.parse::<usize>().ok()).unwrap_or(0)
    };
    fs::write(folder.file("url"), &url).unwrap();
    let mut cut_short = 0;
    for at_least in [1, 10_000, 20_000] {
        let mut command = orderd(&folder);
        command.args(["import", "all.jsonl", "--db-file", "url"]).env("XDG_RUNTIME_DIR", folder.path());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        comes_true(MINUTE, || stored() >= at_least);
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'moving'");
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(1) {
            assert!(said.lines().count() == 1 && said.contains("the whole may be given again"), "{said}");
            cut_short += usize::from(stored() < ORDERS);
        }
        assert_counts_are_exact(&url);
    }
    assert!(cut_short > 0, "none was met in the middle");
    let before = stored();
    let ended = on(&url, &folder, &["import", "all.jsonl"]);
    ended.expect_done(&format!("imported {}, already there {before}\n", ORDERS - before));
    assert_counts_are_exact(&url);
    assert_same(&on(&url, &folder, &["export"]).stdout, &fs::read_to_string(folder.file("all.jsonl")).unwrap());
}

/// Nobody owns it, so that whoever lives takes it over: an instance that starts, and one that was there before.
#[test]
fn an_order_in_processing_is_taken_over_by_an_instance_that_starts_and_by_one_that_runs() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--db", "orders.db", "--exec", "exec sleep 600"]);
    server.post(order("o-0")).expect(200, &created("o-0"));
    server.wait_for("o-0", "Processing");
    let text = run(&folder, &["export", "--db", "orders.db"]).stdout;
    drop(server);
    fs::write(folder.file("all.jsonl"), &text).unwrap();
    for runs_before in [false, true] {
        let Some(url) = on_postgres("&lease=3s") else { return };
        let start = || Instance::start(&folder, &url, &["--exec", "true", "--retry-delay", "10ms"]);
        let before = runs_before.then(start);
        on(&url, &folder, &["import", "all.jsonl"]).expect_done("imported 1, already there 0\n");
        let instance = before.unwrap_or_else(start);
        poll_until(MINUTE, || instance.status("o-0") == "Completed");
        assert_eq!(instance.record("o-0")["attempts"], 2);
        // Beside it, one that is asked for all says that they change.
        let ended = on(&url, &folder, &["export"]);
        assert!(ended.code == Some(0) && ended.stderr.contains("what it changes from now on"), "{ended:?}");
        instance.stop();
        assert_counts_are_exact(&url);
    }
}
