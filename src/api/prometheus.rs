//! `GET /metrics` for those who scrape: the figures of every room in Prometheus' text format, version 0.0.4.
//!
//! Words numbers that others keep; counts nothing itself. `docs/metrics.md` says what each means, and a test holds that it names all.
//! Labels have values of the program's own alone: nothing that a client sends becomes part of the text.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use crate::http::{self, Reply};
use crate::order::Status;
use crate::os::meters::Distribution;
use crate::os::usage::Usage;
use crate::store;

/// What the text goes by, which every collector knows.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The text has some 20 kB.
const TYPICAL_BYTES: usize = 32 << 10;

/// All that there is to tell.
#[derive(Debug)]
pub struct Figures<'a> {
    /// Orders, attempts, commits and the log.
    pub store: &'a store::Figures,
    /// Requests and connections.
    pub http: &'a http::Figures,
    /// What the process uses.
    pub process: Usage,
    /// How many processes have served before this one.
    pub restarts: u64,
}

/// Answers `GET /metrics` with text.
pub fn text(figures: &Figures<'_>) -> Reply {
    let mut text = Text(String::with_capacity(TYPICAL_BYTES));
    orders(&mut text, figures.store);
    requests(&mut text, figures.http);
    storage(&mut text, figures.store);
    #[cfg(feature = "postgres")]
    instances(&mut text, figures.store);
    process(&mut text, figures);
    Reply { status: 200, content_type: CONTENT_TYPE, headers: Vec::new(), body: Cow::Owned(text.0.into_bytes()) }
}

fn orders(text: &mut Text, store: &store::Figures) {
    // A collector is told nothing rather than what may be wrong.
    if let Some(counts) = store.counts {
        text.family("orderd_orders", "gauge", "Orders in the database, by status.");
        for status in Status::ALL {
            text.sample("orderd_orders", &[("status", status.as_str())], counts.of(status));
        }
        let age = store.oldest_pending_ms.map_or(0.0, |ms| ms as f64 / 1_000.0);
        text.gauge(
            "orderd_oldest_pending_order_age_seconds",
            "Time since the oldest pending order was created; 0 without one.",
            age,
        );
    }
    let name = "orderd_last_completion_timestamp_seconds";
    text.family(name, "gauge", "When an order was completed last, in seconds since 1970.");
    if let Some(ms) = store.last_completion_ms {
        text.sample(name, &[], ms as f64 / 1_000.0);
    }
    text.counter("orderd_orders_created_total", "Orders that were accepted as new.", store.created);
    let attempts = store.attempts;
    text.family("orderd_orders_finished_total", "counter", "Orders that ended, by what they ended as.");
    for (status, orders) in
        [(Status::Completed, attempts.completed), (Status::Failed, attempts.failed), (Status::Cancelled, store.cancelled)]
    {
        text.sample("orderd_orders_finished_total", &[("outcome", status.as_str())], orders);
    }
    text.family("orderd_attempts_total", "counter", "Attempts at orders that ended, by what became of them.");
    for (outcome, ended) in [
        ("Completed", attempts.completed),
        ("Failed", attempts.failed),
        ("Retried", attempts.retried),
        ("PutBack", attempts.put_back),
    ] {
        text.sample("orderd_attempts_total", &[("outcome", outcome)], ended);
    }
    text.family(
        "orderd_order_waiting_seconds",
        "histogram",
        "Time from an order's creation to the start of its first attempt.",
    );
    text.seconds("orderd_order_waiting_seconds", &[], &store.waiting);
    text.family("orderd_order_processing_seconds", "histogram", "Time from an attempt's start to its end.");
    text.seconds("orderd_order_processing_seconds", &[], &store.processing);
}

fn requests(text: &mut Text, http: &http::Figures) {
    text.family("orderd_http_requests_total", "counter", "Requests that were answered, by route and status.");
    for kind in &http.requests {
        for (status, requests) in &kind.statuses {
            let labels = [("route", kind.kind), ("status", &status.to_string())];
            text.sample("orderd_http_requests_total", &labels, requests);
        }
    }
    let name = "orderd_http_request_duration_seconds";
    text.family(name, "histogram", "Time from when a request is taken up until its answer is ready, by route.");
    for kind in &http.requests {
        text.seconds(name, &[("route", kind.kind)], &kind.time);
    }
    text.gauge("orderd_http_connections", "Open connections, a moment ago.", http.connections);
}

fn storage(text: &mut Text, store: &store::Figures) {
    text.family("orderd_commit_changes", "histogram", "Changes that shared a commit.");
    text.distribution("orderd_commit_changes", &[], &store.commit_changes, |changes| changes as f64);
    text.family("orderd_commit_duration_seconds", "histogram", "Time that a commit took, with its sync.");
    text.seconds("orderd_commit_duration_seconds", &[], &store.commit_time);
    text.counter("orderd_changes_refused_total", "Changes that could not be committed.", store.refused);
    let failing = u8::from(store.is_checkpoint_failing);
    text.gauge("orderd_checkpoint_failing", "1 while the write-ahead log can't be copied back into the database.", failing);
    let name = "orderd_checkpoint_failures_total";
    text.counter(name, "Failed tries to copy the write-ahead log back.", store.checkpoint_failures);
    text.gauge("orderd_wal_size_bytes", "How much of the write-ahead log is in use.", store.log_bytes);
}

