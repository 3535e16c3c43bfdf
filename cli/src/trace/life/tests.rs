use common::id::KeyedId;
use common::record::{Failure, Head, Identity, LetterId, Retry};
use processor::core::progress::Progress;

use super::super::search::tests::found;
use super::super::search::{FoundLetter, FoundMarker};
use super::*;
use crate::dlq::tests::{config, failure, head};

const T: u64 = 1_700_000_000_000;

/// A copy in `events`.
fn copy(offset: i64, time_ms: u64) -> Found {
    let identity = Some(Identity { id: KeyedId([7; 16]), previous: None });
    found(Topic::Events, offset, time_ms, Head { identity, ..head(None) })
}

fn lane() -> Topic {
    Topic::Retry { sink: "main".parse().unwrap(), delay: "10s".parse().unwrap() }
}

/// What was parked of the copy with this time.
fn parked_head(first_seen_ms: u64, attempt: u32) -> Head {
    let retry = head(Some("main")).retry.map(|retry| Retry { first_seen_ms, attempt, ..retry });
    Head { retry, ..head(Some("main")) }
}

fn group(topic: Topic, base: i64) -> GroupAt {
    let progress = Some(Progress::restore(base, "", 64).unwrap());
    GroupAt { topic, sink: "main".parse().unwrap(), partition: 3, progress }
}

/// What was found of one copy, and how far the groups have come.
fn finds(copies: Vec<Found>, events: i64, lane_base: i64) -> Finds {
    Finds { copies, groups: vec![group(Topic::Events, events), group(lane(), lane_base)], ..Finds::default() }
}

fn letter(first_seen_ms: u64, time_ms: u64, failure: Failure) -> FoundLetter {
    let head = parked_head(first_seen_ms, 3);
    let id = LetterId::of(Some(&head), &failure, b"body");
    FoundLetter { time_ms, place: LetterPlace { partition: 3, offset: 17 }, head, failure, id }
}

fn outcomes(finds: Finds) -> Vec<(i64, u32, Outcome)> {
    let life = Life::of(finds, &config()).unwrap();
    life.sinks.iter().map(|fate| (fate.offset, fate.attempts, fate.outcome)).collect()
}

fn names(finds: Finds) -> Vec<&'static str> {
    Life::of(finds, &config()).unwrap().steps.iter().map(|step| step.what.as_str()).collect()
}

#[test]
fn of_nothing_there_is_no_life() {
    assert!(Life::of(Finds::default(), &config()).is_none());
}

#[test]
fn what_is_complete_and_was_handed_on_nowhere_was_delivered() {
    assert_eq!(outcomes(finds(vec![copy(5, T)], 6, 0)), [(5, 1, Outcome::Delivered)]);
    assert_eq!(outcomes(finds(vec![copy(5, T)], 5, 0)), [(5, 0, Outcome::Open)]);
    let unread = Finds { groups: Vec::new(), ..finds(vec![copy(5, T)], 6, 0) };
    assert_eq!(outcomes(unread), [(5, 0, Outcome::Unknown)]);
}

#[test]
fn a_copy_within_the_window_is_a_repeat_and_one_after_it_is_another_event() {
    let window = u64::try_from(config().dedup.window.as_millis()).unwrap();
    let copies = vec![copy(5, T), copy(6, T + window), copy(9, T + 2 * window + 1)];
    let life = Life::of(finds(copies, 10, 0), &config()).unwrap();
    let whats: Vec<&What> = life.steps.iter().map(|step| &step.what).collect();
    assert_eq!(whats, [&What::Copied, &What::Repeat { of: 5 }, &What::Copied]);
    let delivered: Vec<_> = life.sinks.iter().map(|fate| fate.offset).collect();
    assert_eq!(delivered, [5, 9], "a repeat has no fate of its own");
}

#[test]
fn a_parked_copy_waits_until_its_lane_is_complete() {
    let of = |lane_base, attempt| {
        let parked = vec![found(lane(), 2, T + 100, parked_head(T, attempt))];
        Finds { parked, ..finds(vec![copy(5, T)], 6, lane_base) }
    };
    let wait = wait_ms(10_000, 3, 8);
    assert_eq!(outcomes(of(2, 1)), [(5, 1, Outcome::Waiting { until_ms: T + 100 + wait })]);
    assert_eq!(outcomes(of(3, 1)), [(5, 2, Outcome::Delivered)]);
    assert_eq!(names(of(3, 1)), ["copied", "parked"]);
    // What another copy of the id left there is not this one's.
    let other =
        Finds { parked: vec![found(lane(), 2, T + 100, parked_head(T + 1, 1))], ..finds(vec![copy(5, T)], 6, 0) };
    assert_eq!(outcomes(other), [(5, 1, Outcome::Delivered)]);
}

#[test]
fn a_letter_is_the_end_unless_it_was_redriven() {
    let exhausted = || letter(T, T + 200, failure(Reason::Exhausted, "retry.main.10s"));
    let parked = || found(lane(), 2, T + 100, parked_head(T, 1));
    let dead = Finds { letters: vec![exhausted()], parked: vec![parked()], ..finds(vec![copy(5, T)], 6, 3) };
    assert_eq!(outcomes(dead), [(5, 3, Outcome::Dead { reason: Reason::Exhausted })]);
    let redriven = |lane_base| {
        let again = found(lane(), 9, T + 300, parked_head(T, 0));
        let marker = FoundMarker {
            time_ms: T + 300,
            place: LetterPlace { partition: 3, offset: 18 },
            letter: LetterPlace { partition: 3, offset: 17 },
        };
        let finds = finds(vec![copy(5, T)], 6, lane_base);
        Finds { letters: vec![exhausted()], parked: vec![parked(), again], markers: vec![marker], ..finds }
    };
    assert_eq!(outcomes(redriven(10)), [(5, 1, Outcome::Delivered)]);
    assert!(matches!(outcomes(redriven(9))[..], [(5, 0, Outcome::Waiting { .. })]));
    assert_eq!(names(redriven(10)), ["copied", "parked", "dead", "parked", "redriven"]);
}
