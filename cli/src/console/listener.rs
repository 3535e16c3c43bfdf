//! Connections, with or without TLS: HTTP/1.1, few at once, and none that dawdles.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::shutdown::Group;
use common::tls::ALPN_HTTP11;
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::site::Site;

/// Connections at once; more wait in the kernel's queue.
const CONNECTION_COUNT_MAX: usize = 64;
/// For a handshake, a head, a body.
const DEADLINE: Duration = Duration::from_secs(15);
/// Longest body of a request: a form, or a search.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long accepting pauses after the kernel refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the site until the group is cancelled.
pub(super) fn serve(group: &Group, listener: TcpListener, tls: Option<Arc<ServerConfig>>, site: Arc<Site>) {
    let tls = tls.map(|config| {
        let mut config = (*config).clone();
        config.alpn_protocols = vec![ALPN_HTTP11.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    group.spawn("console", accept(group.clone(), listener, tls, site));
}

async fn accept(group: Group, listener: TcpListener, tls: Option<TlsAcceptor>, site: Arc<Site>) {
    let token = group.token();
    let permits = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        let next = token.run_until_cancelled(async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        });
        let Some((permit, accepted)) = next.await else { return };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (site, tls, token) = (site.clone(), tls.clone(), token.clone());
        group.spawn("console_connection", async move {
            let connection = async {
                match tls {
                    None => serve_one(stream, peer, site).await,
                    Some(tls) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(DEADLINE, tls.accept(stream)).await {
                            serve_one(stream, peer, site).await;
                        }
                    }
                }
            };
            // How a browser's connection ends concerns nobody.
            let _ended = token.run_until_cancelled(connection).await;
            drop(permit);
        });
    }
}

async fn serve_one<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, peer: SocketAddr, site: Arc<Site>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let site = site.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = tokio::time::timeout(DEADLINE, Limited::new(body, BODY_BYTES_MAX).collect()).await;
            let body: Option<Bytes> = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
            Ok::<_, Infallible>(site.answer(peer.ip(), &head, body.as_deref()).await)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(DEADLINE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection");
    }
}
