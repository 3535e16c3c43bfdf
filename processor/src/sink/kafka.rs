//! CloudEvents 1.0 records in binary mode on an output topic. The payload is in the clear there, by choice.
//!
//! ```text
//! key                event id
//! value              payload
//! content-type       media type of the payload
//! ce_specversion     "1.0"
//! ce_id              event id: a record written twice by a crash carries the same
//! ce_source          source name
//! ce_type, ce_time   by the source's rule
//! ce_webhookid       the same id that HTTP sinks get
//! ce_traceparent     if the event is traced: CloudEvents' extension for distributed tracing
//! traceparent        the same, where tracing libraries for Kafka look for it
//! ```

use std::sync::Arc;
use std::time::Duration;

use common::kafka::client::{ClientError, KafkaConfig};
use common::kafka::producer::{Outgoing, ProduceError, Producer, ProducerSettings};

use super::{Event, Refusal};
use crate::outlet::Outlet;

/// The status of a record that the output topic is too small for: an HTTP sink's "content too large".
const TOO_LARGE: u16 = 413;

/// A Kafka sink.
pub struct KafkaSink {
    outlet: Arc<Outlet>,
    topic: String,
}

impl KafkaSink {
    /// A sink that writes to a topic, each record for itself.
    pub fn new(kafka: &KafkaConfig, topic: String, timeout: Duration) -> Result<Self, ClientError> {
        let settings = ProducerSettings { ack_deadline: timeout, ..ProducerSettings::default() };
        Ok(Self::through(Arc::new(Outlet::Plain(Producer::new(kafka, &settings)?)), topic))
    }

    /// A sink whose records are written there.
    pub fn through(outlet: Arc<Outlet>, topic: String) -> Self {
        Self { outlet, topic }
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<(), Refusal> {
        let record = Outgoing {
            topic: &self.topic,
            partition: None,
            key: Some(event.id.as_str().as_bytes()),
            value: &event.payload,
        };
        let mut headers = vec![
            ("content-type", event.description.content_type),
            ("ce_specversion", "1.0"),
            ("ce_id", event.id.as_str()),
            ("ce_source", event.source.as_str()),
            ("ce_type", &event.description.event_type),
            ("ce_time", &event.description.time),
            ("ce_webhookid", &event.webhook_id),
        ];
        if let Some(traceparent) = &event.traceparent {
            headers.extend([("ce_traceparent", &**traceparent), ("traceparent", traceparent)]);
        }
        let headers = headers.into_iter().map(|(name, text)| (name, text.as_bytes()));
        self.outlet.write(record, headers).await.map_err(refusal)
    }

    pub(super) fn flush(&self, deadline: Duration) {
        self.outlet.flush(deadline);
    }
}

fn refusal(error: ProduceError) -> Refusal {
    match error {
        ProduceError::TooLarge => Refusal::Permanent { status: TOO_LARGE },
        error @ ProduceError::QueueFull => Refusal::Overload(Box::new(error)),
        error @ (ProduceError::Unavailable(_) | ProduceError::Closed) => Refusal::Transport(Box::new(error)),
    }
}
