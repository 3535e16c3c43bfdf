use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use common::clock::ManualClock;
use common::envelope::Envelope;
use common::http_client::{ClientOptions, Schemes};
use common::shutdown::Group;
use common::signature::{Mac, NONCE_HEADER, SIGNATURE_HEADER, Signatures, TIMESTAMP_HEADER, verify_any};
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use open::Keyring;
use tokio::net::TcpListener;

use super::*;

const NOW_S: u64 = 1_700_000_000;
const PLAINTEXT: &[u8] = br#"{"id":"evt_1","type":"ping"}"#;

fn secret() -> Secret {
    Secret::from(b"test-secret-do-not-use".to_vec())
}

fn key() -> Key {
    Key::try_from(&Secret::from(vec![7; 32])).unwrap()
}

fn acme() -> SourceId {
    "acme".parse().unwrap()
}

fn event() -> EventId {
    EventId::new("evt_1").unwrap()
}

fn config(url: &str, format: Format) -> Config {
    Config {
        url: url.parse().unwrap(),
        source: acme(),
        secret: secret(),
        key_id: "k1".parse().unwrap(),
        key: key(),
        format,
        timeout: Duration::from_secs(20),
        retry: RetryPolicy {
            attempts_max: 3,
            pause_first: Duration::from_millis(1),
            pause_max: Duration::from_millis(1),
            retry_after_max: Duration::from_millis(1),
        },
    }
}

fn sender(url: &str, format: Format) -> (Sender, ManualClock) {
    let (clock, hand) = Clock::manual(NOW_S * 1000);
    let client = HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() }).unwrap();
    (Sender::new(config(url, format), client, clock).unwrap(), hand)
}

/// What the receiver got.
struct Seen {
    headers: HeaderMap,
    body: Bytes,
}

/// What the receiver says.
#[derive(Clone, Copy)]
struct Says {
    status: u16,
    header: Option<(&'static str, &'static str)>,
    body: &'static str,
}

fn says(status: u16) -> Says {
    Says { status, header: None, body: "" }
}

