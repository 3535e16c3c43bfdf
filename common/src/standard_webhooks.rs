//! Standard Webhooks 1.0: what the HTTP sink speaks to its receiver, and what senders of a source may speak to ingest.
//!
//! ```text
//! webhook-id: msg_…                 the same on every attempt
//! webhook-timestamp: 1700000000     of this attempt
//! webhook-signature: sig *(" " sig)
//!                    sig = "v1,"  base64 of HMAC-SHA256(key, content)   key: `whsec_` base64 of 24 to 64 bytes
//!                        / "v1a," base64 of Ed25519(key, content)       public key: `whpk_` base64 of 32 bytes
//! content                           id ‖ "." ‖ timestamp ‖ "." ‖ body
//! ```
//!
//! What is received is read more strictly than by others: 1 to 5 signatures in at most 512 bytes, one space between them,
//! canonical base64; a timestamp as in [`crate::signature`]; an id of 1 to 256 visible characters without a dot, so that
//! content can be divided in one way only. Signatures of versions not known here are passed over.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::signature::{MAC_LEN, Mac, SIGNATURE_HEADER_BYTES_MAX, SIGNATURES_MAX, SignaturesError};
use crate::verify::{ED25519_KEY_LEN, ED25519_SIGNATURE_LEN, Shown, VerifyingKey};

/// The header of the delivery's identity.
pub const ID_HEADER: HeaderName = HeaderName::from_static("webhook-id");
/// The header of the attempt's time, in seconds since 1970.
pub const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header of the signature.
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("webhook-signature");

const PREFIX: &[u8] = b"whsec_";
const PUBLIC_PREFIX: &[u8] = b"whpk_";
/// Longest id that is received.
const ID_BYTES_MAX: usize = 256;
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;

/// A signing key, worked into the MAC once.
pub struct SigningKey(Mac);

/// A secret that is not `whsec_` and the base64 of 24 to 64 bytes. The operator's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a Standard Webhooks secret is `whsec_` and the base64 of 24 to 64 bytes")]
pub struct SigningKeyError;

impl SigningKey {
    /// Reads the text form of a secret.
    pub fn parse(secret: &Secret) -> Result<Self, SigningKeyError> {
        let text = secret.expose().strip_prefix(PREFIX).ok_or(SigningKeyError)?;
        let mut key = Zeroizing::new([0; KEY_BYTES_MAX + 3]);
        let len = STANDARD.decode_slice(text, key.as_mut_slice()).map_err(|_| SigningKeyError)?;
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&len) {
            return Err(SigningKeyError);
        }
        Ok(Self(Mac::new(&Secret::from(key[..len].to_vec()))))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

/// Signs one attempt: the value of [`SIGNATURE_HEADER`].
///
/// `id` must hold no dot, or two deliveries could be signed alike; ours are `msg_` and base64url.
pub fn sign(key: &SigningKey, id: &str, unix_s: u64, body: &[u8]) -> String {
    debug_assert!(!id.contains('.'), "the dot separates the id from the timestamp");
    let mut mac = key.0.clone();
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(unix_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finish()))
}

/// Reads the text form of a secret (`whsec_…`) or of a public key (`whpk_…`), to check signatures with.
pub fn parse_verifying_key(text: &Secret) -> Result<VerifyingKey, VerifyingKeyError> {
    let Some(public) = text.expose().strip_prefix(PUBLIC_PREFIX) else {
        let SigningKey(mac) = SigningKey::parse(text).map_err(|_| VerifyingKeyError)?;
        return Ok(VerifyingKey::Mac(mac));
    };
    let bytes = decode::<ED25519_KEY_LEN>(public).ok_or(VerifyingKeyError)?;
    VerifyingKey::ed25519(&bytes).map_err(|_| VerifyingKeyError)
}

/// A text that is neither a secret nor a public key. The operator's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a Standard Webhooks key is `whsec_` and the base64 of 24 to 64 bytes, or `whpk_` and that of an Ed25519 public key"
)]
pub struct VerifyingKeyError;

/// Whether this is an id that is received.
pub fn is_id(header: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&header.len()) && header.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'.')
}

