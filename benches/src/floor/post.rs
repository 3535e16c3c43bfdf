//! A client of hyper that posts the same bodies as the deliverer, on as many connections, each request after the answer before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use bytes::Bytes;
use common::shutdown::Group;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Stopwatch, Took};

/// What it is told.
pub struct Post {
    /// Who receives, by HTTP without TLS.
    pub receiver: SocketAddr,
    /// How many bodies.
    pub records: u64,
    /// How large each is.
    pub body_bytes: usize,
    /// How many connections.
    pub connections: usize,
}

impl Post {
    /// Posts them all.
    pub async fn run(self) -> Result<Took> {
        let body = Bytes::from(vec![b'x'; self.body_bytes]);
        let next = Arc::new(AtomicU64::new(0));
        let group = Group::new();
        let mut links = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(self.receiver).await?;
            stream.set_nodelay(true)?;
            let (link, connection) = http1::handshake(TokioIo::new(stream)).await?;
            group.spawn("connection", async move { drop(connection.await) });
            links.push(link);
        }
        let begun = Stopwatch::start(std::process::id())?;
        let post = Arc::new(self);
        let work = |link| post.clone().work(link, body.clone(), next.clone());
        let workers: Vec<_> = links.into_iter().map(|link| group.spawn("client", work(link))).collect();
        for worker in workers {
            worker.await??;
        }
        begun.took()
    }

    async fn work(
        self: Arc<Self>,
        mut link: http1::SendRequest<Full<Bytes>>,
        body: Bytes,
        next: Arc<AtomicU64>,
    ) -> Result<()> {
        while next.fetch_add(1, Ordering::Relaxed) < self.records {
            let request = Request::post("/hook")
                .header(HOST, self.receiver.to_string())
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))?;
            link.ready().await?;
            let answer = link.send_request(request).await?;
            ensure!(answer.status().is_success(), "the sink answered {}", answer.status());
            answer.into_body().collect().await?;
        }
        Ok(())
    }
}
