//! What both faces show: sums over all nodes, rates between two looks, and quantiles of what happened in between.
//!
//! Names are those of the nodes' metrics; what no node counts is left out or zero, never guessed.

use std::collections::{BTreeMap, BTreeSet};

use processor::config::Config;
use processor::metrics as processor_metrics;
use serde::Serialize;

use super::exposition::Samples;
use super::nodes::{Answer, Look};
use super::{GroupLag, LetterCounts, Snapshot};

/// See the module. Times are in seconds, rates per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct View {
    /// When, Unix milliseconds.
    pub(crate) at_ms: u64,
    /// Whether there was an earlier look, and with it rates.
    pub(crate) has_rates: bool,
    /// What could not be had, in sentences.
    pub(crate) troubles: Vec<String>,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) edge: Edge,
    /// How the router's records end.
    pub(crate) router: BTreeMap<String, Count>,
    pub(crate) sinks: Vec<SinkView>,
    pub(crate) sources: Vec<SourceView>,
    /// `None` when Kafka did not say.
    pub(crate) groups: Option<Vec<GroupLag>>,
    /// `None` when the topic could not be read.
    pub(crate) letters: Option<LetterCounts>,
}

/// A counter: what the nodes have counted since they started, and how fast it rises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Count {
    pub(crate) total: f64,
    pub(crate) rate: f64,
}

/// A node, and how it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) url: String,
    /// What it is.
    pub(crate) kind: NodeKind,
    pub(crate) state: NodeState,
    /// Why it is not ready, or said nothing.
    pub(crate) why: String,
}

/// What a node is, by what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeKind {
    Ingest,
    Processor,
    Unknown,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeState {
    Ready,
    NotReady,
    NoAnswer,
}

/// Quantiles of a histogram, of what was observed between the two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p95: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// All ingest nodes together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Edge {
    /// Requests by outcome, those that were ever counted.
    pub(crate) requests: BTreeMap<String, Count>,
    pub(crate) request_seconds: Quantiles,
    pub(crate) ack_seconds: Quantiles,
    pub(crate) in_flight: f64,
    pub(crate) connections_open: f64,
    /// Requests that were not verified, by reason.
    pub(crate) verification_failures: BTreeMap<String, Count>,
    /// Requests that a limit refused, by limit.
    pub(crate) rate_limited: BTreeMap<String, Count>,
}

/// A sink of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SinkView {
    pub(crate) name: String,
    /// How its records end, by outcome.
    pub(crate) records: BTreeMap<String, Count>,
    /// Dispatches that failed, by kind.
    pub(crate) failures: BTreeMap<String, Count>,
    /// How old events are when the sink has them.
    pub(crate) age_seconds: Quantiles,
    /// How many processors have the breaker in which state.
    pub(crate) breakers: Breakers,
    pub(crate) breaker_openings: Count,
    /// Dispatches that may be under way at once, of all processors.
    pub(crate) concurrency: f64,
    /// Retry lanes with what waits in them; empty when Kafka did not say.
    pub(crate) lanes: Vec<Lane>,
}

/// Processors by the state of a sink's breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Breakers {
    pub(crate) closed: u32,
    pub(crate) half_open: u32,
    pub(crate) open: u32,
}

/// A retry lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lane {
    pub(crate) delay: String,
    pub(crate) waiting: u64,
}

/// A source of the configuration, or one that ingest counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct SourceView {
    pub(crate) name: String,
    /// Requests that were rightly signed, by the secret that signed them. None of a secret that is in use and unused looks so.
    pub(crate) secrets: BTreeMap<String, Count>,
    /// Envelopes that the router opened, by the key: those of the configuration, and those that a processor counts.
    pub(crate) keys: BTreeMap<String, Count>,
    /// Its sinks, from the configuration.
    pub(crate) sinks: Vec<String>,
}

/// Samples of all nodes: as they are, and as rates.
#[derive(Default)]
struct All {
    now: Samples,
    rates: Samples,
}

