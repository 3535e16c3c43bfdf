use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn new(base: i64, window: u32) -> Progress {
    Progress::restore(base, "", window).unwrap()
}

#[test]
fn base_waits_for_the_lowest_incomplete_offset() {
    let mut progress = new(100, 64);
    for offset in 100..104 {
        assert_eq!(progress.see(offset), Seen::New);
    }
    progress.complete(101);
    progress.complete(103);
    assert_eq!((progress.base(), progress.metadata().as_str()), (100, "1:Cg"));
    progress.complete(100);
    assert_eq!(progress.base(), 102);
    progress.complete(102);
    assert_eq!((progress.base(), progress.metadata().as_str()), (104, ""));
}

#[test]
fn the_window_holds_at_its_edge() {
    let mut progress = new(0, 64);
    for offset in 0..64 {
        assert_eq!(progress.see(offset), Seen::New);
    }
    assert_eq!((progress.room(), progress.see(64)), (0, Seen::TooFar));
    for offset in 1..64 {
        progress.complete(offset);
    }
    assert_eq!((progress.base(), progress.room()), (0, 0));
    progress.complete(0);
    assert_eq!((progress.base(), progress.room(), progress.see(64)), (64, 64, Seen::New));
}

#[test]
fn the_widest_bitmap_fits_the_metadata() {
    let mut progress = new(7, WINDOW_MAX);
    for offset in 7..7 + i64::from(WINDOW_MAX) {
        assert_eq!(progress.see(offset), Seen::New);
    }
    progress.complete(6 + i64::from(WINDOW_MAX));
    let metadata = progress.metadata();
    assert!(metadata.len() <= 4096, "{}", metadata.len());
    let restored = Progress::restore(7, &metadata, 64).unwrap();
    assert!(restored.is_complete(6 + i64::from(WINDOW_MAX)) && !restored.is_complete(7));
}

#[test]
fn base_may_run_ahead_of_the_first_unread_offset() {
    // 10 and 12 complete, 11 not; after the restart 11 completes and base passes 12, which is read again later.
    let mut progress = new(10, 64);
    (10..13).for_each(|offset| assert_eq!(progress.see(offset), Seen::New));
    progress.complete(12);
    progress.complete(10);
    let mut restarted = Progress::restore(progress.base(), &progress.metadata(), 64).unwrap();
    assert_eq!((restarted.base(), restarted.see(11)), (11, Seen::New));
    restarted.complete(11);
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
    progress.complete(1_000_005);
    assert_eq!(progress.base(), 1_000_000);
    progress.complete(1_000_000);
    assert_eq!((progress.base(), progress.see(2_000_000)), (1_000_006, Seen::New));
}

#[test]
fn markers_at_the_end_of_the_log_are_passed_over() {
    // Nothing is open: any number of them.
    let mut progress = new(10, 64);
    progress.pass(1_000_000);
    assert_eq!((progress.base(), progress.next(), progress.metadata().as_str()), (1_000_000, 1_000_000, ""));
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
    progress.complete(1_000_000);
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
        progress.complete(base);
        assert_eq!(progress.base(), base + 1);
    }
}

#[test]
fn what_is_outside_the_window_cannot_be_completed() {
    let mut progress = new(100, 64);
    assert_eq!(progress.see(100), Seen::New);
    progress.complete(99);
    progress.complete(164);
    assert_eq!((progress.base(), progress.top(), progress.metadata().as_str()), (100, 100, ""));
    assert!(progress.is_complete(99) && !progress.is_complete(100) && !progress.is_complete(164));
}

#[test]
fn metadata_of_another_form_is_refused() {
    for bad in ["1", "1:!", "2:Cg", "Cg", "1:Cg==", &format!("1:{}", "A".repeat(2732))] {
        assert!(Progress::restore(0, bad, 64).is_err(), "{bad}");
    }
    let golden = Progress::restore(100, "1:Cg", 64).unwrap();
    assert!(golden.is_complete(101) && golden.is_complete(103) && !golden.is_complete(102));
}

proptest! {
    /// Against a set: see, complete and restart in any order.
    #[test]
    fn agrees_with_a_set(steps in prop::collection::vec((0..3_u8, 0..200_i64), 1..400)) {
        let mut progress = new(0, 128);
        let mut done = BTreeSet::new();
        let mut open = BTreeSet::new();
        let mut next = 0;
        for (kind, number) in steps {
            match kind {
                0 => {
                    let offset = next + number % 3;
                    match progress.see(offset) {
                        Seen::New => {
                            prop_assert!(!done.contains(&offset) && !open.contains(&offset));
                            done.extend((next..offset).filter(|gap| !open.contains(gap)));
                            open.insert(offset);
                            next = offset + 1;
                        }
                        Seen::Before => {
                            prop_assert!(done.contains(&offset));
                            done.extend((next..offset).filter(|gap| !open.contains(gap)));
                            next = offset + 1;
                        }
                        Seen::TooFar => prop_assert!(offset >= progress.base() + 128),
                    }
                }
                1 => {
                    let at = usize::try_from(number).unwrap() % open.len().max(1);
                    if let Some(&offset) = open.iter().nth(at) {
                        open.remove(&offset);
                        done.insert(offset);
                        progress.complete(offset);
                    }
                }
                _ => {
                    let metadata = progress.metadata();
                    prop_assert!(metadata.len() <= 4096);
                    progress = Progress::restore(progress.base(), &metadata, 128).unwrap();
                    open.clear();
                    next = progress.base();
                }
            }
            let lowest = (0..).find(|offset| !done.contains(offset)).unwrap();
            prop_assert_eq!(progress.base(), lowest);
            for offset in 0..progress.base() + 128 {
                prop_assert_eq!(progress.is_complete(offset), done.contains(&offset), "offset {}", offset);
            }
        }
    }
}
