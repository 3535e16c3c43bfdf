//! The Prometheus text format, version 0.0.4, as far as it is needed to look at one's own nodes: samples with their labels.
//! Comments, types and timestamps are passed over.
//!
//! What a node says is not trusted more than any other text: a line that is no sample makes the whole of it unreadable.

use std::collections::BTreeMap;
use std::time::Duration;

/// One line: a series and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// What a node, or all nodes together, said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples(Vec<Sample>);

/// A text that is not in the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} of the metrics is no sample")]
pub(crate) struct ExpositionError(usize);

impl Samples {
    /// Reads a text.
    pub(crate) fn parse(text: &str) -> Result<Self, ExpositionError> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines.map(|(at, line)| sample(line).ok_or(ExpositionError(at + 1))).collect::<Result<_, _>>().map(Self)
    }

    /// Those of several nodes, as one: equal series are summed by whoever asks.
    pub(crate) fn together(all: impl IntoIterator<Item = Self>) -> Self {
        Self(all.into_iter().flat_map(|samples| samples.0).collect())
    }

    /// By how much each counter rose per second since an earlier look at the same node.
    ///
    /// A series that was not there began at zero, and so did one that is lower now than it was: the node was started again.
    /// Gauges come out as nonsense and are not asked for.
    pub(crate) fn rates(&self, before: &Self, elapsed: Duration) -> Self {
        let known: BTreeMap<_, _> =
            before.0.iter().map(|sample| ((&sample.name, &sample.labels), sample.value)).collect();
        let rate = |sample: &Sample| {
            let was = known.get(&(&sample.name, &sample.labels)).copied().filter(|was| *was <= sample.value);
            Sample { value: (sample.value - was.unwrap_or(0.0)) / elapsed.as_secs_f64(), ..sample.clone() }
        };
        if elapsed.is_zero() { Self::default() } else { Self(self.0.iter().map(rate).collect()) }
    }

    /// Whether any series has a name that begins so.
    pub(crate) fn has(&self, prefix: &str) -> bool {
        self.0.iter().any(|sample| sample.name.starts_with(prefix))
    }

    /// The series of a name that carry these labels.
    pub(crate) fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            let carries = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|carried| carried == value);
            sample.name == name && labels.iter().all(carries)
        })
    }

    /// Their sum; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        added(self.of(name, labels).map(|sample| sample.value))
    }

    /// Their sums by the value of one more label.
    pub(crate) fn by(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name, labels) {
            *sums.entry(sample.labels.get(label).cloned().unwrap_or_default()).or_insert(0.0) += sample.value;
        }
        sums
    }

    /// A quantile of a histogram, by linear interpolation in its bucket, as Prometheus has it: the highest bound for what is
    /// above all bounds, `None` when nothing was observed.
    pub(crate) fn quantile(&self, name: &str, labels: &[(&str, &str)], quantile: f64) -> Option<f64> {
        let name = format!("{name}_bucket");
        let buckets = self.by(&name, "le", labels);
        let mut buckets: Vec<(f64, f64)> =
            buckets.into_iter().filter_map(|(bound, count)| Some((bound.parse().ok()?, count))).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (_, all) = *buckets.last()?;
        if all <= 0.0 {
            return None;
        }
        let rank = quantile * all;
        let mut below = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                let is_first_negative = below.1 == 0.0 && bound <= 0.0;
                if bound.is_infinite() || is_first_negative || count <= below.1 {
                    return Some(if bound.is_infinite() { below.0 } else { bound });
                }
                return Some(below.0 + (bound - below.0) * (rank - below.1) / (count - below.1));
            }
            below = (bound, count);
        }
        Some(below.0)
    }
}

/// The sum of numbers; of none it is 0, and not -0 as the library's.
pub(crate) fn added(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, std::ops::Add::add)
}

/// `name{label="text",…} value [timestamp]`
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    let is_timestamp = |word: &str| word.parse::<i64>().is_ok();
    let well_ended = words.next().is_none_or(is_timestamp) && words.next().is_none();
    (is_name(name) && well_ended).then(|| Sample { name: name.to_owned(), labels, value })
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.chars().next().is_some_and(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Reads `label="text",…}`; answers what follows, too.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        let (text, after) = quoted(after.trim_start())?;
        if !is_name(name) || labels.insert(name.to_owned(), text).is_some() {
            return None;
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(rest) => rest,
            None if after.starts_with('}') => after,
            None => return None,
        };
    }
}

