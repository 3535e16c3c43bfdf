//! The second stage: everything that can be judged by the head alone, cheapest first and without touching a secret.

use std::sync::Arc;

use common::envelope::Format;
use common::pin::Pin;
use common::signature::Timestamp;
use common::trace::TraceContext;
use common::verify::Shown;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts as HeadParts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Version};
use tokio::sync::OwnedSemaphorePermit;

use super::raw::{Client, RawRequest};
use crate::edge::Edge;
use crate::metrics::{PathMetrics, VerificationFailure};
use crate::network::Network;
use crate::quota::retry_after_s;
use crate::rate::Key;
use crate::refusal::{Refusal, SignatureFault, Trouble};
use crate::scheme::Scheme;
use crate::settings::Settings;
use crate::source::Route;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request whose head is in order.
pub(crate) struct Admitted {
    network: Network,
    /// Held until the request is answered.
    permit: OwnedSemaphorePermit,
    settings: Arc<Settings>,
    route: Arc<Route>,
    /// Behind a pointer, as in every stage to come: it is large, and is handed on while others are waited for.
    signed: Box<Signed>,
}

/// What the head says about the body, and the connection about both.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The envelope that the content type announces.
    pub(crate) format: Format,
    /// When it was signed.
    pub(crate) timestamp: Timestamp,
    /// What is signed before the body.
    pub(crate) before_body: Vec<u8>,
    /// The signatures.
    pub(crate) signatures: Shown,
    /// The nonce's header: not signed, only compared.
    pub(crate) nonce: NonceHeader,
    /// W3C trace context: not signed, only passed on.
    pub(crate) traceparent: Option<Box<str>>,
    /// The key of the connection's client certificate.
    pub(crate) client_key: Option<Pin>,
}

/// The header that repeats the nonce of a native envelope.
#[derive(Debug)]
pub(crate) enum NonceHeader {
    /// The scheme has none.
    Unused,
    /// What was there.
    Is(Option<HeaderValue>),
}

impl Admitted {
    /// Checks the head.
    pub(crate) fn admit(raw: RawRequest<'_>, edge: &Edge) -> Result<Self, Refusal> {
        let RawRequest { head, body_len_min, client, settings } = raw;
        let limits = &settings.limits;
        let headers = &head.headers;
        let uri_len = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
        if uri_len > limits.uri_bytes_max.as_usize()
            || headers.len() > limits.header_count_max
            || head_len(&head) > limits.head_bytes_max.as_usize()
        {
            return Err(Refusal::HeadTooLarge);
        }
        check_host(&head)?;
        check_transfer_encoding(headers)?;
        let route = settings.routes.find(head.uri.path()).ok_or(Refusal::NotFound)?;
        if head.method != Method::POST {
            return Err(Refusal::MethodNotAllowed);
        }
        let network = Network::from(settings.forwarded.client(client.address(), headers));
        if let Some(rate) = &settings.rate {
            rate.take(Key { network, path: route.path_hash }, edge.clock.monotonic()).map_err(|wait| {
                edge.metrics.address_limited.increment(1);
                Refusal::RateLimited { retry_after_s: retry_after_s(wait) }
            })?;
        }
        let format = format(headers)?;
        if !route.formats.contains(&format) {
            return Err(Refusal::UnsupportedMediaType);
        }
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(Refusal::UnsupportedEncoding);
        }
        let signed =
            signed(headers, format, route.scheme, client).inspect_err(|refusal| count(refusal, &route.metrics))?;
        if body_len_min > limits.body_bytes_max.as_u64() {
            return Err(Refusal::PayloadTooLarge);
        }
        let permit = edge.in_flight.clone().try_acquire_owned().map_err(|_| Refusal::Unavailable(Trouble::Full))?;
        let (route, signed) = (route.clone(), Box::new(signed));
        Ok(Self { network, permit, settings, route, signed })
    }

    /// Gives everything to the next stage.
    pub(super) fn into_parts(self) -> Parts {
        let Self { network, permit, settings, route, signed } = self;
        Parts { network, permit, settings, route, signed }
    }
}

/// What the next stage works with.
pub(super) struct Parts {
    /// Whom the request counts for.
    pub(super) network: Network,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) settings: Arc<Settings>,
    pub(super) route: Arc<Route>,
    pub(super) signed: Box<Signed>,
}

