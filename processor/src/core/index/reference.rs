//! The index as a plain map: what [`Index`](super::Index) must agree with.

use std::collections::HashMap;

use super::{Entry, Verdict};
use common::id::KeyedId;

#[derive(Debug, Clone, Copy)]
struct Known {
    owner: i64,
    seen_ms: u64,
}

/// Forgets nothing: what is older than the window is not asked for.
#[derive(Debug)]
pub(super) struct Reference {
    ids: HashMap<KeyedId, Known>,
    window_ms: u64,
    high: i64,
    time_ms: u64,
}

impl Reference {
    pub(super) fn new(window_ms: u64, high: i64) -> Self {
        Self { ids: HashMap::new(), window_ms, high, time_ms: 0 }
    }

    pub(super) fn high(&self) -> i64 {
        self.high
    }

    /// How many ids were seen within the window.
    pub(super) fn len(&self) -> usize {
        let oldest = self.time_ms.saturating_sub(self.window_ms);
        self.ids.values().filter(|known| known.seen_ms >= oldest).count()
    }

    /// Whether an id was seen within the window.
    pub(super) fn has(&self, id: KeyedId) -> bool {
        let oldest = self.time_ms.saturating_sub(self.window_ms);
        self.ids.get(&id).is_some_and(|known| known.seen_ms >= oldest)
    }

    pub(super) fn restore(&mut self, entry: Entry, next: i64) {
        self.time_ms = self.time_ms.max(entry.seen_ms);
        self.ids.insert(entry.id, Known { owner: entry.owner, seen_ms: entry.seen_ms });
        self.high = self.high.max(next);
    }

    pub(super) fn cover(&mut self, high: i64) {
        self.high = self.high.max(high);
    }

    pub(super) fn look(
        &mut self,
        offset: i64,
        id: KeyedId,
        previous: Option<KeyedId>,
        time_ms: u64,
        changed: &mut Vec<Entry>,
    ) -> Verdict {
        let ids = || [Some(id), previous].into_iter().flatten();
        if offset < self.high {
            let owner = ids().filter_map(|id| self.ids.get(&id)).map(|known| known.owner).min();
            return match owner {
                Some(owner) if owner < offset => Verdict::Repeat,
                Some(_) | None => Verdict::Deliver,
            };
        }
        self.high = offset + 1;
        self.time_ms = self.time_ms.max(time_ms);
        let now = self.time_ms;
        let oldest = now.saturating_sub(self.window_ms);
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
        if owner.is_some() { Verdict::Repeat } else { Verdict::Deliver }
    }
}
