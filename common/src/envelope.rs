//! The two envelopes that a sealed event travels in, and their strict parsers.
//!
//! ```text
//! native   {"encrypted":"<base64 of ciphertext ‖ tag>","nonce":"<base64 of 12 bytes>"}      application/json
//! JWE      <protected header>..<iv>.<ciphertext>.<tag>      RFC 7516 compact, dir / A256GCM  application/jose
//! ```
//!
//! Parsing borrows from the body: it copies the parts of fixed length and leaves the ciphertext where it is, checked to
//! be canonical base64 but not decoded. It opens nothing; that is the crate `open`. Whoever holds an [`Envelope`] knows
//! that its shape is right; the private fields keep it so.

mod base64_text;
mod json;
mod jwe;
mod native;

use serde::{Deserialize, Serialize};

pub use jwe::{Jwe, JweHeader};
pub use native::Native;

use crate::id::SourceId;

/// Length of an AES-GCM nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Length of an AES-GCM tag in bytes.
pub const TAG_LEN: usize = 16;

/// Which of the two envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON with two members. The event id is inside the ciphertext.
    Native,
    /// JWE compact. The event id and the source are readable, and authenticated.
    Jwe,
}

impl Format {
    /// The `Content-Type` that announces it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Native => "application/json",
            Self::Jwe => "application/jose",
        }
    }
}

/// A body whose shape is right.
#[derive(Debug)]
pub enum Envelope<'a> {
    /// See [`Format::Native`].
    Native(Native<'a>),
    /// See [`Format::Jwe`].
    Jwe(Jwe<'a>),
}

impl<'a> Envelope<'a> {
    /// Decides by the content and parses: a body that begins with a character of base64url is a JWE, any other is
    /// native or refused as that. `audience` is the source that sent it; a JWE for another one is refused.
    ///
    /// At the edge the `Content-Type` has decided already: use [`Envelope::parse_as`] there.
    pub fn parse(body: &'a [u8], audience: &SourceId) -> Result<Self, EnvelopeError> {
        let format = match body.first() {
            Some(&first) if base64_text::is_url_symbol(first) => Format::Jwe,
            Some(_) | None => Format::Native,
        };
        Self::parse_as(format, body, audience)
    }

    /// Parses as the given format and nothing else.
    pub fn parse_as(format: Format, body: &'a [u8], audience: &SourceId) -> Result<Self, EnvelopeError> {
        match format {
            Format::Native => parse_native(body).map(Self::Native),
            Format::Jwe => parse_jwe(body, audience).map(Self::Jwe),
        }
    }

    /// Which of the two it is.
    pub fn format(&self) -> Format {
        match self {
            Self::Native(_) => Format::Native,
            Self::Jwe(_) => Format::Jwe,
        }
    }
}

/// Parses a native envelope.
pub fn parse_native(body: &[u8]) -> Result<Native<'_>, EnvelopeError> {
    Native::parse(body)
}

/// Parses a JWE for `audience`, the source that sent it.
pub fn parse_jwe<'a>(body: &'a [u8], audience: &SourceId) -> Result<Jwe<'a>, EnvelopeError> {
    Jwe::parse(body, audience)
}

/// Why a body is no envelope. Always the sender's fault. The reasons name what is wrong and repeat nothing of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not one JSON document in UTF-8, or nested too deep.
    #[error("the body is not JSON")]
    InvalidJson,
    /// JSON of another shape, or a JWE that breaks any of its rules.
    #[error("the body is not an envelope: {0}")]
    InvalidEnvelope(&'static str),
    /// The native ciphertext is not canonical base64 of at least a tag.
    #[error("`encrypted` is not canonical base64 of at least 16 bytes")]
    InvalidCiphertext,
    /// The native nonce is not canonical base64 of 12 bytes, or its header is missing or different.
    #[error("the nonce is not canonical base64 of 12 bytes, or header and body differ")]
    InvalidNonce,
}

impl EnvelopeError {
    /// The code that the sender is told.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidEnvelope(_) => "invalid_envelope",
            Self::InvalidCiphertext => "invalid_ciphertext",
            Self::InvalidNonce => "invalid_nonce",
        }
    }
}

#[cfg(test)]
mod tests;
