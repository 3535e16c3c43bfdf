//! Every metric of ingest, declared once.
//!
//! | name | labels |
//! |---|---|
//! | `ingest_requests_total` | `outcome`: see [`Outcome`]. Every request whose head was read is counted exactly once |
//! | `ingest_request_seconds` | none: from head to answer |
//! | `ingest_requests_in_flight` | none |
//! | `ingest_body_bytes` | none: bodies that were received |
//! | `ingest_ack_seconds` | none: from handing a record to the producer to the brokers' acknowledgement |
//! | `ingest_queue_records` | none: records that wait for the brokers' acknowledgement, looked at once a second |
//! | `ingest_verified_total` | `source`, `secret`: configured names. Shows which secrets are still in use |
//! | `ingest_connections_total` | `outcome`: see [`ConnectionOutcome`]. Every accepted connection is counted exactly once |
//! | `ingest_connections_open` | none |
//! | `ingest_handshake_failures_total` | `reason`: see [`HandshakeFailure`]. Connections that ended `handshake_failed`, by what was wrong |
//! | `ingest_verification_failures_total` | `path`: a configured path; `source`: a configured name where a signature has shown it, else empty; `reason`: see [`VerificationFailure`] |
//! | `ingest_clock_skew_seconds` | `source`: our clock less the time that was signed, of every request with a valid signature |
//! | `ingest_rate_limited_total` | `limit`: see [`Limit`]; `source`: a configured name for the limit `source`, else empty |
//! | `ingest_rate_exchanges_total` | `outcome`: `done`, or `failed` for each time that Redis was out of reach and this node went on by itself |
//! | `ingest_rate_exchange_seconds` | none: from a report to Redis to its answer |
//! | `ingest_spans_total` | see [`common::spans`] |
//! | `ingest_config_…`, `ingest_certificate_expiry_timestamp_seconds` | see [`common::reload`] |
//!
//! Handles are made once, at the start, and belong to the registry that they were made in.

use std::time::Duration;

use common::clock::Clock;
use common::id::{KeyId, SourceId};
use common::telemetry::Metrics;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use rustls::PeerIncompatible;

macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every outcome.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

outcomes! {
    /// How a request ended. For refusals this is also the code that the sender is told.
    Outcome {
        /// Acknowledged by the brokers, answered 200.
        Received = "received",
        /// A balancer asked, and was told yes.
        Healthy = "healthy",
        /// A balancer asked, and was told no.
        NotReady = "not_ready",
        /// The sender went away before the answer.
        Abandoned = "abandoned",
        /// No `Host`, two, or none that is a host.
        BadHost = "bad_host",
        /// A transfer encoding other than `chunked`.
        UnsupportedTransferEncoding = "unsupported_transfer_encoding",
        /// URI too long or too many headers.
        HeadTooLarge = "head_too_large",
        /// No source has this path.
        NotFound = "not_found",
        /// Not a POST.
        MethodNotAllowed = "method_not_allowed",
        /// Too many requests from this address to this path, or too many of them with wrong signatures.
        RateLimited = "rate_limited",
        /// Not a content type that the source sends.
        UnsupportedMediaType = "unsupported_media_type",
        /// A content encoding.
        UnsupportedEncoding = "unsupported_encoding",
        /// The body is longer than the limit.
        PayloadTooLarge = "payload_too_large",
        /// The body came too slowly.
        BodyTimeout = "body_timeout",
        /// The body broke off.
        IncompleteBody = "incomplete_body",
        /// No signature, or no timestamp.
        SignatureMissing = "signature_missing",
        /// One of the signature scheme's headers twice.
        DuplicateHeader = "duplicate_header",
        /// A timestamp outside the grammar.
        InvalidTimestamp = "invalid_timestamp",
        /// Not a signature of this content by any active secret.
        SignatureInvalid = "signature_invalid",
        /// Rightly signed, but not on a connection with a client certificate of a key that the source has pinned.
        ClientCertificateNotPinned = "client_certificate_not_pinned",
        /// Rightly signed, but too old or too new.
        TimestampOutOfTolerance = "timestamp_out_of_tolerance",
        /// Not JSON.
        InvalidJson = "invalid_json",
        /// Not an envelope.
        InvalidEnvelope = "invalid_envelope",
        /// Not a ciphertext.
        InvalidCiphertext = "invalid_ciphertext",
        /// Not a nonce, or not the one in the header.
        InvalidNonce = "invalid_nonce",
        /// Right in everything, but too many of this source.
        SourceRateLimited = "source_rate_limited",
        /// Kafka did not take it, or we are full.
        Unavailable = "unavailable",
        /// We are draining.
        ShuttingDown = "shutting_down",
        /// A bug of ours.
        Internal = "internal",
    }
}

