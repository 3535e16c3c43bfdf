//! A small receiver of what HTTP sinks send: the sample sink, and the demonstration's witness.
//!
//! It does what a receiver has to: it checks the Standard Webhooks signature over the exact bytes, refuses what is too old,
//! and remembers `webhook-id`s, so that an event that comes again is answered like the first time and applied once.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::clock::Clock;
use common::secret::Secret;
use common::shutdown::Group;
use common::standard_webhooks::{ID_HEADER, SIGNATURE_HEADER, SigningKey, TIMESTAMP_HEADER, sign};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How far a delivery's timestamp may be from our clock.
const TOLERANCE_S: u64 = 300;
/// Longest body: an event's, with room.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// For a head, a body, a handshake.
const DEADLINE: Duration = Duration::from_secs(15);
/// Ids that are remembered; the oldest are forgotten first.
const IDS_MAX: usize = 1_000_000;
/// How long accepting pauses after the kernel refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A delivery whose signature is right.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same for every delivery of an event.
    pub webhook_id: String,
    /// Whether this id was taken before: an event that comes again.
    pub repeat: bool,
    /// The body's media type.
    pub content_type: String,
    /// The event.
    pub body: Bytes,
}

/// What is said to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200: it is taken for good.
    Taken,
    /// 503: not now.
    NotNow,
}

/// Decides over each delivery, and applies it.
pub type Judge = Arc<dyn Fn(&Delivery) -> Answer + Send + Sync>;

/// See the module.
pub struct Receiver {
    key: SigningKey,
    clock: Clock,
    judge: Judge,
    ids: Mutex<Ids>,
}

/// The ids taken.
#[derive(Default)]
struct Ids {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Ids {
    fn insert(&mut self, id: &str) {
        let id: Arc<str> = id.into();
        if self.known.insert(id.clone()) {
            self.order.push_back(id);
            if self.order.len() > IDS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

/// Why a request is no delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotFound,
    NotPost,
    Unreadable,
    Unsigned,
    Stale,
    Forged,
}

impl Refusal {
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "POST deliveries here; GET /readyz\n"),
            Self::NotPost => (StatusCode::METHOD_NOT_ALLOWED, "deliveries are POSTed\n"),
            Self::Unreadable => (StatusCode::BAD_REQUEST, "the body is too long or broke off\n"),
            Self::Unsigned => {
                (StatusCode::UNAUTHORIZED, "webhook-id, webhook-timestamp and webhook-signature are needed\n")
            }
            Self::Stale => (StatusCode::UNAUTHORIZED, "webhook-timestamp is too far from our clock\n"),
            Self::Forged => (StatusCode::UNAUTHORIZED, "webhook-signature is wrong\n"),
        }
    }
}

impl Receiver {
    /// A receiver that knows no id yet.
    pub fn new(key: SigningKey, clock: Clock, judge: Judge) -> Arc<Self> {
        Arc::new(Self { key, clock, judge, ids: Mutex::default() })
    }

    /// Serves connections until the group is cancelled; with TLS if there is a configuration.
    pub fn serve(self: &Arc<Self>, group: &Group, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
        group.spawn("receiver", self.clone().accept(group.clone(), listener, tls.map(TlsAcceptor::from)));
    }

    async fn accept(self: Arc<Self>, group: Group, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let token = group.token();
        while let Some(accepted) = token.run_until_cancelled(listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without it a small answer waits for the sender's acknowledgement; with an error it only is slower.
            let _ = stream.set_nodelay(true);
            let (receiver, tls, token) = (self.clone(), tls.clone(), token.clone());
            group.spawn("receiver_connection", async move {
                let connection = async {
                    match tls {
                        None => receiver.connection(stream).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) = tokio::time::timeout(DEADLINE, tls.accept(stream)).await {
                                receiver.connection(stream).await;
                            }
                        }
                    }
                };
                // How a connection ends concerns its sender, who delivers again.
                let _ended = token.run_until_cancelled(connection).await;
            });
        }
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S) {
        let service = service_fn(move |request| {
            let receiver = self.clone();
            async move { Ok::<_, Infallible>(receiver.respond(request).await) }
        });
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(DEADLINE);
        builder.http2().timer(TokioTimer::new());
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(error, "connection");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match self.receive(request).await {
            Ok(Some(Answer::Taken)) => (StatusCode::OK, "taken\n"),
            Ok(Some(Answer::NotNow)) => (StatusCode::SERVICE_UNAVAILABLE, "not now\n"),
            Ok(None) => (StatusCode::OK, "ready\n"),
            Err(refusal) => refusal.answer(),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    }

    /// `None` for a health check.
    async fn receive(&self, request: Request<Incoming>) -> Result<Option<Answer>, Refusal> {
        if request.method() == Method::GET {
            return if matches!(request.uri().path(), "/readyz" | "/livez") {
                Ok(None)
            } else {
                Err(Refusal::NotFound)
            };
        }
        if request.method() != Method::POST {
            return Err(Refusal::NotPost);
        }
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(DEADLINE, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let body = body.map_err(|_| Refusal::Unreadable)?.map_err(|_| Refusal::Unreadable)?.to_bytes();
        let webhook_id = self.verify(&head.headers, &body)?.to_owned();
        let content_type = text(&head.headers, &CONTENT_TYPE).unwrap_or_default().to_owned();
        Ok(Some(self.take(webhook_id, content_type, body)))
    }

    /// Checks the signature; answers the id.
    fn verify<'a>(&self, headers: &'a HeaderMap, body: &[u8]) -> Result<&'a str, Refusal> {
        let header = |name| text(headers, name).ok_or(Refusal::Unsigned);
        let (id, timestamp, signatures) = (header(&ID_HEADER)?, header(&TIMESTAMP_HEADER)?, header(&SIGNATURE_HEADER)?);
        // Not canonical, it would be signed by nobody.
        let unix_s: u64 = timestamp.parse().map_err(|_| Refusal::Unsigned)?;
        if id.is_empty() || id.contains('.') || unix_s.to_string() != timestamp {
            return Err(Refusal::Unsigned);
        }
        if self.clock.unix_s().abs_diff(unix_s) > TOLERANCE_S {
            return Err(Refusal::Stale);
        }
        let expected = Secret::from(sign(&self.key, id, unix_s, body).into_bytes());
        let shown = |signature: &str| expected.is_same_as(&Secret::from(signature.as_bytes().to_vec()));
        // During a rotation a sender signs with both secrets.
        if signatures.split(' ').any(shown) { Ok(id) } else { Err(Refusal::Forged) }
    }

    fn take(&self, webhook_id: String, content_type: String, body: Bytes) -> Answer {
        // Held over the verdict: two deliveries of one id must not both be the first. A judge that panicked leaves no
        // half-made entry behind.
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let repeat = ids.known.contains(&*webhook_id);
        let delivery = Delivery { webhook_id, repeat, content_type, body };
        let answer = (self.judge)(&delivery);
        match answer {
            Answer::Taken => ids.insert(&delivery.webhook_id),
            Answer::NotNow => {}
        }
        answer
    }
}

/// A header that is there once, and text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

#[cfg(test)]
mod tests;
