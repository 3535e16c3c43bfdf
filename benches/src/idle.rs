//! What an idle connection keeps in a server's memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::config::ConfigPath;
use common::tls::{ALPN_HTTP11, client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::servers::{Contender, Servers, Shape};
use crate::usage::resident_mib;

/// Connections that are made at once.
const AT_ONCE: u16 = 64;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// What each asks before it is idle. Ingest has this path, a floor answers on any.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Bytes of RSS for each of so many TLS connections that have had an answer and ask nothing any more.
pub async fn idle_bytes(servers: &mut Servers<'_>, contender: Contender, count: u16) -> Result<f64> {
    let shape = Shape { connections: count, ..Shape::default() };
    let server = servers.start(contender, &shape).await?;
    let mut connector = client_config(&ConfigPath::new(servers.authority()))?.as_ref().clone();
    connector.alpn_protocols = vec![ALPN_HTTP11.to_vec()];
    let connector = TlsConnector::from(Arc::new(connector));
    // The first ones pay for what all others share.
    let mut open = connect(&connector, server.listens, AT_ONCE).await?;
    let before = resident_mib(server.process.id())?;
    let mut left = count.saturating_sub(AT_ONCE);
    while left > 0 {
        let next = left.min(AT_ONCE);
        open.extend(connect(&connector, server.listens, next).await?);
        left -= next;
    }
    let after = resident_mib(server.process.id())?;
    ensure!(open.len() == usize::from(count), "only {} connections are open", open.len());
    let held = f64::from(count.saturating_sub(AT_ONCE));
    drop(open);
    servers.end(server).await?;
    Ok((after - before) * 1024.0 * 1024.0 / held)
}

async fn connect(connector: &TlsConnector, to: SocketAddr, count: u16) -> Result<Vec<TlsStream<TcpStream>>> {
    let mut connecting = JoinSet::new();
    for _ in 0..count {
        let connector = connector.clone();
        connecting.spawn(tokio::time::timeout(DEADLINE, answered(connector, to)));
    }
    let mut open = Vec::new();
    while let Some(connected) = connecting.join_next().await {
        open.push(connected?.context("no answer in time")??);
    }
    Ok(open)
}

/// A connection that has had its first answer.
async fn answered(connector: TlsConnector, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let mut stream = connector.connect("localhost".try_into()?, TcpStream::connect(to).await?).await?;
    stream.write_all(REQUEST).await?;
    stream.flush().await?;
    let mut said = Vec::new();
    while !said.ends_with(b"}") {
        ensure!(stream.read_buf(&mut said).await? > 0, "it closed the connection");
    }
    Ok(stream)
}
