//! Logs and metrics of a process: their formats, and where they are switched on.
//!
//! Logs go to standard error, so that a command's standard output stays its result. Names and labels of metrics are
//! declared by the crate that records them; this module holds only the registry. What is served over HTTP is in
//! [`crate::admin`].

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

/// Upper bounds of the buckets of every histogram of seconds: from a local hop to a request deadline.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the buckets of an age or a lateness, in seconds. Most are milliseconds; with a sink that is down they grow to
/// the hours of an outage, and an operator asks for seconds, a minute, an hour: so from a hop to a day, coarse at the end.
const AGE_SECONDS: [f64; 18] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0,
];

/// Upper bounds of the buckets of every histogram of bytes: up to the largest body that can be configured.
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 131_072.0, 262_144.0, 524_288.0, 1_048_576.0];

/// Upper bounds of the buckets of a difference of clocks, in seconds, which has a sign.
const SKEW_SECONDS: [f64; 15] =
    [-300.0, -60.0, -30.0, -10.0, -5.0, -2.0, -1.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];
/// The histogram that has those.
const SKEW: &str = "ingest_clock_skew_seconds";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// Plain lines, for people.
    Human,
}

/// The `[log]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged: a level (`info`), or levels per module (`info,ingest=debug`).
    #[serde(deserialize_with = "level")]
    pub level: String,
}

/// Reads a level and refuses what the log filter would take for something else: a misspelt level is a module to it.
fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = String::deserialize(deserializer)?;
    let is_module =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    let valid = text.split(',').all(|part| match part.split_once('=') {
        None => LEVELS.contains(&part),
        Some((module, level)) => is_module(module) && LEVELS.contains(&level),
    });
    if valid {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(
            "expected a log level (off, error, warn, info, debug, trace), or several such as \"info,ingest=debug\"",
        ))
    }
}

/// Switches logging on for this process. A second call changes nothing.
pub fn install_logging(config: &LogConfig) {
    let filter = EnvFilter::builder().parse_lossy(&config.level);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // An error says that a subscriber is installed already, which is what was asked for.
    let _installed = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Human => lines.try_init(),
    };
}

/// Lets a line through once in a while, by what it is about, and counts what is left out meanwhile. What it is about is one of
/// a few words: each is remembered.
#[derive(Debug)]
pub struct Sparing {
    every: Duration,
    told: Mutex<BTreeMap<String, Told>>,
}

/// When a line was written last, by the monotonic clock, and how many were left out since.
#[derive(Debug)]
struct Told {
    at: Duration,
    left_out: u64,
}

impl Sparing {
    /// One line about a thing in this time.
    pub const fn every(every: Duration) -> Self {
        Self { every, told: Mutex::new(BTreeMap::new()) }
    }

    /// How many lines about this were left out before this one, if this one is to be written.
    pub fn pass(&self, about: &str, now: Duration) -> Option<u64> {
        let mut told = self.told.lock();
        let Some(last) = told.get_mut(about) else {
            told.insert(about.to_owned(), Told { at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_sub(last.at) < self.every {
            last.left_out += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.left_out))
    }
}

/// The registry of this process, which the `metrics` macros write to. The first call installs it.
pub fn install_metrics() -> Metrics {
    static INSTALLED: OnceLock<Metrics> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let metrics = Metrics::isolated();
            metrics::set_global_recorder(metrics.recorder.clone())
                .expect("this function is the only one that installs a recorder, and runs once");
            metrics
        })
        .clone()
}

/// A registry of metrics. Clones are the same registry.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Metrics {
    /// A registry of its own, seen only through [`scope`](Self::scope): for tests that count, side by side.
    pub fn isolated() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_age_seconds".into()), &AGE_SECONDS))
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_lateness_seconds".into()), &AGE_SECONDS)
            })
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES))
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SKEW.into()), &SKEW_SECONDS))
            .expect("the bucket lists are not empty")
            .build_recorder();
        Self { handle: recorder.handle(), recorder: Arc::new(recorder) }
    }

    /// Runs `make`; the metric handles that it creates write to this registry wherever they are used later.
    pub fn scope<T>(&self, make: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, make)
    }

    /// Every series in the Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sum over the series of this name that carry at least these labels; 0 when there is none.
    ///
    /// A histogram's parts are found by their own names: `…_count`, `…_sum`, `…_bucket`.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.render().lines().filter_map(|line| sample(line, name, labels)).sum()
    }

    /// Folds what histograms have gathered since the last call; without it, or `render`, they grow.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Metrics")
    }
}

