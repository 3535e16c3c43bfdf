//! Requests per network and path, in memory: one number per entry ([`Quota`]), in a table of bounded size.
//!
//! An entry whose budget is whole says nothing and may be forgotten; no other entry ever is, so that nobody gets a fresh
//! budget by filling the table. While it is full, networks that are not in it share one budget.
//!
//! # Several nodes, one budget
//!
//! With a store, each entry also notes what was taken from it since it was last reported. Every
//! [`EXCHANGE_INTERVAL`](exchange::EXCHANGE_INTERVAL) the node reports all entries that something was taken from, and is
//! told of each how far ahead its moment lies with what all nodes have reported. It sets its own moment to that, plus what
//! it has admitted since, if that is later: what the others say makes an entry stricter, never more generous. So a store
//! that is gone, slow, or has forgotten everything leaves each node with its own limit, the same figure, and no request
//! ever waits for it.
//!
//! **The bound.** Let the level of a set of requests be that of a bucket which each of them fills by one as it is admitted
//! and which drains by one per interval. One node alone admits a request only if the level is at most *burst* with it. Let
//! *D* be the time from a node's first unreported request to the moment at which it knows the answer, that is, at most the
//! interval of the exchanges and the time that one takes; and *A* the most that a node admits of one key within *D*. Then
//! with *n* nodes the level of all requests together never exceeds *burst + (n − 1) · A*. In any time *t* no more than
//! *burst + rate · t + (n − 1) · A* are admitted.
//!
//! *Proof.* Consider any moment, and of each node its latest admitted request and the exchange whose answer the node knew
//! when it admitted it (none counts as long ago). Let *q* be the node whose exchange is the latest of these. (1) Its answer
//! held all that any other node had reported by then. What another node *k* admitted and had not reported by then, it
//! admitted after the snapshot for its own such exchange, which is no later, and before the next one's answer: else that
//! next one would be *k*'s exchange here. Since a node's first unreported request makes it report at the next tick, all of
//! it was admitted within *D*: at most *A*. (2) When *q* admitted its latest request, its own level, with the answer and
//! everything that *q* admitted since its snapshot, was at most *burst*. (3) What is charged later than it was admitted has
//! drained less, and a request raises a level by one at most: so the level of everything is at most *burst* plus *A* for
//! each node but *q*. ∎
//!
//! The interval is 50 ms. As long as an exchange takes no longer than that, *D* is at most 0.1 s, and what all nodes admit
//! together exceeds the limit by no more than what each but one of them gets of one key in 0.1 s. A store that forgets (it
//! is restarted empty) gives away at most what the nodes have not seen of one another.
//!
//! The bound is that of times in which exchanges succeed. After an outage a node does not report everything that it has
//! admitted meanwhile, most of which has long drained, but what its own budget lacks then.

pub(crate) mod exchange;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{self, RateStore};
use crate::network::Network;
use crate::quota::Quota;

const MINUTE: Duration = Duration::from_secs(60);

/// Parts of the table, each with its own lock.
const SHARD_COUNT: usize = 16;
/// How often a full part is searched for entries to forget: a search looks at each.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What an entry takes at most, in bytes: a table that has just grown is half empty, the entry may stand in the list of
/// changes, and be on its way to other nodes.
pub(crate) const ENTRY_BYTES_MAX: u64 = 512;
const _: () = {
    let in_table = (size_of::<(Key, Entry)>() + 1) * 16 / 7;
    let in_list = 2 * size_of::<Key>();
    // With the text of a command, which is its key and a number.
    let under_way = size_of::<Report>() + 128;
    assert!((in_table + in_list + under_way) as u64 <= ENTRY_BYTES_MAX);
};

/// Who is counted, and where: a path by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) network: Network,
    pub(crate) path: u64,
}

/// Whether other nodes have a part in the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This node's budgets are its own.
    Node,
    /// What is taken here is noted, to be reported.
    Deployment,
}

/// A limiter of many budgets.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    quota: Quota,
    reach: Reach,
    shard_entries_max: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    /// The budget of those that found no room: when it will be whole again. It is never reported.
    shared_whole_at: Duration,
    swept_at: Option<Duration>,
    /// The entries with something to report, each once.
    changed: Vec<Key>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// When the budget will be whole again.
    whole_at: Duration,
    /// Requests that were admitted since the last report.
    unreported: u32,
    /// Requests whose report has failed.
    overdue: u32,
}

impl Entry {
    fn has_news(&self) -> bool {
        self.unreported > 0 || self.overdue > 0
    }
}

/// What a node has to tell the others about one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) key: Key,
    /// How far the moment is to be moved on.
    pub(crate) charge: Duration,
    /// The requests that it stands for.
    requests: u32,
}

