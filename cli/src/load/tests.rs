//! Loads on receivers that do all that receivers do, which keep books of their own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use clap::Parser;
use common::secret::Secret;
use common::signature::{SIGNATURE_HEADER, TIMESTAMP_HEADER, Timestamp, sign};
use http::header::CONNECTION;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::*;

const SECRET: &str = "a secret of some length";

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Answer(u16),
    /// Answer 200, and close the connection in order.
    Last,
    /// Never answer.
    Silence,
    /// Close the connection without an answer.
    HangUp,
}

/// A receiver, and its books.
struct Receiver {
    address: SocketAddr,
    books: Arc<Books>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Books {
    connections: AtomicUsize,
    /// Requests on connections, by number.
    requests: AtomicUsize,
    bodies: Mutex<BTreeSet<Bytes>>,
    rightly_signed: AtomicUsize,
}

impl Receiver {
    /// Does with each request what `deed` says to its number.
    fn start(version: Version, deed: fn(usize) -> Deed) -> Self {
        let runtime = Runtime::new().unwrap();
        let books = Arc::new(Books::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let group = Group::new();
        let noting = books.clone();
        let accepting = group.clone();
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                noting.connections.fetch_add(1, Ordering::SeqCst);
                let books = noting.clone();
                let answer = service_fn(move |request| books.clone().answer(request, deed));
                let stream = TokioIo::new(stream);
                accepting.spawn("receiver", async move {
                    match version {
                        Version::Http1 => drop(http1::Builder::new().serve_connection(stream, answer).await),
                        Version::Http2 => {
                            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await);
                        }
                    }
                });
            }
        };
        let _entered = runtime.enter();
        group.spawn("receiver", accept);
        drop(_entered);
        Self { address, books, _runtime: runtime }
    }
}

impl Books {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        deed: fn(usize) -> Deed,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let header = |name| head.headers.get(name).unwrap().to_str().unwrap();
        let timestamp = Timestamp::parse(header(TIMESTAMP_HEADER).as_bytes()).unwrap();
        if sign(&Secret::from(SECRET.as_bytes().to_vec()), &timestamp, &body) == header(SIGNATURE_HEADER) {
            self.rightly_signed.fetch_add(1, Ordering::SeqCst);
        }
        self.bodies.lock().unwrap().insert(body);
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::from("taken"));
        match deed(number) {
            Deed::Answer(status) => *response.status_mut() = StatusCode::from_u16(status).unwrap(),
            Deed::Last => {
                response.headers_mut().insert(CONNECTION, "close".parse().unwrap());
            }
            Deed::Silence => std::future::pending().await,
            Deed::HangUp => return Err(std::io::Error::other("hung up")),
        }
        Ok(response)
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Runs a load on an address, by HTTP without TLS.
fn load(address: SocketAddr, timeout: &str, words: &[&str]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("secret", SECRET);
    write("key", &format!("hex:{}", "07".repeat(32)));
    let config = format!(
        "url = \"http://{address}/in/acme\"\nsource = \"acme\"\nsecret = \"secret\"\nkey = {{ id = \"k1\", file = \"key\" }}\n\
         timeout = \"{timeout}\"\ndanger_plain_http = true\n"
    );
    write("sender.toml", &config);
    let file = dir.path().join("sender.toml");
    let line = ["load", "--config", file.to_str().unwrap()].into_iter().chain(words.iter().copied());
    Load::new(&Line::parse_from(line).args).unwrap().run().unwrap()
}

fn counts(report: &Report) -> serde_json::Value {
    let report = serde_json::to_value(report).unwrap();
    let names = ["requests", "received", "statuses", "no_connection", "timeout", "broken", "not_sent"];
    names.map(|name| (name.to_owned(), report[name].clone())).into_iter().collect()
}

