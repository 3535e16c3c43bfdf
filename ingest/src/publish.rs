//! Handing a record to Kafka, and knowing that it is there: no success without the acknowledgement of all in-sync replicas.
//!
//! Records are not sent idempotently. One whose answer was lost with a connection may be in the log twice, as if its sender had
//! sent it twice: processors recognise it. An idempotent producer would cost a third more of the CPU, most of it for waiting,
//! and make every record wait for the answer to those before it: see [`ProducerSettings::idempotent`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use common::clock::Clock;
use common::kafka::client::{ClientError, KafkaConfig};
use common::kafka::producer::{Ack, Outgoing, ProduceError, Producer, ProducerSettings};
use common::shutdown::Group;
use common::topics::{Prefix, Topic};

use crate::config;
use crate::metrics::EdgeMetrics;
use crate::refusal::{Refusal, Trouble};
use crate::stage::charged::Charged;

/// How often a former producer is looked at.
const RETIRE_PAUSE: Duration = Duration::from_millis(100);
/// How long a record that was refused for want of a right counts against those to come. Only another record shows that the
/// right was given, and nobody sends one to a node that is not ready.
const DENIAL_MS: u64 = 60_000;

/// Publishes to the inbox. Cheap to clone; flush it before the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Publisher {
    producers: Arc<ArcSwap<Producers>>,
    /// What they were made from.
    kafka: Arc<ArcSwap<KafkaConfig>>,
    config: config::Publish,
    inbox: Arc<str>,
    ack_deadline: Duration,
    clock: Clock,
    /// When the brokers last refused a record for want of a right, by the monotonic clock in milliseconds, 0 if they have
    /// taken one since.
    denied_ms: Arc<AtomicU64>,
}

