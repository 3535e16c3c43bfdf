//! Rows of the contract that a connection decides: TLS, caps, deadlines, sizes, and how connections end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::config::ByteSize;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Ask, Edge, NATIVE, NONCE, PATIENCE, Wire};

/// A deadline that is waited for, yet long enough for a slow machine to do in time what must be in time.
const SHORT: Duration = Duration::from_secs(1);

/// Reads until the server ends the connection; a reset is an end too.
async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let _end = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server ends the connection");
    received
}

/// A native envelope of exactly this many bytes.
fn envelope_of(len: usize) -> Vec<u8> {
    let frame = format!("{{\"encrypted\":\"\",\"nonce\":\"{NONCE}\"}}").len();
    let ciphertext = "A".repeat((len - frame) / 4 * 4);
    let space = " ".repeat((len - frame) % 4);
    format!("{{\"encrypted\":\"{ciphertext}\",{space}\"nonce\":\"{NONCE}\"}}").into_bytes()
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

fn chunked_head(ask: &Ask) -> Vec<u8> {
    [ask.head_http1().as_slice(), b"transfer-encoding: chunked\r\n\r\n"].concat()
}

/// A body that gives these pieces and then nothing, for ever.
struct Unending(Vec<Bytes>);

impl Body for Unending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match self.0.pop() {
            Some(piece) => std::task::Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => std::task::Poll::Pending,
        }
    }
}

