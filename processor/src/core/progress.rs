//! Which offsets of a partition are complete.
//!
//! `base` is the lowest incomplete offset: it is what gets committed. The completed offsets above it are a bitmap, which
//! rides in the commit's metadata and so follows the partition to any node. With it goes the [`Tally`]: how each offset
//! that is complete became so.
//!
//! ```text
//! metadata = "2:" base64url(bitmap) ":" tally      bit i, least significant first in its byte, is offset base + i
//!            or empty, when nothing is complete and counting begins at base
//! ```
//!
//! What follows after another ":" is of a later version and not looked at. `"1:" base64url(bitmap)` is of the version
//! before, which counted nothing.
//!
//! Invariants: an offset is complete once and for ever, and is counted when it becomes so: as many are counted as are
//! complete from the tally's start on ([`is_balanced`](Progress::is_balanced)). Nothing at or past `base + window` is
//! admitted, so the metadata always fits the 4 096 bytes that a broker takes, and one hanging send holds back only its
//! partition.

use data_encoding::BASE64URL_NOPAD;

use super::tally::{Completion, Tally};

/// Widest window: its bitmap takes 2 731 of the 4 096 bytes of commit metadata that a broker accepts.
pub const WINDOW_MAX: u32 = 16_384;

const PREFIX: &str = "2:";
const PREFIX_WITHOUT_TALLY: &str = "1:";
/// Largest offset to begin with: a window past it, and another, can still be counted.
pub const BASE_MAX: i64 = i64::MAX - 2 * WINDOW_MAX as i64;
const _: () = assert!(metadata_bytes_max(WINDOW_MAX) <= 4096);

/// The longest metadata of a window, in bytes.
pub const fn metadata_bytes_max(window: u32) -> usize {
    let bitmap = window.div_ceil(64) as usize * 8;
    PREFIX.len() + (bitmap * 4).div_ceil(3) + 1 + Tally::TEXT_BYTES_MAX
}

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
    tally: Tally,
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
        let (bits, tally) = parse(metadata)?;
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
            tally: Tally::new(base),
        };
        for (at, byte) in (0_i64..).zip(&bits) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                progress.mark(base + at * 8 + bit, Completion::Other);
            }
        }
        // Where nothing was counted before, counting begins here.
        if let Some(tally) = tally {
            progress.tally = tally;
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
            self.skip_to(offset, Completion::Marker);
        } else if offset >= self.base + self.window {
            return Seen::TooFar;
        } else {
            (self.next..offset).for_each(|gap| self.mark(gap, Completion::Marker));
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
            self.skip_to(end, Completion::Marker);
        } else {
            (self.next..end).for_each(|marker| self.mark(marker, Completion::Marker));
        }
        self.next = end;
        self.advance();
    }

    /// The log begins at `low` now, and nothing was seen yet: what was not complete below it is lost. Answers how many.
    pub fn expire(&mut self, low: i64) -> u64 {
        let before = self.tally.of(Completion::Expired);
        self.skip_to(low, Completion::Expired);
        self.next = self.next.max(low);
        self.advance();
        self.tally.of(Completion::Expired) - before
    }

    /// Marks an offset complete. Again does nothing.
    pub fn complete(&mut self, offset: i64, completion: impl Into<Completion>) {
        if offset >= self.base && offset < self.base + self.window {
            self.mark(offset, completion.into());
            self.advance();
        }
    }

    /// Whether an offset is complete.
    pub fn is_complete(&self, offset: i64) -> bool {
        offset < self.base || self.is_marked(offset)
    }

    /// How what is complete became so.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The tally, for controls that count wrongly.
    #[cfg(test)]
    pub(super) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// How many offsets are complete from the tally's start on. Negative where a commit says nonsense.
    pub fn completed(&self) -> i64 {
        let above: i64 = self.done.iter().map(|word| i64::from(word.count_ones())).sum();
        self.base - self.tally.start() + above
    }

    /// Whether as many are counted as are complete.
    pub fn is_balanced(&self) -> bool {
        self.tally.total() == i128::from(self.completed())
    }

    /// What is complete above `base` and how all became so, for the commit's metadata.
    pub fn metadata(&self) -> String {
        let is_new = self.top <= self.base && self.tally == Tally::new(self.base);
        if is_new {
            return String::new();
        }
        let width = usize::try_from(self.top() - self.base).expect("top is not below base");
        let mut bits = vec![0_u8; width.div_ceil(8)];
        for (at, offset) in (self.base..self.top).enumerate() {
            if self.is_marked(offset) {
                bits[at / 8] |= 1 << (at % 8);
            }
        }
        let mut metadata = String::with_capacity(PREFIX.len() + 2 * bits.len() + 64);
        metadata.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&bits, &mut metadata);
        metadata.push(':');
        self.tally.write(&mut metadata);
        metadata
    }

    /// Moves to `offset`: every offset below it that is not complete becomes so in one way.
    fn skip_to(&mut self, offset: i64, completion: Completion) {
        let mut skipped = 0;
        while self.base < offset {
            if self.top <= self.base {
                skipped += offset.abs_diff(self.base);
                self.base = offset;
                self.top = self.top.max(offset);
                break;
            }
            skipped += u64::from(!self.is_marked(self.base));
            self.clear(self.base);
            self.base += 1;
        }
        self.tally.add(completion, skipped);
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

    /// Within the window.
    fn mark(&mut self, offset: i64, completion: Completion) {
        let (word, bit) = self.at(offset);
        let is_new = self.done[word] & bit == 0;
        self.done[word] |= bit;
        self.top = self.top.max(offset + 1);
        self.tally.add(completion, u64::from(is_new));
    }

    fn clear(&mut self, offset: i64) {
        let (word, bit) = self.at(offset);
        self.done[word] &= !bit;
    }
}

/// The bits, and the tally where there is one.
fn parse(metadata: &str) -> Result<(Vec<u8>, Option<Tally>), MetadataError> {
    if metadata.is_empty() {
        return Ok((Vec::new(), None));
    }
    let (bits, tally) = if let Some(bits) = metadata.strip_prefix(PREFIX_WITHOUT_TALLY) {
        (bits, None)
    } else {
        let mut parts = metadata.strip_prefix(PREFIX).ok_or(MetadataError)?.split(':');
        let (bits, tally) = (parts.next().ok_or(MetadataError)?, parts.next().ok_or(MetadataError)?);
        (bits, Some(Tally::parse(tally).ok_or(MetadataError)?))
    };
    let bits = BASE64URL_NOPAD.decode(bits.as_bytes()).map_err(|_| MetadataError)?;
    if bits.len() * 8 <= WINDOW_MAX as usize { Ok((bits, tally)) } else { Err(MetadataError) }
}

#[cfg(test)]
mod tests;