/// A collector calls what it scrapes `instance`, so that is no name for a label.
#[cfg(feature = "postgres")]
fn instances(text: &mut Text, store: &store::Figures) {
    if let Some(left) = store.lease_left {
        let name = "orderd_lease_left_seconds";
        text.gauge(name, "Time until this instance stops its work unless it can extend its lease.", left.as_secs_f64());
    }
    let Some(instances) = &store.instances else { return };
    let mut each = |name: &str, help: &str, value: fn(&store::Instance) -> f64| {
        text.family(name, "gauge", help);
        for instance in &instances.living {
            text.sample(name, &[("id", &instance.id.to_string()), ("node", &instance.node)], value(instance));
        }
    };
    each("orderd_instance_lease_seconds", "Time until the lease of an instance ends, by the server's clock.", |instance| {
        instance.lease_seconds
    });
    each("orderd_instance_processing", "Orders in Processing that an instance has claimed.", |instance| {
        instance.processing as f64
    });
    let name = "orderd_instance_info";
    text.family(name, "gauge", "1, labelled with which of the instances this one is.");
    for own in instances.living.iter().filter(|instance| instance.id == instances.own) {
        text.sample(name, &[("id", &own.id.to_string()), ("node", &own.node)], 1);
    }
    text.gauge("orderd_instances_gone", "Instances without a lease that have left orders in Processing.", instances.gone);
    text.gauge("orderd_orphaned_orders", "Orders in Processing that wait to be taken over.", instances.orphans);
}

fn process(text: &mut Text, Figures { process, restarts, .. }: &Figures<'_>) {
    let name = "orderd_worker_restarts_total";
    text.counter(name, "Processes that the supervisor has started in place of an earlier one.", *restarts);
    text.family("orderd_build_info", "gauge", "1, labelled with the version.");
    text.sample("orderd_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(cpu) = process.cpu {
        text.counter("process_cpu_seconds_total", "User and system time of the serving process.", cpu.as_secs_f64());
    }
    if let Some(started) = process.started {
        text.gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.", started);
    }
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory that is held.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Memory that is addressed.", process.virtual_bytes),
        ("process_open_fds", "Open file descriptors.", process.descriptors),
        ("process_max_fds", "How many file descriptors may be open.", process.max_descriptors),
    ] {
        if let Some(value) = value {
            text.gauge(name, help, value);
        }
    }
}

/// The text so far. Writing to it can't fail.
struct Text(String);

impl Text {
    /// What is said once of all samples of a name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.labelled(name, "", labels, None, value);
    }

    /// A distribution of times in microseconds, in the unit that all times have here.
    fn seconds(&mut self, name: &str, labels: &[(&str, &str)], times: &Distribution) {
        self.distribution(name, labels, times, |micros| micros as f64 / 1_000_000.0);
    }

    fn distribution(&mut self, name: &str, labels: &[(&str, &str)], read: &Distribution, to_unit: impl Fn(u64) -> f64) {
        let mut so_far = 0;
        for (at, count) in read.counts.iter().enumerate() {
            so_far += count;
            let bound = read.bounds.get(at).map_or(f64::INFINITY, |bound| to_unit(*bound));
            self.labelled(name, "_bucket", labels, Some(bound), so_far);
        }
        self.labelled(name, "_sum", labels, None, to_unit(read.sum));
        self.labelled(name, "_count", labels, None, so_far);
    }

    fn labelled(&mut self, name: &str, part: &str, labels: &[(&str, &str)], bound: Option<f64>, value: impl Display) {
        let _ = write!(self.0, "{name}{part}");
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(self.0, "{before}{label}=\"{value}\"");
            before = ',';
        }
        match bound {
            Some(f64::INFINITY) => _ = write!(self.0, "{before}le=\"+Inf\"}}"),
            Some(bound) => _ = write!(self.0, "{before}le=\"{bound}\"}}"),
            None if before == ',' => self.0.push('}'),
            None => {}
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_told_by_what_is_no_larger_than_each_bound() {
        let mut text = Text(String::new());
        let read = Distribution { bounds: &[100, 2_500_000], counts: vec![2, 0, 1], sum: 3_000_150 };
        text.seconds("x_seconds", &[("route", "/order/{order_id}")], &read);
        assert_eq!(
            text.0,
            "x_seconds_bucket{route=\"/order/{order_id}\",le=\"0.0001\"} 2\n\
             x_seconds_bucket{route=\"/order/{order_id}\",le=\"2.5\"} 2\n\
             x_seconds_bucket{route=\"/order/{order_id}\",le=\"+Inf\"} 3\n\
             x_seconds_sum{route=\"/order/{order_id}\"} 3.00015\n\
             x_seconds_count{route=\"/order/{order_id}\"} 3\n"
        );
        text.0.clear();
        text.distribution("x", &[], &Distribution { bounds: &[1], counts: vec![1, 0], sum: 1 }, |value| value as f64);
        assert_eq!(text.0, "x_bucket{le=\"1\"} 1\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n");
    }
}
