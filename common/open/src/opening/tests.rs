use common::envelope::{JweHeader, parse_jwe, parse_native};
use common::id::{EventId, SourceId};
use common::secret::Secret;
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{Key, Keyring, KeyringError, Nonce, seal_jwe, seal_jwe_with, seal_native, seal_native_with};

fn native_vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/native.json")).unwrap()
}

fn jwe_vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/jwe.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes<const LEN: usize>(value: &Value) -> [u8; LEN] {
    HEXLOWER.decode(text(value).as_bytes()).unwrap().try_into().unwrap()
}

fn key(bytes: [u8; 32]) -> Key {
    Key::try_from(&Secret::from(bytes.to_vec())).unwrap()
}

fn id(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn acme() -> SourceId {
    "acme".parse().unwrap()
}

fn ring(keys: &[(&str, [u8; 32])]) -> Keyring {
    Keyring::new(keys.iter().map(|(name, bytes)| (id(name), key(*bytes))).collect()).unwrap()
}

fn header(kid: &str, jti: &str) -> JweHeader {
    JweHeader { kid: id(kid), jti: EventId::new(jti).unwrap(), aud: acme(), iat: None }
}

/// The plaintext and the key's name, or why not.
fn opened(keyring: &Keyring, body: &[u8]) -> Result<(Vec<u8>, String), OpenError> {
    let envelope = Envelope::parse(body, &acme()).expect("the shape is right");
    open(keyring, &envelope).map(|opened| (opened.plaintext.to_vec(), opened.key_id.to_string()))
}

#[test]
fn golden_native_both_ways() {
    let vectors = native_vectors();
    let golden = &vectors["envelope"];
    let secret = bytes(&golden["key_hex"]);
    let plaintext = text(&golden["plaintext_utf8"]);
    let nonce = Nonce::danger_fixed(bytes(&golden["nonce_hex"]));
    let sealed = seal_native_with(&key(secret), nonce, plaintext.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(sealed.body.clone()).unwrap(), text(&golden["body_utf8"]));
    parse_native(&sealed.body).unwrap().check_nonce_header(Some(sealed.nonce_text.as_bytes())).unwrap();
    assert_eq!(opened(&ring(&[("k1", secret)]), &sealed.body), Ok((plaintext.into(), "k1".into())));
}

#[test]
fn golden_jwe_both_ways() {
    let vectors = jwe_vectors();
    let secret = bytes(&vectors["key_hex"]);
    let plaintext = text(&vectors["plaintext_utf8"]);
    let nonce = Nonce::danger_fixed(bytes(&vectors["nonce_hex"]));
    let token = seal_jwe_with(&key(secret), nonce, &header("k1", "evt_1"), plaintext.as_bytes()).unwrap();
    assert_eq!(token, text(&vectors["token"]));
    assert_eq!(opened(&ring(&[("k1", secret)]), token.as_bytes()), Ok((plaintext.into(), "k1".into())));
}

#[test]
fn golden_jwe_signature() {
    use common::signature::{Timestamp, sign};
    let (native, jwe) = (native_vectors(), jwe_vectors());
    let secret = Secret::from(text(&native["signature_cases"][0]["secret_utf8"]).as_bytes().to_vec());
    let timestamp = Timestamp::parse(text(&native["signature_cases"][0]["timestamp"]).as_bytes()).unwrap();
    let signature = sign(&secret, &timestamp, text(&jwe["token"]).as_bytes());
    assert_eq!(signature, text(&jwe["signature_with_native_secret"]));
}

#[test]
fn golden_jwe_refusals() {
    let vectors = jwe_vectors();
    let keyring = ring(&[("k1", bytes(&vectors["key_hex"]))]);
    let refused = vectors["refused_at_open"].as_object().unwrap();
    assert_eq!(refused.len(), 2);
    for (name, token) in refused {
        assert_eq!(opened(&keyring, text(token).as_bytes()), Err(OpenError::Failed), "{name}");
    }
    // What the parser refuses is not even offered to a key; of most the key would have nothing to say against it.
    for (name, token) in vectors["refused_at_ingest"].as_object().unwrap() {
        assert!(parse_jwe(text(token).as_bytes(), &acme()).is_err(), "{name}");
    }
}

#[test]
fn native_tries_every_key_and_names_the_one() {
    let keyring = ring(&[("old", [1; 32]), ("new", [2; 32])]);
    for (secret, name) in [([1; 32], "old"), ([2; 32], "new")] {
        let body = seal_native(&key(secret), b"hello").unwrap().body;
        assert_eq!(opened(&keyring, &body), Ok((b"hello".to_vec(), name.into())));
    }
    let body = seal_native(&key([3; 32]), b"hello").unwrap().body;
    assert_eq!(opened(&keyring, &body), Err(OpenError::Failed));
}

#[test]
fn jwe_uses_the_named_key_and_no_other() {
    let keyring = ring(&[("old", [1; 32]), ("new", [2; 32])]);
    let token = |name: &str, secret| seal_jwe(&key(secret), &header(name, "evt_1"), b"hello").unwrap();
    assert_eq!(opened(&keyring, token("new", [2; 32]).as_bytes()), Ok((b"hello".to_vec(), "new".into())));
    assert_eq!(opened(&keyring, token("new", [1; 32]).as_bytes()), Err(OpenError::Failed));
    assert_eq!(opened(&keyring, token("k9", [1; 32]).as_bytes()), Err(OpenError::UnknownKey(id("k9"))));
}

#[test]
fn every_flipped_bit_is_refused() {
    let keyring = ring(&[("k1", [7; 32])]);
    let native = seal_native(&key([7; 32]), b"some payload").unwrap().body;
    let jwe = seal_jwe(&key([7; 32]), &header("k1", "evt_1"), b"some payload").unwrap().into_bytes();
    for good in [native, jwe] {
        assert!(opened(&keyring, &good).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let outcome = Envelope::parse(&bad, &acme()).map(|envelope| open(&keyring, &envelope));
            assert!(!matches!(outcome, Ok(Ok(_))), "{bit}");
        }
    }
}

#[test]
fn an_empty_payload_can_be_sealed() {
    let keyring = ring(&[("k1", [7; 32])]);
    let native = seal_native(&key([7; 32]), b"").unwrap().body;
    assert_eq!(opened(&keyring, &native), Ok((vec![], "k1".into())));
    let jwe = seal_jwe(&key([7; 32]), &header("k1", "evt_1"), b"").unwrap();
    assert_eq!(opened(&keyring, jwe.as_bytes()), Ok((vec![], "k1".into())));
}

#[test]
fn nonces_are_fresh() {
    let key = key([7; 32]);
    let one = seal_native(&key, b"x").unwrap();
    let two = seal_native(&key, b"x").unwrap();
    assert_ne!(one.nonce_text, two.nonce_text);
    assert_ne!(one.body, two.body);
}

#[test]
fn keys_have_32_bytes() {
    for len in [0, 16, 24, 31, 33, 64] {
        let error = Key::try_from(&Secret::from(vec![1; len])).unwrap_err();
        assert_eq!(error.to_string(), format!("an AES-256 key has 32 bytes, this has {len}"));
    }
}

#[test]
fn keyrings_are_checked() {
    assert_eq!(Keyring::new(vec![]).unwrap_err(), KeyringError::Empty);
    let twice = vec![(id("a"), key([1; 32])), (id("b"), key([2; 32])), (id("a"), key([3; 32]))];
    assert_eq!(Keyring::new(twice).unwrap_err(), KeyringError::RepeatedId(id("a")));
    assert_eq!(ring(&[("a", [1; 32]), ("b", [2; 32])]).ids().map(KeyId::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn debug_shows_no_key_and_no_plaintext() {
    let keyring = ring(&[("k1", [0x41; 32])]);
    assert_eq!(format!("{keyring:?}"), "Keyring([(k1, Key([redacted]))])");
    let body = seal_native(&key([0x41; 32]), b"canary").unwrap().body;
    let opened = open(&keyring, &Envelope::parse(&body, &acme()).unwrap()).unwrap();
    assert_eq!(format!("{opened:?}"), "Opened(6 bytes, k1)");
}

proptest! {
    #[test]
    fn round_trip(
        secret in any::<[u8; 32]>(),
        plaintext in proptest::collection::vec(any::<u8>(), 0..2000),
        jti in "\\PC{1,60}",
        iat in any::<Option<u64>>(),
    ) {
        let keyring = ring(&[("k1", secret)]);
        let native = seal_native(&key(secret), &plaintext).unwrap().body;
        prop_assert_eq!(opened(&keyring, &native), Ok((plaintext.clone(), "k1".into())));
        let header = JweHeader { iat, ..header("k1", &jti) };
        let token = seal_jwe(&key(secret), &header, &plaintext).unwrap();
        let parsed = parse_jwe(token.as_bytes(), &header.aud).unwrap();
        prop_assert_eq!(parsed.header(), &header);
        prop_assert_eq!(opened(&keyring, token.as_bytes()), Ok((plaintext, "k1".into())));
    }
}
