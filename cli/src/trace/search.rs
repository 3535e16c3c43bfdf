//! Reads what the log has of an event: every record by its keyed id, and what the groups have committed.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use common::id::{KeyedId, SinkId};
use common::kafka::consumer::{GroupOffsets, Incoming, Reader};
use common::record::{Dead, Failure, Head, LetterId, LetterPlace, RecordKeys};
use common::topics::{Group, Topic};
use processor::config::Config;
use processor::core::progress::Progress;
use processor::record_keys;
use sha2::{Digest, Sha256};

/// How far the clock of an ingest node and that of the brokers may be apart where a record is looked for in the inbox.
const SKEW_MS: u64 = 60_000;

/// A record of the event.
pub(super) struct Found {
    pub(super) time_ms: u64,
    pub(super) topic: Topic,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) head: Head,
    /// Of its sealed body.
    digest: [u8; 32],
}

impl Found {
    fn of(topic: &Topic, partition: i32, record: Incoming<'_>, head: Head) -> Self {
        Self {
            time_ms: record.time_ms(),
            topic: topic.clone(),
            partition,
            offset: record.offset(),
            head,
            digest: digest(record.value()),
        }
    }
}

/// A letter of the event.
pub(super) struct FoundLetter {
    pub(super) time_ms: u64,
    pub(super) place: LetterPlace,
    pub(super) head: Head,
    pub(super) failure: Failure,
    pub(super) id: LetterId,
}

/// A marker of one of its letters.
pub(super) struct FoundMarker {
    pub(super) time_ms: u64,
    pub(super) place: LetterPlace,
    pub(super) letter: LetterPlace,
}

/// How far a group has come in a partition.
pub(super) struct GroupAt {
    pub(super) topic: Topic,
    pub(super) sink: SinkId,
    pub(super) partition: i32,
    /// `None` where nothing is committed, or nothing that can be read.
    pub(super) progress: Option<Progress>,
}

/// Everything that the log has of an event.
#[derive(Default)]
pub(super) struct Finds {
    /// In `events`, in the order of the log.
    pub(super) copies: Vec<Found>,
    pub(super) accepted: Vec<Found>,
    pub(super) parked: Vec<Found>,
    pub(super) letters: Vec<FoundLetter>,
    pub(super) markers: Vec<FoundMarker>,
    pub(super) groups: Vec<GroupAt>,
}

/// See the module. Blocks.
pub(super) struct Search<'a> {
    config: &'a Config,
    edge: RecordKeys,
    core: RecordKeys,
    reader: Reader,
}

impl<'a> Search<'a> {
    /// Loads the keys that check records. Connects when it is used.
    pub(super) fn new(config: &'a Config) -> Result<Self> {
        Ok(Self {
            config,
            edge: record_keys(&config.pipeline.edge_keys)?,
            core: record_keys(&config.pipeline.core_keys)?,
            reader: Reader::new(&config.kafka)?,
        })
    }

    /// Everything about an event with one of these ids that came into one of these partitions since then.
    pub(super) fn look(&self, ids: &[KeyedId], partitions: &[i32], since_ms: u64) -> Result<Finds> {
        let mut finds = Finds::default();
        let is_it = |head: &Head| {
            head.identity.is_some_and(|identity| {
                ids.contains(&identity.id) || identity.previous.is_some_and(|previous| ids.contains(&previous))
            })
        };
        for partition in partitions {
            self.records(&Topic::Events, &self.core, *partition, since_ms, &is_it, &mut finds.copies)?;
        }
        let Some(first) = finds.copies.first() else { return Ok(finds) };
        // Everything else of it lies in the partitions of this number, and came later.
        let (partition, since_ms) = (first.partition, first.time_ms);
        for sink in self.config.sink.keys() {
            for lane in self.config.retry_topics(sink) {
                self.records(&lane, &self.core, partition, since_ms, &is_it, &mut finds.parked)?;
            }
        }
        finds.groups = self.groups(partition)?;
        self.dead(partition, since_ms, &is_it, &mut finds)?;
        finds.accepted = self.accepted(&finds.copies)?;
        Ok(finds)
    }

    /// The records of a partition since then that are right, and are it.
    fn records(
        &self,
        topic: &Topic,
        keys: &RecordKeys,
        partition: i32,
        since_ms: u64,
        is_it: &dyn Fn(&Head) -> bool,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        self.read(topic, partition, (since_ms, None), |record| {
            // A record that is not to be trusted says nothing of itself.
            if let Ok(head) = keys.open(topic, record.headers(), record.value())
                && is_it(&head)
            {
                found.push(Found::of(topic, partition, record, head));
            }
        })
    }

