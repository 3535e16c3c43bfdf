//! The lease: a send starts only while this process surely still owns its partition.
//!
//! Only a commit that the broker acknowledged renews it, from the moment the commit was *sent*: the broker restarts a
//! member's session timer when it takes the commit, so nobody else owns its partitions before a session has passed. A
//! started send lasts at most the dispatch timeout, so the lease ends that much, and a margin, earlier. An acknowledged
//! commit does not outlive a rebalance that this process missed; hence the second condition, a recent poll. And a poll
//! thread that comes back after a gap makes its last poll look recent, so the gap ends the lease: only a commit that was
//! sent after it renews it.

use std::time::Duration;

/// How long ago the poll thread may have come round last.
pub const TICK_MAX: Duration = Duration::from_secs(5);

/// What is left of a session when everything that may still run is taken off.
pub const MARGIN: Duration = Duration::from_secs(5);

/// The lease of one consumer.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    term: Duration,
    ends: Option<Duration>,
    /// A commit sent before this renews nothing.
    from: Duration,
}

impl Lease {
    /// A lease that does not hold yet. `None` if the session leaves no time to send in.
    pub fn new(session: Duration, dispatch_timeout: Duration) -> Option<Self> {
        // Short sessions, as tests have them, get a margin in proportion.
        let margin = MARGIN.min(session / 9);
        let term = session.checked_sub(dispatch_timeout)?.checked_sub(margin)?;
        (!term.is_zero()).then_some(Self { term, ends: None, from: Duration::ZERO })
    }

    /// How long it holds after a commit was sent.
    pub fn term(&self) -> Duration {
        self.term
    }

    /// A commit sent at `sent` was acknowledged.
    pub fn renew(&mut self, sent: Duration) {
        if sent < self.from {
            return;
        }
        let ends = sent + self.term;
        self.ends = Some(self.ends.map_or(ends, |before| before.max(ends)));
    }

    /// The poll thread was away until `now` for longer than a rebalance may take.
    pub fn lapse(&mut self, now: Duration) {
        self.ends = None;
        self.from = now;
    }

    /// Whether a send may start at `now`, the poll thread having come round at `tick`.
    pub fn holds(&self, now: Duration, tick: Duration) -> bool {
        self.ends.is_some_and(|ends| now < ends) && now.saturating_sub(tick) < TICK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn holds_for_session_less_dispatch_less_margin_after_the_sending() {
        let mut lease = Lease::new(s(45), s(10)).unwrap();
        assert_eq!(lease.term(), s(30));
        assert!(!lease.holds(s(0), s(0)), "not before the first commit");
        lease.renew(s(100));
        assert!(lease.holds(s(130) - Duration::from_millis(1), s(129)));
        assert!(!lease.holds(s(130), s(129)));
        lease.renew(s(90));
        assert!(lease.holds(s(129), s(129)), "a late answer to an early commit takes nothing away");
    }

    #[test]
    fn needs_a_recent_poll() {
        let mut lease = Lease::new(s(45), s(10)).unwrap();
        lease.renew(s(100));
        assert!(lease.holds(s(105) - Duration::from_millis(1), s(100)));
        assert!(!lease.holds(s(105), s(100)));
    }

    #[test]
    fn after_a_gap_only_a_commit_sent_after_it_renews() {
        let mut lease = Lease::new(s(45), s(10)).unwrap();
        lease.renew(s(100));
        lease.lapse(s(110));
        assert!(!lease.holds(s(110), s(110)), "the poll is recent, and proves nothing");
        lease.renew(s(110) - Duration::from_millis(1));
        assert!(!lease.holds(s(110), s(110)), "answered after the gap, sent before it");
        lease.renew(s(110));
        assert!(lease.holds(s(110), s(110)));
    }

    #[test]
    fn a_session_too_short_to_send_in_is_refused() {
        assert!(Lease::new(s(10), s(10)).is_none());
        assert!(Lease::new(s(9), s(8)).is_none());
        assert!(Lease::new(s(9), s(7)).is_some());
    }
}
