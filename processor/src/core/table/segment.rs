//! A segment of the table: some of the ids, in order. The table's documentation tells its invariants.

use std::collections::BTreeMap;

use common::id::KeyedId;
use prefetch_index::prefetch_index;

use super::{DEPTH_MAX, Known};

/// Chunks from which on a segment has whole ones only.
const WHOLE_CHUNKS: usize = 16;

/// Chunks at which a segment splits instead of growing.
const SPLIT_CHUNKS: usize = 32;

/// Ids for 1024 homes at which a segment is full: seven in eight.
const LOAD_FULL: usize = 896;

/// The same of one that was made anew.
const LOAD_FRESH: usize = 791;

/// The same at which a sweep makes it anew.
const LOAD_SPARSE: usize = 717;

/// Cache lines of 64 bytes that are fetched from a key's home on.
const PREFETCHED: usize = 4;

/// The owner is too far from the base: it is in `far`.
const FAR: u32 = u32::MAX;

/// Last seen in an empty slot: later than anything is dropped.
const NEVER: u32 = u32::MAX;

/// An id as two numbers, in the order of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    high: u64,
    low: u64,
}

impl Key {
    /// Its top bits, as a number.
    pub(super) fn prefix(self, bits: u32) -> u64 {
        // A shift by all 64 bits leaves nothing.
        self.high.checked_shr(u64::BITS - bits).unwrap_or(0)
    }

    /// One of its bits, from the top.
    pub(super) fn bit(self, number: u32) -> bool {
        self.high >> (u64::BITS - 1 - number) & 1 == 1
    }
}

impl From<KeyedId> for Key {
    fn from(id: KeyedId) -> Self {
        let number = u128::from_be_bytes(id.0);
        Self { high: (number >> 64) as u64, low: number as u64 }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) key: Key,
    owner: u32,
    seen: u32,
}

const EMPTY: Slot = Slot { key: Key { high: u64::MAX, low: u64::MAX }, owner: 0, seen: NEVER };
const _: () = assert!(size_of::<Slot>() == 24);

/// What a segment's 32-bit numbers count from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bases {
    owner: i64,
    time: u64,
}

impl Bases {
    /// With room for owners on both sides: they come in order, but for the old owner of an id that was repeated for long.
    pub(super) fn new(owner: i64, time: u64) -> Self {
        Self { owner: owner.saturating_sub(1 << 31), time }
    }

    /// With times counted from `oldest_ms`.
    pub(super) fn at_time(self, oldest_ms: u64) -> Self {
        Self { time: self.time.max(oldest_ms), ..self }
    }

    /// Whether an entry fits. An owner below the base does: it counts as far.
    pub(super) fn fit(self, known: Known) -> bool {
        let owner_fits = known.owner < self.owner || self.owner_of(known) != FAR;
        owner_fits && known.seen_ms.saturating_sub(self.time) < u64::from(NEVER)
    }

    /// Bases that an entry fits.
    pub(super) fn moved(self, known: Known, oldest_ms: u64) -> Self {
        let moved = self.at_time(oldest_ms);
        if moved.fit(known) { moved } else { Self::new(known.owner, moved.time) }
    }

    /// How much later these are than `before`, if nothing but the time moved.
    fn later_than(self, before: Self) -> Option<u32> {
        let later = u32::try_from(self.time.checked_sub(before.time)?).ok()?;
        (self.owner == before.owner).then_some(later)
    }

    /// An entry as a slot, and its owner if that is too far away for a slot.
    fn encode(self, key: Key, known: Known) -> (Slot, Option<i64>) {
        let owner = self.owner_of(known);
        (Slot { key, owner, seen: self.seen_of(known) }, (owner == FAR).then_some(known.owner))
    }

    fn owner_of(self, known: Known) -> u32 {
        // What lies below wraps around to far above.
        u32::try_from(known.owner.wrapping_sub(self.owner).cast_unsigned()).unwrap_or(FAR)
    }

    fn seen_of(self, known: Known) -> u32 {
        u32::try_from(known.seen_ms.saturating_sub(self.time)).unwrap_or(NEVER).min(NEVER - 1)
    }
}

#[derive(Debug, Default)]
pub(super) struct Segment<const N: usize> {
    /// All of `N` slots but the last.
    chunks: Vec<Box<[Slot]>>,
    /// Slots in them.
    slots: usize,
    /// How many of them are anyone's home. The rest takes what is moved up at the end.
    homes: usize,
    len: usize,
    /// Top bits that all ids here have in common.
    depth: u32,
    bases: Bases,
    /// The owners that are too far from the base: of ids repeated for longer than 2^32 offsets, or before a jump of them.
    far: BTreeMap<Key, i64>,
}

