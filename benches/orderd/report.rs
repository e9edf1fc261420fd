//! What was found: samples, medians, figures with their targets, as a table for people or as JSON for machines.

use std::fmt::Write;

use serde_json::json;

use crate::args::Plan;
use crate::client::Outcome;

/// One turn of one contestant.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// A second.
    pub rate: f64,
    /// Half of the answers took at most so long.
    pub p50_ms: f64,
    /// 99 of 100 did.
    pub p99_ms: f64,
    /// Processor time of the server for each answer, in microseconds; NaN without a server.
    pub cpu_us: f64,
}

impl Sample {
    /// What remains of an outcome.
    pub fn of(outcome: &Outcome) -> Sample {
        Sample {
            rate: outcome.rate,
            p50_ms: outcome.percentile_ms(0.5),
            p99_ms: outcome.percentile_ms(0.99),
            cpu_us: outcome.cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64() * 1e6 / outcome.latencies_us.len() as f64),
        }
    }
}

/// The turns of one contestant.
#[derive(Debug, Clone)]
pub struct Series {
    /// What was done, and who did it.
    pub name: String,
    /// Of the rate.
    pub unit: &'static str,
    /// One a round.
    pub samples: Vec<Sample>,
}

impl Series {
    fn rates(&self) -> impl Iterator<Item = f64> + '_ {
        self.samples.iter().map(|s| s.rate)
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
    /// Only for information.
    None,
}

/// A figure and its target.
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much; infinite if it never came to an end.
    pub value: f64,
    /// Of what; empty for a ratio.
    pub unit: &'static str,
    /// What it must reach.
    pub bound: Bound,
}

impl Figure {
    /// A figure without a unit.
    pub fn ratio(name: &str, value: f64, bound: Bound) -> Figure {
        Figure { name: name.into(), value, unit: "", bound }
    }

    fn verdict(&self) -> &'static str {
        match self.bound {
            Bound::AtLeast(least) if self.value >= least => "ok",
            Bound::AtMost(most) if self.value <= most => "ok",
            Bound::None => "",
            _ => "SHORT",
        }
    }

    fn target(&self) -> String {
        match self.bound {
            Bound::AtLeast(least) => format!("at least {}", with_unit(least, self.unit)),
            Bound::AtMost(most) => format!("at most {}", with_unit(most, self.unit)),
            Bound::None => String::new(),
        }
    }
}

/// The median over the rounds of what one contestant reached over what another did in the same round.
pub fn median_ratio(one: &Series, other: &Series) -> f64 {
    median(one.rates().zip(other.rates()).map(|(one, other)| one / other))
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// Everything that was found.
pub struct Report {
    plan: Plan,
    /// Who took part.
    pub series: Vec<Series>,
    figures: Vec<Figure>,
}

impl Report {
    /// Nothing yet.
    pub fn new(plan: Plan) -> Report {
        Report { plan, series: Vec::new(), figures: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    fn short(&self) -> usize {
        self.figures.iter().filter(|f| f.verdict() == "SHORT").count()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to memory can't fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let Plan { rounds, turn, .. } = self.plan;
        writeln!(out, "{}", machine())?;
        writeln!(out, "Median of {rounds} rounds of {} s each; the contestants take turns.", turn.as_secs_f64())?;
        if self.plan.quick {
            writeln!(out, "QUICK: short rounds and smaller files than the figures ask for; each line says how many orders.")?;
        }
        writeln!(out, "CPU: microseconds of processor time that the server used for each answer.\n")?;
        let heads = ["", "median", "least to most", "p50 ms", "p99 ms", "CPU"];
        writeln!(out, "{:<48} {:>10} {:>19} {:>8} {:>8} {:>6}", heads[0], heads[1], heads[2], heads[3], heads[4], heads[5])?;
        for series in &self.series {
            let least = series.rates().fold(f64::INFINITY, f64::min);
            let most = series.rates().fold(0.0, f64::max);
            writeln!(
                out,
                "{:<48} {:>10} {:>19} {:>8.2} {:>8.2} {:>6}  {}",
                series.name,
                grouped(median(series.rates())),
                format!("{} to {}", grouped(least), grouped(most)),
                median(series.samples.iter().map(|s| s.p50_ms)),
                median(series.samples.iter().map(|s| s.p99_ms)),
                Some(median(series.samples.iter().map(|s| s.cpu_us)))
                    .filter(|us| !us.is_nan())
                    .map(grouped)
                    .unwrap_or_default(),
                series.unit,
            )?;
        }
        writeln!(out, "\n{:<82} {:>10}  {:<16}", "figure", "measured", "target")?;
        for figure in &self.figures {
            let value = with_unit(figure.value, figure.unit);
            writeln!(out, "{:<82} {value:>10}  {:<16} {}", figure.name, figure.target(), figure.verdict())?;
        }
        let targets = self.figures.iter().filter(|f| !matches!(f.bound, Bound::None)).count();
        match self.short() {
            _ if targets == 0 => Ok(()),
            0 => writeln!(out, "\nAll targets are met."),
            short => writeln!(out, "\n{short} of {targets} targets are not met."),
        }
    }

    /// For machines.
    pub fn json(&self) -> String {
        let series = self.series.iter().map(|s| {
            json!({
                "name": s.name,
                "unit": s.unit,
                "median": median(s.rates()),
                "rounds": s.samples.iter().map(|x| json!({"rate": x.rate, "p50_ms": x.p50_ms, "p99_ms": x.p99_ms, "cpu_us": x.cpu_us})).collect::<Vec<_>>(),
            })
        });
        let figures = self.figures.iter().map(|f| {
            let (at_least, at_most) = match f.bound {
                Bound::AtLeast(least) => (Some(least), None),
                Bound::AtMost(most) => (None, Some(most)),
                Bound::None => (None, None),
            };
            // JSON has no infinity: what never came to an end is null, and not ok.
            json!({
                "name": f.name, "value": f.value.is_finite().then_some(f.value), "unit": f.unit,
                "at_least": at_least, "at_most": at_most, "ok": f.verdict() != "SHORT",
            })
        });
        let report = json!({
            "quick": self.plan.quick,
            "machine": machine(),
            "series": series.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}

/// A number as people read it: `1,234,567`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn with_unit(value: f64, unit: &str) -> String {
    let digits = if value < 10.0 { 2 } else { 1 };
    match (value.is_infinite(), unit) {
        (true, _) => "never".into(),
        (false, "") => format!("{value:.digits$}"),
        (false, unit) => format!("{value:.digits$} {unit}"),
    }
}

/// Processor, cores, kernel: what a reader needs to place the figures.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = std::env::consts::OS;
    format!("{model}, {cores} cores, {system} {}", read("/proc/sys/kernel/osrelease").trim())
}
