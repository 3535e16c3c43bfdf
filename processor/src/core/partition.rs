//! One owned partition: progress, index and permits taken together.
//!
//! A *permit* is taken when a record is admitted for delivery and freed only when a commit that covers its completion
//! was acknowledged. So at most as many deliveries as there are permits can be repeated by a crash.

use common::id::KeyedId;

use super::index::{Entry, Index, Verdict};
use super::progress::{Progress, Seen};
use super::tally::Tally;
use crate::control::{self, Control};
use crate::outcome::Outcome;

/// What a record is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    /// Its id.
    pub id: KeyedId,
    /// Its id under the previous id key.
    pub previous: Option<KeyedId>,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Nothing: it is complete, or handed over already.
    Skip,
    /// Offer it again when a completion has moved the window.
    Wait,
    /// Nothing: it repeats another. It is complete.
    Repeat,
    /// Deliver it, then call [`Partition::complete`]. A permit was taken.
    Deliver,
}

/// What a commit will say, and what its acknowledgement will free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The offset to commit.
    pub base: i64,
    /// Its metadata.
    pub metadata: String,
}

/// One owned partition.
#[derive(Debug)]
pub struct Partition {
    progress: Progress,
    /// `None` where repeats don't matter (the router).
    index: Option<Index>,
    /// Admitted for delivery, not complete.
    open: usize,
    /// Complete, and not covered by an acknowledged commit.
    uncovered: usize,
    /// Of `uncovered`, those that the commit under way covers.
    covering: usize,
}

impl Partition {
    /// A partition just opened.
    pub fn new(progress: Progress, index: Option<Index>) -> Self {
        Self { progress, index, open: 0, uncovered: 0, covering: 0 }
    }

    /// How many records the window admits now.
    pub fn room(&self) -> usize {
        self.progress.room()
    }

    /// One past the highest offset seen.
    pub fn next(&self) -> i64 {
        self.progress.next()
    }

    /// The lowest offset that is not complete.
    pub fn base(&self) -> i64 {
        self.progress.base()
    }

    /// Permits held here.
    pub fn permits(&self) -> usize {
        self.open + self.uncovered
    }

    /// How what is complete became so.
    pub fn tally(&self) -> &Tally {
        self.progress.tally()
    }

    /// The tally, for controls that count wrongly.
    #[cfg(test)]
    pub(super) fn tally_mut(&mut self) -> &mut Tally {
        self.progress.tally_mut()
    }

    /// The index.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Takes an index that also knows what lies before the beginning of this one. Gives it back, with the offset that it
    /// must cover first, if this one has seen more records.
    pub fn complete_index(&mut self, index: Index) -> Option<(Index, i64)> {
        match &self.index {
            Some(own) if own.high() > index.high() => Some((index, own.high())),
            Some(_) | None => {
                self.index = Some(index);
                None
            }
        }
    }

    /// The verdict on a record. Without a key it is never a repeat and enters no index. `changed` gets what a store must
    /// remember.
    pub fn admit(&mut self, offset: i64, key: Option<DedupKey>, time_ms: u64, changed: &mut Vec<Entry>) -> Admit {
        let seen = self.progress.see(offset);
        if seen == Seen::TooFar {
            return Admit::Wait;
        }
        let covered = self.index.as_ref().is_some_and(|index| offset < index.high());
        // The index covers every record, those complete before a restart too: the verdict on later ones depends on them.
        let verdict = match (&mut self.index, key) {
            (Some(index), Some(key)) => index.look(offset, key.id, key.previous, time_ms, changed),
            (Some(index), None) => {
                index.cover(offset + 1);
                Verdict::Deliver
            }
            (None, _) => Verdict::Deliver,
        };
        let verdict = match verdict {
            Verdict::Repeat if control::is(Control::NoDedup) => Verdict::Deliver,
            Verdict::Deliver if covered && control::is(Control::ReplayIsRepeat) => Verdict::Repeat,
            verdict @ (Verdict::Repeat | Verdict::Deliver) => verdict,
        };
        match (seen, verdict) {
            (Seen::Before | Seen::TooFar, _) => Admit::Skip,
            (Seen::New, Verdict::Repeat) => {
                self.progress.complete(offset, Outcome::Repeat);
                Admit::Repeat
            }
            (Seen::New, Verdict::Deliver) => {
                self.open += 1;
                if control::is(Control::CompleteOnReceive) {
                    self.complete(offset, Outcome::Delivered);
                }
                Admit::Deliver
            }
        }
    }

    /// Everything below `end` was admitted, and the log ends there.
    pub fn pass(&mut self, end: i64) {
        self.progress.pass(end);
        if let Some(index) = &mut self.index {
            index.cover(end);
        }
    }