impl View {
    /// Of two looks, or of one: then nothing has a rate.
    pub(crate) fn between(before: Option<&Snapshot>, after: &Snapshot, config: &Config) -> Self {
        let all = All::of(before, after);
        let groups = after.groups.as_ref().ok();
        let of_kafka = [after.groups.as_ref().err(), after.letters.as_ref().err()];
        let mut troubles: Vec<_> = of_kafka.into_iter().flatten().cloned().collect();
        troubles.extend(
            after.nodes.iter().filter_map(|look| Some(format!("{}: {}", look.url, look.answer.as_ref().err()?))),
        );
        Self {
            at_ms: after.unix_ms,
            has_rates: before.is_some(),
            troubles,
            nodes: after.nodes.iter().map(node).collect(),
            edge: all.edge(),
            router: all.counts(processor_metrics::RECORDS, "outcome", &[("lane", "inbox")]),
            sinks: config.sink.keys().map(|sink| all.sink(sink.as_str(), groups)).collect(),
            sources: all.sources(config),
            groups: groups.cloned(),
            letters: after.letters.as_ref().ok().cloned(),
        }
    }
}

fn answer(look: &Look) -> Option<&Answer> {
    look.answer.as_ref().ok()
}

fn node(look: &Look) -> NodeView {
    let (kind, state, why) = match &look.answer {
        Err(why) => (NodeKind::Unknown, NodeState::NoAnswer, why.clone()),
        Ok(answer) => {
            let kind = match (answer.samples.has("ingest_"), answer.samples.has("processor_")) {
                (true, false) => NodeKind::Ingest,
                (false, true) => NodeKind::Processor,
                (true, true) | (false, false) => NodeKind::Unknown,
            };
            let state = if answer.missing.is_empty() { NodeState::Ready } else { NodeState::NotReady };
            (kind, state, answer.missing.join(", "))
        }
    };
    NodeView { url: look.url.clone(), kind, state, why }
}

impl All {
    fn of(before: Option<&Snapshot>, after: &Snapshot) -> Self {
        let now = after.nodes.iter().filter_map(|look| Some(answer(look)?.samples.clone()));
        // A node that did not answer before has no rates yet.
        let rates = after.nodes.iter().filter_map(|look| {
            let earlier = before?.nodes.iter().find(|earlier| earlier.url == look.url)?;
            let elapsed = look.at.saturating_sub(earlier.at);
            Some(answer(look)?.samples.rates(&answer(earlier)?.samples, elapsed))
        });
        Self { now: Samples::together(now), rates: Samples::together(rates) }
    }

