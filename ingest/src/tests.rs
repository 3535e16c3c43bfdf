//! The edge as its senders see it: a whole ingest in this process, over real TLS, with an embedded Kafka behind it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod abuse;
mod attacks;
mod connections;
mod contract;
mod frames;
mod lifecycle;
mod limits;
mod mtls;
mod proxies;
mod raw;
mod reload;
mod rows;
mod vectors;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::clock::{Clock, ManualClock};
use common::kafka::consumer::Reader;
use common::kafka::embedded::EmbeddedKafka;
use common::record::{Head, RecordKey, RecordKeys};
use common::secret::Secret;
use common::shutdown::Group;
use common::signature::{self, Timestamp};
use common::telemetry::Metrics;
use common::topics::Topic;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::metrics::Outcome;
use crate::{Config, Deps, Running, start, start_from};

/// The time at which the vectors were signed.
pub(crate) const NOW_S: u64 = 1_700_000_000;
/// Longest that anything may take here; much longer than it does.
const PATIENCE: Duration = Duration::from_secs(20);
const PARTITIONS: i32 = 4;

pub(crate) const SECRET: &[u8] = b"test-secret-do-not-use";
const SECOND_SECRET: &[u8] = b"second-secret-do-not-use";
const OTHER_SECRET: &[u8] = b"other-secret-do-not-use";
const OFF_SECRET: &[u8] = b"switched-off-secret-do-not-use";
const EDGE_KEY: &[u8] = b"edge-key-of-tests-edge-key-of-te";
const NEXT_EDGE_KEY: &[u8] = b"next-edge-key-of-tests-next-edge";
/// The envelope of the vectors.
pub(crate) const NATIVE: &str =
    r#"{"encrypted":"PCC/f+ff4H77Nci6k8VaGfqm4hbKWS8VVgDH+BBpo2FK85LyulZiAyQG6YE=","nonce":"AAECAwQFBgcICQoL"}"#;
pub(crate) const NONCE: &str = "AAECAwQFBgcICQoL";

/// Two sources on `/webhook` (`acme` with two secrets, `other`), a disabled one that shares it, one on a path of its own
/// that sends only JWE, and a disabled one on a path of its own.
const SOURCES: &str = r#"
[source.acme]
secrets = [{ id = "s1", file = "acme.s1" }, { id = "s2", file = "acme.s2" }]
[source.other]
secrets = [{ id = "s1", file = "other.s1" }]
formats = ["native"]
[source.off]
enabled = false
secrets = [{ id = "s1", file = "off.s1" }]
[source.sealed]
path = "/sealed"
formats = ["jwe"]
secrets = [{ id = "s1", file = "sealed.s1" }]
[source.closed]
enabled = false
path = "/closed"
"#;

/// A configuration whose files lie in `dir`.
fn config_in(dir: &Path) -> Config {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, content: &[u8]| std::fs::write(dir.join(name), content).unwrap();
    write("server.pem", certified.cert.pem().as_bytes());
    write("server.key", certified.signing_key.serialize_pem().as_bytes());
    write("acme.s1", SECRET);
    write("acme.s2", SECOND_SECRET);
    write("other.s1", OTHER_SECRET);
    write("off.s1", OFF_SECRET);
    write("sealed.s1", b"sealed-secret-do-not-use");
    write("edge-1", EDGE_KEY);
    let base = "listen = { address = \"127.0.0.1:0\", certificate = \"server.pem\", key = \"server.key\" }\n\
                admin.address = \"127.0.0.1:0\"\npipeline.edge_key.file = \"edge-1\"\ndrain.notice = \"1ms\"\n";
    write("ingest.toml", format!("{base}{SOURCES}").as_bytes());
    let mut config = Config::load(Some(&dir.join("ingest.toml")), std::iter::empty()).unwrap();
    // The clock stands still, so what an address may fail would be used up once and for all. Tests of that limit set it.
    config.limits.failed_authentications_per_second = 0;
    config
}

/// A configuration whose files exist no longer.
pub(crate) fn config() -> Config {
    config_in(tempfile::tempdir().unwrap().path())
}

/// A running ingest and what it needs. [`finish`](Self::finish) it, so that its books are checked.
struct Edge {
    running: Running,
    group: Group,
    metrics: Metrics,
    clock: ManualClock,
    kafka: EmbeddedKafka,
    /// Requests whose head was sent whole.
    sent: AtomicU64,
    dir: TempDir,
}