outcomes! {
    /// How a connection ended.
    ConnectionOutcome {
        /// In order, by either side.
        Ended = "ended",
        /// Closed at once: as many connections as allowed.
        OverCap = "over_cap",
        /// Closed at once: as many from this network as allowed.
        OverNetworkCap = "over_network_cap",
        /// A trusted peer began with something else than a PROXY header.
        ProxyHeaderInvalid = "proxy_header_invalid",
        /// A peer that is not trusted began with a PROXY header.
        ProxyHeaderRefused = "proxy_header_refused",
        /// No TLS handshake within its deadline.
        HandshakeTimeout = "handshake_timeout",
        /// The TLS handshake failed: other versions or suites, plain HTTP, garbage.
        HandshakeFailed = "handshake_failed",
        /// The handshake failed for want of a client certificate.
        ClientCertificateMissing = "client_certificate_missing",
        /// The client certificate is expired, or not valid yet.
        ClientCertificateExpired = "client_certificate_expired",
        /// The client certificate was revoked.
        ClientCertificateRevoked = "client_certificate_revoked",
        /// The client certificate comes from no known authority, has no revocation list, or is not one.
        ClientCertificateUntrusted = "client_certificate_untrusted",
        /// No whole head within its deadline; also how an idle connection is closed.
        HeadTimeout = "head_timeout",
        /// A head that is not HTTP.
        MalformedHead = "malformed_head",
        /// A head over the limit, refused by the HTTP library.
        HeadTooLarge = "head_too_large",
        /// Ended by us: an HTTP/2 peer that sent frames without end, but for requests.
        Flooded = "flooded",
        /// Broken off, or against the protocol.
        Broken = "broken",
        /// Not done in time after we asked it to end.
        Aborted = "aborted",
    }
}

outcomes! {
    /// Why a TLS handshake failed.
    HandshakeFailure {
        /// What came was not TLS: plain HTTP, garbage.
        NotTls = "not_tls",
        /// No version that both speak.
        Version = "no_shared_version",
        /// No cipher suite, key exchange or signature scheme that both have.
        Suite = "no_shared_suite",
        /// No application protocol that both speak.
        Protocol = "no_shared_protocol",
        /// The client refused: often because it does not trust our certificate.
        RefusedByClient = "refused_by_client",
        /// The client went away.
        Disconnected = "disconnected",
        /// Anything else.
        Other = "other",
    }
}

outcomes! {
    /// Why a request was not verified, or was refused for its time although it was.
    VerificationFailure {
        /// No signature, or no timestamp.
        Missing = "signature_missing",
        /// One of the scheme's headers twice.
        Duplicate = "duplicate_header",
        /// A timestamp outside the grammar.
        Timestamp = "invalid_timestamp",
        /// A signature outside the grammar.
        Malformed = "signature_malformed",
        /// A signature of this content by no active secret.
        Unknown = "signature_unknown",
        /// Rightly signed, too long ago: late, or a replay. It has a source.
        Stale = "timestamp_stale",
        /// Rightly signed, too far ahead: a clock is wrong. It has a source.
        Future = "timestamp_future",
    }
}

outcomes! {
    /// A limit that answers 429.
    Limit {
        /// Requests per client address and path.
        Address = "address",
        /// Failed authentications per client address.
        FailedAuthentication = "failed_authentication",
        /// Accepted requests of a source.
        Source = "source",
    }
}

impl HandshakeFailure {
    /// What was wrong, from what the TLS library says.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
            // The library has no error of its own for what begins like nothing it knows.
            let unknown = error.kind() == std::io::ErrorKind::InvalidData;
            return if unknown { Self::NotTls } else { Self::Disconnected };
        };
        match error {
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)
            | rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
            | rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
            | rustls::Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic) => Self::Version,
            rustls::Error::PeerIncompatible(_) => Self::Suite,
            rustls::Error::NoApplicationProtocol => Self::Protocol,
            rustls::Error::AlertReceived(_) => Self::RefusedByClient,
            _ => Self::Other,
        }
    }
}

/// What is counted for one source.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    /// See [`VerificationFailure::Stale`].
    pub(crate) stale: Counter,
    /// See [`VerificationFailure::Future`].
    pub(crate) future: Counter,
    /// See [`Limit::Source`].
    pub(crate) rate_limited: Counter,
    skew_seconds: Histogram,
}

