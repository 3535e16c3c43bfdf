//! Every row of the contract that a request's own content decides, on HTTP/1.1 and HTTP/2.

use common::envelope::Format;

use super::{Ask, Edge, NATIVE, NONCE, NOW_S, OFF_SECRET, OTHER_SECRET, SECOND_SECRET, SECRET};

#[tokio::test]
async fn a_good_request_is_answered_after_its_record_is_in_the_log() {
    let edge = Edge::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    edge.check(&Ask::good().with("traceparent", traceparent), 200, "received").await;
    let spaced = NATIVE.replace(':', ": ").replace(',', ", ");
    let encrypted = NATIVE.trim_start_matches('{').split(',').next().unwrap();
    let reordered = Ask::native(format!("{{\"nonce\" : \"{NONCE}\"\n,{encrypted}}}\r\n"));
    edge.check(&reordered, 200, "received").await;
    edge.check(&Ask::native(spaced.clone()), 200, "received").await;
    edge.check(&Ask::good().set("content-type", "Application/JSON; charset=UTF-8"), 200, "received").await;
    edge.check(&Ask::good().to("/webhook?anything=here"), 200, "received").await;

    let records = edge.inbox();
    assert_eq!(records.len(), 10);
    let first = records.iter().find(|(head, _)| head.traceparent.is_some()).unwrap();
    assert_eq!((first.0.source.as_str(), first.0.received_ms), ("acme", NOW_S * 1000));
    assert_eq!((&*first.0.timestamp, first.0.traceparent.as_deref()), ("1700000000", Some(traceparent)));
    assert_eq!(first.1, NATIVE.as_bytes(), "the body exactly as received");
    assert_eq!(records.iter().filter(|(_, body)| *body == spaced.as_bytes()).count(), 2);
    let used = |secret| edge.metrics.value("ingest_verified_total", &[("source", "acme"), ("secret", secret)]);
    assert_eq!((used("s1"), used("s2")), (10.0, 0.0));
    edge.finish().await;
}

#[tokio::test]
async fn every_active_secret_signs_and_the_signature_decides_the_source() {
    let edge = Edge::start().await;
    for secret in [SECRET, SECOND_SECRET, OTHER_SECRET] {
        edge.check(&Ask::signed(secret, NOW_S, "application/json", NATIVE), 200, "received").await;
    }
    let both = [Ask::good(), Ask::signed(OTHER_SECRET, NOW_S, "application/json", NATIVE)];
    let both = both.map(|ask| String::from_utf8(ask.value("x-webhook-signature").to_vec()).unwrap());
    let unknown = "0".repeat(64);
    edge.check(&Ask::good().set("x-webhook-signature", format!("v1={unknown},sha256={}", both[1])), 200, "received")
        .await;
    let sources: Vec<String> = edge.inbox().iter().map(|(head, _)| head.source.to_string()).collect();
    let count = |source: &str| sources.iter().filter(|known| *known == source).count();
    assert_eq!((count("acme"), count("other"), sources.len()), (4, 4, 8));
    let used = |secret| edge.metrics.value("ingest_verified_total", &[("source", "acme"), ("secret", secret)]);
    assert_eq!((used("s1"), used("s2")), (2.0, 2.0));
    edge.finish().await;
}

#[tokio::test]
async fn rows_9_and_10_host_and_transfer_encoding() {
    let edge = Edge::start().await;
    let head = String::from_utf8(Ask::good().head_http1()).unwrap();
    let length = format!("content-length: {}\r\n\r\n{NATIVE}", NATIVE.len());
    for bad in ["", "host: localhost\r\nhost: localhost\r\n", "host:\r\n", "host: a b\r\n", "host: u@localhost\r\n"] {
        let request = format!("{}{length}", head.replace("host: localhost\r\n", bad));
        let mut wire = edge.http1().await;
        wire.send(request.as_bytes()).await;
        wire.reply().await.check(400, "bad_host");
    }
    for bad in ["gzip, chunked", "identity, chunked", "chunked, chunked"] {
        let request = format!("{head}transfer-encoding: {bad}\r\n\r\n0\r\n\r\n");
        let mut wire = edge.http1().await;
        wire.send(request.as_bytes()).await;
        let reply = wire.reply().await;
        reply.check(501, "unsupported_transfer_encoding");
        assert!(reply.says_close() && wire.ends().await);
    }
    let mut http2 = edge.http2().await;
    http2.ask(&Ask::good().with("host", "elsewhere")).await.check(400, "bad_host");
    http2.ask(&Ask::good().with("host", "LOCALHOST")).await.check(200, "received");
    edge.finish().await;
}

