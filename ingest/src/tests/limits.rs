//! What one client and one source may use: requests, and failed authentications.

use std::time::Duration;

use common::envelope::Format;

use super::connections::connect_from;
use super::{Ask, Edge, NATIVE, NOW_S, OTHER_SECRET, SECOND_SECRET, SECRET, Wire};

async fn http1_from(edge: &Edge, last: u8) -> Wire<'_> {
    let stream = edge.secure(connect_from(edge, last).await, "http/1.1").await;
    Wire { edge, stream, received: Vec::new() }
}

/// A request that its source could not have signed.
fn forged() -> Ask {
    Ask::signed(b"a-guess-at-the-secret", NOW_S, "application/json", NATIVE)
}

fn limited(edge: &Edge, limit: &str) -> f64 {
    edge.metrics.value("ingest_rate_limited_total", &[("limit", limit)])
}

#[tokio::test]
async fn row_32_a_source_has_a_limit_that_only_its_own_good_requests_use_up() {
    let edge = Edge::start_with(|config| {
        let acme = config.source.get_mut("acme").unwrap();
        (acme.requests_per_second, acme.burst) = (1, 4);
    })
    .await;
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::signed(SECOND_SECRET, NOW_S, "application/json", NATIVE), 200, "received").await;
    let [reply, _] = edge.check(&Ask::good(), 429, "source_rate_limited").await;
    assert_eq!(reply.headers["retry-after"], "1");
    edge.check(&Ask::signed(OTHER_SECRET, NOW_S, "application/json", NATIVE), 200, "received").await;
    edge.check(&forged(), 401, "signature_invalid").await;
    let of_acme = edge.metrics.value("ingest_rate_limited_total", &[("limit", "source"), ("source", "acme")]);
    assert_eq!((of_acme, limited(&edge, "source"), limited(&edge, "address")), (2.0, 2.0, 0.0));

    edge.clock.advance(Duration::from_secs(1));
    edge.http1().await.ask(&Ask::good()).await.check(200, "received");
    edge.check(&Ask::good(), 429, "source_rate_limited").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_32_no_refusal_costs_the_source_anything() {
    let edge = Edge::start_with(|config| {
        config.limits.body_bytes_max = common::config::ByteSize::kib(1);
        let acme = config.source.get_mut("acme").unwrap();
        (acme.requests_per_second, acme.burst) = (1, 2);
    })
    .await;
    // Each names the source as well as a request can.
    let good = Ask::good;
    let signed = |timestamp_s, body: &str| Ask::signed(SECRET, timestamp_s, "application/json", body);
    for (ask, status, code) in [
        (good().to("/nowhere"), 404, "not_found"),
        (good().method("PUT"), 405, "method_not_allowed"),
        (good().set("content-type", "text/plain"), 415, "unsupported_media_type"),
        (good().with("content-encoding", "gzip"), 415, "unsupported_encoding"),
        (good().without("x-webhook-signature"), 401, "signature_missing"),
        (good().with("x-webhook-timestamp", "1700000000"), 400, "duplicate_header"),
        (good().set("x-webhook-timestamp", "soon"), 401, "invalid_timestamp"),
        (good().set("x-webhook-signature", "short"), 401, "signature_invalid"),
        (forged(), 401, "signature_invalid"),
        (Ask { body: b"{}".to_vec(), ..good() }, 401, "signature_invalid"),
        (signed(NOW_S - 301, NATIVE), 401, "timestamp_out_of_tolerance"),
        (signed(NOW_S + 301, NATIVE), 401, "timestamp_out_of_tolerance"),
        (signed(NOW_S, &format!("{NATIVE}{}", " ".repeat(1024))), 413, "payload_too_large"),
        (signed(NOW_S, "nope"), 400, "invalid_json"),
        (signed(NOW_S, "{}"), 400, "invalid_envelope"),
        (signed(NOW_S, &NATIVE.replace("PCC/", "A=C/")), 400, "invalid_ciphertext"),
        (good().set("x-encryption-nonce", "BAECAwQFBgcICQoL"), 400, "invalid_nonce"),
        (Ask::signed(SECRET, NOW_S, Format::Jwe.content_type(), "a..b.c.d"), 400, "invalid_envelope"),
    ] {
        edge.check(&ask, status, code).await;
    }
    // Two are allowed, and both are left.
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::good(), 429, "source_rate_limited").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_32_what_kafka_does_not_take_costs_the_source_nothing() {
    let edge = Edge::start_with(|config| {
        config.publish.queue_records = 1;
        let acme = config.source.get_mut("acme").unwrap();
        (acme.requests_per_second, acme.burst) = (1, 2);
    })
    .await;
    edge.kafka.set_up(false).unwrap();
    let mut first = edge.http1().await;
    first.send(&Ask::good().to_http1()).await;
    edge.until("it is under way", |edge| edge.metrics.value("ingest_body_bytes_count", &[]) == 1.0).await;
    edge.check(&Ask::good(), 503, "unavailable").await;
    edge.check(&Ask::good(), 503, "unavailable").await;
    edge.kafka.set_up(true).unwrap();
    first.reply().await.check(200, "received");
    let (mut wire, mut taken) = (edge.http1().await, 0);
    // The library clears a record away some time after its acknowledgement; until then its queue is full.
    let mut last = wire.ask(&Ask::good()).await;
    while last.status != 429 {
        taken += usize::from(last.status == 200);
        last = wire.ask(&Ask::good()).await;
    }
    last.check(429, "source_rate_limited");
    assert_eq!(taken, 1, "of two, one was used");
    edge.finish().await;
}