/// The limiter of requests per network and path; `None` when it is off.
pub(crate) fn of_addresses(config: &config::Rate) -> Option<RateLimiter> {
    let reach = match config.store {
        RateStore::Memory => Reach::Node,
        RateStore::Redis => Reach::Deployment,
    };
    let quota = Quota::new(config.requests_per_minute, MINUTE, config.burst)?;
    Some(RateLimiter::new(quota, config.addresses_max, reach))
}

impl RateLimiter {
    /// A limiter with this quota for each key, of which it tells `entries_max` apart.
    pub(crate) fn new(quota: Quota, entries_max: usize, reach: Reach) -> Self {
        Self {
            quota,
            reach,
            shard_entries_max: entries_max.div_ceil(SHARD_COUNT),
            hasher: RandomState::new(),
            shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(),
        }
    }

    /// Takes one request from a budget, or says how long it takes until there is one to take.
    pub(crate) fn take(&self, key: Key, now: Duration) -> Result<(), Duration> {
        let mut shard = self.shard(&key).lock();
        let Some(entry) = shard.entry(key, self.shard_entries_max, now) else {
            return self.quota.take(&mut shard.shared_whole_at, now);
        };
        self.quota.take(&mut entry.whole_at, now)?;
        if self.reach == Reach::Deployment {
            let listed = entry.has_news();
            entry.unreported = entry.unreported.saturating_add(1);
            if !listed {
                shard.changed.push(key);
            }
        }
        Ok(())
    }

    /// Whether there is nothing to take from a budget.
    pub(crate) fn is_spent(&self, key: Key, now: Duration) -> bool {
        let shard = self.shard(&key).lock();
        let whole_at = match shard.entries.get(&key) {
            Some(entry) => entry.whole_at,
            None if shard.entries.len() < self.shard_entries_max => return false,
            None => shard.shared_whole_at,
        };
        self.quota.is_spent(whole_at, now)
    }

    /// Everything that was taken and not reported.
    pub(crate) fn reports(&self, now: Duration) -> Vec<Report> {
        let mut reports = Vec::new();
        for shard in &self.shards {
            let shard = &mut *shard.lock();
            for key in shard.changed.drain(..) {
                let Some(entry) = shard.entries.get_mut(&key) else { continue };
                let (new, overdue) = (std::mem::take(&mut entry.unreported), std::mem::take(&mut entry.overdue));
                let requests = new.saturating_add(overdue);
                // Of what is overdue only as much as has not drained.
                let lacking = (self.quota.interval() * requests).min(entry.whole_at.saturating_sub(now));
                let charge = lacking.max(self.quota.interval() * new);
                if !charge.is_zero() {
                    reports.push(Report { key, charge, requests });
                }
            }
        }
        reports
    }

    /// Takes reports back of which nobody knows whether they have arrived: better charged twice than never.
    pub(crate) fn put_back(&self, reports: &[Report]) {
        for Report { key, requests, .. } in reports {
            let mut shard = self.shard(key).lock();
            // What was forgotten meanwhile was whole.
            let Some(entry) = shard.entries.get_mut(key) else { continue };
            let listed = entry.has_news();
            entry.overdue = entry.overdue.saturating_add(*requests);
            if !listed {
                shard.changed.push(*key);
            }
        }
    }

    /// Learns how far ahead a budget's moment lies with what all nodes have reported.
    pub(crate) fn learn(&self, key: Key, ahead: Duration, now: Duration) {
        let mut shard = self.shard(&key).lock();
        let Some(entry) = shard.entry(key, self.shard_entries_max, now) else { return };
        let whole_at = now + ahead + self.quota.interval() * entry.unreported;
        entry.whole_at = entry.whole_at.max(whole_at);
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // The table's own hasher has another key, so that entries of one part still spread in it.
        &self.shards[self.hasher.hash_one(key) as usize % SHARD_COUNT]
    }
}

impl Shard {
    /// The entry of a key, made if there is room for it.
    fn entry(&mut self, key: Key, entries_max: usize, now: Duration) -> Option<&mut Entry> {
        if !self.entries.contains_key(&key) && !self.has_room(entries_max, now) {
            return None;
        }
        Some(self.entries.entry(key).or_insert(Entry { whole_at: now, unreported: 0, overdue: 0 }))
    }

    /// Whether one more entry fits, after forgetting those that say nothing.
    fn has_room(&mut self, entries_max: usize, now: Duration) -> bool {
        if self.entries.len() < entries_max {
            return true;
        }
        if self.swept_at.is_some_and(|swept_at| now < swept_at + SWEEP_INTERVAL) {
            return false;
        }
        self.swept_at = Some(now);
        self.entries.retain(|_, entry| entry.whole_at > now || entry.unreported > 0);
        // So the list never holds more than the table, whether or not anybody takes the reports.
        self.changed.retain(|key| self.entries.contains_key(key));
        self.entries.len() < entries_max
    }
}
