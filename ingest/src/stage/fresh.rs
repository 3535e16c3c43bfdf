//! The fourth stage: signed not too long ago. A captured request is useless after the window.

use std::sync::Arc;

use bytes::Bytes;
use common::signature::Freshness;
use tokio::sync::OwnedSemaphorePermit;

use super::admitted::Signed;
use super::authenticated::Authenticated;
use crate::refusal::Refusal;
use crate::source::Source;

/// A request that was signed within its source's window.
pub(crate) struct Fresh {
    permit: OwnedSemaphorePermit,
    source: Arc<Source>,
    signed: Box<Signed>,
    body: Bytes,
}

impl Fresh {
    /// Compares the signed timestamp with our clock.
    pub(crate) fn check(authenticated: Authenticated, now_s: u64) -> Result<Self, Refusal> {
        let (permit, source, signed, body) = authenticated.into_parts();
        source.metrics.signed(now_s, signed.timestamp.unix_s());
        let outside = match source.window.freshness(&signed.timestamp, now_s) {
            Freshness::Fresh => return Ok(Self { permit, source, signed, body }),
            Freshness::Stale => &source.metrics.stale,
            Freshness::Future => &source.metrics.future,
        };
        outside.increment(1);
        Err(Refusal::TimestampOutOfTolerance)
    }

    /// Gives everything to the next stage.
    pub(super) fn into_parts(self) -> (OwnedSemaphorePermit, Arc<Source>, Box<Signed>, Bytes) {
        (self.permit, self.source, self.signed, self.body)
    }
}
