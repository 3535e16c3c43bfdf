//! Whom a request counts for when something stands between ingest and its sender.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::connections::{connect_from, read_to_end};
use super::{Ask, Edge, Reply, Wire};
use crate::Config;
use crate::proxy_protocol::tests::{header, header_for};

/// A balancer at 127.0.0.1, and a limit by which clients are told apart.
fn balanced(config: &mut Config) {
    config.listen.proxy_protocol.trusted = vec!["127.0.0.1/32".parse().unwrap()];
    config.rate.requests_per_minute = 60;
    config.rate.burst = 1;
}

/// Sends a PROXY header and then a good request, from the balancer's address.
async fn ask_through(edge: &Edge, header: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(header).await.unwrap();
    let stream = edge.secure(stream, "http/1.1").await;
    Wire { edge, stream, received: Vec::new() }.ask(&Ask::good()).await
}

/// Whether a connection that begins so is closed without a word.
async fn refuses(edge: &Edge, mut stream: TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    assert!(read_to_end(stream).await.is_empty(), "{bytes:?}");
    assert_eq!(edge.metrics.value("ingest_requests_total", &[]), edge.outcome("received"));
}

#[tokio::test]
async fn row_05_a_trusted_balancer_says_for_whom_it_connects() {
    let edge = Edge::start_with(balanced).await;
    for client in ["192.0.2.7", "192.0.2.8", "2001:db8:1:2::7", "2001:db8:1:3::7"] {
        ask_through(&edge, &header_for(client)).await.check(200, "received");
        ask_through(&edge, &header_for(client)).await.check(429, "rate_limited");
    }
    // IPv6 counts by /64, and a mapped address as the IPv4 address that it is.
    ask_through(&edge, &header_for("2001:db8:1:2:ffff::1")).await.check(429, "rate_limited");
    let mapped = "::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().unwrap();
    let mapped = header(0x21, 0x21, &[&mapped.octets()[..], &[0; 20]].concat());
    ask_through(&edge, &mapped).await.check(429, "rate_limited");
    // For itself, or for it does not say whom, it counts by its own address.
    ask_through(&edge, &header(0x20, 0x00, &[])).await.check(200, "received");
    ask_through(&edge, &header(0x21, 0x00, &[1, 2, 3])).await.check(429, "rate_limited");
    // With TLVs behind the addresses.
    let rest = [&[192, 0, 2, 9][..], &[0; 8], &[0xea, 0, 3, 1, 2, 3]].concat();
    ask_through(&edge, &header(0x21, 0x11, &rest)).await.check(200, "received");
    assert_eq!(edge.connection_outcome("proxy_header_invalid"), 0.0);
    edge.finish().await;
}

