//! Connections, and one exchange on one of them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use common::http_client::{ClientOptions, tls_config, was_not_taken};
use common::shutdown::Group;
use common::tls::{ALPN_H2, ALPN_HTTP11};
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sender::Signed;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;

use super::tally::Outcome;
use crate::sender_config::SenderConfig;

/// How often a request is handed to another connection because an ending one had not taken it.
const MOVES_MAX: u32 = 5;

/// The version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
pub(super) enum Version {
    /// HTTP/1.1: one request at a time on a connection.
    #[value(name = "1.1")]
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2.
    #[value(name = "2")]
    #[serde(rename = "2")]
    Http2,
}

impl Version {
    /// As it is written.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        }
    }

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => ALPN_HTTP11,
            Self::Http2 => ALPN_H2,
        }
    }
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection broke before an answer")]
    Broken(#[source] hyper::Error),
}

impl Failure {
    /// How it is counted.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) => Outcome::NoConnection,
            Self::Broken(_) => Outcome::Broken,
        }
    }
}

/// Who receives. Clones are the same.
#[derive(Clone)]
pub(super) struct Target(Arc<Receiver>);

struct Receiver {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    version: Version,
    connect_timeout: Duration,
    uri: Uri,
    host: HeaderValue,
}

impl Target {
    /// Looks the receiver's addresses up, once for the whole load.
    pub(super) fn new(config: &SenderConfig, version: Version, resumes: bool) -> Result<Self> {
        let url: Uri = config.url.parse().with_context(|| format!("the URL {:?}", config.url))?;
        let host = url.host().context("the URL has no host")?.trim_start_matches('[').trim_end_matches(']');
        let encrypts = url.scheme() != Some(&Scheme::HTTP);
        let port = url.port_u16().unwrap_or(if encrypts { 443 } else { 80 });
        let found = (host, port).to_socket_addrs().with_context(|| format!("looking {host} up"))?;
        let options = config.client_options()?;
        let tls = if encrypts { Some(connector(&options, host, version, resumes)?) } else { None };
        let authority = url.authority().context("the URL has no host")?.as_str();
        let authority = HeaderValue::from_str(authority).context("the URL's host is no header's text")?;
        // HTTP/1.1 names the path only, HTTP/2 all of it.
        let path = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = if version == Version::Http1 { path.into() } else { url.clone() };
        Ok(Self(Arc::new(Receiver {
            addresses: found.collect(),
            tls,
            version,
            connect_timeout: options.connect_timeout,
            uri,
            host: authority,
        })))
    }

    /// The HTTP request of a signed event.
    pub(super) fn request(&self, signed: Signed) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.0.uri.clone()).body(Full::new(signed.body)).expect("the URL was checked");
        *request.headers_mut() = signed.headers;
        if self.0.version == Version::Http1 {
            request.headers_mut().insert(HOST, self.0.host.clone());
        }
        request
    }

    async fn connect(&self, group: &Group) -> Result<Link, Failure> {
        let timeout = self.0.connect_timeout;
        match tokio::time::timeout(timeout, self.open(group)).await {
            Ok(opened) => opened.map_err(|error| Failure::Connect(format!("{error:#}"))),
            Err(_elapsed) => Err(Failure::Connect(format!("it was not there within {timeout:?}"))),
        }
    }

    async fn open(&self, group: &Group) -> Result<Link> {
        let Receiver { addresses, tls, version, .. } = &*self.0;
        let stream = TcpStream::connect(&addresses[..]).await?;
        stream.set_nodelay(true)?;
        let Some((connector, name)) = tls else { return handshake(*version, stream, group).await };
        let stream = connector.connect(name.clone(), stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        anyhow::ensure!(
            chosen == Some(version.alpn()) || chosen.is_none() && *version == Version::Http1,
            "the receiver does not speak HTTP/{}",
            version.as_str()
        );
        handshake(*version, stream, group).await
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.0.uri)
    }
}

