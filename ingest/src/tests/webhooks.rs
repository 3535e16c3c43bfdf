//! Sources whose senders sign as Standard Webhooks do, with a secret or with a key pair. What they carry is sealed all the
//! same.

use std::path::Path;

use common::config::SecretFile;
use common::envelope::Format;
use common::secret::Secret;
use common::standard_webhooks::{self, SigningKey};
use serde_json::Value;

use super::{Ask, Edge, NATIVE, NOW_S, SECRET};
use crate::Scheme;
use crate::config::{Config, Source, SourceSecret};

const SYMMETRIC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ID: &str = "msg_2b6hRnQeXkKZ";

/// The senders' key pair.
fn ed25519() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[9; 32])
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

/// Adds the source `hooks`, with two secrets and a public key, and `moved`, which is disabled and on the same path.
fn with_hooks(config: &mut Config) {
    let dir = config.listen.key.as_path().parent().unwrap().to_owned();
    let public = format!("whpk_{}", base64(ed25519().verifying_key().as_bytes()));
    let hooks = source(&dir, &[("hooks.s1", SYMMETRIC), ("hooks.s2", SECOND), ("hooks.k1", &public)]);
    let moved = source(&dir, &[("moved.s1", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]);
    config.source.insert("hooks".parse().unwrap(), hooks);
    config.source.insert("moved".parse().unwrap(), Source { enabled: false, ..moved });
}

fn source(dir: &Path, keys: &[(&str, &str)]) -> Source {
    let secrets = keys.iter().map(|(name, text)| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        let (id, file) = (name.split_once('.').unwrap().1.parse().unwrap(), SecretFile::new(path));
        SourceSecret { id, file, not_before: None, not_after: None }
    });
    Source { scheme: Scheme::StandardWebhooks, path: "/hooks".into(), secrets: secrets.collect(), ..template() }
}

/// A source as the manual has it.
fn template() -> Source {
    super::config().source["acme"].clone()
}

fn ask(signature: String, id: &str, timestamp: &str, body: &str) -> Ask {
    let headers = vec![
        ("content-type", b"application/json".to_vec()),
        ("webhook-id", id.into()),
        ("webhook-timestamp", timestamp.into()),
        ("webhook-signature", signature.into_bytes()),
    ];
    Ask { method: "POST", path: "/hooks".into(), headers, body: body.into() }
}

fn symmetric(key: &str, id: &str, unix_s: u64, body: &str) -> Ask {
    let key = SigningKey::parse(&Secret::from(key.as_bytes().to_vec())).unwrap();
    ask(standard_webhooks::sign(&key, id, unix_s, body.as_bytes()), id, &unix_s.to_string(), body)
}

fn asymmetric(id: &str, unix_s: u64, body: &str) -> Ask {
    use ed25519_dalek::Signer;
    let signature = ed25519().sign(format!("{id}.{unix_s}.{body}").as_bytes());
    ask(format!("v1a,{}", base64(&signature.to_bytes())), id, &unix_s.to_string(), body)
}

fn both(id: &str, unix_s: u64, body: &str) -> [Ask; 2] {
    [symmetric(SYMMETRIC, id, unix_s, body), asymmetric(id, unix_s, body)]
}

fn signature(ask: &Ask) -> String {
    String::from_utf8(ask.value("webhook-signature").to_vec()).unwrap()
}

#[tokio::test]
async fn a_sealed_body_with_either_signature_is_a_record_like_any_other() {
    let edge = Edge::start_with(with_hooks).await;
    for good in both(ID, NOW_S, NATIVE) {
        edge.check(&good, 200, "received").await;
        // The native scheme's nonce header is none of this one's.
        edge.check(&good.clone().with("x-encryption-nonce", "else"), 200, "received").await;
        // Signatures of other versions are passed over, and one that fits is enough.
        let several = format!("v2,x v1,{} {}", base64(&[0; 32]), signature(&good));
        edge.check(&good.clone().set("webhook-signature", several), 200, "received").await;
    }
    edge.check(&symmetric(SECOND, ID, NOW_S, NATIVE), 200, "received").await;
    let jwe: Value =
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/jwe.json"))).unwrap();
    let token = jwe["token"].as_str().unwrap();
    let header =
        data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"dir","enc":"A256GCM","kid":"k1","jti":"e","aud":"hooks"}"#);
    let token = format!("{header}.{}", token.split_once('.').unwrap().1);
    for good in both(ID, NOW_S, &token) {
        edge.check(&good.set("content-type", Format::Jwe.content_type()), 200, "received").await;
    }

    let records = edge.inbox();
    assert_eq!(records.len(), 18);
    for (head, _) in &records {
        assert_eq!((head.source.as_str(), &*head.timestamp), ("hooks", "1700000000"));
    }
    assert_eq!(records.iter().filter(|(_, body)| body == NATIVE.as_bytes()).count(), 14);
    let used = |secret| edge.metrics.value("ingest_verified_total", &[("source", "hooks"), ("secret", secret)]);
    assert_eq!((used("s1"), used("s2"), used("k1")), (8.0, 2.0, 8.0));
    edge.finish().await;
}

