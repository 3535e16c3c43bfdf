//! The producer: acknowledged by all in-sync replicas, one future per record, idempotent unless told otherwise.
//!
//! This is the only file that names rdkafka's producer. A full local queue is an error at once: waiting for room is the
//! caller's choice. A record whose ack did not come in time may still be in the log, so callers must treat that error as
//! "unknown", never as "not there".
//!
//! A [`TransactionalProducer`] sends records that become visible together, and together with the offsets of what they
//! were made from. It holds one id at a time against all others that were given the same one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::client::{ClientError, KafkaConfig, log, log_error};
use super::consumer::{Commit, GroupMetadata, commit_list};

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
    /// Whether a record is in the log once although it was sent again, because its answer was lost with the connection. The
    /// library then has one request for each partition under way at a time, and while more records wait for it, it asks again
    /// and again without a pause whether the answer has come.
    pub idempotent: bool,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            ack_deadline: Duration::from_secs(30),
            linger: Duration::from_millis(1),
            queue_records: 100_000,
            queue_kib: 256 * 1024,
            idempotent: true,
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

impl ProduceError {
    /// Whether the brokers refused for want of a right to write.
    pub fn is_denied(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
        )
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

/// A producer. Cheap to share behind an `Arc`; flush it before the last handle is dropped.
pub struct Producer(ThreadedProducer<Deliveries>);

impl Producer {
    /// Connects in the background: a broker that is down shows itself at the first record.
    pub fn new(kafka: &KafkaConfig, settings: &ProducerSettings) -> Result<Self, ClientError> {
        Ok(Self(Self::config(kafka, settings)?.create_with_context(Deliveries)?))
    }

