//! The record: a sealed body with headers of fixed names, and the MAC that ties them to their topic.
//!
//! The value is the body exactly as the sender sent it. Headers are replaced at each hop and never appended, and each
//! hop makes the MAC anew with the key of its half: the edge's for `inbox`, the core's for everything behind it. So a
//! record that was altered, re-labelled, injected, or copied into another topic is refused.
//!
//! ```text
//! ss-version      "1"
//! ss-source       source name
//! ss-received     when ingest accepted it, Unix milliseconds, decimal
//! ss-timestamp    the sender's timestamp, as signed
//! ss-id           keyed id, 32 hex digits                        from events on
//! ss-id-previous  the same under the previous id key             while an id key rotates
//! ss-first-seen   broker time in events, Unix milliseconds       from the first retry on
//! ss-sink         sink name                                      from the first retry on
//! ss-redrive      how often it was redriven, decimal             from the first retry on
//! ss-attempt      dispatches made so far, decimal                from the first retry on
//! ss-hop          times parked for the present attempt, decimal  from the first retry on
//! ss-due          not to be dispatched before, Unix ms, decimal  where its lane's delay is not all
//! ss-redriven     when it was put back, Unix milliseconds        from inbox on, if it was dead before; marker
//! ss-reason       why it is dead                                 dead
//! ss-status       the sink's HTTP status, if it gave one         dead
//! ss-origin       topic role "/" partition "/" offset            dead
//! ss-failed       when it was given up, Unix milliseconds        dead
//! ss-letter       a letter's partition "/" offset                marker
//! ss-letter-id    the letter's id, 32 hex digits                 marker
//! traceparent     W3C trace context, if the sender gave one
//! ss-mac          "1:" key id ":" base64url(MAC)
//!
//! MAC = HMAC-SHA256(key, field(role) ‖ header* ‖ field(value))
//!   header = 0x00 if absent, else 0x01 ‖ field(text), in the order of the table, ss-mac left out
//!   field(x) = len(x) as 8 bytes, big-endian, ‖ x
//! ```
//!
//! A *marker* lies in `dead` among the letters and says that one of them was redriven: see [`Marker`].

mod headers;
mod marker;

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::decode::exactly;
use crate::id::{KeyId, KeyedId, SinkId, SourceId};
use crate::secret::Secret;
use crate::topics::Topic;

use headers::Covered;

pub use headers::Headers;
pub use marker::{LetterId, LetterPlace, Marker};

/// Name of the header with the MAC.
pub const MAC_HEADER: &str = "ss-mac";

const VERSION: &str = "1";

/// The headers that the MAC covers, in its order.
const NAMES: [&str; 20] = [
    "ss-version",
    "ss-source",
    "ss-received",
    "ss-timestamp",
    "ss-id",
    "ss-id-previous",
    "ss-first-seen",
    "ss-sink",
    "ss-redrive",
    "ss-attempt",
    "ss-hop",
    "ss-due",
    "ss-redriven",
    "ss-reason",
    "ss-status",
    "ss-origin",
    "ss-failed",
    "ss-letter",
    "ss-letter-id",
    "traceparent",
];

#[derive(Clone, Copy)]
enum Field {
    Version,
    Source,
    Received,
    Timestamp,
    Id,
    IdPrevious,
    FirstSeen,
    Sink,
    Redrive,
    Attempt,
    Hop,
    Due,
    Redriven,
    Reason,
    Status,
    Origin,
    Failed,
    Letter,
    LetterId,
    Traceparent,
}

/// Why a record was not accepted. Somebody with access to Kafka, or an operator who removed a key too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No MAC, one of another form, or by a key that is not here.
    #[error("the record carries no MAC by a known key")]
    UnknownKey,
    /// The MAC does not fit the record and its topic.
    #[error("the record's MAC does not fit it")]
    BadMac,
    /// The MAC fits, yet a header is missing or malformed: written by another version.
    #[error("the record's headers are not of a form known here")]
    Malformed,
}

/// What a record says about its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose event it is.
    pub source: SourceId,
    /// When ingest accepted it, Unix milliseconds by ingest's clock.
    pub received_ms: u64,
    /// The sender's timestamp as signed: its text is part of the identity of an event without an id.
    pub timestamp: Box<str>,
    /// W3C trace context from the sender.
    pub traceparent: Option<Box<str>>,
    /// Where it belongs, from `events` on.
    pub identity: Option<Identity>,
    /// What a retry lane knows, from the first retry on.
    pub retry: Option<Retry>,
    /// When it was put back into `inbox` after it had been dead, Unix milliseconds: its age counts from then.
    pub redriven_ms: Option<u64>,
}

