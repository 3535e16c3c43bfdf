//! Wycheproof's AES-GCM set. Our formats have one key length, one nonce length and one tag length: its other cases must be
//! refused before any cryptography.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::envelope::{Envelope, EnvelopeError, parse_native};
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::*;
use crate::{Keyring, open};

struct Case {
    name: String,
    key: Secret,
    nonce: Vec<u8>,
    associated: Vec<u8>,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: [u8; TAG_LEN],
    valid: bool,
}

fn cases() -> Vec<Case> {
    let set: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/wycheproof/aes_gcm_test.json")).unwrap();
    let mut cases = Vec::new();
    for group in set["testGroups"].as_array().unwrap() {
        for case in group["tests"].as_array().unwrap() {
            let bytes = |member: &str| HEXLOWER.decode(case[member].as_str().unwrap().as_bytes()).unwrap();
            cases.push(Case {
                name: format!("case {}", case["tcId"]),
                key: Secret::from(bytes("key")),
                nonce: bytes("iv"),
                associated: bytes("aad"),
                plaintext: bytes("msg"),
                ciphertext: bytes("ct"),
                tag: bytes("tag").try_into().unwrap(),
                valid: case["result"] == "valid",
            });
        }
    }
    assert_eq!(set["numberOfTests"], cases.len());
    cases
}

/// A native envelope as a sender would write it, whatever the lengths are.
fn body(case: &Case) -> String {
    let sealed = STANDARD.encode([&case.ciphertext[..], &case.tag].concat());
    format!(r#"{{"encrypted":"{sealed}","nonce":"{}"}}"#, STANDARD.encode(&case.nonce))
}

#[test]
fn wycheproof_aes_gcm() {
    let mut counts = BTreeMap::new();
    for case in cases() {
        let outcome = judge(&case);
        *counts.entry(outcome).or_insert(0) += 1;
    }
    let expect = [("another key length", 211), ("another nonce length", 39), ("not authentic", 27), ("opened", 39)];
    assert_eq!(counts, BTreeMap::from(expect));
}

fn judge(case: &Case) -> &'static str {
    let Ok(key) = Key::try_from(&case.key) else {
        assert_ne!(case.key.expose().len(), Key::LEN, "{}", case.name);
        return "another key length";
    };
    let Ok(nonce) = <[u8; NONCE_LEN]>::try_from(&case.nonce[..]) else {
        assert_eq!(parse_native(body(case).as_bytes()).unwrap_err(), EnvelopeError::InvalidNonce, "{}", case.name);
        return "another nonce length";
    };
    let mut buffer = case.ciphertext.clone();
    let opens = key.open(&nonce, &case.associated, &mut buffer, &case.tag).is_ok();
    assert_eq!(opens, case.valid, "{}", case.name);
    assert_eq!(buffer, if opens { &case.plaintext[..] } else { &case.ciphertext[..] }, "{}", case.name);
    if opens {
        let mut buffer = case.plaintext.clone();
        let tag = key.seal(&Nonce::danger_fixed(nonce), &case.associated, &mut buffer).unwrap();
        assert_eq!((buffer, tag), (case.ciphertext.clone(), case.tag), "{}", case.name);
    }
    // The whole way, where the format can say the same: a native envelope has no associated data.
    if case.associated.is_empty() {
        let keyring = Keyring::new(vec![("k1".parse().unwrap(), key)]).unwrap();
        let body = body(case);
        let envelope = Envelope::Native(parse_native(body.as_bytes()).unwrap());
        let opened = open(&keyring, &envelope).ok().map(|opened| opened.plaintext.to_vec());
        assert_eq!(opened, case.valid.then(|| case.plaintext.clone()), "{}", case.name);
    }
    if opens { "opened" } else { "not authentic" }
}
