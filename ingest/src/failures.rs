//! Failed authentications per network: a guesser is slowed down, and its neighbours are not.
//!
//! Each failure takes from its network's budget. Once that is spent, the network's requests have few verifications at
//! once, and those that fail are told 429; those that succeed still pass, so that one attacker behind a shared address
//! locks nobody out. A verification begins when the whole body is there: whoever sends slowly holds no place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::network::Network;
use crate::quota::Quota;
use crate::rate::{Key, RateLimiter, Reach};

const SECOND: Duration = Duration::from_secs(1);

/// The limiter.
pub(crate) struct Failures {
    /// What it was made from.
    config: FailuresConfig,
    budgets: Option<RateLimiter>,
    /// Those over their limit that are verified or wait for it. Bounded by the requests in flight.
    busy: Arc<Mutex<HashMap<Network, Busy>>>,
}

/// What the limiter is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FailuresConfig {
    per_second: u32,
    burst: u32,
    places_max: usize,
    addresses_max: usize,
}

impl From<&Config> for FailuresConfig {
    fn from(config: &Config) -> Self {
        Self {
            per_second: config.limits.failed_authentications_per_second,
            burst: config.limits.failed_authentications_burst,
            places_max: config.limits.failing_verifications_max,
            addresses_max: config.rate.addresses_max,
        }
    }
}

/// The verifications of one network.
struct Busy {
    places: Arc<Semaphore>,
    requests: usize,
}

impl Failures {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        let config = FailuresConfig::from(config);
        let quota = Quota::new(config.per_second, SECOND, config.burst);
        let budgets = quota.map(|quota| RateLimiter::new(quota, config.addresses_max, Reach::Node));
        Self { config, budgets, busy: Arc::default() }
    }

    /// Whether this is what the configuration asks for.
    pub(crate) fn are_as_in(&self, config: &Config) -> bool {
        self.config == FailuresConfig::from(config)
    }

    /// Whether a network has no failure left.
    pub(crate) fn is_over(&self, network: Network, now: Duration) -> bool {
        self.budgets.as_ref().is_some_and(|budgets| budgets.is_spent(key(network), now))
    }

    /// Counts a failure, or says how long it takes until one more would be within the limit.
    pub(crate) fn count(&self, network: Network, now: Duration) -> Result<(), Duration> {
        self.budgets.as_ref().map_or(Ok(()), |budgets| budgets.take(key(network), now))
    }

    /// Waits for a place among the verifications of a network that is over its limit.
    pub(crate) async fn place(&self, network: Network) -> Place {
        let places = {
            let mut busy = self.busy.lock();
            let of_network = busy
                .entry(network)
                .or_insert_with(|| Busy { places: Arc::new(Semaphore::new(self.config.places_max)), requests: 0 });
            of_network.requests += 1;
            of_network.places.clone()
        };
        let mut place = Place { network, busy: self.busy.clone(), permit: None };
        place.permit = Some(places.acquire_owned().await.expect("the semaphore is never closed"));
        place
    }
}

fn key(network: Network) -> Key {
    Key { network, path: 0 }
}

/// A place, or the wait for one; given back when it is dropped.
pub(crate) struct Place {
    network: Network,
    busy: Arc<Mutex<HashMap<Network, Busy>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // The place first: whoever finds no entry must find it free.
        self.permit = None;
        let mut busy = self.busy.lock();
        if let Some(of_network) = busy.get_mut(&self.network) {
            of_network.requests -= 1;
            if of_network.requests == 0 {
                busy.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn network(last: u8) -> Network {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
    }

    #[test]
    fn ten_a_second_and_fifty_at_once() {
        let failures = Failures::new(&crate::tests::config());
        let now = Duration::from_secs(1000);
        for _ in 0..50 {
            assert!(!failures.is_over(network(1), now));
            assert_eq!(failures.count(network(1), now), Ok(()));
        }
        assert!(failures.is_over(network(1), now));
        assert_eq!(failures.count(network(1), now), Err(Duration::from_millis(100)));
        assert!(!failures.is_over(network(2), now), "its neighbours are not");
        let later = now + Duration::from_millis(100);
        assert!(!failures.is_over(network(1), later));
        assert_eq!(failures.count(network(1), later), Ok(()));
        assert!(failures.count(network(1), later).is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        let mut config = crate::tests::config();
        config.limits.failed_authentications_per_second = 0;
        let failures = Failures::new(&config);
        for _ in 0..1000 {
            assert_eq!(failures.count(network(1), Duration::ZERO), Ok(()));
        }
        assert!(!failures.is_over(network(1), Duration::ZERO));
    }

    #[test]
    fn sixteen_are_verified_at_once_and_the_seventeenth_waits_its_turn() {
        let failures = Failures::new(&crate::tests::config());
        let mut context = Context::from_waker(Waker::noop());
        let mut place = |of: u8| {
            let mut waiting = Box::pin(failures.place(network(of)));
            let first = waiting.as_mut().poll(&mut context);
            (waiting, first)
        };
        let mut held = Vec::new();
        for _ in 0..16 {
            let (_, Poll::Ready(one)) = place(1) else { panic!("there is a place") };
            held.push(one);
        }
        let (mut seventeenth, first) = place(1);
        assert!(first.is_pending());
        let (given_up, first) = place(1);
        assert!(first.is_pending());
        drop(given_up);
        let (_, other) = place(2);
        assert!(other.is_ready(), "another network has its own");
        held.pop();
        let Poll::Ready(seventeenth) = seventeenth.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it is its turn")
        };
        drop((held, seventeenth, other));
        assert!(failures.busy.lock().is_empty(), "nothing is kept");
    }
}
