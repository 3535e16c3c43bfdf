//! The letters kept at hand, and read on: for who looks again and again.
//!
//! Of each partition only the newest offsets are kept, so that memory has a bound; how many lie below them is told. What
//! retention takes is forgotten.

use anyhow::Result;
use processor::config::Config;

use super::{DeadTopic, Fold, Letter};

/// See the module. Its methods block.
pub(crate) struct Followed {
    dead: DeadTopic,
    partitions: Vec<Part>,
    /// Offsets that are kept of each partition.
    offsets_max: i64,
}

/// How far a partition was read.
struct Part {
    fold: Fold,
    /// Where reading goes on, `None` before the first time.
    next: Option<i64>,
    /// Nothing below it is kept.
    from: i64,
    /// Offsets of the topic that are not kept.
    left_out: u64,
}

impl Followed {
    /// Keeps about so many letters. Connects when it is used.
    pub(crate) fn of(config: &Config, letters_max: u32) -> Result<Self> {
        let dead = DeadTopic::of(config)?;
        let part = |partition| Part { fold: Fold::of(partition), next: None, from: 0, left_out: 0 };
        let partitions = (0..dead.partitions).map(part).collect();
        // Two offsets for each: a letter may have a marker.
        let offsets_max = (i64::from(letters_max) * 2 / i64::from(dead.partitions.max(1))).max(1);
        Ok(Self { dead, partitions, offsets_max })
    }

    /// Reads what came since the last time.
    pub(crate) fn read_on(&mut self) -> Result<()> {
        let bounds = self.dead.all_bounds()?;
        for (part, (low, end)) in self.partitions.iter_mut().zip(bounds) {
            if part.next.is_some_and(|next| next > end) {
                // The topic was made anew.
                *part = Part { fold: Fold::of(part.fold.partition), next: None, from: 0, left_out: 0 };
            }
            let wanted = window(low, end, self.offsets_max);
            let from = part.next.unwrap_or(wanted).max(low);
            self.dead.fold(&mut part.fold, (from, end))?;
            part.next = Some(end);
            part.left_out = u64::try_from(wanted - low).unwrap_or(0);
            if is_due(part.from, wanted, low, self.offsets_max) {
                part.fold.forget_below(wanted);
                part.from = wanted;
            }
        }
        Ok(())
    }

    /// The letters, in no order.
    pub(crate) fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.partitions.iter().flat_map(|part| &part.fold.letters)
    }

    /// Offsets of the topic that lie below what is kept: letters, and markers of letters.
    pub(crate) fn left_out(&self) -> u64 {
        self.partitions.iter().map(|part| part.left_out).sum()
    }
}

/// Where what is kept of a partition begins.
fn window(low: i64, end: i64, offsets_max: i64) -> i64 {
    low.max(end - offsets_max)
}

/// Whether it is time to forget: at once what retention took, else an eighth at a time, since it means going through all.
fn is_due(from: i64, wanted: i64, low: i64, offsets_max: i64) -> bool {
    from < low || wanted - from > offsets_max / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offsets_are_kept() {
        assert_eq!(window(0, 50, 100), 0, "all of them");
        assert_eq!(window(20, 50, 100), 20, "what retention left");
        assert_eq!(window(20, 500, 100), 400);
    }

    #[test]
    fn what_retention_took_is_forgotten_at_once_and_the_rest_by_and_by() {
        assert!(is_due(10, 20, 20, 100));
        assert!(!is_due(10, 22, 0, 100), "an eighth of the window");
        assert!(is_due(10, 23, 0, 100));
        assert!(!is_due(10, 10, 10, 100));
    }
}
