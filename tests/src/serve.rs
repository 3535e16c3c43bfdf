//! An HTTP/1.1 server on a listener, for whatever answers its requests.

use std::error::Error;

use bytes::Bytes;
use common::shutdown::Group;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Answers every request until the group ends, each connection in a task of its own.
pub(crate) async fn serve<F, A, E>(group: Group, listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    let token = group.token();
    while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
        // Small answers, measured in milliseconds.
        stream.set_nodelay(true).ok();
        let (answer, token) = (answer.clone(), token.clone());
        group.spawn("sink_connection", async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            // However it ends: a sender that was killed takes its connections with it.
            let _ended = token.run_until_cancelled(connection).await;
        });
    }
}