#[tokio::test]
async fn row_05_a_missing_or_invalid_header_of_a_balancer_closes() {
    let edge = Edge::start_with(|config| {
        balanced(config);
        config.limits.handshake_deadline = Duration::from_secs(1);
    })
    .await;
    let from_balancer = async || TcpStream::connect(edge.address()).await.unwrap();
    let good = header_for("192.0.2.7");
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    let bad = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello".to_vec(),
        b"PROXY TCP4 192.0.2.7 203.0.113.1 12345 8443\r\n".to_vec(),
        flipped,
        header(0x11, 0x11, &[0; 12]),
        header(0x22, 0x11, &[0; 12]),
        header(0x21, 0x12, &[0; 12]),
        header(0x21, 0x31, &[0; 216]),
        header(0x21, 0x11, &[0; 11]),
        header(0x21, 0x11, &[0; 4097]),
    ];
    for bytes in &bad {
        refuses(&edge, from_balancer().await, bytes).await;
    }
    edge.until("all are counted", |edge| edge.connection_outcome("proxy_header_invalid") == bad.len() as f64).await;
    // Half a header, and then nothing.
    refuses(&edge, from_balancer().await, &good[..20]).await;
    edge.until("counted", |edge| edge.connection_outcome("handshake_timeout") == 1.0).await;
    // A look whether we listen.
    drop(from_balancer().await);
    edge.until("counted", |edge| edge.connection_outcome("handshake_failed") == 1.0).await;
    let reason = edge.metrics.value("ingest_handshake_failures_total", &[("reason", "disconnected")]);
    assert_eq!(reason, 1.0);
    ask_through(&edge, &good).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn row_05_a_header_from_anyone_else_closes() {
    for switched_on in [true, false] {
        let edge = Edge::start_with(|config| {
            balanced(config);
            if !switched_on {
                config.listen.proxy_protocol.trusted.clear();
            }
        })
        .await;
        let v1 = b"PROXY TCP4 192.0.2.7 203.0.113.1 12345 8443\r\n".to_vec();
        for bytes in [header_for("192.0.2.7"), header(0x20, 0x00, &[]), v1] {
            refuses(&edge, connect_from(&edge, 2).await, &bytes).await;
        }
        edge.until("all are counted", |edge| edge.connection_outcome("proxy_header_refused") == 3.0).await;
        // What only begins like one is no TLS.
        for bytes in [&b"POST /webhook HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"\r\n\r\nhello, is anybody there?"] {
            refuses(&edge, connect_from(&edge, 2).await, bytes).await;
        }
        let not_tls = |edge: &Edge| edge.metrics.value("ingest_handshake_failures_total", &[("reason", "not_tls")]);
        edge.until("both are counted", |edge| not_tls(edge) == 2.0).await;
        // Without a header it is a client like any other.
        let stream = edge.secure(connect_from(&edge, 2).await, "http/1.1").await;
        let mut wire = Wire { edge: &edge, stream, received: Vec::new() };
        wire.ask(&Ask::good()).await.check(200, "received");
        drop(wire);
        edge.finish().await;
    }
}

#[tokio::test]
async fn caps_count_the_clients_of_a_balancer_apart() {
    let edge = Edge::start_with(|config| {
        balanced(config);
        config.rate.requests_per_minute = 0;
        config.limits.connections_max = 3;
        config.limits.connections_per_ip_max = 1;
    })
    .await;
    let connect = async |client: &str| {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(&header_for(client)).await.unwrap();
        stream
    };
    let one = edge.secure(connect("192.0.2.7").await, "http/1.1").await;
    let two = edge.secure(connect("192.0.2.8").await, "http/1.1").await;
    assert!(read_to_end(connect("192.0.2.7").await).await.is_empty());
    edge.until("counted", |edge| edge.connection_outcome("over_network_cap") == 1.0).await;
    // A connection counts before it says for whom it is.
    let mute = TcpStream::connect(edge.address()).await.unwrap();
    edge.until("three are open", |edge| edge.metrics.value("ingest_connections_open", &[]) == 3.0).await;
    let fourth = TcpStream::connect(edge.address()).await.unwrap();
    assert!(read_to_end(fourth).await.is_empty());
    edge.until("counted", |edge| edge.connection_outcome("over_cap") == 1.0).await;
    drop((one, two, mute));
    edge.finish().await;
}

#[tokio::test]
async fn an_http_proxy_is_believed_only_if_it_is_trusted() {
    let edge = Edge::start_with(|config| {
        balanced(config);
        config.listen.proxy_protocol.trusted.clear();
        config.listen.forwarded.trusted = vec!["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    })
    .await;
    let mut proxy = edge.http1().await;
    let asked_by = |list: &str| Ask::good().with("x-forwarded-for", list);
    // On one connection, each request counts for whom it is.
    proxy.ask(&asked_by("198.51.100.1, 192.0.2.7")).await.check(200, "received");
    proxy.ask(&asked_by("192.0.2.7, 10.2.3.4")).await.check(429, "rate_limited");
    proxy.ask(&asked_by("192.0.2.8")).await.check(200, "received");
    proxy.ask(&Ask::good()).await.check(200, "received");
    proxy.ask(&asked_by("unknown")).await.check(429, "rate_limited");

    let stream = edge.secure(connect_from(&edge, 2).await, "http/1.1").await;
    let mut other = Wire { edge: &edge, stream, received: Vec::new() };
    other.ask(&asked_by("192.0.2.9")).await.check(200, "received");
    other.ask(&asked_by("192.0.2.10")).await.check(429, "rate_limited");
    drop((proxy, other));
    edge.finish().await;
}
