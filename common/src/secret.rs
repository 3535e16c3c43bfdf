//! Secret bytes: HMAC secrets, AEAD keys, passwords.
//!
//! Wiped on drop, never printed, not `Clone` and not `Serialize`: a secret is read once, from a file, and everything
//! that needs it borrows it or keeps a keyed form of its own.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes that must not leak.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes. The name is there to be noticed in review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether two secrets are the same, in time that depends on their lengths only.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use static_assertions::{assert_impl_all, assert_not_impl_any};
    use zeroize::ZeroizeOnDrop;

    use super::*;
    use crate::id::IdKey;
    use crate::record::{RecordKey, RecordKeys};
    use crate::standard_webhooks::SigningKey;

    // It is wiped, and there is no way to print it, to write it out, or to have it twice.
    assert_impl_all!(Zeroizing<Vec<u8>>: ZeroizeOnDrop);
    assert_not_impl_any!(Secret: Clone, fmt::Display, serde::Serialize, AsRef<[u8]>);
    assert_not_impl_any!(SigningKey: Clone, fmt::Display, serde::Serialize);
    assert_not_impl_any!(IdKey: Clone, fmt::Display, serde::Serialize);
    assert_not_impl_any!(RecordKey: Clone, fmt::Display, serde::Serialize);
    assert_not_impl_any!(RecordKeys: Clone, fmt::Display, serde::Serialize);

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from(b"canary".to_vec())), "[redacted]");
    }

    #[test]
    fn sameness_is_of_all_bytes() {
        let secret = |bytes: &[u8]| Secret::from(bytes.to_vec());
        assert!(secret(b"abc").is_same_as(&secret(b"abc")));
        assert!(!secret(b"abc").is_same_as(&secret(b"abd")));
        assert!(!secret(b"abc").is_same_as(&secret(b"ab")));
    }
}
