//! The table's own rules, and the bound of several nodes in a model whose every moment is chosen.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn limiter(requests_per_minute: u32, burst: u32, entries_max: usize) -> RateLimiter {
    RateLimiter::new(Quota::new(requests_per_minute, MINUTE, burst).unwrap(), entries_max, Reach::Deployment)
}

fn key(number: u32, path: u64) -> Key {
    Key { network: IpAddr::V4(Ipv4Addr::from_bits(number)).into(), path }
}

const START: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_refusal_costs_nothing_and_budgets_are_per_network_and_path() {
    let limiter = limiter(60, 1, 1024);
    assert!(!limiter.is_spent(key(1, 0), START));
    assert_eq!(limiter.take(key(1, 0), START), Ok(()));
    for _ in 0..100 {
        assert!(limiter.is_spent(key(1, 0), START));
        assert_eq!(limiter.take(key(1, 0), START), Err(SECOND));
    }
    assert_eq!(limiter.take(key(1, 1), START), Ok(()));
    assert_eq!(limiter.take(key(2, 0), START), Ok(()));
    assert_eq!(limiter.take(key(1, 0), START + SECOND), Ok(()));
}

#[test]
fn a_full_table_forgets_only_whole_budgets_and_the_rest_share_one() {
    let limiter = limiter(60, 1, 1024);
    let entries = || limiter.shards.iter().map(|shard| shard.lock().entries.len()).sum::<usize>();
    let listed = || limiter.shards.iter().map(|shard| shard.lock().changed.len()).sum::<usize>();
    for number in 0..100_000 {
        let _taken = limiter.take(key(number, 0), START);
    }
    assert_eq!(entries(), 1024, "bounded");
    let spent = key(0, 0);
    assert!(limiter.take(spent, START).is_err(), "a spent budget is still spent");
    assert!(limiter.is_spent(key(200_000, 0), START));
    let admitted = (200_000..300_000).filter(|n| limiter.take(key(*n, 0), START).is_ok()).count();
    assert_eq!(admitted, 0, "the shared budgets are spent too");
    let later = START + 2 * SECOND;
    assert_eq!(limiter.take(key(400_000, 0), later), Ok(()), "the shared budget is whole again");
    assert_eq!(entries(), 1024, "what nobody was told of stays");
    limiter.put_back(&limiter.reports(later));
    assert_eq!(limiter.take(key(500_000, 0), later + 2 * SECOND), Ok(()), "whole budgets made room");
    assert!(entries() < 1024);

    // What could not be reported is forgotten like the rest, and so is that there was something to report.
    for round in 2..50 {
        let now = START + round * 2 * SECOND;
        limiter.put_back(&limiter.reports(now));
        for number in 0..2000 {
            let _taken = limiter.take(key(round * 10_000 + number, 0), now);
        }
        assert!(listed() <= entries() && entries() <= 1024, "{} of {}", listed(), entries());
    }
}

#[test]
fn what_was_taken_is_reported_once() {
    let limiter = limiter(60, 10, 1024);
    for number in [1, 1, 1, 2] {
        limiter.take(key(number, 0), START).unwrap();
    }
    let mut reports = limiter.reports(START);
    reports.sort_by_key(|report| report.requests);
    let [one, three] = reports[..] else { panic!("{reports:?}") };
    assert_eq!((one.key, one.charge, one.requests), (key(2, 0), SECOND, 1));
    assert_eq!((three.key, three.charge, three.requests), (key(1, 0), 3 * SECOND, 3));
    assert_eq!(limiter.reports(START), []);

    limiter.put_back(&reports);
    limiter.take(key(1, 0), START).unwrap();
    let charges: Duration = limiter.reports(START).iter().map(|report| report.charge).sum();
    assert_eq!(charges, 5 * SECOND, "what was put back, and one more");
}

#[test]
fn what_would_not_count_any_more_is_not_charged_later() {
    let limiter = limiter(60, 10, 1024);
    for _ in 0..10 {
        limiter.take(key(1, 0), START).unwrap();
    }
    let reports = limiter.reports(START);
    limiter.put_back(&reports);
    assert_eq!(limiter.reports(START + 4 * SECOND)[0].charge, 6 * SECOND);
    limiter.put_back(&reports);
    assert_eq!(limiter.reports(START + 10 * SECOND), []);
    for _ in 0..10 {
        limiter.take(key(1, 0), START + 20 * SECOND).unwrap();
    }
    let late = limiter.reports(START + 25 * SECOND);
    assert_eq!(late[0].charge, 10 * SECOND, "what nobody knows of yet is charged in full");
}

#[test]
fn a_node_of_its_own_reports_nothing() {
    let limiter = RateLimiter::new(Quota::new(60, MINUTE, 10).unwrap(), 1024, Reach::Node);
    limiter.take(key(1, 0), START).unwrap();
    assert_eq!(limiter.reports(START), []);
}

#[test]
fn what_others_took_is_gone_and_what_a_store_forgot_is_not() {
    let limiter = limiter(60, 10, 1024);
    limiter.take(key(1, 0), START).unwrap();
    limiter.learn(key(1, 0), 10 * SECOND, START);
    assert_eq!(limiter.take(key(1, 0), START).unwrap_err(), 2 * SECOND, "what is not reported comes on top");
    limiter.learn(key(1, 0), Duration::ZERO, START);
    assert!(limiter.take(key(1, 0), START).is_err(), "never more generous");
    limiter.learn(key(2, 0), 10 * SECOND, START);
    assert!(limiter.take(key(2, 0), START).is_err(), "also of what this node had forgotten");
    assert_eq!(limiter.take(key(2, 0), START + SECOND), Ok(()));
}

