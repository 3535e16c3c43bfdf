//! The contract's rows that a request's own content decides, on HTTP/1.1 and HTTP/2.

use common::envelope::Format;
use data_encoding::BASE64URL_NOPAD;

use super::frames::{END_HEADERS, END_STREAM, HEADERS, block, frame};
use super::raw::Raw;
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
async fn row_09_not_exactly_one_host() {
    let edge = Edge::start().await;
    let head = String::from_utf8(Ask::good().head_http1()).unwrap();
    let length = format!("content-length: {}\r\n\r\n{NATIVE}", NATIVE.len());
    let before = edge.counts();
    let bad = [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\nHost: elsewhere\r\n",
        "host:\r\n",
        "host: a b\r\n",
        "host: u@localhost\r\n",
        "host: localhost/path\r\n",
        "host: local\u{e9}\r\n",
    ];
    for bad in bad {
        let request = format!("{}{length}", head.replace("host: localhost\r\n", bad));
        let mut wire = edge.http1().await;
        wire.send(request.as_bytes()).await;
        wire.reply().await.check(400, "bad_host");
    }
    edge.counted(&before, &[("bad_host", bad.len() as f64)]);
    // The request line names another host than the header.
    let absolute = |target: &str| format!("{}{length}", head.replace("/webhook ", target));
    let mut wire = edge.http1().await;
    wire.send(absolute("https://elsewhere/webhook ").as_bytes()).await;
    wire.reply().await.check(400, "bad_host");
    wire.send(absolute("elsewhere ").as_bytes()).await;
    wire.reply().await.check(400, "bad_host");
    wire.send(absolute("https://localhost/webhook ").as_bytes()).await;
    wire.reply().await.check(200, "received");

    let mut http2 = edge.http2().await;
    http2.ask(&Ask::good().with("host", "elsewhere")).await.check(400, "bad_host");
    http2.ask(&Ask::good().with("host", "LOCALHOST")).await.check(200, "received");
    // Neither `:authority` nor `host`: 400 is the static entry 12 of the header table (RFC 7541, appendix A).
    let mut raw = Raw::connect(&edge).await;
    let nameless = block([(":method", &b"POST"[..]), (":scheme", b"https"), (":path", b"/webhook")]);
    edge.sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let stream = raw.open();
    assert!(raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &nameless)).await);
    assert_eq!(raw.until(HEADERS).await.unwrap().payload[0], 0x80 | 12);
    edge.counted(&before, &[("bad_host", bad.len() as f64 + 4.0), ("received", 2.0)]);
    edge.finish().await;
}

#[tokio::test]
async fn row_10_other_transfer_encodings() {
    // HTTP/2 has no transfer encodings: there the header is malformed, row 7.
    let edge = Edge::start().await;
    let head = String::from_utf8(Ask::good().head_http1()).unwrap();
    for bad in ["gzip, chunked", "identity, chunked", "chunked, chunked", "gzip\r\ntransfer-encoding: chunked"] {
        let before = edge.counts();
        let request = format!("{head}transfer-encoding: {bad}\r\n\r\n0\r\n\r\n");
        let mut wire = edge.http1().await;
        wire.send(request.as_bytes()).await;
        let reply = wire.reply().await;
        reply.check(501, "unsupported_transfer_encoding");
        assert!(reply.says_close() && wire.ends().await);
        edge.counted(&before, &[("unsupported_transfer_encoding", 1.0)]);
    }
    edge.finish().await;
}