impl<const N: usize> Segment<N> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    pub(super) fn bases(&self) -> Bases {
        self.bases
    }

    pub(super) fn is_full(&self) -> bool {
        self.len * 1024 >= self.homes * LOAD_FULL
    }

    /// Whether it is to be split before another id is put in.
    pub(super) fn splits(&self) -> bool {
        self.is_full() && self.homes > (SPLIT_CHUNKS - 1) * N && self.depth < DEPTH_MAX
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> usize {
        // A node of the map has room for 11 and holds 8 on average.
        self.slots * size_of::<Slot>() + self.chunks.capacity() * size_of::<Box<[Slot]>>() + self.far.len() * 40
    }

    /// Where a key is, or where it would go.
    pub(super) fn find(&self, key: Key) -> Result<usize, usize> {
        let mut at = self.home(key);
        while at < self.slots {
            for slot in &self.chunks[at / N][at % N..] {
                // An empty slot's key is the greatest.
                if slot.key >= key {
                    return if slot.key == key && slot.seen != NEVER { Ok(at) } else { Err(at) };
                }
                at += 1;
            }
        }
        Err(at)
    }

    /// Fetches the slots where a key probably is into the caches.
    pub(super) fn prefetch(&self, key: Key) {
        let home = self.home(key);
        if let Some(chunk) = self.chunks.get(home / N) {
            (0..PREFETCHED).for_each(|line| prefetch_index(chunk, home % N + line * 64 / size_of::<Slot>()));
        }
    }

    /// What is known of the key at a place.
    pub(super) fn known(&self, at: usize) -> Known {
        known(self.bases, &self.far, self.slot(at))
    }

    /// Changes what is known of the key at a place. It must fit the bases.
    pub(super) fn set(&mut self, at: usize, key: Key, known: Known) {
        let slot = self.encode(key, known);
        *self.slot_mut(at) = slot;
    }

    /// Puts in a key that is not here, where [`find`](Self::find) said. It must fit the bases.
    pub(super) fn insert(&mut self, mut at: usize, key: Key, known: Known) {
        let mut carried = self.encode(key, known);
        self.len += 1;
        // What is there moves up, as far as the next empty slot.
        while at < self.slots {
            let run = &mut self.chunks[at / N][at % N..];
            let (end, full) = match run.iter().position(|slot| slot.seen == NEVER) {
                Some(empty) => (empty, false),
                None => (run.len() - 1, true),
            };
            let last = run[end];
            run.copy_within(..end, 1);
            run[0] = carried;
            if !full {
                return;
            }
            carried = last;
            at += end + 1;
        }
        self.widen(at + 8);
        *self.slot_mut(at) = carried;
    }

    /// Hands out its entries in order, with their owners that are far, as they are with other bases, and without what was
    /// last seen before their time. Each chunk is freed when it has been read.
    pub(super) fn drain(self, bases: Bases, mut each: impl FnMut(Slot, Option<i64>)) {
        // A table that grows does this to every id again and again: nothing is worked out anew that stays as it is.
        let later = bases.later_than(self.bases).filter(|_| self.far.is_empty());
        for chunk in self.chunks {
            for slot in chunk.iter().filter(|slot| slot.seen != NEVER) {
                if let Some(later) = later {
                    if let Some(seen) = slot.seen.checked_sub(later) {
                        each(Slot { seen, ..*slot }, None);
                    }
                    continue;
                }
                let known = known(self.bases, &self.far, slot);
                if known.seen_ms >= bases.time {
                    let (slot, far) = bases.encode(slot.key, known);
                    each(slot, far);
                }
            }
        }
    }

    /// Makes it anew, with room for `more` ids, other bases, and without what was last seen before their time.
    pub(super) fn rebuild(&mut self, more: usize, bases: Bases) {
        let old = std::mem::take(self);
        let mut new = Builder::new(old.depth, old.len + more, bases, LOAD_FRESH);
        old.drain(bases, |slot, far| new.append(slot, far));
        *self = new.finish();
    }

    /// Drops what was last seen before `oldest_ms`, and gives back memory.
    pub(super) fn sweep(&mut self, oldest_ms: u64) {
        let oldest = u32::try_from(oldest_ms.saturating_sub(self.bases.time)).unwrap_or(NEVER);
        // What stays moves down at most. Up to `next` all is in its place; without a hole below it, so is what follows.
        let (mut at, mut next, mut hole) = (0, 0, false);
        while let Some(place) = if hole { Some(at).filter(|at| *at < self.slots) } else { self.next_older(at, oldest) }
        {
            at = place;
            let slot = *self.slot(at);
            if slot.seen == NEVER {
                hole = false;
            } else if slot.seen < oldest {
                *self.slot_mut(at) = EMPTY;
                self.len -= 1;
                self.far.remove(&slot.key);
                (next, hole) = if hole { (next, true) } else { (at, true) };
            } else if hole {
                let to = self.home(slot.key).max(next);
                if to < at {
                    *self.slot_mut(at) = EMPTY;
                    *self.slot_mut(to) = slot;
                }
                next = to + 1;
                hole = next <= at;
            }
            at += 1;
        }
        let sparse = self.len * 1024 < self.homes * LOAD_SPARSE && slots_for::<N>(self.len, LOAD_FRESH) < self.slots;
        // Times are counted anew long before one doesn't fit, and not each time.
        if sparse || oldest > 1 << 30 {
            self.rebuild(0, self.bases.at_time(oldest_ms));
        }
    }

    /// The first place from `at` on of what was last seen before `oldest`.
    fn next_older(&self, mut at: usize, oldest: u32) -> Option<usize> {
        while at < self.slots {
            let rest = &self.chunks[at / N][at % N..];
            if let Some(ahead) = rest.iter().position(|slot| slot.seen < oldest) {
                return Some(at + ahead);
            }
            at += rest.len();
        }
        None
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let slots: Vec<_> = self.chunks.iter().flatten().collect();
        assert_eq!(slots.len(), self.slots);
        let (mut last, mut run) = (None, 0);
        for (at, slot) in slots.iter().enumerate() {
            if slot.seen == NEVER {
                run = at + 1;
                continue;
            }
            assert!(last < Some(slot.key), "not in order");
            assert!((run..=at).contains(&self.home(slot.key)), "out of its place");
            assert_eq!(slot.owner == FAR, self.far.contains_key(&slot.key));
            last = Some(slot.key);
        }
        assert_eq!(slots.iter().filter(|slot| slot.seen != NEVER).count(), self.len);
        assert_eq!(slots.iter().filter(|slot| slot.owner == FAR).count(), self.far.len());
    }

    fn home(&self, key: Key) -> usize {
        ((u128::from(key.high << self.depth) * self.homes as u128) >> 64) as usize
    }

    fn slot(&self, at: usize) -> &Slot {
        &self.chunks[at / N][at % N]
    }

    fn slot_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.chunks[at / N][at % N]
    }

    fn encode(&mut self, key: Key, known: Known) -> Slot {
        let (slot, far) = self.bases.encode(key, known);
        if let Some(owner) = far {
            self.far.insert(key, owner);
        } else if !self.far.is_empty() {
            self.far.remove(&key);
        }
        slot
    }

    /// Adds empty slots at the end.
    fn widen(&mut self, slots: usize) {
        while self.slots < slots {
            let used = self.slots % N;
            let more = (slots - self.slots).min(N - used);
            let mut last = self.chunks.pop_if(|_| used > 0).map_or_else(Vec::new, <[Slot]>::into_vec);
            last.reserve_exact(more);
            last.resize(used + more, EMPTY);
            self.chunks.push(last.into_boxed_slice());
            self.slots += more;
        }
    }
}

