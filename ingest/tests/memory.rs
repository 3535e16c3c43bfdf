//! The memory of the real binary under attack, held against the bound that its configuration gives
//! (`Config::memory_bytes_max`). Each attack would take more than the bound, were it let.
//!
//! What is measured is the resident set of the process, so the allocator's own waste is in it too. `cargo test --test memory --
//! --nocapture` shows it before, at the peak of and after each attack.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "tests")]

#[allow(dead_code, reason = "the frames of all tests; these need some")]
#[path = "../src/tests/frames.rs"]
mod frames;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::kafka::embedded::EmbeddedKafka;
use common::secret::Secret;
use common::signature::{self, Timestamp};
use frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, block, frame};
use hyper::body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingest::Config;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"test-secret-do-not-use";
const BODY_BYTES: usize = 1024 * 1024;
const CONNECTIONS: usize = 400;
/// What is kept of an attack's connections is what counts, so they may last.
const CONFIG: &str = r#"
listen = { address = "127.0.0.1:0", certificate = "server.pem", key = "server.key" }
admin.address = "127.0.0.1:0"
pipeline.edge_key.file = "edge-1"
source.acme.secrets = [{ id = "s1", file = "acme.s1" }]
publish = { queue_bytes = "8MiB", queue_records = 1000 }
drain.notice = "1ms"
[limits]
body_bytes_max = "1MiB"
requests_in_flight_max = 16
connections_max = 400
connections_per_ip_max = 400
body_deadline = "8s"
head_deadline = "8s"
"#;

/// A running binary. It is killed when this is dropped.
struct Process {
    child: Child,
    server: Arc<Server>,
    _kafka: EmbeddedKafka,
    _dir: tempfile::TempDir,
}

