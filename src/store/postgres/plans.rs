//! How the server goes about each statement: by an index that holds what is wanted, whatever it knows of the table.
//!
//! A session keeps the plan that it made while the table was empty and nobody had looked at it, for as long as it lives. So every
//! statement there is (`sql.rs` lists them) is planned under the settings of a session of ours, for any parameters, on an empty table
//! and on one of many rows, and what each plan reads of `orders` is held against what it may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::connection::Connection;
use super::url::Server;
use super::{schema, sql};
use crate::store::tests::cluster::cluster;
use crate::store::tests::quick_or_slow;

const PATIENCE: Duration = Duration::from_secs(600);
/// The indexes of which a plan may read all there is, as each holds no more than those that are in one status.
const OF_A_STATUS: [&str; 7] = [
    "orders_fresh",
    "orders_due",
    "orders_delayed",
    "orders_processing",
    "orders_completed",
    "orders_failed",
    "orders_cancelled",
];

/// A session of ours in a schema of its own, which makes its plans as one does whose plans have been kept.
fn session() -> Option<Connection> {
    let url = cluster()?.fresh_url("");
    let server = Arc::new(Server::parse(url.as_ref()).unwrap());
    let mut connection = Connection::open(&server).unwrap();
    schema::migrate(&mut connection, &server).unwrap();
    connection.execute("SET plan_cache_mode = force_generic_plan", PATIENCE).unwrap();
    Some(connection)
}

/// The plan of a statement, for any parameters.
fn plan(connection: &mut Connection, statement: &str) -> Value {
    let parameters = (1..).take_while(|n| statement.contains(&format!("${n}"))).count();
    let any = if parameters > 0 { format!("({})", vec!["NULL"; parameters].join(", ")) } else { String::new() };
    connection.execute(&format!("PREPARE planned AS {statement}"), PATIENCE).unwrap();
    let text = connection.text(&format!("EXPLAIN (FORMAT JSON) EXECUTE planned{any}")).unwrap().unwrap();
    connection.execute("DEALLOCATE planned", PATIENCE).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every step of a plan that reads orders.
fn reads(plan: &Value) -> Vec<&Value> {
    match plan {
        Value::Array(steps) => steps.iter().flat_map(reads).collect(),
        Value::Object(fields) => {
            let kind = fields.get("Node Type").and_then(Value::as_str).unwrap_or_default();
            let is_of_orders = fields.get("Relation Name").is_some_and(|name| name == "orders");
            // A bitmap's index names no table.
            let is_bitmap = kind == "Bitmap Index Scan" && index(plan).starts_with("orders_");
            let own = (kind.ends_with("Scan") && is_of_orders && kind != "Bitmap Heap Scan" || is_bitmap).then_some(plan);
            own.into_iter().chain(fields.values().flat_map(reads)).collect()
        }
        _ => Vec::new(),
    }
}

/// Every step of a plan that puts in order all that an index has of a status.
fn sorts(plan: &Value) -> Vec<&Value> {
    match plan {
        Value::Array(steps) => steps.iter().flat_map(sorts).collect(),
        Value::Object(fields) => {
            let kind = fields.get("Node Type").and_then(Value::as_str).unwrap_or_default();
            let is_of_all = kind.contains("Sort") && reads_without_limit(&plan["Plans"]);
            is_of_all.then_some(plan).into_iter().chain(fields.values().flat_map(sorts)).collect()
        }
        _ => Vec::new(),
    }
}

fn reads_without_limit(steps: &Value) -> bool {
    steps.as_array().into_iter().flatten().any(|step| {
        let is_own_part = step["Node Type"] != "Limit" && step["Parent Relationship"] != "InitPlan";
        // As many as are worked on at once may well be put in order.
        let is_long = OF_A_STATUS.contains(&index(step)) && index(step) != "orders_processing";
        is_long || is_own_part && reads_without_limit(&step["Plans"])
    })
}

fn index(step: &Value) -> &str {
    step["Index Name"].as_str().unwrap_or_default()
}

/// What is wrong with the plans of all statements. Counts the indexes that they use.
fn faults(connection: &mut Connection, used: &mut BTreeMap<String, usize>) -> Vec<String> {
    let mut faults = Vec::new();
    for statement in sql::all() {
        let plan = plan(connection, statement.text());
        faults.extend(sorts(&plan).into_iter().map(|step| format!("{}\n{step:#}", statement.text())));
        for step in reads(&plan) {
            let index = index(step);
            *used.entry(index.to_string()).or_default() += 1;
            let is_narrow = step.get("Index Cond").is_some() || OF_A_STATUS.contains(&index);
            // Those that change one attempt: the other indexes hold every dead entry of a busy queue.
            let is_by_key = ![sql::END, sql::PUT_BACK].contains(&statement) || index == "orders_pkey";
            if index.is_empty() || !is_narrow || !is_by_key {
                faults.push(format!("{}\n{step:#}", statement.text()));
            }
        }
    }
    faults
}

#[test]
fn every_statement_reads_orders_by_an_index_that_is_made_for_it_however_many_there_are_and_whatever_is_known_of_them() {
    let Some(mut connection) = session() else { return };
    let orders = quick_or_slow(100_000, 1_000_000);
    // Most have ended, as in any table that has been there for a while.
    let fill = format!(
        "SET statement_timeout = 0;
         INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, retry_at, owner)
         SELECT md5(n::text), 'u' || n % 1000, '[\"i\"]', '1', s, n,
           CASE WHEN s = 'Pending' AND n % 2 = 0 THEN n ELSE 0 END, CASE WHEN s = 'Processing' THEN 1 END
         FROM (SELECT n, CASE WHEN n % 100 < 5 THEN 'Pending' WHEN n % 100 = 5 THEN 'Processing' WHEN n % 100 = 6 THEN 'Failed'
           WHEN n % 100 = 7 THEN 'Cancelled' ELSE 'Completed' END AS s FROM generate_series(1, {orders}) AS n) AS made"
    );
    // By whom it is analysed is said here alone.
    connection.execute("ALTER TABLE orders SET (autovacuum_enabled = off)", PATIENCE).unwrap();
    let stages = [("empty", "SELECT 1"), ("filled", fill.as_str()), ("analysed", "ANALYZE orders")];
    for (stage, deed) in stages {
        connection.execute(deed, PATIENCE).unwrap();
        let mut used = BTreeMap::new();
        let faults = faults(&mut connection, &mut used);
        assert!(faults.is_empty(), "on a table that is {stage}: {} plans\n{}", faults.len(), faults.join("\n"));
        eprintln!("{} statements on a table that is {stage}: they use {used:?}", sql::all().len());
        // Otherwise the plans were not understood.
        assert!(used.len() > 5, "{used:?}");
    }
    // What the planner takes of its own accord is what the settings are for.
    connection.execute("SET enable_seqscan = on; TRUNCATE orders; ANALYZE orders", PATIENCE).unwrap();
    let without = faults(&mut connection, &mut BTreeMap::new()).len();
    eprintln!("control: with enable_seqscan=on {without} reads of an empty table are of all of it");
    assert!(without > 0, "the control shows nothing");
}
