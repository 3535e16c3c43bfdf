//! Reads parts of several partitions of a topic side by side, outside of any group.
//!
//! A scanner is for one burst of reading: a partition is begun in it once, so that no record fetched for an earlier
//! purpose can be taken for one of a later. It knows nothing of what is read, or how far.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::offsets::{Edge, edges};
use super::{CALL_DEADLINE, Incoming, ReadError, groupless};
use crate::kafka::client::{ClientError, KafkaConfig, Logged};

/// Most that is fetched ahead, in KiB.
const FETCHED_KIB_MAX: u32 = 16 * 1024;

/// What a scanner came upon.
#[derive(Debug, Clone, Copy)]
pub enum Scanned<'a> {
    /// A record of a partition.
    Record(i32, Incoming<'a>),
    /// The end of a partition's log: what is missing before it are markers that never come.
    End(i32),
}

impl ConsumerContext for Logged {}

/// See the module.
pub struct Scanner {
    consumer: BaseConsumer<Logged>,
    topic: Arc<str>,
}

impl Scanner {
    /// A scanner; it connects when it is used.
    pub fn new(kafka: &KafkaConfig, topic: Arc<str>) -> Result<Self, ClientError> {
        let mut config = groupless(kafka)?;
        config.set("fetch.queue.backoff.ms", "5");
        config.set("queued.min.messages", "100000");
        config.set("queued.max.messages.kbytes", FETCHED_KIB_MAX.to_string());
        Ok(Self { consumer: config.create_with_context(Logged)?, topic })
    }

    /// For each partition and time the first offset whose record is at or after the time, `None` beyond the last. Blocks.
    pub fn offsets_at(&self, times: &[(i32, u64)]) -> Result<Vec<Option<i64>>, ReadError> {
        if times.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(times.len());
        for (partition, time_ms) in times {
            let time = Offset::Offset(i64::try_from(*time_ms).unwrap_or(i64::MAX));
            let added = list.add_partition_offset(&self.topic, *partition, time);
            added.map_err(|source| self.error(*partition, source))?;
        }
        let found = self.consumer.offsets_for_times(list, CALL_DEADLINE).map_err(|source| self.error(-1, source))?;
        let offset = |(partition, _): &(i32, u64)| {
            let element = found.find_partition(&self.topic, *partition);
            if let Some(Err(source)) = element.as_ref().map(|element| element.error()) {
                return Err(self.error(*partition, source));
            }
            Ok(match element.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => Some(offset),
                Some(_) | None => None,
            })
        };
        times.iter().map(offset).collect()
    }

    /// The end of each partition's log, of partition 0 to the last. Blocks.
    pub fn log_ends(&self, partitions: i32) -> Result<Vec<i64>, ReadError> {
        edges(&self.consumer, &[&self.topic], partitions, Edge::End)
    }

    /// Begins to read these partitions from these offsets on.
    pub fn begin(&self, from: &[(i32, i64)]) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::with_capacity(from.len());
        for (partition, offset) in from {
            let added = list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset));
            added.map_err(|source| self.error(*partition, source))?;
        }
        if from.is_empty() {
            return Ok(());
        }
        self.consumer.incremental_assign(&list).map_err(|source| self.error(-1, source))
    }

    /// Reads no more of a partition.
    pub fn end(&self, partition: i32) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, partition);
        self.consumer.incremental_unassign(&list).map_err(|source| self.error(partition, source))
    }

    /// Hands the next record or end to `each`; waits for it at most so long. Whether there was one.
    pub fn poll(&self, at_most: Duration, each: impl FnOnce(Scanned<'_>)) -> Result<bool, ReadError> {
        match self.consumer.poll(at_most) {
            Some(Ok(message)) => each(Scanned::Record(message.partition(), Incoming::of(&message))),
            Some(Err(KafkaError::PartitionEOF(partition))) => each(Scanned::End(partition)),
            Some(Err(KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange),
            ))) => return Err(self.error(-1, KafkaError::MessageConsumption(code))),
            Some(Err(fatal @ KafkaError::MessageConsumptionFatal(_))) => return Err(self.error(-1, fatal)),
            Some(Err(passing)) => tracing::debug!(topic = %self.topic, error = %passing, "scanner error"),
            None => return Ok(false),
        }
        Ok(true)
    }

    fn error(&self, partition: i32, source: KafkaError) -> ReadError {
        ReadError::Kafka { topic: self.topic.to_string(), partition, source }
    }
}
