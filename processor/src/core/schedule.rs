//! When a failed dispatch is tried again: which retry lane it waits in and until when, or that it is over.
//!
//! A lane is a topic with one constant delay. A wait that is longer than the longest lane, because a sink asked for it,
//! is made of several: the record carries when it is due, and waits again and again in the largest lane that fits the
//! rest. Such hops cost no attempt. No wait ever ends early: what is left below the shortest lane is rounded up to it, and
//! a lane fits that is longer by a tenth at most, or three hours in lanes of one would end in two dozen short hops.
//!
//! Waits are spread over a tenth of the lane's delay, so that what failed at one moment does not come back at one moment.
//! The spread is a constant of each partition ([`wait_ms`]): within a partition due times stay in the order of the log,
//! so waiting for the head still blocks nobody. A spread by event would either break that order or be waited for after
//! admission, and there a permit is held: 256 permits and 3 minutes of an hour's lane would leave it 1.4 events a second.

use std::time::Duration;

use common::topics::Delay;

/// The longest wait that a sink is granted.
pub const ASKED_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a lane's delay that its partitions are spread over.
const SPREAD_DIVISOR: u64 = 10;

/// The lanes, shortest first, and how often to try.
#[derive(Debug, Clone)]
pub struct Schedule {
    lanes: Vec<Delay>,
    attempts_max: u32,
}

/// Where a record waits, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Park {
    /// The lane.
    pub delay: Delay,
    /// When it is due, Unix milliseconds; `None` where the lane's delay is all.
    pub due_ms: Option<u64>,
}

/// What becomes of a failed dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Waits.
    Park(Park),
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

    /// What follows the `attempt`th failure (from 1): the lane of its turn, or as long as the sink asked if that is more.
    pub fn after(&self, attempt: u32, asked: Option<Duration>, now_ms: u64) -> Next {
        if attempt >= self.attempts_max {
            return Next::Exhausted;
        }
        let last = self.lanes.len() - 1;
        let turn = usize::try_from(attempt.saturating_sub(1)).unwrap_or(last).min(last);
        Next::Park(self.park(self.lanes[turn], asked, now_ms))
    }

    /// What follows a failure that says nothing about the event: the first lane, or as long as the sink asked.
    pub fn again(&self, asked: Option<Duration>, now_ms: u64) -> Park {
        self.park(self.lanes[0], asked, now_ms)
    }

    /// Where a record that has come to the end of its lane waits on; `None` once it is due.
    pub fn rest(&self, due_ms: Option<u64>, now_ms: u64) -> Option<Park> {
        due_ms.filter(|due_ms| *due_ms > now_ms).map(|due_ms| self.until(due_ms, now_ms))
    }

    fn park(&self, turn: Delay, asked: Option<Duration>, now_ms: u64) -> Park {
        let asked = asked.map_or(Duration::ZERO, |asked| asked.min(ASKED_MAX));
        if asked <= turn.duration() {
            return Park { delay: turn, due_ms: None };
        }
        self.until(now_ms.saturating_add(ms(asked)), now_ms)
    }

    /// The largest lane that ends about `due_ms`, or the shortest.
    fn until(&self, due_ms: u64, now_ms: u64) -> Park {
        let rest = due_ms.saturating_sub(now_ms);
        let longest = rest.saturating_add(rest / SPREAD_DIVISOR);
        let fits = self.lanes.iter().rev().find(|lane| lane.as_ms() <= longest);
        let delay = *fits.unwrap_or(&self.lanes[0]);
        Park { delay, due_ms: (delay.as_ms() < rest).then_some(due_ms) }
    }
}