#[tokio::test]
async fn row_11_unknown_path() {
    let edge = Edge::start().await;
    let paths =
        ["/", "/webhook/", "/Webhook", "//webhook", "/webhook%20", "/webhook/../webhook", "/./webhook", "/%77ebhook"];
    edge.check_each(&paths.map(|path| Ask::good().to(path)), 404, "not_found").await;
    edge.check(&Ask::good().method("GET").to("/nowhere"), 404, "not_found").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_12_other_methods() {
    let edge = Edge::start().await;
    let methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "POSTS"];
    edge.check_each(&methods.map(|method| Ask::good().method(method)), 405, "method_not_allowed").await;
    // An answer to HEAD has no body.
    let before = edge.counts();
    let mut wire = edge.http1().await;
    wire.send(&Ask { body: Vec::new(), ..Ask::good() }.method("HEAD").to_http1()).await;
    while !wire.received.ends_with(b"\r\n\r\n") {
        assert_ne!(wire.more().await, 0);
    }
    assert!(wire.received.starts_with(b"HTTP/1.1 405 "));
    edge.counted(&before, &[("method_not_allowed", 1.0)]);
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
async fn row_14_content_type_not_the_sources() {
    let edge = Edge::start().await;
    let types = [
        "",
        "text/plain",
        "application/jsonx",
        "application/json, text/plain",
        "application/json; charset=latin1",
        "application/json; charset=utf-8; x=y",
        "application/json; boundary=x",
        "application/x-www-form-urlencoded",
        "application/cloudevents+json",
    ];
    let mut asks: Vec<Ask> = types.into_iter().map(|text| Ask::good().set("content-type", text)).collect();
    asks.push(Ask::good().set("content-type", b"application/json\xff".to_vec()));
    asks.push(Ask::good().without("content-type"));
    asks.push(Ask::good().with("content-type", "application/json"));
    asks.push(Ask::good().to("/sealed"));
    // The path takes JWE, but not from the source that signed.
    asks.push(Ask::signed(OTHER_SECRET, NOW_S, Format::Jwe.content_type(), "a..b.c.d"));
    edge.check_each(&asks, 415, "unsupported_media_type").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_15_content_encoding() {
    let edge = Edge::start().await;
    let encodings = ["gzip", "identity", "", "br, gzip", "zstd"];
    edge.check_each(&encodings.map(|text| Ask::good().with("content-encoding", text)), 415, "unsupported_encoding")
        .await;
    edge.finish().await;
}

#[tokio::test]
async fn row_20_signature_or_timestamp_missing() {
    let edge = Edge::start().await;
    let missing = |name| Ask::good().without(name);
    let both = missing("x-webhook-signature").without("x-webhook-timestamp");
    // Another scheme's headers are none of this one's.
    let other = both.clone().with("webhook-signature", "v1,AAAA").with("webhook-timestamp", "1700000000");
    let asks = [missing("x-webhook-signature"), missing("x-webhook-timestamp"), both, other];
    edge.check_each(&asks, 401, "signature_missing").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_21_a_header_twice() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let mut asks = Vec::new();
    for name in ["x-webhook-signature", "x-webhook-timestamp", "x-encryption-nonce"] {
        asks.push(good.clone().with(name, good.value(name).to_vec()));
        asks.push(good.clone().with(name, ""));
    }
    edge.check_each(&asks, 400, "duplicate_header").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_22_timestamp_outside_the_grammar() {
    let edge = Edge::start().await;
    let texts = [
        "",
        "0",
        "-1700000000",
        "+1700000000",
        "01700000000",
        "0000000000",
        "170000000",
        "170000000000",
        "1700000000000",
        "1700000000.0",
        "1700000000,0",
        "1_700_000_000",
        "1 700 000 000",
        "1700000000 1",
        "17000000e2",
        "0x6553f100",
        "170000000a",
        "18446744073709551616",
        "\u{661}\u{667}\u{660}\u{660}\u{660}",
        "\u{ff11}700000000",
        "Tue, 14 Nov 2023 22:13:20 GMT",
    ];
    let asks = texts.map(|text| Ask::good().set("x-webhook-timestamp", text));
    edge.check_each(&asks, 401, "invalid_timestamp").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_23_signature_outside_the_grammar() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let hex = String::from_utf8(good.value("x-webhook-signature").to_vec()).unwrap();
    let bad = [
        String::new(),
        ",".into(),
        "v1=".into(),
        "sha256=".into(),
        hex.to_uppercase(),
        format!("V1={hex}"),
        hex[..63].into(),
        hex[..62].into(),
        format!("{hex}0"),
        format!("{hex}{hex}"),
        format!("v0={hex}"),
        format!("v1,{hex}"),
        format!("v1=v1={hex}"),
        format!("sha1={hex}"),
        format!("0x{hex}"),
        format!("{hex},"),
        format!(",{hex}"),
        format!("{hex}, {hex}"),
        format!("{hex} {hex}"),
        format!("{hex};{hex}"),
        format!("\"{hex}\""),
        [hex.as_str(); 6].join(","),
        // One more than the longest header.
        "0".repeat(513),
    ];
    let asks = bad.map(|text| good.clone().set("x-webhook-signature", text));
    edge.check_each(&asks, 401, "signature_invalid").await;
    edge.check(&good.clone().set("x-webhook-signature", [hex.as_str(); 5].join(",")), 200, "received").await;
    edge.finish().await;
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[tokio::test]
async fn row_24_a_wrong_signature_or_one_bit_changed() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let mut wrong = vec![
        Ask { body: good.body[..good.body.len() - 1].to_vec(), ..good.clone() },
        Ask { body: [&good.body[..], b"\n"].concat(), ..good.clone() },
        Ask { body: Vec::new(), ..good.clone() },
        good.clone().set("x-webhook-timestamp", "1700000001"),
        good.clone().set("x-webhook-timestamp", "17000000000"),
        good.clone().set("x-webhook-signature", "0".repeat(64)),
        Ask::signed(b"nobody's-secret-do-not-use", NOW_S, "application/json", NATIVE),
    ];
    let text = String::from_utf8(good.value("x-webhook-signature").to_vec()).unwrap();
    for (at, old) in text.char_indices() {
        let other = if old == '0' { "1" } else { "0" };
        wrong.push(good.clone().set("x-webhook-signature", format!("{}{other}{}", &text[..at], &text[at + 1..])));
    }
    for byte in 0..good.body.len() {
        wrong.push(Ask { body: flipped(&good.body, 8 * byte + byte % 8), ..good.clone() });
    }
    // The last bit of each digit but the first makes it another digit.
    for digit in 1..10 {
        wrong.push(good.clone().set("x-webhook-timestamp", flipped(good.value("x-webhook-timestamp"), 8 * digit)));
    }
    let answers = edge.check_each(&wrong, 401, "signature_invalid").await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    edge.finish().await;
}

#[tokio::test]
async fn row_25_other_sources_and_retired_secrets_get_the_same_bytes_as_a_wrong_signature() {
    let edge = Edge::start().await;
    let good = Ask::good();
    let unsigned = good.clone().set("x-webhook-signature", "0".repeat(64));
    let plain = edge.check_each(&[unsigned], 401, "signature_invalid").await;
    let wrong = [
        Ask::signed(b"retired-secret-do-not-use", NOW_S, "application/json", NATIVE),
        Ask::signed(OFF_SECRET, NOW_S, "application/json", NATIVE),
        // Far outside the window too: that is told to those only who can sign.
        Ask::signed(OFF_SECRET, 1_000_000_000, "application/json", NATIVE),
        // Another path's source, and a path whose only source is disabled.
        good.clone().to("/sealed").set("content-type", "application/jose"),
        good.clone().to("/closed"),
        // Not even of the grammar.
        good.clone().set("x-webhook-signature", "short"),
    ];
    assert_eq!(edge.check_each(&wrong, 401, "signature_invalid").await, plain);
    assert_eq!(plain.len(), 1, "{plain:?}");
    edge.finish().await;
}

#[tokio::test]
async fn row_26_freshness_has_both_edges_and_needs_a_valid_signature() {
    let edge = Edge::start().await;
    let at = |timestamp| Ask::signed(SECRET, timestamp, "application/json", NATIVE);
    for timestamp in [NOW_S - 300, NOW_S - 299, NOW_S + 299, NOW_S + 300] {
        edge.check(&at(timestamp), 200, "received").await;
    }
    let late = [NOW_S - 301, NOW_S + 301, 1_000_000_000, 99_999_999_999];
    edge.check_each(&late.map(at), 401, "timestamp_out_of_tolerance").await;
    let unsigned = at(NOW_S - 301).set("x-webhook-signature", "0".repeat(64));
    edge.check(&unsigned, 401, "signature_invalid").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_27_not_json() {
    let edge = Edge::start().await;
    let deep = |levels: usize| format!("{{\"encrypted\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    let texts = [
        String::new(),
        " ".into(),
        "nope".into(),
        "{".into(),
        "{}x".into(),
        "{} {}".into(),
        format!("{NATIVE}\0"),
        format!("{NATIVE}{NATIVE}"),
        format!("\u{feff}{NATIVE}"),
        "[1".into(),
        "\u{1}".into(),
        "{'a':1}".into(),
        "{\"a\":1,}".into(),
        "{\"a\":NaN}".into(),
        "{\"a\":01}".into(),
        "{\"a\":\"\u{1}\"}".into(),
        "{\"a\":\"\\ud800\"}".into(),
        deep(128),
        deep(1000),
    ];
    let mut asks: Vec<Ask> = texts.into_iter().map(Ask::native).collect();
    for bytes in
        [&b"\xff\xfe"[..], b"{\"encrypted\":\"\xff\"}", b"{\"encrypted\":\"\xc0\xaf\"}", b"{\"a\":\"\xed\xa0\x80\"}"]
    {
        asks.push(Ask::native(bytes.to_vec()));
    }
    edge.check_each(&asks, 400, "invalid_json").await;
    // One level less is JSON, of another shape.
    edge.check(&Ask::native(deep(126)), 400, "invalid_envelope").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_28_not_an_envelope() {
    let edge = Edge::start().await;
    let encrypted = NATIVE.trim_start_matches('{').split(',').next().unwrap();
    let nonce = format!("\"nonce\":\"{NONCE}\"");
    let texts = [
        "[]".to_owned(),
        "1".into(),
        "null".into(),
        "true".into(),
        "\"text\"".into(),
        "{}".into(),
        format!("[{NATIVE}]"),
        format!("[\"AAAA\",\"{NONCE}\"]"),
        format!(" {NATIVE}"),
        format!("{{{nonce}}}"),
        format!("{{{encrypted}}}"),
        format!("{{{encrypted},{nonce},\"extra\":1}}"),
        format!("{{{encrypted},{nonce},\"\":\"\"}}"),
        format!("{{{encrypted},{nonce},{nonce}}}"),
        format!("{{{encrypted},{nonce},{encrypted}}}"),
        format!("{{{encrypted},\"Nonce\":\"{NONCE}\"}}"),
        format!("{{\"encrypted\":1,{nonce}}}"),
        format!("{{\"encrypted\":null,{nonce}}}"),
        format!("{{\"encrypted\":[],{nonce}}}"),
        format!("{{\"encrypted\":{{}},{nonce}}}"),
        format!("{{{encrypted},\"nonce\":12}}"),
        // What would be readable in the log.
        r#"{"id":"evt_1","type":"order.paid","price":12.5}"#.into(),
    ];
    edge.check_each(&texts.map(Ask::native), 400, "invalid_envelope").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_29_ciphertext_is_none() {
    let edge = Edge::start().await;
    let with = |text: &str| Ask::native(format!("{{\"encrypted\":\"{text}\",\"nonce\":\"{NONCE}\"}}"));
    let texts = [
        "",
        "AAAA",
        "%%%%",
        // 15 bytes.
        "AAAAAAAAAAAAAAAAAAAA",
        // 16 bytes: without padding, with bits that stand for nothing, with too much padding, with a line break.
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAB==",
        "AAAAAAAAAAAAAAAAAAAAAA===",
        "AAAAAAAAAAAA\\nAAAAAAAAAA==",
        "AAAAAAAAAAAA AAAAAAAAAA==",
        // The other alphabet.
        "-_AAAAAAAAAAAAAAAAAAAA==",
        "AAAA====",
    ];
    edge.check_each(&texts.map(with), 400, "invalid_ciphertext").await;
    edge.check(&with("AAAAAAAAAAAAAAAAAAAAAA=="), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_30_nonce_is_none_or_not_its_headers() {
    let edge = Edge::start().await;
    let with = |nonce: &str| Ask::native(NATIVE.replace(NONCE, nonce)).set("x-encryption-nonce", nonce);
    let mut asks: Vec<Ask> =
        ["", "AAAA", "AAECAwQFBgcICQo=", "AAECAwQFBgcICQoLDA==", "AAECAwQFBgcICQo", "AAECAwQFBgcICQ-_"]
            .into_iter()
            .map(with)
            .collect();
    asks.push(Ask::good().without("x-encryption-nonce"));
    asks.push(Ask::good().set("x-encryption-nonce", ""));
    asks.push(Ask::good().set("x-encryption-nonce", "BAECAwQFBgcICQoL"));
    asks.push(Ask::good().set("x-encryption-nonce", format!("{NONCE}=")));
    edge.check_each(&asks, 400, "invalid_nonce").await;
    edge.finish().await;
}

/// A token with this header; ingest cannot see that it opens to nothing.
fn token(header: &str, parts: [&str; 4]) -> String {
    let [key, iv, ciphertext, tag] = parts;
    format!("{}.{key}.{iv}.{ciphertext}.{tag}", BASE64URL_NOPAD.encode(header.as_bytes()))
}

#[tokio::test]
async fn row_31_not_a_jwe_of_ours() {
    const IV: &str = "AAECAwQFBgcICQoL";
    const TAG: &str = "Kv0kytVmA8t2AIvs3jKGUw";
    const PARTS: [&str; 4] = ["", IV, "PCC_", TAG];
    let edge = Edge::start().await;
    let ask = |token: String| Ask::signed(SECRET, NOW_S, "application/jose", token).without("x-encryption-nonce");
    let good = r#"{"alg":"dir","enc":"A256GCM","kid":"k1","jti":"evt_1","aud":"acme"}"#;
    edge.check(&ask(token(good, PARTS)), 200, "received").await;
    edge.check(&ask(token(&good.replace('}', ",\"iat\":1700000000,\"typ\":\"x\"}"), PARTS)), 200, "received").await;
    edge.check(&ask(token(good, ["", IV, "", TAG])), 200, "received").await;

    let mut headers = vec![good.replace('}', ""), format!("{good} x"), "[]".into(), String::new()];
    for (from, to) in [
        ("dir", "A256KW"),
        ("dir", "RSA-OAEP"),
        ("dir", "none"),
        ("dir", "DIR"),
        ("A256GCM", "A128GCM"),
        ("A256GCM", "A256CBC-HS512"),
        ("\"alg\":\"dir\",", ""),
        ("\"enc\":\"A256GCM\",", ""),
        ("\"kid\":\"k1\",", ""),
        ("\"jti\":\"evt_1\",", ""),
        (",\"aud\":\"acme\"", ""),
        ("\"acme\"", "\"other\""),
        ("\"acme\"", "[\"acme\"]"),
        ("\"acme\"", "\"Acme\""),
        ("\"evt_1\"", "\"\""),
        ("\"evt_1\"", "1"),
        ("\"k1\"", "1"),
        ("}", ",\"crit\":[\"exp\"]}"),
        ("}", ",\"zip\":\"DEF\"}"),
        ("}", ",\"kid\":\"k1\"}"),
        ("}", ",\"iat\":\"now\"}"),
    ] {
        headers.push(good.replacen(from, to, 1));
    }
    let mut tokens: Vec<String> = headers.iter().map(|header| token(header, PARTS)).collect();
    for parts in [
        ["AAAA", IV, "PCC_", TAG],
        ["", &IV[1..], "PCC_", TAG],
        ["", "AAECAwQFBgcICQoLDA", "PCC_", TAG],
        ["", "", "PCC_", TAG],
        ["", IV, "PCC+", TAG],
        ["", IV, "PCC_=", TAG],
        ["", IV, "P", TAG],
        ["", IV, "PCC_", &TAG[1..]],
        ["", IV, "PCC_", "Kv0kytVmA8t2AIvs3jKGUwAA"],
        ["", IV, "PCC_", ""],
    ] {
        tokens.push(token(good, parts));
    }
    let whole = token(good, PARTS);
    tokens.push(whole.replacen("..", ".", 1));
    tokens.push(format!("{whole}."));
    tokens.push(format!("{whole}\n"));
    tokens.push(format!(" {whole}"));
    tokens.push(String::new());
    tokens.push(NATIVE.to_owned());
    let asks: Vec<Ask> = tokens.into_iter().map(ask).collect();
    edge.check_each(&asks, 400, "invalid_envelope").await;
    edge.finish().await;
}