/// A receiver that gives the listed answers in turn, the last for ever, and remembers what it got.
struct Receiver {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    async fn new(answers: &[Says]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let (seen, group) = (Arc::new(Mutex::new(Vec::new())), Group::new());
        let answers: Arc<[_]> = answers.into();
        let (record, connections) = (seen.clone(), group.clone());
        group.spawn("receiver", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (record, answers) = (record.clone(), answers.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (record, answers) = (record.clone(), answers.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/webhook"));
                        let body = body.collect().await.unwrap().to_bytes();
                        let mut record = record.lock().unwrap();
                        let Says { status, header, body: text } = answers[record.len().min(answers.len() - 1)];
                        record.push(Seen { headers: head.headers, body });
                        let mut answer = Response::builder().status(status);
                        if let Some((name, value)) = header {
                            answer = answer.header(name, value);
                        }
                        Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(text))).unwrap())
                    }
                });
                connections.spawn("connection", async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, seen }
    }

    fn take(self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Verifies and opens a request as the other end does, from the wire format alone.
fn accept(headers: &HeaderMap, body: &[u8], format: Format) -> Timestamp {
    assert_eq!(headers["content-type"], format.content_type());
    let timestamp = Timestamp::parse(headers[TIMESTAMP_HEADER].as_bytes()).unwrap();
    let mut mac = Mac::new(&secret()).begin(&timestamp);
    mac.update(body);
    let signatures = Signatures::parse(headers[SIGNATURE_HEADER].as_bytes()).unwrap();
    assert_eq!(verify_any(&[mac.finish()], &signatures), Some(0));
    let envelope = Envelope::parse_as(format, body, &acme()).unwrap();
    match &envelope {
        Envelope::Native(native) => {
            native.check_nonce_header(headers.get(NONCE_HEADER).map(|value| value.as_bytes())).unwrap();
        }
        Envelope::Jwe(jwe) => {
            assert_eq!((jwe.header().jti.clone(), jwe.header().iat), (event(), Some(timestamp.unix_s())));
            assert!(!headers.contains_key(NONCE_HEADER));
        }
    }
    let keyring = Keyring::new(vec![("k1".parse().unwrap(), key())]).unwrap();
    assert_eq!(*open::open(&keyring, &envelope).unwrap().plaintext, PLAINTEXT);
    timestamp
}

#[test]
fn a_prepared_request_is_what_the_other_end_takes() {
    for format in [Format::Native, Format::Jwe] {
        let (sender, _) = sender("https://localhost/webhook", format);
        let signed = sender.prepare(&event(), PLAINTEXT).unwrap();
        assert_eq!(accept(&signed.headers, &signed.body, format).unix_s(), NOW_S);
        let stale = sender.prepare_at(NOW_S - 301, &event(), PLAINTEXT).unwrap();
        assert_eq!(accept(&stale.headers, &stale.body, format).unix_s(), NOW_S - 301);
    }
}

#[tokio::test]
async fn a_success_tells_status_attempts_and_request_id() {
    for format in [Format::Native, Format::Jwe] {
        let receiver = Receiver::new(&[Says {
            status: 200,
            header: Some(("x-request-id", "r-1")),
            body: r#"{"status":"received"}"#,
        }])
        .await;
        let (sender, _) = sender(&receiver.url, format);
        let sent = sender.send(&event(), PLAINTEXT).await.unwrap();
        assert_eq!(sent, Sent { status: StatusCode::OK, attempt_count: 1, request_id: Some("r-1".into()) });
        let seen = receiver.take();
        assert_eq!(seen.len(), 1);
        accept(&seen[0].headers, &seen[0].body, format);
    }
}

#[tokio::test]
async fn every_attempt_is_sealed_and_signed_afresh_with_the_same_id() {
    for format in [Format::Native, Format::Jwe] {
        let receiver =
            Receiver::new(&[Says { header: Some(("retry-after", "1")), ..says(503) }, says(429), says(202)]).await;
        let (sender, hand) = sender(&receiver.url, format);
        let (seen, event) = (receiver.seen.clone(), event());
        let sending = sender.send(&event, PLAINTEXT);
        // The clock moves a second with each request that arrived, so that no two attempts share one.
        let moving = async {
            loop {
                hand.set_unix_ms((NOW_S + seen.lock().unwrap().len() as u64) * 1000);
                tokio::task::yield_now().await;
            }
        };
        let sent = tokio::select! { sent = sending => sent.unwrap(), () = moving => unreachable!() };
        assert_eq!((sent.status, sent.attempt_count), (StatusCode::ACCEPTED, 3));
        let seen = receiver.take();
        let times: Vec<_> = seen.iter().map(|seen| accept(&seen.headers, &seen.body, format).unix_s()).collect();
        assert_eq!(times, [NOW_S, NOW_S + 1, NOW_S + 2]);
        assert!(seen[0].body != seen[1].body && seen[1].body != seen[2].body, "fresh nonces");
    }
}

#[tokio::test]
async fn what_may_pass_is_repeated_and_nothing_else() {
    for (status, attempts) in [
        (408, 3),
        (425, 3),
        (429, 3),
        (500, 3),
        (502, 3),
        (503, 3),
        (504, 3),
        (599, 3),
        (301, 1),
        (307, 1),
        (400, 1),
        (401, 1),
        (403, 1),
        (404, 1),
        (409, 1),
        (410, 1),
        (413, 1),
        (415, 1),
        (422, 1),
    ] {
        let body = r#"{"error":"a sentence","code":"some_code","request_id":"r-2"}"#;
        let receiver = Receiver::new(&[Says { body, ..says(status) }]).await;
        let (sender, _) = sender(&receiver.url, Format::Native);
        let error = sender.send(&event(), PLAINTEXT).await.unwrap_err();
        let (failure, attempt_count) = match error {
            SendError::Exhausted { failure, attempt_count } if attempts > 1 => (failure, attempt_count),
            SendError::Refused { failure, attempt_count } if attempts == 1 => (failure, attempt_count),
            SendError::Exhausted { .. } | SendError::Refused { .. } | SendError::Prepare(_) => {
                panic!("{status}: {error:?}")
            }
        };
        assert_eq!(attempt_count, attempts, "{status}");
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(failure.to_string(), format!("{status} some_code (request r-2)"));
        assert_eq!(receiver.take().len() as u32, attempts);
    }
}

#[tokio::test]
async fn no_answer_is_repeated() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (sender, _) = sender(&format!("http://{closed}/webhook"), Format::Native);
    let error = sender.send(&event(), PLAINTEXT).await.unwrap_err();
    assert!(
        matches!(error, SendError::Exhausted { failure: Failure::NoAnswer(CallError::Connect(_)), attempt_count: 3 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_answer_is_not_trusted_with_the_terminal() {
    let body = "{\"code\":\"\\u001b[31mred\",\"request_id\":\"two words\"}";
    let receiver = Receiver::new(&[Says { header: Some(("x-request-id", "<script>")), body, ..says(400) }]).await;
    let (sender, _) = sender(&receiver.url, Format::Native);
    let error = sender.send(&event(), PLAINTEXT).await.unwrap_err();
    let SendError::Refused { failure, .. } = error else { panic!("{error:?}") };
    assert_eq!(failure.to_string(), "400 Bad Request");
}

#[test]
fn urls_are_checked() {
    let client = HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() }).unwrap();
    for (url, good) in [
        ("https://example.com/webhook", true),
        ("http://[::1]:8080", true),
        ("/webhook", false),
        ("example.com", false),
        ("ftp://example.com/webhook", false),
    ] {
        let made = Sender::new(config(url, Format::Native), client.clone(), Clock::system());
        assert_eq!(made.is_ok(), good, "{url}");
    }
}

#[test]
fn a_wrong_clock_makes_no_request() {
    let (sender, hand) = sender("https://localhost/webhook", Format::Native);
    hand.set_unix_ms(0);
    assert!(matches!(sender.prepare(&event(), PLAINTEXT), Err(PrepareError::Clock(_))));
}

#[test]
fn debug_shows_no_secret_and_no_body() {
    let (sender, _) = sender("https://localhost/webhook", Format::Native);
    let text = format!("{sender:?}");
    assert!(text.contains("Key([redacted])") && text.contains("secret: [redacted]"), "{text}");
    let signed = sender.prepare(&event(), PLAINTEXT).unwrap();
    assert_eq!(format!("{signed:?}"), format!("Signed({} bytes)", signed.body.len()));
}
