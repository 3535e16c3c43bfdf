//! From a sealed record to its event: by the rules of the event's source.

use std::collections::BTreeMap;

use ::metrics::Counter;
use common::config::{Mistake, Mistakes};
use common::envelope::Envelope;
use common::id::{EventId, KeyId, SinkId, SourceId};
use common::record::{Head, Reason};
use open::{Key, KeyError, Keyring, KeyringError, OpenError};
use zeroize::Zeroizing;

use crate::config::{self, EventIdRule};
use crate::event::{Found, Pointer, find, find_all};
use crate::metrics;

/// Why a source could not be set up. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A key's file.
    #[error(transparent)]
    File(#[from] common::config::SecretFileError),
    /// A key of another length.
    #[error("source {name}, key {id}: {source}")]
    Key {
        /// The source.
        name: SourceId,
        /// The key.
        id: KeyId,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The keys taken together.
    #[error("source {name}: {source}")]
    Keyring {
        /// The source.
        name: SourceId,
        /// Why.
        #[source]
        source: KeyringError,
    },
}

/// The sources that this processor can open.
pub struct Sources(BTreeMap<SourceId, Source>);

struct Source {
    keyring: Keyring,
    /// What was opened with each key.
    opened: Vec<(KeyId, Counter)>,
    event_id: EventIdRule,
    event_type: Pointer,
    event_time: Pointer,
    sinks: Vec<SinkId>,
}

/// An opened event.
pub struct Unsealed {
    /// Its id.
    pub id: EventId,
    /// Its payload.
    pub payload: Zeroizing<Vec<u8>>,
    /// The key that opened it.
    pub key_id: KeyId,
}

/// What an event's payload says of itself.
#[derive(Debug)]
pub struct Description {
    /// Its media type: what is JSON is called JSON.
    pub content_type: &'static str,
    /// The CloudEvents type.
    pub event_type: String,
    /// The CloudEvents time, RFC 3339.
    pub time: String,
}

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Longest CloudEvents type that is taken from a payload, in bytes.
const TYPE_BYTES_MAX: usize = 256;

/// The CloudEvents type of an event that has none.
pub const DEFAULT_TYPE: &str = "webhook";

impl Source {
    fn load(name: &SourceId, source: &config::Source) -> Result<Self, SourceError> {
        let mut keys = Vec::new();
        for key in &source.keys {
            let secret = key.file.load()?;
            let loaded = Key::try_from(&secret).map_err(|source| SourceError::Key {
                name: name.clone(),
                id: key.id.clone(),
                source,
            })?;
            keys.push((key.id.clone(), loaded));
        }
        let keyring = Keyring::new(keys).map_err(|source| SourceError::Keyring { name: name.clone(), source })?;
        let opened = keyring.ids().map(|id| (id.clone(), metrics::opened(name, id))).collect();
        Ok(Self {
            keyring,
            opened,
            event_id: source.event_id.clone(),
            event_type: source.event_type.clone(),
            event_time: source.event_time.clone(),
            sinks: source.sinks.clone(),
        })
    }
}

impl Sources {
    /// Reads the keys, and tells everything that is wrong with any of them.
    pub fn load(sources: &BTreeMap<SourceId, config::Source>) -> Result<Self, Mistakes> {
        let (mut loaded, mut mistakes) = (BTreeMap::new(), Vec::new());
        for (name, source) in sources {
            match Source::load(name, source) {
                Ok(source) => drop(loaded.insert(name.clone(), source)),
                Err(error) => mistakes.push(Mistake::new(format!("source.{name}.keys"), error.to_string())),
            }
        }
        Mistakes::none_in(mistakes)?;
        Ok(Self(loaded))
    }

    /// Whether events of a source go to a sink. Those of an unknown source do: somebody must find them in `dead`.
    pub fn feeds(&self, source: &SourceId, sink: &SinkId) -> bool {
        self.0.get(source).is_none_or(|source| source.sinks.contains(sink))
    }

    /// Opens a record's value and finds the event's id.
    pub fn unseal(&self, head: &Head, value: &[u8]) -> Result<Unsealed, Reason> {
        let Opened { id, payload, key_id, .. } = self.open(head, value)?;
        let id = id.known(|pointer| find(&payload, pointer))?;
        Ok(Unsealed { id, payload, key_id })
    }

    /// Opens a record's value, finds the event's id, and what its payload says of itself.
    pub fn unseal_described(&self, head: &Head, value: &[u8]) -> Result<(Unsealed, Description), Reason> {
        let Opened { source, id, payload, key_id } = self.open(head, value)?;
        let none = Pointer::default();
        let pointers =
            [if let Id::At(pointer) = &id { pointer } else { &none }, &source.event_type, &source.event_time];
        let (is_json, [event_id, event_type, time]) = match find_all(&payload, pointers) {
            Some(found) => (true, found),
            None => {
                let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&payload).is_ok();
                (is_json, pointers.map(|pointer| find(&payload, pointer)))
            }
        };
        let id = id.known(|_| event_id)?;
        let content_type = if is_json { JSON } else { BYTES };
        let description =
            Description { content_type, event_type: shown_type(event_type), time: shown_time(time, head) };
        Ok((Unsealed { id, payload, key_id }, description))
    }

    fn open(&self, head: &Head, value: &[u8]) -> Result<Opened<'_>, Reason> {
        let source = self.0.get(&head.source).ok_or(Reason::UnknownSource)?;
        let envelope = Envelope::parse(value, &head.source).map_err(|_| Reason::InvalidEnvelope)?;
        let opened = open::open(&source.keyring, &envelope).map_err(|error| match error {
            OpenError::UnknownKey(_) => Reason::UnknownKey,
            OpenError::Failed => Reason::OpenFailed,
        })?;
        let id = match (&envelope, &source.event_id) {
            (Envelope::Jwe(jwe), _) => Id::Known(jwe.header().jti.clone()),
            (Envelope::Native(_), EventIdRule::SignedContent) => {
                Id::Known(EventId::of_signed_content(&head.timestamp, value))
            }
            (Envelope::Native(_), EventIdRule::Pointer(pointer)) => Id::At(pointer),
        };
        Ok(Opened { source, id, payload: opened.plaintext, key_id: opened.key_id })
    }

    /// Counts a message that was opened with a key of its source.
    pub fn count(&self, source: &SourceId, key_id: &KeyId) {
        let keys = self.0.get(source).map_or(&[][..], |source| &source.opened);
        if let Some((_, opened)) = keys.iter().find(|(id, _)| id == key_id) {
            opened.increment(1);
        }
    }
}

