//! What router and deliverer share: the keys, the producer, and handing a record on.
//!
//! A hand-off ends only with the broker's acknowledgement. While Kafka is down it is repeated, and the record stays open:
//! nothing is given up because of our own trouble.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use common::clock::Clock;
use common::kafka::consumer::Incoming;
use common::kafka::producer::{Outgoing, ProduceError};
use common::record::{Failure, Head, Headers, Origin, Reason, RecordKeys};
use common::spans::{Kind, Span, Tracer};
use common::telemetry::Sparing;
use common::topics::{Prefix, Topic};

use crate::engine::Turn;
use crate::keys::Keys;
use crate::outcome::Outcome;
use crate::outlet::Outlet;

/// What is said of hand-offs that fail, by the topic that they go to.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));

/// See the module.
pub struct Pipeline {
    /// Writes to the pipeline's topics.
    pub outlet: Arc<Outlet>,
    /// What their names begin with.
    pub prefix: Prefix,
    /// Partitions of `events` and the retry lanes.
    pub partitions: u32,
    /// The keys in effect.
    pub keys: Arc<ArcSwap<Keys>>,
    /// Time.
    pub clock: Clock,
    /// Makes spans of what is traced.
    pub tracer: Tracer,
}

/// A record that outlives the consumer's buffer.
pub struct Item {
    /// What it says of itself, or why that can't be trusted.
    pub head: Result<Head, Reason>,
    /// The sealed body.
    pub value: Bytes,
}

impl Item {
    /// Verifies a record with the keys of its half.
    pub fn read(keys: &RecordKeys, topic: &Topic, record: &Incoming<'_>) -> Self {
        let head = keys.open(topic, record.headers(), record.value()).map_err(|error| {
            tracing::debug!(
                %error, topic = %topic.role(), partition = record.partition(), offset = record.offset(),
                "a record is not to be trusted"
            );
            Reason::BadMac
        });
        Self { head, value: Bytes::copy_from_slice(record.value()) }
    }
}

/// A record on its way to another topic of the pipeline.
pub struct HandOff<'a> {
    /// Where to.
    pub topic: &'a Topic,
    /// Its partition; `None` lets the client choose.
    pub partition: Option<i32>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers, MAC included.
    pub headers: Headers,
    /// The sealed body.
    pub value: &'a [u8],
}

impl Pipeline {
    /// The keys in effect now: what is done with a record at one time is done with one set.
    pub fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// A span of the work on a record, if it is traced.
    pub fn span(&self, name: &'static str, kind: Kind, turn: &Turn, head: &Head) -> Option<Span> {
        let mut span = self.tracer.span(None, name, kind, head.traceparent.as_deref())?;
        let place = turn.origin();
        span.text("sealstream.source", head.source.as_str());
        span.text("messaging.system", "kafka");
        span.text("messaging.destination.name", place.role);
        span.text("messaging.destination.partition.id", place.partition.to_string());
        span.number("messaging.kafka.offset", place.offset);
        Some(span)
    }

    /// Produces a record and waits for its acknowledgement, however long that takes. `None` if the partition left before.
    pub async fn hand_off(&self, turn: &Turn, record: HandOff<'_>) -> Option<()> {
        const PAUSE_MAX: Duration = Duration::from_secs(2);
        let topic = record.topic.name(&self.prefix);
        let mut pause = Duration::from_millis(20);
        loop {
            let outgoing =
                Outgoing { topic: &topic, partition: record.partition, key: record.key, value: record.value };
            let Err(error) = self.outlet.write(outgoing, record.headers.iter()).await else { return Some(()) };
            match &error {
                ProduceError::QueueFull => {}
                ProduceError::TooLarge | ProduceError::Unavailable(_) | ProduceError::Closed => {
                    // Every record under way says so, every two seconds, for as long as Kafka is away.
                    if let Some(left_out) = REPEATS.pass(&topic, self.clock.monotonic()) {
                        let Origin { role, partition, offset } = turn.origin();
                        tracing::warn!(%error, %topic, from = role, partition, offset, left_out, "a hand-off failed and is repeated: the record stays open");
                    }
                }
            }
            if !turn.is_ours() {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Puts a record into `dead`.
    pub async fn bury(&self, turn: &Turn, item: &Item, reason: Reason, status: Option<u16>) -> Option<Outcome> {
        let head = item.head.as_ref().ok();
        let failure = Failure { reason, status, origin: turn.origin(), failed_ms: self.clock.unix_ms() };
        let headers = self.keys().core.seal_dead(head, &failure, &item.value);
        let key = head.and_then(|head| head.identity).map(|identity| identity.id.0);
        let record = HandOff {
            topic: &Topic::Dead,
            // The same place for every copy of a letter that a crash wrote twice, and for the marker that redrives it.
            partition: Some(turn.partition()),
            key: key.as_ref().map(|key| &key[..]),
            headers,
            value: &item.value,
        };
        self.hand_off(turn, record).await?;
        let Origin { role, partition, offset } = turn.origin();
        let source = head.map(|head| head.source.as_str());
        let retry = head.and_then(|head| head.retry.as_ref());
        let (sink, attempt) = (retry.map(|retry| retry.sink.as_str()), retry.map(|retry| retry.attempt));
        let id = head.and_then(|head| head.identity).map(|identity| identity.id.to_string());
        tracing::debug!(source, sink, topic = role, partition, offset, attempt, id, %reason, status, "dead letter");
        Some(Outcome::Dead(reason))
    }
}
