//! Connections: accepting them within caps, TLS, and driving HTTP/1.1 or HTTP/2 as ALPN chose.
//!
//! What the HTTP library leaves open is closed here: a connection has a longest life, a longest idle time and a largest
//! number of requests, it ends in order when it is asked to, and by force when that takes too long.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::pin::Pin as KeyPin;
use common::shutdown::Group;
use common::telemetry::Sparing;
use common::tls::ALPN_H2;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{CertificateError, Error as TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::caps::{Caps, Entry, Slot};
use crate::config::Limits;
use crate::edge::Edge;
use crate::forwarded::trusts;
use crate::frames::Metered;
use crate::metrics::{ConnectionOutcome, HandshakeFailure};
use crate::network::Network;
use crate::proxy_protocol::{self, Header};
use crate::settings::Settings;
use crate::shares::Shares;
use crate::stage::raw::Client;

/// How long accepting pauses after the kernel refused a connection, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is said of a listener that can't accept.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));
/// How long, and how much, to go on reading where a sender may still be sending when we close, since an answer came before the
/// end of the body or because HTTP/2 sends both ways at any time: closing at once would reset the connection and take the
/// answers away from the sender.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long, and how much, an HTTP/1 connection reads on for its next request, when an answer came before the end of the body.
const REST_DEADLINE: Duration = Duration::from_millis(500);
const REST_BYTES_MAX: u64 = 64 * 1024;
/// HTTP/2 windows: what may be under way on a stream, and on a connection, before it is read. Large enough for 2.5 MB/s at a
/// round trip of 100 ms, and small, since every connection could fill its own.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// The largest HTTP/2 frame that is read.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What a TLS connection keeps: a record coming, its plaintext, records going.
const TLS_BYTES: u64 = 64 * 1024;
/// What the HTTP libraries keep for a connection beside what it sends, and for an HTTP/2 stream.
const CONNECTION_BYTES: u64 = 32 * 1024;
const STREAM_BYTES: u64 = 4 * 1024;
/// An HTTP/2 connection whose peer does not answer a ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// HTTP/2 frames that a request explains, above those that a connection may send anyhow: HEADERS, CONTINUATION, RST_STREAM,
/// WINDOW_UPDATE, and pings that measure its way.
const FRAMES_PER_REQUEST: u64 = 32;
/// How long a goodbye and answers that are written already may take to leave a connection that is flooded.
const FLOODED_DEADLINE: Duration = Duration::from_secs(1);

/// What one connection takes at most, beside the bodies of requests that are under way: as much as an HTTP/2 connection that
/// fills everything that it may. One of HTTP/1.1 has a buffer for one head instead.
pub(crate) fn connection_bytes_max(limits: &Limits) -> u64 {
    // A head that is not whole yet, as it came and as it was read.
    let heads = 2 * head_list_bytes_max(limits);
    let streams = u64::from(limits.streams_per_connection_max) * STREAM_BYTES;
    TLS_BYTES + CONNECTION_BYTES + u64::from(CONNECTION_WINDOW_BYTES) + 2 * u64::from(FRAME_BYTES_MAX) + heads + streams
}

/// The longest HTTP/2 head that the library reads: twice the limit, so that what lies between is refused, and counted, by us.
/// Beyond it, the library answers 431 by itself.
fn head_list_bytes_max(limits: &Limits) -> u64 {
    2 * limits.head_bytes_max.as_u64()
}

/// What all connections share.
pub(crate) struct Server {
    edge: Arc<Edge>,
    caps: Caps,
    shares: Shares,
    /// Owns the connections' tasks. Its token asks them to end in order.
    group: Group,
    /// Ends those that did not.
    abort: CancellationToken,
}

impl Server {
    /// A server that does not listen yet.
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        let caps = Caps::new(&edge.settings().limits);
        let shares = Shares::new(edge.settings().limits.handshakes_max);
        Self { edge, caps, shares, group: Group::new(), abort: CancellationToken::new() }
    }

    /// Lets this take effect, for the edge too: for handshakes and connections that begin from now on.
    pub(crate) fn apply(&self, settings: Settings) {
        self.caps.apply(&self.edge.settings().limits, &settings.limits, &self.group);
        self.shares.resize(settings.limits.handshakes_max);
        self.edge.apply(settings, &self.group);
    }

    /// Accepts connections until the token is cancelled.
    pub(crate) async fn listen(self: Arc<Self>, listener: TcpListener, until: CancellationToken) {
        while let Some(accepted) = until.run_until_cancelled(listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                // Gone before it was accepted: its own affair.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {
                    continue;
                }
                Err(error) => {
                    if let Some(left_out) = REPEATS.pass("accept", self.edge.clock.monotonic()) {
                        tracing::warn!(%error, left_out, "cannot accept");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.arrival(address.ip()) {
                Ok(arrival) => {
                    let server = self.clone();
                    self.group.spawn("connection", async move { server.connection(stream, address, arrival).await });
                }
                // Dropping the stream closes it: an answer would need the handshake that the cap is there to save.
                Err(outcome) => self.edge.metrics.connection(outcome),
            }
        }
    }

    /// Asks every connection to end in order, and ends by force those that have not after `deadline`.
    pub(crate) async fn close(&self, deadline: Duration) {
        self.group.cancel();
        if !self.group.wait(deadline).await {
            self.abort.cancel();
            self.group.wait(deadline).await;
        }
    }

    /// A place for a connection from `peer`.
    fn arrival(&self, peer: IpAddr) -> Result<Arrival, ConnectionOutcome> {
        let entry = self.caps.enter()?;
        if trusts(&self.edge.settings().proxies, peer) {
            Ok(Arrival::Proxied(entry))
        } else {
            self.caps.settle(entry, peer.into()).map(Arrival::Direct)
        }
    }

    /// Serves one connection to its end, and counts it.
    async fn connection(&self, stream: TcpStream, address: SocketAddr, arrival: Arrival) {
        let metrics = &self.edge.metrics;
        metrics.connections_open.increment(1);
        let settings = self.edge.settings();
        let outcome = match self.handshake(stream, address.ip(), arrival, &settings).await {
            Ok((stream, connected)) => {
                let client = Client::new(connected.address, client_key(&stream));
                let life = Arc::new(Life::new(client, self.group.token().child_token()));
                match stream.get_ref().1.alpn_protocol() {
                    Some(protocol) if protocol == ALPN_H2 => self.http2(stream, &life, &settings.limits).await,
                    Some(_) | None => self.http1(stream, &life, &settings.limits).await,
                }
            }
            Err(outcome) => outcome,
        };
        tracing::debug!(%address, outcome = outcome.as_str(), "connection ended");
        metrics.connection(outcome);
        metrics.connections_open.decrement(1);
    }

    /// Everything that comes before HTTP, under one deadline.
    async fn handshake(
        &self,
        mut stream: TcpStream,
        peer: IpAddr,
        arrival: Arrival,
        settings: &Settings,
    ) -> Result<(TlsStream<TcpStream>, Connected), ConnectionOutcome> {
        let handshake = async {
            stream.set_nodelay(true).map_err(|error| self.failed(&error))?;
            let connected = self.connected(&mut stream, peer, arrival).await?;
            // What has said nothing yet keeps nobody waiting.
            let _share = self.shares.take(connected.address.into()).await;
            let _permit = self.caps.handshake().await;
            // What is in effect now: it may have waited for the permit.
            let accepted = TlsAcceptor::from(self.edge.settings().tls.clone()).accept(stream).await;
            accepted.map(|stream| (stream, connected)).map_err(|error| self.failed(&error))
        };
        let handshake = timeout(settings.limits.handshake_deadline, handshake);
        match self.abort.run_until_cancelled(handshake).await {
            Some(Ok(shaken)) => shaken,
            Some(Err(_elapsed)) => Err(ConnectionOutcome::HandshakeTimeout),
            None => Err(ConnectionOutcome::Aborted),
        }
    }

    /// Whom a connection is for: the peer, or whom a trusted balancer names.
    async fn connected(
        &self,
        stream: &mut TcpStream,
        peer: IpAddr,
        arrival: Arrival,
    ) -> Result<Connected, ConnectionOutcome> {
        match arrival {
            Arrival::Direct(slot) => match proxy_protocol::is_announced(stream).await {
                Ok(false) => Ok(Connected { address: peer, _slot: slot }),
                Ok(true) => Err(ConnectionOutcome::ProxyHeaderRefused),
                Err(error) => Err(self.failed(&error)),
            },
            Arrival::Proxied(entry) => {
                let address = match proxy_protocol::read(stream).await {
                    Ok(Header::Client(address)) => address,
                    Ok(Header::Local) => peer,
                    Err(error) if error.kind() == ErrorKind::InvalidData => {
                        return Err(ConnectionOutcome::ProxyHeaderInvalid);
                    }
                    // Balancers look whether we listen, and go.
                    Err(error) => return Err(self.failed(&error)),
                };
                let slot = self.caps.settle(entry, Network::from(address))?;
                Ok(Connected { address, _slot: slot })
            }
        }
    }

    /// How a handshake that failed is counted. What no outcome says is counted by its reason too.
    fn failed(&self, error: &std::io::Error) -> ConnectionOutcome {
        let outcome = handshake_outcome(error);
        if outcome == ConnectionOutcome::HandshakeFailed {
            self.edge.metrics.handshake_failed(HandshakeFailure::of(error));
        }
        outcome
    }

    async fn http1(&self, stream: TlsStream<TcpStream>, life: &Arc<Life>, limits: &Limits) -> ConnectionOutcome {
        let head_bytes_max = limits.head_bytes_max.as_usize();
        let (edge, service_life) = (self.edge.clone(), life.clone());
        let service = service_fn(move |request| Box::pin(respond(edge.clone(), service_life.clone(), request)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_deadline)
            .max_headers(limits.header_count_max)
            .max_header_size(head_bytes_max)
            // The buffer holds a head and the beginning of its body; 8 KiB is the least that the library takes.
            .max_buf_size(head_bytes_max + 8 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let outcome = self
            .drive(life, limits, std::future::pending(), |context, end| {
                if end {
                    Pin::new(&mut connection).graceful_shutdown();
                }
                connection.poll_without_shutdown(context)
            })
            .await;
        let unread = match outcome {
            ConnectionOutcome::MalformedHead | ConnectionOutcome::HeadTooLarge => true,
            ConnectionOutcome::Ended => life.unread.load(Ordering::Relaxed),
            _ => return outcome,
        };
        linger(connection.into_parts().io.into_inner(), unread).await;
        outcome
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, life: &Arc<Life>, limits: &Limits) -> ConnectionOutcome {
        let (edge, service_life) = (self.edge.clone(), life.clone());
        let service = service_fn(move |request| respond(edge.clone(), service_life.clone(), request));
        let (frames_max, metered_life) = (limits.frames_without_request_max, life.clone());
        let mut stream = Metered::new(stream, move |count| metered_life.bears(count, frames_max));
        let connection = http2::Builder::new(Executor(self.group.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(head_list_bytes_max(limits)).unwrap_or(u32::MAX))
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(limits.streams_per_connection_max)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_DEADLINE)
            .serve_connection(TokioIo::new(&mut stream), service);
        let outcome = {
            let mut connection = pin!(connection);
            self.drive(life, limits, life.idle(limits.head_deadline), |context, end| {
                if end {
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(context)
            })
            .await
        };
        if matches!(outcome, ConnectionOutcome::Ended) {
            // Until the client has closed its side too, it may send, not having read yet that this is the end.
            linger(stream.into_inner(), true).await;
        }
        outcome
    }

    /// Polls a connection to its end. Asks it once to end in order (by polling with `true`): when it is idle, old, at its
    /// last request, or when the server closes.
    async fn drive(
        &self,
        life: &Life,
        limits: &Limits,
        idle: impl Future<Output = ()> + Send,
        mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
    ) -> ConnectionOutcome {
        let asked = async {
            tokio::select! {
                () = life.over.cancelled() => {}
                () = sleep(limits.connection_age_max) => {}
                () = idle => {}
            }
            End::Asked
        };
        let aborted = async {
            self.abort.cancelled().await;
            End::Forced
        };
        // Each is polled when it was woken, not with every request: they share locks with all other connections.
        let mut ends: FuturesUnordered<BoxFuture<'_, End>> = FuturesUnordered::new();
        ends.push(Box::pin(asked));
        ends.push(Box::pin(aborted));
        poll_fn(|context| {
            let (mut is_asked, mut is_forced) = (false, false);
            while let Poll::Ready(Some(end)) = ends.poll_next_unpin(context) {
                match end {
                    End::Forced => is_forced = true,
                    End::Asked => {
                        is_asked = true;
                        // As long as a request may take whose head is coming just now, or that has just begun.
                        let request = limits.body_deadline + self.edge.publisher.ack_deadline();
                        let longest = if life.is_quiet() { Duration::ZERO } else { request };
                        let longest = if life.is_flooded() { FLOODED_DEADLINE } else { limits.head_deadline + longest };
                        ends.push(Box::pin(async move {
                            sleep(longest).await;
                            End::Forced
                        }));
                    }
                }
            }
            if let Poll::Ready(result) = poll(context, is_asked) {
                return Poll::Ready(result.map_or_else(|error| life.outcome(&error), |()| ConnectionOutcome::Ended));
            }
            if is_forced {
                let flooded = life.is_flooded();
                return Poll::Ready(if flooded { ConnectionOutcome::Flooded } else { ConnectionOutcome::Aborted });
            }
            Poll::Pending
        })
        .await
    }
}

/// How a connection is made to end.
enum End {
    /// In order.
    Asked,
    /// At once.
    Forced,
}

/// A connection that was accepted.
enum Arrival {
    /// From its own address.
    Direct(Slot),
    /// From a trusted balancer, which has yet to say for whom.
    Proxied(Entry),
}

/// Whom a connection is for, and its place, which it gives back when it is dropped.
struct Connected {
    address: IpAddr,
    _slot: Slot,
}

/// The key of the client's certificate, also where a session was resumed. One that can't be read is no key.
fn client_key(stream: &TlsStream<TcpStream>) -> Option<KeyPin> {
    stream.get_ref().1.peer_certificates()?.first().and_then(|certificate| KeyPin::of(certificate).ok())
}

/// The connection's outcome.
fn handshake_outcome(error: &std::io::Error) -> ConnectionOutcome {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(TlsError::NoCertificatesPresented) => ConnectionOutcome::ClientCertificateMissing,
        // Only a client's certificate is ever checked here.
        Some(TlsError::InvalidCertificate(why)) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => ConnectionOutcome::ClientCertificateExpired,
            CertificateError::Revoked => ConnectionOutcome::ClientCertificateRevoked,
            _ => ConnectionOutcome::ClientCertificateUntrusted,
        },
        Some(_) | None => ConnectionOutcome::HandshakeFailed,
    }
}

/// What the requests of one connection share.
struct Life {
    client: Client,
    /// Cancelled when the connection is to end in order.
    over: CancellationToken,
    begun: AtomicU64,
    ended: AtomicU64,
    flooded: AtomicBool,
    /// Whether a part of the latest body was left unread: then closing must not cut off our answer.
    unread: AtomicBool,
}

impl Life {
    fn new(client: Client, over: CancellationToken) -> Self {
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { client, over, begun, ended, flooded: AtomicBool::new(false), unread: AtomicBool::new(false) }
    }

    /// Whether a connection may have sent so many frames. If not, it is over.
    fn bears(&self, frames: u64, frames_max: u64) -> bool {
        let requests = self.begun.load(Ordering::Relaxed);
        let bears = frames <= frames_max.saturating_add(requests.saturating_mul(FRAMES_PER_REQUEST));
        if !bears {
            self.flooded.store(true, Ordering::Relaxed);
            self.over.cancel();
        }
        bears
    }

    /// Whether the connection is over because of its frames.
    fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Whether no request is under way.
    fn is_quiet(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
    }

    /// How a connection that ended with an error is counted.
    fn outcome(&self, error: &hyper::Error) -> ConnectionOutcome {
        if error.is_timeout() {
            ConnectionOutcome::HeadTimeout
        } else if error.is_parse_too_large() {
            ConnectionOutcome::HeadTooLarge
        } else if error.is_parse() {
            ConnectionOutcome::MalformedHead
        } else if self.is_flooded() || is_flood(error) {
            ConnectionOutcome::Flooded
        } else if is_transport(error) && self.is_quiet() {
            // Many clients just leave, without telling TLS.
            ConnectionOutcome::Ended
        } else {
            ConnectionOutcome::Broken
        }
    }

    /// Ends when for a whole `interval` there was no request. HTTP/1.1 has this in its head deadline.
    async fn idle(&self, interval: Duration) {
        loop {
            let ended = self.ended.load(Ordering::Relaxed);
            sleep(interval).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == ended {
                return;
            }
        }
    }
}

/// Answers one request, and ends its connection when that is due.
///
/// Its head is checked before anything is waited for, so that what waits is small: there is one for each connection.
fn respond(
    edge: Arc<Edge>,
    life: Arc<Life>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> {
    let is_http1 = request.version() < Version::HTTP_2;
    let waits = request.headers().contains_key(EXPECT);
    let (head, mut body) = request.into_parts();
    let checked = edge.begin(head, body.size_hint().lower(), &life.client);
    let asks = checked.asks_for_body();
    async move {
        let begun = life.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let _ended = Ended(&life.ended);
        let mut reply = edge.serve(checked, &mut body).await;
        let last = reply.closes || begun >= edge.in_effect().limits.requests_per_connection_max;
        // What is left of a stream of HTTP/2 is in nobody's way.
        let read = !is_http1
            || if asks && last {
                read_over(&mut body).now_or_never().unwrap_or(false)
            } else if !asks && (last || waits) {
                // A sender that waits for our word does not send the body that was refused, and asking would be that word.
                body.is_end_stream()
            } else {
                read_over(&mut body).await
            };
        life.unread.store(!read, Ordering::Relaxed);
        if last || !read {
            life.over.cancel();
            // HTTP/2 says it with a frame of its own.
            if is_http1 {
                reply.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Ok(reply.response)
    }
}

/// Reads over what is left of a body, so that the next request can follow it. False when that would take too much: then the
/// connection has to end, and the sender has to be told so.
async fn read_over(body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > REST_BYTES_MAX {
        return false;
    }
    let reading = async {
        let mut left = REST_BYTES_MAX;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let count = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    timeout(REST_DEADLINE, reading).await.unwrap_or(false)
}

/// Whether it was the transport that failed, rather than the protocol on it.
fn is_transport(error: &hyper::Error) -> bool {
    causes(error)
        .any(|cause| cause.is::<std::io::Error>() || cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_io))
}

/// Whether the HTTP library ended it because there was too much of something.
fn is_flood(error: &hyper::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|error| error.is_library() && error.is_go_away() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// What is behind an error, from the outside in.
fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// Counts a request's end, also when its sender went away.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs HTTP/2 streams as tasks of the connections' group.
#[derive(Clone)]
struct Executor(Group);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2_stream", future);
    }
}

/// Closes our side, and reads on for a while if something may be unread: the sender gets our answer first.
async fn linger(mut stream: TlsStream<TcpStream>, unread: bool) {
    let closing = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        let mut left = if unread { LINGER_BYTES_MAX } else { 0 };
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // However it ends, the connection is closed by the drop that follows.
    let _closed = timeout(LINGER, closing).await;
}
