//! How the demonstration tells what it found: a table for people, an object for programs.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::books::Books;
use crate::say::{self, Paint, grouped};

/// What a run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was sent and what became of it.
    pub books: Books,
    /// From the first request to the last arrival, the retried event apart.
    pub seconds: f64,
    /// Requests per second in that time.
    pub rate: f64,
    /// From a request to its 200.
    pub ack: Option<Latency>,
    /// From a request to its event's arrival at the HTTP sink, the retried event apart.
    pub delivery: Option<Latency>,
}

/// Latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of all were faster.
    pub p50_ms: f64,
    /// 95 of 100 were.
    pub p95_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// Of these, in microseconds; `None` without any.
    pub(super) fn of(mut us: Vec<u64>) -> Option<Self> {
        us.sort_unstable();
        let last = us.len().checked_sub(1)?;
        // The smallest that so many percent do not exceed.
        let at = |percent: usize| (us.len() * percent).div_ceil(100).saturating_sub(1).min(last);
        #[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52 µs")]
        let ms = |index: usize| us[index] as f64 / 1000.0;
        Some(Self { p50_ms: ms(at(50)), p95_ms: ms(at(95)), p99_ms: ms(at(99)), max_ms: ms(last) })
    }
}

impl Report {
    /// One object.
    pub fn json(&self) -> serde_json::Value {
        let Self { books, seconds, rate, ack, delivery } = self;
        serde_json::json!({
            "sent": books.sent,
            "accepted": books.accepted,
            "refused": books.refused,
            "delivered": books.delivered,
            "duplicates_recognised": books.duplicates_recognised,
            "retried": books.retried,
            "dead": books.dead,
            "lost": books.lost,
            "delivered_twice": books.delivered_twice,
            "conserved": books.conserved,
            "seconds": rounded(*seconds),
            "rate": rounded(*rate),
            "latency": { "ack": ack, "delivery": delivery },
        })
    }

    /// Tells it to a person.
    pub(super) fn tell(&self) {
        let paint = Paint::for_stdout();
        let books = &self.books;
        say::line(self.table());
        let verdict =
            if books.conserved { paint.good("The books balance") } else { paint.bad("THE BOOKS DO NOT BALANCE") };
        say::line(format_args!(
            "{verdict}: {} lost, {} delivered twice; {} dispatches made again after the sink was busy",
            grouped(books.lost),
            grouped(books.delivered_twice),
            grouped(books.retried),
        ));
        say::line(format_args!(
            "\n{:.0} requests/s over {:.1} s, on this machine, with every part in one process",
            self.rate, self.seconds
        ));
        for (what, latency) in
            [("request to 200 (the broker's ack)", self.ack), ("request to arrival at the HTTP sink", self.delivery)]
        {
            if let Some(Latency { p50_ms, p95_ms, p99_ms, max_ms }) = latency {
                say::line(format_args!(
                    "  {what:<36} p50 {p50_ms:.1} ms   p95 {p95_ms:.1} ms   p99 {p99_ms:.1} ms   max {max_ms:.1} ms"
                ));
            }
        }
    }

    fn table(&self) -> Table {
        let Books { sent, refused, delivered_to, duplicates_of, dead, dead_by_reason, .. } = &self.books;
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["what became of the requests", "HTTP sink", "Kafka topic"]);
        let mut row = |name: String, [http, kafka]: [u64; 2]| {
            table.add_row([name, grouped(http), grouped(kafka)]);
        };
        row("delivered once".to_owned(), *delivered_to);
        row("repeats recognised".to_owned(), *duplicates_of);
        for (code, count) in refused {
            row(format!("refused: {code}"), [*count; 2]);
        }
        for (reason, count) in dead_by_reason {
            row(format!("dead: {reason}"), [*count; 2]);
        }
        let refused: u64 = refused.values().sum();
        row("together".to_owned(), [0, 1].map(|sink: usize| delivered_to[sink] + duplicates_of[sink] + refused + dead));
        row("sent".to_owned(), [*sent; 2]);
        for column in [1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// To three decimal places.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        assert_eq!(Latency::of(Vec::new()), None);
        let one = Latency::of(vec![1500]).unwrap();
        assert_eq!(one, Latency { p50_ms: 1.5, p95_ms: 1.5, p99_ms: 1.5, max_ms: 1.5 });
        let hundred = Latency::of((1..=100).rev().map(|n| n * 1000).collect()).unwrap();
        assert_eq!(hundred, Latency { p50_ms: 50.0, p95_ms: 95.0, p99_ms: 99.0, max_ms: 100.0 });
    }

    #[test]
    fn the_object_has_what_programs_rely_on() {
        let books = super::super::books::Seen::default().books();
        let report = Report { books, seconds: 1.23456, rate: 0.0, ack: None, delivery: None };
        let json = report.json();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expect = [
            "sent",
            "accepted",
            "refused",
            "delivered",
            "duplicates_recognised",
            "retried",
            "dead",
            "lost",
            "delivered_twice",
            "conserved",
            "seconds",
            "rate",
            "latency",
        ];
        expect.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expect);
        assert_eq!(json["seconds"], 1.235);
    }
}
