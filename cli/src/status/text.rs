//! A view as text: what is wrong first, then a table for each part.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::cluster::view::{Breakers, Count, NodeKind, NodeState, Quantiles, SinkView};
use crate::cluster::{View, added};
use crate::dlq;
use crate::say::{Paint, grouped};

/// The whole view.
pub(super) fn of(view: &View, paint: Paint) -> String {
    let mut text = String::new();
    let mut part = |title: &str, table: Option<Table>| {
        if let Some(table) = table {
            let _ = writeln!(text, "{}\n{table}", paint.strong(title));
        }
    };
    part("nodes", nodes(view));
    part("edge: requests", counts("outcome", &view.edge.requests, view.has_rates));
    part("edge: latency", latency(view));
    part("sinks", sinks(view));
    part("lag", lag(view));
    part("sources", sources(view));
    let troubles =
        view.troubles.iter().map(|trouble| format!("{} {trouble}\n", paint.bad("wrong"))).collect::<String>();
    format!("{} {}\n{troubles}{}\n{text}", paint.strong("sealstream"), dlq::time(view.at_ms), letters(view, paint))
}

fn table(header: &[&str], rows: Vec<Vec<String>>, right: impl IntoIterator<Item = usize>) -> Option<Table> {
    if rows.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Some(table)
}

fn nodes(view: &View) -> Option<Table> {
    let row = |node: &crate::cluster::view::NodeView| {
        let kind = match node.kind {
            NodeKind::Ingest => "ingest",
            NodeKind::Processor => "processor",
            NodeKind::Unknown => "-",
        };
        let state = match node.state {
            NodeState::Ready => "ready",
            NodeState::NotReady => "not ready",
            NodeState::NoAnswer => "no answer",
        };
        vec![shown(&node.url), kind.to_owned(), state.to_owned(), shown(&node.why)]
    };
    table(&["node", "is", "state", "why"], view.nodes.iter().map(row).collect(), [])
}

fn counts(name: &str, counts: &BTreeMap<String, Count>, has_rates: bool) -> Option<Table> {
    let row = |(value, count): (&String, &Count)| vec![shown(value), whole(count.total), rate(count.rate, has_rates)];
    table(&[name, "together", "per second"], counts.iter().map(row).collect(), [1, 2])
}

fn latency(view: &View) -> Option<Table> {
    let edge = &view.edge;
    let rows = [("request", edge.request_seconds), ("broker's acknowledgement", edge.ack_seconds)];
    let rows = rows.into_iter().filter(|(_, quantiles)| quantiles.p50.is_some());
    let row = |(name, quantiles): (&str, Quantiles)| {
        let Quantiles { p50, p95, p99 } = quantiles;
        vec![name.to_owned(), seconds(p50), seconds(p95), seconds(p99)]
    };
    table(&["from head to answer", "p50", "p95", "p99"], rows.map(row).collect(), [1, 2, 3])
}

fn sinks(view: &View) -> Option<Table> {
    let row = |sink: &SinkView| {
        let delivered = sink.records.get("delivered").copied().unwrap_or_default();
        let failed = added(sink.failures.values().map(|count| count.rate));
        let lanes = sink.lanes.iter().map(|lane| format!("{}: {}", lane.delay, grouped(lane.waiting)));
        vec![
            shown(&sink.name),
            rate(delivered.rate, view.has_rates),
            rate(failed, view.has_rates),
            format!("{} / {}", seconds(sink.age_seconds.p50), seconds(sink.age_seconds.p99)),
            breaker(sink.breakers).to_owned(),
            whole(sink.concurrency),
            lanes.collect::<Vec<_>>().join("  "),
        ]
    };
    let header = ["sink", "delivered/s", "failed/s", "age p50 / p99", "breaker", "at once", "waiting in retry lanes"];
    table(&header, view.sinks.iter().map(row).collect(), [1, 2, 3, 5])
}

/// The worst state that a processor has it in.
pub(super) fn breaker(breakers: Breakers) -> &'static str {
    match breakers {
        Breakers { closed: 0, half_open: 0, open: 0 } => "-",
        Breakers { open: 0, half_open: 0, .. } => "closed",
        Breakers { open: 0, .. } => "half-open",
        Breakers { .. } => "open",
    }
}

fn lag(view: &View) -> Option<Table> {
    let row = |group: &crate::cluster::GroupLag| {
        vec![group.group.clone(), group.topic.clone(), grouped(group.lag), grouped(group.lost)]
    };
    let groups = view.groups.iter().flatten();
    table(&["group", "topic", "lag", "lost to retention"], groups.map(row).collect(), [2, 3])
}

