use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{StatusCode, Version};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::shutdown::Group;

const ENOUGH: Duration = Duration::from_secs(20);

fn plain() -> HttpsClient {
    HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() }).unwrap()
}

fn trusting(root: CertificateDer<'static>) -> HttpsClient {
    HttpsClient::new(&ClientOptions { extra_roots: vec![root], ..ClientOptions::default() }).unwrap()
}

async fn get(client: &HttpsClient, url: String, timeout: Duration) -> Result<Response<Bytes>, CallError> {
    client.exchange(Request::get(url).body(Bytes::new()).unwrap(), timeout).await
}

/// A server on the loopback that writes fixed bytes on each connection and then holds it open. The group ends it.
async fn raw_server(group: &Group, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    group.spawn("raw_server", async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&answer).await;
            held.push(stream);
        }
    });
    address
}

/// An HTTPS server for `localhost` that offers the given ALPN names, and the certificate of its authority.
async fn https_server(group: &Group, alpn: &[&[u8]]) -> (SocketAddr, CertificateDer<'static>) {
    https_server_closing(group, alpn, usize::MAX).await
}

/// The same, and it ends each connection in order after so many requests.
async fn https_server_closing(group: &Group, alpn: &[&[u8]], requests: usize) -> (SocketAddr, CertificateDer<'static>) {
    let authority = authority();
    let (address, _pin) = https_server_by(group, &authority, alpn, requests).await;
    (address, authority.der().clone())
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The same with a certificate of this authority, and the pin of its key.
async fn https_server_by(group: &Group, authority: &Authority, alpn: &[&[u8]], requests: usize) -> (SocketAddr, Pin) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, authority).unwrap();
    let pin = Pin::of(certificate.der()).unwrap();

    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&tls::VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = group.clone();
    group.spawn("https_server", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn("https_connection", async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (over, count) = (CancellationToken::new(), AtomicUsize::new(0));
                let service = service_fn(|request: Request<Incoming>| {
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == requests {
                        over.cancel();
                    }
                    async move {
                        let version = format!("{:?}", request.version());
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(version))))
                    }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = over.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
    });
    (address, pin)
}

#[tokio::test]
async fn with_pins_a_valid_certificate_is_needed_and_a_pinned_key_too() {
    let group = Group::new();
    let (ours, others) = (authority(), authority());
    let (meant, pin) = https_server_by(&group, &ours, &[tls::ALPN_H2], usize::MAX).await;
    let (another, another_pin) = https_server_by(&group, &ours, &[tls::ALPN_HTTP11], usize::MAX).await;
    let (untrusted, untrusted_pin) = https_server_by(&group, &others, &[tls::ALPN_HTTP11], usize::MAX).await;
    let client = |pins: &[Pin]| {
        let extra_roots = vec![ours.der().clone()];
        HttpsClient::new(&ClientOptions { extra_roots, pins: pins.to_vec(), ..ClientOptions::default() }).unwrap()
    };
    let url = |address: SocketAddr| format!("https://localhost:{}/", address.port());

    let pinned = client(&[pin]);
    for _ in 0..2 {
        assert_eq!(get(&pinned, url(meant), ENOUGH).await.unwrap().status(), StatusCode::OK);
        let refused = get(&pinned, url(another), ENOUGH).await.unwrap_err();
        assert!(matches!(refused, CallError::NotPinned(known) if known == another_pin), "{refused:?}");
        assert_eq!(refused.to_string(), format!("the server's key is not pinned: it is {another_pin}"));
    }
    let both = client(&[another_pin, pin]);
    assert!(get(&both, url(meant), ENOUGH).await.is_ok() && get(&both, url(another), ENOUGH).await.is_ok());
    let outcome = get(&client(&[untrusted_pin]), url(untrusted), ENOUGH).await;
    assert!(matches!(outcome, Err(CallError::Connect(_))), "a pin takes the place of no authority: {outcome:?}");
    let by_address = format!("https://127.0.0.1:{}/", meant.port());
    let outcome = get(&pinned, by_address, ENOUGH).await;
    assert!(matches!(outcome, Err(CallError::Connect(_))), "nor of a name: {outcome:?}");
}