/// An event's identity as the router wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Under the current id key.
    pub id: KeyedId,
    /// Under the previous id key, for a window after a rotation.
    pub previous: Option<KeyedId>,
}

/// A record's way through the retry lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The sink that it goes to.
    pub sink: SinkId,
    /// Broker time of the record in `events`, Unix milliseconds.
    pub first_seen_ms: u64,
    /// How often it was redriven from `dead`.
    pub redrive: u32,
    /// Dispatches made so far.
    pub attempt: u32,
    /// Times parked for the present attempt.
    pub hop: u32,
    /// Not to be dispatched before, Unix milliseconds; `None` where the delay of its lane is all.
    pub due_ms: Option<u64>,
}

/// Why and where a record ended in `dead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, one of a closed set.
    pub reason: Reason,
    /// The sink's HTTP status, if it gave one.
    pub status: Option<u16>,
    /// Where the record was read.
    pub origin: Origin,
    /// When it was given up, Unix milliseconds.
    pub failed_ms: u64,
}

/// What a record of `dead` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dead {
    /// A letter.
    Letter {
        /// What the record says of itself, if that was ever trusted.
        head: Option<Head>,
        /// Why it is dead.
        failure: Failure,
    },
    /// Says that a letter was redriven.
    Marker(Marker),
}

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The topic's role.
    pub role: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a record is dead.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason's name in headers and metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// The record's MAC is missing, wrong or unreadable. Never redriven.
    BadMac = "bad_mac",
    /// The source is not configured here. Redriven once it is.
    UnknownSource = "unknown_source",
    /// The envelope is not of a known form. Ingest let it pass, so the two halves differ in version.
    InvalidEnvelope = "invalid_envelope",
    /// No key of the source has the envelope's key id. Redriven once the key is added.
    UnknownKey = "unknown_key",
    /// No key of the source opens it: a wrong key, or a ciphertext that was altered.
    OpenFailed = "open_failed",
    /// The event has no event id by its source's rule.
    InvalidEventId = "invalid_event_id",
    /// It lies in a partition that is not its id's: copied by hand.
    Misplaced = "misplaced",
    /// It is older than the configured maximum: copied by hand, or a very long outage.
    TooOld = "too_old",
    /// The sink refused this one event for good.
    Refused = "refused",
    /// The attempts are used up.
    Exhausted = "exhausted",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.role, self.partition, self.offset)
    }
}

/// One key that makes and checks record MACs.
pub struct RecordKey {
    id: KeyId,
    mac: Hmac<Sha256>,
}

impl RecordKey {
    /// A key with its name. 32 random bytes are right.
    pub fn new(id: KeyId, secret: &Secret) -> Self {
        Self { id, mac: Hmac::new_from_slice(secret.expose()).expect("HMAC takes a key of any length") }
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey({}, [redacted])", self.id)
    }
}

/// The keys of one half: the first makes, all check.
#[derive(Debug)]
pub struct RecordKeys(Vec<RecordKey>);

impl RecordKeys {
    /// Keys in order, the current one first; `None` without any.
    pub fn new(keys: Vec<RecordKey>) -> Option<Self> {
        if keys.is_empty() { None } else { Some(Self(keys)) }
    }

    /// The headers of a record for `topic`, its MAC included.
    pub fn seal(&self, topic: &Topic, head: &Head, value: &[u8]) -> Headers {
        self.finish(topic, Covered::of(Some(head), None), value)
    }

    /// The headers of a dead letter. A record whose headers could not be trusted has no head: none of them is kept.
    pub fn seal_dead(&self, head: Option<&Head>, failure: &Failure, value: &[u8]) -> Headers {
        self.finish(&Topic::Dead, Covered::of(head, Some(failure)), value)
    }

    /// The headers of a marker. Its value is empty.
    pub fn seal_marker(&self, marker: &Marker) -> Headers {
        self.finish(&Topic::Dead, Covered::of_marker(marker), b"")
    }

    fn finish(&self, topic: &Topic, covered: Covered, value: &[u8]) -> Headers {
        let key = &self.0[0];
        let tag = mac(&key.mac, topic, &covered, value).finalize().into_bytes();
        let mut mac = String::with_capacity(128);
        mac.extend(["1:", key.id.as_str(), ":"]);
        BASE64URL_NOPAD.encode_append(&tag, &mut mac);
        Headers { covered, mac }
    }

