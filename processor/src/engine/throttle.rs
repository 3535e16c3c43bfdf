//! How fast the log is read to open partitions, all of a process taken together.

use std::time::Duration;

use common::clock::Clock;
use parking_lot::Mutex;

/// Reading may be ahead of its rate by this much.
const AHEAD: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    clock: Clock,
    per_second: u32,
    /// When what was taken so far is paid for, by the monotonic clock.
    paid: Mutex<Duration>,
}

impl Throttle {
    /// So many records in a second.
    pub fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second: per_second.max(1), paid: Mutex::default() }
    }

    /// Takes so many records, and answers how long to wait before more are read.
    pub fn take(&self, records: u32) -> Duration {
        let now = self.clock.monotonic();
        let mut paid = self.paid.lock();
        // What was not used is not saved up.
        *paid = (*paid).max(now.saturating_sub(AHEAD)) + Duration::from_secs(1) * records / self.per_second;
        paid.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_idle_time_is_not_saved_up() {
        let (clock, hand) = Clock::manual(0);
        let throttle = Throttle::new(clock, 1000);
        hand.advance(Duration::from_secs(3600));
        assert_eq!(throttle.take(100), Duration::ZERO);
        assert_eq!(throttle.take(100), Duration::from_millis(100));
        assert_eq!(throttle.take(100), Duration::from_millis(200), "whoever takes it");
        hand.advance(Duration::from_millis(250));
        assert_eq!(throttle.take(50), Duration::ZERO);
        assert_eq!(throttle.take(1), Duration::from_millis(1));
    }
}
