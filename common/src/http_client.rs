//! The HTTPS client of the sender and of the HTTP sink: one bounded exchange at a time, on pooled connections.
//!
//! With pins, a server must have one of the pinned keys *and* a valid certificate.
//!
//! It knows nothing of retries and follows no redirect. The system's root certificates are trusted, with those that
//! the configuration adds; verification has no off switch. Plain HTTP is refused unless it was asked for. Proxy
//! variables of the environment are not read.

mod pinned;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::VerifierBuilderError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use crate::pin::Pin;
use crate::tls;

use pinned::{NotPinned, Pinned};

/// An idle connection is closed by us after this time: a little less than the 5 s after which common servers close
/// theirs, so that a request seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A silent HTTP/2 connection with requests on it is asked for a sign of life this often.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// An HTTP/2 connection that does not answer that within this time is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of an answer's body that is kept unless told otherwise: nobody needs more than an error's sentence.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// How often one request is handed to another connection because one that was ending had not taken it.
const MOVES_MAX: u32 = 5;

/// What a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schemes {
    /// `https://` only.
    HttpsOnly,
    /// `http://` too: for development, or where something else encrypts.
    HttpToo,
}

/// How a client is made.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What it may speak.
    pub schemes: Schemes,
    /// Certificates of authorities that are trusted besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The keys that a server may have; empty for any key with a valid certificate.
    pub pins: Vec<Pin>,
    /// Longest time for a TCP connection to come up. TLS counts towards the request's own timeout.
    pub connect_timeout: Duration,
    /// Longest part of an answer's body that is kept.
    pub answer_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            schemes: Schemes::HttpsOnly,
            extra_roots: Vec::new(),
            pins: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// Why no client was made. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A configured authority's certificate is not usable.
    #[error("an authority's certificate cannot be used")]
    Root(#[source] rustls::Error),
    /// Neither the system nor the configuration has a root certificate, and only HTTPS is allowed.
    #[error("no root certificates: install the system's (package ca-certificates) or configure a `ca`")]
    NoRoots,
    /// The trusted certificates can't be checked against. Ours.
    #[error("certificates cannot be verified")]
    Verifier(#[source] VerifierBuilderError),
    /// The crypto provider does not offer what we ask for. Ours.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Why an exchange brought no answer. The other side's fault, or the network's.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection: the request was not sent.
    #[error("no connection")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The server has a valid certificate for another key than the pinned ones: the request was not sent. It is not the
    /// one that was meant, or its key was changed before the pins were.
    #[error("the server's key is not pinned: it is {0}")]
    NotPinned(Pin),
    /// The connection broke. The request may have been received.
    #[error("the connection broke before an answer")]
    Broken(#[source] hyper_util::client::legacy::Error),
    /// No answer in time. The request may have been received.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// How a client with these options speaks TLS: whom it trusts. Reads the system's root certificates. It offers no protocol by
/// ALPN: that is up to whoever uses it.
pub fn tls_config(options: &ClientOptions) -> Result<ClientConfig, ClientError> {
    let roots = roots(options)?;
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&tls::VERSIONS)
        .map_err(ClientError::Tls)?;
    let config = if options.pins.is_empty() {
        config.with_root_certificates(roots)
    } else {
        let verifier = Pinned::new(roots, options.pins.clone()).map_err(ClientError::Verifier)?;
        config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    Ok(config.with_no_client_auth())
}

/// An HTTP client. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpsClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    answer_bytes_max: usize,
}

impl HttpsClient {
    /// Makes a client; reads the system's root certificates.
    pub fn new(options: &ClientOptions) -> Result<Self, ClientError> {
        let tls_config = tls_config(options)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));

        let builder = HttpsConnectorBuilder::new().with_tls_config(tls_config);
        let builder = match options.schemes {
            Schemes::HttpsOnly => builder.https_only(),
            Schemes::HttpToo => builder.https_or_http(),
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(builder.enable_all_versions().wrap_connector(tcp));
        Ok(Self { client, answer_bytes_max: options.answer_bytes_max })
    }

    /// Sends a request and waits for the answer, at most `timeout`.
    ///
    /// The status decides, so what happens after it is no error: of a body that is longer than is kept (16 KiB unless the
    /// options say otherwise), that breaks, or that is not there in time, the answer holds what had arrived.
    pub async fn exchange(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, CallError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let answer = tokio::time::timeout_at(deadline, self.request(request))
            .await
            .map_err(|_| CallError::Timeout(timeout))?
            .map_err(|error| match NotPinned::in_causes_of(&error) {
                Some(NotPinned(pin)) => CallError::NotPinned(pin),
                None if error.is_connect() => CallError::Connect(error),
                None => CallError::Broken(error),
            })?;
        let (head, body) = answer.into_parts();
        let mut kept = BytesMut::new();
        // Late or whole, the status stands.
        let _ = tokio::time::timeout_at(deadline, keep_start(body, &mut kept, self.answer_bytes_max)).await;
        Ok(Response::from_parts(head, kept.freeze()))
    }

    /// Sends a request, on another connection if the first one was just ending.
    async fn request(&self, request: Request<Bytes>) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut moves_left = MOVES_MAX;
        loop {
            match self.client.request(request.clone().map(Full::new)).await {
                Err(error) if moves_left > 0 && (was_not_taken(&error) || was_not_given(&error)) => moves_left -= 1,
                answer => return answer,
            }
        }
    }
}

/// Whether the other side said that it did not take a request: its HTTP/2 connection was ending (RFC 9113, 6.8), or it
/// refused the stream (8.7). Such a request may be sent again, whatever it does.
pub fn was_not_taken(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let ending = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (ending || refused);
        }
        cause = error.source();
    }
    false
}

/// Whether a request was never given to a connection: the one that the pool had for it ended first. The pool tries another one by
/// itself, but for a connection of which it learned only by ALPN that it speaks HTTP/2.
fn was_not_given(error: &hyper_util::client::legacy::Error) -> bool {
    // What a connection, TLS or the system says is an error of theirs. What has none of them is the pool's own.
    std::error::Error::source(error)
        .is_none_or(|cause| cause.source().is_none() && !cause.is::<hyper::Error>() && !cause.is::<std::io::Error>())
}

/// How long an answer asks us to wait, in either form of `Retry-After`. `None` if it does not say, or not legibly.
pub fn retry_after(headers: &HeaderMap, now_s: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // So many digits that they overflow mean "very long"; the caller has a cap.
        if text.is_empty() { return None } else { text.parse().unwrap_or(u64::MAX) }
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let since_1970 = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        since_1970.as_secs().saturating_sub(now_s)
    };
    Some(Duration::from_secs(seconds))
}

fn roots(options: &ClientOptions) -> Result<Arc<RootCertStore>, ClientError> {
    let mut roots = tls::system_roots();
    for certificate in &options.extra_roots {
        roots.add(certificate.clone()).map_err(ClientError::Root)?;
    }
    match options.schemes {
        Schemes::HttpsOnly if roots.is_empty() => Err(ClientError::NoRoots),
        Schemes::HttpsOnly | Schemes::HttpToo => Ok(Arc::new(roots)),
    }
}

async fn keep_start(mut body: Incoming, kept: &mut BytesMut, bytes_max: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let room = bytes_max - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
