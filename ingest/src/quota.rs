//! A budget as one number: the moment at which it will be whole again (the generic cell rate algorithm).
//!
//! Each request moves the moment on by one interval, and is refused when the moment lies further ahead than the burst
//! allows. A refusal costs nothing. A budget whose moment has passed says nothing, and may be forgotten.

use std::time::Duration;

/// How fast a budget comes back, and how much of it may be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    /// One request's share, in whole microseconds.
    interval: Duration,
    /// How far ahead the moment may lie for one more request to be admitted.
    allowance: Duration,
}

impl Quota {
    /// So many requests per `period`, of which `burst` may come at once; 0 for a period's worth. `None` for no limit.
    pub(crate) fn new(requests: u32, period: Duration, burst: u32) -> Option<Self> {
        if requests == 0 {
            return None;
        }
        let burst = if burst == 0 { requests } else { burst };
        // Rounded up: never more than configured.
        let interval_us = period.as_micros().div_ceil(u128::from(requests)).max(1);
        let interval = Duration::from_micros(u64::try_from(interval_us).unwrap_or(u64::MAX));
        Some(Self { interval, allowance: interval * (burst - 1) })
    }

    /// One request's share.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Takes one request from the budget that is whole at `whole_at`, or says how long it takes until there is one to take.
    pub(crate) fn take(&self, whole_at: &mut Duration, now: Duration) -> Result<(), Duration> {
        let from = (*whole_at).max(now);
        let ahead = from - now;
        if ahead > self.allowance {
            return Err(ahead - self.allowance);
        }
        *whole_at = from + self.interval;
        Ok(())
    }

    /// Gives back what one request took.
    pub(crate) fn give_back(&self, whole_at: &mut Duration) {
        *whole_at = whole_at.saturating_sub(self.interval);
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_spent(&self, whole_at: Duration, now: Duration) -> bool {
        whole_at.saturating_sub(now) > self.allowance
    }
}

/// A wait as `Retry-After` has it: rounded up, so that a sender that waits for so long finds its budget there.
pub(crate) fn retry_after_s(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(Quota::new(0, MINUTE, 5), None);
    }

    #[test]
    fn never_more_than_configured() {
        let quota = Quota::new(7, MINUTE, 0).unwrap();
        assert!(quota.interval() * 7 >= MINUTE && quota.interval() * 7 < MINUTE + Duration::from_micros(7));
        assert_eq!(Quota::new(u32::MAX, MINUTE, 1).unwrap().interval(), Duration::from_micros(1));
    }

    #[test]
    fn a_periods_worth_at_once_and_then_one_per_interval() {
        let quota = Quota::new(60, MINUTE, 0).unwrap();
        let mut whole_at = Duration::ZERO;
        for _ in 0..60 {
            assert!(!quota.is_spent(whole_at, START));
            assert_eq!(quota.take(&mut whole_at, START), Ok(()));
        }
        assert!(quota.is_spent(whole_at, START));
        assert_eq!(quota.take(&mut whole_at, START), Err(Duration::from_secs(1)));
        let almost = START + Duration::from_millis(999);
        assert_eq!(quota.take(&mut whole_at, almost), Err(Duration::from_millis(1)), "a refusal costs nothing");
        assert_eq!(quota.take(&mut whole_at, START + Duration::from_secs(1)), Ok(()));
        assert!(quota.take(&mut whole_at, START + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_only_that() {
        let quota = Quota::new(60, MINUTE, 2).unwrap();
        let mut whole_at = Duration::ZERO;
        quota.take(&mut whole_at, START).unwrap();
        quota.take(&mut whole_at, START).unwrap();
        quota.give_back(&mut whole_at);
        assert_eq!(quota.take(&mut whole_at, START), Ok(()));
        assert!(quota.take(&mut whole_at, START).is_err());
        let mut unused = Duration::ZERO;
        quota.give_back(&mut unused);
        assert_eq!(unused, Duration::ZERO);
    }

    #[test]
    fn a_wait_is_rounded_up() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| retry_after_s(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}
