//! Every way in which a request can be refused, and what the sender is told.
//!
//! One variant per row of the contract. The `match` in [`Refusal::answer`] has no `_`, so that a new variant does not
//! compile until it has a status, an outcome (which is its code) and a sentence. Causes go to the log, never to the sender.

use common::envelope::EnvelopeError;
use common::kafka::producer::ProduceError;
use http::StatusCode;

use crate::metrics::Outcome;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No `Host`, two, or none that is a host. The sender's fault.
    #[error("there is not exactly one host")]
    BadHost,
    /// A transfer encoding other than `chunked`. The sender's fault.
    #[error("the transfer encoding is not chunked")]
    UnsupportedTransferEncoding,
    /// URI too long or too many headers. The sender's fault.
    #[error("the URI is too long or there are too many headers")]
    HeadTooLarge,
    /// No source has this path. The sender's fault, or a source was removed.
    #[error("no source has this path")]
    NotFound,
    /// Not a POST. The sender's fault.
    #[error("the method is not POST")]
    MethodNotAllowed,
    /// Too many requests from this address to this path. The sender's fault, or its neighbours'.
    #[error("the address has used up its requests")]
    RateLimited {
        /// When there is room again, in seconds.
        retry_after_s: u64,
    },
    /// A wrong signature, after too many of them from this address. The sender's fault, an attack, or its neighbours' fault.
    #[error("the signature is by no active secret, after too many such from the address")]
    TooManyFailures {
        /// When the next one is within the limit, in seconds.
        retry_after_s: u64,
    },
    /// A content type that the source does not send. The sender's fault.
    #[error("the content type is not the source's")]
    UnsupportedMediaType,
    /// A content encoding: nothing is ever decompressed. The sender's fault.
    #[error("there is a content encoding")]
    UnsupportedEncoding,
    /// The body is longer than the limit, as declared or as it came. The sender's fault.
    #[error("the body is too large")]
    PayloadTooLarge,
    /// The body came too slowly. The sender's fault, or the network's.
    #[error("the body did not come in time")]
    BodyTimeout,
    /// The body broke off. The sender's fault, or the network's.
    #[error("the body broke off")]
    IncompleteBody(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No signature, or no timestamp. The sender's fault.
    #[error("signature or timestamp is missing")]
    SignatureMissing,
    /// One of the signature scheme's headers twice. The sender's fault.
    #[error("one of the scheme's headers is there twice")]
    DuplicateHeader,
    /// A timestamp outside the grammar. The sender's fault.
    #[error("the timestamp is outside the grammar")]
    InvalidTimestamp,
    /// Not a signature of this content by any active secret. The sender's fault, or an attack.
    #[error("{0}")]
    SignatureInvalid(SignatureFault),
    /// Rightly signed, but without a client certificate whose key the source has pinned. The sender's fault, or a stolen
    /// secret.
    #[error("the connection's client certificate is not pinned for this source")]
    ClientCertificateNotPinned,
    /// Rightly signed, but too old or too new. The sender's fault, or a replay.
    #[error("the timestamp is out of tolerance")]
    TimestampOutOfTolerance,
    /// Rightly signed, but not JSON. The sender's fault.
    #[error("the body is not JSON")]
    InvalidJson,
    /// Rightly signed, but not an envelope. The sender's fault.
    #[error("the body is not an envelope: {0}")]
    InvalidEnvelope(&'static str),
    /// Rightly signed, but its ciphertext is none. The sender's fault.
    #[error("the ciphertext is not one")]
    InvalidCiphertext,
    /// Rightly signed, but its nonce is none, or not the one in the header. The sender's fault.
    #[error("the nonce is not one, or differs from its header")]
    InvalidNonce,
    /// Right in everything, but too many of its source. The sender's fault.
    #[error("the source has used up its requests")]
    SourceRateLimited {
        /// When there is room again, in seconds.
        retry_after_s: u64,
    },
    /// Our trouble, or Kafka's: the sender should try again.
    #[error("{0}")]
    Unavailable(#[source] Trouble),
    /// We are draining: the sender should try again, on another connection.
    #[error("draining")]
    ShuttingDown,
    /// Kafka is not reached: a balancer should send requests elsewhere.
    #[error("not ready")]
    NotReady,
    /// A bug of ours.
    #[error("the handler panicked")]
    Internal,
}

/// What is wrong with a signature. The sender is never told which.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(crate) enum SignatureFault {
    /// Outside the grammar.
    #[error("the signature is outside the grammar")]
    Malformed,
    /// By no active secret of any source on this path.
    #[error("the signature is by no active secret")]
    Unknown,
}

/// Why a good request could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// As many requests in flight as allowed.
    #[error("too many requests in flight")]
    Full,
    /// The brokers did not acknowledge within the deadline. The record may be in the log.
    #[error("no acknowledgement within the deadline")]
    AckLate,
    /// The producer did not take the record, or the brokers refused it.
    #[error("not published: {0}")]
    Produce(#[source] ProduceError),
}

/// What a sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The outcome, whose name is the code.
    pub(crate) outcome: Outcome,
    /// A sentence for the person who reads the sender's log.
    pub(crate) sentence: &'static str,
    /// When to try again, in seconds.
    pub(crate) retry_after_s: Option<u64>,
    /// Whether the connection ends with this answer.
    pub(crate) closes: bool,
}