#[test]
fn every_answer_is_counted_and_every_request_is_another_one() {
    let receiver = Receiver::start(Version::Http1, |number| Deed::Answer(if number % 4 == 3 { 503 } else { 200 }));
    let report = load(
        receiver.address,
        "60s",
        &[
            "--requests",
            "200",
            "--connections",
            "5",
            "--threads",
            "2",
            "--duplicates",
            "0.25",
            "--body-bytes",
            "1KiB,2KiB",
        ],
    );
    let expected = serde_json::json!({
        "requests": 200, "received": 150, "statuses": { "200": 150, "503": 50 },
        "no_connection": 0, "timeout": 0, "broken": 0, "not_sent": 0,
    });
    assert_eq!(counts(&report), expected);
    let books = &receiver.books;
    assert_eq!(books.requests.load(Ordering::SeqCst), 200);
    assert_eq!(books.rightly_signed.load(Ordering::SeqCst), 200);
    assert_eq!(books.bodies.lock().unwrap().len(), 200, "a repeat is sealed anew");
    assert_eq!(books.connections.load(Ordering::SeqCst), 5);
    let report = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&report["connections_made"], &report["repeats"], &report["loop"]),
        (&5.into(), &50.into(), &"closed".into())
    );
    assert!(report["lag_ms"].is_null() && report["failure_latency_ms"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_open_loop_sends_as_many_as_its_rate_says() {
    for version in [Version::Http1, Version::Http2] {
        let receiver = Receiver::start(version, |_| Deed::Answer(202));
        let words = [
            "--rate",
            "500",
            "--duration",
            "400ms",
            "--connections",
            "3",
            "--streams",
            "4",
            "--http",
            version.as_str(),
        ];
        let report = load(receiver.address, "60s", &words);
        assert_eq!((report.requests, report.failed()), (200, 0));
        assert_eq!(receiver.books.rightly_signed.load(Ordering::SeqCst), 200);
        assert_eq!(receiver.books.connections.load(Ordering::SeqCst), 3);
        assert_eq!(serde_json::to_value(&report).unwrap()["rate"], 500.0);
    }
}

#[test]
fn a_connection_for_each_request_is_asked_for() {
    let receiver = Receiver::start(Version::Http1, |_| Deed::Answer(200));
    let report = load(receiver.address, "60s", &["--requests", "30", "--connections", "2", "--new-connections"]);
    assert_eq!((report.requests, report.failed(), report.counts.connections_made), (30, 0, 30));
    assert_eq!(receiver.books.connections.load(Ordering::SeqCst), 30);
}

#[test]
fn a_connection_that_ends_in_order_is_followed_by_another_and_costs_no_request() {
    let receiver =
        Receiver::start(Version::Http1, |number| if number % 5 == 4 { Deed::Last } else { Deed::Answer(200) });
    let report = load(receiver.address, "60s", &["--requests", "100", "--connections", "1"]);
    assert_eq!((report.requests, report.failed(), report.counts.broken), (100, 0, 0));
    assert_eq!(receiver.books.requests.load(Ordering::SeqCst), 100, "none was sent twice");
    assert_eq!(report.counts.connections_made, 20);
}

#[test]
fn a_receiver_that_never_answers_makes_timeouts() {
    for version in [Version::Http1, Version::Http2] {
        let receiver = Receiver::start(version, |_| Deed::Silence);
        let words = ["--requests", "6", "--connections", "2", "--streams", "1", "--http", version.as_str()];
        let report = load(receiver.address, "50ms", &words);
        assert_eq!((report.requests, report.counts.timeout, report.received), (6, 6, 0));
        assert!(report.latency_ms.is_none());
    }
}

#[test]
fn a_connection_without_an_answer_is_broken_off() {
    let receiver =
        Receiver::start(Version::Http1, |number| if number % 2 == 0 { Deed::HangUp } else { Deed::Answer(200) });
    let report = load(receiver.address, "60s", &["--requests", "10", "--connections", "1"]);
    assert_eq!((report.requests, report.counts.broken, report.received), (10, 5, 5));
    assert!(report.remarks()[0].contains("broke"), "{:?}", report.remarks());
}

#[test]
fn nobody_there_is_no_connection() {
    // A port that nobody listens on, kept from being given to somebody else.
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = std::net::TcpStream::connect(held.local_addr().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let report = load(address, "60s", &["--rate", "1000", "--requests", "5", "--connections", "2"]);
    assert_eq!((report.requests, report.counts.no_connection, report.received), (5, 5, 0));
}

#[test]
fn an_http2_receiver_that_does_not_speak_it_is_no_connection_or_broken_and_never_a_success() {
    let receiver = Receiver::start(Version::Http1, |_| Deed::Answer(200));
    let report =
        load(receiver.address, "60s", &["--requests", "3", "--connections", "1", "--streams", "1", "--http", "2"]);
    assert_eq!((report.requests, report.counts.no_connection + report.counts.broken, report.received), (3, 3, 0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |words: &[&str]| Line::try_parse_from(["load"].iter().chain(words).copied()).is_err();
    assert!(refused(&["--resume"]));
    for words in
        [["--rate", "0"], ["--duplicates", "1"], ["--requests", "0"], ["--body-bytes", "x"], ["--duration", "5"]]
    {
        assert!(refused(&words), "{words:?}");
    }
    let args = Line::parse_from(["load", "--attempts", "3"]).args;
    assert!(Load::new(&args).is_err_and(|error| error.to_string().contains("--attempts")));
}
