//! The internal listener: metrics, liveness and readiness over plain HTTP.
//!
//! It is meant for the operator's network, never for the public one: it knows no authentication, and it shows no secret.
//! It keeps answering until its group is cancelled, also while the rest of the process drains.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::shutdown::Group;
use crate::telemetry::{Metrics, Sparing};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTION_COUNT_MAX: usize = 64;
/// How long a client may take over its request's head, also between requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How often histograms are folded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long accepting pauses after the kernel refused a connection, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that can't accept says so again and again.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));

/// Whether this process should get work: a set of named conditions, all of which must hold. Clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<RwLock<BTreeMap<&'static str, bool>>>);

impl Health {
    /// No condition yet, which counts as ready: name each one as false before the listener starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// States whether a condition holds now.
    pub fn set(&self, condition: &'static str, holds: bool) {
        let before = self.0.write().insert(condition, holds);
        if before.is_some_and(|before| before != holds) {
            tracing::info!(condition, holds, "readiness changed");
        }
    }

    /// Whether every condition holds.
    pub fn ready(&self) -> bool {
        self.0.read().values().all(|holds| *holds)
    }

    /// The conditions as a JSON object, for people.
    fn json(&self) -> String {
        let mut text = String::from("{");
        for (condition, holds) in self.0.read().iter() {
            let comma = if text.len() > 1 { "," } else { "" };
            // Condition names are literals of ours without characters that JSON escapes.
            write!(text, "{comma}\"{condition}\":{holds}").expect("writing to a string cannot fail");
        }
        text + "}\n"
    }
}

/// Serves `GET /metrics`, `/livez` and `/readyz` on `address` as tasks of `group`; returns the address that was bound.
pub async fn serve(group: &Group, address: SocketAddr, metrics: Metrics, health: Health) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    group.spawn("admin_upkeep", upkeep(group.clone(), metrics.clone()));
    group.spawn("admin", accept(group.clone(), listener, metrics, health));
    Ok(bound)
}

/// Folds histograms now and then, so that a process that nobody scrapes does not grow.
async fn upkeep(group: Group, metrics: Metrics) {
    let token = group.token();
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    while token.run_until_cancelled(interval.tick()).await.is_some() {
        metrics.upkeep();
    }
}

async fn accept(group: Group, listener: TcpListener, metrics: Metrics, health: Health) {
    let token = group.token();
    let permits = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        let next = token.run_until_cancelled(async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        });
        let Some((permit, accepted)) = next.await else { return };
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                if let Some(left_out) = REPEATS.pass("accept", Clock::system().monotonic()) {
                    tracing::warn!(%error, left_out, "cannot accept on the internal listener");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (metrics, health, token) = (metrics.clone(), health.clone(), token.clone());
        group.spawn("admin_connection", async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &metrics, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            // How a probe's connection ends says nothing that an operator needs; the group's end closes it.
            let _ended = token.run_until_cancelled(connection).await;
            drop(permit);
        });
    }
}

fn answer<B>(request: &Request<B>, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, metrics.render()),
        "/livez" => text(StatusCode::OK, "alive\n".into()),
        "/readyz" => {
            let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, health.json())
        }
        _ => text(StatusCode::NOT_FOUND, "served here: /metrics, /livez, /readyz\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn tells_metrics_life_and_readiness() {
        let (group, metrics, health) = (Group::new(), Metrics::isolated(), Health::new());
        metrics.scope(|| metrics::counter!("shown_total")).increment(3);
        health.set("kafka", false);
        health.set("tls", true);
        let address = serve(&group, "127.0.0.1:0".parse().unwrap(), metrics, health.clone()).await.unwrap();

        assert!(ask(address, "GET /metrics").await.contains("\nshown_total 3\n"));
        assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200 "));
        let unready = ask(address, "GET /readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503 "), "{unready}");
        assert!(unready.ends_with("\r\n\r\n{\"kafka\":false,\"tls\":true}\n"), "{unready}");
        health.set("kafka", true);
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(address, "GET /secrets").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));

        // An idle connection does not hold up the end.
        let _idle = tokio::net::TcpStream::connect(address).await.unwrap();
        group.cancel();
        assert!(group.wait(Duration::from_secs(10)).await);
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the listener is closed");
    }
}
