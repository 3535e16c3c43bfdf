//! The verdict: is a record a repeat?
//!
//! A record at offset `o` is a repeat if an earlier record of its partition with its id lies within the window before
//! it, by the broker's time made monotonic. The window slides: a repeat renews it. So the verdict is a function of the
//! last window of the log alone, and an index rebuilt from the log agrees with the live one.
//!
//! The *owner* of an id is the offset of the record that is delivered for it. `owner == o` is a replay after a crash and
//! must be delivered; `owner < o` is a repeat.

use std::time::Duration;

use common::id::KeyedId;

use super::table::{Known, Table};

/// Widest window: the table keeps times in 32 bits of milliseconds, 49 days, and needs some slack to move on.
pub const WINDOW_MAX: Duration = Duration::from_secs(45 * 24 * 3600);

/// How many rounds of sweeping a window has: an expired id leaves a twentieth of the window late at most.
const ROUNDS: u64 = 20;

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

/// The ids of one partition within the window.
#[derive(Debug)]
pub struct Index {
    ids: Table,
    window_ms: u64,
    /// Offsets below this are in the index.
    high: i64,
    /// The largest time seen.
    time_ms: u64,
    /// When the round of sweeping began, and how many segments it has done.
    round_ms: u64,
    swept: usize,
}

impl Index {
    /// An empty index that covers everything below `high`. The window is [`WINDOW_MAX`] at most: the configuration
    /// refuses more.
    pub fn new(window: Duration, high: i64) -> Self {
        let window_ms = u64::try_from(window.min(WINDOW_MAX).as_millis()).expect("45 days of milliseconds");
        Self { ids: Table::default(), window_ms, high, time_ms: 0, round_ms: 0, swept: 0 }
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

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.ids.bytes()
    }

    /// Takes over an entry from a store. In the order in which they were made.
    pub fn restore(&mut self, entry: Entry, next: i64) {
        self.high = self.high.max(next);
        self.time_ms = self.time_ms.max(entry.seen_ms);
        let oldest = self.oldest();
        if entry.seen_ms >= oldest {
            self.ids.update(entry.id, oldest, |_| Known { owner: entry.owner, seen_ms: entry.seen_ms });
        }
        self.sweep();
    }

    /// Says that nothing below `high` is missing, though nothing of it may be here (expired, or not records).
    pub fn cover(&mut self, high: i64) {
        self.high = self.high.max(high);
    }

    /// Says that [`look`](Self::look) will be asked for this id soon. Changes nothing but how long that takes.
    pub fn prefetch(&self, id: KeyedId) {
        self.ids.prefetch(id);
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
                .filter_map(|id| self.ids.get(id))
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
        let oldest = self.oldest();
        let fresh = |known: Known| (known.seen_ms >= oldest).then_some(known.owner);
        let mut owner = previous.and_then(|id| self.ids.get(id)).and_then(fresh);
        let mut known = Known { owner: offset, seen_ms: now };
        self.ids.update(id, oldest, |before| {
            owner = owner.into_iter().chain(before.and_then(fresh)).min();
            known.owner = owner.unwrap_or(offset);
            known
        });
        if let Some(id) = previous {
            self.ids.update(id, oldest, |_| known);
        }
        changed.extend([Some(id), previous].into_iter().flatten().map(|id| Entry {
            id,
            owner: known.owner,
            seen_ms: known.seen_ms,
        }));
        self.sweep();
        if owner.is_some() { Verdict::Repeat } else { Verdict::Deliver }
    }

    fn oldest(&self) -> u64 {
        self.time_ms.saturating_sub(self.window_ms)
    }

    /// Drops what is older than the window. One segment at a time, spread over the round: what holds the engine's lock
    /// must be brief.
    fn sweep(&mut self) {
        let (round, segments) = (self.window_ms / ROUNDS, self.ids.segments());
        if self.swept >= segments && self.time_ms - self.round_ms > round {
            (self.round_ms, self.swept) = (self.time_ms, 0);
        }
        let elapsed = self.time_ms - self.round_ms;
        // In the middle of every segment's share, so that a round has ended when the next begins.
        let due = (elapsed.saturating_mul(2).saturating_add(1)).saturating_mul(segments as u64) / (round.max(1) * 2);
        if self.swept < segments && self.swept as u64 <= due {
            self.ids.sweep(self.swept, self.oldest());
            self.swept += 1;
        }
    }
}

#[cfg(test)]
mod agrees;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
