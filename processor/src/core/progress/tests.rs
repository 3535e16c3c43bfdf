use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::outcome::Outcome;
use crate::outcome::Outcome::Delivered;

fn new(base: i64, window: u32) -> Progress {
    Progress::restore(base, "", window).unwrap()
}

#[test]
fn base_waits_for_the_lowest_incomplete_offset() {
    let mut progress = new(100, 64);
    for offset in 100..104 {
        assert_eq!(progress.see(offset), Seen::New);
    }
    progress.complete(101, Delivered);
    progress.complete(103, Delivered);
    assert_eq!((progress.base(), progress.metadata().as_str()), (100, "2:Cg:100d2"));
    progress.complete(100, Delivered);
    assert_eq!(progress.base(), 102);
    progress.complete(102, Delivered);
    assert_eq!((progress.base(), progress.metadata().as_str()), (104, "2::100d4"));
}

#[test]
fn the_window_holds_at_its_edge() {
    let mut progress = new(0, 64);
    for offset in 0..64 {
        assert_eq!(progress.see(offset), Seen::New);
    }
    assert_eq!((progress.room(), progress.see(64)), (0, Seen::TooFar));
    for offset in 1..64 {
        progress.complete(offset, Delivered);
    }
    assert_eq!((progress.base(), progress.room()), (0, 0));
    progress.complete(0, Delivered);
    assert_eq!((progress.base(), progress.room(), progress.see(64)), (64, 64, Seen::New));
}

#[test]
fn the_widest_bitmap_and_the_longest_tally_fit_the_metadata() {
    let mut longest = "2::9223372036854775807".to_owned();
    Completion::all().for_each(|completion| {
        let mut one = Tally::new(0);
        one.add(completion, u64::MAX);
        let mut text = String::new();
        one.write(&mut text);
        longest.push_str(&text[1..]);
    });
    let mut progress = Progress::restore(7, &longest, WINDOW_MAX).unwrap();
    for offset in 7..7 + i64::from(WINDOW_MAX) {
        assert_eq!(progress.see(offset), Seen::New);
    }
    progress.complete(6 + i64::from(WINDOW_MAX), Delivered);
    let metadata = progress.metadata();
    assert_eq!(metadata.len(), metadata_bytes_max(WINDOW_MAX));
    assert!(metadata.len() <= 4096, "{}", metadata.len());
    let restored = Progress::restore(7, &metadata, 64).unwrap();
    assert!(restored.is_complete(6 + i64::from(WINDOW_MAX)) && !restored.is_complete(7));
}

#[test]
fn base_may_run_ahead_of_the_first_unread_offset() {
    // 10 and 12 complete, 11 not; after the restart 11 completes and base passes 12, which is read again later.
    let mut progress = new(10, 64);
    (10..13).for_each(|offset| assert_eq!(progress.see(offset), Seen::New));
    progress.complete(12, Delivered);
    progress.complete(10, Delivered);
    let mut restarted = Progress::restore(progress.base(), &progress.metadata(), 64).unwrap();
    assert_eq!((restarted.base(), restarted.see(11)), (11, Seen::New));
    restarted.complete(11, Delivered);
    assert_eq!((restarted.base(), restarted.next()), (13, 12));
    assert_eq!(restarted.see(12), Seen::Before);
    assert_eq!(restarted.see(13), Seen::New);
}

#[test]
fn gaps_are_complete_however_wide() {
    let mut progress = new(0, 64);
    assert_eq!(progress.see(1_000_000), Seen::New);
    assert_eq!(progress.base(), 1_000_000);
    assert_eq!(progress.see(1_000_005), Seen::New);
    assert_eq!(progress.see(1_000_003), Seen::Before);
    assert_eq!(progress.see(2_000_000), Seen::TooFar, "the gap is taken when nothing is open below it");
    progress.complete(1_000_005, Delivered);
    assert_eq!(progress.base(), 1_000_000);
    progress.complete(1_000_000, Delivered);
    assert_eq!((progress.base(), progress.see(2_000_000)), (1_000_006, Seen::New));
}

#[test]
fn markers_at_the_end_of_the_log_are_passed_over() {
    // Nothing is open: any number of them.
    let mut progress = new(10, 64);
    progress.pass(1_000_000);
    let metadata = progress.metadata();
    assert_eq!((progress.base(), progress.next(), metadata.as_str()), (1_000_000, 1_000_000, "2::10m999990"));
    progress.pass(999_999);
    assert_eq!((progress.base(), progress.next()), (1_000_000, 1_000_000), "nothing is passed twice");

    // One is open: what is behind it is complete, and base waits.
    assert_eq!(progress.see(1_000_000), Seen::New);
    progress.pass(1_000_004);
    assert_eq!((progress.base(), progress.next(), progress.top()), (1_000_000, 1_000_004, 1_000_004));
    assert!((1_000_001..1_000_004).all(|marker| progress.is_complete(marker)) && !progress.is_complete(1_000_000));
    // More than the bitmap holds waits for the next record.
    progress.pass(1_000_065);
    assert_eq!(progress.next(), 1_000_004);
    progress.pass(1_000_064);
    assert_eq!((progress.base(), progress.next(), progress.room()), (1_000_000, 1_000_064, 0));
    progress.complete(1_000_000, Delivered);
    assert_eq!((progress.base(), progress.top(), progress.room()), (1_000_064, 1_000_064, 64));
}

