//! Rows of the contract that a connection decides: TLS, caps, deadlines, sizes, and how connections end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::config::ByteSize;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::frames::{self, ACK, END_HEADERS, GOAWAY, PING, frame};
use super::raw::{Raw, head};
use super::{Ask, Edge, NATIVE, NONCE, PATIENCE, Wire};

/// A deadline that is waited for, yet long enough for a slow machine to do in time what must be in time.
const SHORT: Duration = Duration::from_secs(1);

/// Reads until the server ends the connection; a reset is an end too.
pub(super) async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
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

/// A body of these pieces.
struct Pieces(std::collections::VecDeque<std::io::Result<Frame<Bytes>>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
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
async fn row_01_tls_versions_and_alpn() {
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
async fn row_01_garbage_and_plain_http_are_closed() {
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

/// A client hello of TLS 1.0 to 1.2 with these cipher suites.
fn client_hello(version: u8, suites: &[u16]) -> Vec<u8> {
    let of = |length: usize, bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[4 - length..], bytes].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    // Curves: P-256 and X25519. Signatures: ECDSA and RSA-PSS with SHA-256. No extended master secret, as old clients.
    let curves = [&[0, 10][..], &of(2, &of(2, &[0, 23, 0, 29]))].concat();
    let signatures = [&[0, 13][..], &of(2, &of(2, &[4, 3, 8, 4]))].concat();
    let body = [
        &[3, version][..],
        &[7; 32],
        &of(1, &[]),
        &of(2, &suites),
        &of(1, &[0]),
        &of(2, &[curves, signatures].concat()),
    ]
    .concat();
    let handshake = [&[1][..], &of(3, &body)].concat();
    [&[22, 3, 1][..], &of(2, &handshake)].concat()
}

#[tokio::test]
async fn row_01_old_tls_and_foreign_cipher_suites_get_an_alert() {
    const ECDHE: u16 = 0xc02b;
    const PROTOCOL_VERSION: u8 = 70;
    const HANDSHAKE_FAILURE: u8 = 40;
    let edge = Edge::start().await;
    let refused = [
        (client_hello(1, &[ECDHE]), PROTOCOL_VERSION),
        (client_hello(2, &[ECDHE]), PROTOCOL_VERSION),
        // DHE, RSA key exchange, CBC, RC4.
        (client_hello(3, &[0x009e, 0x009f]), HANDSHAKE_FAILURE),
        (client_hello(3, &[0x009c, 0x002f]), HANDSHAKE_FAILURE),
        (client_hello(3, &[0xc023, 0xc009, 0x0005]), HANDSHAKE_FAILURE),
    ];
    for (hello, alert) in &refused {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let answer = read_to_end(stream).await;
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, *alert], "{hello:?}");
    }
    edge.until("all are counted", |edge| edge.connection_outcome("handshake_failed") == refused.len() as f64).await;
    // The same hello with a suite that we have goes on.
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(&client_hello(3, &[0x009e, ECDHE])).await.unwrap();
    let mut first = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!((first[0], first[5]), (22, 2), "a server hello");
    drop(stream);
    edge.finish().await;
}

