//! How far the groups have come, from Kafka's own offsets: what is committed, and where the logs begin and end.
//!
//! Committed offsets are read first and ends second, so that a lag is never too small. It is an upper bound of what waits:
//! offsets above the committed one may be complete already, and transactions leave offsets that hold no record.

use anyhow::{Context, Result};
use common::kafka::consumer::{GroupOffsets, Reader};
use common::topics::{Group, Topic};
use processor::config::Config;
use serde::Serialize;

/// How far one group has come in one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct GroupLag {
    /// The group's name in Kafka.
    pub(crate) group: String,
    /// The topic's role: `inbox`, `events`, or a retry lane.
    pub(crate) topic: String,
    /// The sink that the group delivers to.
    pub(crate) sink: Option<String>,
    /// The lane's delay, if it is one.
    pub(crate) delay: Option<String>,
    /// Records between what is committed and the logs' ends, of all partitions.
    pub(crate) lag: u64,
    /// Records that retention deleted before they were committed: they are lost.
    pub(crate) lost: u64,
    pub(crate) partitions: Vec<PartitionLag>,
}

/// The same of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionLag {
    pub(crate) partition: i32,
    /// The committed offset; `None` before `topics create`, or when it expired.
    pub(crate) committed: Option<i64>,
    /// The log's first offset.
    pub(crate) start: i64,
    /// The log's end.
    pub(crate) end: i64,
    pub(crate) lag: u64,
}

impl PartitionLag {
    fn of(partition: i32, committed: Option<i64>, (start, end): (i64, i64)) -> Self {
        let from = committed.unwrap_or(start).max(start);
        Self { partition, committed, start, end, lag: u64::try_from(end - from).unwrap_or(0) }
    }

    fn lost(&self) -> u64 {
        self.committed.map_or(0, |committed| u64::try_from(self.start - committed).unwrap_or(0))
    }
}

/// See the module. Its methods block.
pub(crate) struct Offsets {
    groups: Vec<Reading>,
    topics: Vec<String>,
    partitions: i32,
    reader: Reader,
}

/// A group with the topics that it reads, as roles and positions in the list of all topics.
struct Reading {
    name: String,
    group: Group,
    topics: Vec<(Topic, usize)>,
    offsets: GroupOffsets,
}

impl Offsets {
    /// Connects when it is used.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        let prefix = &config.topics.prefix;
        let mut topics: Vec<String> = Vec::new();
        let mut groups = Vec::new();
        for (group, reads) in config.groups() {
            let name = group.name(prefix);
            let mut position = |topic: Topic| {
                let name = topic.name(prefix);
                let at = topics.iter().position(|known| *known == name).unwrap_or_else(|| {
                    topics.push(name);
                    topics.len() - 1
                });
                (topic, at)
            };
            let reads = reads.into_iter().map(&mut position).collect();
            let offsets = GroupOffsets::new(&config.kafka, &name)?;
            groups.push(Reading { name, group, topics: reads, offsets });
        }
        let partitions = i32::try_from(config.topics.partitions)?;
        Ok(Self { groups, topics, partitions, reader: Reader::new(&config.kafka)? })
    }

    /// How far every group has come in every topic that it reads.
    pub(crate) fn look(&self) -> Result<Vec<GroupLag>> {
        let committed = self.committed()?;
        let bounds = self.reader.all_watermarks(&self.topics, self.partitions);
        let bounds = bounds.context("`sealstream topics check` says what is wrong with the topics")?;
        let mut lags = Vec::new();
        for (reading, committed) in self.groups.iter().zip(committed) {
            for ((topic, at), committed) in reading.topics.iter().zip(committed) {
                lags.push(reading.lag(topic, &committed, &bounds[*at]));
            }
        }
        Ok(lags)
    }

    /// What each group has committed in each of its topics. All groups at once: each asks its own coordinator.
    fn committed(&self) -> Result<Vec<Vec<Vec<Option<i64>>>>> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = self
                .groups
                .iter()
                .map(|reading| scope.spawn(|| reading.committed(&self.topics, self.partitions)))
                .collect();
            let joined = asked.into_iter().map(|thread| thread.join().expect("asking for offsets does not panic"));
            joined.collect()
        })
    }
}

impl Reading {
    fn committed(&self, topics: &[String], partitions: i32) -> Result<Vec<Vec<Option<i64>>>> {
        let of_topic = |(_, at): &(Topic, usize)| {
            let stored = self.offsets.committed(&[&topics[*at]], partitions)?;
            Ok(stored.into_iter().map(|(offset, _)| offset).collect())
        };
        self.topics.iter().map(of_topic).collect()
    }

    fn lag(&self, topic: &Topic, committed: &[Option<i64>], bounds: &[(i64, i64)]) -> GroupLag {
        let partitions: Vec<_> = (0..)
            .zip(committed.iter().zip(bounds))
            .map(|(partition, (committed, bounds))| PartitionLag::of(partition, *committed, *bounds))
            .collect();
        let sink = match &self.group {
            Group::Router => None,
            Group::Deliver(sink) | Group::Retry(sink) => Some(sink.to_string()),
        };
        let delay = match topic {
            Topic::Retry { delay, .. } => Some(delay.to_string()),
            Topic::Inbox | Topic::Events | Topic::Dead => None,
        };
        GroupLag {
            group: self.name.clone(),
            topic: topic.role().into_owned(),
            sink,
            delay,
            lag: partitions.iter().map(|partition| partition.lag).sum(),
            lost: partitions.iter().map(PartitionLag::lost).sum(),
            partitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_from_what_is_committed_to_the_end() {
        let of = |committed, bounds| {
            let found = PartitionLag::of(0, committed, bounds);
            (found.lag, found.lost())
        };
        assert_eq!(of(Some(7), (0, 10)), (3, 0));
        assert_eq!(of(Some(10), (0, 10)), (0, 0));
        assert_eq!(of(None, (4, 10)), (6, 0), "all that there is");
        assert_eq!(of(Some(2), (4, 10)), (6, 2), "two are lost, and wait no more");
        assert_eq!(of(Some(12), (0, 10)), (0, 0), "a topic that was made anew");
    }
}
