//! The native signature scheme: HMAC-SHA256 over the exact bytes received, with a timestamp and several active secrets.
//!
//! ```text
//! X-Webhook-Timestamp: 1700000000                     [1-9][0-9]{9,10}, seconds since 1970
//! X-Webhook-Signature: sig *("," sig)                 1 to 5 of them, at most 512 bytes
//!                      sig = ["v1=" / "sha256="] 64 lower-case hex
//! signed content       timestamp header bytes ‖ "." ‖ body bytes
//! ```
//!
//! Nothing is re-encoded and nothing is tried twice in another form. It does not know sources, and it reads no clock.

use std::fmt;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac as _};
use http::HeaderName;
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::decode::exactly;
use crate::secret::Secret;

/// The header of the signatures.
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("x-webhook-signature");
/// The header of the timestamp.
pub const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("x-webhook-timestamp");
/// The header that repeats the nonce of a native envelope. It is not signed, so its value is never used.
pub const NONCE_HEADER: HeaderName = HeaderName::from_static("x-encryption-nonce");

/// Most signatures in one header: one for each secret a source may have.
pub const SIGNATURES_MAX: usize = 5;
/// Longest signature header, in bytes.
pub const SIGNATURE_HEADER_BYTES_MAX: usize = 512;

const _: () = assert!(SIGNATURES_MAX * ("sha256=".len() + 2 * MAC_LEN + 1) <= SIGNATURE_HEADER_BYTES_MAX);

/// Length of a MAC in bytes.
pub const MAC_LEN: usize = 32;

/// A timestamp as its sender wrote it: the exact bytes, which are signed, and the number they stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    text: [u8; Self::LEN_MAX],
    len: u8,
    unix_s: u64,
}

/// A timestamp outside the grammar. The sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a timestamp is 10 or 11 digits, the first not 0")]
pub struct TimestampError;

impl Timestamp {
    const LEN_MIN: usize = 10;
    const LEN_MAX: usize = 11;

    /// Reads the header's bytes. No sign, space, leading zero, fraction or milliseconds, and no digits but ASCII's.
    pub fn parse(header: &[u8]) -> Result<Self, TimestampError> {
        if !(Self::LEN_MIN..=Self::LEN_MAX).contains(&header.len()) || header[0] == b'0' {
            return Err(TimestampError);
        }
        let mut text = [0; Self::LEN_MAX];
        let mut unix_s = 0;
        for (slot, &byte) in text.iter_mut().zip(header) {
            if !byte.is_ascii_digit() {
                return Err(TimestampError);
            }
            *slot = byte;
            unix_s = unix_s * 10 + u64::from(byte - b'0');
        }
        Ok(Self { text, len: header.len() as u8, unix_s })
    }

    /// The timestamp of a moment, for signing. An error before September 2001 and after the year 5138.
    pub fn at(unix_s: u64) -> Result<Self, TimestampError> {
        Self::parse(unix_s.to_string().as_bytes())
    }

    /// Seconds since 1970.
    pub fn unix_s(&self) -> u64 {
        self.unix_s
    }

    /// The text exactly as it was received.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("the parser takes nothing but ASCII digits")
    }

    /// The bytes exactly as they were received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.unix_s)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a timestamp may be from our clock, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The largest difference that is still fresh, in seconds.
    pub tolerance_s: u64,
}

impl Window {
    /// The smallest tolerance that may be configured: less would refuse honest senders with a drifting clock.
    pub const TOLERANCE_S_MIN: u64 = 30;
    /// The largest tolerance that may be configured: a captured request is useful for that long.
    pub const TOLERANCE_S_MAX: u64 = 900;

    /// Where a timestamp lies.
    pub fn freshness(&self, timestamp: &Timestamp, now_s: u64) -> Freshness {
        let sent_s = timestamp.unix_s();
        if now_s.abs_diff(sent_s) <= self.tolerance_s {
            Freshness::Fresh
        } else if sent_s < now_s {
            Freshness::Stale
        } else {
            Freshness::Future
        }
    }
}