/// The value on one line of the text format, if the line is a series of this name with these labels.
fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (series, value) = rest.rsplit_once(' ')?;
    let carried = match series {
        "" => "",
        braced => braced.strip_prefix('{')?.strip_suffix('}')?,
    };
    // Label values are names of ours, without the characters that the format escapes; the comma makes every end explicit.
    let carried = format!(",{carried},");
    let all = labels.iter().all(|(key, value)| carried.contains(&format!(",{key}=\"{value}\",")));
    if all { value.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn of_repeats_one_is_told_in_a_while_with_the_number_of_those_left_out() {
        let sparing = Sparing::every(Duration::from_secs(10));
        let pass = |about, seconds| sparing.pass(about, Duration::from_secs(seconds));
        assert_eq!((pass("a", 100), pass("b", 101)), (Some(0), Some(0)), "each for itself");
        assert_eq!((pass("a", 100), pass("a", 109), pass("b", 109)), (None, None, None));
        assert_eq!((pass("a", 110), pass("a", 111), pass("b", 111)), (Some(2), None, Some(1)));
        assert_eq!(pass("a", 500), Some(1));
    }

    #[test]
    fn values_are_summed_over_matching_series() {
        let metrics = Metrics::isolated();
        metrics.scope(|| {
            metrics::counter!("edge_total", "outcome" => "ok", "source" => "a").increment(2);
            metrics::counter!("edge_total", "outcome" => "ok", "source" => "b").increment(3);
            metrics::counter!("edge_total", "outcome" => "not_ok", "source" => "b").increment(10);
            metrics::counter!("edge_total_other").increment(100);
            metrics::gauge!("level").set(1.5);
            metrics::histogram!("wait_seconds").record(0.02);
            metrics::histogram!(SKEW).record(-7.0);
            metrics::histogram!("test_age_seconds").record(7200.0);
            metrics::histogram!("test_lateness_seconds").record(7200.0);
        });
        for name in ["test_age_seconds_bucket", "test_lateness_seconds_bucket"] {
            let below = |le| metrics.value(name, &[("le", le)]);
            assert_eq!((below("3600"), below("21600")), (0.0, 1.0), "{name}: the longest suffix decides");
        }
        assert_eq!(metrics.value("ingest_clock_skew_seconds_bucket", &[("le", "-10")]), 0.0);
        assert_eq!(metrics.value("ingest_clock_skew_seconds_bucket", &[("le", "-5")]), 1.0);
        assert_eq!(metrics.value("edge_total", &[]), 15.0);
        assert_eq!(metrics.value("edge_total", &[("outcome", "ok")]), 5.0);
        assert_eq!(metrics.value("edge_total", &[("source", "b"), ("outcome", "ok")]), 3.0);
        assert_eq!(metrics.value("edge_total", &[("outcome", "o")]), 0.0);
        assert_eq!(metrics.value("level", &[]), 1.5);
        assert_eq!(metrics.value("wait_seconds_count", &[]), 1.0);
        assert_eq!(metrics.value("wait_seconds_bucket", &[("le", "0.01")]), 0.0);
        assert_eq!(metrics.value("wait_seconds_bucket", &[("le", "0.025")]), 1.0);
        assert_eq!(metrics.value("absent", &[]), 0.0);
    }

    #[test]
    fn handles_stay_with_the_registry_they_were_made_in() {
        let (one, two) = (Metrics::isolated(), Metrics::isolated());
        let counter = one.scope(|| metrics::counter!("seen_total"));
        two.scope(|| counter.increment(1));
        assert_eq!((one.value("seen_total", &[]), two.value("seen_total", &[])), (1.0, 0.0));
    }

    #[test]
    fn installing_twice_gives_the_same_registry() {
        let (one, two) = (install_metrics(), install_metrics());
        metrics::counter!("installed_total").increment(1);
        assert_eq!((one.value("installed_total", &[]), two.value("installed_total", &[])), (1.0, 1.0));
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let read = |level: &str| {
            serde_json::from_value::<LogConfig>(serde_json::json!({"format": "json", "level": level}))
                .map(|log| log.level)
        };
        assert_eq!(read("info,ingest=debug").unwrap(), "info,ingest=debug");
        for bad in ["", "inof", "INFO", "info,", "ingest=loud", "=info", "ingest[{x}]=info"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
