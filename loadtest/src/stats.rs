//! Figures of a run: latency histograms, rates, and the two forms they are printed in.
//!
//! A [`Report`] is one JSON line on stdout (for programs) and a table on stderr (for people). It
//! measures nothing itself and judges nothing: a scenario says what failed.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::server::Usage;

/// Latencies in microseconds, three significant digits, up to ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    /// Longest latency told apart: microseconds.
    const MAX: u64 = 600_000_000;

    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(Self::MAX, 3).expect("bounds and digits are constants in range"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many were recorded.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Takes in what another one has recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        micros_to_millis(self.0.value_at_quantile(quantile))
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of at most three digits")]
fn micros_to_millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// `amount` per `unit`; 0 when there was none.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn per(amount: u64, units: u64) -> f64 {
    if units == 0 { 0.0 } else { amount as f64 / units as f64 }
}

/// `count` per second of `time`.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// What one run found.
#[derive(Debug)]
pub(crate) struct Report {
    scenario: &'static str,
    settings: Map<String, Value>,
    figures: Map<String, Value>,
    rows: Vec<(String, String)>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self { scenario, settings: Map::new(), figures: Map::new(), rows: Vec::new(), failures: Vec::new() }
    }

    /// What the run was asked to do.
    pub(crate) fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.into(), value.into());
    }

    pub(crate) fn count(&mut self, name: &str, value: u64) {
        self.rows.push((name.replace('_', " "), value.to_string()));
        self.figures.insert(name.into(), value.into());
    }

    /// A figure with its unit; rounded to what can be meant.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str) {
        let digits = if value.abs() >= 100.0 { 0 } else { 2 };
        self.rows.push((name.replace('_', " "), format!("{value:.digits$} {unit}")));
        let rounded = (value * 100.0).round() / 100.0;
        self.figures.insert(name.into(), rounded.into());
    }

    /// A remark for people.
    pub(crate) fn note(&mut self, text: &str) {
        self.rows.push(("note".into(), text.into()));
    }

    /// p50, p90, p99, p99.9 and max in milliseconds; nothing when none was recorded.
    pub(crate) fn latency(&mut self, name: &str, latency: &Latency) {
        if latency.is_empty() {
            return;
        }
        let points = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];
        let values = points.map(|(point, quantile)| (point, latency.millis(quantile)));
        let text: Vec<String> = values.iter().map(|(point, value)| format!("{point} {value:.2}")).collect();
        self.rows.push((format!("{} (ms)", name.replace('_', " ")), text.join("  ")));
        let object: Map<String, Value> =
            values.iter().map(|(point, value)| ((*point).into(), (*value).into())).collect();
        self.figures.insert(format!("{name}_ms"), object.into());
    }

    /// CPU and bytes written over a stretch, per one of `count` (`unit`, singular).
    pub(crate) fn usage(&mut self, who: &str, before: Usage, after: Usage, count: u64, unit: &str) {
        let cpu = after.cpu_us.saturating_sub(before.cpu_us);
        let figure = format!("{who}_cpu_us_per_{unit}");
        self.figure(&figure, per(cpu, count), "µs");
        if who == "server" {
            let written = after.written.saturating_sub(before.written);
            self.figure(&format!("server_bytes_written_per_{unit}"), per(written, count), "bytes");
        }
    }

    /// Something that must not be: the run's exit status becomes 1.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    pub(crate) fn failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// JSON to stdout, the table to stderr.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "printing figures is the program's job")]
    pub(crate) fn print(&self, seed: u64) -> Result<()> {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        eprintln!("\n{} (seed {seed})", self.scenario);
        for (name, value) in &self.rows {
            eprintln!("  {name:width$}  {value}");
        }
        for failure in &self.failures {
            eprintln!("  FAILED: {failure}");
        }
        let line = json!({
            "scenario": self.scenario,
            "command": std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            "commit": commit(),
            "machine": machine(),
            "seed": seed,
            "settings": self.settings,
            "figures": self.figures,
            "failures": self.failures,
        });
        println!("{}", serde_json::to_string(&line)?);
        Ok(())
    }
}

/// The commit of the working directory, with a mark when files differ from it.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}+changes") })
}

/// What the figures were made on.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = kib.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find(|line| line.starts_with("model name"));
    json!({
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or_default(),
        "memory_mib": kib.unwrap_or_default() / 1024,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_out_in_milliseconds() {
        let mut latency = Latency::new();
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros * 10));
        }
        assert!((latency.millis(0.5) - 5.0).abs() < 0.02, "{}", latency.millis(0.5));
        assert!((latency.millis(1.0) - 10.0).abs() < 0.02, "{}", latency.millis(1.0));
    }

    #[test]
    fn figures_of_nothing_are_zero() {
        assert!(per(5, 0).abs() < f64::EPSILON);
        assert!(per_second(5, Duration::ZERO).abs() < f64::EPSILON);
        let mut report = Report::new("test");
        report.latency("ack", &Latency::new());
        assert!(!report.failed());
    }
}