#[test]
fn a_base_that_cannot_be_counted_from_is_refused() {
    for base in [-1, i64::MIN, BASE_MAX + 1, i64::MAX] {
        assert_eq!(Progress::restore(base, "", 64).map(|progress| progress.base()), Err(MetadataError), "{base}");
    }
    for base in [0, BASE_MAX] {
        let mut progress = new(base, WINDOW_MAX);
        assert_eq!((progress.base(), progress.see(base)), (base, Seen::New));
        progress.complete(base, Delivered);
        assert_eq!(progress.base(), base + 1);
    }
}

#[test]
fn what_is_outside_the_window_cannot_be_completed() {
    let mut progress = new(100, 64);
    assert_eq!(progress.see(100), Seen::New);
    progress.complete(99, Delivered);
    progress.complete(164, Delivered);
    assert_eq!((progress.base(), progress.top(), progress.metadata().as_str()), (100, 100, ""));
    assert!(progress.is_complete(99) && !progress.is_complete(100) && !progress.is_complete(164));
}

#[test]
fn metadata_of_another_form_is_refused() {
    let too_wide = "A".repeat(2732);
    for bad in [
        "1",
        "1:!",
        "3:Cg",
        "Cg",
        "1:Cg==",
        "1:Cg:100d2",
        &format!("1:{too_wide}"),
        "2",
        "2:",
        "2:Cg",
        "2:Cg:",
        "2:Cg:d2",
        "2:Cg==:100d2",
        "2:!:100",
        &format!("2:{too_wide}:0"),
    ] {
        assert!(Progress::restore(0, bad, 64).is_err(), "{bad}");
    }
    for golden in ["1:Cg", "2:Cg:98d4", "2:Cg:98d4:of a later version"] {
        let golden = Progress::restore(100, golden, 64).unwrap();
        assert!(golden.is_complete(101) && golden.is_complete(103) && !golden.is_complete(102));
    }
}

#[test]
fn counting_begins_where_nothing_was_counted_before() {
    let before = Progress::restore(100, "1:Cg", 64).unwrap();
    assert_eq!((before.tally().start(), before.tally().of(Completion::Other), before.completed()), (100, 2, 2));
    assert!(before.is_balanced());
    assert_eq!(before.metadata(), "2:Cg:100o2");
    let empty = new(100, 64);
    assert_eq!((empty.tally(), empty.is_balanced(), empty.metadata().as_str()), (&Tally::new(100), true, ""));
}

#[test]
fn a_tally_that_does_not_fit_is_kept_and_told() {
    for (metadata, completed) in
        [("2:Cg:99d2", 3), ("2:Cg:101d2", 1), ("2::100d1", 0), ("2::9223372036854775807", 100 - i64::MAX)]
    {
        let mut progress = Progress::restore(100, metadata, 64).unwrap();
        assert_eq!((progress.completed(), progress.is_balanced()), (completed, false), "{metadata}");
        assert_eq!(progress.see(100), Seen::New);
        progress.complete(100, Delivered);
        assert!(!progress.is_balanced(), "nothing that follows mends {metadata}");
    }
}

#[test]
fn what_retention_took_is_lost_unless_it_was_complete() {
    // 10 is open, 11 and 13 are complete; the log begins at 13 now.
    let mut progress = Progress::restore(10, "2:Cg:10d2", 64).unwrap();
    assert_eq!(progress.expire(10), 0, "nothing is taken below the committed offset");
    assert_eq!(progress.expire(13), 2, "10 and 12");
    assert_eq!((progress.base(), progress.next(), progress.metadata().as_str()), (14, 13, "2::10d2x2"));
    assert_eq!((progress.see(13), progress.see(14)), (Seen::Before, Seen::New));
    assert!(progress.is_balanced());

    // Far above all that is complete.
    let mut progress = Progress::restore(10, "2:Cg:10d2", 64).unwrap();
    assert_eq!((progress.expire(1_000_000), progress.base(), progress.next()), (999_988, 1_000_000, 1_000_000));
    assert!(progress.is_balanced());
}

