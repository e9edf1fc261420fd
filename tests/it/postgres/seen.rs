//! What those who watch see of the instances: in the metrics of each, and by `orderd status`.

use std::collections::BTreeSet;
use std::process::Command;

use super::{Instance, MINUTE, on_postgres, schema_of};
use crate::harness::{
    Cluster, Ended, Folder, Process, Scraped, Serving, asking, cluster, created, get, order, poll_until, with,
};

/// The labels and the value of each sample of a metric.
fn samples(figures: &Scraped, name: &str) -> Vec<(String, f64)> {
    let of = |sample: &str| Some((sample.strip_prefix(name)?.strip_prefix('{')?.to_string(), figures.value(sample)));
    figures.samples().filter_map(of).collect()
}

fn status(folder: &Folder, instance: &Process, args: &[&str]) -> String {
    let ended = Ended::of(asking(folder, instance, &[&["status"], args].concat()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout
}

const WORK: [&str; 4] = ["--exec", "exec sleep 600", "--shutdown-timeout", "100ms"];

#[test]
fn every_instance_shows_all_of_them_what_each_works_on_and_what_waits_for_another() {
    let Some(url) = on_postgres("&lease=30s") else { return };
    let folders = [Folder::new(), Folder::new(), Folder::new()];
    let busy = Instance::start(&folders[0], &url, &WORK);
    for id in ["o-0", "o-1"] {
        busy.post(order(id)).expect(200, &created(id));
    }
    let idle = Instance::start(&folders[1], &url, &["--concurrency", "0"]);
    poll_until(MINUTE, || samples(&Scraped::of(&idle), "orderd_instance_processing").iter().any(|(_, orders)| *orders == 2.0));
    let (of_busy, of_idle) = (Scraped::of(&busy), Scraped::of(&idle));
    let rows = cluster().unwrap().sql(&format!("SELECT id, node FROM {}.instances ORDER BY id", schema_of(&url)));
    let labels: Vec<String> = rows
        .lines()
        .map(|row| row.split_once('|').map(|(id, node)| format!("id=\"{id}\",node=\"{node}\"}}")).unwrap())
        .collect();
    for figures in [&of_busy, &of_idle] {
        let leases = samples(figures, "orderd_instance_lease_seconds");
        assert_eq!(leases.iter().map(|(labels, _)| labels).collect::<Vec<_>>(), labels.iter().collect::<Vec<_>>());
        assert!(leases.iter().all(|(_, left)| (0.0..=30.0).contains(left)), "{leases:?}");
        let work = [(labels[0].clone(), 2.0), (labels[1].clone(), 0.0)];
        assert_eq!(samples(figures, "orderd_instance_processing"), work);
        let left = figures.value("orderd_lease_left_seconds");
        assert!(left > 0.0 && left <= 20.0, "{left}");
        assert_eq!((figures.value("orderd_instances_gone"), figures.value("orderd_orphaned_orders")), (0.0, 0.0));
    }
    assert_eq!(samples(&of_busy, "orderd_instance_info"), [(labels[0].clone(), 1.0)]);
    assert_eq!(samples(&of_idle, "orderd_instance_info"), [(labels[1].clone(), 1.0)]);

    let text = status(&folders[2], &idle, &[]);
    let table: Vec<Vec<&str>> = text.lines().skip_while(|line| !line.starts_with("INSTANCE")).map(words).collect();
    let ids: Vec<&str> = rows.lines().map(|row| row.split('|').next().unwrap()).collect();
    assert_eq!(table[0], ["INSTANCE", "NODE", "LEASE", "PROCESSING"], "{text}");
    assert!(table[1][0] == ids[0] && table[1][3..] == ["2"], "{text}");
    assert!(table[2][0] == ids[1] && table[2][3..] == ["0", "this", "one"] && table.len() == 3, "{text}");

    // A row that somebody else has written is no text of ours.
    let strange = "INSERT INTO instances (node, lease_until) VALUES (E'a\"\\n b', now() + interval '1 hour')";
    cluster().unwrap().sql(&format!("SET search_path = {}; {strange}", schema_of(&url)));
    assert!(samples(&Scraped::of(&idle), "orderd_instance_lease_seconds")[2].0.ends_with(",node=\"ab\"}"));

    // Its orders are nobody's until somebody takes them, who here has no room for any.
    busy.kill_all();
    let end = "UPDATE instances SET lease_until = now() - interval '1 s'";
    cluster().unwrap().sql(&format!("SET search_path = {}; {end} WHERE id = {}", schema_of(&url), ids[0]));
    let gone = Scraped::of(&idle);
    assert_eq!(samples(&gone, "orderd_instance_processing").len(), 2);
    assert_eq!((gone.value("orderd_instances_gone"), gone.value("orderd_orphaned_orders")), (1.0, 2.0), "{}", gone.text);
    let json: serde_json::Value = serde_json::from_str(&status(&folders[2], &idle, &["--json"])).unwrap();
    let instances = &json["instances"];
    assert_eq!((&instances["gone"], &instances["orphaned_orders"]), (&1.into(), &2.into()), "{json}");
    assert_eq!(instances["living"][0]["id"], ids[1], "{json}");
    assert!(instances["living"][0]["is_this"] == true && instances["living"][1]["is_this"] == false, "{json}");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn the_document_names_the_metrics_that_there_are_with_instances_and_promtool_finds_no_fault() {
    let Some(url) = on_postgres("") else { return };
    let folder = Folder::new();
    let instance = Instance::start(&folder, &url, &["--processing-time", "0s"]);
    instance.post(order("o-0")).expect(200, &created("o-0"));
    instance.wait_until_completed(1);
    let figures = Scraped::of(&instance);
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows: BTreeSet<String> =
        document.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_string())).collect();
    assert_eq!(figures.types().into_keys().collect::<BTreeSet<_>>(), rows);
    let mut promtool = Command::new("sh");
    promtool.args(["-c", "! command -v promtool || promtool check metrics"]);
    let checked = Ended::fed(promtool, figures.text.clone());
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

/// An operator sees in the figures of an instance itself that it can't work, as the others do not know why.
#[test]
fn an_instance_tells_what_it_knows_while_the_server_is_away() {
    let Some(server) = Cluster::another() else { return };
    let folder = Folder::new();
    let instance = Instance::start(&folder, &server.fresh_url("&lease=2s"), &["--processing-time", "0s"]);
    instance.post(order("o-0")).expect(200, &created("o-0"));
    instance.wait_until_completed(1);
    server.frozen(|| {
        poll_until(MINUTE, || !Scraped::of(&instance).types().contains_key("orderd_orders"));
        poll_until(MINUTE, || Scraped::of(&instance).value("orderd_lease_left_seconds") == 0.0);
        let figures = Scraped::of(&instance);
        assert!(figures.types().contains_key("orderd_lease_left_seconds"), "{}", figures.text);
        assert_eq!(figures.value("orderd_orders_created_total"), 1.0);
        assert!(figures.samples().all(|sample| !sample.starts_with("orderd_orders{")), "{}", figures.text);
        instance.ask(with(get("/metrics"), "Accept: application/json")).expect_error(503, "storage_unavailable");
        let ended = Ended::of(asking(&folder, &instance, &["status"]));
        ended.expect_failed(&["the server's database is away"]);
    });
    instance.served_again();
    for (sample, least) in [("orderd_lease_left_seconds", 0.01), ("orderd_orders{status=\"Completed\"}", 1.0)] {
        poll_until(MINUTE, || Scraped::of(&instance).value(sample) >= least);
    }
}