impl Publisher {
    /// A publisher; it connects in the background.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        prefix: &Prefix,
        config: &config::Publish,
        clock: &Clock,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            producers: Arc::new(ArcSwap::from_pointee(Producers::new(kafka, config)?)),
            kafka: Arc::new(ArcSwap::from_pointee(kafka.clone())),
            config: config.clone(),
            inbox: Topic::Inbox.name(prefix).into(),
            ack_deadline: config.ack_deadline,
            clock: clock.clone(),
            denied_ms: Arc::default(),
        })
    }

    /// Publishes through these producers from now on. Those before go once everything in them was answered for.
    pub(crate) fn replace(&self, producers: Producers, kafka: KafkaConfig, group: &Group) {
        self.kafka.store(Arc::new(kafka));
        let before = self.producers.swap(Arc::new(producers));
        self.denied_ms.store(0, Ordering::Relaxed);
        group.spawn("former_producer", retire(before, self.ack_deadline));
    }

    /// Makes other producers if these are spent: a right that was missing may be there by now. Whether they were spent.
    pub(crate) fn mend(&self, group: &Group) -> bool {
        if self.producers.load().asks.spent().is_none() {
            return false;
        }
        let kafka = KafkaConfig::clone(&self.kafka.load());
        match Producers::new(&kafka, &self.config) {
            Ok(producers) => {
                tracing::warn!("the producer had failed for good: there is another one");
                self.replace(producers, kafka, group);
            }
            Err(error) => tracing::warn!(%error, "the producer has failed for good, and there can be no other"),
        }
        true
    }

    /// How long a record waits for its acknowledgement.
    pub(crate) fn ack_deadline(&self) -> Duration {
        self.ack_deadline
    }

    /// Publishes a record at once; the future waits for its acknowledgement, at most the deadline: where it lies.
    ///
    /// After an error the record may be in the log all the same: the sender sends again, and the processors recognise it.
    pub(crate) fn publish<'a>(
        &'a self,
        charged: Charged,
        metrics: &'a EdgeMetrics,
    ) -> impl Future<Output = Result<Ack, Refusal>> + 'a {
        let (record, handed_over) = (charged.into_record(), self.clock.monotonic());
        let outgoing = Outgoing { topic: &self.inbox, partition: None, key: None, value: record.value() };
        // Held until the answer: the last handle of a producer purges what is in it.
        let producers = self.producers.load_full();
        let sent = producers.sends.send(outgoing, record.headers());
        // The producer has a copy: while it is on its way there is no second one.
        let permit = record.into_permit();
        async move {
            let _held = (producers, permit);
            // The library has the same deadline, but looks at it only now and then.
            let ack = match tokio::time::timeout(self.ack_deadline, sent?).await {
                Ok(acknowledged) => self.note(acknowledged)?,
                Err(_elapsed) => return Err(Refusal::Unavailable(Trouble::AckLate)),
            };
            metrics.acked(handed_over);
            Ok(ack)
        }
    }

    fn note(&self, acknowledged: Result<Ack, ProduceError>) -> Result<Ack, ProduceError> {
        let denied_ms = match &acknowledged {
            Ok(_) => 0,
            Err(error) if error.is_denied() => self.now_ms(),
            Err(_) => return acknowledged,
        };
        if self.denied_ms.load(Ordering::Relaxed) != denied_ms {
            self.denied_ms.store(denied_ms, Ordering::Relaxed);
        }
        acknowledged
    }

    /// Never 0.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Why no record gets into the inbox; `None` if a broker answers, the inbox exists, and nothing says that records are
    /// refused. Blocks.
    pub(crate) fn inbox_fault(&self, deadline: Duration) -> Option<String> {
        let producers = self.producers.load_full();
        match self.reaches_inbox_by(&producers, deadline) {
            Ok(0) => Some("the topic has no partitions".to_owned()),
            Ok(_) => self.refusal(&producers),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Why the brokers take no records. A topic that may be seen need not be one that may be written to.
    fn refusal(&self, producers: &Producers) -> Option<String> {
        let denied_ms = self.denied_ms.load(Ordering::Relaxed);
        let was_denied = denied_ms != 0 && self.now_ms().saturating_sub(denied_ms) < DENIAL_MS;
        let denied = || format!("records are refused: ingest's user needs the right Write on the topic {}", self.inbox);
        match producers.asks.spent() {
            Some(error) if error.is_denied() => Some(denied()),
            Some(error) => Some(format!("the producer has failed for good: {error}")),
            None => was_denied.then(denied),
        }
    }

    /// Asks for the inbox by other producers: how many partitions it has. Blocks.
    pub(crate) fn reaches_inbox_by(
        &self,
        producers: &Producers,
        deadline: Duration,
    ) -> Result<usize, impl std::error::Error + use<>> {
        producers.sends.partitions(&self.inbox, deadline)
    }

    /// Records that wait for the brokers' acknowledgement.
    pub(crate) fn waiting(&self) -> usize {
        self.producers.load().sends.in_flight()
    }

    /// Waits until everything handed over was answered for, and says whether it was. Blocks.
    pub(crate) fn flush(&self, deadline: Duration) -> bool {
        self.producers.load_full().flush(deadline)
    }
}

/// What the inbox is written with.
pub(crate) struct Producers {
    /// Sends the records.
    sends: Producer,
    /// Sends nothing. An idempotent producer asks the brokers for leave when it connects, so that a right that is missing is
    /// known before the first record.
    asks: Producer,
}

impl Producers {
    /// Producers as configured; they connect in the background.
    pub(crate) fn new(kafka: &KafkaConfig, config: &config::Publish) -> Result<Self, ClientError> {
        let settings = ProducerSettings {
            ack_deadline: config.ack_deadline,
            linger: config.linger,
            queue_records: config.queue_records,
            queue_kib: u32::try_from(config.queue_bytes.as_u64() / 1024).unwrap_or(u32::MAX),
            idempotent: false,
        };
        let sends = Producer::new(kafka, &settings)?;
        Ok(Self { sends, asks: Producer::new(kafka, &ProducerSettings { idempotent: true, ..settings })? })
    }

    fn flush(&self, deadline: Duration) -> bool {
        match self.sends.flush(deadline) {
            Ok(()) => true,
            Err(error) => {
                // Nobody was told that these records are stored.
                tracing::warn!(%error, records = self.sends.in_flight(), "not everything could be flushed");
                false
            }
        }
    }
}

/// Waits until no request holds producers any more, which each does no longer than it waits for its acknowledgement.
async fn retire(mut producers: Arc<Producers>, ack_deadline: Duration) {
    loop {
        match Arc::try_unwrap(producers) {
            Ok(last) => {
                // Requests that nobody waits for may still be in them. Flushing blocks, and so does the drop.
                let flush = move || last.flush(ack_deadline);
                let flushed = tokio::task::spawn_blocking(flush).await.unwrap_or(false);
                return tracing::debug!(flushed, "the former producer is gone");
            }
            Err(held) => producers = held,
        }
        tokio::time::sleep(RETIRE_PAUSE).await;
    }
}
