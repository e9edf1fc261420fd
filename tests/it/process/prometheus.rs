//! The metrics as those read them who collect them: promtool, and a Prometheus server that scrapes a running orderd; and what
//! `deploy/` and `docs/metrics.md` have for it.
//!
//! Where these programs are not installed, a test says so and passes; CI must have them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use orderd::Address;
use serde_json::Value;

use crate::harness::{
    Client, Folder, PATIENCE, Process, Scraped, Serving, Worker, get, ids, left_out, order, poll_until, step, tcp_address,
};

fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn missing<T>(program: &str, e: &std::io::Error) -> Option<T> {
    assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "CI has no {program}: {e}");
    eprintln!("left out, as there is no {program} (Debian: apt-get install prometheus): {e}");
    None
}

/// Runs promtool, and says what it says if it finds a fault. `None`, and says so, where there is none.
#[track_caller]
fn promtool(args: &[&str], input: &str) -> Option<()> {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Ok(child) => child,
        Err(e) => return missing("promtool", &e),
    };
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    Some(())
}

/// Every expression of the dashboard, with what Grafana would put in place of its variables, and of the alert rules.
fn expressions() -> Vec<String> {
    fn collect(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
                Value::String(text) if name == "expr" => {
                    into.push(text.replace("$__rate_interval", "1m").replace("$job", "orderd"))
                }
                value => collect(value, into),
            }),
            Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
    let mut expressions = Vec::new();
    collect(&serde_json::from_str(&text_of("deploy/grafana-dashboard.json")).unwrap(), &mut expressions);
    let alerts = text_of("deploy/prometheus-alerts.yml");
    let of_alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.extend(of_alerts.map(str::to_string));
    assert!(expressions.len() > 25, "{expressions:?}");
    expressions
}

/// The names in a text that look like those of metrics.
fn names_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("orderd_") || word.starts_with("process_")).collect()
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "10ms"]);
    server.create(ids(0..10));
    server.wait_until_completed(10);
    server.get("/nothing");
    promtool(&["check", "metrics"], &Scraped::of(&server).text);
    server.stop();
}

#[test]
fn the_alert_rules_are_valid_and_speak_when_they_should() {
    promtool(&["check", "rules", "deploy/prometheus-alerts.yml"], "");
    promtool(&["test", "rules", "tests/it/process/alerts.yml"], "");
}

#[test]
fn dashboard_alerts_and_document_name_the_metrics_that_there_are() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s"]);
    server.create(ids(0..1));
    server.wait_until_completed(1);
    let figures = Scraped::of(&server);
    let there = figures.names();
    let document = text_of("docs/metrics.md");
    let (document, of_instances) = without_instances(&document);
    for expression in expressions() {
        for name in names_in(&expression) {
            assert!(there.contains(name) || rows_in(of_instances).contains(name), "{name} in {expression}");
        }
    }
    let types = figures.types();
    for (name, kind) in &types {
        assert!(document.contains(&format!("| `{name}` | {kind} |")), "docs/metrics.md has no row for the {kind} {name}");
    }
    for name in rows_in(&document) {
        assert!(types.contains_key(name), "docs/metrics.md has a row for {name}");
    }
    server.stop();
}

/// A server that keeps its orders in a file has no metrics of instances.
fn without_instances(document: &str) -> (String, &str) {
    let (before, rest) = document.split_once("### The instances\n").unwrap();
    let (of_instances, after) = rest.split_once("\n### ").unwrap();
    (format!("{before}### {after}"), of_instances)
}

