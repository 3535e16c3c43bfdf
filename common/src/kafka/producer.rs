//! The producer: idempotent, acknowledged by all in-sync replicas, one future per record.
//!
//! This is the only file that names rdkafka's producer. A full local queue is an error at once: waiting for room is the
//! caller's choice. A record whose ack did not come in time may still be in the log, so callers must treat that error as
//! "unknown", never as "not there".

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::client::{ClientError, KafkaConfig, log, log_error};

/// The mock cluster is a producer inside.
pub(super) use rdkafka::producer::DefaultProducerContext as MockContext;

/// Limits of a producer.
#[derive(Debug, Clone)]
pub struct ProducerSettings {
    /// How long the library may try to deliver a record before its future ends with [`ProduceError::Unavailable`].
    pub ack_deadline: Duration,
    /// How long records wait for company.
    pub linger: Duration,
    /// Most records waiting in the local queue.
    pub queue_records: u32,
    /// Most bytes waiting in the local queue, in KiB.
    pub queue_kib: u32,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            ack_deadline: Duration::from_secs(30),
            linger: Duration::from_millis(1),
            queue_records: 100_000,
            queue_kib: 256 * 1024,
        }
    }
}

/// A record on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition; `None` lets the library choose.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: &'a [u8],
}

/// Where an acknowledged record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// Why a record was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The local queue is full: Kafka is slower than the input. The record is not in the log.
    #[error("the producer's queue is full")]
    QueueFull,
    /// Larger than the broker or the client takes. The record is not in the log.
    #[error("the record is too large")]
    TooLarge,
    /// The broker did not acknowledge in time, or refused. The record may be in the log.
    #[error("Kafka did not acknowledge: {0}")]
    Unavailable(#[source] KafkaError),
    /// The producer was closed while the record waited. The record may be in the log.
    #[error("the producer was closed")]
    Closed,
}

impl From<KafkaError> for ProduceError {
    fn from(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Self::QueueFull,
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => Self::TooLarge,
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => Self::Closed,
            Some(_) | None => Self::Unavailable(error),
        }
    }
}

type Answer = Result<Ack, ProduceError>;

/// Ends when the broker has answered for a record, or gave no answer in time.
#[must_use = "a record is in the log only once its delivery has ended well"]
pub struct Delivery(oneshot::Receiver<Answer>);

impl Future for Delivery {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(ProduceError::Closed)))
    }
}

struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        let result = match result {
            Ok(record) => Ok(Ack { partition: record.partition(), offset: record.offset() }),
            Err((error, _)) => Err(error.clone().into()),
        };
        // Nobody waits any more: the request was cancelled.
        let _ = answer.send(result);
    }
}

/// An idempotent producer. Cheap to share behind an `Arc`; flush it before the last handle is dropped.
pub struct Producer(ThreadedProducer<Deliveries>);

impl Producer {
    /// Connects in the background: a broker that is down shows itself at the first record.
    pub fn new(kafka: &KafkaConfig, settings: &ProducerSettings) -> Result<Self, ClientError> {
        let mut config = kafka.settings()?;
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        config.set("compression.type", "none"); // ciphertext does not compress
        config.set("delivery.timeout.ms", settings.ack_deadline.as_millis().to_string());
        config.set("linger.ms", (settings.linger.as_secs_f64() * 1000.0).to_string());
        config.set("queue.buffering.max.messages", settings.queue_records.to_string());
        config.set("queue.buffering.max.kbytes", settings.queue_kib.to_string());
        Ok(Self(config.create_with_context(Deliveries)?))
    }

    /// Queues a record. The future ends when the broker has acknowledged it or the deadline has passed.
    pub fn send<'h>(
        &self,
        record: Outgoing<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<Delivery, ProduceError> {
        let mut owned = OwnedHeaders::new_with_capacity(16);
        for (key, value) in headers {
            owned = owned.insert(KafkaHeader { key, value: Some(value) });
        }
        let (sender, answer) = oneshot::channel();
        let mut message = BaseRecord::<[u8], [u8], _>::with_opaque_to(record.topic, Box::new(sender))
            .payload(record.value)
            .headers(owned);
        if let Some(key) = record.key {
            message = message.key(key);
        }
        if let Some(partition) = record.partition {
            message = message.partition(partition);
        }
        self.0.send(message).map_err(|(error, _)| ProduceError::from(error))?;
        Ok(Delivery(answer))
    }

    /// Records queued or sent and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.0.in_flight_count()).unwrap_or(0)
    }

    /// Waits until everything queued has been answered for. Blocks: call it from a blocking thread.
    pub fn flush(&self, deadline: Duration) -> Result<(), KafkaError> {
        self.0.flush(deadline)
    }

    /// Asks a broker for a topic: its number of partitions. Blocks.
    pub fn partitions(&self, topic: &str, deadline: Duration) -> Result<usize, KafkaError> {
        let metadata = self.0.client().fetch_metadata(Some(topic), deadline)?;
        let topic = metadata.topics().first().ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic))?;
        match topic.error() {
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
            None => Ok(topic.partitions().len()),
        }
    }
}

#[cfg(test)]
mod tests;