impl Edge {
    async fn start() -> Self {
        Self::start_with(|_config| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(EmbeddedKafka::start([("sealstream.inbox", PARTITIONS)]).unwrap(), change).await
    }

    async fn start_on(kafka: EmbeddedKafka, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config_in(dir.path());
        config.kafka = kafka.config();
        change(&mut config);
        let (deps, clock) = deps();
        let (group, metrics) = (deps.group.clone(), deps.metrics.clone());
        let running = start(config, deps).await.unwrap();
        Self { running, group, metrics, clock, kafka, sent: AtomicU64::new(0), dir }
    }

    /// One that reads `ingest.toml` of its folder anew. `change` may change what lies there before it starts.
    async fn start_from_file(change: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kafka = EmbeddedKafka::start([("sealstream.inbox", PARTITIONS)]).unwrap();
        config_in(dir.path());
        change(dir.path());
        let (file, bootstrap) = (dir.path().join("ingest.toml"), kafka.config().bootstrap);
        let load = move || {
            let env = [("INGEST__KAFKA__BOOTSTRAP".to_owned(), bootstrap.clone())];
            Ok((Config::load(Some(&file), env.into_iter())?, vec![file.clone()]))
        };
        let (deps, clock) = deps();
        let (group, metrics) = (deps.group.clone(), deps.metrics.clone());
        let running = start_from(load, deps).await.unwrap();
        Self { running, group, metrics, clock, kafka, sent: AtomicU64::new(0), dir }
    }

    fn address(&self) -> SocketAddr {
        self.running.local_addr()
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("server.pem")
    }

    fn outcome(&self, outcome: &str) -> f64 {
        self.metrics.value("ingest_requests_total", &[("outcome", outcome)])
    }

    fn connection_outcome(&self, outcome: &str) -> f64 {
        self.metrics.value("ingest_connections_total", &[("outcome", outcome)])
    }

    /// Polls until it holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}\n{}", self.metrics.render());
    }

    async fn connect(&self, alpn: &str) -> TlsStream<TcpStream> {
        self.secure(TcpStream::connect(self.address()).await.unwrap(), alpn).await
    }

    async fn secure(&self, stream: TcpStream, alpn: &str) -> TlsStream<TcpStream> {
        let mut tls = client_tls(&self.certificate(), &common::tls::VERSIONS);
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    /// A connection on which HTTP/1.1 is written by hand.
    async fn http1(&self) -> Wire<'_> {
        Wire { edge: self, stream: self.connect("http/1.1").await, received: Vec::new() }
    }

