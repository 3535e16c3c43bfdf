//! A group's offsets, looked at or made from outside of it.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};

use super::reader::{ReadError, ReaderContext, hear_out, kafka_error};
use super::{CALL_DEADLINE, Commit, NO_GROUP, TopicPartition, commit_list};
use crate::kafka::client::{ClientError, KafkaConfig};

/// Looks at the offsets of one group, as often as it is asked, without being a member of it.
pub struct GroupOffsets(BaseConsumer<ReaderContext>);

impl GroupOffsets {
    /// Connects when it is used.
    pub fn new(kafka: &KafkaConfig, group: &str) -> Result<Self, ClientError> {
        Ok(Self(offsets_client(kafka, group)?))
    }

    /// The offsets that the group has committed in several topics with so many partitions each, one after the other, `None`
    /// where it has none, with their metadata. One question for all. Blocks.
    ///
    /// Those in an open transaction are not committed, and are not waited for.
    pub fn committed(&self, topics: &[&str], partitions: i32) -> Result<Vec<(Option<i64>, String)>, ReadError> {
        hear_out(&self.0);
        let mut list = TopicPartitionList::new();
        topics.iter().for_each(|topic| list.add_partition_range(topic, 0, partitions - 1));
        let found = with_coordinator(|| self.0.committed_offsets(list.clone(), CALL_DEADLINE));
        let found = found.map_err(|source| kafka_error(&topics.join(", "), -1, source))?;
        let stored = |element: &TopicPartitionListElem<'_>| {
            let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
            Ok((offset, element.metadata().to_owned()))
        };
        in_order(&found, topics, partitions, stored)
    }
}

/// [`GroupOffsets::committed`] of one topic, for who looks once. Blocks.
pub fn committed(
    kafka: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<(Option<i64>, String)>, ReadError> {
    GroupOffsets::new(kafka, group)?.committed(&[topic], partitions)
}

/// What a list says of each partition of several topics, one after the other.
fn in_order<T>(
    list: &TopicPartitionList,
    topics: &[&str],
    partitions: i32,
    said: impl Fn(&TopicPartitionListElem<'_>) -> Result<T, KafkaError>,
) -> Result<Vec<T>, ReadError> {
    let elements = list.elements().into_iter();
    let elements: HashMap<_, _> =
        elements.map(|element| ((element.topic().to_owned(), element.partition()), element)).collect();
    let places = topics.iter().flat_map(|topic| (0..partitions).map(move |partition| (*topic, partition)));
    let of = |(topic, partition): (&str, i32)| {
        let element = elements.get(&(topic.to_owned(), partition));
        let said = element.map_or(Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition)), &said);
        said.map_err(|source| kafka_error(topic, partition, source))
    };
    places.map(of).collect()
}

/// An end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Its first offset.
    First,
    /// One past its last offset.
    End,
}

/// An edge of the log of each partition of several topics, one after the other, whether or not transactions are open there. One
/// question for all. Blocks.
pub fn log_edges(kafka: &KafkaConfig, topics: &[&str], partitions: i32, edge: Edge) -> Result<Vec<i64>, ReadError> {
    edges(&offsets_client(kafka, NO_GROUP)?, topics, partitions, edge)
}

/// The same as a client sees it: to one that reads committed records only, a log ends where the first open transaction begins.
pub(super) fn edges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[&str],
    partitions: i32,
    edge: Edge,
) -> Result<Vec<i64>, ReadError> {
    let error = |topic: &str, source| kafka_error(topic, -1, source);
    let place = match edge {
        Edge::First => Offset::Beginning,
        Edge::End => Offset::End,
    };
    let mut list = TopicPartitionList::new();
    for (topic, partition) in topics.iter().flat_map(|topic| (0..partitions).map(move |partition| (*topic, partition)))
    {
        list.add_partition_offset(topic, partition, place).map_err(|source| error(topic, source))?;
    }
    let found = consumer.offsets_for_times(list, CALL_DEADLINE).map_err(|source| error(&topics.join(", "), source))?;
    let offset = |element: &TopicPartitionListElem<'_>| {
        element.error()?;
        match element.offset() {
            Offset::Offset(offset) => Ok(offset),
            _ => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset)),
        }
    };
    in_order(&found, topics, partitions, offset)
}

