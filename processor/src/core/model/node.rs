//! A processor: what it owns, and its cache. Opening a partition goes as in the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Broken;
use super::log::{Log, WINDOW_MS};
use super::steps::LANES;
use super::world::{Check, ensure};
use crate::core::index::{Entry, Index};
use crate::core::lease::Lease;
use crate::core::partition::Partition;
use crate::core::progress::Progress;
use crate::core::tally::Completion;
use crate::outcome::Outcome;

pub(super) const SESSION_MS: u64 = 900;
const DISPATCH_MS: u64 = 200;

/// The narrowest progress window.
pub(super) const PROGRESS_WINDOW: u32 = 64;

/// Entries of a batch of the cache.
const BATCH_ENTRIES: usize = 4;

/// What was committed for a partition, and what was complete then, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) base: i64,
    pub(super) metadata: String,
    pub(super) complete: BTreeMap<i64, Outcome>,
}

impl Stored {
    /// A commit says exactly what is complete, and how each offset became so.
    pub(super) fn check(&self, at: usize, log: &Log) -> Check {
        ensure(self.metadata.len() <= 4096, || format!("{} bytes of metadata", self.metadata.len()))?;
        let restored =
            Progress::restore(self.base, &self.metadata, PROGRESS_WINDOW).map_err(|error| error.to_string())?;
        for record in &log.records {
            let (says, is) = (restored.is_complete(record.offset), self.complete.contains_key(&record.offset));
            ensure(says == is, || format!("the commit of {at} says {says} of {record:?}"))?;
        }
        let tally = restored.tally();
        ensure(restored.is_balanced(), || {
            format!("the counts of {at} are {tally:?} where {} are complete", restored.completed())
        })?;
        // The rest of a right sum are the offsets without records.
        for completion in Completion::all().filter(|completion| *completion != Completion::Marker) {
            let is = self.complete.values().filter(|outcome| Completion::from(**outcome) == completion).count() as u64;
            ensure(tally.of(completion) == is, || {
                format!("the counts of {at} are {tally:?}, and {is} {completion:?}")
            })?;
        }
        Ok(())
    }
}

/// A run that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// No effect was tried.
    Waiting,
    /// Its effect is there, and the answer is under way.
    Unanswered(Outcome),
}

/// An owned partition.
pub(super) struct Slot {
    pub(super) partition: Partition,
    /// What the client hands out next.
    pub(super) read: i64,
    pub(super) runs: BTreeMap<i64, Run>,
    /// What is complete, and how.
    pub(super) complete: BTreeMap<i64, Outcome>,
    /// What ended while it was owned.
    pub(super) effects: BTreeSet<i64>,
    batch: Batch,
}

impl Slot {
    /// Completes an offset.
    pub(super) fn complete(&mut self, offset: i64, outcome: Outcome, broken: Broken) {
        self.partition.complete(offset, outcome);
        self.complete.insert(offset, outcome);
        if broken == Broken::CountAtCompletion {
            // It was counted before.
            self.partition.tally_mut().take_one(outcome.into());
        }
    }

    /// Below this all is complete.
    pub(super) fn complete_below(&self) -> i64 {
        self.partition.base()
    }
}

/// What an index learnt from the records of `[first, next)`.
#[derive(Debug, Clone, Default)]
struct Batch {
    first: i64,
    next: i64,
    entries: Vec<Entry>,
}