    fn config(kafka: &KafkaConfig, settings: &ProducerSettings) -> Result<ClientConfig, ClientError> {
        let mut config = kafka.settings()?;
        config.set("acks", "all");
        config.set("enable.idempotence", settings.idempotent.to_string());
        config.set("compression.type", "none"); // ciphertext does not compress
        config.set("delivery.timeout.ms", settings.ack_deadline.as_millis().to_string());
        config.set("linger.ms", (settings.linger.as_secs_f64() * 1000.0).to_string());
        config.set("queue.buffering.max.messages", settings.queue_records.to_string());
        config.set("queue.buffering.max.kbytes", settings.queue_kib.to_string());
        Ok(config)
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

    /// Why an idempotent one is of no more use, whatever happens: the brokers did not let it begin, or have lost track of it.
    /// Nothing is sent by it any more. It asks them to begin when it is connected, not before its first record.
    pub fn spent(&self) -> Option<ProduceError> {
        let (code, _) = self.0.client().fatal_error()?;
        Some(ProduceError::Unavailable(KafkaError::MessageProduction(code)))
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

/// How long the broker leaves a transaction open whose producer is silent. Readers of committed records wait that long
/// behind a producer that died, unless its next start is faster.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a call that ends or describes a transaction may take before it answers [`TransactionError::Unanswered`].
const TRANSACTION_CALL: Duration = Duration::from_secs(10);

/// How long taking an id over may take: the broker first ends what its last holder left open.
const TRANSACTION_INIT: Duration = Duration::from_secs(30);

/// Why a transaction, or a step of it, did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The client could not be made. The operator's fault.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another producer has taken the id over. Nothing of the open transaction becomes visible; this one is of no more use.
    #[error("another producer has taken the transactional id over: {0}")]
    Fenced(#[source] KafkaError),
    /// The open transaction can't be committed any more: [`abort`](TransactionalProducer::abort) it. Nothing becomes visible.
    #[error("the transaction must be aborted: {0}")]
    AbortNeeded(#[source] KafkaError),
    /// No answer in time. Whether the step was taken is known only once the same call was repeated and has answered.
    #[error("no answer in time: {0}")]
    Unanswered(#[source] KafkaError),
    /// The producer is of no more use, and what became of an open transaction is not known here.
    #[error("the transactional producer failed: {0}")]
    Fatal(#[source] KafkaError),
}

/// A producer whose records become visible, to those who read committed records only, all at once or never.
///
/// At most one lives for an id: a new one fences its predecessor and ends what that has left open. All calls but
/// [`send`](Self::send) block: from asynchronous code use a blocking thread. After an error that is not
/// [`AbortNeeded`](TransactionError::AbortNeeded) or [`Unanswered`](TransactionError::Unanswered), drop it.
pub struct TransactionalProducer(Producer);

impl std::fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TransactionalProducer")
    }
}

impl TransactionalProducer {
    /// Connects and takes the id over. Blocks, up to half a minute.
    pub fn new(
        kafka: &KafkaConfig,
        settings: &ProducerSettings,
        transactional_id: &str,
    ) -> Result<Self, TransactionError> {
        // The library refuses a record that may outlive its transaction.
        let ack_deadline = settings.ack_deadline.min(TRANSACTION_TIMEOUT);
        let settings = ProducerSettings { ack_deadline, idempotent: true, ..settings.clone() };
        let mut config = Producer::config(kafka, &settings)?;
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        let producer = Self(Producer(config.create_with_context(Deliveries).map_err(ClientError::from)?));
        producer.0.0.init_transactions(TRANSACTION_INIT).map_err(|error| producer.error(error))?;
        Ok(producer)
    }

    /// Opens a transaction. Everything sent from now on belongs to it. Does not ask the broker.
    pub fn begin(&self) -> Result<(), TransactionError> {
        self.0.0.begin_transaction().map_err(|error| self.error(error))
    }

    /// Queues a record as a part of the open transaction: see [`Producer::send`]. A record that was not acknowledged makes
    /// the transaction one that must be aborted. Does not block.
    pub fn send<'h>(
        &self,
        record: Outgoing<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<Delivery, ProduceError> {
        self.0.send(record, headers)
    }

    /// Makes offsets, with their metadata, a part of the open transaction. The broker refuses them from a member that has
    /// left the group's present generation. Blocks.
    pub fn send_offsets(&self, offsets: &[Commit], group: &GroupMetadata) -> Result<(), TransactionError> {
        let list = commit_list(offsets).map_err(|error| self.error(error))?;
        let sent = self.0.0.send_offsets_to_transaction(&list, &group.0, TRANSACTION_CALL);
        sent.map_err(|error| self.error(error))
    }

    /// Waits for what was sent, then commits: it is visible when this has answered well. Blocks.
    pub fn commit(&self) -> Result<(), TransactionError> {
        self.0.0.commit_transaction(TRANSACTION_CALL).map_err(|error| self.error(error))
    }

    /// Gives the open transaction up: nothing of it becomes visible. Blocks.
    pub fn abort(&self) -> Result<(), TransactionError> {
        self.0.0.abort_transaction(TRANSACTION_CALL).map_err(|error| self.error(error))
    }

    /// Records queued or sent and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn error(&self, error: KafkaError) -> TransactionError {
        // Once a client has failed, every call says only that it has; what it failed of was kept.
        let first = self.0.0.client().fatal_error().map(|(code, _)| code);
        let code = first.or(error.rdkafka_error_code());
        if let Some(
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch,
        ) = code
        {
            return TransactionError::Fenced(error);
        }
        match &error {
            KafkaError::Transaction(cause) if cause.is_fatal() => TransactionError::Fatal(error),
            KafkaError::Transaction(cause) if cause.txn_requires_abort() => TransactionError::AbortNeeded(error),
            KafkaError::Transaction(cause) if cause.is_retriable() => TransactionError::Unanswered(error),
            KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut) => TransactionError::Unanswered(error),
            _ => TransactionError::Fatal(error),
        }
    }
}

#[cfg(test)]
mod tests;