/// What can happen to a partition.
#[derive(Debug, Clone)]
enum Step {
    /// The next record is seen, after some offsets that hold none.
    See { gap: i64 },
    /// The log ends, after some offsets that hold none.
    Pass { markers: i64 },
    /// An open record ends; `again` completes it twice.
    Complete { which: usize, completion: Completion, again: bool },
    /// The next owner goes on from what was committed; retention may have taken something.
    Restart { taken: i64 },
    /// The same, and the commit was made by the version before.
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(Outcome::all().collect::<Vec<_>>());
    prop_oneof![
        4 => (0..3_i64).prop_map(|gap| Step::See { gap }),
        1 => (0..3_i64).prop_map(|markers| Step::Pass { markers }),
        4 => (0..200_usize, outcome, any::<bool>())
            .prop_map(|(which, outcome, again)| Step::Complete { which, completion: outcome.into(), again }),
        1 => prop_oneof![Just(0), 0..20_i64].prop_map(|taken| Step::Restart { taken }),
        1 => Just(Step::Upgrade),
    ]
}

/// What is true of a partition.
#[derive(Debug, Default)]
struct Truth {
    start: i64,
    done: BTreeMap<i64, Completion>,
    open: BTreeSet<i64>,
    next: i64,
}

impl Truth {
    fn lowest(&self) -> i64 {
        (0..).find(|offset| !self.done.contains_key(offset)).unwrap()
    }

    /// What is neither open nor complete below `end` becomes complete.
    fn fill(&mut self, end: i64, completion: Completion) {
        for offset in (self.lowest().min(self.next)..end).filter(|offset| !self.open.contains(offset)) {
            self.done.entry(offset).or_insert(completion);
        }
        self.next = self.next.max(end);
    }

    fn counted(&self, completion: Completion) -> u64 {
        self.done.range(self.start..).filter(|(_, how)| **how == completion).count() as u64
    }
}

proptest! {
    /// Against a map: any order of what can happen.
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..400)) {
        let mut progress = new(0, 128);
        let mut truth = Truth::default();
        for step in steps {
            match step {
                Step::See { gap } => {
                    let offset = truth.next + gap;
                    match progress.see(offset) {
                        Seen::New => {
                            prop_assert!(!truth.done.contains_key(&offset) && !truth.open.contains(&offset));
                            truth.open.insert(offset);
                            truth.fill(offset + 1, Completion::Marker);
                        }
                        Seen::Before => {
                            prop_assert!(truth.done.contains_key(&offset));
                            truth.fill(offset + 1, Completion::Marker);
                        }
                        Seen::TooFar => prop_assert!(offset >= progress.base() + 128),
                    }
                }
                Step::Pass { markers } => {
                    let end = truth.next + markers;
                    progress.pass(end);
                    if progress.next() == end {
                        truth.fill(end, Completion::Marker);
                    } else {
                        prop_assert!(end > progress.base() + 128);
                    }
                }
                Step::Complete { which, completion, again } => {
                    let at = which % truth.open.len().max(1);
                    if let Some(&offset) = truth.open.iter().nth(at) {
                        truth.open.remove(&offset);
                        truth.done.insert(offset, completion);
                        progress.complete(offset, completion);
                        if again {
                            progress.complete(offset, Completion::Other);
                        }
                    }
                }
                Step::Restart { taken } => {
                    let (base, metadata) = (progress.base(), progress.metadata());
                    prop_assert!(metadata.len() <= metadata_bytes_max(128));
                    progress = Progress::restore(base, &metadata, 128).unwrap();
                    truth.open.clear();
                    truth.next = base;
                    let lost = (base..base + taken).filter(|offset| !truth.done.contains_key(offset)).count();
                    prop_assert_eq!(progress.expire(base + taken), lost as u64);
                    truth.fill(base + taken, Completion::Expired);
                }
                Step::Upgrade => {
                    let (base, metadata) = (progress.base(), progress.metadata());
                    let bits = metadata.split(':').nth(1).unwrap_or_default();
                    progress = Progress::restore(base, &format!("1:{bits}"), 128).unwrap();
                    truth.open.clear();
                    (truth.start, truth.next) = (base, base);
                    truth.done.values_mut().for_each(|how| *how = Completion::Other);
                }
            }
            prop_assert_eq!(progress.base(), truth.lowest());
            for offset in 0..progress.base() + 128 {
                prop_assert_eq!(progress.is_complete(offset), truth.done.contains_key(&offset), "offset {}", offset);
            }
            prop_assert!(progress.is_balanced(), "{:?}", progress);
            prop_assert_eq!(progress.tally().start(), truth.start);
            for completion in Completion::all() {
                prop_assert_eq!(progress.tally().of(completion), truth.counted(completion), "{:?}", completion);
            }
        }
    }
}
