//! The JWE envelope: RFC 7516 compact serialisation with `alg` `dir` and `enc` `A256GCM`, one form and no options.
//!
//! ```text
//! protected header "." "" "." iv (16) "." ciphertext "." tag (22)        all base64url without padding
//! header  {"alg":"dir","enc":"A256GCM","kid":<key id>,"jti":<event id>,"aud":<source>,"iat":<seconds, optional>}
//! ```
//!
//! Other header parameters are ignored, as the RFC asks, except the two that would change the meaning: `crit` and `zip`
//! are refused. `aud` is one string, not a list: an event is for one source. The text of the protected header is the
//! associated data, so it is kept exactly as received.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::json::{self, Document, Value};
use super::{EnvelopeError, NONCE_LEN, TAG_LEN, base64_text};
use crate::id::{EventId, KeyId, SourceId};

/// Longest protected header, in characters of base64url: four times what the longest names and ids need.
const PROTECTED_LEN_MAX: usize = 4096;
const IV_TEXT_LEN: usize = NONCE_LEN / 3 * 4;
const TAG_TEXT_LEN: usize = (TAG_LEN * 4).div_ceil(3);

/// A JWE whose shape is right and which is for the expected source.
pub struct Jwe<'a> {
    protected: &'a str,
    header: JweHeader,
    iv: [u8; NONCE_LEN],
    ciphertext: &'a str,
    tag: [u8; TAG_LEN],
}

/// What the protected header says. Authenticated only once the JWE has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JweHeader {
    /// The key that it was sealed with.
    pub kid: KeyId,
    /// The event id.
    pub jti: EventId,
    /// The source it is for.
    pub aud: SourceId,
    /// When it was sealed, in seconds since 1970.
    pub iat: Option<u64>,
}

impl<'a> Jwe<'a> {
    pub(super) fn parse(body: &'a [u8], audience: &SourceId) -> Result<Self, EnvelopeError> {
        let parts =
            Parts::split(body).ok_or(EnvelopeError::InvalidEnvelope("its parts are not a JWE's of this kind"))?;
        let header = URL_SAFE_NO_PAD
            .decode(parts.protected)
            .map_err(|_| EnvelopeError::InvalidEnvelope("its header is not canonical base64url"))?;
        Ok(Self {
            protected: parts.protected,
            header: JweHeader::parse(&header, audience).map_err(EnvelopeError::InvalidEnvelope)?,
            iv: decode(parts.iv).ok_or(EnvelopeError::InvalidEnvelope("its iv is not 12 bytes"))?,
            ciphertext: parts.ciphertext,
            tag: decode(parts.tag).ok_or(EnvelopeError::InvalidEnvelope("its tag is not 16 bytes"))?,
        })
    }

    /// The protected header as received: the associated data.
    pub fn protected(&self) -> &str {
        self.protected
    }

    /// What the protected header says.
    pub fn header(&self) -> &JweHeader {
        &self.header
    }

    /// The nonce.
    pub fn iv(&self) -> &[u8; NONCE_LEN] {
        &self.iv
    }

    /// Canonical base64url of the ciphertext, without the tag. Empty for an empty payload.
    pub fn ciphertext(&self) -> &str {
        self.ciphertext
    }

    /// The tag.
    pub fn tag(&self) -> &[u8; TAG_LEN] {
        &self.tag
    }
}

impl fmt::Debug for Jwe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwe({:?}, {} bytes of base64url)", self.header, self.ciphertext.len())
    }
}

/// The four parts that are not empty, as text.
struct Parts<'a> {
    protected: &'a str,
    iv: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
}

impl<'a> Parts<'a> {
    /// Cuts at the places where the fixed lengths put the dots; the ciphertext is read once, for its alphabet.
    fn split(body: &'a [u8]) -> Option<Self> {
        let head = &body[..body.len().min(PROTECTED_LEN_MAX + 1)];
        let (protected, rest) = body.split_at(head.iter().position(|&byte| byte == b'.')?);
        let (iv, rest) = rest.strip_prefix(b"..")?.split_at_checked(IV_TEXT_LEN)?;
        let rest = rest.strip_prefix(b".")?;
        let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_TEXT_LEN)?)?;
        let ciphertext = ciphertext.strip_suffix(b".")?;
        base64_text::url_len(ciphertext)?;
        let text = |part| std::str::from_utf8(part).ok();
        Some(Self { protected: text(protected)?, iv: text(iv)?, ciphertext: text(ciphertext)?, tag: text(tag)? })
    }
}

/// Decodes a part of known length. The decoder takes canonical text only.
fn decode<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl JweHeader {
    /// The protected header for sealing: compact JSON, members in the order of the drawing above, as base64url.
    pub fn to_protected(&self) -> String {
        #[derive(Serialize)]
        struct Members<'a> {
            alg: &'static str,
            enc: &'static str,
            kid: &'a str,
            jti: &'a str,
            aud: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            iat: Option<u64>,
        }
        let members = Members {
            alg: "dir",
            enc: "A256GCM",
            kid: self.kid.as_str(),
            jti: self.jti.as_str(),
            aud: self.aud.as_str(),
            iat: self.iat,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&members).expect("strings and a number are always JSON"))
    }

    fn parse(json: &[u8], audience: &SourceId) -> Result<Self, &'static str> {
        let Ok(Document::Object(members)) = json::document(json) else {
            return Err("its header is not an object with each member once");
        };
        let mut found = Found::default();
        for (name, value) in members {
            match &*name {
                "alg" => found.alg = Some(text(value)?),
                "enc" => found.enc = Some(text(value)?),
                "kid" => found.kid = Some(text(value)?),
                "jti" => found.jti = Some(text(value)?),
                "aud" => found.aud = Some(text(value)?),
                "iat" => match value {
                    Value::Natural(seconds) => found.iat = Some(seconds),
                    Value::Text(_) | Value::Other => return Err("its `iat` is not a whole number of seconds"),
                },
                "crit" => return Err("it has `crit`"),
                "zip" => return Err("it has `zip`"),
                _ => {}
            }
        }
        found.judge(audience)
    }
}

/// The header's members as they were found.
#[derive(Default)]
struct Found<'a> {
    alg: Option<Cow<'a, str>>,
    enc: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
    jti: Option<Cow<'a, str>>,
    aud: Option<Cow<'a, str>>,
    iat: Option<u64>,
}

impl Found<'_> {
    fn judge(self, audience: &SourceId) -> Result<JweHeader, &'static str> {
        if self.alg.as_deref() != Some("dir") {
            return Err("its `alg` is not `dir`");
        }
        if self.enc.as_deref() != Some("A256GCM") {
            return Err("its `enc` is not `A256GCM`");
        }
        if self.aud.as_deref() != Some(audience.as_str()) {
            return Err("its `aud` is not this source");
        }
        Ok(JweHeader {
            kid: self.kid.ok_or("`kid` is missing")?.parse().map_err(|_| "its `kid` is no key id")?,
            jti: EventId::new(self.jti.ok_or("`jti` is missing")?).map_err(|_| "its `jti` has not 1 to 256 bytes")?,
            aud: audience.clone(),
            iat: self.iat,
        })
    }
}

fn text(value: Value<'_>) -> Result<Cow<'_, str>, &'static str> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Natural(_) | Value::Other => Err("a member of its header is not a string"),
    }
}
