//! The dedup index's memory: a table from keyed id to owner and last seen, exact, 24 bytes an entry.
//!
//! ```text
//! directory   the top bits of an id ──▶ its segment (extendible hashing: a segment splits alone)
//! segment     slots in the order of their ids, in chunks of one size; an id's home is id × homes / 2^width
//! slot        id 16 ‖ owner 4 ‖ last seen 4         relative to the bases of the segment
//! ```
//!
//! A segment is linear probing in which the order of the slots is the order of the ids: homes grow with the ids, and who
//! finds his home taken moves up, never round. So a look-up ends at the first greater id, and a segment is rebuilt, split or
//! shrunk by one pass from its beginning to its end, which frees each old chunk before it fills the next new one: the
//! peak while growing is a chunk or two. All chunks of a larger segment have one size, so the allocator can put each
//! freed one to use, and holes don't pile up.
//!
//! Invariants, per segment: occupied slots ascend by id; each is at its home or after it, with no empty slot between. A
//! segment grows when 7 of 8 homes' worth of ids is in it, and a sweep that leaves fewer than 7 of 10 shrinks it; no two grow
//! at the same time but by chance. No call passes over more than a segment or two, of some 37 000 slots each.
//!
//! Ids must be spread evenly, or the table is slow (never wrong). They are: keyed ids are HMACs, so a sender who chooses
//! event ids can't choose where they fall, short of trying: and for k ids in one of n places he must send k × n events,
//! of which every one is remembered somewhere else meanwhile.

use common::id::KeyedId;

mod segment;

use segment::{Builder, Key, Segment};

/// Slots of a chunk: 24 KiB.
const CHUNK: usize = 1024;

/// Most bits of an id that the directory tells apart: enough for 10^9 ids; beyond, segments grow instead.
const DEPTH_MAX: u32 = 16;

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The offset of the record that is delivered for it.
    pub owner: i64,
    /// When it was last seen, milliseconds.
    pub seen_ms: u64,
}

/// See the module. `N` is the size of a chunk; tests choose a small one.
#[derive(Debug, Default)]
pub struct Table<const N: usize = CHUNK> {
    directory: Vec<usize>,
    depth: u32,
    segments: Vec<Segment<N>>,
    len: usize,
}

impl<const N: usize> Table<N> {
    /// Ids held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no id is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many parts there are to [`sweep`](Self::sweep).
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.directory.capacity() * size_of::<usize>()
            + self.segments.capacity() * size_of::<Segment<N>>()
            + self.segments.iter().map(Segment::bytes).sum::<usize>()
    }

    /// What is known of an id.
    pub fn get(&self, id: KeyedId) -> Option<Known> {
        let key = Key::from(id);
        let segment = &self.segments[*self.directory.get(entry(self.depth, key))?];
        segment.find(key).ok().map(|at| segment.known(at))
    }

    /// Fetches what will be looked at for an id into the caches. For several ids these fetches overlap, where look-ups
    /// would wait for memory one after the other.
    pub fn prefetch(&self, id: KeyedId) {
        let key = Key::from(id);
        if let Some(segment) = self.directory.get(entry(self.depth, key)) {
            self.segments[*segment].prefetch(key);
        }
    }

    /// Makes what is known of an id what `decide` says, which gets what was known before.
    ///
    /// Entries last seen before `oldest_ms` may be dropped on the way; it never goes back, and what is decided is seen at
    /// it or less than 2^32 - 1 ms after.
    pub fn update(&mut self, id: KeyedId, oldest_ms: u64, decide: impl FnOnce(Option<Known>) -> Known) {
        let key = Key::from(id);
        if self.segments.is_empty() {
            self.segments.push(Builder::first(oldest_ms).finish());
            self.directory.push(0);
        }
        let mut segment = &mut self.segments[self.directory[entry(self.depth, key)]];
        let found = segment.find(key);
        let known = decide(found.ok().map(|at| segment.known(at)));
        match found {
            Ok(at) if segment.bases().fit(known) => segment.set(at, key, known),
            Err(at) if segment.bases().fit(known) && !segment.is_full() => {
                segment.insert(at, key, known);
                self.len += 1;
            }
            Ok(_) | Err(_) => {
                while segment.splits() {
                    self.split(key, oldest_ms);
                    segment = &mut self.segments[self.directory[entry(self.depth, key)]];
                }
                let before = segment.len();
                segment.rebuild(1, segment.bases().moved(known, oldest_ms));
                match segment.find(key) {
                    Ok(at) => segment.set(at, key, known),
                    Err(at) => segment.insert(at, key, known),
                }
                self.len = self.len - before + segment.len();
            }
        }
    }

    /// Drops the entries of one segment that were last seen before `oldest_ms`, and gives back memory.
    pub fn sweep(&mut self, segment: usize, oldest_ms: u64) {
        if let Some(segment) = self.segments.get_mut(segment) {
            let before = segment.len();
            segment.sweep(oldest_ms);
            self.len = self.len - before + segment.len();
        }
    }

    /// Splits the segment of a key into two.
    fn split(&mut self, key: Key, oldest_ms: u64) {
        let (at, other) = (self.directory[entry(self.depth, key)], self.segments.len());
        let depth = self.segments[at].depth();
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|segment| [*segment; 2]).collect();
            self.depth += 1;
        }
        let span = 1 << (self.depth - depth);
        let first = entry(self.depth, key) / span * span;
        self.directory[first + span / 2..first + span].fill(other);

        let old = std::mem::take(&mut self.segments[at]);
        let (len, bases) = (old.len(), old.bases().at_time(oldest_ms));
        let prefix = key.prefix(depth) << 1;
        let half = |prefix| Builder::half(depth + 1, prefix, len, bases);
        let (mut lower, mut upper) = (half(prefix), half(prefix + 1));
        old.drain(bases, |slot, far| {
            if slot.key.bit(depth) { &mut upper } else { &mut lower }.append(slot, far);
        });
        let (lower, upper) = (lower.finish(), upper.finish());
        self.len = self.len - len + lower.len() + upper.len();
        self.segments[at] = lower;
        self.segments.push(upper);
    }
}

/// Where in the directory a key is.
fn entry(depth: u32, key: Key) -> usize {
    key.prefix(depth) as usize
}

#[cfg(test)]
mod tests;
