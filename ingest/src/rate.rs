//! Requests per network and path, in memory: one number per entry, in a table of bounded size.
//!
//! The number is the moment at which the budget will be whole again (the generic cell rate algorithm): each request moves
//! it on by one interval, and a request is refused when it lies further ahead than the burst allows. An entry whose
//! moment has passed says nothing and may be forgotten; no other entry ever is, so that nobody gets a fresh budget by
//! filling the table. While it is full, networks that are not in it share one budget.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config;
use crate::network::Network;

/// Parts of the table, each with its own lock.
const SHARD_COUNT: usize = 16;
/// How often a full part is searched for entries to forget: a search looks at each.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Who is counted, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    network: Network,
    route: u32,
}

/// The limiter.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// One request's share of a minute.
    interval: Duration,
    /// How far ahead the moment may lie for one more request to be admitted.
    allowance: Duration,
    shard_entries_max: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    /// When each budget will be whole again.
    whole_at: HashMap<Key, Duration>,
    /// The budget of those that found no room.
    shared_whole_at: Duration,
    swept_at: Option<Duration>,
}

impl RateLimiter {
    /// A limiter as configured; `None` when it is off.
    pub(crate) fn new(config: &config::Rate) -> Option<Self> {
        let per_minute = config.requests_per_minute;
        if per_minute == 0 {
            return None;
        }
        let burst = if config.burst == 0 { per_minute } else { config.burst };
        let interval = Duration::from_secs(60) / per_minute;
        Some(Self {
            interval,
            allowance: interval * (burst - 1),
            shard_entries_max: config.addresses_max.div_ceil(SHARD_COUNT),
            hasher: RandomState::new(),
            shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(),
        })
    }

    /// Takes one request from a budget, or says how long it takes until there is one to take.
    pub(crate) fn take(&self, network: Network, route: u32, now: Duration) -> Result<(), Duration> {
        let key = Key { network, route };
        // The table's own hasher has another key, so that entries of one part still spread in it.
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[hash as usize % SHARD_COUNT].lock();
        let known = shard.whole_at.contains_key(&key);
        if !known && !shard.has_room(self.shard_entries_max, now) {
            return self.take_from(&mut shard.shared_whole_at, now);
        }
        let whole_at = shard.whole_at.entry(key).or_insert(now);
        self.take_from(whole_at, now)
    }

    fn take_from(&self, whole_at: &mut Duration, now: Duration) -> Result<(), Duration> {
        let from = (*whole_at).max(now);
        let ahead = from - now;
        if ahead > self.allowance {
            return Err(ahead - self.allowance);
        }
        *whole_at = from + self.interval;
        Ok(())
    }
}

impl Shard {
    /// Whether one more entry fits, after forgetting those that say nothing.
    fn has_room(&mut self, entries_max: usize, now: Duration) -> bool {
        if self.whole_at.len() < entries_max {
            return true;
        }
        if self.swept_at.is_some_and(|swept_at| now < swept_at + SWEEP_INTERVAL) {
            return false;
        }
        self.swept_at = Some(now);
        self.whole_at.retain(|_, whole_at| *whole_at > now);
        self.whole_at.len() < entries_max
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn limiter(requests_per_minute: u32, burst: u32, addresses_max: usize) -> RateLimiter {
        RateLimiter::new(&config::Rate { requests_per_minute, burst, addresses_max }).unwrap()
    }

    fn network(number: u32) -> Network {
        IpAddr::V4(Ipv4Addr::from_bits(number)).into()
    }

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn zero_is_off() {
        assert!(RateLimiter::new(&config::Rate { requests_per_minute: 0, burst: 5, addresses_max: 1024 }).is_none());
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_one_per_interval() {
        let limiter = limiter(60, 0, 1024);
        for _ in 0..60 {
            assert_eq!(limiter.take(network(1), 0, START), Ok(()));
        }
        assert_eq!(limiter.take(network(1), 0, START), Err(Duration::from_secs(1)));
        let almost = START + Duration::from_millis(999);
        assert_eq!(limiter.take(network(1), 0, almost), Err(Duration::from_millis(1)));
        let later = START + Duration::from_secs(1);
        assert_eq!(limiter.take(network(1), 0, later), Ok(()));
        assert!(limiter.take(network(1), 0, later).is_err());
        assert_eq!(limiter.take(network(1), 0, START + Duration::from_secs(500)), Ok(()));
    }

    #[test]
    fn a_refusal_costs_nothing_and_budgets_are_per_network_and_path() {
        let limiter = limiter(60, 1, 1024);
        assert_eq!(limiter.take(network(1), 0, START), Ok(()));
        for _ in 0..100 {
            assert_eq!(limiter.take(network(1), 0, START), Err(Duration::from_secs(1)));
        }
        assert_eq!(limiter.take(network(1), 1, START), Ok(()));
        assert_eq!(limiter.take(network(2), 0, START), Ok(()));
        assert_eq!(limiter.take(network(1), 0, START + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_full_table_forgets_only_whole_budgets_and_the_rest_share_one() {
        let limiter = limiter(60, 1, 1024);
        let entries = || limiter.shards.iter().map(|shard| shard.lock().whole_at.len()).sum::<usize>();
        for number in 0..100_000 {
            let _taken = limiter.take(network(number), 0, START);
        }
        assert_eq!(entries(), 1024, "bounded");
        let spent = network(0);
        assert!(limiter.take(spent, 0, START).is_err(), "a spent budget is still spent");
        let admitted = (200_000..300_000).filter(|n| limiter.take(network(*n), 0, START).is_ok()).count();
        assert_eq!(admitted, 0, "the shared budgets are spent too");
        let later = START + Duration::from_secs(2);
        assert_eq!(limiter.take(network(500_000), 0, later), Ok(()), "whole budgets made room");
        assert!(entries() < 1024);
    }
}