#[tokio::test]
async fn rows_11_and_12_path_and_method() {
    let edge = Edge::start().await;
    for path in ["/", "/webhook/", "/Webhook", "//webhook", "/webhook%20", "/webhook/../webhook", "/%77ebhook"] {
        edge.check(&Ask::good().to(path), 404, "not_found").await;
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "post"] {
        edge.check(&Ask::good().method(method), 405, "method_not_allowed").await;
    }
    edge.check(&Ask::good().method("GET").to("/nowhere"), 404, "not_found").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_13_per_ip_limit() {
    let edge = Edge::start_with(|config| {
        config.rate.requests_per_minute = 60;
        config.rate.burst = 4;
    })
    .await;
    edge.check(&Ask::good(), 200, "received").await;
    // Any request counts, also one that is refused.
    edge.check(&Ask::good().without("content-type"), 415, "unsupported_media_type").await;
    let [reply, _] = edge.check(&Ask::good(), 429, "rate_limited").await;
    assert_eq!(reply.headers["retry-after"], "1");
    // Another path has its own budget, and so has a path that does not exist: none.
    edge.check(&Ask::good().to("/sealed"), 415, "unsupported_media_type").await;
    edge.check(&Ask::good().to("/nowhere"), 404, "not_found").await;
    edge.clock.advance(std::time::Duration::from_secs(2));
    // The wall clock moved too: still well within the window.
    edge.check(&Ask::good(), 200, "received").await;
    edge.check(&Ask::good(), 429, "rate_limited").await;
    edge.finish().await;
}

#[tokio::test]
async fn rows_14_and_15_content_type_and_encoding() {
    let edge = Edge::start().await;
    let types =
        ["", "text/plain", "application/jsonx", "application/json, text/plain", "application/json; charset=latin1"];
    for content_type in types {
        edge.check(&Ask::good().set("content-type", content_type), 415, "unsupported_media_type").await;
    }
    edge.check(&Ask::good().without("content-type"), 415, "unsupported_media_type").await;
    edge.check(&Ask::good().with("content-type", "application/json"), 415, "unsupported_media_type").await;
    edge.check(&Ask::good().to("/sealed"), 415, "unsupported_media_type").await;
    // The path takes JWE, but not from the source that signed.
    let jwe = Ask::signed(OTHER_SECRET, NOW_S, Format::Jwe.content_type(), "a..b.c.d");
    edge.check(&jwe, 415, "unsupported_media_type").await;
    for encoding in ["gzip", "identity", ""] {
        edge.check(&Ask::good().with("content-encoding", encoding), 415, "unsupported_encoding").await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn rows_20_to_23_header_grammar() {
    let edge = Edge::start().await;
    let good = Ask::good();
    edge.check(&good.clone().without("x-webhook-signature"), 401, "signature_missing").await;
    edge.check(&good.clone().without("x-webhook-timestamp"), 401, "signature_missing").await;
    for name in ["x-webhook-signature", "x-webhook-timestamp", "x-encryption-nonce"] {
        let twice = good.clone().with(name, good.value(name).to_vec());
        edge.check(&twice, 400, "duplicate_header").await;
    }
    let hex = String::from_utf8(good.value("x-webhook-signature").to_vec()).unwrap();
    let bad = [
        String::new(),
        ",".into(),
        "v1=".into(),
        hex.to_uppercase(),
        hex[..63].into(),
        format!("{hex}0"),
        format!("{hex}{hex}"),
        format!("v0={hex}"),
        format!("{hex},"),
        format!("{hex}, {hex}"),
        [hex.as_str(); 6].join(","),
    ];
    for signature in bad {
        edge.check(&good.clone().set("x-webhook-signature", signature), 401, "signature_invalid").await;
    }
    edge.check(&good.clone().set("x-webhook-signature", [hex.as_str(); 5].join(",")), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn rows_24_and_25_wrong_signatures_get_the_same_bytes() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let mut wrong = vec![
        Ask { body: flipped(&good.body, 20), ..good.clone() },
        Ask { body: good.body[..good.body.len() - 1].to_vec(), ..good.clone() },
        Ask { body: Vec::new(), ..good.clone() },
        good.clone().set("x-webhook-timestamp", flipped(good.value("x-webhook-timestamp"), 9)),
        good.clone().set("x-webhook-signature", flipped(good.value("x-webhook-signature"), 63)),
        good.clone().set("x-webhook-signature", "short"),
    ];
    // Nobody's, a disabled source's, a disabled source's own path, another path's source; far outside the window too.
    wrong.push(Ask::signed(b"retired-secret-do-not-use", NOW_S, "application/json", NATIVE));
    wrong.push(Ask::signed(OFF_SECRET, NOW_S, "application/json", NATIVE));
    wrong.push(good.clone().to("/sealed").set("content-type", "application/jose"));
    wrong.push(Ask::signed(OFF_SECRET, 1_000_000_000, "application/json", NATIVE));
    wrong.push(good.clone().to("/closed"));
    let mut answers = std::collections::BTreeSet::new();
    for ask in wrong {
        for reply in edge.check(&ask, 401, "signature_invalid").await {
            answers.insert(reply.without_id());
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    edge.finish().await;
}

#[tokio::test]
async fn row_26_freshness_has_both_edges_and_needs_a_valid_signature() {
    let edge = Edge::start().await;
    for (timestamp, fresh) in [(NOW_S - 300, true), (NOW_S + 300, true), (NOW_S - 301, false), (NOW_S + 301, false)] {
        let ask = Ask::signed(SECRET, timestamp, "application/json", NATIVE);
        let (status, code) = if fresh { (200, "received") } else { (401, "timestamp_out_of_tolerance") };
        edge.check(&ask, status, code).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn rows_27_to_30_envelope_shape() {
    let edge = Edge::start().await;
    for body in ["", "nope", "{", "{}x", "\u{feff}{}", "[1", "\u{1}"] {
        edge.check(&Ask::native(body), 400, "invalid_json").await;
    }
    edge.check(&Ask::native(b"\xff\xfe".to_vec()), 400, "invalid_json").await;
    for body in [
        "[]".to_owned(),
        "1".to_owned(),
        "{}".to_owned(),
        format!("{{\"nonce\":\"{NONCE}\"}}"),
        NATIVE.replace("\"nonce\":", "\"extra\":1,\"nonce\":"),
        NATIVE.replace("\"nonce\":", "\"nonce\":\"x\",\"nonce\":"),
        format!("{{\"encrypted\":1,\"nonce\":\"{NONCE}\"}}"),
        format!("[\"AAAA\",\"{NONCE}\"]"),
    ] {
        edge.check(&Ask::native(body), 400, "invalid_envelope").await;
    }
    for ciphertext in ["", "AAAA", "%%%%", "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB=="] {
        let body = format!("{{\"encrypted\":\"{ciphertext}\",\"nonce\":\"{NONCE}\"}}");
        edge.check(&Ask::native(body), 400, "invalid_ciphertext").await;
    }
    for nonce in ["", "AAAA", "AAECAwQFBgcICQoLDA==", "AAECAwQFBgcICQo="] {
        let ask = Ask::native(NATIVE.replace(NONCE, nonce)).set("x-encryption-nonce", nonce);
        edge.check(&ask, 400, "invalid_nonce").await;
    }
    edge.check(&Ask::good().without("x-encryption-nonce"), 400, "invalid_nonce").await;
    edge.check(&Ask::good().set("x-encryption-nonce", "BAECAwQFBgcICQoL"), 400, "invalid_nonce").await;
    edge.finish().await;
}