impl SourceMetrics {
    /// Notes when a request was signed, by our clock and by its source's.
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 of both clocks are far below 2^52")]
    pub(crate) fn signed(&self, now_s: u64, timestamp_s: u64) {
        self.skew_seconds.record(now_s as f64 - timestamp_s as f64);
    }
}

/// The failures of one path whose source nobody knows.
#[derive(Debug)]
pub(crate) struct PathMetrics(Vec<Counter>);

impl PathMetrics {
    /// Counts a failure.
    pub(crate) fn failed(&self, reason: VerificationFailure) {
        self.0[reason as usize].increment(1);
    }
}

/// How the nodes' exchange goes, where there is one.
#[derive(Debug, Clone)]
pub(crate) struct RateMetrics {
    /// Exchanges done.
    pub(crate) exchanged: Counter,
    /// Times that it was out of reach.
    pub(crate) failed: Counter,
    /// How long one takes.
    pub(crate) seconds: Histogram,
}

/// The handles.
#[derive(Debug)]
pub(crate) struct EdgeMetrics {
    registry: Metrics,
    clock: Clock,
    requests: Vec<Counter>,
    request_seconds: Histogram,
    requests_in_flight: Gauge,
    connections: Vec<Counter>,
    handshake_failures: Vec<Counter>,
    /// See [`Limit::Address`].
    pub(crate) address_limited: Counter,
    /// See [`Limit::FailedAuthentication`].
    pub(crate) failures_limited: Counter,
    /// See [`RateMetrics`].
    pub(crate) rate: RateMetrics,
    /// Connections now open.
    pub(crate) connections_open: Gauge,
    /// Length of received bodies.
    pub(crate) body_bytes: Histogram,
    ack_seconds: Histogram,
    /// Records waiting for the brokers.
    pub(crate) queue_records: Gauge,
}

impl EdgeMetrics {
    /// Makes every handle, so that all series exist from the start.
    pub(crate) fn new(registry: &Metrics, clock: &Clock) -> Self {
        registry.scope(describe);
        registry.scope(|| Self {
            registry: registry.clone(),
            clock: clock.clone(),
            requests: Outcome::ALL
                .iter()
                .map(|outcome| counter!("ingest_requests_total", "outcome" => outcome.as_str()))
                .collect(),
            request_seconds: histogram!("ingest_request_seconds"),
            requests_in_flight: gauge!("ingest_requests_in_flight"),
            connections: ConnectionOutcome::ALL
                .iter()
                .map(|outcome| counter!("ingest_connections_total", "outcome" => outcome.as_str()))
                .collect(),
            handshake_failures: HandshakeFailure::ALL
                .iter()
                .map(|reason| counter!("ingest_handshake_failures_total", "reason" => reason.as_str()))
                .collect(),
            address_limited: limited(Limit::Address, ""),
            failures_limited: limited(Limit::FailedAuthentication, ""),
            rate: RateMetrics {
                exchanged: counter!("ingest_rate_exchanges_total", "outcome" => "done"),
                failed: counter!("ingest_rate_exchanges_total", "outcome" => "failed"),
                seconds: histogram!("ingest_rate_exchange_seconds"),
            },
            connections_open: gauge!("ingest_connections_open"),
            body_bytes: histogram!("ingest_body_bytes"),
            ack_seconds: histogram!("ingest_ack_seconds"),
            queue_records: gauge!("ingest_queue_records"),
        })
    }

    /// Counts signatures by one secret.
    pub(crate) fn verified(&self, source: &SourceId, secret: &KeyId) -> Counter {
        let (source, secret) = (source.to_string(), secret.to_string());
        self.registry.scope(|| counter!("ingest_verified_total", "source" => source, "secret" => secret))
    }

    /// What is counted for one path.
    pub(crate) fn path(&self, path: &str) -> PathMetrics {
        self.registry
            .scope(|| PathMetrics(VerificationFailure::ALL.iter().map(|reason| failure(path, "", *reason)).collect()))
    }

    /// What is counted for one source.
    pub(crate) fn source(&self, source: &SourceId, path: &str) -> SourceMetrics {
        let name = source.as_str();
        self.registry.scope(|| SourceMetrics {
            stale: failure(path, name, VerificationFailure::Stale),
            future: failure(path, name, VerificationFailure::Future),
            rate_limited: limited(Limit::Source, name),
            skew_seconds: histogram!("ingest_clock_skew_seconds", "source" => name.to_owned()),
        })
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshake_failures[reason as usize].increment(1);
    }

