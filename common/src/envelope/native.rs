//! The native envelope: a JSON object with two members of base64.
//!
//! Any JSON spacing, any member order, any JSON escapes (PHP writes `\/`); but each member exactly once, no other
//! member, and nothing before the `{`. The whole body is always read before its shape is judged, because a sender is
//! told whether it was JSON at all.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::json::{self, Document, NotJson, Value};
use super::{EnvelopeError, NONCE_LEN, TAG_LEN, base64_text};

/// Length of the base64 of a nonce. 12 bytes need no padding and leave no bit unused.
const NONCE_TEXT_LEN: usize = NONCE_LEN / 3 * 4;

/// A native envelope whose shape is right.
pub struct Native<'a> {
    nonce: [u8; NONCE_LEN],
    nonce_text: Cow<'a, str>,
    ciphertext: Cow<'a, str>,
}

impl<'a> Native<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (ciphertext, nonce_text) = match json::document(body) {
            Ok(Document::Object(members)) => take_members(members).map_err(EnvelopeError::InvalidEnvelope)?,
            Ok(Document::UnfitObject) => {
                return Err(EnvelopeError::InvalidEnvelope("a member is there twice, or there are far too many"));
            }
            Ok(Document::NoObject) => return Err(EnvelopeError::InvalidEnvelope("it does not begin with an object")),
            Err(NotJson) => return Err(EnvelopeError::InvalidJson),
        };
        if base64_text::standard_len(ciphertext.as_bytes()).is_none_or(|len| len < TAG_LEN) {
            return Err(EnvelopeError::InvalidCiphertext);
        }
        let nonce = decode_nonce(&nonce_text).ok_or(EnvelopeError::InvalidNonce)?;
        Ok(Self { nonce, nonce_text, ciphertext })
    }

    /// The nonce.
    pub fn nonce(&self) -> &[u8; NONCE_LEN] {
        &self.nonce
    }

    /// Canonical base64, with padding, of the ciphertext and its tag: at least a tag.
    pub fn ciphertext(&self) -> &str {
        &self.ciphertext
    }

    /// Checks the header that repeats the nonce: it must be there, with the same text.
    pub fn check_nonce_header(&self, header: Option<&[u8]>) -> Result<(), EnvelopeError> {
        if header == Some(self.nonce_text.as_bytes()) { Ok(()) } else { Err(EnvelopeError::InvalidNonce) }
    }
}

impl fmt::Debug for Native<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Native({} bytes of base64)", self.ciphertext.len())
    }
}

/// The texts of `encrypted` and `nonce`, if these are the two members.
fn take_members<'a>(members: Vec<(Cow<'a, str>, Value<'a>)>) -> Result<(Cow<'a, str>, Cow<'a, str>), &'static str> {
    let (mut encrypted, mut nonce) = (None, None);
    for (name, value) in members {
        let slot = match &*name {
            "encrypted" => &mut encrypted,
            "nonce" => &mut nonce,
            _ => return Err("it has an unknown member"),
        };
        match value {
            Value::Text(text) => *slot = Some(text),
            Value::Natural(_) | Value::Other => return Err("a member is not a string"),
        }
    }
    Ok((encrypted.ok_or("`encrypted` is missing")?, nonce.ok_or("`nonce` is missing")?))
}

fn decode_nonce(text: &str) -> Option<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    // The length first, so that the buffer is exact. The decoder itself takes canonical text only.
    (text.len() == NONCE_TEXT_LEN && STANDARD.decode_slice(text, &mut nonce) == Ok(NONCE_LEN)).then_some(nonce)
}
