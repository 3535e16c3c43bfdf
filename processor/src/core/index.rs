//! The verdict: is a record a repeat?
//!
//! A record at offset `o` is a repeat if an earlier record of its partition with its id lies within the window before
//! it, by the broker's time made monotonic. The window slides: a repeat renews it. So the verdict is a function of the
//! last window of the log alone, and an index rebuilt from the log agrees with the live one.
//!
//! The *owner* of an id is the offset of the record that is delivered for it. `owner == o` is a replay after a crash and
//! must be delivered; `owner < o` is a repeat.

use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use common::id::KeyedId;
use hashbrown::HashMap;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first of its id within the window, or that same record again.
    Deliver,
    /// A repeat of an earlier record.
    Repeat,
}

/// One record as the index remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: KeyedId,
    /// The offset of the record that is delivered for this id.
    pub owner: i64,
    /// When the id was last seen, Unix milliseconds.
    pub seen_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    owner: i64,
    seen_ms: u64,
}

/// The ids of one partition within the window.
#[derive(Debug)]
pub struct Index {
    ids: HashMap<KeyedId, Known, BuildHasherDefault<IdHasher>>,
    window_ms: u64,
    /// Offsets below this are in the index.
    high: i64,
    /// The largest time seen.
    time_ms: u64,
    swept_ms: u64,
}

impl Index {
    /// An empty index that covers everything below `high`.
    pub fn new(window: Duration, high: i64) -> Self {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Self { ids: HashMap::default(), window_ms, high, time_ms: 0, swept_ms: 0 }
    }

    /// One past the last offset that the index covers.
    pub fn high(&self) -> i64 {
        self.high
    }

    /// Ids held, some of them older than the window until the next sweep.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no id is held.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Takes over an entry from a store. In the order in which they were made.
    pub fn restore(&mut self, entry: Entry, next: i64) {
        self.time_ms = self.time_ms.max(entry.seen_ms);
        self.ids.insert(entry.id, Known { owner: entry.owner, seen_ms: entry.seen_ms });
        self.high = self.high.max(next);
    }

    /// Says that nothing below `high` is missing, though nothing of it may be here (expired, or not records).
    pub fn cover(&mut self, high: i64) {
        self.high = self.high.max(high);
    }

    /// The verdict on the record at `offset`, which the index then covers. `changed` gets what a store must remember.
    ///
    /// `previous` is its id under the previous id key: a record is a repeat if either was seen.
    pub fn look(
        &mut self,
        offset: i64,
        id: KeyedId,
        previous: Option<KeyedId>,
        time_ms: u64,
        changed: &mut Vec<Entry>,
    ) -> Verdict {
        if offset < self.high {
            // A replay: the index has seen this record and everything up to `high`, so only the owner is asked.
            let owner = [Some(id), previous]
                .into_iter()
                .flatten()
                .filter_map(|id| self.ids.get(&id))
                .map(|known| known.owner)
                .min();
            return match owner {
                Some(owner) if owner < offset => Verdict::Repeat,
                Some(_) | None => Verdict::Deliver,
            };
        }
        self.high = offset + 1;
        self.time_ms = self.time_ms.max(time_ms);
        let now = self.time_ms;
        let oldest = now.saturating_sub(self.window_ms);
        let ids = || [Some(id), previous].into_iter().flatten();
        let owner = ids()
            .filter_map(|id| self.ids.get(&id))
            .filter(|known| known.seen_ms >= oldest)
            .map(|known| known.owner)
            .min();
        let known = Known { owner: owner.unwrap_or(offset), seen_ms: now };
        for id in ids() {
            self.ids.insert(id, known);
            changed.push(Entry { id, owner: known.owner, seen_ms: known.seen_ms });
        }
        self.sweep();
        if owner.is_some() { Verdict::Repeat } else { Verdict::Deliver }
    }

