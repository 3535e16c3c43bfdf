//! What was answered 200: the promise that everything else is held against.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

/// What identifies an event: its source and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// The source's name.
    pub source: String,
    /// The event's id.
    pub id: String,
}

impl std::fmt::Display for EventKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.source, self.id)
    }
}

/// Everything that was answered 200. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    events: BTreeSet<EventKey>,
    bodies: Vec<Bytes>,
}

impl Ledger {
    /// An event was answered 200, its body is not known.
    pub fn event(&self, source: &str, id: &str) {
        self.entries().events.insert(EventKey { source: source.to_owned(), id: id.to_owned() });
    }

    /// A body was answered 200, whatever is in it.
    pub fn body(&self, body: Bytes) {
        self.entries().bodies.push(body);
    }

    /// The events that are known by id.
    pub fn events(&self) -> BTreeSet<EventKey> {
        self.entries().events.clone()
    }

    /// The bodies.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.entries().bodies.clone()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("nothing panics while it writes a ledger")
    }
}
