//! The controls: the processor with one rule broken, and the invariant that must notice.

use super::checker::Invariant;
use super::injections::Fault;
use super::recorder::Temper;
use super::session::Amount;
use super::suite::Setup;

/// A rule that is broken on purpose.
#[derive(Debug, Clone)]
pub struct Control {
    /// Its name in the processor: `SEALSTREAM_CONTROL`.
    pub name: &'static str,
    /// What is broken, in a sentence.
    pub what: &'static str,
    /// What must notice.
    pub invariant: Invariant,
    /// The fault that exposes it.
    pub fault: Fault,
    /// Where it is run.
    pub setup: Setup,
    /// How much.
    pub amount: Amount,
}

/// All of them.
pub fn all() -> Vec<Control> {
    let setup = Setup { partitions: 2, ..Setup::small("control") };
    // Some answers take long: then much is complete above the lowest open offset.
    let tail = Temper { tail: 30, tail_ms: 1200..=1800, ..setup.temper.clone() };
    let amount = Amount { rounds: 3, events: 1500, direct: 24, through_ingest: 0, ahead: 600, repeat_every: 10 };
    let control = |name, what, invariant, fault| Control { name, what, invariant, fault, setup: setup.clone(), amount };
    vec![
        control("no-dedup", "every record is delivered, whatever its id", Invariant::NotRecognised, Fault::Kill),
        Control {
            // One partition, so that batches of its index are on disk beyond its lowest open offset when it dies.
            setup: Setup { temper: tail.clone(), permits: 256, processors: 1, partitions: 1, ..setup.clone() },
            amount: Amount { rounds: 8, events: 4000, ..amount },
            ..control(
                "replay-is-repeat",
                "a record that the index knows counts as a repeat, though it is its id's owner",
                Invariant::Lost,
                Fault::Kill,
            )
        },
        control("complete-on-receive", "an offset completes when it is admitted", Invariant::Lost, Fault::Kill),
        control("commit-highest", "one past the highest completed offset is committed", Invariant::Lost, Fault::Kill),
        Control {
            setup: Setup { temper: tail, ..setup.clone() },
            ..control(
                "no-bitmap",
                "what is complete above the committed offset is not committed with it",
                Invariant::OverBound,
                Fault::Kill,
            )
        },
        Control {
            setup: Setup { commit_interval: "400ms", ..setup.clone() },
            ..control(
                "permit-freed-on-answer",
                "a permit is freed when the sink has answered",
                Invariant::OverBound,
                Fault::Kill,
            )
        },
        Control {
            setup: Setup { commit_interval: "400ms", ..setup.clone() },
            ..control(
                "no-final-commit",
                "partitions that leave are not committed a last time",
                Invariant::WithoutCrash,
                Fault::Rolling,
            )
        },
        Control {
            setup: Setup { concurrency: 4, permits: 128, ..setup.clone() },
            amount: Amount { rounds: 2, ..amount },
            ..control("no-lease", "sends start without a lease", Invariant::CommittedRepeated, Fault::Zombie)
        },
        Control {
            amount: Amount { repeat_every: 2, ..amount },
            ..control(
                "index-ahead",
                "the index claims to reach the committed offset when it does not",
                Invariant::NotRecognised,
                Fault::Kill,
            )
        },
        control("no-anchor", "the cache is believed even if it is of another log", Invariant::Lost, Fault::Recreate),
        control(
            "no-attempt-in-key",
            "a retry lane knows a record by its id alone, however often it was parked",
            Invariant::Lost,
            Fault::Kill,
        ),
    ]
}
