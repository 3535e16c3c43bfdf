//! Names and identities: of sources, sinks and keys (configured), and of events (from outside).
//!
//! An event is identified by its source and its event id together: two sources may use the same event ids. Neither
//! leaves the process in the clear for the native format; what Kafka sees is the [`KeyedId`] and the [`placement`].
//!
//! ```text
//! identity  = len(source) ‖ source ‖ len(event id) ‖ event id        len = 4 bytes, big-endian
//! keyed id  = HMAC-SHA256(id key, identity)[..16]
//! placement = u64 from the first 8 bytes, big-endian, of SHA-256(identity), modulo the number of partitions
//! ```

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// Why a configured name was refused. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {rule}")]
pub struct NameError {
    what: &'static str,
    rule: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    // Cut short: the text may be a secret pasted into the wrong place.
                    let text = text.chars().take(16).collect();
                    Err(NameError { what: $what, rule: $rule, text })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

fn is_configured_name(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && alphanumeric(bytes[0])
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'_' || b == b'-')
}

name!(
    /// Names a source of events, for example `acme`. Part of an event's identity: renaming a source forgets its ids.
    SourceId,
    "source name",
    "1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit",
    is_configured_name
);

name!(
    /// Names a sink, for example `main`. Part of topic and group names.
    SinkId,
    "sink name",
    "1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit",
    is_configured_name
);

name!(
    /// Names one key or secret, for example `2026-11`. It stands in records and metrics, so it must not be secret.
    KeyId,
    "key id",
    "1 to 64 of A-Z, a-z, 0-9, '.', _ and -",
    |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
);

/// Longest event id, in bytes.
pub const EVENT_ID_BYTES_MAX: usize = 256;

/// An event's id as its sender chose it: 1 to 256 bytes of text. An integer id is its decimal digits.
///
/// Of the native format it is secret (it stands inside the ciphertext): `Debug` does not show it, and it must not be logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(Box<str>);

/// An event id that is empty or longer than [`EVENT_ID_BYTES_MAX`]. The sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event id has 1 to 256 bytes")]
pub struct EventIdError;

impl EventId {
    /// Checks the length of a text.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, EventIdError> {
        let text = text.into();
        if (1..=EVENT_ID_BYTES_MAX).contains(&text.len()) { Ok(Self(text)) } else { Err(EventIdError) }
    }

    /// The id of an event of a source without ids: what was signed. A replay of a request has the same, whichever of
    /// its signatures it shows; an honest re-send has a new timestamp and is a new event.
    ///
    /// ```text
    /// "signed-" ‖ hex(SHA-256(len(timestamp) ‖ timestamp ‖ len(body) ‖ body))        len = 8 bytes, big-endian
    /// ```
    pub fn of_signed_content(timestamp: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [timestamp.as_bytes(), body] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(format!("signed-{}", HEXLOWER.encode(&hash.finalize())).into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({} bytes)", self.0.len())
    }
}

/// What identifies an event in the log: 128 bits that only a holder of the id key can make from an event id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyedId(pub [u8; 16]);

impl KeyedId {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// The `webhook-id` of every delivery of this event: `msg_` and 22 characters of base64url.
    pub fn webhook_id(&self) -> String {
        let mut id = String::with_capacity(26);
        id.push_str("msg_");
        BASE64URL_NOPAD.encode_append(&self.0, &mut id);
        id
    }
}

impl From<[u8; 16]> for KeyedId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for KeyedId {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(bytes.try_into()?))
    }
}

impl fmt::Display for KeyedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for KeyedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyedId({self})")
    }
}

/// The key behind [`KeyedId`].
pub struct IdKey {
    id: KeyId,
    mac: Hmac<Sha256>,
}

impl IdKey {
    /// A key with its name. Any length is allowed; 32 random bytes are right.
    pub fn new(id: KeyId, secret: &Secret) -> Self {
        let mac = Hmac::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
        Self { id, mac }
    }

    /// The key's name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The keyed id of an event.
    pub fn keyed_id(&self, source: &SourceId, event: &EventId) -> KeyedId {
        let mut mac = self.mac.clone();
        for_identity(source, event, |part| mac.update(part));
        let mut id = [0; KeyedId::LEN];
        id.copy_from_slice(&mac.finalize().into_bytes()[..KeyedId::LEN]);
        KeyedId(id)
    }
}

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdKey({}, [redacted])", self.id)
    }
}

/// The partition of `events` that holds every copy of an event: the same for all, whatever the id key.
pub fn placement(source: &SourceId, event: &EventId, partitions: u32) -> i32 {
    let mut hash = Sha256::new();
    for_identity(source, event, |part| hash.update(part));
    let hash = hash.finalize();
    let head = u64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"));
    i32::try_from(head % u64::from(partitions.max(1))).expect("a remainder of a partition count, which is an i32")
}

