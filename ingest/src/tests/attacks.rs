//! Attacks on HTTP/1.1 and HTTP/2, written byte by byte and frame by frame. Each is bounded in time and in what it makes
//! ingest keep, and a good sender on another connection is served meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::connections::hello_begun_from;
use super::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame,
};
use super::raw::{Raw, head};
use super::{Ask, Edge, NATIVE, PATIENCE};

/// A deadline that is waited for, yet long enough for a slow machine to do in time what must be in time.
const SHORT: Duration = Duration::from_secs(1);
/// Connections of an attack.
const MANY: usize = 50;

/// Runs an attack while a good sender sends on a connection of its own, and once more when it is over.
async fn served_meanwhile<T>(edge: &Edge, attack: impl Future<Output = T>) -> T {
    let over = AtomicBool::new(false);
    let attack = async {
        let outcome = attack.await;
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let good = async {
        loop {
            let last = over.load(Ordering::Relaxed);
            // On a connection of its own each time: an attack must not keep new senders out either.
            edge.http1().await.ask(&Ask::good()).await.check(200, "received");
            if last {
                return;
            }
        }
    };
    let (outcome, ()) = tokio::join!(attack, good);
    outcome
}

impl Edge {
    /// Requests of a flood that were begun have all ended; how many they were is the library's affair.
    async fn after_flood(&self) {
        self.until("all have ended", |edge| edge.metrics.value("ingest_requests_in_flight", &[]) == 0.0).await;
        let counted: f64 = self.counts().values().sum();
        self.sent.store(counted as u64, Ordering::SeqCst);
    }
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// A request that nobody must answer: it is hidden in, or behind, another.
const HIDDEN: &str = "POST /hidden HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";

/// An edge that soon closes a connection on which nothing more comes.
async fn impatient() -> Edge {
    Edge::start_with(|config| {
        config.limits.head_deadline = SHORT;
        config.limits.body_deadline = SHORT;
    })
    .await
}

/// What a connection of an [`impatient`] edge answers to these bytes, until it ends: the statuses.
async fn answers(edge: &Edge, bytes: &[u8]) -> Vec<u16> {
    let mut wire = edge.http1().await;
    wire.write(bytes).await;
    let mut statuses = Vec::new();
    while let Some(reply) = wire.try_reply().await {
        statuses.push(reply.status);
    }
    statuses
}

#[tokio::test]
async fn smuggled_requests_are_not_answered() {
    let edge = impatient().await;
    let head = String::from_utf8(Ask::good().head_http1()).unwrap();
    let (len, body) = (NATIVE.len(), chunked(NATIVE));
    let whole = body.len() + HIDDEN.len();
    let cases: Vec<(&str, String, &[u16])> = vec![
        // A proxy that goes by the length would take the hidden request for a part of the body, and one that goes by the
        // chunks the other way round. Chunks win here, and the connection ends with the answer.
        (
            "length, then chunked",
            format!("content-length: {whole}\r\ntransfer-encoding: chunked\r\n\r\n{body}{HIDDEN}"),
            &[200],
        ),
        (
            "chunked, then length",
            format!("transfer-encoding: chunked\r\ncontent-length: {whole}\r\n\r\n{body}{HIDDEN}"),
            &[200],
        ),
        (
            "chunked, then no length",
            format!("transfer-encoding: chunked\r\ncontent-length: x\r\n\r\n{body}{HIDDEN}"),
            &[200],
        ),
        (
            "two lengths",
            format!("content-length: {len}\r\ncontent-length: {}\r\n\r\n{NATIVE}{HIDDEN}", len + 1),
            &[400],
        ),
        ("lengths in one", format!("content-length: {len}, {}\r\n\r\n{NATIVE}{HIDDEN}", len + 1), &[400]),
        ("a signed length", format!("content-length: +{len}\r\n\r\n{NATIVE}{HIDDEN}"), &[400]),
        ("a space before the colon", format!("transfer-encoding : chunked\r\n\r\n{body}{HIDDEN}"), &[400]),
        (
            "a tab before the value",
            format!("transfer-encoding:\tchunked\r\ncontent-length: 3\r\n\r\n{body}{HIDDEN}"),
            &[200],
        ),
        (
            "another white space",
            format!("transfer-encoding: \u{b}chunked\r\ncontent-length: {len}\r\n\r\n{NATIVE}{HIDDEN}"),
            &[400],
        ),
        ("a folded value", format!("transfer-encoding:\r\n chunked\r\n\r\n{body}{HIDDEN}"), &[400]),
        ("a null", format!("transfer-encoding: chunked\0\r\n\r\n{body}{HIDDEN}"), &[400]),
        ("quoted", format!("transfer-encoding: \"chunked\"\r\ncontent-length: {len}\r\n\r\n{NATIVE}{HIDDEN}"), &[400]),
        (
            "chunked, then not",
            format!("transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n\r\n{body}{HIDDEN}"),
            &[400],
        ),
        (
            "not, then chunked",
            format!("transfer-encoding: cow\r\ntransfer-encoding: chunked\r\n\r\n{body}{HIDDEN}"),
            &[501],
        ),
        ("a chunk longer than it says", format!("transfer-encoding: chunked\r\n\r\n1\r\n{body}{HIDDEN}"), &[400]),
        (
            "a line feed alone in a chunk",
            format!("transfer-encoding: chunked\r\n\r\n{len:x}\n{NATIVE}\r\n0\r\n\r\n{HIDDEN}"),
            &[400],
        ),
    ];
    for (name, rest, expect) in cases {
        let got = answers(&edge, format!("{head}{rest}").as_bytes()).await;
        assert_eq!(got, expect, "{name}");
    }
    edge.after_flood().await;
    assert_eq!(edge.outcome("not_found"), 0.0, "no hidden request was seen");
    edge.finish().await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_not_taken_for_requests() {
    let edge = impatient().await;
    // Refused by their heads: what follows is still their body.
    let body = HIDDEN.repeat(3);
    let refused = [
        Ask::good().to("/nowhere"),
        Ask::good().method("GET"),
        Ask::good().without("x-webhook-signature"),
        Ask::good().with("content-encoding", "gzip"),
    ];
    for ask in refused {
        let statuses = answers(&edge, &Ask { body: body.clone().into_bytes(), ..ask.clone() }.to_http1()).await;
        assert_eq!(statuses.len(), 1, "{ask:?}: {statuses:?}");
        let as_chunks = [ask.head_http1(), b"transfer-encoding: chunked\r\n\r\n".to_vec(), chunked(&body).into_bytes()];
        let statuses = answers(&edge, &as_chunks.concat()).await;
        assert_eq!(statuses.len(), 1, "{ask:?}: {statuses:?}");
    }
    edge.after_flood().await;
    assert_eq!(edge.outcome("not_found"), 2.0, "those that asked for it themselves");
    edge.finish().await;
}

#[tokio::test]
async fn a_line_feed_alone_ends_a_line_and_nothing_else() {
    let edge = impatient().await;
    // The library takes it, as RFC 9112, 2.2 allows: so a header behind it is a header, and no way around a check.
    let head = String::from_utf8(Ask::good().head_http1()).unwrap();
    let lines = |rest: &str| format!("{head}{rest}").replace("\r\n", "\n");
    let length = format!("content-length: {}\r\n\r\n", NATIVE.len());
    assert_eq!(answers(&edge, format!("{}{NATIVE}", lines(&length)).as_bytes()).await, [200]);
    let hidden = format!("{head}x: y\ntransfer-encoding: chunked\r\n{length}{}{HIDDEN}", chunked(NATIVE));
    assert_eq!(answers(&edge, hidden.as_bytes()).await, [200]);
    let doubled = format!("{head}x: y\ncontent-length: 1\r\n{length}{NATIVE}");
    assert_eq!(answers(&edge, doubled.as_bytes()).await, [400]);
    let second = format!("{head}x: y\nx-webhook-signature: z\r\n{length}{NATIVE}");
    assert_eq!(answers(&edge, second.as_bytes()).await, [400]);
    edge.after_flood().await;
    assert_eq!((edge.outcome("duplicate_header"), edge.outcome("not_found")), (1.0, 0.0));
    edge.finish().await;
}

#[tokio::test]
async fn no_other_protocol_can_be_asked_for() {
    let edge = impatient().await;
    let upgrade = Ask::good()
        .with("connection", "Upgrade, HTTP2-Settings")
        .with("upgrade", "h2c")
        .with("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA");
    edge.http1().await.ask(&upgrade).await.check(200, "received");
    let websocket = Ask::good().method("GET").with("connection", "upgrade").with("upgrade", "websocket");
    edge.http1().await.ask(&websocket).await.check(405, "method_not_allowed");
    let connect = answers(&edge, b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n").await;
    assert!(matches!(connect[..], [400 | 404 | 405]), "{connect:?}");
    edge.after_flood().await;
    edge.finish().await;
}

/// Writes a byte now and then until the server closes the connection.
async fn trickle<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, bytes: &[u8]) {
    let mut answer = [0; 1024];
    let trickling = async {
        for byte in bytes.iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            // An answer may come before the end.
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(20), stream.read(&mut answer)).await {
                return;
            }
        }
    };
    timeout(PATIENCE, trickling).await.expect("the server closes the connection, however the bytes come");
}

/// Many connections, each of which is to be closed.
async fn all(attack: impl AsyncFn()) {
    let attacks: Vec<_> = (0..MANY).map(|_| Box::pin(attack())).collect();
    join_all(attacks).await;
}

/// Ends when all have ended.
async fn join_all<F: Future<Output = ()> + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn slow_handshakes() {
    let edge = Edge::start_with(|config| config.limits.handshake_deadline = SHORT).await;
    served_meanwhile(&edge, async {
        all(async || {
            let mut stream = TcpStream::connect(edge.address()).await.unwrap();
            // The beginning of a record of 16 KiB that would hold a hello.
            trickle(&mut stream, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03").await;
        })
        .await;
    })
    .await;
    edge.until("all are counted", |edge| edge.connection_outcome("handshake_timeout") == MANY as f64).await;
    edge.finish().await;
}

#[tokio::test]
async fn slow_handshakes_from_one_address_keep_no_other_waiting() {
    const HANDSHAKES: usize = 8;
    let edge = Edge::start_with(|config| config.limits.handshakes_max = HANDSHAKES).await;
    let mut begun = Vec::new();
    for _ in 0..2 * HANDSHAKES {
        begun.push(hello_begun_from(&edge, 2).await);
    }
    let all = (2 * HANDSHAKES) as f64;
    edge.until("all are under way", |edge| edge.metrics.value("ingest_connections_open", &[]) == all).await;
    // Theirs has not ended by then: it may take ten seconds.
    edge.check(&Ask::good(), 200, "received").await;
    assert_eq!(edge.connection_outcome("handshake_timeout"), 0.0);
    drop(begun);
    edge.finish().await;
}

#[tokio::test]
async fn slow_heads() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    served_meanwhile(&edge, async {
        all(async || {
            let mut stream = edge.connect("http/1.1").await;
            stream.write_all(b"POST /webhook HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
            trickle(&mut stream, b"x: y\r\n").await;
        })
        .await;
    })
    .await;
    edge.until("all are counted", |edge| edge.connection_outcome("head_timeout") == MANY as f64).await;
    edge.finish().await;
}

#[tokio::test]
async fn empty_lines_before_a_head_are_no_head() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    served_meanwhile(&edge, async {
        trickle(&mut edge.connect("http/1.1").await, b"\r\n").await;
    })
    .await;
    edge.until("it is counted", |edge| edge.connection_outcome("head_timeout") == 1.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn slow_bodies() {
    let edge = Edge::start_with(|config| config.limits.body_deadline = SHORT).await;
    let head = [Ask::good().head_http1(), b"content-length: 100000\r\n\r\n".to_vec()].concat();
    let chunks = [Ask::good().head_http1(), b"transfer-encoding: chunked\r\n\r\n".to_vec()].concat();
    served_meanwhile(&edge, async {
        all(async || {
            let mut stream = edge.connect("http/1.1").await;
            stream.write_all(&head).await.unwrap();
            trickle(&mut stream, b"x").await;
        })
        .await;
        all(async || {
            let mut stream = edge.connect("http/1.1").await;
            stream.write_all(&chunks).await.unwrap();
            trickle(&mut stream, b"1\r\nx\r\n").await;
        })
        .await;
    })
    .await;
    edge.after_flood().await;
    assert_eq!(edge.outcome("body_timeout"), 2.0 * MANY as f64);
    edge.finish().await;
}

#[tokio::test]
async fn idle_connections() {
    let edge = Edge::start_with(|config| {
        config.limits.head_deadline = SHORT;
        config.limits.connections_per_ip_max = 2 * MANY + 10;
    })
    .await;
    served_meanwhile(&edge, async {
        let mut idle = Vec::new();
        for _ in 0..MANY {
            idle.push(edge.connect("http/1.1").await);
            idle.push(edge.connect("h2").await);
        }
        for mut stream in idle {
            let mut received = Vec::new();
            let _end = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server closes it");
        }
    })
    .await;
    edge.until("none is open", |edge| edge.metrics.value("ingest_connections_open", &[]) == 0.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn a_sender_that_never_reads_on_http1() {
    let edge = Edge::start_with(|config| {
        config.limits.connection_age_max = SHORT;
        config.limits.head_deadline = SHORT;
        config.limits.body_deadline = SHORT;
        config.publish.ack_deadline = SHORT;
        config.limits.requests_per_connection_max = u64::MAX;
    })
    .await;
    served_meanwhile(&edge, async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(edge.address()).await.unwrap();
        let mut stream = edge.secure(stream, "http/1.1").await;
        let requests = Ask { body: Vec::new(), ..Ask::good() }.to("/nowhere").to_http1().repeat(100);
        let flood = async { while stream.write_all(&requests).await.is_ok() {} };
        timeout(PATIENCE, flood).await.expect("the server closes the connection, though it cannot say anything");
    })
    .await;
    edge.after_flood().await;
    edge.until("it is closed", |edge| edge.metrics.value("ingest_connections_open", &[]) == 0.0).await;
    edge.finish().await;
}

/// Writes the same again and again, to `count` times, until the server has closed the connection.
async fn flood(raw: &mut Raw<'_>, bytes: &[u8], count: usize) {
    const AT_ONCE: usize = 100;
    let burst = bytes.repeat(AT_ONCE);
    for _ in 0..count / AT_ONCE {
        if !raw.write(&burst).await {
            return;
        }
        // The server and the good sender have their turns.
        tokio::task::yield_now().await;
    }
}

/// Floods a connection; it must be told to go away, and counted as flooded.
async fn flooded(edge: &Edge, before: &[u8], bytes: &[u8]) -> u32 {
    let flooded = edge.connection_outcome("flooded");
    let goodbye = served_meanwhile(edge, async {
        let mut raw = Raw::connect(edge).await;
        assert!(raw.write(before).await);
        flood(&mut raw, bytes, 200_000).await;
        raw.farewell().await.expect("GOAWAY")
    })
    .await;
    edge.until("it is counted", |edge| edge.connection_outcome("flooded") == flooded + 1.0).await;
    edge.after_flood().await;
    goodbye.reason()
}

#[tokio::test]
async fn row_36_floods_of_frames_that_no_request_explains() {
    let edge = Edge::start().await;
    let floods: [(&str, Vec<u8>); 8] = [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("answers to pings", frame(PING, ACK, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("settings that change", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0, 0])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("frames of an unknown kind", frame(0xee, 0, 0, &[])),
        ("large ones of an unknown kind", frame(0xee, 0, 0, &[0; 10_000])),
    ];
    for (name, bytes) in floods {
        let before = edge.counts();
        flooded(&edge, &[], &bytes).await;
        let received = edge.outcome("received") - before["received"];
        edge.counted(&before, &[("received", received)]);
        assert!(received >= 1.0, "{name}");
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_36_frames_without_a_request_have_a_number() {
    const MAX: usize = 100;
    let edge = Edge::start_with(|config| config.limits.frames_without_request_max = MAX as u64).await;
    let mut raw = Raw::connect(&edge).await;
    // The settings of its beginning were the first.
    assert!(raw.write(&frame(PING, 0, 0, &[0; 8]).repeat(MAX - 1)).await);
    for _ in 0..MAX - 1 {
        raw.until(PING).await.expect("an answer");
    }
    assert_eq!(edge.metrics.value("ingest_connections_open", &[]), 1.0);
    assert!(raw.write(&frame(PING, 0, 0, &[0; 8])).await);
    raw.farewell().await.expect("GOAWAY");
    edge.until("it is counted", |edge| edge.connection_outcome("flooded") == 1.0).await;

    // Data is none of them: the library has its own bounds there.
    let ask = Ask::native(format!("{NATIVE}{}", " ".repeat(200 * 300)));
    let mut raw = Raw::connect(&edge).await;
    edge.sent.fetch_add(1, Ordering::SeqCst);
    let stream = raw.open();
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &head(&ask));
    ask.body.chunks(300).for_each(|piece| bytes.extend(frame(DATA, 0, stream, piece)));
    bytes.extend(frame(DATA, END_STREAM, stream, &[]));
    assert!(raw.write(&bytes).await);
    assert_eq!(raw.until(HEADERS).await.expect("an answer").payload[0], 0x88);
    drop(raw);
    edge.finish().await;
}

#[tokio::test]
async fn row_36_rapid_resets() {
    let edge = Edge::start().await;
    // The streams' numbers go on, so each pair is written anew.
    for (name, open) in [("whole", END_HEADERS | END_STREAM), ("half", END_HEADERS)] {
        let flooded = edge.connection_outcome("flooded");
        let block = head(&Ask { body: Vec::new(), ..Ask::good() });
        let goodbye = served_meanwhile(&edge, async {
            let mut raw = Raw::connect(&edge).await;
            for _ in 0..2000 {
                let mut burst = Vec::new();
                for _ in 0..100 {
                    let stream = raw.open();
                    burst.extend(frame(HEADERS, open, stream, &block));
                    burst.extend(frame(RST_STREAM, 0, stream, &CANCEL));
                }
                if !raw.write(&burst).await {
                    break;
                }
                tokio::task::yield_now().await;
            }
            raw.farewell().await.expect("GOAWAY")
        })
        .await;
        assert_eq!(goodbye.reason(), ENHANCE_YOUR_CALM, "{name}");
        edge.until("it is counted", |edge| edge.connection_outcome("flooded") == flooded + 1.0).await;
        edge.after_flood().await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_36_streams_over_the_limit() {
    let edge = Edge::start().await;
    let block = head(&Ask::good());
    let flooded = edge.connection_outcome("flooded");
    served_meanwhile(&edge, async {
        let mut raw = Raw::connect(&edge).await;
        for _ in 0..2000 {
            // None ends, so the first 64 stay, and every other is refused.
            let burst: Vec<u8> = (0..100).flat_map(|_| frame(HEADERS, END_HEADERS, raw.open(), &block)).collect();
            if !raw.write(&burst).await {
                break;
            }
            tokio::task::yield_now().await;
        }
        raw.farewell().await.expect("GOAWAY");
    })
    .await;
    edge.until("it is counted", |edge| edge.connection_outcome("flooded") == flooded + 1.0).await;
    edge.after_flood().await;
    edge.finish().await;
}

#[tokio::test]
async fn row_36_continuation_floods() {
    let edge = Edge::start().await;
    let beginning = frame(HEADERS, 0, 1, &head(&Ask::good()));
    // Each adds a header, an empty piece, or the piece of one that never ends.
    let header = block([("x-more", &b"y"[..])]);
    let endless = [&[0, 6][..], b"x-more", &[0x7f, 0xff, 0xff, 0xff, 0x7f], &[b'y'; 1000]].concat();
    for (name, before, piece) in [
        ("headers", beginning.clone(), header),
        ("nothing", beginning.clone(), Vec::new()),
        ("a long value", [beginning, frame(CONTINUATION, 0, 1, &endless)].concat(), vec![b'y'; 10_000]),
    ] {
        let ended = edge.connection_outcome("flooded") + edge.connection_outcome("broken");
        let goodbye = served_meanwhile(&edge, async {
            let mut raw = Raw::connect(&edge).await;
            assert!(raw.write(&before).await);
            flood(&mut raw, &frame(CONTINUATION, 0, 1, &piece), 100_000).await;
            raw.farewell().await.expect("GOAWAY")
        })
        .await;
        assert_ne!(goodbye.reason(), 0, "{name}");
        let counted = |edge: &Edge| edge.connection_outcome("flooded") + edge.connection_outcome("broken");
        edge.until("it is counted", |edge| counted(edge) == ended + 1.0).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_36_empty_and_tiny_data() {
    let edge = Edge::start().await;
    let beginning = frame(HEADERS, END_HEADERS, 1, &head(&Ask::good()));
    for data in [&b""[..], b"x"] {
        assert_eq!(flooded(&edge, &beginning, &frame(DATA, 0, 1, data)).await, ENHANCE_YOUR_CALM, "{data:?}");
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_36_header_blocks_that_grow_when_they_are_read() {
    let edge = Edge::start().await;
    // One field goes into the table; the rest of the block names it again and again: 35 MB out of 15 KB.
    let field = [&[0x40, 1][..], b"a", &[0x7f, 0xa9, 0x16], &[b'y'; 127 + 0x29 + 0x16 * 128]].concat();
    let block = [block([(":method", &b"POST"[..])]), field, vec![0x80 | 62; 12_000]].concat();
    let before = edge.counts();
    served_meanwhile(&edge, async {
        let mut raw = Raw::connect(&edge).await;
        for _ in 0..100 {
            let stream = raw.open();
            if !raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await {
                break;
            }
        }
        let goodbye = raw.farewell().await.expect("GOAWAY");
        assert_ne!(goodbye.reason(), 0);
    })
    .await;
    let received = edge.outcome("received");
    edge.counted(&before, &[("received", received)]);
    edge.finish().await;
}

#[tokio::test]
async fn an_http2_sender_that_opens_no_window() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    served_meanwhile(&edge, async {
        // Nobody may send it a byte of an answer's body.
        let mut raw = Raw::with_settings(&edge, &[(4, 0)]).await;
        for _ in 0..64 {
            raw.send(&Ask::good()).await;
        }
        for _ in 0..64 {
            assert_eq!(raw.until(HEADERS).await.expect("the answer's head").payload[0], 0x88);
        }
        while raw.next().await.is_some() {}
    })
    .await;
    edge.until("it is closed by force", |edge| edge.connection_outcome("aborted") == 1.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn an_http2_sender_that_never_reads() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    served_meanwhile(&edge, async {
        let mut raw = Raw::connect(&edge).await;
        let request = |raw: &mut Raw<'_>| {
            let stream = raw.open();
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(&Ask::good().to("/nowhere")))
        };
        loop {
            let burst: Vec<u8> = (0..100).flat_map(|_| request(&mut raw)).collect();
            match timeout(PATIENCE, raw.stream.write_all(&burst)).await.expect("the server closes it") {
                Ok(()) => tokio::task::yield_now().await,
                Err(_) => break,
            }
        }
    })
    .await;
    edge.after_flood().await;
    edge.until("it is closed", |edge| edge.metrics.value("ingest_connections_open", &[]) == 0.0).await;
    edge.finish().await;
}

#[tokio::test]
async fn an_http2_head_that_never_ends() {
    let edge = Edge::start_with(|config| config.limits.head_deadline = SHORT).await;
    let beginnings: [&[u8]; 2] = [&frame(HEADERS, 0, 1, &head(&Ask::good())), &[0, 0, 8, PING]];
    for beginning in beginnings {
        served_meanwhile(&edge, async {
            let mut raw = Raw::connect(&edge).await;
            assert!(raw.write(beginning).await);
            while raw.next().await.is_some() {}
        })
        .await;
    }
    // Not even the preface.
    served_meanwhile(&edge, async {
        let mut stream = edge.connect("h2").await;
        stream.write_all(b"PRI * HT").await.unwrap();
        let mut received = Vec::new();
        let _end = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server closes it");
    })
    .await;
    edge.finish().await;
}

#[tokio::test]
async fn a_busy_good_connection_is_no_flood() {
    // So that the requests have to explain their frames.
    let edge = Edge::start_with(|config| config.limits.frames_without_request_max = 100).await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..500 {
        raw.send(&Ask::good()).await;
        // A client that gives back its windows after each answer and measures its way.
        let polite = [frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]), frame(PING, 0, 0, &[1; 8])].concat();
        assert!(raw.write(&polite).await);
        assert_eq!(raw.until(HEADERS).await.expect("an answer").payload[0], 0x88);
    }
    drop(raw);
    assert_eq!(edge.connection_outcome("flooded"), 0.0);
    edge.finish().await;
}