    /// Checks the MAC, then reads the head.
    pub fn open<'a>(
        &self,
        topic: &Topic,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        value: &[u8],
    ) -> Result<Head, RecordError> {
        let raw = self.verify(topic, headers, value)?;
        let head = raw.head()?;
        if raw.has_only(Some(&head), None) { Ok(head) } else { Err(RecordError::Malformed) }
    }

    /// Checks the MAC of a record of `dead`, then reads the marker, or why the letter is dead and, if it was ever trusted,
    /// its head.
    pub fn open_dead<'a>(
        &self,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        value: &[u8],
    ) -> Result<Dead, RecordError> {
        let raw = self.verify(&Topic::Dead, headers, value)?;
        if raw.has(Field::Letter) {
            return if value.is_empty() { Ok(Dead::Marker(raw.marker()?)) } else { Err(RecordError::Malformed) };
        }
        let head = if raw.has(Field::Source) { Some(raw.head()?) } else { None };
        let failure = raw.failure()?;
        if !raw.has_only(head.as_ref(), Some(&failure)) {
            return Err(RecordError::Malformed);
        }
        Ok(Dead::Letter { head, failure })
    }

    fn verify<'a>(
        &self,
        topic: &Topic,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        value: &[u8],
    ) -> Result<Raw<'a>, RecordError> {
        let mut raw = Raw::default();
        let mut found = None;
        for (name, text) in headers {
            if name == MAC_HEADER {
                if found.replace(text).is_some() {
                    return Err(RecordError::BadMac);
                }
            } else if let Some(at) = NAMES.iter().position(|known| *known == name) {
                if raw.0[at].replace(text).is_some() {
                    return Err(RecordError::BadMac);
                }
            } else if name.starts_with("ss-") {
                return Err(RecordError::BadMac);
            }
        }
        let (id, tag) = found.and_then(parse_mac).ok_or(RecordError::UnknownKey)?;
        let key = self.0.iter().find(|key| key.id.as_str() == id).ok_or(RecordError::UnknownKey)?;
        mac(&key.mac, topic, &raw.covered(), value).verify_slice(&tag).map_err(|_| RecordError::BadMac)?;
        if raw.text(Field::Version)? == VERSION { Ok(raw) } else { Err(RecordError::Malformed) }
    }
}

/// The id of the key that a record claims its MAC is by. Nothing is checked.
pub fn mac_key_id<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<&'a str> {
    parse_mac(claimed(headers, MAC_HEADER)?).map(|(id, _)| id)
}

/// The source that a record claims to be of. Nothing is checked.
pub fn source_of<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<&'a str> {
    std::str::from_utf8(claimed(headers, NAMES[Field::Source as usize])?).ok()
}

fn claimed<'a>(mut headers: impl Iterator<Item = (&'a str, &'a [u8])>, wanted: &str) -> Option<&'a [u8]> {
    headers.find(|(name, _)| *name == wanted).map(|(_, text)| text)
}

fn parse_mac(text: &[u8]) -> Option<(&str, [u8; 32])> {
    let (id, text) = std::str::from_utf8(text).ok()?.strip_prefix("1:")?.split_once(':')?;
    Some((id, exactly(&BASE64URL_NOPAD, text.as_bytes())?))
}

fn mac(key: &Hmac<Sha256>, topic: &Topic, covered: &Covered, value: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    let mut field = |text: &[u8]| {
        mac.update(&(text.len() as u64).to_be_bytes());
        mac.update(text);
    };
    field(topic.role().as_bytes());
    mac.update(covered.bytes());
    mac.update(&(value.len() as u64).to_be_bytes());
    mac.update(value);
    mac
}

impl Covered {
    fn of(head: Option<&Head>, failure: Option<&Failure>) -> Self {
        let mut covered = Self::new();
        covered.put(Field::Version, VERSION.as_bytes());
        if let Some(head) = head {
            covered.put(Field::Source, head.source.as_str().as_bytes());
            covered.show(Field::Received, head.received_ms);
            covered.put(Field::Timestamp, head.timestamp.as_bytes());
            if let Some(identity) = &head.identity {
                covered.show(Field::Id, identity.id);
                if let Some(previous) = identity.previous {
                    covered.show(Field::IdPrevious, previous);
                }
            }
            if let Some(retry) = &head.retry {
                covered.show(Field::FirstSeen, retry.first_seen_ms);
                covered.put(Field::Sink, retry.sink.as_str().as_bytes());
                covered.show(Field::Redrive, retry.redrive);
                covered.show(Field::Attempt, retry.attempt);
                covered.show(Field::Hop, retry.hop);
                if let Some(due_ms) = retry.due_ms {
                    covered.show(Field::Due, due_ms);
                }
            }
            if let Some(redriven_ms) = head.redriven_ms {
                covered.show(Field::Redriven, redriven_ms);
            }
        }
        if let Some(failure) = failure {
            covered.put(Field::Reason, failure.reason.as_str().as_bytes());
            if let Some(status) = failure.status {
                covered.show(Field::Status, status);
            }
            covered.show(Field::Origin, &failure.origin);
            covered.show(Field::Failed, failure.failed_ms);
        }
        if let Some(text) = head.and_then(|head| head.traceparent.as_deref()) {
            covered.put(Field::Traceparent, text.as_bytes());
        }
        covered.end();
        covered
    }
}

