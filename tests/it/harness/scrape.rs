//! What a collector of metrics is told: the text of `GET /metrics`, sample by sample.

use std::collections::{BTreeMap, BTreeSet};

use super::{Serving, get, with};

/// One look at the figures.
pub struct Scraped {
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    /// Asks `server` as a collector does that knows only the older text.
    #[track_caller]
    pub fn of(server: &impl Serving) -> Scraped {
        let answer = server.ask(with(get("/metrics"), "Accept: text/plain;version=0.0.4"));
        assert_eq!(answer.status, 200, "{}", answer.exchange());
        answer.expect_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
        let of_line = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            (name.to_string(), value.parse().unwrap_or_else(|e| panic!("{e}: {line:?}")))
        };
        let samples = answer.body.lines().filter(|line| !line.starts_with('#')).map(of_line).collect();
        Scraped { text: answer.body, samples }
    }

    /// The value of a sample, named with its labels as it stands there. 0 if there is none.
    pub fn value(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or_default()
    }

    /// All samples, with their labels.
    pub fn samples(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(String::as_str)
    }

    /// The metrics with their types.
    pub fn types(&self) -> BTreeMap<String, String> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        lines.map(|(name, kind)| (name.to_string(), kind.to_string())).collect()
    }

    /// The names of all series: those of the metrics, and the three that each histogram has.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples().map(|sample| sample.split('{').next().unwrap_or_default()).collect()
    }
}
