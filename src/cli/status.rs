//! `orderd status`: what is going on: counts, what comes and what is done each second, the oldest pending order, the newest failed ones.
//!
//! Asks for the same figures that Prometheus gets, twice, a second apart, and for a page of failed orders. With `--watch` it goes on, and
//! says so when the server is gone, until it comes back.

#[cfg(feature = "postgres")]
mod instances;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;

use super::arguments::Given;
use super::output::{self, Table};
use super::remote::{Query, Remote, record_of};
use super::table::{Flag, JSON, SERVER, Subcommand};
use crate::Status;
use crate::config::Config;
use crate::error::Error;
use crate::os::logging::harmless_json;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "status",
    usage: "[--watch] [--json]",
    summary: "show what is going on",
    more: "It takes a second, as it looks twice to tell how fast orders come and end. With --json it is one object on a line.",
    words: 0..=0,
    flags: &[Flag { name: "watch", value: "", help: "show it anew each second, until Ctrl-C" }, JSON],
    settings: SERVER,
    run,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How many of the failed orders are shown.
const FAILED: usize = 5;
/// Has a terminal begin anew at its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let mut remote = Remote::of(config)?;
    let (is_json, watches) = (given.has("json"), given.has("watch"));
    let clears = watches && !is_json && std::io::stdout().is_terminal();
    let mut before = remote.figures().map(Look::new)?;
    loop {
        std::thread::sleep(PAUSE);
        let text = match look(&mut remote, &mut before) {
            Ok(seen) if is_json => serde_json::to_string(&seen).map(|json| harmless_json(&json) + "\n").unwrap_or_default(),
            Ok(seen) => seen.text(&config.listen.to_string())?,
            // It may come back.
            Err(e) if watches && !is_json => format!("orderd: {e}\n"),
            Err(e) => return Err(e),
        };
        let is_read = match (clears, watches && !is_json) {
            (true, _) => output::write(&format!("{CLEAR}{text}"))?,
            (false, true) => output::write(&format!("{text}\n"))?,
            (false, false) => output::write(&text)?,
        };
        if !watches || !is_read {
            return Ok(());
        }
    }
}

/// The figures of one moment.
struct Look {
    at: Instant,
    figures: Figures,
}

impl Look {
    fn new(text: String) -> Look {
        Look { at: Instant::now(), figures: Figures::of(&text) }
    }
}

/// What there is to see.
#[derive(Serialize)]
struct Seen {
    orders: BTreeMap<&'static str, u64>,
    created_per_second: f64,
    finished_per_second: f64,
    oldest_pending_seconds: Option<f64>,
    #[cfg(feature = "postgres")]
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<instances::Instances>,
    /// The newest ones.
    failed: Vec<Box<RawValue>>,
}

fn look(remote: &mut Remote, before: &mut Look) -> Result<Seen, Error> {
    let now = Look::new(remote.figures()?);
    let earlier = std::mem::replace(before, now);
    let now = &before.figures;
    if now.samples("orderd_orders").next().is_none() {
        return Err(Error::Refused("the orders can't be read now: the server's database is away, and its log says why".into()));
    }
    let seconds = before.at.duration_since(earlier.at).as_secs_f64();
    // A child that was renewed meanwhile counts anew.
    let rate = |name| (now.sum(name) - earlier.figures.sum(name)).max(0.0) / seconds;
    let orders: BTreeMap<_, _> = Status::ALL.map(|status| (status.as_str(), now.orders(status))).into();
    let mut failed = Vec::new();
    if orders[Status::Failed.as_str()] > 0 {
        let query = Query { status: Some(Status::Failed.as_str()), user: None, limit: FAILED };
        remote.each_page(&query, |_, page| {
            failed.extend(page.data);
            Ok(true)
        })?;
    }
    Ok(Seen {
        created_per_second: rate("orderd_orders_created_total"),
        finished_per_second: rate("orderd_orders_finished_total"),
        oldest_pending_seconds: (orders[Status::Pending.as_str()] > 0)
            .then(|| now.sum("orderd_oldest_pending_order_age_seconds")),
        #[cfg(feature = "postgres")]
        instances: instances::Instances::of(now),
        orders,
        failed,
    })
}

impl Seen {
    fn text(&self, address: &str) -> Result<String, Error> {
        let mut rows: Vec<[String; 2]> = vec![["server".into(), address.into()]];
        rows.extend(Status::ALL.map(|status| [status.as_str().to_string(), grouped(self.orders[status.as_str()])]));
        rows.push(["created".into(), format!("{:.0}/s", self.created_per_second)]);
        rows.push(["finished".into(), format!("{:.0}/s", self.finished_per_second)]);
        // To the second, and of none of them more than one can tell.
        let oldest = self.oldest_pending_seconds.map(|seconds| {
            let duration = Duration::from_secs(seconds.max(0.0) as u64);
            format!("created {} ago", humantime::format_duration(duration))
        });
        rows.push(["oldest pending".into(), oldest.unwrap_or_else(|| "-".into())]);
        let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
        let mut text = Table::new(output::width()).lines(&rows);
        #[cfg(feature = "postgres")]
        if let Some(instances) = &self.instances {
            text += &format!("\n{}", Table::new(output::width()).lines(&instances.rows()));
        }
        if !self.failed.is_empty() {
            let mut rows = vec![["FAILED", "TRIES", "ERROR"].map(String::from).to_vec()];
            for record in &self.failed {
                let record = record_of(record)?;
                rows.push(vec![record.order_id, record.attempts.to_string(), record.last_error.unwrap_or_default()]);
            }
            text += &format!("\n{}", Table::new(output::width()).lines(&rows));
        }
        Ok(text)
    }
}

/// Prometheus' text, as far as it is of use here.
struct Figures(Vec<(String, f64)>);

impl Figures {
    fn of(text: &str) -> Figures {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Figures(
            samples
                .filter_map(|line| line.rsplit_once(' '))
                .filter_map(|(name, value)| Some((name.into(), value.parse().ok()?)))
                .collect(),
        )
    }

    /// A name's samples, each by its labels.
    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let labels = move |sample: &'a str| sample.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0.iter().filter_map(move |(sample, value)| Some((labels(sample)?, *value)))
    }

    /// The sum of a name's samples, whatever their labels.
    fn sum(&self, name: &str) -> f64 {
        self.samples(name).map(|(_, value)| value).sum()
    }

    fn orders(&self, status: Status) -> u64 {
        self.sum(&format!("orderd_orders{{status=\"{}\"}}", status.as_str())) as u64
    }
}

/// With a comma for each thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_their_labels() {
        let figures =
            Figures::of("# TYPE a counter\na{x=\"1 2\"} 3\na{x=\"2\"} 4\naa 5\norderd_orders{status=\"Failed\"} 6\nb 0.5\n");
        assert_eq!((figures.sum("a"), figures.sum("aa"), figures.sum("b"), figures.sum("c")), (7.0, 5.0, 0.5, 0.0));
        assert_eq!((figures.orders(Status::Failed), figures.orders(Status::Pending)), (6, 0));
    }

    #[test]
    fn thousands_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
