//! The dedup index's cache on disk. A cache and nothing else: deleting it at any moment changes only start-up time.
//!
//! The index of a partition is kept as a chain of batches. `first == previous.next` proves that nothing is missing
//! between two; the first hole ends the chain.
//!
//! ```text
//! tree   <topic>/<partition>/<bucket>     bucket = time of the batch / (window / 8); a tree is dropped when all of it is old
//! key    first offset, 8 bytes, big-endian
//! value  next offset 8 ‖ anchor offset 8 ‖ anchor id 16 ‖ (id 16 ‖ owner 8 ‖ seen ms 8)*      all big-endian
//! ```
//!
//! The *anchor* is the last record of a batch that has an id: if the log has another id at its offset, then the topic was
//! made anew and the cache is of its predecessor.

use std::time::Duration;

use common::id::KeyedId;

use crate::core::index::Entry;

mod sled_store;

pub use sled_store::SledStore;

/// Most entries of one batch.
pub const BATCH_ENTRIES: usize = 512;

/// What the index learnt from the records of `[first, next)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The first offset.
    pub first: i64,
    /// One past the last.
    pub next: i64,
    /// Offset and id of the last record that has one; offset -1 if none has.
    pub anchor: (i64, KeyedId),
    /// What to restore, in order.
    pub entries: Vec<Entry>,
}

/// Why the cache is of no use. Ours, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database reported an error.
    #[error("the index cache: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An entry is not of the form that was written.
    #[error("the index cache holds an entry of another form")]
    Malformed,
}

/// Where a partition's batches are kept.
pub trait Store: Send + Sync {
    /// The chain of a partition, oldest first, without what is older than the window before `now_ms`.
    fn load(&self, topic: &str, partition: i32, now_ms: u64) -> Result<Vec<Batch>, StoreError>;

    /// Adds a batch.
    fn append(&self, topic: &str, partition: i32, batch: &Batch) -> Result<(), StoreError>;

    /// Forgets a partition.
    fn forget(&self, topic: &str, partition: i32) -> Result<(), StoreError>;
}

/// A store that keeps nothing: every start scans the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn load(&self, _: &str, _: i32, _: u64) -> Result<Vec<Batch>, StoreError> {
        Ok(Vec::new())
    }

    fn append(&self, _: &str, _: i32, _: &Batch) -> Result<(), StoreError> {
        Ok(())
    }

    fn forget(&self, _: &str, _: i32) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The batches up to the first hole.
fn chain(mut batches: Vec<Batch>) -> Vec<Batch> {
    batches.sort_by_key(|batch| batch.first);
    let broken = batches.windows(2).position(|pair| pair[0].next != pair[1].first);
    if let Some(at) = broken {
        batches.truncate(at + 1);
    }
    batches
}

/// How much time one tree spans.
fn bucket_ms(window: Duration) -> u64 {
    u64::try_from(window.as_millis() / 8).unwrap_or(u64::MAX).max(1)
}

fn encode(batch: &Batch) -> Vec<u8> {
    let mut value = Vec::with_capacity(32 + batch.entries.len() * 32);
    value.extend(batch.next.to_be_bytes());
    value.extend(batch.anchor.0.to_be_bytes());
    value.extend(batch.anchor.1.0);
    for entry in &batch.entries {
        value.extend(entry.id.0);
        value.extend(entry.owner.to_be_bytes());
        value.extend(entry.seen_ms.to_be_bytes());
    }
    value
}

fn decode(key: &[u8], value: &[u8]) -> Result<Batch, StoreError> {
    fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], StoreError> {
        let (head, rest) = bytes.split_first_chunk().ok_or(StoreError::Malformed)?;
        *bytes = rest;
        Ok(head)
    }
    let first = i64::from_be_bytes(key.try_into().map_err(|_| StoreError::Malformed)?);
    let mut rest = value;
    let next = i64::from_be_bytes(*take(&mut rest)?);
    let anchor = (i64::from_be_bytes(*take(&mut rest)?), KeyedId(*take(&mut rest)?));
    let mut entries = Vec::with_capacity(rest.len() / 32);
    while !rest.is_empty() {
        entries.push(Entry {
            id: KeyedId(*take(&mut rest)?),
            owner: i64::from_be_bytes(*take(&mut rest)?),
            seen_ms: u64::from_be_bytes(*take(&mut rest)?),
        });
    }
    if next > first { Ok(Batch { first, next, anchor, entries }) } else { Err(StoreError::Malformed) }
}

#[cfg(test)]
mod tests;
