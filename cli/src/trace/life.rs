//! What was found, put in order: the steps of an event, and what became of it at each sink.

use std::fmt;

use common::id::{KeyedId, SinkId, SourceId};
use common::record::{LetterPlace, Origin, Reason};
use common::topics::Topic;
use processor::config::Config;
use processor::core::index::{Index, Verdict};
use processor::core::schedule::wait_ms;

use super::search::{Finds, Found, FoundLetter, GroupAt};
use crate::trace::time;

/// See the module.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) source: SourceId,
    pub(super) id: KeyedId,
    pub(super) traceparent: Option<String>,
    /// In the order of time.
    pub(super) steps: Vec<Step>,
    /// For each copy that is no repeat, and each sink of its source.
    pub(super) sinks: Vec<Fate>,
}

/// A record, and what it says.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) time_ms: u64,
    pub(super) topic: Topic,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Accepted { received_ms: u64, redriven_ms: Option<u64> },
    Copied,
    Repeat { of: i64 },
    Parked { sink: SinkId, first_seen_ms: u64, attempt: u32, hop: u32, until_ms: u64 },
    Dead { sink: Option<SinkId>, attempt: Option<u32>, reason: Reason, status: Option<u16>, origin: Origin },
    Redriven { letter: LetterPlace },
}

impl What {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Copied => "copied",
            Self::Repeat { .. } => "repeat",
            Self::Parked { .. } => "parked",
            Self::Dead { .. } => "dead",
            Self::Redriven { .. } => "redriven",
        }
    }

    /// Dispatches made by then.
    pub(super) fn attempt(&self) -> Option<u32> {
        match self {
            Self::Parked { attempt, .. } => Some(*attempt),
            Self::Dead { attempt, .. } => *attempt,
            Self::Accepted { .. } | Self::Copied | Self::Repeat { .. } | Self::Redriven { .. } => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { redriven_ms: Some(_), .. } => write!(f, "put back into the inbox by a redrive"),
            Self::Accepted { received_ms, .. } => write!(f, "accepted by ingest at {}", time(*received_ms)),
            Self::Copied => f.write_str("copied to its place: the one that is delivered"),
            Self::Repeat { of } => write!(f, "a repeat of offset {of}: not delivered"),
            Self::Parked { sink, until_ms, .. } => write!(f, "{sink}: parked until {}", time(*until_ms)),
            Self::Dead { sink, reason, status, origin, .. } => {
                if let Some(sink) = sink {
                    write!(f, "{sink}: ")?;
                }
                write!(f, "dead, {reason}")?;
                if let Some(status) = status {
                    write!(f, " (status {status})")?;
                }
                write!(f, ", read at {origin}")
            }
            Self::Redriven { letter } => write!(f, "the letter at {letter} was redriven"),
        }
    }
}

/// What became of a copy at a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) sink: SinkId,
    /// The copy's offset in `events`.
    pub(super) offset: i64,
    /// Dispatches that were charged to it, the one that delivered it included.
    pub(super) attempts: u32,
    pub(super) outcome: Outcome,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Waiting { until_ms: u64 },
    Dead { reason: Reason },
    Open,
    Unknown,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Waiting { .. } => "waiting",
            Self::Dead { .. } => "dead",
            Self::Open => "open",
            Self::Unknown => "unknown",
        }
    }
}

impl Life {
    /// `None` without a single copy.
    pub(super) fn of(finds: Finds, config: &Config) -> Option<Self> {
        let first = finds.copies.first()?;
        let source = first.head.source.clone();
        let id = first.head.identity?.id;
        let traceparent = first.head.traceparent.as_deref().map(str::to_owned);
        let verdicts = verdicts(&finds.copies, config);
        let mut steps: Vec<Step> = Vec::new();
        for record in &finds.accepted {
            let head = &record.head;
            let what = What::Accepted { received_ms: head.received_ms, redriven_ms: head.redriven_ms };
            steps.push(step(record, what));
        }
        for (record, of) in finds.copies.iter().zip(&verdicts) {
            steps.push(step(record, of.map_or(What::Copied, |of| What::Repeat { of })));
        }
        steps.extend(finds.parked.iter().filter_map(|record| Some(step(record, parked(record, config)?))));
        for letter in &finds.letters {
            let LetterPlace { partition, offset } = letter.place;
            steps.push(Step { time_ms: letter.time_ms, topic: Topic::Dead, partition, offset, what: dead(letter) });
        }
        for marker in &finds.markers {
            let LetterPlace { partition, offset } = marker.place;
            let what = What::Redriven { letter: marker.letter };
            steps.push(Step { time_ms: marker.time_ms, topic: Topic::Dead, partition, offset, what });
        }
        // At one time in the order in which they are here, which is that of the pipeline.
        steps.sort_by_key(|step| step.time_ms);

        let delivered = finds.copies.iter().zip(&verdicts).filter(|(_, of)| of.is_none());
        let named = config.source.get(&source).map_or(&[][..], |source| &source.sinks[..]);
        let sinks = delivered
            .flat_map(|(copy, _)| named.iter().map(move |sink| (copy, sink)))
            .map(|(copy, sink)| fate(copy, sink, &finds, config))
            .collect();
        Some(Self { source, id, traceparent, steps, sinks })
    }
}

