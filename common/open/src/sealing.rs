//! From a plaintext to an envelope, byte for byte as the golden vectors have it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::envelope::{JweHeader, TAG_LEN};
use zeroize::Zeroizing;

use crate::aead::{Key, Nonce};

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The operating system gave no random bytes. Ours, or the machine's; nothing can be sealed safely.
    #[error("no random bytes for a nonce")]
    Random(#[source] getrandom::Error),
    /// The plaintext is longer than AES-GCM allows (64 GiB). The caller's fault.
    #[error("the plaintext is too long to seal")]
    TooLong,
}

/// A native envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedNative {
    /// The body, `{"encrypted":"…","nonce":"…"}` without spaces. Sign and send exactly these bytes.
    pub body: Vec<u8>,
    /// The nonce's text, for the header that repeats it.
    pub nonce_text: String,
}

/// Seals a native envelope under a fresh nonce.
pub fn seal_native(key: &Key, plaintext: &[u8]) -> Result<SealedNative, SealError> {
    seal_native_with(key, Nonce::random().map_err(SealError::Random)?, plaintext)
}

/// Seals a native envelope under a given nonce.
pub fn seal_native_with(key: &Key, nonce: Nonce, plaintext: &[u8]) -> Result<SealedNative, SealError> {
    let (mut buffer, tag) = seal(key, nonce, b"", plaintext)?;
    buffer.extend_from_slice(&tag);
    let encrypted = STANDARD.encode(&*buffer);
    let nonce_text = STANDARD.encode(nonce.as_bytes());
    // Base64 needs no escapes.
    let body = format!(r#"{{"encrypted":"{encrypted}","nonce":"{nonce_text}"}}"#).into_bytes();
    Ok(SealedNative { body, nonce_text })
}

/// Seals a JWE under a fresh nonce. `header.kid` is to be the id of `key`.
pub fn seal_jwe(key: &Key, header: &JweHeader, plaintext: &[u8]) -> Result<String, SealError> {
    seal_jwe_with(key, Nonce::random().map_err(SealError::Random)?, header, plaintext)
}

/// Seals a JWE under a given nonce.
pub fn seal_jwe_with(key: &Key, nonce: Nonce, header: &JweHeader, plaintext: &[u8]) -> Result<String, SealError> {
    let protected = header.to_protected();
    let (ciphertext, tag) = seal(key, nonce, protected.as_bytes(), plaintext)?;
    let mut token = protected;
    token.push_str("..");
    URL_SAFE_NO_PAD.encode_string(nonce.as_bytes(), &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(&*ciphertext, &mut token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(tag, &mut token);
    Ok(token)
}

/// The ciphertext, with room for the tag, and the tag.
fn seal(
    key: &Key,
    nonce: Nonce,
    associated: &[u8],
    plaintext: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, [u8; TAG_LEN]), SealError> {
    // Wiped on drop: until it is sealed, it holds the plaintext, and an error could leave it so.
    let mut buffer = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_LEN));
    buffer.extend_from_slice(plaintext);
    let tag = key.seal(&nonce, associated, &mut buffer).map_err(|_| SealError::TooLong)?;
    Ok((buffer, tag))
}
