//! The in-process Kafka: librdkafka's mock cluster, for the demo and for tests of what does not depend on a real one.
//!
//! It keeps nothing, has no topic administration, no offsets by time, no broker timestamps, no static membership and no
//! transactions; a rebalance takes 3 s, and a partition silently drops what lies more than 5 MiB or 100 000 batches
//! behind its end. Whoever uses it must see to it that less than that is unread.

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::client::KafkaConfig;
use super::producer::MockContext;

/// What may be unread in one partition before the cluster drops it, in bytes, with room to spare.
pub const UNREAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A running in-process cluster. It ends, with all its data, when it is dropped.
pub struct EmbeddedKafka(MockCluster<'static, MockContext>);

impl EmbeddedKafka {
    /// Starts a cluster of one broker on a free loopback port, with these topics.
    pub fn start<'a>(topics: impl IntoIterator<Item = (&'a str, i32)>) -> Result<Self, KafkaError> {
        let cluster = MockCluster::new(1)?;
        for (name, partitions) in topics {
            cluster.create_topic(name, partitions, 1)?;
        }
        Ok(Self(cluster))
    }

    /// How to reach it.
    pub fn config(&self) -> KafkaConfig {
        KafkaConfig::plaintext(self.0.bootstrap_servers())
    }

    /// Refuses the next batches of records, as if the user had no right to write to their topic.
    pub fn deny_records(&self, batches: usize) {
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        self.0.request_errors(RDKafkaApiKey::Produce, &vec![denied; batches]);
    }

    /// Refuses idempotent producers that want to begin, until `denied` is false: as if the user had no right to write at all.
    pub fn deny_producers(&self, denied: bool) {
        self.0.clear_request_errors(RDKafkaApiKey::InitProducerId);
        if denied {
            let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
            self.0.request_errors(RDKafkaApiKey::InitProducerId, &[denied; 1000]);
        }
    }

    /// Stops answering, as a broker that is down; `up` ends it. Connections are closed.
    pub fn set_up(&self, up: bool) -> Result<(), KafkaError> {
        if up { self.0.broker_up(1) } else { self.0.broker_down(1) }
    }
}
