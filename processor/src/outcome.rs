//! How a record ends: in exactly one of these, and each is counted once.

use common::record::Reason;

/// A record's end in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Copied to its place in `events`.
    Routed,
    /// The sink has it.
    Delivered,
    /// A repeat of a record that was or is being delivered.
    Repeat,
    /// Waits in a retry lane.
    Parked,
    /// Lies in `dead`.
    Dead(Reason),
    /// Not for this sink.
    Passed,
}

impl Outcome {
    /// How many different ends there are, reasons told apart.
    pub(crate) const KINDS: usize = 5 + Reason::ALL.len();

    /// Each of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let simple = [Self::Routed, Self::Delivered, Self::Repeat, Self::Parked, Self::Passed];
        simple.into_iter().chain(Reason::ALL.iter().map(|reason| Self::Dead(*reason)))
    }

    /// Its number among them.
    pub(crate) fn kind(self) -> usize {
        match self {
            Self::Routed => 0,
            Self::Delivered => 1,
            Self::Repeat => 2,
            Self::Parked => 3,
            Self::Passed => 4,
            Self::Dead(reason) => 5 + reason as usize,
        }
    }

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Delivered => "delivered",
            Self::Repeat => "repeat",
            Self::Parked => "parked",
            Self::Dead(_) => "dead",
            Self::Passed => "passed",
        }
    }

    /// Why it is dead, in metrics; empty for all others.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Dead(reason) => reason.as_str(),
            Self::Routed | Self::Delivered | Self::Repeat | Self::Parked | Self::Passed => "",
        }
    }
}
