//! AES-256-GCM with 96-bit nonces and 128-bit tags. The only file that names the AEAD library.
//!
//! Opening is all or nothing: the tag is checked before anything is decrypted, and every failure is the same
//! error. Sealing takes the nonce from outside; two messages under one key must never share one, so use
//! [`Nonce::random`] outside tests. Random nonces are good for 2^32 messages under one key.

use std::fmt;

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use common::envelope::{NONCE_LEN, TAG_LEN};
use common::secret::Secret;

/// An opening and sealing key of 32 bytes, its schedule computed once.
pub struct Key(Aes256Gcm);

/// A key of another length. The operator's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an AES-256 key has 32 bytes, this has {len}")]
pub struct KeyError {
    len: usize,
}

impl Key {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Seals in place; the buffer becomes the ciphertext and its tag is answered.
    pub(crate) fn seal(&self, nonce: &Nonce, associated: &[u8], buffer: &mut [u8]) -> Result<[u8; TAG_LEN], TooLong> {
        let tag = self.0.encrypt_inout_detached(&Array(nonce.0), associated, buffer.into()).map_err(|_| TooLong)?;
        Ok(tag.into())
    }

    /// Opens in place. On failure the buffer is as it was, so that another key can be tried.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        self.0.decrypt_inout_detached(&Array(*nonce), associated, buffer.into(), &Array(*tag)).map_err(|_| Unauthentic)
    }
}

impl TryFrom<&Secret> for Key {
    type Error = KeyError;

    fn try_from(secret: &Secret) -> Result<Self, KeyError> {
        let bytes = secret.expose();
        Aes256Gcm::new_from_slice(bytes).map(Self).map_err(|_| KeyError { len: bytes.len() })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key([redacted])")
    }
}

/// A nonce for sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// A random one, from the operating system.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; NONCE_LEN];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A chosen one, for golden vectors. Using one twice under a key gives both messages and the key's MAC away.
    pub fn danger_fixed(bytes: [u8; NONCE_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }
}

/// Wrong key, wrong nonce, or a bit changed: nobody can tell which, and nobody is told.
#[derive(Debug)]
pub(crate) struct Unauthentic;

/// More than AES-GCM can seal under one nonce (64 GiB).
#[derive(Debug)]
pub(crate) struct TooLong;

#[cfg(test)]
mod tests;