fn sources(view: &View) -> Option<Table> {
    let mut rows = Vec::new();
    for source in &view.sources {
        let mut name = shown(&source.name);
        for (used, keys) in [("requests signed by", &source.secrets), ("events opened by", &source.keys)] {
            for (key, count) in keys {
                rows.push(vec![
                    std::mem::take(&mut name),
                    used.to_owned(),
                    shown(key),
                    whole(count.total),
                    rate(count.rate, view.has_rates),
                ]);
            }
        }
    }
    table(&["source", "use", "key", "together", "per second"], rows, [3, 4])
}

fn letters(view: &View, paint: Paint) -> String {
    let Some(letters) = &view.letters else { return "dead letters: not known".to_owned() };
    let waiting = if letters.waiting == 0 {
        paint.good("none wait")
    } else {
        paint.bad(format!("{} wait", grouped(letters.waiting)))
    };
    let reasons: Vec<_> =
        letters.by_reason.iter().map(|(reason, count)| format!("{} {reason}", grouped(*count))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let older = if letters.left_out == 0 {
        String::new()
    } else {
        format!(", {} older records not counted", grouped(letters.left_out))
    };
    format!("dead letters: {waiting}{reasons}, {} redriven{older}", grouped(letters.redriven))
}

/// What a node or a configuration says, without characters that a terminal obeys.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole, and far below 2^53")]
fn whole(number: f64) -> String {
    if number.is_finite() && number >= 0.0 { grouped(number.round() as u64) } else { "?".to_owned() }
}

fn rate(rate: f64, known: bool) -> String {
    match rate {
        _ if !known => "-".to_owned(),
        rate if rate >= 100.0 => whole(rate),
        rate => format!("{rate:.1}"),
    }
}

fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.000_999_5 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 0.999_5 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::sample;

    #[test]
    fn the_whole_view_is_shown() {
        let shown = of(&sample(), Paint::none());
        let expected = [
            "sealstream 2023-11-14T22:13:20Z",
            "wrong http://three:9100: no connection",
            "dead letters: 5 wait (1 bad_mac, 4 exhausted), 2 redriven",
            "│ http://one:9100   ┆ ingest    ┆ ready     ┆               │",
            "│ http://three:9100 ┆ -         ┆ no answer ┆ no connection │",
            "│ received          ┆      150 ┆       10.0 │",
            "│ request             ┆ 6.2 ms ┆",
            "│ main  ┆         0.0 ┆      0.0 ┆         - / - ┆ open    ┆      16 ┆ 10s: 7",
            "│ sealstream.deliver.main ┆ events         ┆ 3 400 ┆",
            "│ acme   ┆ requests signed by ┆ s1       ┆      100 ┆        0.0 │",
            "│        ┆ requests signed by ┆ s2       ┆        0 ┆        0.0 │",
            "│        ┆ events opened by   ┆ k        ┆        0 ┆        0.0 │",
            "│        ┆ events opened by   ┆ k-before ┆       80 ┆        0.0 │",
        ];
        for line in expected {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        assert!(!shown.contains('\x1b'));
    }

    #[test]
    fn without_an_earlier_look_and_without_kafka_it_says_so() {
        let view = View { has_rates: false, letters: None, groups: None, nodes: Vec::new(), ..sample() };
        let shown = of(&view, Paint::none());
        assert!(shown.contains("dead letters: not known") && !shown.contains("sealstream.router"), "{shown}");
        assert!(shown.contains("│ received          ┆      150 ┆          - │"), "{shown}");
    }

    #[test]
    fn the_worst_breaker_is_shown() {
        let of = |closed, half_open, open| breaker(Breakers { closed, half_open, open });
        assert_eq!([of(0, 0, 0), of(2, 0, 0), of(1, 1, 0), of(1, 1, 1)], ["-", "closed", "half-open", "open"]);
    }

    #[test]
    fn times_and_rates_have_units_that_fit() {
        let shown = [None, Some(0.000_2), Some(0.001), Some(0.0125), Some(0.999_9), Some(75.0)].map(seconds);
        assert_eq!(shown, ["-", "200 µs", "1.0 ms", "12.5 ms", "1.0 s", "75.0 s"]);
        assert_eq!([rate(0.26, true), rate(1234.5, true), rate(5.0, false)], ["0.3", "1 235", "-"]);
        assert_eq!(shown_control(), "a\u{fffd}b");
    }

    fn shown_control() -> String {
        super::shown("a\x1bb")
    }
}