#[tokio::test]
async fn the_body_may_come_in_pieces() {
    let edge = Edge::start_with(with_hooks).await;
    for good in both(ID, NOW_S, NATIVE) {
        let chunks: Vec<u8> =
            good.body.iter().flat_map(|byte| [b"1\r\n", &[*byte][..], b"\r\n"].concat()).chain(*b"0\r\n\r\n").collect();
        let mut wire = edge.http1().await;
        wire.send(&[good.head_http1(), b"transfer-encoding: chunked\r\n\r\n".to_vec(), chunks].concat()).await;
        wire.reply().await.check(200, "received");
    }
    edge.finish().await;
}

/// Whatever it is signed with: what could be read in the log does not reach it.
#[tokio::test]
async fn row_28_plaintext_is_refused_whoever_signed_it() {
    let edge = Edge::start_with(with_hooks).await;
    let plain = [r#"{"id":"evt_1","type":"order.paid","price":12.5}"#, "{}", "[]", r#"{"test": 2432232314}"#];
    let asks: Vec<Ask> = plain.into_iter().flat_map(|body| both(ID, NOW_S, body)).collect();
    edge.check_each(&asks, 400, "invalid_envelope").await;
    let asks: Vec<Ask> = both(ID, NOW_S, "price=12.5").into();
    edge.check_each(&asks, 400, "invalid_json").await;
    let asks = both(ID, NOW_S, r#"{"price":12.5}"#).map(|ask| ask.set("content-type", "application/jose"));
    edge.check_each(&asks, 400, "invalid_envelope").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_20_a_header_of_the_scheme_missing() {
    let edge = Edge::start_with(with_hooks).await;
    let mut asks = Vec::new();
    for good in both(ID, NOW_S, NATIVE) {
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            asks.push(good.clone().without(name));
        }
    }
    // A good signature in the other scheme, on a path where that is not spoken.
    asks.push(Ask::signed(SECRET, NOW_S, "application/json", NATIVE).to("/hooks"));
    edge.check_each(&asks, 401, "signature_missing").await;
    let other_way = both(ID, NOW_S, NATIVE).map(|ask| ask.to("/webhook"));
    edge.check_each(&other_way, 401, "signature_missing").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_21_a_header_of_the_scheme_twice() {
    let edge = Edge::start_with(with_hooks).await;
    let mut asks = Vec::new();
    for good in both(ID, NOW_S, NATIVE) {
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            asks.push(good.clone().with(name, good.value(name).to_vec()));
        }
    }
    edge.check_each(&asks, 400, "duplicate_header").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_22_timestamp_outside_the_grammar() {
    let edge = Edge::start_with(with_hooks).await;
    let texts = ["", "0", "-1700000000", "01700000000", "1700000000.0", "1700000000000", "2023-11-14T22:13:20Z"];
    let asks: Vec<Ask> = texts
        .into_iter()
        .flat_map(|text| both(ID, NOW_S, NATIVE).map(|ask| ask.set("webhook-timestamp", text)))
        .collect();
    edge.check_each(&asks, 401, "invalid_timestamp").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_23_signature_or_id_outside_the_grammar() {
    let edge = Edge::start_with(with_hooks).await;
    let [good, by_pair] = both(ID, NOW_S, NATIVE);
    let (mac, ed25519) = (signature(&good), signature(&by_pair));
    let text = mac.strip_prefix("v1,").unwrap();
    let bad = [
        String::new(),
        text.to_owned(),
        format!("v1 {text}"),
        format!("v1={text}"),
        format!("V1,{text}"),
        format!("v1a,{text}"),
        format!("{mac},{mac}"),
        format!("{mac}  {mac}"),
        format!("v1,{}", text.trim_end_matches('=')),
        format!("v1,{text}="),
        ed25519.replace("v1a,", "v1,"),
        [mac.as_str(); 6].join(" "),
        [ed25519.as_str(); 6].join(" "),
        "v2,only".into(),
    ];
    let mut asks: Vec<Ask> = bad.into_iter().map(|text| good.clone().set("webhook-signature", text)).collect();
    // An id with a dot could be divided from the timestamp in two ways; the signature is right.
    let dotted = format!("{ID}.1");
    let key = SigningKey::parse(&Secret::from(SYMMETRIC.as_bytes().to_vec())).unwrap();
    // Signed as id, timestamp 1 and a body that begins with our time: the same bytes, divided elsewhere.
    let moved = standard_webhooks::sign(&key, ID, 1, format!("{NOW_S}.{NATIVE}").as_bytes());
    asks.push(ask(moved, &dotted, &NOW_S.to_string(), NATIVE));
    asks.push(asymmetric(&dotted, NOW_S, NATIVE));
    asks.push(asymmetric("", NOW_S, NATIVE));
    asks.push(asymmetric(&"x".repeat(257), NOW_S, NATIVE));
    asks.push(asymmetric("a b", NOW_S, NATIVE));
    edge.check_each(&asks, 401, "signature_invalid").await;
    edge.check(&asymmetric(&"x".repeat(256), NOW_S, NATIVE), 200, "received").await;
    edge.check(&good.clone().set("webhook-signature", [mac.as_str(); 5].join(" ")), 200, "received").await;
    edge.check(&good.set("webhook-signature", [ed25519.as_str(); 5].join(" ")), 200, "received").await;
    edge.finish().await;
}

#[tokio::test]
async fn row_24_a_wrong_signature_or_one_bit_changed() {
    let edge = Edge::start_with(with_hooks).await;
    let mut wrong = Vec::new();
    for good in both(ID, NOW_S, NATIVE) {
        let text = signature(&good);
        let (version, text) = text.split_once(',').unwrap();
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1 << (at % 8);
            wrong.push(good.clone().set("webhook-signature", format!("{version},{}", base64(&bent))));
        }
        for byte in (0..good.body.len()).step_by(7) {
            let mut body = good.body.clone();
            body[byte] ^= 1;
            wrong.push(Ask { body, ..good.clone() });
        }
        wrong.push(good.clone().set("webhook-timestamp", "1700000001"));
        wrong.push(good.clone().set("webhook-id", "msg_2b6hRnQeXkKz"));
        wrong.push(Ask { body: Vec::new(), ..good.clone() });
    }
    let answers = edge.check_each(&wrong, 401, "signature_invalid").await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    edge.finish().await;
}

#[tokio::test]
async fn row_25_a_disabled_source_is_answered_as_a_wrong_signature_is() {
    let edge = Edge::start_with(with_hooks).await;
    let disabled = symmetric("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ID, NOW_S, NATIVE);
    let wrong = symmetric(SYMMETRIC, ID, NOW_S, NATIVE).set("webhook-id", "msg_other");
    // The native scheme signs without an id: no request of the one can be turned into one of the other.
    let native = Ask::signed(SYMMETRIC.as_bytes(), NOW_S, "application/json", NATIVE);
    let hex = native.value("x-webhook-signature").to_vec();
    let bytes = data_encoding::HEXLOWER.decode(&hex).unwrap();
    let turned = ask(format!("v1,{}", base64(&bytes)), ID, &NOW_S.to_string(), NATIVE);
    let answers = edge.check_each(&[disabled, wrong, turned], 401, "signature_invalid").await;
    assert_eq!(answers.len(), 1);
    edge.finish().await;
}

#[tokio::test]
async fn row_26_freshness_has_both_edges() {
    let edge = Edge::start_with(with_hooks).await;
    for timestamp in [NOW_S - 300, NOW_S + 300] {
        for good in both(ID, timestamp, NATIVE) {
            edge.check(&good, 200, "received").await;
        }
    }
    let late: Vec<Ask> =
        [NOW_S - 301, NOW_S + 301].into_iter().flat_map(|timestamp| both(ID, timestamp, NATIVE)).collect();
    edge.check_each(&late, 401, "timestamp_out_of_tolerance").await;
    edge.finish().await;
}

/// The vectors of the reference implementations: signed rightly, long ago, and not sealed.
#[tokio::test]
async fn reference_vectors_are_recognised() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/schemes.json")))
            .unwrap();
    let vectors: Vec<_> =
        vectors.iter().filter(|vector| vector["scheme"].as_str().unwrap().starts_with("standard-webhooks")).collect();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let edge = Edge::start_with(|config| {
            let dir = config.listen.key.as_path().parent().unwrap().to_owned();
            let hooks = source(&dir, &[("hooks.s1", &text(&vector["secret"]))]);
            config.source.insert("hooks".parse().unwrap(), hooks);
        })
        .await;
        let headers = &vector["headers"];
        let timestamp = text(&headers["webhook-timestamp"]);
        let ask =
            ask(text(&headers["webhook-signature"]), &text(&headers["webhook-id"]), &timestamp, &text(&vector["body"]));
        edge.check(&ask, 401, "timestamp_out_of_tolerance").await;
        edge.clock.set_unix_ms(1000 * timestamp.parse::<u64>().unwrap());
        edge.check(&ask, 400, "invalid_envelope").await;
        edge.finish().await;
    }
}

#[tokio::test]
async fn a_file_without_a_key_of_the_scheme_is_told_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = super::config_in(dir.path());
    let wrong = [
        ("hooks.s1", "whsec_AAAAAAAAAAAAAAAA"),
        ("hooks.s2", "a-native-secret-do-not-use"),
        ("hooks.s3", "whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    config.source.insert("hooks".parse().unwrap(), source(dir.path(), &wrong));
    let told = crate::check(&config).unwrap_err().to_string();
    assert_eq!(told.lines().count(), 3, "{told}");
    for (place, line) in told.lines().enumerate() {
        assert!(
            line.starts_with(&format!("source.hooks.secrets[{place}].file: the secret is neither whsec_")),
            "{line}"
        );
    }
    assert!(!told.contains("AAAA") && !told.contains("native-secret"));
}