    /// Counters by the value of a label.
    fn all_counts(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> BTreeMap<String, Count> {
        let mut rates = self.rates.by(name, label, labels);
        let count = |(value, total)| {
            let rate = rates.remove(&value).unwrap_or(0.0);
            (value, Count { total, rate })
        };
        self.now.by(name, label, labels).into_iter().map(count).collect()
    }

    /// Those that are not zero.
    fn counts(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> BTreeMap<String, Count> {
        let mut counts = self.all_counts(name, label, labels);
        counts.retain(|_, count| count.total > 0.0);
        counts
    }

    fn quantiles(&self, name: &str, labels: &[(&str, &str)]) -> Quantiles {
        let of = |quantile| self.rates.quantile(name, labels, quantile);
        Quantiles { p50: of(0.5), p95: of(0.95), p99: of(0.99) }
    }

    fn edge(&self) -> Edge {
        Edge {
            requests: self.counts("ingest_requests_total", "outcome", &[]),
            request_seconds: self.quantiles("ingest_request_seconds", &[]),
            ack_seconds: self.quantiles("ingest_ack_seconds", &[]),
            in_flight: self.now.sum("ingest_requests_in_flight", &[]),
            connections_open: self.now.sum("ingest_connections_open", &[]),
            verification_failures: self.counts("ingest_verification_failures_total", "reason", &[]),
            rate_limited: self.counts("ingest_rate_limited_total", "limit", &[]),
        }
    }

    fn sink(&self, name: &str, groups: Option<&Vec<GroupLag>>) -> SinkView {
        let labels = [("sink", name)];
        let mut breakers = Breakers::default();
        for sample in self.now.of(processor_metrics::BREAKER_STATE, &labels) {
            // The gauge is 0, 1 or 2.
            match sample.value {
                state if state < 0.5 => breakers.closed += 1,
                state if state < 1.5 => breakers.half_open += 1,
                _ => breakers.open += 1,
            }
        }
        let lane = |group: &GroupLag| {
            let delay = group.delay.clone().filter(|_| group.sink.as_deref() == Some(name))?;
            Some(Lane { delay, waiting: group.lag })
        };
        let openings = processor_metrics::BREAKER_OPENINGS;
        SinkView {
            name: name.to_owned(),
            records: self.counts(processor_metrics::RECORDS, "outcome", &labels),
            failures: self.counts(processor_metrics::FAILURES, "kind", &labels),
            age_seconds: self.quantiles(processor_metrics::DELIVERY_SECONDS, &labels),
            breakers,
            breaker_openings: Count { total: self.now.sum(openings, &labels), rate: self.rates.sum(openings, &labels) },
            concurrency: self.now.sum(processor_metrics::CONCURRENCY_LIMIT, &labels),
            lanes: groups.into_iter().flatten().filter_map(lane).collect(),
        }
    }

    /// Those of the configuration, and those that only ingest knows.
    fn sources(&self, config: &Config) -> Vec<SourceView> {
        const VERIFIED: &str = "ingest_verified_total";
        let counted = self.now.by(VERIFIED, "source", &[]).into_keys();
        let names: BTreeSet<String> = config.source.keys().map(ToString::to_string).chain(counted).collect();
        let one = |name: String| {
            let labels = [("source", &*name)];
            // A secret or a key that was never used is one of those to be seen.
            let secrets = self.all_counts(VERIFIED, "secret", &labels);
            let source = config.source.iter().find(|(known, _)| known.as_str() == name).map(|(_, source)| source);
            let mut keys = self.all_counts(processor_metrics::OPENED, "key", &labels);
            for key in source.into_iter().flat_map(|source| &source.keys) {
                keys.entry(key.id.to_string()).or_default();
            }
            let sinks = source.into_iter().flat_map(|source| &source.sinks).map(ToString::to_string).collect();
            SourceView { name, secrets, keys, sinks }
        };
        names.into_iter().map(one).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::lag::PartitionLag;
    use crate::dlq::tests::config;

    const INGEST: &str = "\
ingest_requests_total{outcome=\"received\"} 100
ingest_requests_total{outcome=\"signature_invalid\"} 4
ingest_requests_total{outcome=\"internal\"} 0
ingest_requests_in_flight 3
ingest_verified_total{source=\"acme\",secret=\"s1\"} 100
ingest_verified_total{source=\"acme\",secret=\"s2\"} 0
ingest_verified_total{source=\"beta\",secret=\"s1\"} 7
ingest_request_seconds_bucket{le=\"0.01\"} 50
ingest_request_seconds_bucket{le=\"0.1\"} 104
ingest_request_seconds_bucket{le=\"+Inf\"} 104
";

    const PROCESSOR: &str = "\
processor_records_total{lane=\"inbox\",sink=\"\",outcome=\"routed\",reason=\"\"} 90
processor_records_total{lane=\"events\",sink=\"main\",outcome=\"delivered\",reason=\"\"} 80
processor_records_total{lane=\"retry\",sink=\"main\",outcome=\"delivered\",reason=\"\"} 8
processor_dispatch_failures_total{sink=\"main\",kind=\"status\"} 9
processor_breaker_state{sink=\"main\"} 2
processor_breaker_openings_total{sink=\"main\"} 1
processor_concurrency_limit{sink=\"main\"} 16
processor_messages_opened_total{source=\"acme\",key=\"k-before\"} 80
";

    fn look(url: &str, seconds: u64, text: &str) -> Look {
        let answer = Answer { missing: Vec::new(), samples: Samples::parse(text).unwrap() };
        Look { url: url.to_owned(), at: Duration::from_secs(seconds), answer: Ok(answer) }
    }

    fn group(group: &str, topic: &str, sink: Option<&str>, delay: Option<&str>, lag: u64) -> GroupLag {
        let end = i64::try_from(lag).unwrap() + 5;
        let partitions = vec![PartitionLag { partition: 0, committed: Some(5), start: 0, end, lag }];
        let text = |text: Option<&str>| text.map(str::to_owned);
        GroupLag {
            group: group.to_owned(),
            topic: topic.to_owned(),
            sink: text(sink),
            delay: text(delay),
            lag,
            lost: 0,
            partitions,
        }
    }

    fn snapshots() -> (Snapshot, Snapshot) {
        let groups = vec![
            group("sealstream.router", "inbox", None, None, 12),
            group("sealstream.deliver.main", "events", Some("main"), None, 3400),
            group("sealstream.retry.main", "retry.main.10s", Some("main"), Some("10s"), 7),
        ];
        let letters = LetterCounts {
            waiting: 5,
            redriven: 2,
            by_reason: [("exhausted".to_owned(), 4), ("bad_mac".to_owned(), 1)].into(),
            by_sink: [("main".to_owned(), 4)].into(),
            newest_ms: Some(1_700_000_000_000),
            left_out: 0,
        };
        let before = Snapshot {
            unix_ms: 1_700_000_000_000,
            groups: Ok(groups),
            letters: Ok(letters),
            nodes: vec![look("http://one:9100", 10, INGEST), look("http://two:9100", 10, PROCESSOR)],
        };
        let after_ingest = INGEST
            .replace("received\"} 100", "received\"} 150")
            .replace("le=\"0.01\"} 50", "le=\"0.01\"} 90")
            .replace("} 104", "} 154");
        let mut down = look("http://three:9100", 15, "");
        down.answer = Err("no connection".to_owned());
        let nodes = vec![look("http://one:9100", 15, &after_ingest), look("http://two:9100", 20, PROCESSOR), down];
        (before.clone(), Snapshot { nodes, ..before })
    }

    /// A view with something in each of its parts.
    pub(crate) fn sample() -> View {
        let (before, after) = snapshots();
        View::between(Some(&before), &after, &config())
    }

    #[test]
    fn counters_are_summed_and_have_rates() {
        let view = sample();
        assert_eq!(view.edge.requests["received"], Count { total: 150.0, rate: 10.0 });
        assert_eq!(view.edge.requests["signature_invalid"], Count { total: 4.0, rate: 0.0 });
        assert!(!view.edge.requests.contains_key("internal"), "nothing of what never happened");
        assert_eq!(view.router["routed"].total, 90.0);
        let main = &view.sinks[0];
        assert_eq!((&*main.name, main.records["delivered"].total), ("main", 88.0));
        assert_eq!(main.breakers, Breakers { open: 1, ..Breakers::default() });
        assert_eq!(main.lanes, [Lane { delay: "10s".to_owned(), waiting: 7 }]);
        assert_eq!(view.sinks[1].breakers, Breakers::default());
    }

    #[test]
    fn quantiles_are_of_what_happened_in_between() {
        // 40 of the 50 requests took at most 10 ms.
        let quantiles = sample().edge.request_seconds;
        assert!((quantiles.p50.unwrap() - 0.00625).abs() < 1e-9, "{quantiles:?}");
        assert!(quantiles.p99.unwrap() > 0.01);
        let (_, after) = snapshots();
        let once = View::between(None, &after, &config());
        assert_eq!(
            (once.has_rates, once.edge.request_seconds, once.edge.requests["received"].rate),
            (false, Quantiles::default(), 0.0)
        );
    }

    #[test]
    fn sources_show_secrets_and_keys_that_nobody_uses_and_names_that_only_ingest_knows() {
        let sources = sample().sources;
        let names: Vec<_> = sources.iter().map(|source| &*source.name).collect();
        assert_eq!(names, ["acme", "beta"]);
        assert_eq!(sources[0].secrets["s2"], Count::default());
        let keys: Vec<_> = sources[0].keys.iter().map(|(key, count)| (key.as_str(), count.total)).collect();
        assert_eq!(
            (&keys[..], &sources[0].sinks[..]),
            (&[("k", 0.0), ("k-before", 80.0)][..], &["main".to_owned()][..])
        );
        assert_eq!((sources[1].secrets["s1"].total, sources[1].keys.len()), (7.0, 0));
    }

    #[test]
    fn what_does_not_answer_is_shown_and_the_rest_stands() {
        let view = sample();
        let states: Vec<_> = view.nodes.iter().map(|node| (node.kind, node.state)).collect();
        let (ready, no) = (NodeState::Ready, NodeState::NoAnswer);
        assert_eq!(states, [(NodeKind::Ingest, ready), (NodeKind::Processor, ready), (NodeKind::Unknown, no)]);
        assert_eq!(view.troubles, ["http://three:9100: no connection"]);
        let (before, after) = snapshots();
        let after = Snapshot { groups: Err("no broker".to_owned()), letters: Err("no topic".to_owned()), ..after };
        let view = View::between(Some(&before), &after, &config());
        assert_eq!(view.troubles, ["no broker", "no topic", "http://three:9100: no connection"]);
        assert_eq!((view.groups, view.letters, view.edge.requests["received"].rate), (None, None, 10.0));
    }
}
