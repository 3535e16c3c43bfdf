//! What an operator sees of abuse, and that nobody outside can make it grow.

use std::collections::BTreeSet;
use std::time::Duration;

use common::envelope::Format;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connections::read_to_end;
use super::{Ask, Edge, NATIVE, NOW_S, OTHER_SECRET, SECRET, client_tls};
use crate::{HandshakeFailure, Limit, VerificationFailure};

/// Every series, without its value.
fn series(edge: &Edge) -> BTreeSet<String> {
    let text = edge.metrics.render();
    text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

/// A JWE whose every name is this one.
fn jwe(name: &str) -> String {
    let head = format!(r#"{{"alg":"dir","enc":"A256GCM","kid":"{name}","jti":"{name}","aud":"{name}"}}"#);
    let head = data_encoding::BASE64URL_NOPAD.encode(head.as_bytes());
    format!("{head}..AAECAwQFBgcICQoL.AAAA.AAAAAAAAAAAAAAAAAAAAAA")
}

#[tokio::test]
async fn ten_thousand_random_paths_and_sources_make_no_series() {
    let edge = Edge::start_with(|config| {
        config.limits.requests_per_connection_max = 100_000;
        config.limits.failed_authentications_per_second = 10;
    })
    .await;
    let http2 = edge.http2().await;
    let ask = |number: usize| {
        let random = getrandom::u64().unwrap();
        let name = format!("source-{random:016x}");
        // Those that are refused by their heads have no body, of which nobody would read anything.
        let bare = |ask: Ask| Ask { body: Vec::new(), ..ask };
        match number % 4 {
            0 => (bare(Ask::good().to(&format!("/{name}"))), [404, 404]),
            1 => (Ask::signed(name.as_bytes(), NOW_S, "application/json", NATIVE), [401, 429]),
            2 => (Ask::signed(SECRET, NOW_S, Format::Jwe.content_type(), jwe(&name)), [400, 400]),
            _ => (bare(Ask::good().with("x-source", name.clone()).set("x-webhook-signature", name)), [401, 401]),
        }
    };
    let ask_all = async |count: usize| {
        for some in (0..count).collect::<Vec<_>>().chunks(50) {
            let asks = some.iter().map(|number| ask(*number));
            let waiting: Vec<_> = asks.map(|(ask, expect)| (http2.begin(&ask), expect)).collect();
            for (answer, expect) in waiting {
                let status = answer.await;
                assert!(expect.contains(&status), "{status} of {expect:?}");
            }
        }
    };
    ask_all(300).await;
    let before = series(&edge);
    assert!(before.len() > 100, "{before:?}");
    ask_all(10_000).await;
    assert_eq!(series(&edge), before);
    drop(http2);
    edge.finish().await;
}

#[tokio::test]
async fn every_failure_to_verify_has_a_reason_and_a_path_and_a_source_only_if_it_is_sure() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let mut http2 = edge.http2().await;
    for ask in [
        good.clone().without("x-webhook-signature"),
        good.clone().with("x-webhook-timestamp", "1700000000"),
        good.clone().set("x-webhook-timestamp", "soon"),
        good.clone().set("x-webhook-signature", "short"),
        Ask::signed(b"a-guess-at-the-secret", NOW_S, "application/json", NATIVE),
        Ask::signed(SECRET, NOW_S - 301, "application/json", NATIVE),
        Ask::signed(OTHER_SECRET, NOW_S + 301, "application/json", NATIVE),
    ] {
        http2.ask(&ask).await;
    }
    let sealed = good.clone().to("/sealed").set("content-type", "application/jose");
    http2.ask(&sealed).await.check(401, "signature_invalid");
    let failures = |path: &str, source: &str, reason: VerificationFailure| {
        let labels = [("path", path), ("source", source), ("reason", reason.as_str())];
        edge.metrics.value("ingest_verification_failures_total", &labels)
    };
    for reason in VerificationFailure::ALL {
        let source = match reason {
            VerificationFailure::Stale => "acme",
            VerificationFailure::Future => "other",
            VerificationFailure::Missing
            | VerificationFailure::Duplicate
            | VerificationFailure::Timestamp
            | VerificationFailure::Malformed
            | VerificationFailure::Unknown => "",
        };
        assert_eq!(failures("/webhook", source, *reason), 1.0, "{reason:?}");
    }
    assert_eq!(failures("/sealed", "", VerificationFailure::Unknown), 1.0);
    assert_eq!(edge.metrics.value("ingest_verification_failures_total", &[]), 8.0);
    drop(http2);
    edge.finish().await;
}

#[tokio::test]
async fn the_skew_of_every_verified_request_has_a_sign() {
    let edge = Edge::start().await;
    let within = |source: &str, le: &str| {
        edge.metrics.value("ingest_clock_skew_seconds_bucket", &[("source", source), ("le", le)])
    };
    let mut http2 = edge.http2().await;
    for (secret, timestamp) in [(SECRET, NOW_S - 7), (SECRET, NOW_S), (OTHER_SECRET, NOW_S + 45), (SECRET, NOW_S - 400)]
    {
        http2.ask(&Ask::signed(secret, timestamp, "application/json", NATIVE)).await;
    }
    http2.ask(&Ask::signed(b"a-guess-at-the-secret", NOW_S - 20, "application/json", NATIVE)).await;
    assert_eq!([within("other", "-60"), within("other", "-30")], [0.0, 1.0]);
    assert_eq!(["-1", "1", "5", "10", "300", "900"].map(|le| within("acme", le)), [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]);
    assert_eq!(edge.metrics.value("ingest_clock_skew_seconds_count", &[]), 4.0, "only the verified");
    drop(http2);
    edge.finish().await;
}

#[tokio::test]
async fn every_handshake_that_fails_has_a_reason() {
    let edge = Edge::start().await;
    let failed = |reason: &'static str| {
        move |edge: &Edge| edge.metrics.value("ingest_handshake_failures_total", &[("reason", reason)]) == 1.0
    };
    let connect = async |alpn: &str, trusting: bool| {
        let mut tls = client_tls(&edge.certificate(), &common::tls::VERSIONS);
        if !trusting {
            tls = rustls::ClientConfig::builder_with_provider(common::tls::provider())
                .with_protocol_versions(&common::tls::VERSIONS)
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        }
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(edge.address()).await.unwrap();
        TlsConnector::from(std::sync::Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    };
    let mut plain = TcpStream::connect(edge.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    edge.until("plain HTTP", failed("not_tls")).await;
    drop(TcpStream::connect(edge.address()).await.unwrap());
    edge.until("gone", failed("disconnected")).await;
    assert!(connect("spdy/3", true).await.is_err());
    edge.until("no protocol", failed("no_shared_protocol")).await;
    assert!(connect("h2", false).await.is_err());
    edge.until("the client does not trust us", failed("refused_by_client")).await;
    // Hellos of TLS 1.1, and of TLS 1.2 with nothing but a DHE suite.
    for (version, suite, reason) in [(2, 0xc02f_u16, "no_shared_version"), (3, 0x009e, "no_shared_suite")] {
        let mut stream = TcpStream::connect(edge.address()).await.unwrap();
        stream.write_all(&hello(version, suite)).await.unwrap();
        edge.until("refused", failed(reason)).await;
        assert!(!read_to_end(stream).await.is_empty(), "it is told by an alert");
    }
    let reasons: f64 = HandshakeFailure::ALL
        .iter()
        .map(|reason| edge.metrics.value("ingest_handshake_failures_total", &[("reason", reason.as_str())]))
        .sum();
    edge.until("each is a connection that ended", |edge| edge.connection_outcome("handshake_failed") == reasons).await;
    assert_eq!(reasons, 6.0);
    edge.finish().await;
}

/// A client hello of TLS 1.`minor - 1` with one suite, and what else such a client shows.
fn hello(minor: u8, suite: u16) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &length(data), data].concat();
    let groups = extension(10, &[0, 2, 0, 29]);
    let formats = extension(11, &[1, 0]);
    let schemes = extension(13, &[0, 4, 4, 3, 8, 4]);
    let extended_master_secret = extension(23, &[]);
    let extensions = [groups, formats, schemes, extended_master_secret].concat();
    let body =
        [&[3, minor][..], &[7; 32], &[0], &[0, 2], &suite.to_be_bytes(), &[1, 0], &length(&extensions), &extensions]
            .concat();
    let message = [&[1, 0][..], &length(&body), &body].concat();
    [&[22, 3, 1][..], &length(&message), &message].concat()
}

#[tokio::test]
async fn every_limit_and_reason_is_there_from_the_start() {
    let edge = Edge::start().await;
    let shown = series(&edge);
    let all = [
        ("ingest_rate_limited_total{limit=\"address\",source=\"\"}", Limit::Address.as_str()),
        (
            "ingest_rate_limited_total{limit=\"failed_authentication\",source=\"\"}",
            Limit::FailedAuthentication.as_str(),
        ),
        ("ingest_rate_limited_total{limit=\"source\",source=\"acme\"}", Limit::Source.as_str()),
    ];
    for (series, limit) in all {
        assert!(shown.contains(series) && series.contains(limit), "{series} in {shown:?}");
    }
    // Also on a node that shares its limit with nobody: the alert rules look at it.
    assert!(shown.contains("ingest_rate_exchanges_total{outcome=\"failed\"}"), "{shown:?}");
    for reason in HandshakeFailure::ALL {
        assert!(shown.contains(&format!("ingest_handshake_failures_total{{reason=\"{}\"}}", reason.as_str())));
    }
    edge.clock.advance(Duration::from_secs(1));
    edge.finish().await;
}
