//! Signature schemes: by which headers, and in which grammar, a source's senders sign.
//!
//! A scheme is a row of a table. What differs from one to the other stands there; the way through the stages is the same.

use common::secret::Secret;
use common::signature::{self, Mac, Signatures, SignaturesError, Timestamp};
use common::standard_webhooks;
use common::verify::{Shown, VerifyingKey};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// How a source's senders sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// `X-Webhook-Signature` and `X-Webhook-Timestamp`; see [`common::signature`].
    Native,
    /// Standard Webhooks 1.0, symmetric and asymmetric; see [`common::standard_webhooks`].
    StandardWebhooks,
}

/// What tells schemes apart.
pub(crate) struct Spec {
    /// The header of an id that is signed too.
    pub(crate) id: Option<HeaderName>,
    /// The header of the timestamp.
    pub(crate) timestamp: HeaderName,
    /// The header of the signatures.
    pub(crate) signature: HeaderName,
    /// The header that repeats the nonce of a native envelope.
    pub(crate) nonce: Option<HeaderName>,
    is_id: fn(&[u8]) -> bool,
    signatures: fn(&[u8]) -> Result<Shown, SignaturesError>,
    key: fn(&Secret) -> Result<VerifyingKey, &'static str>,
}

static NATIVE: Spec = Spec {
    id: None,
    timestamp: signature::TIMESTAMP_HEADER,
    signature: signature::SIGNATURE_HEADER,
    nonce: Some(signature::NONCE_HEADER),
    is_id: |_| false,
    signatures: |header| Signatures::parse(header).map(Shown::from),
    key: |secret| Ok(VerifyingKey::Mac(Mac::new(secret))),
};

static STANDARD_WEBHOOKS: Spec = Spec {
    id: Some(standard_webhooks::ID_HEADER),
    timestamp: standard_webhooks::TIMESTAMP_HEADER,
    signature: standard_webhooks::SIGNATURE_HEADER,
    nonce: None,
    is_id: standard_webhooks::is_id,
    signatures: standard_webhooks::parse_signatures,
    key: |secret| {
        standard_webhooks::parse_verifying_key(secret)
            .map_err(|_| "is neither whsec_ and the base64 of 24 to 64 bytes nor whpk_ and that of a public key")
    },
};

impl Scheme {
    /// Its row.
    pub(crate) fn spec(self) -> &'static Spec {
        match self {
            Self::Native => &NATIVE,
            Self::StandardWebhooks => &STANDARD_WEBHOOKS,
        }
    }
}

impl Spec {
    /// The key in a secret's file, or what is wrong with it.
    pub(crate) fn key(&self, secret: &Secret) -> Result<VerifyingKey, &'static str> {
        (self.key)(secret)
    }

    /// Reads the bytes of the signatures' header.
    pub(crate) fn signatures(&self, header: &HeaderValue) -> Result<Shown, SignaturesError> {
        (self.signatures)(header.as_bytes())
    }

    /// Whether an id may be signed: in one grammar, so that what is signed can be divided in one way only.
    pub(crate) fn is_id(&self, header: &HeaderValue) -> bool {
        (self.is_id)(header.as_bytes())
    }

    /// What is signed before the body.
    pub(crate) fn before_body(&self, id: Option<&HeaderValue>, timestamp: &Timestamp) -> Vec<u8> {
        let mut text = Vec::with_capacity(64);
        for part in id.map(HeaderValue::as_bytes).into_iter().chain([timestamp.as_bytes()]) {
            text.extend_from_slice(part);
            text.push(b'.');
        }
        text
    }
}