    /// Counts a connection that has ended.
    pub(crate) fn connection(&self, outcome: ConnectionOutcome) {
        self.connections[outcome as usize].increment(1);
    }

    /// Notes how long the brokers took, since a reading of the monotonic clock.
    pub(crate) fn acked(&self, since: Duration) {
        self.ack_seconds.record(self.clock.monotonic().saturating_sub(since));
    }

    /// Begins a request, which is counted when the tally is dropped, whatever becomes of it.
    pub(crate) fn begin(&self) -> Tally<'_> {
        self.requests_in_flight.increment(1);
        Tally { metrics: self, started: self.clock.monotonic(), outcome: Outcome::Abandoned }
    }
}

/// Describes every metric, with its unit.
fn describe() {
    let count = |name: &'static str, text: &'static str| describe_counter!(name, Unit::Count, text);
    let level = |name: &'static str, text: &'static str| describe_gauge!(name, Unit::Count, text);
    let time = |name: &'static str, text: &'static str| describe_histogram!(name, Unit::Seconds, text);
    count("ingest_requests_total", "requests whose head was read, by outcome");
    time("ingest_request_seconds", "from a request's head to its answer");
    level("ingest_requests_in_flight", "requests between head and answer");
    describe_histogram!("ingest_body_bytes", Unit::Bytes, "bodies that were received");
    time("ingest_ack_seconds", "from handing a record to the producer to the brokers' acknowledgement");
    level("ingest_queue_records", "records that wait for the brokers' acknowledgement");
    count("ingest_verified_total", "signatures that were right, by source and secret");
    count("ingest_connections_total", "connections accepted, by how they ended");
    level("ingest_connections_open", "connections open now");
    count("ingest_handshake_failures_total", "TLS handshakes that failed, by reason");
    count("ingest_verification_failures_total", "requests not verified, or refused for their time, by path and reason");
    time("ingest_clock_skew_seconds", "our clock less the time that was signed");
    count("ingest_rate_limited_total", "requests told 429, by limit");
    count("ingest_rate_exchanges_total", "exchanges of counts with other nodes, by outcome");
    time("ingest_rate_exchange_seconds", "from a report to Redis to its answer");
}

fn failure(path: &str, source: &str, reason: VerificationFailure) -> Counter {
    let (path, source) = (path.to_owned(), source.to_owned());
    counter!("ingest_verification_failures_total", "path" => path, "source" => source, "reason" => reason.as_str())
}

fn limited(limit: Limit, source: &str) -> Counter {
    counter!("ingest_rate_limited_total", "limit" => limit.as_str(), "source" => source.to_owned())
}

/// A request that has not been counted yet.
#[must_use = "dropping it counts the request as abandoned"]
pub(crate) struct Tally<'a> {
    metrics: &'a EdgeMetrics,
    started: Duration,
    outcome: Outcome,
}

impl Tally<'_> {
    /// Counts the request.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        metrics.requests[self.outcome as usize].increment(1);
        metrics.request_seconds.record(metrics.clock.monotonic().saturating_sub(self.started));
        metrics.requests_in_flight.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once_however_it_ends() {
        let registry = Metrics::isolated();
        let (clock, hand) = Clock::manual(0);
        let metrics = EdgeMetrics::new(&registry, &clock);
        let value = |outcome: &str| registry.value("ingest_requests_total", &[("outcome", outcome)]);
        let tally = metrics.begin();
        assert_eq!(registry.value("ingest_requests_in_flight", &[]), 1.0);
        hand.advance(Duration::from_millis(250));
        tally.end(Outcome::Received);
        drop(metrics.begin());
        assert_eq!((value("received"), value("abandoned")), (1.0, 1.0));
        assert_eq!(registry.value("ingest_requests_total", &[]), 2.0);
        assert_eq!(registry.value("ingest_requests_in_flight", &[]), 0.0);
        assert_eq!(registry.value("ingest_request_seconds_sum", &[]), 0.25);
    }

    #[test]
    fn labels_are_distinct_and_exist_from_the_start() {
        let registry = Metrics::isolated();
        let _metrics = EdgeMetrics::new(&registry, &Clock::system());
        let shown = registry.render();
        for outcome in Outcome::ALL {
            let series = format!("ingest_requests_total{{outcome=\"{}\"}} 0", outcome.as_str());
            assert_eq!(shown.matches(&series).count(), 1, "{series}");
        }
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }
}