fn connector(
    options: &ClientOptions,
    host: &str,
    version: Version,
    resumes: bool,
) -> Result<(TlsConnector, ServerName<'static>)> {
    let mut config = tls_config(options)?;
    config.alpn_protocols = vec![version.alpn().to_vec()];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("the host {host:?}"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

async fn handshake<S>(version: Version, stream: S, group: &Group) -> Result<Link>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    // However it ends: the request that was on it is told.
    Ok(match version {
        Version::Http1 => {
            let (link, connection) = http1::handshake(stream).await?;
            group.spawn("load_connection", async move { drop(connection.await) });
            Link::Http1(link)
        }
        Version::Http2 => {
            let (link, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            group.spawn("load_connection", async move { drop(connection.await) });
            Link::Http2(link)
        }
    })
}

/// A connection's sending end.
enum Link {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Link {
    /// Waits until it takes a request. Not if it has ended.
    async fn ready(&mut self) -> bool {
        let ready = match self {
            Self::Http1(link) => link.ready().await,
            Self::Http2(link) => link.ready().await,
        };
        ready.is_ok()
    }

    #[allow(clippy::result_large_err, reason = "the library's own error, which gives the request back")]
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Self::Http1(link) => link.try_send_request(request).await,
            Self::Http2(link) => link.try_send_request(request).await,
        }
    }
}

/// The place of one connection, which is made anew when it has ended. One worker at a time uses one of HTTP/1.1, several share
/// one of HTTP/2.
pub(super) struct Slot {
    target: Target,
    group: Group,
    /// A connection is used for more than one request.
    keeps: bool,
    kept: Mutex<Option<(u64, Link)>>,
    made: AtomicU64,
    moves: AtomicU64,
}

impl Slot {
    /// An empty one.
    pub(super) fn new(target: Target, group: Group, keeps: bool) -> Self {
        Self { target, group, keeps, kept: Mutex::default(), made: AtomicU64::new(0), moves: AtomicU64::new(0) }
    }

    /// Makes a connection ahead of the first request, if it can be made.
    pub(super) async fn prepare(&self) {
        if self.keeps
            && let Ok(made) = self.make().await
        {
            *self.kept.lock().await = Some(made);
        }
    }

    /// How many connections were made since this was asked last, and how many requests another one had to take.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.swap(0, Ordering::Relaxed), self.moves.swap(0, Ordering::Relaxed))
    }

    /// Sends a request once, and waits for the end of the answer. A connection that says that it did not take the request
    /// because it was ending is followed by another.
    pub(super) async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<StatusCode, Failure> {
        let mut moves_left = MOVES_MAX;
        loop {
            let (number, mut link) = self.take().await?;
            let again = matches!(link, Link::Http2(_)).then(|| request.clone());
            let mut error = match link.send(request).await {
                Ok(response) => {
                    let (head, mut body) = response.into_parts();
                    // The status decides; a connection whose answer breaks off is not used again.
                    while let Some(frame) = body.frame().await {
                        if frame.is_err() {
                            return Ok(head.status);
                        }
                    }
                    self.put_back(number, link).await;
                    return Ok(head.status);
                }
                Err(error) => error,
            };
            self.forget(number).await;
            let untaken = error.take_message().or_else(|| again.filter(|_| was_not_taken(error.error())));
            match untaken {
                Some(untaken) if moves_left > 0 => {
                    moves_left -= 1;
                    self.moves.fetch_add(1, Ordering::Relaxed);
                    request = untaken;
                }
                _ => return Err(Failure::Broken(error.into_error())),
            }
        }
    }

    /// A connection that takes a request, made if there is none.
    async fn take(&self) -> Result<(u64, Link), Failure> {
        if !self.keeps {
            return self.make().await;
        }
        // Held while one is made: the others wait for it.
        let mut kept = self.kept.lock().await;
        let usable = match kept.take() {
            Some((number, mut link)) => link.ready().await.then_some((number, link)),
            None => None,
        };
        let (number, link) = match usable {
            Some(kept) => kept,
            None => self.make().await?,
        };
        if let Link::Http2(link) = &link {
            *kept = Some((number, Link::Http2(link.clone())));
        }
        Ok((number, link))
    }

    async fn make(&self) -> Result<(u64, Link), Failure> {
        let mut link = self.target.connect(&self.group).await?;
        if !link.ready().await {
            return Err(Failure::Connect("it ended at once".to_owned()));
        }
        Ok((self.made.fetch_add(1, Ordering::Relaxed), link))
    }

    /// For the next request.
    async fn put_back(&self, number: u64, link: Link) {
        if self.keeps && matches!(link, Link::Http1(_)) {
            *self.kept.lock().await = Some((number, link));
        }
    }

    /// A connection that has failed is used by nobody any more.
    async fn forget(&self, number: u64) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|(kept, _)| *kept == number) {
            *kept = None;
        }
    }
}