/// Reads the bytes of [`SIGNATURE_HEADER`].
pub fn parse_signatures(header: &[u8]) -> Result<Shown, SignaturesError> {
    if header.len() > SIGNATURE_HEADER_BYTES_MAX {
        return Err(SignaturesError);
    }
    let (mut macs, mut ed25519) = (Vec::new(), Vec::new());
    for (index, part) in header.split(|&byte| byte == b' ').enumerate() {
        let comma = part.iter().position(|&byte| byte == b',').ok_or(SignaturesError)?;
        let (version, text) = (&part[..comma], &part[comma + 1..]);
        if index == SIGNATURES_MAX || version.is_empty() || text.is_empty() {
            return Err(SignaturesError);
        }
        match version {
            b"v1" => macs.push(decode::<MAC_LEN>(text).ok_or(SignaturesError)?),
            b"v1a" => ed25519.push(decode::<ED25519_SIGNATURE_LEN>(text).ok_or(SignaturesError)?),
            _ => {}
        }
    }
    Shown::new(&macs, &ed25519)
}

/// Canonical base64 of exactly `LEN` bytes.
fn decode<const LEN: usize>(text: &[u8]) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let whole = text.len() == base64::encoded_len(LEN, true)?;
    (whole && STANDARD.decode_slice(text, &mut bytes) == Ok(LEN)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<SigningKey, SigningKeyError> {
        SigningKey::parse(&Secret::from(text.as_bytes().to_vec()))
    }

    #[test]
    fn golden_vectors() {
        let vectors: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/vectors/schemes.json")).unwrap();
        let mut count = 0;
        for vector in vectors.iter().filter(|vector| vector["scheme"] == "standard-webhooks") {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let headers = &vector["headers"];
            let signature = sign(
                &key(&text(&vector["secret"])).unwrap(),
                &text(&headers["webhook-id"]),
                text(&headers["webhook-timestamp"]).parse().unwrap(),
                text(&vector["body"]).as_bytes(),
            );
            assert_eq!(signature, text(&headers["webhook-signature"]));
            count += 1;
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn secrets_have_a_grammar_and_both_edges() {
        let of_len = |len: usize| key(&format!("whsec_{}", STANDARD.encode(vec![7; len])));
        assert!(of_len(24).is_ok());
        assert!(of_len(64).is_ok());
        for len in [0, 23, 65, 66, 67, 68, 1000] {
            assert_eq!(of_len(len).unwrap_err(), SigningKeyError, "{len} bytes");
        }
        let good = STANDARD.encode([7; 25]);
        assert!(key(&format!("whsec_{good}")).is_ok());
        for bad in [
            String::new(),
            good.clone(),
            format!("whpk_{good}"),
            format!("WHSEC_{good}"),
            format!("whsec_{good}\n"),
            format!("whsec_ {good}"),
            format!("whsec_{}", good.trim_end_matches('=')),
        ] {
            assert!(key(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey([redacted])");
    }

    /// The signature vectors of a scheme: key, id, timestamp, signature, body.
    fn vectors(scheme: &str) -> Vec<[String; 5]> {
        let vectors: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../tests/vectors/schemes.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let of_scheme = vectors.iter().filter(|vector| vector["scheme"] == scheme);
        of_scheme
            .map(|vector| {
                let header = |name: &str| text(&vector["headers"][name]);
                let [id, timestamp, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
                [text(&vector["secret"]), id, timestamp, signature, text(&vector["body"])]
            })
            .collect()
    }

    fn verify(key: &str, id: &str, timestamp: &str, signature: &str, body: &str) -> bool {
        let key = parse_verifying_key(&Secret::from(key.as_bytes().to_vec())).unwrap();
        let Ok(shown) = parse_signatures(signature.as_bytes()) else { return false };
        let before = format!("{id}.{timestamp}.");
        let mut verification = crate::verify::Verification::begin([&key].into_iter(), before.as_bytes(), &shown);
        verification.update(body.as_bytes());
        verification.finish(|_| true).is_some()
    }

    #[test]
    fn golden_vectors_are_verified_and_nothing_else() {
        let (symmetric, asymmetric) = (vectors("standard-webhooks"), vectors("standard-webhooks-ed25519"));
        assert_eq!((symmetric.len(), asymmetric.len()), (2, 1));
        for [key, id, timestamp, signature, body] in symmetric.iter().chain(&asymmetric) {
            assert!(is_id(id.as_bytes()));
            assert!(verify(key, id, timestamp, signature, body), "{id}");
            assert!(verify(key, id, timestamp, &format!("v2,x v1,{} {signature}", STANDARD.encode([0; 32])), body));
            assert!(!verify(key, &format!("{id}0"), timestamp, signature, body));
            assert!(!verify(key, id, "1614265331", signature, body));
            assert!(!verify(key, id, timestamp, signature, &format!("{body} ")));
            let (version, text) = signature.split_once(',').unwrap();
            let other = if version == "v1" { "v1a" } else { "v1" };
            assert!(!verify(key, id, timestamp, &format!("{other},{text}"), body));
        }
        let [_, id, timestamp, signature, body] = &symmetric[0];
        assert!(!verify(&symmetric[1][0], id, timestamp, signature, body), "another secret");
    }

    #[test]
    fn signatures_have_a_grammar() {
        let (mac, ed25519) = (STANDARD.encode([7; 32]), STANDARD.encode([7; 64]));
        let good = format!("v1,{mac}");
        for header in [
            good.clone(),
            format!("v1a,{ed25519}"),
            format!("v1,{mac} v1a,{ed25519} v2,anything v1,{mac} v9x,?"),
            "v3,unknown".to_owned(),
        ] {
            assert!(parse_signatures(header.as_bytes()).is_ok(), "{header}");
        }
        for header in [
            String::new(),
            " ".to_owned(),
            ",".to_owned(),
            "v1".to_owned(),
            "v1,".to_owned(),
            mac.clone(),
            format!(",{mac}"),
            format!("{good},{mac}"),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}  {good}"),
            format!("v1,{}", mac.trim_end_matches('=')),
            format!("v1,{}", mac.replace('=', "==")),
            format!("v1,{ed25519}"),
            format!("v1a,{mac}"),
            format!("v1,{}", STANDARD.encode([7; 31])),
            format!("v1,{}", STANDARD.encode([7; 33])),
            // The last symbol has bits that stand for nothing.
            format!("v1,{}", mac.replace("c=", "d=")),
            [good.as_str(); 6].join(" "),
            ["v2,x"; 6].join(" "),
            format!("v2,{}", "x".repeat(510)),
        ] {
            assert!(parse_signatures(header.as_bytes()).is_err(), "{header:?}");
        }
        assert!(parse_signatures([good.as_str(); 5].join(" ").as_bytes()).is_ok());
        assert!(parse_signatures(format!("v2,{}", "x".repeat(509)).as_bytes()).is_ok());
        assert!(mac.ends_with("c="), "{mac}");
    }

    #[test]
    fn ids_have_a_grammar() {
        let longest = "x".repeat(256);
        for id in ["msg_p5jXN8AQM9LWM0D4loKWxJek", "1", "a/b:c", &longest] {
            assert!(is_id(id.as_bytes()), "{id}");
        }
        for id in ["", "a.b", ".", "a b", "a\t", "é", &format!("{longest}x")] {
            assert!(!is_id(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn public_keys_have_a_grammar() {
        let parse = |text: String| parse_verifying_key(&Secret::from(text.into_bytes()));
        let good = vectors("standard-webhooks-ed25519")[0][0].clone();
        assert!(matches!(parse(good.clone()), Ok(VerifyingKey::Ed25519(_))));
        assert!(matches!(parse(format!("whsec_{}", STANDARD.encode([7; 32]))), Ok(VerifyingKey::Mac(_))));
        for bad in [
            good.replace("whpk_", ""),
            good.replace("whpk_", "whsk_"),
            good.replace('=', ""),
            format!("whpk_{}", STANDARD.encode([0; 32])),
            format!("whpk_{}", STANDARD.encode([7; 31])),
            format!("whpk_{}", STANDARD.encode([7; 64])),
            "whpk_".to_owned(),
            "whsec_".to_owned(),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
