//! A group's offsets, looked at or made from outside of it.

use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::reader::{ReadError, ReaderContext, hear_out, kafka_error};
use super::{CALL_DEADLINE, TopicPartition};
use crate::kafka::client::{ClientError, KafkaConfig};

/// Looks at the offsets of one group, as often as it is asked, without being a member of it.
pub struct GroupOffsets(BaseConsumer<ReaderContext>);

impl GroupOffsets {
    /// Connects when it is used.
    pub fn new(kafka: &KafkaConfig, group: &str) -> Result<Self, ClientError> {
        Ok(Self(offsets_client(kafka, group)?))
    }

    /// The offsets that the group has committed in one topic, `None` where it has none, with their metadata. Blocks.
    ///
    /// Those in an open transaction are not committed, and are not waited for.
    pub fn committed(&self, topic: &str, partitions: i32) -> Result<Vec<(Option<i64>, String)>, ReadError> {
        hear_out(&self.0);
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let found = with_coordinator(|| self.0.committed_offsets(list.clone(), CALL_DEADLINE));
        let found = found.map_err(|source| kafka_error(topic, -1, source))?;
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        Ok(found.elements().iter().map(|element| (offset(element.offset()), element.metadata().to_owned())).collect())
    }
}

/// [`GroupOffsets::committed`], for who looks once. Blocks.
pub fn committed(
    kafka: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<(Option<i64>, String)>, ReadError> {
    GroupOffsets::new(kafka, group)?.committed(topic, partitions)
}

/// Commits the first offsets of a group: for every partition of `topic` in which it has none. Answers how many. Blocks.
///
/// A group made so starts at the log's beginning; one whose offsets expired later is never taken for a new one.
pub fn commit_first(kafka: &KafkaConfig, group: &str, topic: &str, partitions: i32) -> Result<usize, ReadError> {
    let stored = committed(kafka, group, topic, partitions)?;
    let consumer = offsets_client(kafka, group)?;
    let mut list = TopicPartitionList::new();
    for (partition, _) in (0..partitions).zip(stored).filter(|(_, (offset, _))| offset.is_none()) {
        let error = |source| kafka_error(topic, partition, source);
        let low = first_offset(&consumer, topic, partition).map_err(error)?;
        list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(error)?;
    }
    if list.count() > 0 {
        with_coordinator(|| consumer.commit(&list, CommitMode::Sync))
            .map_err(|source| kafka_error(topic, -1, source))?;
    }
    Ok(list.count())
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
    // Else the broker tells no offset while a newer one is in an open transaction, such as a dead producer leaves behind.
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