/// When to try again after our own trouble: soon, since another node may be well.
const RETRY_AFTER_S: u64 = 1;

impl Refusal {
    /// Status, code and sentence.
    pub(crate) fn answer(&self) -> Answer {
        let say = |status, outcome, sentence| Answer { status, outcome, sentence, retry_after_s: None, closes: false };
        let close = |status, outcome, sentence| Answer { closes: true, ..say(status, outcome, sentence) };
        match self {
            Self::BadHost => say(StatusCode::BAD_REQUEST, Outcome::BadHost, "The request must name exactly one host."),
            Self::UnsupportedTransferEncoding => close(
                StatusCode::NOT_IMPLEMENTED,
                Outcome::UnsupportedTransferEncoding,
                "Only the transfer encoding chunked is supported.",
            ),
            Self::HeadTooLarge => close(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Outcome::HeadTooLarge,
                "The URI is too long or there are too many headers.",
            ),
            Self::NotFound => say(StatusCode::NOT_FOUND, Outcome::NotFound, "There is nothing at this path."),
            Self::MethodNotAllowed => {
                say(StatusCode::METHOD_NOT_ALLOWED, Outcome::MethodNotAllowed, "Only POST is allowed here.")
            }
            Self::RateLimited { retry_after_s } | Self::TooManyFailures { retry_after_s } => Answer {
                retry_after_s: Some(*retry_after_s),
                ..say(StatusCode::TOO_MANY_REQUESTS, Outcome::RateLimited, "Too many requests from this address.")
            },
            Self::SourceRateLimited { retry_after_s } => Answer {
                retry_after_s: Some(*retry_after_s),
                ..say(StatusCode::TOO_MANY_REQUESTS, Outcome::SourceRateLimited, "Too many requests from this source.")
            },
            Self::UnsupportedMediaType => say(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Outcome::UnsupportedMediaType,
                "The Content-Type is not one that is accepted here.",
            ),
            Self::UnsupportedEncoding => say(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Outcome::UnsupportedEncoding,
                "A Content-Encoding is not accepted: send the body as it is.",
            ),
            Self::PayloadTooLarge => {
                close(StatusCode::PAYLOAD_TOO_LARGE, Outcome::PayloadTooLarge, "The body is too large.")
            }
            Self::BodyTimeout => {
                close(StatusCode::REQUEST_TIMEOUT, Outcome::BodyTimeout, "The body did not arrive in time.")
            }
            Self::IncompleteBody(_) => {
                close(StatusCode::BAD_REQUEST, Outcome::IncompleteBody, "The body is incomplete or malformed.")
            }
            Self::SignatureMissing => say(
                StatusCode::UNAUTHORIZED,
                Outcome::SignatureMissing,
                "A header that the signature scheme needs is missing.",
            ),
            Self::DuplicateHeader => say(
                StatusCode::BAD_REQUEST,
                Outcome::DuplicateHeader,
                "Each header of the signature scheme may be sent once.",
            ),
            Self::InvalidTimestamp => say(
                StatusCode::UNAUTHORIZED,
                Outcome::InvalidTimestamp,
                "The timestamp must be whole seconds since 1970, in plain digits.",
            ),
            Self::SignatureInvalid(_) => {
                say(StatusCode::UNAUTHORIZED, Outcome::SignatureInvalid, "The signature is not valid for these bytes.")
            }
            Self::ClientCertificateNotPinned => close(
                StatusCode::FORBIDDEN,
                Outcome::ClientCertificateNotPinned,
                "This source needs a client certificate with a pinned key.",
            ),
            Self::TimestampOutOfTolerance => say(
                StatusCode::UNAUTHORIZED,
                Outcome::TimestampOutOfTolerance,
                "The timestamp is too far from our time: sign again with the present one.",
            ),
            Self::InvalidJson => say(StatusCode::BAD_REQUEST, Outcome::InvalidJson, "The body is not JSON."),
            Self::InvalidEnvelope(_) => say(
                StatusCode::BAD_REQUEST,
                Outcome::InvalidEnvelope,
                "The body is not an envelope that is accepted here.",
            ),
            Self::InvalidCiphertext => {
                say(StatusCode::BAD_REQUEST, Outcome::InvalidCiphertext, "The ciphertext is not valid.")
            }
            Self::InvalidNonce => say(
                StatusCode::BAD_REQUEST,
                Outcome::InvalidNonce,
                "The nonce must be 12 bytes, and the same in X-Encryption-Nonce and in the body.",
            ),
            Self::Unavailable(_) => Answer {
                retry_after_s: Some(RETRY_AFTER_S),
                ..say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Outcome::Unavailable,
                    "The event could not be stored now: send it again.",
                )
            },
            Self::ShuttingDown => Answer {
                retry_after_s: Some(RETRY_AFTER_S),
                ..close(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Outcome::ShuttingDown,
                    "This server is shutting down: send it again on another connection.",
                )
            },
            Self::NotReady => Answer {
                retry_after_s: Some(RETRY_AFTER_S),
                ..say(StatusCode::SERVICE_UNAVAILABLE, Outcome::NotReady, "This server cannot take events now.")
            },
            Self::Internal => {
                close(StatusCode::INTERNAL_SERVER_ERROR, Outcome::Internal, "Something went wrong here: send it again.")
            }
        }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::InvalidJson => Self::InvalidJson,
            EnvelopeError::InvalidEnvelope(why) => Self::InvalidEnvelope(why),
            EnvelopeError::InvalidCiphertext => Self::InvalidCiphertext,
            EnvelopeError::InvalidNonce => Self::InvalidNonce,
        }
    }
}

