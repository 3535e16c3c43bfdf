//! Records as ingest and the router would have put them there.

use std::collections::VecDeque;

use anyhow::Result;
use common::clock::Clock;
use common::id::{EventId, SourceId, placement};
use common::kafka::client::KafkaConfig;
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::record::{Head, Identity};
use common::topics::Topic;
use tests::materials::Materials;

/// Records that wait for their acknowledgement.
const PENDING_MAX: usize = 10_000;

/// Where they go.
pub struct Events<'a> {
    /// `inbox` or `events`.
    pub role: Topic,
    /// The topic's name.
    pub topic: &'a str,
    /// How many partitions it has.
    pub partitions: u32,
    /// Whose they are.
    pub source: SourceId,
}

impl Events<'_> {
    /// Writes so many records, each with an id of its own and the body that is made for it, and waits for their acknowledgement.
    pub async fn fill<B: AsRef<[u8]>>(
        &self,
        kafka: &KafkaConfig,
        materials: &Materials,
        records: u64,
        body: impl Fn(&str) -> Result<B>,
    ) -> Result<()> {
        let routed = self.role != Topic::Inbox;
        let keys = if routed { materials.core_keys()? } else { materials.edge_keys()? };
        let id_key = materials.id_key()?;
        let producer = Producer::new(kafka, &ProducerSettings::default())?;
        let clock = Clock::system();
        let mut pending = VecDeque::new();
        for number in 0..records {
            let id = format!("evt-{number:012}");
            let body = body(&id)?;
            let id = EventId::new(id)?;
            let keyed = id_key.keyed_id(&self.source, &id);
            let head = Head {
                source: self.source.clone(),
                received_ms: clock.unix_ms(),
                timestamp: clock.unix_s().to_string().into(),
                traceparent: None,
                identity: routed.then_some(Identity { id: keyed, previous: None }),
                retry: None,
                redriven_ms: None,
            };
            let headers = keys.seal(&self.role, &head, body.as_ref());
            let record = Outgoing {
                topic: self.topic,
                partition: routed.then(|| placement(&self.source, &id, self.partitions)),
                key: routed.then_some(&keyed.0),
                value: body.as_ref(),
            };
            pending.push_back(producer.send(record, headers.iter())?);
            if pending.len() >= PENDING_MAX
                && let Some(delivery) = pending.pop_front()
            {
                delivery.await?;
            }
        }
        for delivery in pending {
            delivery.await?;
        }
        tokio::task::block_in_place(|| drop(producer));
        Ok(())
    }
}