pub(super) struct Node {
    pub(super) slots: BTreeMap<usize, Slot>,
    pub(super) taken: [usize; LANES],
    pub(super) lease: Lease,
    /// When the last commit that was acknowledged was sent.
    pub(super) renewed_ms: u64,
    /// A commit that was sent, and when.
    pub(super) pending: Option<(u64, Vec<(usize, Stored)>)>,
    /// The batches of each partition, by their first offset.
    caches: BTreeMap<usize, BTreeMap<i64, Batch>>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
            taken: [0; LANES],
            lease: lease(),
            renewed_ms: 0,
            pending: None,
            caches: BTreeMap::new(),
        }
    }

    /// Starts anew with what is on disk.
    pub(super) fn restart(&mut self, hole: Option<usize>) {
        let mut caches = std::mem::take(&mut self.caches);
        if let Some(hole) = hole {
            for cache in caches.values_mut() {
                let first = cache.keys().nth(hole % cache.len().max(1)).copied();
                first.map(|first| cache.remove(&first));
            }
        }
        *self = Self { caches, ..Self::new() };
    }

    pub(super) fn wipe(&mut self) {
        self.caches.clear();
    }

    /// Opens a partition.
    pub(super) fn open(&mut self, at: usize, log: &Log, stored: &Stored, now_ms: u64, broken: Broken) -> Check {
        let base = stored.base;
        if broken.keeps_commits() {
            stored.check(at, log)?;
        }
        let progress = Progress::restore(base, &stored.metadata, PROGRESS_WINDOW).map_err(|error| error.to_string())?;
        let first = log.from(base).next();
        let first = first.filter(|first| broken != Broken::WindowFromNextRecord || first.offset == base);
        let base_ms = first.map_or(now_ms, |first| first.time_ms.min(now_ms));
        let start = log.offset_at(base_ms.saturating_sub(WINDOW_MS)).min(base);
        let cache = self.caches.entry(at).or_default();
        let of_use = |cached: &Cached| {
            let from = log.offset_at(cached.time_ms.saturating_sub(WINDOW_MS));
            cached.first <= from && (from <= base || broken == Broken::IndexNotAhead)
        };
        let cached = load(cache).filter(of_use).map(|cached| cached.index);
        let mut index = cached.unwrap_or_else(|| {
            cache.clear();
            new_index(start)
        });
        let mut batch = Batch { first: index.high(), next: index.high(), entries: Vec::new() };
        if index.high() < base {
            for record in log.from(index.high()).take_while(|record| record.offset < base) {
                let mut changed = Vec::new();
                index.look(record.offset, record.key.id, record.key.previous, record.time_ms, &mut changed);
                note(cache, &mut batch, record.offset, &changed);
            }
            index.cover(base);
            batch.next = base;
            flush(cache, &mut batch);
        }
        let high = index.high();
        let slot = Slot {
            partition: Partition::new(progress, Some(index)),
            read: base,
            runs: BTreeMap::new(),
            complete: stored.complete.clone(),
            effects: BTreeSet::new(),
            batch: Batch { first: high, next: high, entries: Vec::new() },
        };
        self.slots.insert(at, slot);
        Ok(())
    }

    /// Notes in the cache what a record changed.
    pub(super) fn note(&mut self, at: usize, offset: i64, changed: &[Entry]) {
        if let Some(slot) = self.slots.get_mut(&at) {
            note(self.caches.entry(at).or_default(), &mut slot.batch, offset, changed);
        }
    }

    /// Forgets a partition that has left.
    pub(super) fn close(&mut self, at: usize) {
        if let Some(mut slot) = self.slots.remove(&at) {
            flush(self.caches.entry(at).or_default(), &mut slot.batch);
        }
    }
}

fn lease() -> Lease {
    Lease::new(Duration::from_millis(SESSION_MS), Duration::from_millis(DISPATCH_MS)).unwrap()
}

fn new_index(start: i64) -> Index {
    Index::new(Duration::from_millis(WINDOW_MS), start)
}

/// What the batches up to the first hole say.
struct Cached {
    first: i64,
    index: Index,
    /// When the last of their ids was seen.
    time_ms: u64,
}

fn load(cache: &BTreeMap<i64, Batch>) -> Option<Cached> {
    let first = *cache.keys().next()?;
    let mut cached = Cached { first, index: new_index(first), time_ms: 0 };
    let mut next = first;
    for batch in cache.values() {
        if batch.first != next {
            break;
        }
        for entry in &batch.entries {
            cached.index.restore(*entry, batch.next);
            cached.time_ms = entry.seen_ms;
        }
        cached.index.cover(batch.next);
        next = batch.next;
    }
    Some(cached)
}

fn note(cache: &mut BTreeMap<i64, Batch>, batch: &mut Batch, offset: i64, changed: &[Entry]) {
    if offset < batch.next {
        return;
    }
    batch.next = offset + 1;
    batch.entries.extend_from_slice(changed);
    if batch.entries.len() >= BATCH_ENTRIES {
        flush(cache, batch);
    }
}

fn flush(cache: &mut BTreeMap<i64, Batch>, batch: &mut Batch) {
    if batch.entries.is_empty() {
        return;
    }
    let next = Batch { first: batch.next, next: batch.next, entries: Vec::new() };
    let full = std::mem::replace(batch, next);
    cache.insert(full.first, full);
}
