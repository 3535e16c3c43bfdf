//! The fifth stage: a body of the right shape, with the headers and the MAC by which the processors will trust it.

use std::sync::Arc;

use bytes::Bytes;
use common::envelope::Envelope;
use common::record::{Head, Headers, RecordKeys};
use common::topics::Topic;
use tokio::sync::OwnedSemaphorePermit;

use super::admitted::NonceHeader;
use super::fresh::Fresh;
use crate::refusal::Refusal;
use crate::source::Source;

/// A record for the inbox.
pub(crate) struct Record {
    permit: OwnedSemaphorePermit,
    source: Arc<Source>,
    headers: Headers,
    body: Bytes,
}

impl Record {
    /// Checks the envelope's shape and the client's key, and seals the record. The value is the body exactly as it was received.
    pub(crate) fn seal(fresh: Fresh, keys: &RecordKeys, received_ms: u64) -> Result<Self, Refusal> {
        let (permit, source, signed, body) = fresh.into_parts();
        match Envelope::parse_as(signed.format, &body, &source.id)? {
            Envelope::Native(native) => {
                if let NonceHeader::Is(header) = &signed.nonce {
                    native.check_nonce_header(header.as_ref().map(|nonce| nonce.as_bytes()))?;
                }
            }
            Envelope::Jwe(_) => {}
        }
        if !source.admits(signed.client_key) {
            return Err(Refusal::ClientCertificateNotPinned);
        }
        let head = Head {
            source: source.id.clone(),
            received_ms,
            timestamp: signed.timestamp.as_str().into(),
            traceparent: signed.traceparent,
            identity: None,
            retry: None,
            redriven_ms: None,
        };
        let headers = keys.seal(&Topic::Inbox, &head, &body);
        Ok(Self { permit, source, headers, body })
    }

    /// Whose it is.
    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The record's headers.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter()
    }

    /// The record's value.
    pub(crate) fn value(&self) -> &[u8] {
        &self.body
    }

    /// Gives up the body, and keeps the request's place.
    pub(crate) fn into_permit(self) -> OwnedSemaphorePermit {
        self.permit
    }
}