    /// Drops what is older than the window, an eighth of it late at most.
    fn sweep(&mut self) {
        if self.time_ms >= self.swept_ms.saturating_add((self.window_ms / 8).max(1)) {
            self.swept_ms = self.time_ms;
            let oldest = self.time_ms.saturating_sub(self.window_ms);
            self.ids.retain(|_, known| known.seen_ms >= oldest);
        }
    }
}

/// Keyed ids are uniformly distributed already: eight of their bytes are the hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // An array writes its length, then its bytes.
        if let Some(head) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*head);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn id(n: u8) -> KeyedId {
        KeyedId([n; 16])
    }

    fn look(index: &mut Index, offset: i64, id: KeyedId, time_ms: u64) -> Verdict {
        index.look(offset, id, None, time_ms, &mut Vec::new())
    }

    #[test]
    fn an_id_is_delivered_once_and_its_own_replay_again() {
        let mut index = Index::new(WINDOW, 0);
        assert_eq!(look(&mut index, 0, id(1), 1000), Verdict::Deliver);
        assert_eq!(look(&mut index, 1, id(1), 1001), Verdict::Repeat);
        assert_eq!(look(&mut index, 0, id(1), 1000), Verdict::Deliver, "a replay of the owner");
        assert_eq!(look(&mut index, 1, id(1), 1001), Verdict::Repeat, "a replay of the repeat");
    }

    #[test]
    fn the_window_has_both_edges_and_slides() {
        let mut index = Index::new(WINDOW, 0);
        look(&mut index, 0, id(1), 1000);
        assert_eq!(look(&mut index, 1, id(1), 11_000), Verdict::Repeat, "exactly the window");
        assert_eq!(look(&mut index, 2, id(1), 21_000), Verdict::Repeat, "the repeat renewed it");
        assert_eq!(look(&mut index, 3, id(1), 31_001), Verdict::Deliver, "one past it");
    }

    #[test]
    fn time_is_made_monotonic() {
        let mut index = Index::new(WINDOW, 0);
        look(&mut index, 0, id(1), 50_000);
        look(&mut index, 1, id(2), 1000);
        assert_eq!(look(&mut index, 2, id(2), 60_000), Verdict::Repeat, "id 2 was seen at 50 000 at the earliest");
    }

    #[test]
    fn an_id_is_known_under_the_previous_key() {
        let mut index = Index::new(WINDOW, 0);
        let mut changed = Vec::new();
        assert_eq!(index.look(0, id(1), None, 1000, &mut changed), Verdict::Deliver);
        assert_eq!(index.look(1, id(2), Some(id(1)), 1001, &mut changed), Verdict::Repeat);
        assert_eq!(index.look(2, id(2), None, 1002, &mut changed), Verdict::Repeat, "after the rotation's window");
        assert_eq!(changed.len(), 4);
    }

    #[test]
    fn a_rebuilt_index_agrees() {
        let mut live = Index::new(WINDOW, 0);
        let mut entries = Vec::new();
        for (offset, n) in [(0, 1), (1, 2), (2, 1), (3, 3)] {
            let mut changed = Vec::new();
            live.look(offset, id(n), None, 1000, &mut changed);
            entries.extend(changed.into_iter().map(|entry| (entry, offset + 1)));
        }
        let mut rebuilt = Index::new(WINDOW, 0);
        entries.into_iter().for_each(|(entry, next)| rebuilt.restore(entry, next));
        for (offset, n, verdict) in
            [(0, 1, Verdict::Deliver), (1, 2, Verdict::Deliver), (2, 1, Verdict::Repeat), (4, 3, Verdict::Repeat)]
        {
            assert_eq!(look(&mut rebuilt, offset, id(n), 1001), verdict, "offset {offset}");
        }
    }

    #[test]
    fn old_ids_leave() {
        let mut index = Index::new(WINDOW, 0);
        for offset in 0..1000 {
            look(&mut index, offset, KeyedId((offset as u128).to_le_bytes()), u64::try_from(offset).unwrap() * 1000);
        }
        assert!(index.len() <= 13, "{}", index.len());
    }
}
