//! The project's test vectors, sent over the wire.

use serde_json::Value;

use super::{Ask, Edge, NATIVE, SECRET};

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn native() -> Value {
    vectors(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/native.json")))
}

fn jwe() -> Value {
    vectors(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/jwe.json")))
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn native_signatures() {
    let edge = Edge::start().await;
    for case in native()["signature_cases"].as_array().unwrap() {
        assert_eq!(case["secret_utf8"].as_str().unwrap().as_bytes(), SECRET);
        let ask = Ask { body: unhex(&case["body_hex"]), ..Ask::good() }
            .set("x-webhook-signature", case["signature"].as_str().unwrap())
            .set("x-webhook-timestamp", case["timestamp"].as_str().unwrap());
        let (status, code) = match (case["signature_valid"].as_bool().unwrap(), ask.body.first()) {
            (false, _) => (401, "signature_invalid"),
            (true, Some(b'{')) => (200, "received"),
            (true, _) => (400, "invalid_json"),
        };
        edge.check(&ask, status, code).await;
    }
    edge.finish().await;
}

#[tokio::test]
async fn rotation_and_the_signature_grammar() {
    let edge = Edge::start().await;
    let rotation = &native()["rotation"];
    let ask = |header: &Value| {
        Ask { body: unhex(&rotation["body_hex"]), ..Ask::good() }
            .set("x-webhook-signature", header.as_str().unwrap())
            .set("x-webhook-timestamp", rotation["timestamp"].as_str().unwrap())
    };
    for header in rotation["accepted_headers"].as_array().unwrap() {
        edge.check(&ask(header), 200, "received").await;
    }
    for header in rotation["refused_headers"].as_array().unwrap() {
        let text = header.as_str().unwrap();
        // HTTP takes spaces at either end away before anyone sees them; the parser's own tests have these.
        if text == text.trim() && !text.contains(['\r', '\n']) {
            edge.check(&ask(header), 401, "signature_invalid").await;
        }
    }
    edge.finish().await;
}

#[tokio::test]
async fn native_timestamps() {
    let edge = Edge::start().await;
    for text in native()["timestamps_refused"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        if text == text.trim() {
            edge.check(&Ask::good().set("x-webhook-timestamp", text), 401, "invalid_timestamp").await;
        }
    }
    edge.finish().await;
}

#[tokio::test]
async fn native_window() {
    let edge = Edge::start().await;
    for case in native()["window"].as_array().unwrap() {
        edge.clock.set_unix_ms(case["now"].as_u64().unwrap() * 1000);
        let ok = case["ok"].as_bool().unwrap();
        let (status, code) = if ok { (200, "received") } else { (401, "timestamp_out_of_tolerance") };
        edge.check(&Ask::good(), status, code).await;
    }
    assert_eq!(native()["envelope"]["body_utf8"].as_str().unwrap(), NATIVE);
    edge.finish().await;
}

#[tokio::test]
async fn jwe_tokens() {
    let edge = Edge::start().await;
    let jwe = jwe();
    let ask = |token: &str| Ask::signed(SECRET, super::NOW_S, "application/jose", token).without("x-encryption-nonce");
    let good = ask(jwe["token"].as_str().unwrap());
    assert_eq!(good.value("x-webhook-signature"), jwe["signature_with_native_secret"].as_str().unwrap().as_bytes());
    edge.check(&good, 200, "received").await;
    for (name, token) in jwe["refused_at_ingest"].as_object().unwrap() {
        let replies = edge.check(&ask(token.as_str().unwrap()), 400, "invalid_envelope").await;
        assert_eq!(replies.len(), 2, "{name}");
    }
    // Ingest cannot open anything, so it cannot see these.
    for token in jwe["refused_at_open"].as_object().unwrap().values() {
        edge.check(&ask(token.as_str().unwrap()), 200, "received").await;
    }
    assert_eq!(edge.inbox()[0].0.source.as_str(), "acme");
    edge.finish().await;
}
