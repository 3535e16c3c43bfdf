//! POST of the payload, signed as Standard Webhooks.
//!
//! `webhook-id` is the same in every delivery of an event and holds no text of the payload. Redirects are not followed:
//! a payload goes to the configured place and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use common::clock::Clock;
use common::http_client::{CallError, ClientOptions, HttpsClient, Schemes, retry_after};
use common::standard_webhooks::{ID_HEADER, SIGNATURE_HEADER, SigningKey, TIMESTAMP_HEADER, sign};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Request, Uri};

use super::{Event, Refusal, SinkError};
use crate::config;

/// An HTTP sink.
pub struct HttpSink {
    link: Arc<ArcSwap<Link>>,
    url: Uri,
    timeout: Duration,
    clock: Clock,
}

/// What may change while a sink is in use: whose certificate and key it must have, and what deliveries are signed with.
pub struct Link {
    client: HttpsClient,
    key: SigningKey,
}

impl Link {
    /// Reads the secret and the certificates.
    pub fn new(config: &config::Sink) -> Result<Self, SinkError> {
        let key = SigningKey::parse(&config.secret.load()?)?;
        let schemes = if config.danger_plain_http { Schemes::HttpToo } else { Schemes::HttpsOnly };
        let extra_roots = config.ca.if_set().map(common::tls::certificates).transpose()?.unwrap_or_default();
        let pins = config.pins.clone();
        let client = HttpsClient::new(&ClientOptions { schemes, extra_roots, pins, ..ClientOptions::default() })?;
        Ok(Self { client, key })
    }
}

impl HttpSink {
    /// Reads the secret and the certificates.
    pub fn new(config: &config::Sink, url: Uri, clock: Clock) -> Result<Self, SinkError> {
        let link = Arc::new(ArcSwap::from_pointee(Link::new(config)?));
        Ok(Self { link, url, timeout: config.timeout, clock })
    }

    /// Where another link takes effect, for every delivery that begins then.
    pub(super) fn link(&self) -> Arc<ArcSwap<Link>> {
        self.link.clone()
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<(), Refusal> {
        let timestamp = self.clock.unix_s();
        let link = self.link.load_full();
        let mut request = Request::post(self.url.clone())
            .header(ID_HEADER, &event.webhook_id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, sign(&link.key, &event.webhook_id, timestamp, &event.payload))
            .header(CONTENT_TYPE, event.description.content_type)
            .header(USER_AGENT, concat!("sealstream/", env!("CARGO_PKG_VERSION")));
        if let Some(traceparent) = &event.traceparent {
            request = request.header("traceparent", &**traceparent);
        }
        let request = request
            .body(Bytes::copy_from_slice(&event.payload))
            .map_err(|error| Refusal::Transport(Box::new(error)))?;
        let answer = link.client.exchange(request, self.timeout).await.map_err(|error| match error {
            CallError::Timeout(_) => Refusal::Timeout,
            error @ (CallError::Connect(_) | CallError::NotPinned(_) | CallError::Broken(_)) => {
                Refusal::Transport(Box::new(error))
            }
        })?;
        let status = answer.status().as_u16();
        match status {
            200..=299 => Ok(()),
            // The sink can't now (408, 425, 429, 5xx), or is not what was configured (401, 403, 404, 410, a redirect).
            // Neither says anything about this event.
            300..=399 | 401 | 403 | 404 | 408 | 410 | 425 | 429 | 500..=599 => {
                Err(Refusal::Status { status, retry_after: retry_after(answer.headers(), self.clock.unix_s()) })
            }
            _ => Err(Refusal::Permanent { status }),
        }
    }
}
