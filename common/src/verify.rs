//! Verifying a signed request by any of several keys, as its body arrives.
//!
//! What is signed is some text of the request's head, then the body. Every key is worked through for the whole body,
//! whatever the request shows; MACs are compared in constant time ([`verify_any`]). A public key is no secret, and neither
//! is what it says of a signature.
//!
//! Which headers and which grammar is a scheme's affair: see [`crate::signature`] and [`crate::standard_webhooks`].

use std::fmt;

use ed25519_dalek::{PUBLIC_KEY_LENGTH, SIGNATURE_LENGTH, Signature, StreamVerifier};

use crate::signature::{MAC_LEN, Mac, SIGNATURES_MAX, Signatures, SignaturesError, verify_any};

/// Length of an Ed25519 public key in bytes.
pub const ED25519_KEY_LEN: usize = PUBLIC_KEY_LENGTH;
/// Length of an Ed25519 signature in bytes.
pub const ED25519_SIGNATURE_LEN: usize = SIGNATURE_LENGTH;

/// A key that signatures are checked with, worked in once.
#[derive(Clone)]
pub enum VerifyingKey {
    /// HMAC-SHA256, by a secret that the sender has too.
    Mac(Mac),
    /// Ed25519, by the sender's public key.
    Ed25519(ed25519_dalek::VerifyingKey),
}

/// A public key that is no point of the curve, or one of the few for which anybody can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key, or a weak one")]
pub struct PublicKeyError;

impl VerifyingKey {
    /// An Ed25519 public key.
    pub fn ed25519(bytes: &[u8; ED25519_KEY_LEN]) -> Result<Self, PublicKeyError> {
        match ed25519_dalek::VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self::Ed25519(key)),
            Ok(_) | Err(_) => Err(PublicKeyError),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mac(_) => "Mac([redacted])",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

/// The signatures that a request shows: at most [`SIGNATURES_MAX`].
#[derive(Debug, Clone)]
pub struct Shown {
    macs: Signatures,
    ed25519: Vec<Signature>,
}

impl From<Signatures> for Shown {
    fn from(macs: Signatures) -> Self {
        Self { macs, ed25519: Vec::new() }
    }
}

impl Shown {
    /// Signatures of both kinds; an error when there are more than [`SIGNATURES_MAX`].
    pub fn new(macs: &[[u8; MAC_LEN]], ed25519: &[[u8; ED25519_SIGNATURE_LEN]]) -> Result<Self, SignaturesError> {
        if macs.len() + ed25519.len() > SIGNATURES_MAX {
            return Err(SignaturesError);
        }
        Ok(Self { macs: Signatures::new(macs)?, ed25519: ed25519.iter().map(Signature::from_bytes).collect() })
    }
}

/// A verification that is under way.
pub struct Verification<'s> {
    shown: &'s Shown,
    macs: Vec<(usize, Mac)>,
    streams: Vec<(usize, StreamVerifier)>,
}

impl<'s> Verification<'s> {
    /// Begins with what stands before the body.
    pub fn begin<'k>(keys: impl Iterator<Item = &'k VerifyingKey>, before: &[u8], shown: &'s Shown) -> Self {
        let mut begun = Self { shown, macs: Vec::new(), streams: Vec::new() };
        for (index, key) in keys.enumerate() {
            match key {
                VerifyingKey::Mac(mac) => begun.macs.push((index, mac.clone())),
                // A signature that is not even of the right form fits no key.
                VerifyingKey::Ed25519(key) => begun
                    .streams
                    .extend(shown.ed25519.iter().filter_map(|shown| Some((index, key.verify_stream(shown).ok()?)))),
            }
        }
        begun.update(before);
        begun
    }

    /// Takes the next piece of the body.
    pub fn update(&mut self, piece: &[u8]) {
        self.macs.iter_mut().for_each(|(_, mac)| mac.update(piece));
        self.streams.iter_mut().for_each(|(_, stream)| stream.update(piece));
    }

    /// The index of a key by which one of the signatures was made, of those that are accepted.
    ///
    /// Which ones are accepted must not depend on the request: those that are not are left out of the comparison.
    pub fn finish(self, is_accepted: impl Fn(usize) -> bool) -> Option<usize> {
        let finished = self.macs.into_iter().map(|(index, mac)| (index, mac.finish()));
        let (indices, macs): (Vec<_>, Vec<_>) = finished.filter(|(index, _)| is_accepted(*index)).unzip();
        let by_mac = verify_any(&macs, &self.shown.macs).and_then(|at| indices.get(at).copied());
        let by_public_key = self.streams.into_iter().fold(None, |found: Option<usize>, (index, stream)| {
            let fits = stream.finalize_and_verify().is_ok() && is_accepted(index);
            found.or(fits.then_some(index))
        });
        by_mac.or(by_public_key)
    }
}

