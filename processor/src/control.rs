//! Rules that the fault suite breaks on purpose, to show that it would notice: each has one `if` at its place.
//!
//! Only a build with the feature `controls` can break one, the one that `SEALSTREAM_CONTROL` names. Without the feature
//! [`is`] is a constant `false` and nothing of this is in the binary.

/// A rule to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "controls"), allow(dead_code, reason = "nothing can be broken in this build"))]
pub(crate) enum Control {
    /// Every record is delivered, whatever its id.
    NoDedup,
    /// A record that the index covers already counts as a repeat, even if it is its id's owner.
    ReplayIsRepeat,
    /// An offset completes when it is admitted.
    CompleteOnReceive,
    /// One past the highest completed offset is committed.
    CommitHighest,
    /// What is complete above the committed offset is not committed with it.
    NoBitmap,
    /// A permit is freed when the sink has answered.
    PermitFreedOnAnswer,
    /// Partitions that leave are not committed a last time.
    NoFinalCommit,
    /// Sends start without a lease.
    NoLease,
    /// The index claims to reach the committed offset when it does not.
    IndexAhead,
    /// The cache is believed even if it is of another log.
    NoAnchor,
    /// A retry lane knows a record by its id alone, however often it was parked.
    NoAttemptInKey,
}

/// Whether a rule is broken in this process.
#[cfg(not(feature = "controls"))]
pub(crate) const fn is(_: Control) -> bool {
    false
}

#[cfg(feature = "controls")]
pub(crate) use chosen::is;

#[cfg(feature = "controls")]
mod chosen {
    use std::sync::OnceLock;

    use super::Control;

    const ALL: [(&str, Control); 11] = [
        ("no-dedup", Control::NoDedup),
        ("replay-is-repeat", Control::ReplayIsRepeat),
        ("complete-on-receive", Control::CompleteOnReceive),
        ("commit-highest", Control::CommitHighest),
        ("no-bitmap", Control::NoBitmap),
        ("permit-freed-on-answer", Control::PermitFreedOnAnswer),
        ("no-final-commit", Control::NoFinalCommit),
        ("no-lease", Control::NoLease),
        ("index-ahead", Control::IndexAhead),
        ("no-anchor", Control::NoAnchor),
        ("no-attempt-in-key", Control::NoAttemptInKey),
    ];

    pub(crate) fn is(control: Control) -> bool {
        static CHOSEN: OnceLock<Option<Control>> = OnceLock::new();
        *CHOSEN.get_or_init(choose) == Some(control)
    }

    fn choose() -> Option<Control> {
        let name = std::env::var("SEALSTREAM_CONTROL").ok().filter(|name| !name.is_empty())?;
        let chosen = ALL.iter().find(|(known, _)| *known == name).map(|(_, control)| *control);
        assert!(chosen.is_some(), "SEALSTREAM_CONTROL names no rule: {name}");
        tracing::warn!(%name, "a rule is broken on purpose");
        chosen
    }
}