/// The names of the metrics that a table has rows for.
fn rows_in(document: &str) -> BTreeSet<&str> {
    document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// However often and by whatever the serving process is replaced.
#[test]
fn restarts_of_the_worker_are_counted_across_them() {
    let folder = Folder::new();
    let server = Process::start(&folder, &[]);
    let restarts = || Scraped::of(&server).value("orderd_worker_restarts_total");
    assert_eq!(restarts(), 0.0);
    for n in 1..=2 {
        let worker = Worker::of(&server);
        worker.signal("KILL");
        worker.successor(&server);
        server.served_again();
        assert_eq!(restarts(), f64::from(n));
    }
    server.signal("USR1");
    poll_until(PATIENCE, || restarts() == 3.0);
    server.stop();
}

#[test]
fn without_a_supervisor_nothing_was_restarted() {
    let folder = Folder::new();
    let server = Process::start(&folder, &["--no-supervisor"]);
    assert_eq!(Scraped::of(&server).value("orderd_worker_restarts_total"), 0.0);
    server.stop();
}

/// A Prometheus server. Killed when dropped.
struct Prometheus {
    child: Child,
    address: Address,
}

impl Prometheus {
    /// Starts one with this configuration in `folder`. `None`, and says so, where there is none.
    fn start(folder: &Folder, configuration: &str) -> Option<Prometheus> {
        let path = folder.file("prometheus.yml");
        fs::write(&path, configuration).unwrap();
        promtool(&["check", "config", path.to_str().unwrap()], "")?;
        let mut command = Command::new("prometheus");
        command.arg("--config.file").arg(&path).arg("--storage.tsdb.path").arg(folder.file("series"));
        command.args(["--web.listen-address", "127.0.0.1:0"]).current_dir(folder.path());
        let mut child = match command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(e) => return missing("prometheus", &e),
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let address = lines.by_ref().find_map(|line| {
            said += &(line.clone() + "\n");
            line.split_once("msg=\"Listening on\" address=")?.1.trim().parse().ok()
        });
        // What it says later must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else {
            let _ = (child.kill(), child.wait());
            panic!("it does not listen:\n{said}");
        };
        let prometheus = Prometheus { child, address: Address::Tcp(address) };
        let ready = get("/-/ready");
        poll_until(PATIENCE, || {
            Client::connect(&prometheus.address).and_then(|mut c| c.try_ask(&ready)).is_ok_and(|answer| answer.status == 200)
        });
        Some(prometheus)
    }

    /// What an expression has for results now.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut client = Client::connect(&self.address).unwrap();
        client.set_read_timeout(PATIENCE).unwrap();
        let answer = client.ask(get(&format!("/api/v1/query?query={encoded}")));
        assert_eq!(answer.status, 200, "{expression}{}", answer.exchange());
        answer.json()["data"]["result"].as_array().unwrap().clone()
    }

    /// The value of the one result that an expression has.
    fn value(&self, expression: &str) -> Option<f64> {
        match &self.query(expression)[..] {
            [result] => result["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// With the configuration that the document shows, and so with the `Accept` that Prometheus sends by itself; only the port is
/// another, and it looks more often than four times a minute.
#[test]
fn prometheus_scrapes_a_running_orderd_and_every_panel_of_the_dashboard_shows_something() {
    if left_out() {
        return;
    }
    let folder = Folder::new();
    let exec = "test $ORDER_ID != bad || exit 65; test -e tried || { touch tried; exit 1; }";
    let server = Process::start(&folder, &["--exec", exec, "--retry-delay", "10ms"]);
    let document = text_of("docs/metrics.md");
    let configuration = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let address = tcp_address(&server).to_string();
    assert!(configuration.contains("localhost:8000"));
    let configuration = format!(
        "global:\n  scrape_interval: 1s\n{}",
        configuration.replace("localhost:8000", &address.replace("127.0.0.1", "localhost"))
    );
    let Some(prometheus) = Prometheus::start(&folder, &configuration) else { return server.stop() };
    poll_until(2 * PATIENCE, || prometheus.value("up{job=\"orderd\"}") == Some(1.0));
    server.create(ids(0..20));
    server.post(order("bad")).expect_status(200);
    server.post(order("cancelled")).expect_status(200);
    server.get("/nothing").expect_status(404);
    server.get("/orders").expect_status(200);
    server.get("/orders/bad").expect_status(200);
    server.ask(step("nobody", "cancel")).expect_status(404);
    poll_until(2 * PATIENCE, || {
        prometheus.value("orderd_orders_created_total") == Some(22.0)
            && prometheus.value("sum(orderd_orders_finished_total)") == Some(22.0)
            && prometheus.value("orderd_attempts_total{outcome=\"Retried\"}").is_some_and(|retried| retried >= 1.0)
    });
    assert_eq!(prometheus.value("orderd_orders_finished_total{outcome=\"Failed\"}"), Some(1.0));
    // A rate takes two looks, so it is waited for.
    for expression in expressions() {
        let found = || !prometheus.query(&expression).is_empty();
        // An alert has nothing to say while all is well.
        let is_alert = expression.contains("== 0") || expression.contains("> 0") || expression.contains("> 300");
        // There are no instances where the orders are in a file.
        if is_alert || ["orderd_instance_", "orderd_orphaned_"].iter().any(|name| expression.contains(name)) {
            found();
        } else {
            poll_until(PATIENCE, found);
        }
    }
    drop(prometheus);
    server.stop();
}
