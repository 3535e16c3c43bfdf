//! A sender of sealed webhooks: seal, sign, send, and send again until the receiver has it.
//!
//! ```no_run
//! # use common::{clock::Clock, http_client::HttpsClient, id::EventId};
//! # use sender::{Config, Sender};
//! # async fn example(config: Config, client: HttpsClient) -> Result<(), Box<dyn std::error::Error>> {
//! let sender = Sender::new(config, client, Clock::system())?;
//! let event_id = EventId::new("evt_1")?;
//! let sent = sender.send(&event_id, br#"{"id":"evt_1","type":"ping"}"#).await?;
//! println!("{} after {} attempts", sent.status, sent.attempt_count);
//! # Ok(())
//! # }
//! ```
//!
//! Every attempt has a fresh nonce and a fresh timestamp, and the same event id: the receiver recognises a repeat by
//! the id alone. [`Sender::prepare`] and [`Sender::exchange`] are the two halves of an attempt, for those who want to
//! look at a request or to bend it.

mod answer;
mod retry;
mod signed;

use std::time::Duration;

use bytes::Bytes;
use common::clock::Clock;
use common::envelope::{Format, JweHeader};
use common::http_client::{CallError, HttpsClient, retry_after};
use common::id::{EventId, KeyId, SourceId};
use common::secret::Secret;
use common::signature::{Timestamp, TimestampError};
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use open::{Key, SealError};

pub use answer::Failure;
pub use retry::RetryPolicy;
pub use signed::Signed;

/// What a sender needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the source's webhooks go.
    pub url: Uri,
    /// Who we are. The `aud` of a JWE; not sent with a native envelope, whose receiver knows it by the path.
    pub source: SourceId,
    /// What we sign with.
    pub secret: Secret,
    /// The name of the key we seal with. The `kid` of a JWE.
    pub key_id: KeyId,
    /// The key we seal with.
    pub key: Key,
    /// The envelope we seal in.
    pub format: Format,
    /// Longest time for one attempt.
    pub timeout: Duration,
    /// When and how often an attempt is repeated.
    pub retry: RetryPolicy,
}

/// Sends the events of one source to one receiver.
#[derive(Debug)]
pub struct Sender {
    config: Config,
    client: HttpsClient,
    clock: Clock,
}

/// A URL that is not `http://host…` or `https://host…`. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no http or https URL with a host")]
pub struct UrlError(Uri);

/// Why no request was made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The payload could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Our clock is before 2001 or after 5138.
    #[error("the clock is wrong")]
    Clock(#[from] TimestampError),
}

/// An event that the receiver has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The status of the receiver's answer, a success.
    pub status: StatusCode,
    /// How many attempts it took.
    pub attempt_count: u32,
    /// The receiver's name for the request, if it said one.
    pub request_id: Option<String>,
}

/// Why an event was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No request could be made. Ours, or the machine's.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The receiver said no in a way that does not change by asking again. The caller's fault, or the configuration's.
    #[error("refused at attempt {attempt_count}")]
    Refused {
        /// What the receiver said.
        #[source]
        failure: Failure,
        /// How many attempts were made.
        attempt_count: u32,
    },
    /// Every attempt failed in a way that might have passed. The event may or may not have been received: send it
    /// again, later, with the same id.
    #[error("not received after {attempt_count} attempts")]
    Exhausted {
        /// How the last attempt failed.
        #[source]
        failure: Failure,
        /// How many attempts were made.
        attempt_count: u32,
    },
}

impl Sender {
    /// Checks the URL. The client decides whether plain HTTP may be spoken and whose certificates are trusted.
    pub fn new(config: Config, client: HttpsClient, clock: Clock) -> Result<Self, UrlError> {
        let scheme = config.url.scheme();
        if (scheme != Some(&Scheme::HTTP) && scheme != Some(&Scheme::HTTPS)) || config.url.host().is_none() {
            return Err(UrlError(config.url));
        }
        Ok(Self { config, client, clock })
    }

    /// Sends an event, with as many attempts as the policy allows. For the native format the receiver reads the id in
    /// the payload, so it must stand there; for a JWE it is `event_id`.
    pub async fn send(&self, event_id: &EventId, plaintext: &[u8]) -> Result<Sent, SendError> {
        let mut attempt_count = 0;
        loop {
            attempt_count += 1;
            let signed = self.prepare(event_id, plaintext)?;
            let (failure, asked) = match self.exchange(signed).await {
                Ok(answer) if answer.status().is_success() => {
                    let request_id = answer::request_id(&answer);
                    return Ok(Sent { status: answer.status(), attempt_count, request_id });
                }
                Ok(answer) => (Failure::of(&answer), retry_after(answer.headers(), self.clock.unix_s())),
                Err(error) => (Failure::NoAnswer(error), None),
            };
            if !failure.may_pass() {
                return Err(SendError::Refused { failure, attempt_count });
            }
            if attempt_count >= self.config.retry.attempts_max {
                return Err(SendError::Exhausted { failure, attempt_count });
            }
            let pause = self.config.retry.pause(attempt_count, asked, retry::jitter());
            tracing::debug!(source = %self.config.source, attempt_count, %failure, ?pause, "attempt failed, waiting");
            tokio::time::sleep(pause).await;
        }
    }

    /// Seals and signs one attempt as of now.
    pub fn prepare(&self, event_id: &EventId, plaintext: &[u8]) -> Result<Signed, PrepareError> {
        self.prepare_at(self.clock.unix_s(), event_id, plaintext)
    }

    /// Seals and signs one attempt as of a given time.
    pub fn prepare_at(&self, unix_s: u64, event_id: &EventId, plaintext: &[u8]) -> Result<Signed, PrepareError> {
        let Config { secret, key, .. } = &self.config;
        let timestamp = Timestamp::at(unix_s)?;
        Ok(match self.config.format {
            Format::Native => Signed::native(secret, &timestamp, open::seal_native(key, plaintext)?),
            Format::Jwe => {
                let header = JweHeader {
                    kid: self.config.key_id.clone(),
                    jti: event_id.clone(),
                    aud: self.config.source.clone(),
                    iat: Some(unix_s),
                };
                Signed::jwe(secret, &timestamp, open::seal_jwe(key, &header, plaintext)?)
            }
        })
    }

    /// Sends one prepared request, once, and answers whatever the receiver did.
    pub async fn exchange(&self, signed: Signed) -> Result<Response<Bytes>, CallError> {
        let mut request = Request::post(self.config.url.clone()).body(signed.body).expect("the URL was checked");
        *request.headers_mut() = signed.headers;
        self.client.exchange(request, self.config.timeout).await
    }
}

#[cfg(test)]
mod tests;
