//! A server of hyper, and of rustls where it has a certificate: it reads the body of each request and answers 200. With a topic
//! it publishes the body meanwhile, with the settings of ingest's producer, and waits for the acknowledgement.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use common::shutdown::Group;
use common::tls::{ALPN_H2, server_config};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rdkafka::client::ClientContext;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::producer;

/// What is answered, as ingest does.
const TAKEN: &[u8] = br#"{"status":"received"}"#;

/// What it is told.
pub struct Serve {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate and key, PEM files; without, HTTP without TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The brokers and the topic that bodies are published to.
    pub publish: Option<(String, String)>,
    /// How long those wait for company, in microseconds.
    pub linger_us: u32,
}

struct Answering;

impl ClientContext for Answering {}

impl ProducerContext for Answering {
    type DeliveryOpaque = Box<oneshot::Sender<bool>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        // A request that is gone waits for nothing.
        let _ = answer.send(result.is_ok());
    }
}

type Publisher = Option<Arc<(ThreadedProducer<Answering>, String)>>;

impl Serve {
    /// Serves until the process is ended.
    pub async fn run(self) -> Result<()> {
        let publisher: Publisher = match self.publish {
            Some((bootstrap, topic)) => {
                Some(Arc::new((producer(&bootstrap, self.linger_us, false).create_with_context(Answering)?, topic)))
            }
            None => None,
        };
        let tls = match &self.tls {
            Some((certificate, key)) => Some(TlsAcceptor::from(server_config(certificate, key)?)),
            None => None,
        };
        let listener = TcpListener::bind(self.listen).await?;
        let group = Group::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // However a connection ends, the next one is as good.
            group.spawn("connection", connection(stream, tls.clone(), publisher.clone()));
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, publisher: Publisher) {
    let Some(tls) = tls else { return http1(stream, publisher).await };
    let Ok(stream) = tls.accept(stream).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(ALPN_H2) {
        let service = service_fn(move |request| answer(publisher.clone(), request));
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    } else {
        http1(stream, publisher).await;
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(stream: S, publisher: Publisher) {
    let service = service_fn(move |request| answer(publisher.clone(), request));
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(publisher: Publisher, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::from(TAKEN));
    if let Some(publisher) = publisher
        && !publish(&publisher.0, &publisher.1, &body).await
    {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

async fn publish(producer: &ThreadedProducer<Answering>, topic: &str, body: &[u8]) -> bool {
    let (sender, acknowledged) = oneshot::channel();
    let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(sender)).payload(body);
    producer.send(record).is_ok() && acknowledged.await.unwrap_or(false)
}