    async fn http2(&self) -> Http2<'_> {
        Http2::over(self, self.connect("h2").await).await
    }

    /// Sends the same on both protocols, each on a connection of its own; both answers must be the contract's, and nothing
    /// else may be counted. That a refusal leaves no record is seen at the end.
    async fn check(&self, ask: &Ask, status: u16, code: &str) -> [Reply; 2] {
        let before = self.counts();
        let replies = [self.http1().await.ask(ask).await, self.http2().await.ask(ask).await];
        for reply in &replies {
            reply.check(status, code);
        }
        self.counted(&before, &[(code, 2.0)]);
        replies
    }

    /// The same for many that leave the connection open: all on one connection of each protocol. Answers every body, less
    /// what differs from request to request.
    async fn check_each(&self, asks: &[Ask], status: u16, code: &str) -> BTreeSet<String> {
        let (mut http1, mut http2) = (self.http1().await, self.http2().await);
        let mut bodies = BTreeSet::new();
        for ask in asks {
            let before = self.counts();
            for reply in [http1.ask(ask).await, http2.ask(ask).await] {
                assert_eq!(reply.status, status, "{ask:?}: {reply:?}");
                reply.check(status, code);
                assert!(!reply.says_close(), "{ask:?}: {reply:?}");
                bodies.insert(reply.without_id());
            }
            self.counted(&before, &[(code, 2.0)]);
        }
        bodies
    }

    /// Requests so far, by outcome.
    fn counts(&self) -> BTreeMap<&'static str, f64> {
        let shown = self.metrics.render();
        let count = |outcome: &str| {
            let series = format!("ingest_requests_total{{outcome=\"{outcome}\"}} ");
            shown.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
        };
        Outcome::ALL.iter().map(|outcome| (outcome.as_str(), count(outcome.as_str()))).collect()
    }

    /// Whether since then so many requests had these outcomes, and none another.
    fn counted(&self, before: &BTreeMap<&'static str, f64>, expect: &[(&str, f64)]) {
        let after = self.counts();
        for (outcome, count) in &after {
            let expect = expect.iter().filter(|(code, _)| code == outcome).map(|(_, count)| count).sum::<f64>();
            assert_eq!(count - before[outcome], expect, "{outcome}: {before:?} {after:?}");
        }
    }

    /// Everything in the inbox, with its MAC checked.
    fn inbox(&self) -> Vec<(Head, Vec<u8>)> {
        let key = |id: &str, secret: &[u8]| RecordKey::new(id.parse().unwrap(), &Secret::from(secret.to_vec()));
        let keys = RecordKeys::new(vec![key("edge-1", EDGE_KEY), key("edge-2", NEXT_EDGE_KEY)]).unwrap();
        let reader = Reader::new(&self.kafka.config()).unwrap();
        let mut records = Vec::new();
        for partition in 0..PARTITIONS {
            let range = reader.watermarks("sealstream.inbox", partition).unwrap();
            let each = |record: common::kafka::consumer::Incoming<'_>| {
                let head = keys.open(&Topic::Inbox, record.headers(), record.value()).unwrap();
                records.push((head, record.value().to_vec()));
                ControlFlow::Continue(())
            };
            reader.read("sealstream.inbox", partition, range, each).unwrap();
        }
        records
    }

    /// Ends ingest and checks that its books balance: every request has one outcome, every 200 is a record.
    async fn finish(self) {
        self.group.cancel();
        assert!(self.group.wait(PATIENCE).await, "ingest ends");
        let counted: f64 = Outcome::ALL.iter().map(|outcome| self.outcome(outcome.as_str())).sum();
        assert_eq!(counted, self.sent.load(Ordering::SeqCst) as f64, "{}", self.metrics.render());
        assert_eq!(self.metrics.value("ingest_requests_in_flight", &[]), 0.0);
        assert_eq!(self.metrics.value("ingest_connections_open", &[]), 0.0);
        assert_eq!(self.inbox().len() as f64, self.outcome("received"), "records in the log and answers of 200");
    }
}

/// A world of its own, and its time.
fn deps() -> (Deps, ManualClock) {
    let (clock, hand) = Clock::manual(NOW_S * 1000);
    (Deps { group: Group::new(), clock, metrics: Metrics::isolated() }, hand)
}

/// A client that trusts exactly this certificate.
fn client_tls(certificate: &Path, versions: &[&'static SupportedProtocolVersion]) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in common::tls::certificates(certificate).unwrap() {
        roots.add(certificate).unwrap();
    }
    rustls::ClientConfig::builder_with_provider(common::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A request to be, as far as both protocols have it in common.
#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

impl Ask {
    /// A body, signed as its sender would.
    fn signed(secret: &[u8], timestamp_s: u64, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let timestamp = Timestamp::at(timestamp_s).unwrap();
        let signature = signature::sign(&Secret::from(secret.to_vec()), &timestamp, &body);
        let headers = vec![
            ("content-type", content_type.as_bytes().to_vec()),
            ("x-webhook-signature", signature.into_bytes()),
            ("x-webhook-timestamp", timestamp.as_bytes().to_vec()),
            ("x-encryption-nonce", NONCE.as_bytes().to_vec()),
        ];
        Self { method: "POST", path: "/webhook".into(), headers, body }
    }

    /// A request to which nothing is wrong.
    fn good() -> Self {
        Self::native(NATIVE)
    }

    /// A JSON body, rightly signed.
    fn native(body: impl Into<Vec<u8>>) -> Self {
        Self::signed(SECRET, NOW_S, "application/json", body)
    }

    fn to(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    fn set(self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.without(name).with(name, value)
    }

    fn value(&self, name: &str) -> &[u8] {
        &self.headers.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// The head and body as HTTP/1.1 has them.
    fn to_http1(&self) -> Vec<u8> {
        let mut bytes = self.head_http1();
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The head without its end and without a length.
    fn head_http1(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn to_http2<B>(&self, body: B) -> http::Request<B> {
        let mut request = http::Request::builder().method(self.method).uri(format!("https://localhost{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(*name, value.as_slice());
        }
        request.body(body).unwrap()
    }
}

/// An answer.
#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    /// Whether this is what the contract says for `code`.
    fn check(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{code}: {self:?}");
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        assert_eq!(self.headers["cache-control"], "no-store", "{self:?}");
        let id = &self.headers["x-request-id"];
        if matches!(code, "received" | "healthy") {
            assert_eq!(self.body, format!(r#"{{"status":"{code}"}}"#));
            return;
        }
        let body: BTreeMap<String, String> = serde_json::from_str(&self.body).unwrap();
        let keys: Vec<&str> = body.keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "error", "request_id"]);
        assert_eq!((body["code"].as_str(), &body["request_id"]), (code, id), "{self:?}");
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 429 | 503), "{self:?}");
        assert_eq!(self.headers.get("allow").map(String::as_str), (status == 405).then_some("POST"));
    }

    /// The body without what differs from request to request.
    fn without_id(&self) -> String {
        self.body.replace(&self.headers["x-request-id"], "")
    }

    fn says_close(&self) -> bool {
        self.headers.get("connection").is_some_and(|value| value == "close")
    }
}

/// An HTTP/1.1 connection written by hand.
struct Wire<'e> {
    edge: &'e Edge,
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

impl Wire<'_> {
    /// Writes bytes that do not complete a head.
    async fn write(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, async {
            self.stream.write_all(bytes).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await
        .unwrap();
    }

    /// Writes bytes that complete a head.
    async fn send(&mut self, bytes: &[u8]) {
        self.edge.sent.fetch_add(1, Ordering::SeqCst);
        self.write(bytes).await;
    }

    async fn ask(&mut self, ask: &Ask) -> Reply {
        self.send(&ask.to_http1()).await;
        self.reply().await
    }

    async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("an answer before the end")
    }

    /// The next answer, or nothing if the connection ends first.
    async fn try_reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, len)) = parse(&self.received) {
                self.received.drain(..len);
                return Some(reply);
            }
            if self.more().await == 0 {
                assert!(self.received.is_empty(), "cut off: {:?}", String::from_utf8_lossy(&self.received));
                return None;
            }
        }
    }

    async fn more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.received);
        tokio::time::timeout(PATIENCE, read).await.expect("in time").unwrap_or(0)
    }

    /// Whether the server ends the connection without another byte.
    async fn ends(&mut self) -> bool {
        self.received.is_empty() && self.more().await == 0
    }
}

