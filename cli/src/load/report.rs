//! What a load has found out, as a table and as JSON.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use common::envelope::Format;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;

use super::connection::Version;
use super::tally::{Counts, Tally};
use crate::say;

/// From this part of its threads on, the generator itself is what is measured.
const BUSY: f64 = 0.9;

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plan {
    /// Requests a second that are meant to be sent; none in a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) connections: u16,
    pub(super) streams: u16,
    pub(super) http: Version,
    pub(super) new_connections: bool,
    pub(super) format: Format,
    pub(super) duplicates: f64,
    pub(super) body_bytes: Vec<usize>,
}

/// CPU time of this process, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Cpu {
    user: f64,
    system: f64,
}

impl Cpu {
    /// So far.
    pub(super) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok(Self { user: seconds(usage.user_time()), system: seconds(usage.system_time()) })
    }

    /// From then until this.
    pub(super) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

/// How it went, besides what was counted.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) threads: usize,
    /// When it began, by the clock that the tally's times are of.
    pub(super) begin: Duration,
    pub(super) cpu: Cpu,
    /// Why the first request that brought no answer brought none.
    pub(super) no_answer: Option<String>,
}

/// The result. Times are in milliseconds, CPU time in seconds unless the name says microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    kind: &'static str,
    #[serde(flatten)]
    plan: Plan,
    /// Every request, and those answered 2xx.
    pub(super) requests: u64,
    pub(super) received: u64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// From the begin to the end of the last request.
    seconds: f64,
    requests_per_second: f64,
    received_per_second: f64,
    /// Of requests that were received, and of the others. In an open loop from the time that was meant.
    pub(super) latency_ms: Option<Quantiles>,
    failure_latency_ms: Option<Quantiles>,
    /// Open loop: how much later than meant requests were sent.
    lag_ms: Option<Quantiles>,
    /// The generator's own.
    cpu_seconds: Cpu,
    cpu_us_per_request: f64,
    cpu_cores: f64,
    threads: usize,
    #[serde(skip)]
    no_answer: Option<String>,
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quantiles {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Quantiles {
    fn of(times_ns: &Histogram<u64>) -> Option<Self> {
        let ms = |ns: u64| ns as f64 / 1e6;
        let quantile = |part: f64| ms(times_ns.value_at_quantile(part));
        (!times_ns.is_empty()).then(|| Self {
            min: ms(times_ns.min()),
            mean: times_ns.mean() / 1e6,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: ms(times_ns.max()),
        })
    }

    fn row(&self) -> [String; 7] {
        let Self { min, mean, p50, p90, p99, p99_9, max } = *self;
        [min, mean, p50, p90, p99, p99_9, max].map(|ms| format!("{ms:.3}"))
    }
}

impl Report {
    pub(super) fn new(plan: Plan, course: Course, tally: &Tally) -> Self {
        let Course { threads, begin, cpu, no_answer } = course;
        let (requests, received) = (tally.counts.requests(), tally.counts.received());
        let seconds = tally.last.saturating_sub(begin).as_secs_f64();
        let a_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let cpu_sum = cpu.user + cpu.system;
        Self {
            kind: if plan.rate.is_some() { "open" } else { "closed" },
            plan,
            requests,
            received,
            counts: tally.counts.clone(),
            seconds,
            requests_per_second: a_second(requests),
            received_per_second: a_second(received),
            latency_ms: Quantiles::of(&tally.received_ns),
            failure_latency_ms: Quantiles::of(&tally.failed_ns),
            lag_ms: Quantiles::of(&tally.lag_ns),
            cpu_seconds: cpu,
            cpu_us_per_request: if requests > 0 { cpu_sum * 1e6 / requests as f64 } else { 0.0 },
            cpu_cores: if seconds > 0.0 { cpu_sum / seconds } else { 0.0 },
            threads,
            no_answer,
        }
    }

    /// Requests that were not received, as far as is known.
    pub(super) fn failed(&self) -> u64 {
        self.requests - self.received
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let paint = say::Paint::for_stdout();
        let mut lines = vec![format!(
            "{} requests in {:.2} s: {:.0} received a second",
            say::grouped(self.requests),
            self.seconds,
            self.received_per_second
        )];
        let counts = &self.counts;
        let statuses = counts.statuses.iter().map(|(status, count)| (format!("answered {status}"), *count));
        let others = [
            ("no connection", counts.no_connection),
            ("timeout", counts.timeout),
            ("broken off", counts.broken),
            ("not sent", counts.not_sent),
        ];
        for (what, count) in statuses.chain(others.map(|(what, count)| (what.to_owned(), count))) {
            let text = format!("  {what}: {}", say::grouped(count));
            match what.starts_with("answered 2") {
                true => lines.push(paint.good(text)),
                false if count > 0 => lines.push(paint.bad(text)),
                false => {}
            }
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["ms", "min", "mean", "p50", "p90", "p99", "p99.9", "max"]);
        let rows =
            [("received", self.latency_ms), ("not received", self.failure_latency_ms), ("sent late by", self.lag_ms)];
        for (name, times) in rows {
            if let Some(times) = times {
                table.add_row(std::iter::once(name.to_owned()).chain(times.row()));
            }
        }
        lines.push(table.to_string());
        lines.push(format!(
            "{} connections; the generator took {:.1} µs of CPU per request, {:.0} % of {} thread{}",
            say::grouped(counts.connections_made),
            self.cpu_us_per_request,
            100.0 * self.busy(),
            self.threads,
            if self.threads == 1 { "" } else { "s" }
        ));
        lines.join("\n")
    }

    /// What a reader has to know to believe the figures.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(no_answer) = &self.no_answer {
            remarks.push(format!("the first request without an answer: {no_answer}"));
        }
        if self.busy() > BUSY {
            remarks.push(
                "the generator was as busy as it can be: these are its own limits, not the receiver's. Give it more --threads"
                    .to_owned(),
            );
        }
        remarks
    }

    fn busy(&self) -> f64 {
        self.cpu_cores / self.threads as f64
    }
}
