//! What can happen.

use proptest::prelude::*;

use super::log::WINDOW_MS;

/// The partitions: of `events` and of each retry lane, by number.
pub(super) const PARTITIONS: usize = 2;
/// `events` and the lanes.
pub(super) const LANES: usize = 3;
/// The processors.
pub(super) const NODES: usize = 2;

/// One thing that happens. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A record comes into `events`, perhaps a repeat, perhaps under the previous key too.
    Append { partition: usize, event: u8, gap: i64, skew_ms: u64 },
    /// Time goes on.
    Wait(u64),
    /// The id key changes, or the previous one is forgotten when the window is over.
    Rotate,
    /// A partition that nobody owns goes to a processor.
    Assign { at: usize, node: usize },
    /// The owner reads.
    Read { at: usize, count: usize },
    /// The client hands the owner a record that it had before.
    Again { at: usize, back: usize },
    /// A run goes on or ends.
    Run { at: usize, which: usize, how: How },
    /// A processor sends a commit.
    Commit { node: usize },
    /// It is answered.
    Answer { node: usize, answer: Answer },
    /// A processor is killed; what of its cache is on disk has a hole.
    Crash { node: usize, hole: Option<usize>, stored: bool },
    /// A partition leaves its owner in order: what was sent ends, the last commit is answered.
    Revoke { at: usize, answer: Answer },
    /// A partition was lost: no wait, no commit.
    Lose { at: usize, effects: u8 },
    /// A processor is stopped for a session, loses all, and wakes.
    Stop { node: usize },
    /// A processor's cache is deleted.
    Wipe { node: usize },
}

/// How a run goes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// The sink has it and says so.
    Delivered,
    /// The sink has it, or the lane, or `dead`; the answer is under way.
    Unanswered,
    /// The sink fails, perhaps asks for time.
    Failed { asked_ms: Option<u64> },
    /// The sink has it, and the answer is lost.
    AnswerLost,
    /// The sink refuses it for good.
    Refused,
}

/// How a commit ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// Stored, and said so.
    Ok,
    /// Stored, and nobody heard.
    Lost,
    /// An error; some partitions were stored.
    Error { stored: u8 },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let at = || prop_oneof![2 => 0..PARTITIONS, 1 => PARTITIONS..PARTITIONS * LANES];
    let node = || 0..NODES;
    let wait = prop_oneof![
        6 => 1..200_u64,
        4 => 500..4000_u64,
        2 => Just(WINDOW_MS),
        2 => WINDOW_MS - 3000..WINDOW_MS,
        2 => WINDOW_MS + 1..2 * WINDOW_MS,
    ];
    prop_oneof![
        20 => (0..PARTITIONS, 0..8_u8, prop_oneof![9 => Just(0), 1 => 1..4_i64, 1 => Just(100)], prop_oneof![3 => Just(0), 1 => 0..500_u64])
            .prop_map(|(partition, event, gap, skew_ms)| Step::Append { partition, event, gap, skew_ms }),
        8 => wait.prop_map(Step::Wait),
        1 => Just(Step::Rotate),
        12 => (at(), node()).prop_map(|(at, node)| Step::Assign { at, node }),
        20 => (at(), 1..8_usize).prop_map(|(at, count)| Step::Read { at, count }),
        2 => (at(), 0..8_usize).prop_map(|(at, back)| Step::Again { at, back }),
        24 => (at(), 0..8_usize, how()).prop_map(|(at, which, how)| Step::Run { at, which, how }),
        7 => node().prop_map(|node| Step::Commit { node }),
        7 => (node(), answer()).prop_map(|(node, answer)| Step::Answer { node, answer }),
        3 => (node(), prop::option::of(0..8_usize), any::<bool>())
            .prop_map(|(node, hole, stored)| Step::Crash { node, hole, stored }),
        3 => (at(), answer()).prop_map(|(at, answer)| Step::Revoke { at, answer }),
        2 => (at(), any::<u8>()).prop_map(|(at, effects)| Step::Lose { at, effects }),
        1 => node().prop_map(|node| Step::Stop { node }),
        1 => node().prop_map(|node| Step::Wipe { node }),
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Delivered),
        2 => Just(How::Unanswered),
        4 => prop::option::weighted(0.4, prop_oneof![0..3000_u64, 3001..10_000_u64])
            .prop_map(|asked_ms| How::Failed { asked_ms }),
        1 => Just(How::AnswerLost),
        1 => Just(How::Refused),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![6 => Just(Answer::Ok), 1 => Just(Answer::Lost), 1 => any::<u8>().prop_map(|stored| Answer::Error { stored })]
}
