//! Signing as Standard Webhooks 1.0 (symmetric, `v1`): what the HTTP sink speaks to its receiver.
//!
//! ```text
//! webhook-id: msg_…                 the same on every attempt
//! webhook-timestamp: 1700000000     of this attempt
//! webhook-signature: v1,<base64 of HMAC-SHA256(key, id ‖ "." ‖ timestamp ‖ "." ‖ body)>
//! key                               the bytes behind `whsec_<base64>`, 24 to 64 of them
//! ```
//!
//! Only signing: nothing in this project receives this scheme here.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::signature::Mac;

/// The header of the delivery's identity.
pub const ID_HEADER: HeaderName = HeaderName::from_static("webhook-id");
/// The header of the attempt's time, in seconds since 1970.
pub const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header of the signature.
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("webhook-signature");

const PREFIX: &[u8] = b"whsec_";
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
}
