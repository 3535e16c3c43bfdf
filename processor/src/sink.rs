//! Sinks: where events are delivered.

mod file;
mod http;
mod kafka;

use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use arc_swap::ArcSwap;
use common::clock::Clock;
use common::id::{EventId, SourceId};
use common::kafka::client::KafkaConfig;
use zeroize::Zeroizing;

use crate::config::{self, SinkKind};
use crate::core::breaker::Sign;
use crate::core::concurrency::Load;
use crate::unseal::Description;

pub use file::FileSink;
pub use http::{HttpSink, Link};
pub use kafka::KafkaSink;

/// An event on its way to a sink. The payload is in the clear from here on.
pub struct Event {
    /// The same for every delivery of this event: a sink that remembers it applies the event once.
    pub webhook_id: String,
    /// The sender's id.
    pub id: EventId,
    /// Whose event it is.
    pub source: SourceId,
    /// What its payload says of itself.
    pub description: Description,
    /// W3C trace context.
    pub traceparent: Option<Box<str>>,
    /// The payload.
    pub payload: Zeroizing<Vec<u8>>,
}

/// Why a sink does not have an event.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The sink refuses this one event for good.
    #[error("the sink answered {status}, for good")]
    Permanent {
        /// Its HTTP status.
        status: u16,
    },
    /// The sink answered that it can't now, or that something between us is wrong.
    #[error("the sink answered {status}")]
    Status {
        /// Its HTTP status.
        status: u16,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// There was no room on our own way to the sink: it does not have the event.
    #[error("no room on the way to the sink: {0}")]
    Overload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time: it may have the event.
    #[error("the sink did not answer in time")]
    Timeout,
    /// No answer: it may have the event.
    #[error("the sink was not reached: {0}")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    /// Its name in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Permanent { .. } => "permanent",
            Self::Status { .. } => "status",
            Self::Overload(_) => "overload",
            Self::Timeout => "timeout",
            Self::Transport(_) => "transport",
        }
    }

    /// What it says about the sink. That it has enough (408, 425, 429) says that it is there.
    pub fn sign(&self) -> Sign {
        match self {
            Self::Permanent { .. } | Self::Overload(_) | Self::Status { status: 408 | 425 | 429, .. } => Sign::Answers,
            Self::Status { .. } | Self::Timeout | Self::Transport(_) => Sign::Fails,
        }
    }

    /// What it says about the load. 500 and its like come from a fault and not from too much.
    pub fn load(&self) -> Load {
        match self {
            Self::Status { status: 408 | 425 | 429 | 503, .. }
            | Self::Overload(_)
            | Self::Timeout
            | Self::Transport(_) => Load::TooMuch,
            Self::Permanent { .. } | Self::Status { .. } => Load::Unknown,
        }
    }
}

/// Why a sink could not be set up. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its secret's file.
    #[error(transparent)]
    Secret(#[from] common::config::SecretFileError),
    /// Its secret's form.
    #[error(transparent)]
    SigningKey(#[from] common::standard_webhooks::SigningKeyError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] common::tls::TlsError),
    /// Its HTTP client.
    #[error(transparent)]
    Http(#[from] common::http_client::ClientError),
    /// Its URL.
    #[error("the sink's URL: {0}")]
    Url(#[from] ::http::uri::InvalidUri),
    /// Its Kafka client.
    #[error(transparent)]
    Kafka(#[from] common::kafka::client::ClientError),
    /// Its file.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The path.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A sink.
pub enum Sink {
    /// POST, signed as Standard Webhooks.
    Http(Box<HttpSink>),
    /// CloudEvents on a topic.
    Kafka(KafkaSink),
    /// JSON lines.
    File(FileSink),
}

impl Sink {
    /// Sets a sink up from its configuration. `kafka` is the cluster of a Kafka sink.
    pub fn new(config: &config::Sink, kafka: &KafkaConfig, clock: Clock) -> Result<Self, SinkError> {
        Ok(match config.kind {
            SinkKind::Http => {
                let url: Uri = config.url.parse()?;
                Self::Http(Box::new(HttpSink::new(config, url, clock)?))
            }
            SinkKind::Kafka => Self::Kafka(KafkaSink::new(kafka, config.topic.clone(), config.timeout)?),
            SinkKind::File => {
                let path = config.path.as_path();
                let error = |source| SinkError::File { path: path.to_owned(), source };
                Self::File(FileSink::open(path, config.timeout).map_err(error)?)
            }
        })
    }

    /// Where an HTTP sink takes another secret, other authorities and other pins; the others have none of these.
    pub fn link(&self) -> Option<Arc<ArcSwap<Link>>> {
        match self {
            Self::Http(sink) => Some(sink.link()),
            Self::Kafka(_) | Self::File(_) => None,
        }
    }

    /// Delivers an event: `Ok` once the sink has it for good.
    pub async fn deliver(&self, event: &Event) -> Result<(), Refusal> {
        match self {
            // A request's state is large. Boxed, it makes the runs of the other sinks none the larger.
            Self::Http(sink) => Box::pin(sink.deliver(event)).await,
            Self::Kafka(sink) => sink.deliver(event).await,
            Self::File(sink) => sink.deliver(event).await,
        }
    }

    /// Waits for what is under way. Blocks.
    pub fn flush(&self, deadline: Duration) {
        match self {
            Self::Kafka(sink) => sink.flush(deadline),
            Self::Http(_) | Self::File(_) => {}
        }
    }
}