#[tokio::test]
async fn speaks_both_versions_of_http_by_alpn() {
    let group = Group::new();
    for (alpn, version) in [
        (&[tls::ALPN_H2, tls::ALPN_HTTP11][..], Version::HTTP_2),
        (&[tls::ALPN_HTTP11], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (address, root) = https_server(&group, alpn).await;
        let url = format!("https://localhost:{}/", address.port());
        let answer = get(&trusting(root), url, ENOUGH).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
        assert_eq!(answer.body(), format!("{version:?}").as_bytes());
    }
}

/// A server may end an HTTP/2 connection whenever it likes; what it did not take is for another connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_to_a_connection_that_ends_in_order() {
    let group = Group::new();
    let (address, root) = https_server_closing(&group, &[tls::ALPN_H2], 50).await;
    let client = trusting(root);
    let requests = (0..16).map(|_| {
        let (client, url) = (client.clone(), format!("https://localhost:{}/", address.port()));
        group.spawn("client", async move {
            for _ in 0..500 {
                get(&client, url.clone(), ENOUGH).await.unwrap();
            }
        })
    });
    for task in requests.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn refuses_a_server_it_cannot_verify() {
    let group = Group::new();
    let (address, root) = https_server(&group, &[tls::ALPN_HTTP11]).await;
    let (_, other_root) = https_server(&group, &[]).await;
    let by_name = format!("https://localhost:{}/", address.port());
    let by_address = format!("https://127.0.0.1:{}/", address.port());
    for (client, url) in [(trusting(other_root), by_name), (trusting(root), by_address)] {
        let outcome = get(&client, url, ENOUGH).await;
        assert!(matches!(outcome, Err(CallError::Connect(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn plain_http_is_spoken_only_when_asked_for() {
    let group = Group::new();
    let address = raw_server(&group, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let url = format!("http://{address}/");
    assert_eq!(get(&plain(), url.clone(), ENOUGH).await.unwrap().status(), StatusCode::NO_CONTENT);
    let strict = HttpsClient::new(&ClientOptions::default());
    // A machine without any system roots has no strict client at all; either way nothing is spoken.
    if let Ok(client) = strict {
        assert!(matches!(get(&client, url, ENOUGH).await, Err(CallError::Connect(_))));
    }
}

#[tokio::test]
async fn tells_no_connection_from_a_broken_one_and_from_silence() {
    let group = Group::new();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    assert!(matches!(get(&plain(), format!("http://{closed}/"), ENOUGH).await, Err(CallError::Connect(_))));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let breaking = listener.local_addr().unwrap();
    group.spawn("breaking", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let outcome = get(&plain(), format!("http://{breaking}/"), ENOUGH).await;
    assert!(matches!(outcome, Err(CallError::Broken(_))), "{outcome:?}");

    let silent = raw_server(&group, Vec::new()).await;
    let outcome = get(&plain(), format!("http://{silent}/"), Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(CallError::Timeout(_))), "{outcome:?}");
}

#[tokio::test]
async fn the_status_stands_whatever_happens_to_the_body() {
    let group = Group::new();
    // Promises ten bytes, sends four, and then nothing.
    let hanging = raw_server(&group, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour".to_vec()).await;
    let answer = get(&plain(), format!("http://{hanging}/"), Duration::from_millis(200)).await.unwrap();
    assert_eq!((answer.status(), answer.body().as_ref()), (StatusCode::OK, &b"four"[..]));

    for (len, kept) in [(ANSWER_BYTES_MAX, ANSWER_BYTES_MAX), (ANSWER_BYTES_MAX + 1, ANSWER_BYTES_MAX)] {
        let mut answer = format!("HTTP/1.1 500 Oh\r\ncontent-length: {len}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + len, b'x');
        let long = raw_server(&group, answer).await;
        let answer = get(&plain(), format!("http://{long}/"), ENOUGH).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (500, kept));
    }
}

#[tokio::test]
async fn follows_no_redirect() {
    let group = Group::new();
    let address = raw_server(&group, b"HTTP/1.1 307 Go\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let answer = get(&plain(), format!("http://{address}/"), ENOUGH).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
}

#[test]
fn retry_after_is_read_in_both_forms() {
    let check = |text: &str, expect: Option<u64>| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        assert_eq!(retry_after(&headers, 784_111_777), expect.map(Duration::from_secs), "{text:?}");
    };
    check("0", Some(0));
    check("120", Some(120));
    check(" 7 ", Some(7));
    check("99999999999999999999999", Some(u64::MAX));
    // 784111777 is the date in the HTTP specification.
    check("Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
    check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
    check("Sun, 06 Nov 1994 08:49:07 GMT", Some(0));
    for bad in ["", " ", "-1", "+1", "1.5", "soon", "Sun, 99 Nov 1994 08:49:37 GMT"] {
        check(bad, None);
    }
    assert_eq!(retry_after(&HeaderMap::new(), 0), None);
}
