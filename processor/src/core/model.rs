//! The model test: the core's real parts, wired as the engine wires them, on logs in memory, under every interleaving.
//!
//! [`Partition`](super::partition), [`Progress`](super::progress), [`Index`](super::index), [`Lease`](super::lease) and
//! [`Schedule`](super::schedule) are the product's, and so is the retry key. Logs, brokers, sink and two processors are
//! simple models. Steps of every kind are drawn at random and shrunk on failure; after them all is drained.
//!
//! What holds, always:
//! * The verdict on a record is a function of its log alone, whatever crashed, moved or was wiped.
//! * Each record that is to be delivered ends at least once: at the sink, in a retry lane, or in `dead`; a repeat never.
//! * What is complete in a stored commit never has another effect. A crash can repeat at most the permits held.
//! * What is committed says exactly what is complete, and how each offset became so, in 4096 bytes; permits come back.
//! * A process that was stopped for a session starts no send.
//!
//! Each [`Broken`] rule is a control: the same machine with one wire crossed, and it must be caught.
//!
//! `PROPTEST_CASES=1000000 cargo test -p processor --lib core::model` runs longer.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

mod log;
mod node;
mod steps;
mod world;

use log::WINDOW_MS;
use steps::{Answer, How, Step, step};
use world::World;

/// Cases in CI.
const CASES: u32 = 10_000;

/// A rule that a control breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// None.
    Nothing,
    /// A replay of an id's owner counts as a repeat.
    OwnerComparison,
    /// A record is complete when it is received.
    CompleteAtEffect,
    /// What is committed is one past the highest complete offset.
    CommitLowest,
    /// No bitmap goes with a commit.
    Bitmap,
    /// A permit is free at completion.
    PermitUntilCommit,
    /// The retry key has no hop.
    HopInKey,
    /// A record below the base is delivered.
    SkipBelowBase,
    /// The lease runs from the answer to a commit.
    LeaseFromSending,
    /// An index that runs ahead of the committed offset by more than the window is used.
    IndexNotAhead,
    /// Where the committed offset has no record, the window is taken from now and not from the next record.
    WindowFromNextRecord,
    /// A record is counted when it is handed over.
    CountAtCompletion,
    /// A record that was complete before a restart is counted again when it is read again.
    CountOnce,
    /// What is stored with a commit are the counts of when it is answered.
    CountWithSnapshot,
}

impl Broken {
    /// Whether what is committed still says what is complete.
    fn keeps_commits(self) -> bool {
        !matches!(self, Self::CommitLowest | Self::Bitmap)
    }
}

fn run(steps: &[Step], broken: Broken) -> Result<(), String> {
    let mut world = World::new(broken);
    for step in steps {
        world.step(step)?;
    }
    world.drain()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..100)
}

#[test]
fn every_interleaving_keeps_the_promise() {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let result =
        TestRunner::new(config).run(&steps(), |steps| run(&steps, Broken::Nothing).map_err(TestCaseError::fail));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What the machine found: the second's park was taken for a repeat of the first's, which was younger than its event.
#[test]
fn an_event_that_comes_again_after_the_window_is_parked_anew() {
    let comes = Step::Append { partition: 0, event: 0, gap: 0, skew_ms: 0 };
    let renew = [Step::Commit { node: 0 }, Step::Answer { node: 0, answer: Answer::Ok }];
    let read = Step::Read { at: 0, count: 1 };
    let fails = Step::Run { at: 0, which: 0, how: How::Failed { asked_ms: None } };
    let mut steps = vec![comes.clone(), Step::Assign { at: 0, node: 0 }];
    steps.extend(renew.clone());
    steps.extend([read.clone(), Step::Wait(100), fails.clone(), Step::Wait(WINDOW_MS), comes]);
    steps.extend(renew);
    steps.extend([read, fails]);
    assert_eq!(run(&steps, Broken::Nothing), Ok(()));
}

/// Runs the machine with a broken rule: a case must be found in which this goes wrong.
fn caught(broken: Broken, wrong: &str) {
    let config = Config { cases: 20_000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result =
        TestRunner::new_with_rng(config, rng).run(&steps(), |steps| run(&steps, broken).map_err(TestCaseError::fail));
    match result {
        Err(TestError::Fail(why, _)) => assert!(why.message().starts_with(wrong), "{why}, and not {wrong:?}"),
        Err(TestError::Abort(why)) => panic!("the run was given up: {why}"),
        Ok(()) => panic!("{broken:?} was not caught"),
    }
}

#[test]
fn caught_without_owner_comparison() {
    caught(Broken::OwnerComparison, "lost");
}

#[test]
fn caught_complete_on_receive() {
    caught(Broken::CompleteAtEffect, "lost");
}

#[test]
fn caught_commit_of_the_highest() {
    caught(Broken::CommitLowest, "lost");
}

#[test]
fn caught_without_bitmap() {
    caught(Broken::Bitmap, "committed yet repeated");
}

#[test]
fn caught_permit_freed_on_completion() {
    caught(Broken::PermitUntilCommit, "more repeats than permits");
}

#[test]
fn caught_without_hop_in_the_retry_key() {
    caught(Broken::HopInKey, "the verdict");
}

#[test]
fn caught_delivery_below_base() {
    caught(Broken::SkipBelowBase, "committed yet repeated");
}

#[test]
fn caught_lease_from_the_answer() {
    caught(Broken::LeaseFromSending, "a send after the session");
}

#[test]
fn caught_index_far_ahead() {
    caught(Broken::IndexNotAhead, "the verdict");
}

#[test]
fn caught_window_from_now_at_a_gap() {
    caught(Broken::WindowFromNextRecord, "the verdict");
}

#[test]
fn caught_counting_at_dispatch() {
    caught(Broken::CountAtCompletion, "the counts");
}

#[test]
fn caught_counting_a_replay_again() {
    caught(Broken::CountOnce, "the counts");
}

#[test]
fn caught_counts_that_are_not_the_snapshots() {
    caught(Broken::CountWithSnapshot, "the counts");
}
