//! What the fault suite must know of a processor after `kill -9`: which dispatches it started, what the sinks answered,
//! and which commits were acknowledged; and places where a processor kills itself when the suite asks for it.
//!
//! Only a build with the feature `faults` keeps a journal. Without it every function here is empty, and nothing of this
//! is in the binary. The engine calls them at the moment itself, so that what the journal says is never ahead of the truth:
//! a dispatch is noted before it starts, a commit after it was acknowledged.

/// A place where a processor may kill itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(dead_code, reason = "nothing is killed in this build"))]
pub(crate) enum Point {
    /// A record was admitted.
    AfterAdmit,
    /// A dispatch is about to start.
    BeforeDispatch,
    /// The sink has answered; nobody was told.
    AfterSinkAnswer,
    /// Progress was looked at, and is about to be committed.
    BeforeCommit,
    /// A commit was acknowledged; nobody was told.
    AfterCommitBeforeAnswer,
    /// A record was acknowledged by a retry lane and is still open here.
    AfterParkAck,
    /// A record was acknowledged by `dead` and is still open here.
    AfterBuryAck,
    /// Partitions are about to leave.
    InRevoke,
    /// An index was built, and its partition is still closed.
    WhileOpening,
}

#[cfg(feature = "faults")]
mod kept;
#[cfg(feature = "faults")]
pub(crate) use kept::{answered, assigned, committed, pass, revoked, started};

#[cfg(not(feature = "faults"))]
mod nothing;
#[cfg(not(feature = "faults"))]
pub(crate) use nothing::{answered, assigned, committed, pass, revoked, started};
