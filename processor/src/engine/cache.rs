//! Collects what an index learns into batches for the cache on disk.

use std::sync::{Arc, Weak};

use crate::core::index::Entry;
use crate::store::{Anchor, BATCH_ENTRIES, BATCH_OFFSETS, Batch, Place, Store};

/// The batch of one partition that is not handed over yet.
pub(super) struct Cache {
    // The store is closed while partitions may still be there.
    store: Weak<dyn Store>,
    place: Place,
    batch: Batch,
}

impl Cache {
    pub(super) fn new(store: &Arc<dyn Store>, place: Place, first: i64, time_ms: u64) -> Self {
        Self { store: Arc::downgrade(store), place, batch: Batch::begin(first, time_ms) }
    }

    /// Takes note of a record and of what it changed, if anything. Every record is noted once, in order.
    pub(super) fn note(&mut self, offset: i64, time_ms: u64, changed: &[Entry]) {
        if offset < self.batch.next {
            return;
        }
        self.batch.next = offset + 1;
        self.batch.time_ms = self.batch.time_ms.max(time_ms);
        if let Some(entry) = changed.first() {
            self.batch.anchor = Some(Anchor { offset, id: entry.id, time_ms });
        }
        self.batch.entries.extend_from_slice(changed);
        if self.batch.entries.len() >= BATCH_ENTRIES || self.batch.next - self.batch.first >= BATCH_OFFSETS {
            self.flush();
        }
    }

    /// Says that there is nothing up to `next`.
    pub(super) fn cover(&mut self, next: i64) {
        self.batch.next = self.batch.next.max(next);
    }

    /// Hands the batch to the store.
    pub(super) fn flush(&mut self) {
        if self.batch.next == self.batch.first {
            return;
        }
        let begun = Batch::begin(self.batch.next, self.batch.time_ms);
        let batch = std::mem::replace(&mut self.batch, begun);
        if let Some(store) = self.store.upgrade() {
            store.append(&self.place, batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::id::KeyedId;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Batch>>);

    impl Store for Kept {
        fn load(&self, _: &Place) -> Vec<Batch> {
            self.0.lock().clone()
        }
        fn append(&self, _: &Place, batch: Batch) {
            self.0.lock().push(batch);
        }
        fn forget(&self, _: &Place) {}
        fn close(&self) {}
    }

    fn entry(offset: i64) -> Entry {
        Entry { id: KeyedId(i128::from(offset).to_be_bytes()), owner: offset, seen_ms: 5 }
    }

    #[test]
    fn records_without_ids_gaps_and_repeats_keep_the_chain_going() {
        let store: Arc<dyn Store> = Arc::new(Kept::default());
        let place = Place::new("t", "main", 0);
        let mut cache = Cache::new(&store, place.clone(), 100, 0);
        cache.flush();
        assert_eq!(store.load(&place), [], "nothing was seen");
        let mut offset = 100;
        // Nothing but records that can't be trusted, with a gap between any two.
        while store.load(&place).len() < 2 {
            cache.note(offset, 1000, &[]);
            cache.note(offset, 1000, &[entry(offset)]);
            offset += 2;
        }
        for _ in 0..BATCH_ENTRIES {
            cache.note(offset, 900, &[entry(offset)]);
            offset += 1;
        }
        cache.note(offset, 2000, &[entry(offset)]);
        cache.cover(offset + 50);
        cache.flush();
        let batches = store.load(&place);
        assert!(batches.windows(2).all(|pair| pair[0].next == pair[1].first), "{batches:?}");
        assert_eq!((batches[0].first, batches[0].anchor, batches[0].entries.len()), (100, None, 0));
        assert_eq!(batches[2].entries.len(), BATCH_ENTRIES);
        assert_eq!(batches[2].time_ms, 1000, "time never goes back");
        assert_eq!(batches[2].anchor.map(|anchor| anchor.time_ms), Some(900), "but an anchor is as it was");
        let last = batches.last().unwrap();
        assert_eq!(
            (last.next, last.anchor.map(|anchor| anchor.offset), last.time_ms),
            (offset + 50, Some(offset), 2000)
        );
    }
}