/// A segment in the making, filled from its beginning to its end.
pub(super) struct Builder<const N: usize> {
    segment: Segment<N>,
    slots: usize,
    /// Where the next one goes at the earliest.
    next: usize,
}

impl<const N: usize> Builder<N> {
    /// Of an empty table.
    pub(super) fn first(oldest_ms: u64) -> Self {
        Self::new(0, 0, Bases::new(0, oldest_ms), LOAD_FRESH)
    }

    /// For half of a segment's `len` ids: those that begin with `prefix`.
    pub(super) fn half(depth: u32, prefix: u64, len: usize, bases: Bases) -> Self {
        // Ids are spread evenly, so segments of one load would all be full, and made anew, at the same time: the table
        // would be at its roomiest with all of them. So their loads are spread too.
        let spread = prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        Self::new(depth, len / 2, bases, LOAD_FRESH + (LOAD_FULL - LOAD_FRESH) * spread as usize / 1024)
    }

    fn new(depth: u32, len: usize, bases: Bases, load: usize) -> Self {
        let slots = slots_for::<N>(len, load);
        let homes = slots - (slots / 16).clamp(1, 32);
        Self { segment: Segment { homes, depth, bases, ..Segment::default() }, slots, next: 0 }
    }

    /// Adds a slot whose key is above all others, and the owner that is too far away for it.
    pub(super) fn append(&mut self, slot: Slot, far: Option<i64>) {
        let segment = &mut self.segment;
        let at = segment.home(slot.key).max(self.next);
        if at >= segment.slots {
            // Not all at once: the chunks that these come from are freed meanwhile.
            segment.widen((at + 1).next_multiple_of(N).min(self.slots.max(at + 1)));
        }
        *segment.slot_mut(at) = slot;
        if let Some(owner) = far {
            segment.far.insert(slot.key, owner);
        }
        segment.len += 1;
        self.next = at + 1;
    }

    pub(super) fn finish(mut self) -> Segment<N> {
        self.segment.widen(self.slots);
        self.segment
    }
}

/// Slots for so many ids with this load.
fn slots_for<const N: usize>(len: usize, load: usize) -> usize {
    let slots = len * 1024 / load + 8;
    if slots > WHOLE_CHUNKS * N { slots.next_multiple_of(N) } else { slots }
}

fn known(bases: Bases, far: &BTreeMap<Key, i64>, slot: &Slot) -> Known {
    let owner = match slot.owner {
        FAR => far.get(&slot.key).copied(),
        near => Some(bases.owner + i64::from(near)),
    };
    Known { owner: owner.unwrap_or(bases.owner), seen_ms: bases.time + u64::from(slot.seen) }
}