#[tokio::test]
async fn row_13_failed_authentications_have_a_limit_per_address_and_good_requests_pass_it() {
    let edge = Edge::start_with(|config| config.limits.failed_authentications_per_second = 10).await;
    let mut http2 = edge.http2().await;
    // Those that nobody has to verify are not counted, nor are those whose signature is right.
    for _ in 0..60 {
        http2.ask(&Ask::good().set("x-webhook-signature", "short")).await.check(401, "signature_invalid");
        http2.ask(&Ask::native("{}")).await.check(400, "invalid_envelope");
    }
    for _ in 0..50 {
        http2.ask(&forged()).await.check(401, "signature_invalid");
    }
    let [reply, _] = edge.check(&forged(), 429, "rate_limited").await;
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!((limited(&edge, "failed_authentication"), limited(&edge, "address")), (2.0, 0.0));
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::native("{}"), 400, "invalid_envelope").await;
    // A disabled source's own path and a body in pieces take the same way.
    edge.check(&forged().to("/closed"), 429, "rate_limited").await;
    let (head, body) = (Ask::good().head_http1(), NATIVE.as_bytes());
    let pieces = body.chunks(10).map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    let whole =
        [head, b"transfer-encoding: chunked\r\n\r\n".to_vec(), pieces.flatten().collect(), b"0\r\n\r\n".to_vec()];
    let mut wire = edge.http1().await;
    wire.send(&whole.concat()).await;
    wire.reply().await.check(200, "received");

    let mut neighbour = http1_from(&edge, 2).await;
    neighbour.ask(&forged()).await.check(401, "signature_invalid");
    edge.clock.advance(Duration::from_millis(100));
    http2.ask(&forged()).await.check(401, "signature_invalid");
    http2.ask(&forged()).await.check(429, "rate_limited");
    let unknown = edge.metrics.value("ingest_verification_failures_total", &[("reason", "signature_unknown")]);
    assert_eq!(unknown, edge.outcome("rate_limited") + edge.outcome("signature_invalid") - 60.0);
    drop((http2, neighbour));
    edge.finish().await;
}

#[tokio::test]
async fn a_network_over_its_limit_is_verified_in_turn() {
    let edge = Edge::start_with(|config| {
        config.limits.failed_authentications_per_second = 10;
        config.limits.failed_authentications_burst = 1;
        config.limits.failing_verifications_max = 1;
    })
    .await;
    edge.http1().await.ask(&forged()).await.check(401, "signature_invalid");
    let http2 = edge.http2().await;
    let asks = (0..50).map(|number| if number % 2 == 0 { Ask::good() } else { forged() });
    let waiting: Vec<_> = asks.map(|ask| http2.begin(&ask)).collect();
    let mut statuses = Vec::new();
    for answer in waiting {
        statuses.push(answer.await);
    }
    assert_eq!(statuses, [200, 429].repeat(25));
    edge.finish().await;
}