impl fmt::Debug for Verification<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verification({} MACs, {} public keys)", self.macs.len(), self.streams.len())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::secret::Secret;

    fn mac(number: u8) -> (Mac, VerifyingKey) {
        let mac = Mac::new(&Secret::from(vec![number; 32]));
        (mac.clone(), VerifyingKey::Mac(mac))
    }

    fn tag(mac: &Mac, text: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = mac.clone();
        mac.update(text);
        mac.finish()
    }

    fn pair(number: u8) -> (SigningKey, VerifyingKey) {
        let key = SigningKey::from_bytes(&[number; 32]);
        let public = VerifyingKey::ed25519(key.verifying_key().as_bytes()).unwrap();
        (key, public)
    }

    fn verify(keys: &[VerifyingKey], shown: &Shown, pieces: &[&[u8]]) -> Option<usize> {
        let mut verification = Verification::begin(keys.iter(), b"before.", shown);
        pieces.iter().for_each(|piece| verification.update(piece));
        verification.finish(|_| true)
    }

    #[test]
    fn any_key_of_either_kind_is_found_however_the_body_comes() {
        let ((mac_0, key_0), (ed_1, key_1), (mac_2, key_2), (ed_3, key_3)) = (mac(0), pair(1), mac(2), pair(3));
        let keys = [key_0, key_1, key_2, key_3];
        let text = b"before.a body";
        let of_mac = |mac| Shown::new(&[[0; MAC_LEN], tag(mac, text)], &[[0; 64]]).unwrap();
        let of_pair = |pair: &SigningKey| Shown::new(&[[0; MAC_LEN]], &[[0; 64], pair.sign(text).to_bytes()]).unwrap();
        for pieces in [&[&b"a body"[..]][..], &[b"a ", b"", b"body"]] {
            for (shown, index) in [(of_mac(&mac_0), 0), (of_pair(&ed_1), 1), (of_mac(&mac_2), 2), (of_pair(&ed_3), 3)] {
                assert_eq!(verify(&keys, &shown, pieces), Some(index));
            }
        }
        for shown in [of_mac(&mac_0), of_pair(&ed_1)] {
            assert_eq!(verify(&keys, &shown, &[b"another"]), None);
            assert_eq!(verify(&keys[2..], &shown, &[b"a body"]), None, "by a key that is not there");
        }
    }

    #[test]
    fn every_bit_of_a_signature_counts() {
        let ((signer, key), text) = (pair(1), b"before.a body");
        let good = signer.sign(text).to_bytes();
        for bit in 0..8 * good.len() {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                verify(std::slice::from_ref(&key), &Shown::new(&[], &[bad]).unwrap(), &[b"a body"]),
                None,
                "bit {bit}"
            );
        }
        assert_eq!(verify(&[key], &Shown::new(&[], &[good]).unwrap(), &[b"a body"]), Some(0));
    }

    #[test]
    fn no_signature_and_no_key_fit_nothing() {
        let (mac, key) = mac(0);
        assert_eq!(verify(&[key], &Shown::new(&[], &[]).unwrap(), &[b"a body"]), None);
        assert_eq!(verify(&[], &Shown::new(&[tag(&mac, b"before.a body")], &[]).unwrap(), &[b"a body"]), None);
        assert!(Shown::new(&[[0; MAC_LEN]; 2], &[[0; 64]; 3]).is_ok());
        assert!(Shown::new(&[[0; MAC_LEN]; 3], &[[0; 64]; 3]).is_err());
    }

    #[test]
    fn a_weak_public_key_is_none() {
        // The neutral element, for which everybody can sign, and a number that is no point.
        let mut one = [0; 32];
        one[0] = 1;
        let mut no_point = [0; 32];
        no_point[0] = 2;
        for bytes in [one, [0; 32], no_point] {
            assert_eq!(VerifyingKey::ed25519(&bytes).err(), Some(PublicKeyError));
        }
    }
}