#[tokio::test]
async fn row_1_tls_versions_and_alpn() {
    let edge = Edge::start().await;
    let connect = |version: &'static rustls::SupportedProtocolVersion, alpn: Option<&str>| {
        let mut tls = super::client_tls(&edge.certificate(), &[version]);
        tls.alpn_protocols = alpn.map(|alpn| alpn.as_bytes().to_vec()).into_iter().collect();
        let address = edge.address();
        async move {
            let stream = TcpStream::connect(address).await.unwrap();
            TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), stream).await
        }
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // Without ALPN it is HTTP/1.1.
        for alpn in [Some("http/1.1"), None] {
            let stream = connect(version, alpn).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let mut wire = Wire { edge: &edge, stream, received: Vec::new() };
            wire.ask(&Ask::good()).await.check(200, "received");
        }
    }
    assert!(connect(&rustls::version::TLS13, Some("spdy/3")).await.is_err(), "no shared protocol");
    edge.until("the refused handshake is counted", |edge| edge.connection_outcome("handshake_failed") == 1.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_1_garbage_and_plain_http_are_closed() {
    let edge = Edge::start().await;
    // The third is a TLS 1.0 client hello's beginning.
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], &[0xff; 64], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"]
    {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let answer = read_to_end(stream).await;
        assert!(answer.len() <= 7 && (answer.is_empty() || answer[0] == 0x15), "at most a TLS alert: {answer:?}");
    }
    edge.until("all are counted", |edge| edge.connection_outcome("handshake_failed") == 3.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_2_slow_handshakes_and_caps() {
    let edge = Edge::start_with(|config| {
        config.limits.handshake_deadline = SHORT;
        config.limits.connections_max = 3;
        config.limits.connections_per_ip_max = 2;
    })
    .await;
    let silent = TcpStream::connect(edge.address()).await.unwrap();
    assert!(read_to_end(silent).await.is_empty());
    edge.until("counted", |edge| edge.connection_outcome("handshake_timeout") == 1.0).await;

    let (mut one, two) = (edge.http1().await, edge.http1().await);
    let third = TcpStream::connect(edge.address()).await.unwrap();
    assert!(read_to_end(third).await.is_empty());
    edge.until("counted", |edge| edge.connection_outcome("over_network_cap") == 1.0).await;
    one.ask(&Ask::good()).await.check(200, "received");
    drop(two);
    edge.until("a place came back", |edge| edge.metrics.value("ingest_connections_open", &[]) == 1.0).await;
    edge.http1().await.ask(&Ask::good()).await.check(200, "received");
    drop(one);
    edge.finish().await;
}

#[tokio::test]
async fn row_6_slow_heads_and_idle_connections_are_closed() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    let mut slow = edge.http1().await;
    slow.write(b"POST /webhook HTTP/1.1\r\nhost: local").await;
    assert!(slow.ends().await);
    let mut idle = edge.http1().await;
    idle.ask(&Ask::good()).await.check(200, "received");
    assert!(idle.ends().await);
    edge.until("both are counted", |edge| edge.connection_outcome("head_timeout") == 2.0).await;
    let mut http2 = edge.http2().await;
    http2.ask(&Ask::good()).await.check(200, "received");
    assert!(http2.ends().await);
    // A client that negotiated HTTP/2 and then says nothing.
    let mut mute = edge.connect("h2").await;
    let mut received = Vec::new();
    let _end = timeout(PATIENCE, mute.read_to_end(&mut received)).await.expect("the server ends the connection");
    edge.finish().await;
}

#[tokio::test]
async fn row_7_malformed_heads_get_an_empty_400() {
    let edge = Edge::start().await;
    let bad = [
        "nonsense\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nspace : x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\n folded: x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: +1\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST /webhook HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    for head in bad {
        let mut wire = edge.http1().await;
        wire.write(head.as_bytes()).await;
        let reply = wire.reply().await;
        assert_eq!((reply.status, reply.body.as_str()), (400, ""), "{head:?}");
        assert!(wire.ends().await, "{head:?}");
    }
    edge.until("all are counted", |edge| edge.connection_outcome("malformed_head") == bad.len() as f64).await;
    edge.finish().await;
}

#[tokio::test]
async fn length_and_chunked_together_end_the_connection() {
    let edge = Edge::start().await;
    let head = [Ask::good().head_http1(), b"content-length: 5\r\n".to_vec()].concat();
    let request =
        [head.as_slice(), b"transfer-encoding: chunked\r\n\r\n", &chunk(NATIVE.as_bytes()), b"0\r\n\r\n"].concat();
    let mut wire = edge.http1().await;
    wire.send(&request).await;
    let reply = wire.reply().await;
    reply.check(200, "received");
    assert!(reply.says_close() && wire.ends().await, "nobody can smuggle a second request behind it");
    edge.finish().await;
}

#[tokio::test]
async fn row_8_heads_have_a_size_and_a_number() {
    let edge = Edge::start_with(|config| config.limits.header_count_max = 20).await;
    // 4 of the scheme, host and length: 14 more fill the number.
    let many = |count| (0..count).fold(Ask::good(), |ask, _| ask.with("x-more", "1"));
    edge.http1().await.ask(&many(14)).await.check(200, "received");
    let mut wire = edge.http1().await;
    wire.write(&many(15).to_http1()).await;
    assert_eq!((wire.reply().await.status, wire.ends().await), (431, true));
    // On HTTP/2 the host is not among them.
    edge.http2().await.ask(&many(15)).await.check(200, "received");
    let mut http2 = edge.http2().await;
    http2.ask(&many(16)).await.check(431, "head_too_large");
    assert!(http2.ends().await);

    let long = |len: usize| Ask::good().to(&format!("/webhook?{}", "x".repeat(len - 9)));
    edge.check(&long(2048), 200, "received").await;
    edge.check(&long(2049), 431, "head_too_large").await;

    let filled = |len: usize| {
        let head = Ask::good().with("x-more", "").to_http1().len() - NATIVE.len();
        Ask::good().with("x-more", "x".repeat(len - head))
    };
    edge.http1().await.ask(&filled(16 * 1024)).await.check(200, "received");
    let mut wire = edge.http1().await;
    wire.write(&filled(16 * 1024 + 1).to_http1()).await;
    assert_eq!((wire.reply().await.status, wire.ends().await), (431, true));
    // A head without an end is refused too, as soon as it is too large.
    let mut wire = edge.http1().await;
    wire.write(&filled(64 * 1024).to_http1()).await;
    assert_eq!((wire.reply().await.status, wire.ends().await), (431, true));
    edge.until("all are counted", |edge| edge.connection_outcome("head_too_large") == 3.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn rows_16_and_17_bodies_at_the_limit_and_one_past_it() {
    let edge = Edge::start().await;
    const LIMIT: usize = 256 * 1024;
    edge.check(&Ask::native(envelope_of(LIMIT)), 200, "received").await;
    let [http1, _] = edge.check(&Ask::native(envelope_of(LIMIT + 1)), 413, "payload_too_large").await;
    assert!(http1.says_close());

    // Without a declared length, the limit is met on the way.
    for (len, status, code) in [(LIMIT, 200, "received"), (LIMIT + 1, 413, "payload_too_large")] {
        let ask = Ask::native(envelope_of(len));
        let pieces: Vec<u8> = ask.body.chunks(10_000).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
        let mut wire = edge.http1().await;
        wire.send(&[chunked_head(&ask), pieces].concat()).await;
        wire.reply().await.check(status, code);

        let body = Full::new(Bytes::from(ask.body.clone())).map_err(|never| match never {});
        // A stream has no length to declare.
        let body = http_body_util::StreamBody::new(http_body_util::BodyStream::new(body)).boxed_unsync();
        edge.http2().await.send(ask.to_http2(body)).await.unwrap().check(status, code);
    }
    let stored = edge.inbox().iter().filter(|(_, body)| body.len() == LIMIT).count();
    assert_eq!(stored, 4);
    edge.finish().await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_reaches_a_sender_that_is_still_writing() {
    let edge = Edge::start().await;
    let ask = Ask::native(vec![b' '; 2 * 1024 * 1024]);
    for _ in 0..5 {
        // Writes everything before it reads anything, as simple clients do; the small buffer makes it wait for the server.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        let stream = socket.connect(edge.address()).await.unwrap();
        let mut wire = Wire { edge: &edge, stream: edge.secure(stream, "http/1.1").await, received: Vec::new() };
        wire.send(&ask.to_http1()).await;
        wire.reply().await.check(413, "payload_too_large");
        assert!(wire.ends().await);
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_sender_that_asks_first_is_refused_before_it_sends_a_body() {
    let edge = Edge::start().await;
    let ask = Ask::native(envelope_of(1000)).with("expect", "100-continue");
    let declare = |len: usize| [ask.head_http1(), format!("content-length: {len}\r\n\r\n").into_bytes()].concat();
    let mut wire = edge.http1().await;
    wire.send(&declare(256 * 1024 + 1)).await;
    wire.reply().await.check(413, "payload_too_large");
    assert!(wire.ends().await);
    let mut wire = edge.http1().await;
    wire.send(&declare(ask.body.len())).await;
    while !wire.received.starts_with(b"HTTP/1.1 100 ") {
        assert_ne!(wire.more().await, 0);
    }
    wire.write(&ask.body).await;
    wire.reply().await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn row_18_slow_bodies_are_given_up() {
    let edge = Edge::start_with(|config| config.limits.body_deadline = SHORT).await;
    let ask = Ask::good();
    let mut wire = edge.http1().await;
    wire.send(&ask.to_http1()[..ask.to_http1().len() - 1]).await;
    let reply = wire.reply().await;
    reply.check(408, "body_timeout");
    assert!(reply.says_close() && wire.ends().await);
    let body = Unending(vec![Bytes::from_static(b"{")]).boxed_unsync();
    let mut http2 = edge.http2().await;
    http2.send(ask.to_http2(body)).await.unwrap().check(408, "body_timeout");
    edge.finish().await;
}

#[tokio::test]
async fn row_19_bodies_that_break_off_leave_no_record() {
    let edge = Edge::start().await;
    let ask = Ask::good();
    let mut wire = edge.http1().await;
    wire.send(&[chunked_head(&ask), b"zz\r\n".to_vec()].concat()).await;
    wire.reply().await.check(400, "incomplete_body");
    assert!(wire.ends().await);

    let mut wire = edge.http1().await;
    wire.send(&ask.to_http1()[..ask.to_http1().len() - 1]).await;
    wire.stream.shutdown().await.unwrap();
    if let Some(reply) = wire.try_reply().await {
        reply.check(400, "incomplete_body");
    }

    let mut http2 = edge.http2().await;
    let body = Unending(vec![Bytes::from_static(b"{")]).boxed_unsync();
    let under_way = |edge: &Edge| edge.metrics.value("ingest_requests_in_flight", &[]) == 1.0;
    tokio::select! {
        answered = http2.send(ask.to_http2(body)) => panic!("the body has not ended: {answered:?}"),
        () = edge.until("under way", under_way) => {}
    }
    // Dropping the request has reset its stream.
    drop(http2);
    let ended = |edge: &Edge| edge.outcome("incomplete_body") + edge.outcome("abandoned");
    edge.until("all are counted", |edge| ended(edge) == 3.0).await;
    assert!(edge.inbox().is_empty());
    edge.finish().await;
}

#[tokio::test]
async fn connections_are_kept_and_have_a_largest_number_of_requests() {
    let edge = Edge::start_with(|config| config.limits.requests_per_connection_max = 3).await;
    let mut wire = edge.http1().await;
    for last in [false, false, true] {
        let reply = wire.ask(&Ask::good()).await;
        reply.check(200, "received");
        assert_eq!(reply.says_close(), last);
    }
    assert!(wire.ends().await);
    let mut http2 = edge.http2().await;
    for _ in 0..3 {
        http2.ask(&Ask::good()).await.check(200, "received");
    }
    assert!(http2.ends().await);
    edge.finish().await;
}

#[tokio::test]
async fn refusals_that_do_not_close_keep_the_connection() {
    let edge = Edge::start().await;
    let mut wire = edge.http1().await;
    wire.ask(&Ask::good().to("/nowhere")).await.check(404, "not_found");
    wire.ask(&Ask::good().without("x-webhook-signature")).await.check(401, "signature_missing");
    wire.ask(&Ask::native("{}")).await.check(400, "invalid_envelope");
    wire.ask(&Ask::good()).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn connections_have_a_longest_life() {
    let edge = Edge::start_with(|config| config.limits.connection_age_max = Duration::from_secs(2)).await;
    let mut wire = edge.http1().await;
    wire.ask(&Ask::good()).await.check(200, "received");
    assert!(wire.ends().await);
    let mut http2 = edge.http2().await;
    http2.ask(&Ask::good()).await.check(200, "received");
    assert!(http2.ends().await);
    edge.until("both ended in order", |edge| edge.connection_outcome("ended") == 2.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn requests_on_one_http2_connection_run_side_by_side() {
    let edge = Edge::start().await;
    let http2 = edge.http2().await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        edge.sent.fetch_add(1, Ordering::SeqCst);
        let body = Full::new(Bytes::from_static(NATIVE.as_bytes())).map_err(|never| match never {}).boxed_unsync();
        waiting.push(http2.sender.clone().send_request(Ask::good().to_http2(body)));
    }
    for answer in waiting {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
    }
    edge.finish().await;
}

#[tokio::test]
async fn limits_come_from_the_configuration() {
    let edge = Edge::start_with(|config| config.limits.body_bytes_max = ByteSize::new(NATIVE.len() as u64)).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::native(format!("{NATIVE} ")), 413, "payload_too_large").await;
    edge.finish().await;
}
