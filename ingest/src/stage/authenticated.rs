//! The third stage: the whole body, signed by an active secret of one source.

use std::sync::Arc;

use bytes::Bytes;
use common::signature::{Mac, verify_any};
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;

use super::admitted::{Admitted, Signed};
use super::body;
use super::raw::Client;
use crate::edge::Edge;
use crate::metrics::VerificationFailure;
use crate::network::Network;
use crate::quota::retry_after_s;
use crate::refusal::{Refusal, SignatureFault};
use crate::source::{Route, Source};

/// A request that one of our senders signed.
pub(crate) struct Authenticated {
    permit: OwnedSemaphorePermit,
    source: Arc<Source>,
    signed: Signed,
    body: Bytes,
}

impl Authenticated {
    /// Reads the body, feeding the MAC of every active secret as it comes, and compares.
    ///
    /// Every secret of the path is worked through and compared without an early exit; the signature decides whose
    /// request it is. Where too much from a network has failed, the MACs are worked out when the body is whole and there
    /// is a place for it.
    pub(crate) async fn authenticate<B>(admitted: Admitted<'_, B>, edge: &Edge) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let network = admitted.network();
        let (body, client, permit, route, signed) = admitted.into_parts();
        let limited = !is_exempt(client, &route);
        let over = limited && edge.failures.is_over(network, edge.clock.monotonic());
        let mut macs: Vec<Mac> =
            route.candidates.iter().map(|candidate| candidate.mac.begin(&signed.timestamp)).collect();
        let mut feed = |piece: &[u8]| macs.iter_mut().for_each(|mac| mac.update(piece));
        let body = body::read(body, &edge.limits, |piece| {
            if !over {
                feed(piece)
            }
        })
        .await?;
        client.set_unread(false);
        edge.metrics.body_bytes.record(body.len() as f64);
        let place = if over { Some(edge.failures.place(network).await) } else { None };
        if place.is_some() {
            feed(&body);
        }
        let macs: Vec<_> = macs.into_iter().map(Mac::finish).collect();
        let verified = verify_any(&macs, &signed.signatures);
        drop(place);
        let owner = verified
            .and_then(|index| route.candidates.get(index))
            .and_then(|candidate| candidate.owner.as_ref())
            .ok_or_else(|| {
                route.metrics.failed(VerificationFailure::Unknown);
                if limited { failed(network, edge) } else { Refusal::SignatureInvalid(SignatureFault::Unknown) }
            })?;
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

/// Whether failures of this connection's requests are not limited: it has shown a client certificate that is pinned for a
/// source of this path. Nothing is pinned yet.
fn is_exempt(_client: &Client, _route: &Route) -> bool {
    false
}

/// What a wrong signature is answered, depending on how many there were from its network.
fn failed(network: Network, edge: &Edge) -> Refusal {
    match edge.failures.count(network, edge.clock.monotonic()) {
        Ok(()) => Refusal::SignatureInvalid(SignatureFault::Unknown),
        Err(wait) => {
            edge.metrics.failures_limited.increment(1);
            Refusal::TooManyFailures { retry_after_s: retry_after_s(wait) }
        }
    }
}
