//! From an envelope to its plaintext.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::envelope::{Envelope, Jwe, Native, TAG_LEN};
use common::id::KeyId;
use zeroize::Zeroizing;

use crate::keyring::Keyring;

/// An opened event.
pub struct Opened {
    /// The payload, wiped on drop. Never logged.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key that opened it.
    pub key_id: KeyId,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({} bytes, {})", self.plaintext.len(), self.key_id)
    }
}

/// Why an envelope was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A JWE names a key that is not active. The operator's fault when the key should be there: add it and redrive.
    #[error("no active key has the id {0}")]
    UnknownKey(KeyId),
    /// It does not open. The sender's fault, or the operator's when a key is missing; more is not known on purpose.
    #[error("the envelope does not open")]
    Failed,
}

/// Opens an envelope. A native one names no key, so every active key is tried; a JWE is opened with the key it names
/// and no other. The shape, and that a JWE is for the right source, were checked when the envelope was parsed.
pub fn open(keyring: &Keyring, envelope: &Envelope<'_>) -> Result<Opened, OpenError> {
    match envelope {
        Envelope::Native(native) => open_native(keyring, native),
        Envelope::Jwe(jwe) => open_jwe(keyring, jwe),
    }
}

fn open_native(keyring: &Keyring, native: &Native<'_>) -> Result<Opened, OpenError> {
    let sealed = STANDARD.decode(native.ciphertext()).map_err(|_| OpenError::Failed)?;
    let mut buffer = Zeroizing::new(sealed);
    let (ciphertext, tag) = buffer.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenError::Failed)?;
    for (key_id, key) in keyring.iter() {
        if key.open(native.nonce(), b"", ciphertext, tag).is_ok() {
            let len = ciphertext.len();
            buffer.truncate(len);
            return Ok(Opened { plaintext: buffer, key_id: key_id.clone() });
        }
    }
    Err(OpenError::Failed)
}

fn open_jwe(keyring: &Keyring, jwe: &Jwe<'_>) -> Result<Opened, OpenError> {
    let key_id = &jwe.header().kid;
    let key = keyring.by_id(key_id).ok_or_else(|| OpenError::UnknownKey(key_id.clone()))?;
    let sealed = URL_SAFE_NO_PAD.decode(jwe.ciphertext()).map_err(|_| OpenError::Failed)?;
    let mut plaintext = Zeroizing::new(sealed);
    key.open(jwe.iv(), jwe.protected().as_bytes(), &mut plaintext, jwe.tag()).map_err(|_| OpenError::Failed)?;
    Ok(Opened { plaintext, key_id: key_id.clone() })
}

#[cfg(test)]
mod tests;
