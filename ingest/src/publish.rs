//! Handing a record to Kafka, and knowing that it is there: no success without the acknowledgement of all in-sync replicas.

use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::kafka::client::{ClientError, KafkaConfig};
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::topics::{Prefix, Topic};

use crate::config;
use crate::metrics::EdgeMetrics;
use crate::refusal::{Refusal, Trouble};
use crate::stage::charged::Charged;

/// Publishes to the inbox. Cheap to clone; flush it before the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Publisher {
    producer: Arc<Producer>,
    inbox: Arc<str>,
    ack_deadline: Duration,
    clock: Clock,
}

impl Publisher {
    /// A publisher; it connects in the background.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        prefix: &Prefix,
        config: &config::Publish,
        clock: &Clock,
    ) -> Result<Self, ClientError> {
        let settings = ProducerSettings {
            ack_deadline: config.ack_deadline,
            linger: config.linger,
            queue_records: config.queue_records,
            queue_kib: u32::try_from(config.queue_bytes.as_u64() / 1024).unwrap_or(u32::MAX),
        };
        Ok(Self {
            producer: Arc::new(Producer::new(kafka, &settings)?),
            inbox: Topic::Inbox.name(prefix).into(),
            ack_deadline: config.ack_deadline,
            clock: clock.clone(),
        })
    }

    /// How long a record waits for its acknowledgement.
    pub(crate) fn ack_deadline(&self) -> Duration {
        self.ack_deadline
    }

    /// Publishes a record and waits for its acknowledgement, at most the deadline.
    ///
    /// After an error the record may be in the log all the same: the sender sends again, and the processors recognise it.
    pub(crate) async fn publish(&self, charged: &Charged, metrics: &EdgeMetrics) -> Result<(), Refusal> {
        let (record, handed_over) = (charged.record(), self.clock.monotonic());
        let outgoing = Outgoing { topic: &self.inbox, partition: None, key: None, value: record.value() };
        let delivery = self.producer.send(outgoing, record.headers())?;
        // The library has the same deadline, but looks at it only now and then.
        match tokio::time::timeout(self.ack_deadline, delivery).await {
            Ok(acknowledged) => acknowledged?,
            Err(_elapsed) => return Err(Refusal::Unavailable(Trouble::AckLate)),
        };
        metrics.acked(handed_over);
        Ok(())
    }

    /// Whether a broker answers and the inbox exists. Blocks.
    pub(crate) fn reaches_inbox(&self, deadline: Duration) -> bool {
        match self.producer.partitions(&self.inbox, deadline) {
            Ok(count) => count > 0,
            Err(error) => {
                tracing::debug!(%error, topic = &*self.inbox, "kafka is not ready");
                false
            }
        }
    }

    /// Waits until everything handed over was answered for, and says whether it was. Blocks.
    pub(crate) fn flush(&self, deadline: Duration) -> bool {
        match self.producer.flush(deadline) {
            Ok(()) => true,
            Err(error) => {
                // Nobody was told that these records are stored.
                tracing::warn!(%error, records = self.producer.in_flight(), "not everything could be flushed");
                false
            }
        }
    }
}