/// Header texts on their way in: their MAC was right.
#[derive(Default)]
struct Raw<'a>([Option<&'a [u8]>; NAMES.len()]);

impl<'a> Raw<'a> {
    fn covered(&self) -> Covered {
        let mut covered = Covered::new();
        for (at, text) in self.0.iter().enumerate() {
            if let Some(text) = text {
                covered.put_at(at, text);
            }
        }
        covered.end();
        covered
    }

    fn has(&self, field: Field) -> bool {
        self.0[field as usize].is_some()
    }

    fn optional(&self, field: Field) -> Result<Option<&'a str>, RecordError> {
        self.0[field as usize].map(std::str::from_utf8).transpose().map_err(|_| RecordError::Malformed)
    }

    fn text(&self, field: Field) -> Result<&'a str, RecordError> {
        self.optional(field)?.ok_or(RecordError::Malformed)
    }

    fn parsed<T: std::str::FromStr>(&self, field: Field) -> Result<T, RecordError> {
        self.text(field)?.parse().map_err(|_| RecordError::Malformed)
    }

    /// A decimal number, written as it is written here: digits, and no zero before others.
    fn number<T: std::str::FromStr>(&self, field: Field) -> Result<T, RecordError> {
        number(self.text(field)?).ok_or(RecordError::Malformed)
    }

    fn optional_number<T: std::str::FromStr>(&self, field: Field) -> Result<Option<T>, RecordError> {
        if self.has(field) { self.number(field).map(Some) } else { Ok(None) }
    }

    /// Whether these headers and the version are all there are: a header that nobody reads must not be there either.
    fn has_only(&self, head: Option<&Head>, failure: Option<&Failure>) -> bool {
        let of_head = |head: &Head| {
            let identity = head.identity.map_or(0, |identity| 1 + usize::from(identity.previous.is_some()));
            let retry = head.retry.as_ref().map_or(0, |retry| 5 + usize::from(retry.due_ms.is_some()));
            3 + usize::from(head.traceparent.is_some()) + identity + retry + usize::from(head.redriven_ms.is_some())
        };
        let of_failure = |failure: &Failure| 3 + usize::from(failure.status.is_some());
        self.0.iter().flatten().count() == 1 + head.map_or(0, of_head) + failure.map_or(0, of_failure)
    }

    fn keyed_id(&self, field: Field) -> Result<Option<KeyedId>, RecordError> {
        let Some(text) = self.optional(field)? else { return Ok(None) };
        Ok(Some(KeyedId(exactly(&HEXLOWER, text.as_bytes()).ok_or(RecordError::Malformed)?)))
    }

    fn head(&self) -> Result<Head, RecordError> {
        let previous = self.keyed_id(Field::IdPrevious)?;
        let identity = self.keyed_id(Field::Id)?.map(|id| Identity { id, previous });
        let retry = if self.has(Field::Sink) {
            Some(Retry {
                sink: self.parsed(Field::Sink)?,
                first_seen_ms: self.number(Field::FirstSeen)?,
                redrive: self.number(Field::Redrive)?,
                attempt: self.number(Field::Attempt)?,
                hop: self.number(Field::Hop)?,
                due_ms: self.optional_number(Field::Due)?,
            })
        } else {
            None
        };
        Ok(Head {
            source: self.parsed(Field::Source)?,
            received_ms: self.number(Field::Received)?,
            timestamp: self.text(Field::Timestamp)?.into(),
            traceparent: self.optional(Field::Traceparent)?.map(Into::into),
            identity,
            retry,
            redriven_ms: self.optional_number(Field::Redriven)?,
        })
    }

    fn failure(&self) -> Result<Failure, RecordError> {
        let reason = self.text(Field::Reason)?;
        let reason = Reason::ALL.iter().copied().find(|known| known.as_str() == reason);
        let mut origin = self.text(Field::Origin)?.rsplitn(3, '/');
        let offset = origin.next().and_then(number);
        let partition = origin.next().and_then(number);
        let status = self.optional_number(Field::Status)?;
        match (reason, origin.next(), partition, offset) {
            (Some(reason), Some(role), Some(partition), Some(offset)) => Ok(Failure {
                reason,
                status,
                origin: Origin { role: role.to_owned(), partition, offset },
                failed_ms: self.number(Field::Failed)?,
            }),
            _ => Err(RecordError::Malformed),
        }
    }
}

/// Reads a decimal number as it is written here. `FromStr` would also take a sign and zeros before it.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let canonical = text == "0" || !text.starts_with(['0', '+', '-']);
    canonical.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