impl Default for Window {
    /// Five minutes either way.
    fn default() -> Self {
        Self { tolerance_s: 300 }
    }
}

/// The answer of [`Window::freshness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Inside the window, its edges included.
    Fresh,
    /// Too old: late, or a replay.
    Stale,
    /// Too far ahead: the sender's clock is wrong, or ours.
    Future,
}

/// The signatures of one header: 1 to [`SIGNATURES_MAX`], in the order in which they stood there.
#[derive(Clone)]
pub struct Signatures {
    macs: [[u8; MAC_LEN]; SIGNATURES_MAX],
    len: usize,
}

/// A signature header outside the grammar. The sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature header has 1 to 5 comma-separated signatures of 64 lower-case hexadecimal digits")]
pub struct SignaturesError;

impl Signatures {
    /// Reads the header's bytes.
    pub fn parse(header: &[u8]) -> Result<Self, SignaturesError> {
        if header.len() > SIGNATURE_HEADER_BYTES_MAX {
            return Err(SignaturesError);
        }
        let mut macs = [[0; MAC_LEN]; SIGNATURES_MAX];
        let mut len = 0;
        for part in header.split(|&byte| byte == b',') {
            let hex = part.strip_prefix(b"v1=").or_else(|| part.strip_prefix(b"sha256=")).unwrap_or(part);
            let slot = macs.get_mut(len).ok_or(SignaturesError)?;
            *slot = exactly(&HEXLOWER, hex).ok_or(SignaturesError)?;
            len += 1;
        }
        Ok(Self { macs, len })
    }

    /// Signatures that were read elsewhere; an error for more than [`SIGNATURES_MAX`].
    pub(crate) fn new(shown: &[[u8; MAC_LEN]]) -> Result<Self, SignaturesError> {
        let mut macs = [[0; MAC_LEN]; SIGNATURES_MAX];
        macs.get_mut(..shown.len()).ok_or(SignaturesError)?.copy_from_slice(shown);
        Ok(Self { macs, len: shown.len() })
    }

    /// The decoded signatures.
    pub fn as_slice(&self) -> &[[u8; MAC_LEN]] {
        &self.macs[..self.len]
    }
}

impl fmt::Debug for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signatures({})", self.len)
    }
}

/// HMAC-SHA256, fed piece by piece as a body arrives.
///
/// A clone of a fresh one is cheaper than [`Mac::new`], because the key is already worked in: keep one for each secret.
#[derive(Clone)]
pub struct Mac(Hmac<Sha256>);

impl Mac {
    /// An empty MAC under a secret.
    pub fn new(secret: &Secret) -> Self {
        Self(Hmac::new_from_slice(secret.expose()).expect("HMAC takes a key of any length"))
    }

    /// A copy that has been fed what stands before the body: the timestamp's bytes and the dot.
    pub fn begin(&self, timestamp: &Timestamp) -> Self {
        let mut mac = self.clone();
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac
    }

    /// Feeds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The MAC of everything fed.
    pub fn finish(self) -> [u8; MAC_LEN] {
        self.0.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac([redacted])")
    }
}

/// Compares every MAC with every signature and answers the index of the first MAC that was shown. Constant time: no
/// early exit, and neither the time nor the memory touched depends on what matched.
pub fn verify_any(macs: &[[u8; MAC_LEN]], signatures: &Signatures) -> Option<usize> {
    let mut found = Choice::from(0);
    let mut index = 0u32;
    for (i, mac) in (0u32..).zip(macs) {
        let mut shown = Choice::from(0);
        for signature in signatures.as_slice() {
            shown |= mac.ct_eq(signature);
        }
        index.conditional_assign(&i, shown & !found);
        found |= shown;
    }
    bool::from(found).then_some(index as usize)
}

/// Signs a body: 64 lower-case hexadecimal digits, ready for [`SIGNATURE_HEADER`].
pub fn sign(secret: &Secret, timestamp: &Timestamp, body: &[u8]) -> String {
    let mut mac = Mac::new(secret).begin(timestamp);
    mac.update(body);
    HEXLOWER.encode(&mac.finish())
}

#[cfg(test)]
mod tests;