    fn dead(&self, partition: i32, since_ms: u64, is_it: &dyn Fn(&Head) -> bool, finds: &mut Finds) -> Result<()> {
        self.read(&Topic::Dead, partition, (since_ms, None), |record| {
            let place = LetterPlace { partition, offset: record.offset() };
            match self.core.open_dead(record.headers(), record.value()) {
                Ok(Dead::Letter { head: Some(head), failure }) if is_it(&head) => {
                    let id = LetterId::of(Some(&head), &failure, record.value());
                    // What a crash wrote twice is one letter.
                    if finds.letters.iter().all(|letter| letter.id != id) {
                        finds.letters.push(FoundLetter { time_ms: record.time_ms(), place, head, failure, id });
                    }
                }
                Ok(Dead::Marker(marker)) if finds.letters.iter().any(|letter| letter.id == marker.letter) => {
                    finds.markers.push(FoundMarker { time_ms: record.time_ms(), place, letter: marker.place });
                }
                Ok(_) | Err(_) => {}
            }
        })
    }

    /// The records of the inbox that these copies were made from.
    fn accepted(&self, copies: &[Found]) -> Result<Vec<Found>> {
        let came = |copy: &Found| copy.head.redriven_ms.unwrap_or(copy.head.received_ms);
        let mut accepted: Vec<Found> = Vec::new();
        for (from_ms, to_ms) in spans(copies.iter().map(came).collect()) {
            for partition in 0..i32::try_from(self.config.topics.partitions)? {
                self.read(&Topic::Inbox, partition, (from_ms, Some(to_ms)), |record| {
                    let digest = digest(record.value());
                    if copies.iter().any(|copy| copy.digest == digest)
                        && let Ok(head) = self.edge.open(&Topic::Inbox, record.headers(), record.value())
                    {
                        accepted.push(Found::of(&Topic::Inbox, partition, record, head));
                    }
                })?;
            }
        }
        Ok(accepted)
    }

    /// How far the sinks' groups have come in the partitions of this number.
    fn groups(&self, partition: i32) -> Result<Vec<GroupAt>> {
        let prefix = &self.config.topics.prefix;
        let partitions = i32::try_from(self.config.topics.partitions)?;
        let mut found = Vec::new();
        for (group, topics) in self.config.groups() {
            let (Group::Deliver(sink) | Group::Retry(sink)) = &group else { continue };
            let name = group.name(prefix);
            let names: Vec<String> = topics.iter().map(|topic| topic.name(prefix)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let stored = GroupOffsets::new(&self.config.kafka, &name)?.committed(&names, partitions);
            let stored = stored.with_context(|| format!("asking for group {name}"))?;
            for (topic, stored) in topics.into_iter().zip(stored.chunks(usize::try_from(partitions)?)) {
                let at = usize::try_from(partition).ok().and_then(|at| stored.get(at));
                let progress = at
                    .and_then(|(base, metadata)| Progress::restore((*base)?, metadata, self.config.group.window).ok());
                found.push(GroupAt { topic, sink: sink.clone(), partition, progress });
            }
        }
        Ok(found)
    }

    /// Hands every record of a partition to `each` that the broker got in this time.
    fn read(
        &self,
        topic: &Topic,
        partition: i32,
        (from_ms, to_ms): (u64, Option<u64>),
        mut each: impl FnMut(Incoming<'_>),
    ) -> Result<()> {
        let name = topic.name(&self.config.topics.prefix);
        let context = || format!("{name} can't be read; `sealstream topics check` says what is wrong with it");
        let (low, high) = self.reader.watermarks(&name, partition).with_context(context)?;
        let from = self.reader.offset_at(&name, partition, from_ms).with_context(context)?;
        let to = match to_ms {
            Some(to_ms) => self.reader.offset_at(&name, partition, to_ms).with_context(context)?,
            None => high,
        };
        let read = self.reader.read(&name, partition, (from.max(low), to.min(high)), |record| {
            each(record);
            ControlFlow::Continue(())
        });
        read.with_context(context)
    }
}

/// The times around these, overlapping ones taken together.
fn spans(mut times: Vec<u64>) -> Vec<(u64, u64)> {
    times.sort_unstable();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for time in times {
        let (from, to) = (time.saturating_sub(SKEW_MS), time.saturating_add(SKEW_MS));
        match spans.last_mut() {
            Some(last) if last.1 >= from => last.1 = to,
            Some(_) | None => spans.push((from, to)),
        }
    }
    spans
}

fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::trace) fn found(topic: Topic, offset: i64, time_ms: u64, head: Head) -> Found {
        Found { time_ms, topic, partition: 3, offset, head, digest: [0; 32] }
    }

    #[test]
    fn times_that_are_near_are_looked_for_together() {
        assert_eq!(spans(vec![]), []);
        assert_eq!(spans(vec![500_000, 100_000, 150_000]), [(40_000, 210_000), (440_000, 560_000)]);
        assert_eq!(spans(vec![7]), [(0, 60_007)]);
    }
}
