//! Reading parts of the log outside of any group.

use std::time::Duration;

use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::offsets::{Edge, edges};
use super::{CALL_DEADLINE, Incoming, groupless};
use crate::kafka::client::{ClientError, KafkaConfig, Logged};

/// Why a part of the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker did not answer, or refused.
    #[error("reading {topic}-{partition}: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// Nothing came for longer than the deadline.
    #[error("reading {topic}-{partition}: nothing came after offset {after}")]
    Stalled {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The last offset read.
        after: i64,
    },
}

/// Reads parts of the log outside of any group.
pub struct Reader(BaseConsumer<ReaderContext>);

pub(super) struct ReaderContext;

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logged.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Who asked is told by the call that fails.
        tracing::debug!(target: "kafka", %error, "{reason}");
    }
}

impl ConsumerContext for ReaderContext {}

impl Reader {
    /// A reader; it connects when it is used.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, ClientError> {
        Ok(Self(groupless(kafka)?.create_with_context(ReaderContext)?))
    }

    /// The log's first offset and its end. Blocks.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), ReadError> {
        self.0.fetch_watermarks(topic, partition, CALL_DEADLINE).map_err(|source| kafka_error(topic, partition, source))
    }

    /// The end of each partition's log, of partition 0 to the last: one question for all. Blocks.
    pub fn log_ends(&self, topic: &str, partitions: i32) -> Result<Vec<i64>, ReadError> {
        hear_out(&self.0);
        edges(&self.0, &[topic], partitions, Edge::End)
    }

    /// The first offset and the end of every partition of these topics, in their order: two questions, however many partitions
    /// there are. Blocks.
    pub fn all_watermarks(&self, topics: &[String], partitions: i32) -> Result<Vec<Vec<(i64, i64)>>, ReadError> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        hear_out(&self.0);
        let lows = edges(&self.0, &names, partitions, Edge::First)?;
        let ends = edges(&self.0, &names, partitions, Edge::End)?;
        let all: Vec<_> = lows.into_iter().zip(ends).collect();
        Ok(all.chunks(usize::try_from(partitions).unwrap_or(0).max(1)).map(<[_]>::to_vec).collect())
    }

    /// The first offset whose record is at or after a time, or the log's end. Blocks.
    pub fn offset_at(&self, topic: &str, partition: i32, time_ms: u64) -> Result<i64, ReadError> {
        let error = |source| kafka_error(topic, partition, source);
        let mut list = TopicPartitionList::new();
        let time = i64::try_from(time_ms).unwrap_or(i64::MAX);
        list.add_partition_offset(topic, partition, Offset::Offset(time)).map_err(error)?;
        let found = self.0.offsets_for_times(list, CALL_DEADLINE).map_err(error)?;
        match found.find_partition(topic, partition).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            Some(_) | None => Ok(self.watermarks(topic, partition)?.1),
        }
    }

    /// Hands every record of `[from, to)` to `each`, in order, until it says stop. Blocks.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        (from, to): (i64, i64),
        mut each: impl FnMut(Incoming<'_>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), ReadError> {
        const STALL: Duration = Duration::from_secs(30);
        if from >= to {
            return Ok(());
        }
        let error = |source| kafka_error(topic, partition, source);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(error)?;
        self.0.assign(&list).map_err(error)?;
        let mut after = from - 1;
        let result = loop {
            match self.0.poll(STALL) {
                Some(Ok(message)) => {
                    after = message.offset();
                    if after >= to || each(Incoming { message: &message }).is_break() || after + 1 >= to {
                        break Ok(());
                    }
                }
                // The end of the log, though records at its tail may be markers that never come.
                Some(Err(KafkaError::PartitionEOF(_))) => break Ok(()),
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange),
                ))) => break Err(error(KafkaError::MessageConsumption(code))),
                Some(Err(fatal @ KafkaError::MessageConsumptionFatal(_))) => break Err(error(fatal)),
                Some(Err(passing)) => tracing::debug!(topic, partition, error = %passing, "reader error"),
                None => break Err(ReadError::Stalled { topic: topic.to_owned(), partition, after }),
            }
        };
        self.0.unassign().map_err(error)?;
        result
    }
}

/// Hears what a client has had to say since the last time. Nobody polls one that only asks, and while brokers are down it says
/// the same again and again: that would pile up.
pub(super) fn hear_out(client: &BaseConsumer<ReaderContext>) {
    while client.poll(Duration::ZERO).is_some() {}
}

pub(super) fn kafka_error(topic: &str, partition: i32, source: KafkaError) -> ReadError {
    ReadError::Kafka { topic: topic.to_owned(), partition, source }
}
