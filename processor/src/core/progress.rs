//! Which offsets of a partition are complete.
//!
//! `base` is the lowest incomplete offset: it is what gets committed. The completed offsets above it are a bitmap, which
//! rides in the commit's metadata and so follows the partition to any node.
//!
//! ```text
//! metadata = "1:" base64url(bitmap)      bit i, least significant first in its byte, is offset base + i
//!            or empty, when nothing above base is complete
//! ```
//!
//! Invariants: an offset is complete once and for ever; nothing at or past `base + window` is admitted, so the bitmap
//! always fits the 4 096 bytes that a broker takes, and one hanging send holds back only its partition.

use data_encoding::BASE64URL_NOPAD;

/// Widest window: its bitmap takes 2 733 of the 4 096 bytes of commit metadata that a broker accepts.
pub const WINDOW_MAX: u32 = 16_384;

const PREFIX: &str = "1:";
/// Largest offset to begin with: a window past it, and another, can still be counted.
pub const BASE_MAX: i64 = i64::MAX - 2 * WINDOW_MAX as i64;
const _: () = assert!(PREFIX.len() + (WINDOW_MAX as usize / 8 * 4).div_ceil(3) <= 4096);

/// Progress within one partition.
#[derive(Debug, Clone)]
pub struct Progress {
    base: i64,
    next: i64,
    /// Bit `offset % window` is set for completed offsets in `base..base + window`.
    done: Box<[u64]>,
    window: i64,
    /// One past the highest completed offset, or `base`.
    top: i64,
}

/// Whether an offset is new here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// To be handled, and completed some time.
    New,
    /// Complete already, or handed over before: the client can deliver an offset twice.
    Before,
    /// Beyond the window: offer it again when `base` has moved.
    TooFar,
}

/// A committed offset that none can be, or commit metadata that this version can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the commit metadata is not of a form known here")]
pub struct MetadataError;

impl Progress {
    /// Progress from a committed offset and its metadata. `window` is rounded up to a multiple of 64.
    pub fn restore(base: i64, metadata: &str, window: u32) -> Result<Self, MetadataError> {
        // Whoever may commit may commit any number: beyond these, offsets could not be counted.
        if !(0..=BASE_MAX).contains(&base) {
            return Err(MetadataError);
        }
        let window = window.clamp(64, WINDOW_MAX).next_multiple_of(64);
        // A commit made with a wider window must not lose its tail.
        let bits = parse(metadata)?;
        let window = window.max(u32::try_from(bits.len() * 8).map_err(|_| MetadataError)?.next_multiple_of(64));
        if window > WINDOW_MAX {
            return Err(MetadataError);
        }
        let mut progress = Self {
            base,
            next: base,
            done: vec![0; window as usize / 64].into_boxed_slice(),
            window: i64::from(window),
            top: base,
        };
        for (at, byte) in (0_i64..).zip(&bits) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                progress.mark(base + at * 8 + bit);
            }
        }
        progress.advance();
        Ok(progress)
    }

    /// The lowest incomplete offset.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// One past the highest completed offset, or the lowest incomplete one.
    pub fn top(&self) -> i64 {
        self.top.max(self.base)
    }

    /// One past the highest offset seen.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// How many offsets may still be admitted before `base` must move.
    pub fn room(&self) -> usize {
        usize::try_from(self.base + self.window - self.next.max(self.base)).unwrap_or(0)
    }

    /// Takes note of an offset. Offsets that were passed over (markers, compaction) count as complete.
    pub fn see(&mut self, offset: i64) -> Seen {
        if offset < self.next {
            return Seen::Before;
        }
        if self.next <= self.base {
            // Nothing is open: a gap of any width is passed over at once. `base` may already be past the offset.
            self.skip_to(offset);
        } else if offset >= self.base + self.window {
            return Seen::TooFar;
        } else {
            (self.next..offset).for_each(|gap| self.mark(gap));
        }
        self.next = offset + 1;
        let before = offset < self.base || self.is_marked(offset);
        self.advance();
        if before { Seen::Before } else { Seen::New }
    }

    /// The log ends before `end`, and everything in it was seen: what is left below `end` are markers, and complete.
    pub fn pass(&mut self, end: i64) {
        if end <= self.next || (self.next > self.base && end > self.base + self.window) {
            return; // nothing new, or more than the bitmap holds: the next record passes over it
        }
        if self.next <= self.base {
            self.skip_to(end);
        } else {
            (self.next..end).for_each(|marker| self.mark(marker));
        }
        self.next = end;
        self.advance();
    }

    /// Marks an offset complete. Again does nothing.
    pub fn complete(&mut self, offset: i64) {
        if offset >= self.base && offset < self.base + self.window {
            self.mark(offset);
            self.advance();
        }
    }

    /// Whether an offset is complete.
    pub fn is_complete(&self, offset: i64) -> bool {
        offset < self.base || self.is_marked(offset)
    }

    /// What is complete above `base`, for the commit's metadata.
    pub fn metadata(&self) -> String {
        if self.top <= self.base {
            return String::new();
        }
        let width = usize::try_from(self.top - self.base).expect("top is above base");
        let mut bits = vec![0_u8; width.div_ceil(8)];
        for (at, offset) in (self.base..self.top).enumerate() {
            if self.is_marked(offset) {
                bits[at / 8] |= 1 << (at % 8);
            }
        }
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bits))
    }

    /// Moves to `offset` when every offset below it is either complete or a gap.
    fn skip_to(&mut self, offset: i64) {
        while self.base < offset {
            if self.top <= self.base {
                self.base = offset;
                self.top = self.top.max(offset);
                return;
            }
            self.clear(self.base);
            self.base += 1;
        }
    }

    fn advance(&mut self) {
        while self.top > self.base && self.is_marked(self.base) {
            self.clear(self.base);
            self.base += 1;
        }
    }

    fn at(&self, offset: i64) -> (usize, u64) {
        let bit = usize::try_from(offset.rem_euclid(self.window)).expect("a remainder of a small number");
        (bit / 64, 1 << (bit % 64))
    }

    fn is_marked(&self, offset: i64) -> bool {
        let (word, bit) = self.at(offset);
        offset >= self.base && offset < self.top && self.done[word] & bit != 0
    }

    fn mark(&mut self, offset: i64) {
        let (word, bit) = self.at(offset);
        self.done[word] |= bit;
        self.top = self.top.max(offset + 1);
    }

    fn clear(&mut self, offset: i64) {
        let (word, bit) = self.at(offset);
        self.done[word] &= !bit;
    }
}

fn parse(metadata: &str) -> Result<Vec<u8>, MetadataError> {
    if metadata.is_empty() {
        return Ok(Vec::new());
    }
    let bits = metadata.strip_prefix(PREFIX).ok_or(MetadataError)?;
    let bits = BASE64URL_NOPAD.decode(bits.as_bytes()).map_err(|_| MetadataError)?;
    if bits.len() * 8 <= WINDOW_MAX as usize { Ok(bits) } else { Err(MetadataError) }
}

#[cfg(test)]
mod tests;