/// The size of a head as HTTP/2 counts it (RFC 9113, 6.5.2). On HTTP/1.1 the HTTP library has counted its bytes.
fn head_len(head: &HeadParts) -> usize {
    const PER_FIELD: usize = 32;
    if head.version != Version::HTTP_2 {
        return 0;
    }
    let uri = &head.uri;
    let pseudo = [
        (":method", head.method.as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", Authority::as_str)),
        (":path", uri.path_and_query().map_or("", PathAndQuery::as_str)),
    ];
    let pseudo = pseudo.into_iter().map(|(name, value)| name.len() + value.len() + PER_FIELD);
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
    pseudo.chain(fields).sum()
}

/// Counts what is wrong with the scheme's headers.
fn count(refusal: &Refusal, metrics: &PathMetrics) {
    let reason = match refusal {
        Refusal::SignatureMissing => VerificationFailure::Missing,
        Refusal::DuplicateHeader => VerificationFailure::Duplicate,
        Refusal::InvalidTimestamp => VerificationFailure::Timestamp,
        Refusal::SignatureInvalid(_) => VerificationFailure::Malformed,
        _ => return,
    };
    metrics.failed(reason);
}

/// Exactly one host: HTTP/2's `:authority`, or the one `Host` header, or both the same.
fn check_host(head: &HeadParts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Refusal::BadHost),
    };
    match (named, head.uri.authority()) {
        (Some(host), authority) => {
            let host = Authority::try_from(host.as_bytes()).map_err(|_| Refusal::BadHost)?;
            let same = authority.is_none_or(|authority| *authority == host);
            if same && !host.as_str().contains('@') { Ok(()) } else { Err(Refusal::BadHost) }
        }
        (None, Some(_)) if head.version == Version::HTTP_2 => Ok(()),
        (None, _) => Err(Refusal::BadHost),
    }
}

/// The HTTP library decodes `chunked` and would take `gzip, chunked` for that.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(Refusal::UnsupportedTransferEncoding),
    }
}

/// The format that the content type announces. A parameter is allowed if it is `charset=utf-8`, which says nothing new.
fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    let value = only(headers, &CONTENT_TYPE).map_err(|_| Refusal::UnsupportedMediaType)?;
    let text = value.and_then(|value| value.to_str().ok()).ok_or(Refusal::UnsupportedMediaType)?;
    let (essence, parameter) = match text.split_once(';') {
        Some((essence, parameter)) => (essence, Some(parameter.trim())),
        None => (text, None),
    };
    let is_utf8 = |parameter: &str| {
        ["charset=utf-8", "charset=\"utf-8\""].iter().any(|utf8| parameter.eq_ignore_ascii_case(utf8))
    };
    if !parameter.is_none_or(is_utf8) {
        return Err(Refusal::UnsupportedMediaType);
    }
    [Format::Native, Format::Jwe]
        .into_iter()
        .find(|format| essence.trim().eq_ignore_ascii_case(format.content_type()))
        .ok_or(Refusal::UnsupportedMediaType)
}

/// The scheme's headers, each at most once and each by its grammar.
fn signed(headers: &HeaderMap, format: Format, scheme: Scheme, client: &Client) -> Result<Signed, Refusal> {
    let spec = scheme.spec();
    let once = |name| only(headers, name).map_err(|_| Refusal::DuplicateHeader);
    let (signature, timestamp) = (once(&spec.signature)?, once(&spec.timestamp)?);
    let id = spec.id.as_ref().map(once).transpose()?;
    let nonce = match spec.nonce.as_ref().map(once).transpose()? {
        Some(nonce) => NonceHeader::Is(nonce.cloned()),
        None => NonceHeader::Unused,
    };
    let (Some(signature), Some(timestamp), None | Some(Some(_))) = (signature, timestamp, id) else {
        return Err(Refusal::SignatureMissing);
    };
    let id = id.flatten();
    let timestamp = Timestamp::parse(timestamp.as_bytes()).map_err(|_| Refusal::InvalidTimestamp)?;
    let malformed = || Refusal::SignatureInvalid(SignatureFault::Malformed);
    let signatures = spec.signatures(signature).map_err(|_| malformed())?;
    if !id.is_none_or(|id| spec.is_id(id)) {
        return Err(malformed());
    }
    let before_body = spec.before_body(id, &timestamp);
    let traceparent = only(headers, &TRACEPARENT).ok().flatten().and_then(traceparent);
    Ok(Signed { format, timestamp, before_body, signatures, nonce, traceparent, client_key: client.key() })
}

/// A header that is there more than once.
struct Twice;

/// The value of a header that may be there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Twice> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Twice),
    }
}

/// A trace context in our own words, so that nothing else of the header gets into a record; what is none is ignored.
pub(super) fn traceparent(value: &HeaderValue) -> Option<Box<str>> {
    let context: TraceContext = value.to_str().ok()?.parse().ok()?;
    Some(context.to_string().into())
}