fn step(record: &Found, what: What) -> Step {
    let Found { time_ms, topic, partition, offset, .. } = record;
    Step { time_ms: *time_ms, topic: topic.clone(), partition: *partition, offset: *offset, what }
}

/// For each copy, the offset that it repeats, by the deliverer's own rule.
fn verdicts(copies: &[Found], config: &Config) -> Vec<Option<i64>> {
    let first = copies.first().map_or(0, |copy| copy.offset);
    let mut index = Index::new(config.dedup.window, first);
    let mut verdict = |copy: &Found| {
        let identity = copy.head.identity?;
        let mut changed = Vec::new();
        match index.look(copy.offset, identity.id, identity.previous, copy.time_ms, &mut changed) {
            Verdict::Deliver => None,
            Verdict::Repeat => changed.first().map(|entry| entry.owner),
        }
    };
    copies.iter().map(&mut verdict).collect()
}

fn parked(record: &Found, config: &Config) -> Option<What> {
    let retry = record.head.retry.as_ref()?;
    let Topic::Retry { delay, .. } = &record.topic else { return None };
    let wait_ms = wait_ms(delay.as_ms(), record.partition, config.topics.partitions);
    Some(What::Parked {
        sink: retry.sink.clone(),
        first_seen_ms: retry.first_seen_ms,
        attempt: retry.attempt,
        hop: retry.hop,
        until_ms: retry.due_ms.unwrap_or(record.time_ms.saturating_add(wait_ms)),
    })
}

fn dead(letter: &FoundLetter) -> What {
    let retry = letter.head.retry.as_ref();
    What::Dead {
        sink: retry.map(|retry| retry.sink.clone()),
        attempt: retry.map(|retry| retry.attempt),
        reason: letter.failure.reason,
        status: letter.failure.status,
        origin: letter.failure.origin.clone(),
    }
}

/// What became of a copy at a sink: what was written last says so, if it is complete.
fn fate(copy: &Found, sink: &SinkId, finds: &Finds, config: &Config) -> Fate {
    // A hand-off names the copy by its time in events.
    let is_its = |head: &common::record::Head| {
        head.retry.as_ref().is_some_and(|retry| retry.sink == *sink && retry.first_seen_ms == copy.time_ms)
    };
    let parked = finds.parked.iter().filter(|record| is_its(&record.head)).max_by_key(|record| record.time_ms);
    let letter = finds.letters.iter().filter(|letter| is_its(&letter.head)).max_by_key(|letter| letter.time_ms);
    let charged = |head: &common::record::Head| head.retry.as_ref().map_or(0, |retry| retry.attempt);
    let (attempts, outcome) = match (completed(&finds.groups, copy, sink), parked, letter) {
        (None, ..) => (0, Outcome::Unknown),
        (Some(false), ..) => (0, Outcome::Open),
        (Some(true), parked, Some(letter)) if parked.is_none_or(|parked| parked.time_ms <= letter.time_ms) => {
            (charged(&letter.head), Outcome::Dead { reason: letter.failure.reason })
        }
        (Some(true), Some(record), _) => {
            let before = charged(&record.head);
            match (completed(&finds.groups, record, sink), self::parked(record, config)) {
                (Some(true), _) => (before + 1, Outcome::Delivered),
                (Some(false), Some(What::Parked { until_ms, .. })) => (before, Outcome::Waiting { until_ms }),
                (Some(false), _) => (before, Outcome::Open),
                (None, _) => (before, Outcome::Unknown),
            }
        }
        (Some(true), None, _) => (1, Outcome::Delivered),
    };
    Fate { sink: sink.clone(), offset: copy.offset, attempts, outcome }
}

/// Whether a sink's group has completed a record; `None` where it has committed nothing.
fn completed(groups: &[GroupAt], record: &Found, sink: &SinkId) -> Option<bool> {
    let group = groups
        .iter()
        .find(|group| group.sink == *sink && group.topic == record.topic && group.partition == record.partition);
    Some(group?.progress.as_ref()?.is_complete(record.offset))
}

#[cfg(test)]
mod tests;