/// How long a record of this partition waits in a lane.
pub fn wait_ms(delay_ms: u64, partition: i32, partitions: u32) -> u64 {
    let part = u64::try_from(partition).unwrap_or(0).min(partitions.into());
    delay_ms + delay_ms * part / SPREAD_DIVISOR / u64::from(partitions.max(1))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn delay(text: &str) -> Delay {
        text.parse().unwrap()
    }

    fn schedule() -> Schedule {
        Schedule::new(["10s", "1m", "10m", "1h"].map(delay).to_vec(), 6).unwrap()
    }

    fn lane(text: &str) -> Park {
        Park { delay: delay(text), due_ms: None }
    }

    fn lane_until(text: &str, seconds: u64) -> Park {
        Park { delay: delay(text), due_ms: Some(NOW_MS + seconds * 1000) }
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn each_failure_waits_longer_until_the_attempts_are_used_up() {
        let lanes = ["10s", "1m", "10m", "1h", "1h"];
        for (attempt, text) in (1..).zip(lanes) {
            assert_eq!(schedule().after(attempt, None, NOW_MS), Next::Park(lane(text)), "{attempt}");
        }
        assert_eq!(schedule().after(6, None, NOW_MS), Next::Exhausted);
        assert_eq!(schedule().after(7, seconds(0), NOW_MS), Next::Exhausted);
    }

    #[test]
    fn a_sink_that_asks_for_time_gets_it() {
        let cases = [
            (0, lane("10s")),
            (10, lane("10s")),
            (11, lane_until("10s", 11)),
            (54, lane_until("10s", 54)),
            (55, lane("1m")),
            (60, lane("1m")),
            (61, lane_until("1m", 61)),
            (600, lane("10m")),
            (3600, lane("1h")),
            (3 * 3600, lane_until("1h", 3 * 3600)),
            (86_400, lane_until("1h", 86_400)),
            (86_401, lane_until("1h", 86_400)),
            (u64::MAX, lane_until("1h", 86_400)),
        ];
        for (asked, park) in cases {
            assert_eq!(schedule().after(1, seconds(asked), NOW_MS), Next::Park(park), "{asked}");
            assert_eq!(schedule().again(seconds(asked), NOW_MS), park, "{asked}");
        }
        assert_eq!(schedule().after(3, seconds(5), NOW_MS), Next::Park(lane("10m")), "never less than its turn");
        assert_eq!(schedule().after(3, seconds(900), NOW_MS), Next::Park(lane_until("10m", 900)));
        assert_eq!(schedule().again(None, NOW_MS), lane("10s"));
    }

    #[test]
    fn a_record_hops_down_until_it_is_due_and_is_never_early() {
        assert_eq!(schedule().rest(None, NOW_MS), None);
        assert_eq!(schedule().rest(Some(NOW_MS), NOW_MS), None, "due to the millisecond");
        assert_eq!(schedule().rest(Some(NOW_MS + 1), NOW_MS), Some(lane("10s")), "rounded up to the shortest lane");
        assert_eq!(schedule().rest(Some(NOW_MS + 9_999), NOW_MS), Some(lane("10s")));
        assert_eq!(schedule().rest(Some(NOW_MS + 10_000), NOW_MS), Some(lane("10s")));
        assert_eq!(schedule().rest(Some(NOW_MS + 3_590_000), NOW_MS), Some(lane("1h")), "a little longer fits");
        assert_eq!(schedule().rest(Some(NOW_MS + 10_001), NOW_MS).unwrap().delay, delay("10s"));

        let asked = [1, 9, 11, 59, 61, 599, 601, 3599, 3661, 7322, 10_800, 50_000, 86_399, 86_400, 100_000];
        for (asked_s, partition) in asked.into_iter().flat_map(|asked_s| [(asked_s, 0), (asked_s, 63)]) {
            let mut now_ms = NOW_MS;
            let mut hops = Vec::new();
            let mut park = Some(schedule().again(seconds(asked_s), now_ms));
            while let Some(Park { delay, due_ms }) = park {
                hops.push(delay);
                // Each lane ends a little late, and in the last partition by a tenth of its delay more.
                now_ms += wait_ms(delay.as_ms(), partition, 64) + 7;
                park = schedule().rest(due_ms, now_ms);
            }
            let waited_ms = now_ms - NOW_MS;
            let granted_ms = asked_s.min(86_400) * 1000;
            assert!(waited_ms >= granted_ms, "{asked_s}: dispatched after {waited_ms} ms");
            assert!(waited_ms <= granted_ms * 5 / 4 + 12_000, "{asked_s}: dispatched after {waited_ms} ms");
            assert!(hops.len() <= 40, "{asked_s}: {hops:?}");
            if (asked_s, partition) == (3 * 3600, 0) {
                assert_eq!(hops.len(), 3, "{hops:?}");
            }
        }
    }

    #[test]
    fn a_lane_is_spread_over_its_partitions_and_by_a_tenth_at_most() {
        assert_eq!(wait_ms(10_000, 0, 64), 10_000);
        assert_eq!(wait_ms(10_000, 32, 64), 10_500);
        assert_eq!(wait_ms(10_000, 63, 64), 10_984);
        assert_eq!(wait_ms(0, 63, 64), 0);
        assert_eq!(wait_ms(10_000, 0, 1), 10_000);
        // Due times of a partition are in the order of the log: its wait is one number.
        let waits: Vec<u64> = (0..64).map(|partition| wait_ms(3_600_000, partition, 64)).collect();
        assert!(waits.windows(2).all(|pair| pair[1] - pair[0] == 5_625), "evenly: {waits:?}");
    }

    #[test]
    fn lanes_must_grow() {
        assert!(Schedule::new(vec![], 1).is_none());
        assert!(Schedule::new(vec![delay("1m"), delay("10s")], 1).is_none());
        assert!(Schedule::new(vec![delay("1m"), delay("60s")], 1).is_none());
        assert!(Schedule::new(vec![delay("1m")], 0).is_none());
    }
}