/// A value that was opened, and where its event's id is.
struct Opened<'s> {
    source: &'s Source,
    id: Id<'s>,
    payload: Zeroizing<Vec<u8>>,
    key_id: KeyId,
}

/// An event's id, or where it is in the payload.
enum Id<'s> {
    Known(EventId),
    At(&'s Pointer),
}

impl Id<'_> {
    fn known(self, find: impl FnOnce(&Pointer) -> Found) -> Result<EventId, Reason> {
        match self {
            Self::Known(id) => Ok(id),
            Self::At(pointer) => match find(pointer) {
                Found::Text(text) | Found::Integer(text) => EventId::new(text).map_err(|_| Reason::InvalidEventId),
                Found::Missing | Found::Unusable => Err(Reason::InvalidEventId),
            },
        }
    }
}

fn shown_type(found: Found) -> String {
    match found {
        Found::Text(text) if (1..=TYPE_BYTES_MAX).contains(&text.len()) => text,
        Found::Text(_) | Found::Integer(_) | Found::Missing | Found::Unusable => DEFAULT_TYPE.to_owned(),
    }
}

/// The time that the payload tells, or else that at which the event was received.
fn shown_time(found: Found, head: &Head) -> String {
    let told = match found {
        Found::Text(text) => text.parse::<jiff::Timestamp>().ok(),
        Found::Integer(seconds) => seconds.parse().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()),
        Found::Missing | Found::Unusable => None,
    };
    let received = || i64::try_from(head.received_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    told.or_else(received).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
