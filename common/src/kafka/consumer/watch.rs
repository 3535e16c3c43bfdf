//! The watchdog: ends the process when a call hangs that others wait for.
//!
//! A synchronous commit has no deadline of its own, a callback that hangs holds up the whole group, and a leave that hangs
//! keeps a process that was asked to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::CALL_DEADLINE;
use super::member::Shared;

/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(250);

/// A kind of call that may hang, of which one is under way at a time.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// When it was entered, in milliseconds of the monotonic clock and at least 1; 0 outside of it.
    entered_ms: AtomicU64,
}

impl Watched {
    /// It begins, and lasts until the answer is dropped.
    pub(super) fn enter(&self, now: Duration) -> impl Drop + use<'_> {
        self.entered_ms.store(milliseconds(now).max(1), Ordering::SeqCst);
        Under(self)
    }

    /// Whether it has been under way for longer than `deadline`.
    fn is_overdue(&self, now: Duration, deadline: Duration) -> bool {
        let entered = self.entered_ms.load(Ordering::SeqCst);
        entered != 0 && now.saturating_sub(Duration::from_millis(entered)) > deadline
    }
}

struct Under<'a>(&'a Watched);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.entered_ms.store(0, Ordering::SeqCst);
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(super) fn watch_loop(&self) {
        let callback = self.settings.callback_deadline;
        // The library keeps a commit for a session's length while it looks for the coordinator: an outage, not a hang.
        let commit = self.settings.session + 2 * CALL_DEADLINE;
        while !self.left.load(Ordering::SeqCst) {
            std::thread::park_timeout(LOOK);
            let now = self.clock.monotonic();
            for (watched, deadline, what) in [
                (&self.callback, callback, "a rebalance callback"),
                (&self.committing, commit, "a commit"),
                (&self.leaving, callback + commit, "leaving the group"),
            ] {
                if watched.is_overdue(now, deadline) {
                    self.die(format!("{what} is past its deadline of {deadline:?}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[test]
    fn a_call_is_overdue_once_its_deadline_has_passed_and_not_after_its_end() {
        let watched = Watched::default();
        let s = Duration::from_secs;
        assert!(!watched.is_overdue(s(100), DEADLINE), "nothing is under way");
        let under_way = watched.enter(s(0));
        assert!(!watched.is_overdue(s(5), DEADLINE));
        assert!(watched.is_overdue(s(6), DEADLINE), "also one that was entered at the clock's zero");
        drop(under_way);
        assert!(!watched.is_overdue(s(100), DEADLINE));
    }
}
