//! When a failed dispatch is tried again: which retry lane it waits in, or that it is over.

use std::time::Duration;

use common::topics::Delay;

/// The lanes, shortest first, and how often to try.
#[derive(Debug, Clone)]
pub struct Schedule {
    lanes: Vec<Delay>,
    attempts_max: u32,
}

/// What becomes of a failed dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Waits in this lane.
    Park {
        /// Its delay.
        delay: Delay,
    },
    /// No attempts are left.
    Exhausted,
}

impl Schedule {
    /// `None` unless there is a lane, and each is longer than the one before.
    pub fn new(lanes: Vec<Delay>, attempts_max: u32) -> Option<Self> {
        let ordered = lanes.windows(2).all(|pair| pair[0] < pair[1]);
        (ordered && !lanes.is_empty() && attempts_max > 0).then_some(Self { lanes, attempts_max })
    }

    /// The lanes.
    pub fn lanes(&self) -> &[Delay] {
        &self.lanes
    }

    /// What follows the `attempt`th failure (from 1). A sink that asks for more time gets the shortest lane that gives it,
    /// or the longest.
    pub fn after(&self, attempt: u32, asked: Option<Duration>) -> Next {
        if attempt >= self.attempts_max {
            return Next::Exhausted;
        }
        let last = self.lanes.len() - 1;
        let by_attempt = usize::try_from(attempt.saturating_sub(1)).unwrap_or(last).min(last);
        let by_request =
            asked.map_or(0, |asked| self.lanes.iter().position(|lane| lane.duration() >= asked).unwrap_or(last));
        Next::Park { delay: self.lanes[by_attempt.max(by_request)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(text: &str) -> Delay {
        text.parse().unwrap()
    }

    fn schedule() -> Schedule {
        Schedule::new(["10s", "1m", "10m", "1h"].map(delay).to_vec(), 6).unwrap()
    }

    #[test]
    fn each_failure_waits_longer_until_the_attempts_are_used_up() {
        let lanes = ["10s", "1m", "10m", "1h", "1h"];
        for (attempt, lane) in (1..).zip(lanes) {
            assert_eq!(schedule().after(attempt, None), Next::Park { delay: delay(lane) }, "{attempt}");
        }
        assert_eq!(schedule().after(6, None), Next::Exhausted);
        assert_eq!(schedule().after(7, Some(Duration::ZERO)), Next::Exhausted);
    }

    #[test]
    fn a_sink_that_asks_for_time_gets_it() {
        for (asked, lane) in [(5, "10s"), (10, "10s"), (11, "1m"), (600, "10m"), (601, "1h"), (86_400, "1h")] {
            assert_eq!(
                schedule().after(1, Some(Duration::from_secs(asked))),
                Next::Park { delay: delay(lane) },
                "{asked}"
            );
        }
        assert_eq!(
            schedule().after(3, Some(Duration::from_secs(5))),
            Next::Park { delay: delay("10m") },
            "never less than its turn"
        );
    }

    #[test]
    fn lanes_must_grow() {
        assert!(Schedule::new(vec![], 1).is_none());
        assert!(Schedule::new(vec![delay("1m"), delay("10s")], 1).is_none());
        assert!(Schedule::new(vec![delay("1m"), delay("60s")], 1).is_none());
        assert!(Schedule::new(vec![delay("1m")], 0).is_none());
    }
}