/// A number of a sequence that looks random, and is the same in every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The script's arithmetic.
#[derive(Default)]
struct Store(HashMap<Key, Duration>);

impl Store {
    fn charge(&mut self, report: &Report, now: Duration) -> Duration {
        let whole_at = self.0.entry(report.key).or_default();
        *whole_at = (*whole_at).max(now) + report.charge;
        *whole_at - now
    }
}

/// An exchange under way: when it reaches the store, when the answer is there, and what it says.
struct UnderWay {
    reports: Vec<Report>,
    stored_ms: u64,
    answered_ms: u64,
    ahead: Vec<Duration>,
}

struct Node {
    limiter: RateLimiter,
    next_ms: u64,
    under_way: Option<UnderWay>,
    /// When requests were admitted.
    admitted_ms: Vec<u64>,
    /// Requests per millisecond at most, and whether there are any just now.
    rate: u64,
    busy: bool,
}

impl Node {
    fn step(&mut self, now_ms: u64, store: &mut Store, delay_max_ms: u64, state: &mut u64) {
        let now = START + Duration::from_millis(now_ms);
        if self.under_way.is_none() && now_ms >= self.next_ms {
            self.next_ms = now_ms + EXCHANGE_MS;
            let reports = self.limiter.reports(now);
            if !reports.is_empty() {
                let stored_ms = now_ms + random(state) % (delay_max_ms + 1);
                let answered_ms = stored_ms + random(state) % (now_ms + delay_max_ms - stored_ms + 1);
                self.under_way = Some(UnderWay { reports, stored_ms, answered_ms, ahead: Vec::new() });
            }
        }
        if let Some(exchange) = &mut self.under_way {
            if exchange.stored_ms <= now_ms && exchange.ahead.is_empty() {
                exchange.ahead = exchange.reports.iter().map(|report| store.charge(report, now)).collect();
            }
            if exchange.answered_ms <= now_ms {
                for (report, ahead) in exchange.reports.iter().zip(&exchange.ahead) {
                    self.limiter.learn(report.key, *ahead, now);
                }
                self.under_way = None;
            }
        }
        self.busy ^= random(state).is_multiple_of(200);
        let arrivals = if self.busy { random(state) % (self.rate + 1) } else { 0 };
        for _ in 0..arrivals {
            if self.limiter.take(key(1, 0), now).is_ok() {
                self.admitted_ms.push(now_ms);
            }
        }
    }

    /// The most that it admitted within so many milliseconds.
    fn most_within(&self, within_ms: u64) -> usize {
        let from = |(first, begin): (usize, &u64)| {
            self.admitted_ms[first..].iter().take_while(|ms| **ms <= begin + within_ms).count()
        };
        self.admitted_ms.iter().enumerate().map(from).max().unwrap_or(0)
    }
}

const EXCHANGE_MS: u64 = exchange::EXCHANGE_INTERVAL.as_millis() as u64;

/// Lets nodes run for 4 s, and answers the highest level of all requests together and the bound, both in requests.
fn run(seed: u64, exchanging: bool) -> (f64, f64) {
    let mut state = seed;
    let (per_minute, burst) = (1 + random(&mut state) % 6000, 1 + random(&mut state) % 300);
    let (per_minute, burst) = (u32::try_from(per_minute).unwrap(), u32::try_from(burst).unwrap());
    let interval = Quota::new(per_minute, MINUTE, burst).unwrap().interval();
    let delay_max_ms = random(&mut state) % (EXCHANGE_MS + 1);
    let mut store = Store::default();
    let mut nodes: Vec<Node> = (0..1 + random(&mut state) % 5)
        .map(|_| Node {
            limiter: limiter(per_minute, burst, 1024),
            next_ms: if exchanging { random(&mut state) % EXCHANGE_MS } else { u64::MAX },
            under_way: None,
            admitted_ms: Vec::new(),
            rate: 1 + random(&mut state) % 4,
            busy: random(&mut state).is_multiple_of(2),
        })
        .collect();
    let (mut whole_at, mut highest) = (Duration::ZERO, Duration::ZERO);
    for now_ms in 0..4000 {
        let now = START + Duration::from_millis(now_ms);
        for at in 0..nodes.len() {
            let before = nodes[at].admitted_ms.len();
            nodes[at].step(now_ms, &mut store, delay_max_ms, &mut state);
            for _ in before..nodes[at].admitted_ms.len() {
                whole_at = whole_at.max(now) + interval;
            }
        }
        highest = highest.max(whole_at.saturating_sub(now));
    }
    let mut most: Vec<usize> = nodes.iter().map(|node| node.most_within(2 * EXCHANGE_MS)).collect();
    most.sort_unstable();
    let unknown: usize = most[1..].iter().sum();
    (highest.as_secs_f64() / interval.as_secs_f64(), f64::from(burst) + unknown as f64)
}

#[test]
fn all_nodes_together_keep_to_the_bound_whatever_the_schedule() {
    let mut over_burst = 0;
    for seed in 0..400 {
        let (highest, bound) = run(seed, true);
        assert!(highest <= bound + 1e-6, "seed {seed}: {highest} of {bound}");
        over_burst += usize::from(highest > bound / 2.0);
    }
    assert!(over_burst > 100, "most of the schedules come near it: {over_burst}");
    let broken = (0..400).filter(|seed| matches!(run(*seed, false), (highest, bound) if highest > bound)).count();
    assert!(broken > 20, "without exchanges the bound does not hold: {broken}");
}