fn for_identity(source: &SourceId, event: &EventId, mut update: impl FnMut(&[u8])) {
    for part in [source.as_str(), event.as_str()] {
        let len = u32::try_from(part.len()).expect("names and ids have at most 256 bytes");
        update(&len.to_be_bytes());
        update(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_key(secret: &[u8]) -> IdKey {
        IdKey::new("id-1".parse().unwrap(), &Secret::from(secret.to_vec()))
    }

    fn source(name: &str) -> SourceId {
        name.parse().unwrap()
    }

    fn event(id: &str) -> EventId {
        EventId::new(id).unwrap()
    }

    #[test]
    fn names_have_a_grammar() {
        for good in ["a", "acme", "acme-2", "0_x", &"a".repeat(64)] {
            assert_eq!(good.parse::<SourceId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "_a", "Acme", "a.b", "a b", "ä", "a/b", &"a".repeat(65)] {
            assert!(bad.parse::<SinkId>().is_err(), "{bad:?}");
        }
        assert!("K.1_x-Y".parse::<KeyId>().is_ok());
        for bad in ["", "a b", "a:b", "ü", &"k".repeat(65)] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_shown_written_and_looked_up_as_its_text() {
        let name = source("acme-2");
        assert_eq!((format!("{name}"), format!("{name:?}")), ("acme-2".to_owned(), "acme-2".to_owned()));
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"acme-2\"");
        assert_eq!(serde_json::from_str::<SourceId>("\"acme-2\"").unwrap(), name);
        assert!(
            serde_json::from_str::<SourceId>("\"Acme\"").is_err() && serde_json::from_str::<SourceId>("7").is_err()
        );
        let by_name = std::collections::BTreeMap::from([(name, 7)]);
        assert_eq!((by_name.get("acme-2"), by_name.get("acme")), (Some(&7), None));
    }

    #[test]
    fn what_is_no_name_is_told_by_its_beginning_only() {
        let error = "a-secret-that-was-pasted-canary!".parse::<KeyId>().unwrap_err().to_string();
        assert_eq!(error, "\"a-secret-that-wa\" is not a key id: 1 to 64 of A-Z, a-z, 0-9, '.', _ and -");
    }

    #[test]
    fn event_ids_have_both_edges() {
        assert!(EventId::new("").is_err());
        assert!(EventId::new("x").is_ok());
        assert!(EventId::new("x".repeat(256)).is_ok());
        assert!(EventId::new("x".repeat(257)).is_err());
    }

    #[test]
    fn keyed_id_depends_on_key_source_and_event_and_on_where_one_ends() {
        let key = id_key(b"k");
        let base = key.keyed_id(&source("ab"), &event("c"));
        assert_eq!(base, key.keyed_id(&source("ab"), &event("c")));
        assert_ne!(base, key.keyed_id(&source("a"), &event("bc")));
        assert_ne!(base, key.keyed_id(&source("ab"), &event("d")));
        assert_ne!(base, id_key(b"l").keyed_id(&source("ab"), &event("c")));
    }

    #[test]
    fn layout_is_as_documented() {
        // Computed apart, with Python's hmac and hashlib.
        let keyed = id_key(b"test-id-key").keyed_id(&source("acme"), &event("evt_1"));
        assert_eq!(keyed.to_string(), KEYED_ACME_EVT_1);
        assert_eq!(placement(&source("acme"), &event("evt_1"), 64), PLACEMENT_ACME_EVT_1_OF_64);
    }

    #[test]
    fn a_keyed_id_has_16_bytes_and_is_shown_in_hex() {
        let id = KeyedId::try_from(&[0xa0; 16][..]).unwrap();
        assert_eq!(id, KeyedId::from([0xa0; 16]));
        for wrong in [15, 17] {
            assert!(KeyedId::try_from(&vec![0xa0; wrong][..]).is_err(), "{wrong}");
        }
        assert_eq!(format!("{id:?}"), format!("KeyedId({})", "a0".repeat(16)));
    }

    #[test]
    fn placement_is_a_partition_whatever_their_number() {
        for partitions in [0, 1, 2, 3, 64, i32::MAX.unsigned_abs()] {
            let partition = placement(&source("acme"), &event("evt_1"), partitions);
            assert!((0..i64::from(partitions.max(1))).contains(&i64::from(partition)), "{partition} of {partitions}");
        }
    }

    #[test]
    fn an_id_key_shows_its_name_and_not_itself() {
        let key = id_key(b"canary");
        assert_eq!(key.id().as_str(), "id-1");
        assert_eq!(format!("{key:?}"), "IdKey(id-1, [redacted])");
    }

    #[test]
    fn webhook_id_is_made_of_safe_characters() {
        assert_eq!(KeyedId([0xff; 16]).webhook_id(), "msg______________________w");
    }

    #[test]
    fn signed_content_tells_timestamp_and_body_apart() {
        let id = EventId::of_signed_content("1700000000", b"{}");
        assert_eq!(id, EventId::of_signed_content("1700000000", b"{}"));
        assert_ne!(id, EventId::of_signed_content("1700000001", b"{}"));
        assert_ne!(id, EventId::of_signed_content("170000000", b"0{}"));
    }

    #[test]
    fn debug_shows_no_event_id() {
        assert_eq!(format!("{:?}", event("order-canary")), "EventId(12 bytes)");
    }

    const KEYED_ACME_EVT_1: &str = "4f33d615089898006c1c4087cac85332";
    const PLACEMENT_ACME_EVT_1_OF_64: i32 = 23;
}
