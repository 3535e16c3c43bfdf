//! Pins: a public key's fingerprint, which must be the other side's in addition to a valid certificate.
//!
//! ```text
//! sha256/<base64 of SHA-256 of the SubjectPublicKeyInfo, DER>        RFC 7469, 2.4
//! openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64
//! ```
//!
//! A pin is of a key, not of a certificate: it stays right when a certificate is renewed for the same key. It is public.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use serde::de::{Deserialize, Deserializer, Error as _};
use sha2::{Digest, Sha256};

const PREFIX: &str = "sha256/";

/// The fingerprint of one public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

/// A text that is no pin. The operator's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is `sha256/` and the base64 of the 32 bytes of a hash")]
pub struct PinError;

impl Pin {
    /// The pin of a certificate's key.
    ///
    /// # Errors
    /// When it is no X.509 certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let hash = text.strip_prefix(PREFIX).ok_or(PinError)?;
        let bytes = BASE64.decode(hash.as_bytes()).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pin(text: &str) -> Result<Pin, PinError> {
        text.parse()
    }

    #[test]
    fn it_is_the_hash_of_the_key_and_of_nothing_else() {
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let of = |key: &KeyPair, name: &str| {
            let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(key).unwrap();
            Pin::of(certificate.der()).unwrap()
        };
        let expected = Pin(Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&one)).into());
        assert_eq!(of(&one, "a.example"), expected);
        assert_eq!(of(&one, "b.example"), expected, "a renewed certificate");
        assert_ne!(of(&two, "a.example"), expected);
        assert!(Pin::of(&CertificateDer::from(vec![0x30, 0])).is_err());
    }

    #[test]
    fn a_text_is_a_pin_or_it_is_not() {
        let good = "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(pin(good).unwrap().to_string(), good);
        assert_eq!(pin(good).unwrap(), Pin(std::array::from_fn(|at| at as u8)));
        for end in 0..good.len() {
            assert_eq!(pin(&good[..end]), Err(PinError), "{}", &good[..end]);
        }
        let short = format!("sha256/{}", BASE64.encode(&[7; 31]));
        let long = format!("sha256/{}", BASE64.encode(&[7; 33]));
        let urlsafe = good.replace("Hh8=", "Hh_=");
        let loose = good.replace("Hh8=", "Hh9=");
        for bad in [&good[7..], &short, &long, &urlsafe, &loose, "sha1/AAAA", &good.to_uppercase()] {
            assert_eq!(pin(bad), Err(PinError), "{bad}");
        }
    }
}