    /// The effect of an admitted record is durable elsewhere.
    pub fn complete(&mut self, offset: i64, outcome: Outcome) {
        if control::is(Control::CompleteOnReceive) && self.progress.is_complete(offset) {
            return;
        }
        self.progress.complete(offset, outcome);
        self.open -= 1;
        self.uncovered += 1;
    }

    /// What to commit now.
    pub fn snapshot(&mut self) -> Snapshot {
        self.covering = self.uncovered;
        if control::is(Control::CommitHighest) {
            return Snapshot { base: self.progress.top(), metadata: String::new() };
        }
        if control::is(Control::NoBitmap) {
            return Snapshot { base: self.progress.base(), metadata: String::new() };
        }
        Snapshot { base: self.progress.base(), metadata: self.progress.metadata() }
    }

    /// The last snapshot's commit was acknowledged: how many permits that frees.
    pub fn committed(&mut self) -> usize {
        let freed = std::mem::take(&mut self.covering);
        self.uncovered -= freed;
        freed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn partition(base: i64) -> Partition {
        let progress = Progress::restore(base, "", 1024).unwrap();
        Partition::new(progress, Some(Index::new(Duration::from_secs(60), base)))
    }

    fn admit(partition: &mut Partition, offset: i64, id: u8) -> Admit {
        let key = DedupKey { id: KeyedId([id; 16]), previous: None };
        partition.admit(offset, Some(key), 1000, &mut Vec::new())
    }

    #[test]
    fn a_permit_lives_until_the_commit_that_covers_it() {
        let mut partition = partition(0);
        assert_eq!(admit(&mut partition, 0, 1), Admit::Deliver);
        assert_eq!(admit(&mut partition, 1, 2), Admit::Deliver);
        assert_eq!(admit(&mut partition, 2, 1), Admit::Repeat);
        assert_eq!(partition.permits(), 2, "a repeat takes none");
        partition.complete(1, Outcome::Delivered);
        assert_eq!(partition.permits(), 2, "completion frees nothing");
        let snapshot = partition.snapshot();
        assert_eq!(snapshot.base, 0);
        partition.complete(0, Outcome::Delivered);
        assert_eq!(partition.committed(), 1, "only what the commit covers");
        assert_eq!(partition.permits(), 1);
        assert_eq!(partition.snapshot().base, 3);
        assert_eq!((partition.committed(), partition.permits()), (1, 0));
        assert_eq!(partition.committed(), 0, "an answer frees once");
    }

    #[test]
    fn a_failed_commit_frees_nothing_and_the_next_one_all() {
        let mut partition = partition(0);
        admit(&mut partition, 0, 1);
        partition.complete(0, Outcome::Delivered);
        partition.snapshot();
        partition.snapshot();
        assert_eq!(partition.committed(), 1);
    }

    #[test]
    fn what_is_complete_before_a_restart_still_counts_for_the_verdict() {
        let progress = Progress::restore(10, "1:Ag", 1024).unwrap();
        let mut partition = Partition::new(progress, Some(Index::new(Duration::from_secs(60), 10)));
        assert_eq!(admit(&mut partition, 10, 1), Admit::Deliver);
        assert_eq!(admit(&mut partition, 11, 2), Admit::Skip, "its bit is set");
        assert_eq!(admit(&mut partition, 12, 2), Admit::Repeat, "of the one that was skipped");
    }

    #[test]
    fn a_completed_index_takes_over_once_it_has_seen_as_much() {
        let window = Duration::from_secs(60);
        let look = |index: &mut Index, offset, id| index.look(offset, KeyedId([id; 16]), None, 1000, &mut Vec::new());
        let mut partition = partition(10);
        assert_eq!(admit(&mut partition, 10, 1), Admit::Deliver, "offset 3 is not known yet");
        let mut whole = Index::new(window, 0);
        look(&mut whole, 3, 1);
        look(&mut whole, 4, 2);
        let (mut whole, wanted) = partition.complete_index(whole).unwrap();
        assert_eq!(wanted, 11);
        look(&mut whole, 10, 1);
        look(&mut whole, 11, 3);
        assert!(partition.complete_index(whole).is_none(), "it may be ahead");
        assert_eq!(admit(&mut partition, 11, 3), Admit::Deliver, "its own record, seen ahead of time");
        assert_eq!(admit(&mut partition, 12, 2), Admit::Repeat, "of offset 4");
        assert_eq!(admit(&mut partition, 13, 1), Admit::Repeat);
    }

    #[test]
    fn a_record_that_was_never_trusted_enters_no_index() {
        let mut partition = partition(0);
        assert_eq!(partition.admit(0, None, 1000, &mut Vec::new()), Admit::Deliver);
        assert_eq!(partition.index().map(Index::len), Some(0));
        assert_eq!(admit(&mut partition, 1, 1), Admit::Deliver);
    }
}
