//! The dedup index's cache on disk. A cache and nothing else: deleting it at any moment changes only start-up time.
//!
//! The index of a partition is kept as a chain of batches: the end of one is the beginning of the next, so a chain has no
//! hole. What comes after the first hole is not used, and the log is read from there.
//!
//! ```text
//! Engine ── append, never blocks ──▶ Keeper ── a bounded queue ──▶ its thread ──▶ SledDisk
//! opener ── load, blocks ──────────▶
//! ```
//!
//! * `codec`: how a batch is written, and how a damaged one is told from a sound one.
//! * `sled_disk`: the only file that names sled.
//! * `keeper`: one thread that owns the disk, and what happens when the disk fails.

use std::fmt;
use std::sync::Arc;

use common::id::KeyedId;

use crate::core::index::Entry;

mod codec;
mod keeper;
mod sled_disk;

pub use keeper::{Keeper, KeeperSettings};

/// Most entries of one batch. sled keeps sixteen batches to a page and at least one page in each of its cache's 256
/// parts, so this also decides the least memory that it holds: 16 MiB.
pub const BATCH_ENTRIES: usize = 128;

/// Most offsets of one batch: where few records have an id, or none, a batch ends here, so that its chain goes on.
pub const BATCH_OFFSETS: i64 = 65_536;

/// Whose batches: a partition as one group sees it. Two sinks read the same topic, and each has a cache of its own: or one's
/// progress would pass for the other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The topic and the sink.
    pub lane: Arc<str>,
    /// The partition.
    pub partition: i32,
}

impl Place {
    /// The place of a topic's partition in a sink's cache.
    pub fn new(topic: &str, sink: &str, partition: i32) -> Self {
        Self { lane: format!("{topic}@{sink}").into(), partition }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lane, self.partition)
    }
}

/// A record that a chain was made of. If the log has another at its offset, then the topic was made anew and the cache is
/// of its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Its offset.
    pub offset: i64,
    /// Its id.
    pub id: KeyedId,
    /// The broker's time of it, Unix milliseconds.
    pub time_ms: u64,
}

/// What the index learnt from the records of `[first, next)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The first offset.
    pub first: i64,
    /// One past the last.
    pub next: i64,
    /// The largest broker's time of its records, Unix milliseconds.
    pub time_ms: u64,
    /// The last record that has an id.
    pub anchor: Option<Anchor>,
    /// What to restore, in order.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// A batch that begins here and holds nothing yet. `time_ms` is that of the batch before.
    pub fn begin(first: i64, time_ms: u64) -> Self {
        Self { first, next: first, time_ms, anchor: None, entries: Vec::new() }
    }
}

/// Where batches are kept. What goes wrong there is the store's affair: its user only gets shorter chains.
pub trait Store: Send + Sync {
    /// The chain of a partition, oldest first. Blocks.
    fn load(&self, place: &Place) -> Vec<Batch>;

    /// Keeps a batch, or leaves a hole. Never blocks.
    fn append(&self, place: &Place, batch: Batch);

    /// Forgets a partition. Never blocks.
    fn forget(&self, place: &Place);

    /// Writes what is waiting, and ends. Blocks for a few seconds at most.
    fn close(&self);
}

/// A store that keeps nothing: every start reads the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn load(&self, _: &Place) -> Vec<Batch> {
        Vec::new()
    }

    fn append(&self, _: &Place, _: Batch) {}

    fn forget(&self, _: &Place) {}

    fn close(&self) {}
}

/// The chain in a partition's batches: from the first on, each next one begins where the one before ends. Others are
/// left over from before a hole was filled.
fn chain(mut batches: Vec<Batch>) -> Vec<Batch> {
    batches.sort_by_key(|batch| (batch.first, std::cmp::Reverse(batch.next)));
    let mut wanted = None;
    batches.retain(|batch| {
        let follows = wanted.is_none_or(|wanted| batch.first == wanted);
        if follows {
            wanted = Some(batch.next);
        }
        follows
    });
    batches
}

#[cfg(test)]
mod tests;
