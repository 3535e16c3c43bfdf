//! When a failed attempt is repeated: exponential backoff with jitter, never sooner than the receiver asks.

use std::time::Duration;

/// When and how often an attempt is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts, the first included. 1 means that nothing is repeated.
    pub attempts_max: u32,
    /// Longest pause after the first attempt; it doubles with each.
    pub pause_first: Duration,
    /// Longest pause after any attempt.
    pub pause_max: Duration,
    /// Longest pause that a receiver may ask for with `Retry-After`; what is above is cut.
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    /// Eight attempts over about a minute at most, if the receiver asks for no more.
    fn default() -> Self {
        Self {
            attempts_max: 8,
            pause_first: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The pause after the given attempt (counted from 1). `jitter` is any number; its whole range takes the pause from
    /// half of its length to all of it, so that senders that failed together do not come back together. It is added to
    /// what the receiver asked for.
    pub(crate) fn pause(&self, attempt_count: u32, asked: Option<Duration>, jitter: u32) -> Duration {
        let doublings = attempt_count.saturating_sub(1).min(31);
        let longest = self.pause_first.saturating_mul(1 << doublings).min(self.pause_max);
        let backoff = longest / 2 + (longest / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX));
        match asked {
            Some(asked) => asked.min(self.retry_after_max) + backoff,
            None => backoff,
        }
    }
}

/// A random number. Without randomness the pauses are only less spread.
pub(crate) fn jitter() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts_max: 5,
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(1),
            retry_after_max: Duration::from_secs(10),
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let longest: Vec<_> = (1..7).map(|attempt| policy().pause(attempt, None, u32::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(policy().pause(u32::MAX, None, u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn jitter_takes_up_to_half() {
        assert_eq!(policy().pause(1, None, 0), Duration::from_millis(50));
        let middle = policy().pause(1, None, u32::MAX / 2);
        assert!((Duration::from_millis(74)..Duration::from_millis(76)).contains(&middle), "{middle:?}");
    }

    #[test]
    fn never_sooner_than_asked_but_within_the_cap() {
        let asked = |s| policy().pause(1, Some(Duration::from_secs(s)), 0);
        assert_eq!(asked(0), Duration::from_millis(50));
        assert_eq!(asked(10), Duration::from_millis(10_050));
        assert_eq!(asked(11), Duration::from_millis(10_050));
        assert_eq!(asked(u64::MAX), Duration::from_millis(10_050));
    }
}
