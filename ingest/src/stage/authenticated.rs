//! The third stage: the whole body, signed by an active secret of one source.

use std::sync::Arc;

use bytes::Bytes;
use common::pin::Pin;
use common::trace::TraceContext;
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;

use super::admitted::{Admitted, Parts, Signed};
use super::body;
use crate::edge::Edge;
use crate::metrics::VerificationFailure;
use crate::network::Network;
use crate::quota::retry_after_s;
use crate::refusal::{Refusal, SignatureFault};
use crate::settings::Settings;
use crate::source::{Route, Source};

/// A request that one of our senders signed.
pub(crate) struct Authenticated {
    permit: OwnedSemaphorePermit,
    source: Arc<Source>,
    signed: Box<Signed>,
    body: Bytes,
}

impl Authenticated {
    /// Reads the body, working it through every active secret as it comes, and compares.
    ///
    /// Every secret of the path is worked through, whatever the request shows, and those accepted now are compared without
    /// an early exit; the signature decides whose request it is. What counts is what is in effect when the body is
    /// complete: by a secret that was retired meanwhile nothing is accepted. Where too much from a network has failed, the
    /// secrets are worked through when the body is whole and there is a place for it.
    pub(crate) async fn authenticate<B>(admitted: Admitted, body: B, edge: &Edge) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Parts { network, permit, settings, route, signed } = admitted.into_parts();
        let limited = !is_exempt(signed.client_key, &route);
        let over = limited && settings.failures.is_over(network, edge.clock.monotonic());
        let mut verification = route.begin(&signed.before_body, &signed.signatures);
        let body = body::read(body, &settings.limits, |piece| {
            if !over {
                verification.update(piece);
            }
        })
        .await?;
        edge.metrics.body_bytes.record(body.len() as f64);
        let place = if over {
            let place = settings.failures.place(network).await;
            verification.update(&body);
            Some(place)
        } else {
            None
        };
        let in_effect = edge.in_effect();
        let (route, verification) = if Arc::ptr_eq(&settings, &in_effect) {
            (route, Some(verification))
        } else {
            match in_effect.routes.find(&route.path).filter(|now| now.scheme == route.scheme) {
                Some(now) => {
                    let mut verification = now.begin(&signed.before_body, &signed.signatures);
                    verification.update(&body);
                    (now.clone(), Some(verification))
                }
                None => (route, None),
            }
        };
        let owner = verification.and_then(|verification| route.verify(verification, edge.clock.unix_s()));
        drop(place);
        let owner = owner.ok_or_else(|| {
            route.metrics.failed(VerificationFailure::Unknown);
            if limited { failed(network, &in_effect, edge) } else { Refusal::SignatureInvalid(SignatureFault::Unknown) }
        })?;
        owner.verified.increment(1);
        let source = owner.source.clone();
        // The path's sources may differ in this; only now is it known which one it is.
        if !source.formats.contains(&signed.format) {
            return Err(Refusal::UnsupportedMediaType);
        }
        Ok(Self { permit, source, signed, body })
    }

    /// Whose it is.
    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The trace that it belongs to.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.signed.traceparent.as_deref()
    }

    /// What comes behind belongs to this place of the trace.
    pub(crate) fn trace_at(&mut self, context: TraceContext) {
        self.signed.traceparent = Some(context.to_string().into());
    }

    /// Gives everything to the next stage.
    pub(super) fn into_parts(self) -> (OwnedSemaphorePermit, Arc<Source>, Box<Signed>, Bytes) {
        (self.permit, self.source, self.signed, self.body)
    }
}

/// Whether failures of this connection's requests are not limited: it has shown a client certificate that is pinned for a
/// source of this path. Whose request it is, only its signature says.
fn is_exempt(client_key: Option<Pin>, route: &Route) -> bool {
    client_key.is_some_and(|key| route.has_pinned(key))
}

/// What a wrong signature is answered, depending on how many there were from its network.
fn failed(network: Network, settings: &Settings, edge: &Edge) -> Refusal {
    match settings.failures.count(network, edge.clock.monotonic()) {
        Ok(()) => Refusal::SignatureInvalid(SignatureFault::Unknown),
        Err(wait) => {
            edge.metrics.failures_limited.increment(1);
            Refusal::TooManyFailures { retry_after_s: retry_after_s(wait) }
        }
    }
}
