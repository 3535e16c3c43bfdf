//! The third stage: the whole body, signed by an active secret of one source.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;

use super::admitted::{Admitted, Parts, Signed};
use super::body;
use crate::edge::Edge;
use crate::refusal::{Refusal, SignatureFault};
use crate::source::Source;

/// A request that one of our senders signed.
pub(crate) struct Authenticated {
    permit: OwnedSemaphorePermit,
    source: Arc<Source>,
    signed: Signed,
    body: Bytes,
}

impl Authenticated {
    /// Reads the body, working it through every active secret as it comes, and compares.
    ///
    /// Every secret of the path is worked through, whatever the request shows, and those accepted now are compared without
    /// an early exit; the signature decides whose request it is. What counts is what is in effect when the body is
    /// complete: by a secret that was retired meanwhile nothing is accepted.
    pub(crate) async fn authenticate<B>(admitted: Admitted<'_, B>, edge: &Edge) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Parts { body, client, permit, settings, route, signed } = admitted.into_parts();
        let mut verification = route.begin(&signed.before_body, &signed.signatures);
        let body = body::read(body, &settings.limits, |piece| verification.update(piece)).await?;
        client.set_unread(false);
        edge.metrics.body_bytes.record(body.len() as f64);
        let in_effect = edge.settings();
        let (route, verification) = if Arc::ptr_eq(&settings, &in_effect) {
            (route, verification)
        } else {
            let now = in_effect.routes.find(&route.path).filter(|now| now.scheme == route.scheme).cloned();
            let now = now.ok_or(Refusal::SignatureInvalid(SignatureFault::Unknown))?;
            let mut verification = now.begin(&signed.before_body, &signed.signatures);
            verification.update(&body);
            (now, verification)
        };
        let owner = route
            .verify(verification, edge.clock.unix_s())
            .ok_or(Refusal::SignatureInvalid(SignatureFault::Unknown))?;
        owner.verified.increment(1);
        let source = owner.source.clone();
        // The path's sources may differ in this; only now is it known which one it is.
        if !source.formats.contains(&signed.format) {
            return Err(Refusal::UnsupportedMediaType);
        }
        Ok(Self { permit, source, signed, body })
    }

    /// Gives everything to the next stage.
    pub(super) fn into_parts(self) -> (OwnedSemaphorePermit, Arc<Source>, Signed, Bytes) {
        (self.permit, self.source, self.signed, self.body)
    }
}