/// Reads `"text"` with its escapes; answers what follows, too.
fn quoted(text: &str) -> Option<(String, &str)> {
    let rest = text.strip_prefix('"')?;
    let mut found = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((found, &rest[at + 1..])),
            '\\' => found.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            c => found.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use common::telemetry::Metrics;

    use super::*;

    fn parse(text: &str) -> Samples {
        Samples::parse(text).unwrap()
    }

    #[test]
    fn every_form_of_a_line_is_read() {
        let samples = parse(
            "# HELP a what it is\n# TYPE a counter\na 1\n\na{x=\"1\"} 2 1700000000000\na{x=\"2\",y=\"q\\\"\\\\\\n\",} 3e1\nb:c_1\t+Inf\nd{} NaN\n",
        );
        assert_eq!((samples.sum("a", &[]), samples.sum("a", &[("x", "1")])), (33.0, 2.0));
        assert_eq!(samples.sum("a", &[("y", "q\"\\\n")]), 30.0);
        assert!(samples.sum("none", &[]).is_sign_positive(), "or it is shown as -0");
        assert!(samples.sum("b:c_1", &[]).is_infinite() && samples.sum("d", &[]).is_nan());
        assert_eq!(samples.by("a", "x", &[]), [("", 1.0), ("1", 2.0), ("2", 30.0)].map(|(x, n)| (x.into(), n)).into());
        assert!(samples.has("b:") && !samples.has("e"));
    }

    #[test]
    fn what_is_no_sample_is_refused_with_its_line() {
        for bad in [
            "a",
            "a b",
            "a{",
            "a{x} 1",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\"",
            "a{x=\"1\"}",
            "a{x=\"1\" y=\"2\"} 1",
            "a{x=\"1\",x=\"2\"} 1",
            "a{x=\"\\t\"} 1",
            "1a 1",
            "a-b 1",
            "a 1 b",
            "a 1 2 3",
            "{x=\"1\"} 1",
            " a 1",
            "<html> 1",
        ] {
            assert_eq!(Samples::parse(&format!("ok 1\n{bad}\n")), Err(ExpositionError(2)), "{bad}");
        }
    }

    #[test]
    fn what_our_own_registry_renders_is_read() {
        let metrics = Metrics::isolated();
        metrics.scope(|| {
            metrics::counter!("edge_total", "outcome" => "a\"b\\c\nd").increment(2);
            metrics::histogram!("wait_seconds").record(0.02);
        });
        let samples = parse(&metrics.render());
        assert_eq!(samples.sum("edge_total", &[("outcome", "a\"b\\c\nd")]), 2.0);
        assert_eq!(samples.sum("wait_seconds_count", &[]), 1.0);
        assert!(samples.quantile("wait_seconds", &[], 0.5).is_some_and(|p50| (0.01..=0.025).contains(&p50)));
    }

    #[test]
    fn rates_are_of_what_rose_and_begin_anew_with_the_node() {
        let before = parse("a{x=\"1\"} 10\na{x=\"2\"} 10\n");
        let after = parse("a{x=\"1\"} 16\na{x=\"2\"} 4\na{x=\"3\"} 2\n");
        let rates = after.rates(&before, Duration::from_secs(2));
        assert_eq!(rates.by("a", "x", &[]), [("1", 3.0), ("2", 2.0), ("3", 1.0)].map(|(x, n)| (x.into(), n)).into());
        assert_eq!(after.rates(&before, Duration::ZERO), Samples::default());
    }

    #[test]
    fn quantiles_are_read_off_the_buckets_of_all_nodes() {
        let node = "h_bucket{le=\"1\"} 50\nh_bucket{le=\"2\"} 90\nh_bucket{le=\"4\"} 99\nh_bucket{le=\"+Inf\"} 100\n";
        let samples = Samples::together([parse(node), parse(node)]);
        let quantiles = [0.25, 0.5, 0.7, 0.9, 1.0].map(|quantile| samples.quantile("h", &[], quantile).unwrap());
        assert_eq!(quantiles, [0.5, 1.0, 1.5, 2.0, 4.0]);
        assert_eq!(parse("h_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\n").quantile("h", &[], 0.5), None);
        assert_eq!(Samples::default().quantile("h", &[], 0.5), None);
    }
}