/// What its clients know.
struct Server {
    pid: u32,
    address: SocketAddr,
    admin: SocketAddr,
    tls: TlsConnector,
    bound: u64,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Process {
    fn start() -> Self {
        let kafka = EmbeddedKafka::start([("sealstream.inbox", 1)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).unwrap();
        write("server.pem", certified.cert.pem().as_bytes());
        write("server.key", certified.signing_key.serialize_pem().as_bytes());
        write("edge-1", b"edge-key-of-tests-edge-key-of-te");
        write("acme.s1", SECRET);
        write("ingest.toml", CONFIG.as_bytes());
        let config = Config::load(Some(&dir.path().join("ingest.toml")), std::iter::empty()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ingest"))
            .args(["--config", "ingest.toml"])
            .current_dir(dir.path())
            .env_clear()
            .env("INGEST__KAFKA__BOOTSTRAP", kafka.config().bootstrap)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("ingest listens") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it listens");
        }
        // Whatever else it says must not make it wait.
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let field =
            |name: &str| said.pointer(&format!("/{name}")).or(said.pointer(&format!("/fields/{name}"))).unwrap();
        let address = |name: &str| field(name).as_str().unwrap().parse().unwrap();
        let bound = config.memory_bytes_max();
        assert_eq!(field("memory_bytes_max").as_u64(), Some(bound), "it says so itself");
        let (address, admin) = (address("local_addr"), address("admin_addr"));
        let tls = connector(&dir.path().join("server.pem"));
        let server = Arc::new(Server { pid: child.id(), address, admin, tls, bound });
        Self { child, server, _kafka: kafka, _dir: dir }
    }
}

impl Server {
    /// The resident set, in bytes.
    fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    async fn connect(&self, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.tls.config().as_ref().clone();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Sends a good request and answers its status.
    async fn good(&self) -> std::io::Result<u16> {
        let mut stream = self.connect("http/1.1").await?;
        let body = br#"{"encrypted":"AAAAAAAAAAAAAAAAAAAAAA==","nonce":"AAECAwQFBgcICQoL"}"#;
        let head = [head_http1(&fields(body)), format!("content-length: {}\r\n\r\n", body.len()).into_bytes()].concat();
        stream.write_all(&[head, body.to_vec()].concat()).await?;
        stream.flush().await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok(std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap())
    }

    /// How many connections it has open.
    async fn open(&self) -> u64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("ingest_connections_open ")).unwrap();
        line.parse::<f64>().unwrap() as u64
    }
}

fn connector(certificate: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in common::tls::certificates(certificate).unwrap() {
        roots.add(certificate).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(&common::tls::VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

/// The fields of a request with this body, rightly signed.
fn fields(body: &[u8]) -> Vec<(&'static str, String)> {
    let now = common::clock::Clock::system().unix_s();
    let timestamp = Timestamp::at(now).unwrap();
    vec![
        ("content-type", "application/json".into()),
        ("x-webhook-signature", signature::sign(&Secret::from(SECRET.to_vec()), &timestamp, body)),
        ("x-webhook-timestamp", timestamp.to_string()),
        ("x-encryption-nonce", "AAECAwQFBgcICQoL".into()),
    ]
}

fn head_http1(fields: &[(&str, String)]) -> Vec<u8> {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST /webhook HTTP/1.1\r\nhost: localhost\r\n{fields}").into_bytes()
}

fn head_http2(fields: &[(&str, String)]) -> Vec<u8> {
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", b"POST"), (":scheme", b"https"), (":authority", b"localhost"), (":path", b"/webhook")];
    block(pseudo.into_iter().chain(fields.iter().map(|(name, value)| (*name, value.as_bytes()))))
}

/// Runs an attack on a fresh process. `attempted` is what it would take, were it let; without it the attack has no end.
async fn under(name: &str, attempted: Option<u64>, attack: impl AsyncFnOnce(Arc<Server>)) {
    let process = Process::start();
    let server = process.server.clone();
    for _ in 0..20 {
        until_good(&server).await;
    }
    let before = server.resident();
    let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(before)));
    let watch = {
        let (server, over, peak) = (server.clone(), over.clone(), peak.clone());
        tokio::task::spawn_blocking(move || {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(server.resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    timeout(PATIENCE, attack(server.clone())).await.expect("the attack ends");
    let closed = timeout(PATIENCE, async {
        while server.open().await > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    });
    closed.await.expect("every connection of the attack is closed");
    over.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    until_good(&server).await;
    let (peak, after, bound) = (peak.load(Ordering::Relaxed), server.resident(), server.bound);
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    println!(
        "{name}: before {:.1}, peak {:.1}, after {:.1} MiB; taken {:.1} of {:.1} MiB allowed, attempted {}",
        mib(before),
        mib(peak),
        mib(after),
        mib(peak - before),
        mib(bound),
        attempted.map_or("without end".into(), |bytes| format!("{:.1} MiB", mib(bytes)))
    );
    assert!(attempted.is_none_or(|attempted| attempted > bound), "{name} tries to exceed the bound");
    assert!(peak - before <= bound, "{name}");
}

/// Sends a good request until one is answered 200.
async fn until_good(server: &Server) {
    let good = async { while server.good().await.ok() != Some(200) {} };
    timeout(PATIENCE, good).await.expect("a good request is answered");
}

/// Runs as many clients at once as there may be connections.
async fn many<F>(server: &Arc<Server>, client: impl Fn(Arc<Server>) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(client(server.clone()));
    }
    // How each ends is its own affair: the server breaks off most of them.
    while clients.join_next().await.is_some() {}
}

/// Reads until the server closes the connection.
async fn read_to_end(stream: &mut TlsStream<TcpStream>) {
    let mut received = vec![0; 16 * 1024];
    while let Ok(1..) = stream.read(&mut received).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_on_http1() {
    let attempted = Some((CONNECTIONS * BODY_BYTES) as u64);
    under("bodies on HTTP/1.1", attempted, async |server| {
        let body = vec![b' '; BODY_BYTES - 1];
        let head = Arc::new(head_http1(&fields(&body)));
        many(&server, |server| {
            let head = head.clone();
            async move {
                let mut stream = server.connect("http/1.1").await?;
                // One byte less than declared, so that it is waited for.
                let begin = [head.as_slice(), format!("content-length: {BODY_BYTES}\r\n\r\n").as_bytes()].concat();
                stream.write_all(&begin).await?;
                stream.write_all(&vec![b' '; BODY_BYTES - 1]).await?;
                read_to_end(&mut stream).await;
                Ok(())
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_small_chunks() {
    let attempted = Some((CONNECTIONS * BODY_BYTES) as u64);
    under("bodies in chunks", attempted, async |server| {
        let head = Arc::new(head_http1(&fields(b"")));
        many(&server, |server| {
            let head = head.clone();
            async move {
                let mut stream = server.connect("http/1.1").await?;
                stream.write_all(&[head.as_slice(), b"transfer-encoding: chunked\r\n\r\n"].concat()).await?;
                let chunk = [&b"400\r\n"[..], &[b' '; 1024], b"\r\n"].concat();
                for _ in 0..BODY_BYTES / 1024 / 8 {
                    stream.write_all(&chunk.repeat(8)).await?;
                }
                read_to_end(&mut stream).await;
                Ok(())
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_on_http2() {
    const STREAMS: usize = 8;
    let attempted = Some((CONNECTIONS * STREAMS * BODY_BYTES) as u64);
    under("bodies on HTTP/2", attempted, async |server| {
        many(&server, |server| async move {
            let io = TokioIo::new(server.connect("h2").await?);
            let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.map_err(std::io::Error::other)?;
            let driver = tokio::spawn(connection);
            let mut answers = JoinSet::new();
            for _ in 0..STREAMS {
                let mut request = http::Request::post("https://localhost/webhook");
                for (name, value) in fields(b"") {
                    request = request.header(name, value);
                }
                let request = request.body(Unending(BODY_BYTES - 1)).unwrap();
                answers.spawn(sender.clone().send_request(request));
            }
            while answers.join_next().await.is_some() {}
            drop(sender);
            let _ended = driver.await;
            Ok(())
        })
        .await;
    })
    .await;
}

/// A body of so many bytes, which does not end with them.
struct Unending(usize);

impl Body for Unending {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        const PIECE: &[u8] = &[b' '; 16 * 1024];
        if self.0 == 0 {
            return Poll::Pending;
        }
        let len = self.0.min(PIECE.len());
        self.0 -= len;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..len])))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end() {
    let attempted = Some((CONNECTIONS * BODY_BYTES) as u64);
    under("heads without end", attempted, async |server| {
        many(&server, |server| async move {
            let mut stream = server.connect("http/1.1").await?;
            stream.write_all(b"POST /webhook HTTP/1.1\r\nhost: localhost\r\nx: ").await?;
            for _ in 0..BODY_BYTES / 1024 {
                stream.write_all(&[b'y'; 1024]).await?;
                stream.flush().await?;
            }
            read_to_end(&mut stream).await;
            Ok(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_blocks_that_never_end_or_grow() {
    let field = [&[0x40, 1][..], b"a", &[0x7f, 0xa9, 0x16], &[b'y'; 127 + 0x29 + 0x16 * 128]].concat();
    let bomb = Arc::new([block([(":method", &b"POST"[..])]), field, vec![0x80 | 62; 12_000]].concat());
    let attempted = Some((CONNECTIONS * 12_000 * 2984) as u64);
    under("header blocks that grow", attempted, async |server| {
        many(&server, |server| {
            let bomb = bomb.clone();
            async move {
                let mut stream = server.connect("h2").await?;
                stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
                stream.write_all(&frame(HEADERS, 0, 1, &bomb)).await?;
                for _ in 0..100 {
                    stream.write_all(&frame(CONTINUATION, 0, 1, &[0x80 | 62; 12_000])).await?;
                }
                stream.flush().await?;
                read_to_end(&mut stream).await;
                Ok(())
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_end() {
    const FRAMES: usize = 10_000;
    under("resets and pings", None, async |server| {
        let head = Arc::new(head_http2(&fields(b"")));
        many(&server, |server| {
            let head = head.clone();
            async move {
                let mut stream = server.connect("h2").await?;
                stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
                for burst in 0..FRAMES as u32 / 100 {
                    let mut bytes = Vec::new();
                    for number in 0..33 {
                        let id = 1 + 2 * (33 * burst + number);
                        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &head));
                        bytes.extend(frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
                        bytes.extend(frame(PING, 0, 0, &[0; 8]));
                    }
                    stream.write_all(&bytes).await?;
                }
                read_to_end(&mut stream).await;
                Ok(())
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_nothing() {
    under("idle connections", None, async |server| {
        for _ in 0..3 {
            many(&server, |server| async move {
                let mut stream = server.connect("h2").await?;
                timeout(Duration::from_secs(3), read_to_end(&mut stream)).await.unwrap_or(());
                Ok(())
            })
            .await;
        }
    })
    .await;
}