#[tokio::test]
async fn row_02_slow_handshakes_and_caps() {
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
async fn row_02_no_more_connections_than_allowed() {
    let edge = Edge::start_with(|config| config.limits.connections_max = 2).await;
    let (mut one, two) = (edge.http1().await, edge.http1().await);
    let third = TcpStream::connect(edge.address()).await.unwrap();
    assert!(read_to_end(third).await.is_empty());
    edge.until("counted", |edge| edge.connection_outcome("over_cap") == 1.0).await;
    one.ask(&Ask::good()).await.check(200, "received");
    drop(two);
    edge.until("a place came back", |edge| edge.metrics.value("ingest_connections_open", &[]) == 1.0).await;
    edge.http1().await.ask(&Ask::good()).await.check(200, "received");
    drop(one);
    edge.finish().await;
}

/// Connects from one of the many addresses of the loopback interface.
pub(super) async fn connect_from(edge: &Edge, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(edge.address()).await.unwrap()
}

/// The same, with the first byte of a handshake: who has said nothing yet takes no part in it.
pub(super) async fn hello_begun_from(edge: &Edge, last: u8) -> TcpStream {
    let mut stream = connect_from(edge, last).await;
    stream.write_all(&[0x16]).await.unwrap();
    stream
}

#[tokio::test]
async fn row_02_connections_that_say_nothing_keep_no_handshake_waiting() {
    let edge = Edge::start_with(|config| config.limits.handshakes_max = 1).await;
    let silent = [connect_from(&edge, 2).await, connect_from(&edge, 3).await];
    edge.until("both are accepted", |edge| edge.metrics.value("ingest_connections_open", &[]) == 2.0).await;
    edge.check(&Ask::good(), 200, "received").await;
    assert_eq!(edge.connection_outcome("handshake_timeout"), 0.0);
    drop(silent);
    edge.finish().await;
}

#[tokio::test]
async fn row_02_handshakes_at_once_have_a_number_and_the_rest_wait() {
    let edge = Edge::start_with(|config| config.limits.handshakes_max = 2).await;
    let begun = [hello_begun_from(&edge, 2).await, hello_begun_from(&edge, 3).await];
    edge.until("both are under way", |edge| edge.metrics.value("ingest_connections_open", &[]) == 2.0).await;
    let mut waiting = Box::pin(edge.http1());
    assert!(timeout(Duration::from_millis(200), waiting.as_mut()).await.is_err(), "it has to wait");
    drop(begun);
    waiting.await.ask(&Ask::good()).await.check(200, "received");
    edge.until("both are counted", |edge| edge.connection_outcome("handshake_failed") == 2.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn row_06_slow_heads_and_idle_connections_are_closed() {
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
async fn row_07_malformed_heads_get_an_empty_400() {
    let edge = Edge::start().await;
    let before = edge.counts();
    let bad = [
        "nonsense\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nspace : x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\n folded: x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: +1\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST /webhook HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST /webhook HTTP/2.0\r\nhost: localhost\r\n\r\n",
        "POST /webhook HTTP/1.1 \r\nhost: localhost\r\n\r\n",
        "POST  /webhook HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "POST /web hook HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "POST /webhook\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "P@ST /webhook HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nnull: \0\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nlone: \rx\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\n: nameless\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nna me: x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nn\u{e4}me: x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\nfold: x\r\n y\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1 1\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0x1\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1.0\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1,2\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length:\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 18446744073709551616\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked;x\r\n\r\n",
        "POST /webhook HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding:\r\n\r\n",
    ];
    for head in bad {
        let mut wire = edge.http1().await;
        wire.write(head.as_bytes()).await;
        let reply = wire.reply().await;
        assert_eq!((reply.status, reply.body.as_str()), (400, ""), "{head:?}");
        assert!(wire.ends().await, "{head:?}");
    }
    edge.until("all are counted", |edge| edge.connection_outcome("malformed_head") == bad.len() as f64).await;
    // HTTP/2 where HTTP/1.1 was agreed on gets no answer that it could not read anyway.
    let mut wire = edge.http1().await;
    wire.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(wire.ends().await);
    edge.until("it is counted", |edge| edge.connection_outcome("malformed_head") == bad.len() as f64 + 1.0).await;
    edge.counted(&before, &[]);
    edge.finish().await;
}

#[tokio::test]
async fn row_07_malformed_heads_reset_the_stream_on_http2() {
    let edge = Edge::start().await;
    let before = edge.counts();
    let good = head(&Ask::good());
    let more = |name: &str, value: &[u8]| [good.as_slice(), &frames::block([(name, value)])].concat();
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", b"POST"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/webhook")];
    let without = |name: &str| frames::block(pseudo.into_iter().filter(|(known, _)| *known != name));
    let bad = [
        more("Upper-Case", b"x"),
        more("connection", b"close"),
        more("transfer-encoding", b"chunked"),
        more("keep-alive", b"1"),
        more("te", b"gzip"),
        more("null", b"\0"),
        more("line", b"a\r\nb: c"),
        more("sp ace", b"x"),
        more("content-length", b"1x"),
        // Pseudo-headers behind the others, twice, unknown, an answer's, or not there.
        more(":path", b"/webhook"),
        frames::block(pseudo.into_iter().chain([(":path", &b"/webhook"[..])])),
        frames::block(pseudo.into_iter().chain([(":unknown", &b"x"[..])])),
        frames::block(pseudo.into_iter().chain([(":status", &b"200"[..])])),
        without(":method"),
        without(":scheme"),
        without(":path"),
    ];
    let (mut streams, mut connections) = (0, 0);
    for block in bad {
        let mut raw = Raw::connect(&edge).await;
        let stream = raw.open();
        assert!(raw.write(&frame(frames::HEADERS, END_HEADERS | frames::END_STREAM, stream, &block)).await);
        let refusal = loop {
            let next = raw.next().await.expect("a reset or a goodbye");
            if [frames::RST_STREAM, frames::GOAWAY].contains(&next.kind) {
                break next;
            }
            assert_ne!(next.kind, frames::HEADERS, "no answer: {:?}", String::from_utf8_lossy(&block));
        };
        assert_eq!(refusal.reason(), 1, "a protocol error: {:?}", String::from_utf8_lossy(&block));
        if refusal.kind == frames::GOAWAY {
            connections += 1;
            continue;
        }
        assert_eq!(refusal.stream, stream);
        // The connection is still good.
        raw.send(&Ask::good()).await;
        assert_eq!(raw.until(frames::HEADERS).await.unwrap().payload[0], 0x88, "200");
        streams += 1;
    }
    assert!(streams > 0 && connections > 0, "both happen: {streams} and {connections}");
    edge.counted(&before, &[("received", f64::from(streams))]);
    edge.finish().await;
}

#[tokio::test]
async fn row_07_what_is_no_http2_ends_the_connection() {
    let edge = Edge::start().await;
    let block = head(&Ask::good());
    let bad = [
        // A header block that is none, a stream of the server's, a frame over the size, data before its head.
        frame(frames::HEADERS, END_HEADERS, 1, &[0xff; 16]),
        frame(frames::HEADERS, END_HEADERS, 2, &block),
        frame(frames::SETTINGS, 0, 1, &[]),
        frame(frames::SETTINGS, 0, 0, &[0; 5]),
        frame(PING, 0, 0, &[0; 7]),
        frame(frames::DATA, 0, 1, b"x"),
        frame(frames::CONTINUATION, END_HEADERS, 1, &block),
        frame(frames::WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(frames::DATA, 0, 1, &vec![0; 16 * 1024 + 1]),
        [frame(frames::HEADERS, 0, 1, &block), frame(PING, 0, 0, &[0; 8])].concat(),
    ];
    for bytes in &bad {
        let mut raw = Raw::connect(&edge).await;
        assert!(raw.write(bytes).await);
        let goodbye = raw.farewell().await.expect("GOAWAY");
        assert_ne!(goodbye.reason(), 0, "{:?}", &bytes[..9]);
    }
    edge.until("all are counted", |edge| edge.connection_outcome("broken") == bad.len() as f64).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_08_heads_have_a_size_and_a_number() {
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
async fn row_08_heads_have_a_size_on_http2() {
    let edge = Edge::start().await;
    // As RFC 9113, 6.5.2 counts: 32 more for each field; a length is among them here.
    let size = |ask: &Ask| {
        let pseudo = ":method".len() + ":scheme".len() + ":authority".len() + ":path".len();
        let values = ask.method.len() + "https".len() + "localhost".len() + ask.path.len();
        let length = "content-length".len() + ask.body.len().to_string().len();
        let fields: usize = ask.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        pseudo + values + length + fields + 32 * (4 + 1 + ask.headers.len())
    };
    let filled = |len: usize| {
        let ask = Ask::good().with("x-more", "");
        let space = len - size(&ask);
        ask.set("x-more", "x".repeat(space))
    };
    edge.http2().await.ask(&filled(16 * 1024)).await.check(200, "received");
    let mut http2 = edge.http2().await;
    http2.ask(&filled(16 * 1024 + 1)).await.check(431, "head_too_large");
    assert!(http2.ends().await);
    // Far beyond, it is not even kept: 431 comes from the library, and no request is counted.
    let before = edge.counts();
    let mut raw = Raw::connect(&edge).await;
    let block = head(&filled(40 * 1024));
    let (first, rest) = block.split_at(16 * 1024);
    let stream = raw.open();
    let mut bytes = frame(frames::HEADERS, frames::END_STREAM, stream, first);
    let (second, third) = rest.split_at(16 * 1024);
    bytes.extend(frame(frames::CONTINUATION, 0, stream, second));
    bytes.extend(frame(frames::CONTINUATION, END_HEADERS, stream, third));
    assert!(raw.write(&bytes).await);
    let answer = raw.until(frames::HEADERS).await.expect("an answer");
    assert!(answer.payload.windows(3).any(|text| text == b"431") || answer.payload.len() < 16, "{answer:?}");
    edge.counted(&before, &[]);
    drop(raw);
    edge.finish().await;
}

const BODY_MAX: usize = 256 * 1024;

#[tokio::test]
async fn row_16_declared_length_at_the_limit_and_one_past_it() {
    let edge = Edge::start().await;
    edge.check(&Ask::native(envelope_of(BODY_MAX)), 200, "received").await;
    let [http1, _] = edge.check(&Ask::native(envelope_of(BODY_MAX + 1)), 413, "payload_too_large").await;
    assert!(http1.says_close());
    // A length that no body could have; not one byte of it is there to be read.
    let before = edge.counts();
    for len in [BODY_MAX as u64 + 1, u64::MAX / 2] {
        let mut wire = edge.http1().await;
        wire.send(&[Ask::good().head_http1(), format!("content-length: {len}\r\n\r\n").into_bytes()].concat()).await;
        let reply = wire.reply().await;
        reply.check(413, "payload_too_large");
        assert!(reply.says_close() && wire.ends().await);
    }
    edge.counted(&before, &[("payload_too_large", 2.0)]);
    let stored = edge.inbox().iter().filter(|(_, body)| body.len() == BODY_MAX).count();
    assert_eq!(stored, 2);
    edge.finish().await;
}

#[tokio::test]
async fn row_17_a_body_that_grows_to_the_limit_and_one_past_it() {
    let edge = Edge::start().await;
    for (len, status, code) in [(BODY_MAX, 200, "received"), (BODY_MAX + 1, 413, "payload_too_large")] {
        let ask = Ask::native(envelope_of(len));
        for piece in [1000, 10_000, len] {
            let before = edge.counts();
            let pieces: Vec<u8> = ask.body.chunks(piece).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
            let mut wire = edge.http1().await;
            wire.send(&[chunked_head(&ask), pieces].concat()).await;
            let reply = wire.reply().await;
            reply.check(status, code);
            assert_eq!(reply.says_close(), status == 413);

            let pieces = ask.body.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
            // A stream has no length to declare.
            let body = Pieces(pieces.collect()).boxed_unsync();
            edge.http2().await.send(ask.to_http2(body)).await.unwrap().check(status, code);
            edge.counted(&before, &[(code, 2.0)]);
        }
    }
    let stored = edge.inbox().iter().filter(|(_, body)| body.len() == BODY_MAX).count();
    assert_eq!(stored, 6);
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
    let edge = Edge::start_with(|config| {
        // So that only the deadline can be what is not kept.
        config.limits.body_deadline = SHORT;
        config.limits.body_bytes_per_second_min = ByteSize::new(1);
    })
    .await;
    let ask = Ask::good();
    let mut wire = edge.http1().await;
    wire.send(&ask.to_http1()[..ask.to_http1().len() - 1]).await;
    let reply = wire.reply().await;
    reply.check(408, "body_timeout");
    assert!(reply.says_close() && wire.ends().await);
    let body = Unending(vec![Bytes::copy_from_slice(&ask.body[..ask.body.len() - 1])]).boxed_unsync();
    let mut http2 = edge.http2().await;
    http2.send(ask.to_http2(body)).await.unwrap().check(408, "body_timeout");
    edge.finish().await;
}

#[tokio::test]
async fn row_18_a_body_below_the_minimum_rate_is_given_up_after_a_time_of_grace() {
    let edge = Edge::start_with(|config| {
        // So that only the rate can be what is not kept.
        config.limits.body_deadline = Duration::from_secs(600);
        config.limits.body_bytes_per_second_min = ByteSize::kib(64);
        config.drain.deadline = Duration::from_secs(1200);
    })
    .await;
    let before = edge.counts();
    let ask = Ask::native(envelope_of(BODY_MAX));
    let (mut http1, mut http2) = (edge.http1().await, edge.http2().await);
    http1.send(&ask.to_http1()[..1000]).await;
    let body = Unending(vec![Bytes::from_static(b"{")]).boxed_unsync();
    let (first, second) = tokio::join!(http1.reply(), http2.send(ask.to_http2(body)));
    first.check(408, "body_timeout");
    second.unwrap().check(408, "body_timeout");
    edge.counted(&before, &[("body_timeout", 2.0)]);
    edge.finish().await;
}

#[tokio::test]
async fn row_19_malformed_chunks() {
    let edge = Edge::start().await;
    let ask = Ask::good();
    let len = format!("{:x}", ask.body.len());
    let body = NATIVE;
    let bad = [
        "zz\r\n".to_owned(),
        "\r\n".into(),
        "-1\r\n".into(),
        "0x10\r\n".into(),
        "1\n{\n".into(),
        "1\rx".into(),
        "ffffffffffffffffff\r\n".into(),
        format!("{len} 0\r\n"),
        format!("{len};a=b\n"),
        format!("{len}\r\n{body}x\r\n0\r\n\r\n"),
        format!("{len}\r\n{body}\n0\r\n\r\n"),
        format!("{len};{}\r\n", "x".repeat(17 * 1024)),
        format!("{len}\r\n{body}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(65)),
        format!("{len}\r\n{body}\r\n0\r\nx: {}\r\n\r\n", "y".repeat(16 * 1024)),
    ];
    for body in &bad {
        let before = edge.counts();
        let mut wire = edge.http1().await;
        wire.send(&[chunked_head(&ask), body.clone().into_bytes()].concat()).await;
        let reply = wire.reply().await;
        reply.check(400, "incomplete_body");
        assert!(reply.says_close() && wire.ends().await, "{:?}", &body[..body.len().min(40)]);
        edge.counted(&before, &[("incomplete_body", 1.0)]);
    }
    // Extensions and trailers are read over.
    let mut wire = edge.http1().await;
    wire.send(&[chunked_head(&ask), format!("{len};a=b\r\n{body}\r\n0;c\r\nx: y\r\n\r\n").into_bytes()].concat()).await;
    wire.reply().await.check(200, "received");
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
async fn an_http2_client_may_write_until_it_has_read_that_the_connection_ends() {
    let edge = Edge::start_with(|config| config.limits.requests_per_connection_max = 1).await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(&Ask::good()).await;
    raw.until(GOAWAY).await.expect("it says that it ends");
    // The ping that comes with it measures how long the client may still send what it has not read.
    let ping = raw.until(PING).await.expect("a ping");
    assert!(raw.write(&frame(PING, ACK, 0, &ping.payload)).await);
    // The server has closed its side. A reset would take from the client what it has not read.
    assert_eq!(raw.farewell().await.map(|last| last.reason()), Some(0));
    for _ in 0..100 {
        assert!(raw.write(&frame(PING, 0, 0, &[7; 8])).await);
    }
    drop(raw);
    edge.until("it ended in order", |edge| edge.connection_outcome("ended") == 1.0).await;
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
async fn a_refusal_before_the_body_has_come_keeps_the_connection_or_says_that_it_closes() {
    let edge = Edge::start().await;
    let lost = || Ask::good().to("/nowhere");
    let length = |len: usize| [lost().head_http1(), format!("content-length: {len}\r\n\r\n").into_bytes()].concat();
    let chunked = [lost().head_http1(), b"transfer-encoding: chunked\r\n\r\n".to_vec()].concat();
    let chunk = format!("{:x}\r\n{NATIVE}\r\n", NATIVE.len()).into_bytes();
    let refused = |edge: &Edge| edge.outcome("not_found");
    // The rest comes once the answer is settled, and the next request comes behind it.
    let whole = [chunk.as_slice(), b"0\r\n\r\n"].concat();
    for (head, rest) in [(length(NATIVE.len()), NATIVE.as_bytes()), (chunked.clone(), &whole)] {
        let mut wire = edge.http1().await;
        let before = refused(&edge);
        wire.send(&head).await;
        edge.until("it is refused", |edge| refused(edge) > before).await;
        wire.write(rest).await;
        let reply = wire.reply().await;
        reply.check(404, "not_found");
        assert!(!reply.says_close());
        wire.ask(&Ask::good()).await.check(200, "received");
    }
    // Where it does not come, breaks off, is large or waits for a word of ours, the sender is told.
    let endless = chunk.repeat(64 * 1024 / NATIVE.len() + 1);
    let asking = [lost().with("expect", "100-continue").head_http1(), b"content-length: 9\r\n\r\n".to_vec()].concat();
    for (head, rest) in [
        (length(9), &b"{"[..]),
        (length(64 * 1024 + 1), &[]),
        (chunked.clone(), &chunk),
        (chunked.clone(), &endless),
        (chunked, b"zz\r\n"),
        (asking, &[]),
    ] {
        let mut wire = edge.http1().await;
        wire.send(&[head.as_slice(), rest].concat()).await;
        let reply = wire.reply().await;
        reply.check(404, "not_found");
        assert!(reply.says_close() && wire.ends().await, "{}", String::from_utf8_lossy(&head));
    }
    edge.finish().await;
}

#[tokio::test]
async fn a_body_in_chunks_that_was_asked_for_and_read_keeps_the_connection_until_its_last_request() {
    let edge = Edge::start_with(|config| config.limits.requests_per_connection_max = 2).await;
    let head =
        [Ask::good().with("expect", "100-continue").head_http1(), b"transfer-encoding: chunked\r\n\r\n".to_vec()];
    let body = format!("{:x}\r\n{NATIVE}\r\n0\r\n\r\n", NATIVE.len());
    let mut wire = edge.http1().await;
    for last in [false, true] {
        wire.send(&head.concat()).await;
        while !wire.received.ends_with(b"\r\n\r\n") {
            assert_ne!(wire.more().await, 0);
        }
        assert!(wire.received.starts_with(b"HTTP/1.1 100 "));
        wire.received.clear();
        wire.write(body.as_bytes()).await;
        let reply = wire.reply().await;
        reply.check(200, "received");
        assert_eq!(reply.says_close(), last);
    }
    assert!(wire.ends().await);
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
    let waiting: Vec<_> = (0..50).map(|_| http2.begin(&Ask::good())).collect();
    for answer in waiting {
        assert_eq!(answer.await, 200);
    }
    edge.finish().await;
}

#[tokio::test]
async fn streams_at_once_have_a_number() {
    const REFUSED_STREAM: u32 = 7;
    let edge = Edge::start_with(|config| config.limits.streams_per_connection_max = 2).await;
    let mut raw = Raw::connect(&edge).await;
    let ask = Ask::good();
    let block = head(&ask);
    let open = |raw: &mut Raw<'_>| {
        let stream = raw.open();
        (stream, frame(frames::HEADERS, END_HEADERS, stream, &block))
    };
    let ((first, one), (second, two), (third, three)) = (open(&mut raw), open(&mut raw), open(&mut raw));
    edge.sent.fetch_add(2, Ordering::SeqCst);
    assert!(raw.write(&[one, two, three].concat()).await);
    let refused = raw.until(frames::RST_STREAM).await.expect("one too many");
    assert_eq!((refused.stream, refused.reason()), (third, REFUSED_STREAM));
    for stream in [first, second] {
        assert!(raw.write(&frame(frames::DATA, frames::END_STREAM, stream, &ask.body)).await);
        let answer = raw.until(frames::HEADERS).await.expect("an answer");
        assert_eq!((answer.stream, answer.payload[0]), (stream, 0x88));
    }
    // Now there is room again.
    raw.send(&ask).await;
    assert_eq!(raw.until(frames::HEADERS).await.expect("an answer").payload[0], 0x88);
    drop(raw);
    edge.finish().await;
}

#[tokio::test]
async fn limits_come_from_the_configuration() {
    let edge = Edge::start_with(|config| config.limits.body_bytes_max = ByteSize::new(NATIVE.len() as u64)).await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::native(format!("{NATIVE} ")), 413, "payload_too_large").await;
    edge.finish().await;
}