/// One whole answer at the beginning of `bytes`, and its length.
fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_len]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    if status == 100 {
        return parse(&bytes[head_len..]).map(|(reply, len)| (reply, head_len + len));
    }
    let len = head_len + headers.get("content-length").map_or(0, |len| len.parse::<usize>().unwrap());
    let body = bytes.get(head_len..len)?;
    Some((Reply { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }, len))
}

/// An HTTP/2 connection.
struct Http2<'e> {
    edge: &'e Edge,
    sender: hyper::client::conn::http2::SendRequest<TestBody>,
    driver: tokio::task::JoinHandle<()>,
}

/// A request's body in one piece.
fn whole(ask: &Ask) -> TestBody {
    Full::new(Bytes::from(ask.body.clone())).map_err(|never| match never {}).boxed_unsync()
}

/// Any body.
type TestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

impl<'e> Http2<'e> {
    async fn over(edge: &'e Edge, stream: TlsStream<TcpStream>) -> Self {
        let io = TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let driver = Group::new().spawn("client", async move { drop(connection.await) });
        Self { edge, sender, driver }
    }

    async fn ask(&mut self, ask: &Ask) -> Reply {
        self.send(ask.to_http2(whole(ask))).await.unwrap()
    }

    /// Sends a request beside others, and answers its status later.
    fn begin(&self, ask: &Ask) -> impl Future<Output = u16> + use<> {
        self.edge.sent.fetch_add(1, Ordering::SeqCst);
        let answered = self.sender.clone().send_request(ask.to_http2(whole(ask)));
        async { tokio::time::timeout(PATIENCE, answered).await.expect("in time").unwrap().status().as_u16() }
    }

    async fn send(&mut self, request: http::Request<TestBody>) -> hyper::Result<Reply> {
        self.edge.sent.fetch_add(1, Ordering::SeqCst);
        let answered = self.sender.send_request(request);
        let (head, body) = tokio::time::timeout(PATIENCE, answered).await.expect("in time")?.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("in time")?.to_bytes();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok(Reply { status: head.status.as_u16(), headers: headers.collect(), body })
    }

    /// Whether the server ends the connection.
    async fn ends(self) -> bool {
        let Self { sender, driver, .. } = self;
        let ended = tokio::time::timeout(PATIENCE, driver).await.is_ok();
        drop(sender);
        ended
    }
}