/// Commits the first offsets of a group: for every partition of `topic` in which it has none. Answers how many. Blocks.
///
/// A group made so starts at the log's beginning; one whose offsets expired later is never taken for a new one.
pub fn commit_first(kafka: &KafkaConfig, group: &str, topic: &str, partitions: i32) -> Result<usize, ReadError> {
    let stored = committed(kafka, group, topic, partitions)?;
    let consumer = offsets_client(kafka, group)?;
    let mut commits = Vec::new();
    for (partition, _) in (0..partitions).zip(stored).filter(|(_, (offset, _))| offset.is_none()) {
        let low = first_offset(&consumer, topic, partition).map_err(|source| kafka_error(topic, partition, source))?;
        let at = TopicPartition { topic: topic.into(), partition };
        commits.push(Commit { at, base: low, metadata: String::new() });
    }
    commit(&consumer, &commits).map_err(|source| kafka_error(topic, -1, source))?;
    Ok(commits.len())
}

/// Commits offsets for a group that has no members: the brokers refuse them otherwise. Blocks.
pub fn commit_from_outside(kafka: &KafkaConfig, group: &str, commits: &[Commit]) -> Result<(), ReadError> {
    let topic = commits.first().map_or("no topic", |commit| &*commit.at.topic);
    commit(&offsets_client(kafka, group)?, commits).map_err(|source| kafka_error(topic, -1, source))
}

fn commit(consumer: &BaseConsumer<ReaderContext>, commits: &[Commit]) -> Result<(), KafkaError> {
    if commits.is_empty() {
        return Ok(());
    }
    let list = commit_list(commits)?;
    with_coordinator(|| consumer.commit(&list, CommitMode::Sync))
}

/// Calls again while the group's coordinator moves, or is made: the first group of a new cluster waits for its topic.
fn with_coordinator<T>(call: impl Fn() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    const PAUSE: Duration = Duration::from_millis(200);
    let mut tries = CALL_DEADLINE.as_millis() / PAUSE.as_millis();
    loop {
        tries -= 1;
        match call() {
            Err(error) if tries > 0 && is_moving(&error) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

/// The first offset of a partition that may have been made a moment ago: it takes the brokers a while to know of it.
fn first_offset(consumer: &BaseConsumer<ReaderContext>, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut tries = CALL_DEADLINE.as_millis() / PAUSE.as_millis();
    loop {
        tries -= 1;
        match consumer.fetch_watermarks(topic, partition, CALL_DEADLINE) {
            Ok((low, _)) => return Ok(low),
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition,
            )) if tries > 0 => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn offsets_client(kafka: &KafkaConfig, group: &str) -> Result<BaseConsumer<ReaderContext>, ClientError> {
    let mut config = kafka.settings()?;
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    // Else the broker tells no offset while a newer one is in an open transaction, such as a dead producer leaves behind, and a
    // log's end is where the first open transaction begins.
    config.set("isolation.level", "read_uncommitted");
    Ok(config.create_with_context(ReaderContext)?)
}

/// Why a group can't go on where it stands: its topic is not the one that it read.
pub fn beyond_the_end(group: &str, at: &TopicPartition, base: i64, high: i64) -> String {
    let TopicPartition { topic, partition } = at;
    format!(
        "group {group} has committed offset {base} of {topic}-{partition}, whose log ends at {high}: the topic was made anew, or \
         has lost records; {}",
        start_anew(group, topic)
    )
}

/// What mends a group whose committed offsets are of no use.
pub fn start_anew(group: &str, topic: &str) -> String {
    format!(
        "to read the topic from its beginning, stop every processor, run `kafka-consumer-groups.sh --delete-offsets --group {group} \
         --topic {topic}` and then `sealstream topics create`"
    )
}