impl From<ProduceError> for Refusal {
    fn from(error: ProduceError) -> Self {
        match error {
            // Larger than the topic takes, against the relation of our limits: the sender can only send less.
            ProduceError::TooLarge => Self::PayloadTooLarge,
            ProduceError::QueueFull | ProduceError::Unavailable(_) | ProduceError::Closed => {
                Self::Unavailable(Trouble::Produce(error))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is answered, with its code.
    pub(crate) fn answers() -> Vec<(Answer, &'static str)> {
        table().iter().map(|(refusal, _, code, _)| (refusal.answer(), *code)).collect()
    }

    /// One refusal per variant, with the status and the code of the contract's row and whether it closes.
    fn table() -> Vec<(Refusal, u16, &'static str, bool)> {
        let broken = || Refusal::IncompleteBody("broken".into());
        vec![
            (Refusal::BadHost, 400, "bad_host", false),
            (Refusal::UnsupportedTransferEncoding, 501, "unsupported_transfer_encoding", true),
            (Refusal::HeadTooLarge, 431, "head_too_large", true),
            (Refusal::NotFound, 404, "not_found", false),
            (Refusal::MethodNotAllowed, 405, "method_not_allowed", false),
            (Refusal::RateLimited { retry_after_s: 7 }, 429, "rate_limited", false),
            (Refusal::TooManyFailures { retry_after_s: 7 }, 429, "rate_limited", false),
            (Refusal::SourceRateLimited { retry_after_s: 7 }, 429, "source_rate_limited", false),
            (Refusal::UnsupportedMediaType, 415, "unsupported_media_type", false),
            (Refusal::UnsupportedEncoding, 415, "unsupported_encoding", false),
            (Refusal::PayloadTooLarge, 413, "payload_too_large", true),
            (Refusal::BodyTimeout, 408, "body_timeout", true),
            (broken(), 400, "incomplete_body", true),
            (Refusal::SignatureMissing, 401, "signature_missing", false),
            (Refusal::DuplicateHeader, 400, "duplicate_header", false),
            (Refusal::InvalidTimestamp, 401, "invalid_timestamp", false),
            (Refusal::SignatureInvalid(SignatureFault::Malformed), 401, "signature_invalid", false),
            (Refusal::SignatureInvalid(SignatureFault::Unknown), 401, "signature_invalid", false),
            (Refusal::ClientCertificateNotPinned, 403, "client_certificate_not_pinned", true),
            (Refusal::TimestampOutOfTolerance, 401, "timestamp_out_of_tolerance", false),
            (EnvelopeError::InvalidJson.into(), 400, "invalid_json", false),
            (EnvelopeError::InvalidEnvelope("x").into(), 400, "invalid_envelope", false),
            (EnvelopeError::InvalidCiphertext.into(), 400, "invalid_ciphertext", false),
            (EnvelopeError::InvalidNonce.into(), 400, "invalid_nonce", false),
            (ProduceError::TooLarge.into(), 413, "payload_too_large", true),
            (ProduceError::QueueFull.into(), 503, "unavailable", false),
            (ProduceError::Closed.into(), 503, "unavailable", false),
            (Refusal::Unavailable(Trouble::Full), 503, "unavailable", false),
            (Refusal::Unavailable(Trouble::AckLate), 503, "unavailable", false),
            (Refusal::ShuttingDown, 503, "shutting_down", true),
            (Refusal::NotReady, 503, "not_ready", false),
            (Refusal::Internal, 500, "internal", true),
        ]
    }

    #[test]
    fn answers_are_those_of_the_contract() {
        for (refusal, status, code, closes) in table() {
            let answer = refusal.answer();
            assert_eq!((answer.status.as_u16(), answer.outcome.as_str(), answer.closes), (status, code, closes));
            let again = answer.retry_after_s.is_some();
            assert_eq!(
                again,
                matches!(status, 429 | 503),
                "{code}: Retry-After exactly when the same request may succeed"
            );
            assert!(answer.sentence.ends_with('.') && !answer.sentence.contains('"'), "{}", answer.sentence);
        }
    }

    #[test]
    fn the_table_covers_every_code() {
        let covered: Vec<&str> = table().iter().map(|(_, _, code, _)| *code).collect();
        for outcome in Outcome::ALL {
            let refused = !matches!(outcome, Outcome::Received | Outcome::Healthy | Outcome::Abandoned);
            assert_eq!(covered.contains(&outcome.as_str()), refused, "{outcome:?}");
        }
    }
}
