//! Where the reading of each partition begins: after what the cache has, or at the window's beginning.
//!
//! A cache is used if it covers the window, is not more than a window ahead of the committed offset, and belongs to this log. That it does is asked at both ends of its chain. The
//! front: the log must have records of the front anchor's time around its offset, which a topic that was made anew, later, has
//! not. The back: the record at the anchor's offset must have its id and time; it is the first that is read. Brokers' clocks
//! that disagree can only make a good cache look like a bad one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::kafka::consumer::scanner::{Scanned, Scanner};
use common::kafka::consumer::{Assigned, ReadError};

use super::super::cache::Cache;
use super::{Built, IndexSettings, Job, POLL};
use crate::control::{self, Control};
use crate::core::index::Index;
use crate::core::partition::DedupKey;
use crate::metrics::{self, CacheFault};
use crate::store::{Anchor, Batch};

/// How long brokers may take to show one record of each partition.
const PEEK_DEADLINE: Duration = Duration::from_secs(30);

/// Records of a partition between the fetch of their places in the index and the look there.
const AHEAD: usize = 64;

/// A partition whose index is being made.
pub(super) struct Opening {
    pub(super) job: Job,
    pub(super) built: Built,
    /// The first offset to read.
    pub(super) from: i64,
    /// What its index covered before anything was read.
    pub(super) known: i64,
    /// What the index must cover.
    pub(super) target: i64,
    /// The record that is to be found first.
    pub(super) anchor: Option<Anchor>,
    /// Whether nothing of it was in the cache.
    pub(super) cold: bool,
    /// Records that were read and are not in the index yet.
    ahead: VecDeque<Read>,
}

/// What the index must know of a record.
struct Read {
    offset: i64,
    time_ms: u64,
    key: Option<DedupKey>,
}

impl Opening {
    /// The first offset that was not read.
    pub(super) fn next(&self) -> i64 {
        self.ahead.back().map_or(self.built.index.high(), |read| read.offset + 1)
    }

    /// Puts a record into the index, some records later: until then, memory fetches what will be looked at.
    pub(super) fn admit(&mut self, offset: i64, time_ms: u64, key: Option<DedupKey>) {
        for id in key.iter().flat_map(|key| [Some(key.id), key.previous]).flatten() {
            self.built.index.prefetch(id);
        }
        self.ahead.push_back(Read { offset, time_ms, key });
        if self.ahead.len() > AHEAD {
            self.look_at_one();
        }
    }

    /// Puts all that was read into the index.
    pub(super) fn settle(&mut self) {
        while self.look_at_one() {}
    }

    fn look_at_one(&mut self) -> bool {
        let Some(Read { offset, time_ms, key }) = self.ahead.pop_front() else { return false };
        let Built { index, cache } = &mut self.built;
        let mut changed = Vec::new();
        match key {
            Some(key) => {
                index.look(offset, key.id, key.previous, time_ms, &mut changed);
            }
            None => index.cover(offset + 1),
        }
        cache.note(offset, time_ms, &changed);
        true
    }
}

/// What the cache has of a partition, trimmed to what the log still has.
struct Cached {
    job: Job,
    chain: Vec<Batch>,
    front: Anchor,
    back: Anchor,
}

/// Where each of these partitions begins.
pub(super) fn start(settings: &IndexSettings, scanner: &Scanner, jobs: Vec<Job>) -> Result<Vec<Opening>, ReadError> {
    let mut openings = Vec::new();
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for job in jobs {
        if job.assigned.base <= job.assigned.low {
            // Nothing lies before: whatever the cache has is of another log.
            let base = job.assigned.base;
            openings.push(begin(settings, job, base));
            continue;
        }
        match cached(settings, &job) {
            Some((chain, front, back)) => warm.push(Cached { job, chain, front, back }),
            None => cold.push(job),
        }
    }
    for (cached, fits) in fitting(settings, scanner, warm)? {
        if fits {
            openings.push(restore(settings, cached));
        } else {
            cold.push(cached.job);
        }
    }
    for (job, from) in window_starts(settings, scanner, cold)? {
        openings.push(begin(settings, job, from));
    }
    Ok(openings)
}

/// A partition that is read from the log alone.
fn begin(settings: &IndexSettings, job: Job, from: i64) -> Opening {
    let place = settings.place(&job.assigned.at);
    settings.store.forget(&place);
    let built = Built { index: Index::new(settings.window, from), cache: Cache::new(&settings.store, place, from, 0) };
    let target = job.assigned.base;
    Opening { job, built, from, known: from, target, anchor: None, cold: true, ahead: VecDeque::new() }
}

fn cached(settings: &IndexSettings, job: &Job) -> Option<(Vec<Batch>, Anchor, Anchor)> {
    if job.foreign {
        return None;
    }
    let Assigned { at, low, high, .. } = &job.assigned;
    let mut chain = settings.store.load(&settings.place(at));
    chain.retain(|batch| batch.next > *low);
    if chain.last()?.next > *high {
        foreign(job);
        return None;
    }
    let anchors = || chain.iter().filter_map(|batch| batch.anchor).filter(|anchor| anchor.offset >= *low);
    let (front, back) = (anchors().next()?, anchors().next_back()?);
    Some((chain, front, back))
}

/// Which caches cover the window and have the log's times at their front.
fn fitting(settings: &IndexSettings, scanner: &Scanner, warm: Vec<Cached>) -> Result<Vec<(Cached, bool)>, ReadError> {
    let ask = |time: &dyn Fn(&Cached) -> u64| {
        if settings.embedded {
            return Ok(vec![Some(0); warm.len()]);
        }
        let times: Vec<_> = warm.iter().map(|cached| (cached.job.assigned.at.partition, time(cached))).collect();
        scanner.offsets_at(&times)
    };
    // What comes next is not older than the chain's end.
    let last = |cached: &Cached| cached.chain.last().map_or(0, |batch| batch.time_ms);
    let starts = ask(&|cached| last(cached).saturating_sub(settings.window_ms()))?;
    let at = ask(&|cached| cached.front.time_ms)?;
    let after = ask(&|cached| cached.front.time_ms + 1)?;
    let asked = starts.into_iter().zip(at).zip(after);
    let judged = warm.into_iter().zip(asked).map(|(cached, ((start, at), after))| {
        let Assigned { base, low, high, .. } = cached.job.assigned;
        let start = start.unwrap_or(high).max(low);
        // One that is more than a window ahead of what is read next may have forgotten, or given a new owner, what the
        // verdict on that depends on.
        let covers = cached.chain.first().is_some_and(|batch| batch.first <= start) && start <= base;
        let front = cached.front.offset;
        let belongs = settings.embedded
            || control::is(Control::NoAnchor)
            || (at.unwrap_or(high) <= front && front < after.unwrap_or(high));
        if !belongs {
            foreign(&cached.job);
        }
        (cached, covers && belongs)
    });
    Ok(judged.collect())
}

/// Says that a cache is of another log.
pub(super) fn foreign(job: &Job) {
    let at = &job.assigned.at;
    tracing::warn!(topic = %at.topic, partition = at.partition, "the index cache is of another log: the topic was made anew");
    metrics::cache_fault(CacheFault::Foreign);
}

fn restore(settings: &IndexSettings, cached: Cached) -> Opening {
    let Cached { job, chain, back, .. } = cached;
    let (first, time_ms) =
        (chain.first().map_or(0, |batch| batch.first), chain.last().map_or(0, |batch| batch.time_ms));
    let mut index = Index::new(settings.window, first);
    for batch in chain {
        batch.entries.iter().for_each(|entry| index.restore(*entry, batch.next));
        index.cover(batch.next);
    }
    let cache = Cache::new(&settings.store, settings.place(&job.assigned.at), index.high(), time_ms);
    let (known, target) = (index.high(), job.assigned.base.max(back.offset + 1));
    Opening {
        job,
        built: Built { index, cache },
        from: back.offset,
        known,
        target,
        anchor: Some(back),
        cold: false,
        ahead: VecDeque::new(),
    }
}

/// For each partition the first offset that can matter to a verdict at or after its committed offset.
fn window_starts(settings: &IndexSettings, scanner: &Scanner, jobs: Vec<Job>) -> Result<Vec<(Job, i64)>, ReadError> {
    if settings.embedded {
        return Ok(jobs.into_iter().map(|job| (job.assigned.low, job)).map(|(low, job)| (job, low)).collect());
    }
    let times = peek(settings, &jobs)?;
    let oldest = |job: &Job| {
        let now = settings.clock.unix_ms();
        let time = times.get(&job.assigned.at.partition).map_or(now, |time| now.min(*time));
        (job.assigned.at.partition, time.saturating_sub(settings.window_ms()))
    };
    let asked: Vec<_> = jobs.iter().map(oldest).collect();
    let starts = scanner.offsets_at(&asked)?;
    let start = |job: &Job, start: Option<i64>| {
        start.map_or(job.assigned.base, |start| start.clamp(job.assigned.low, job.assigned.base))
    };
    Ok(jobs
        .into_iter()
        .zip(starts)
        .map(|(job, found)| (start(&job, found), job))
        .map(|(from, job)| (job, from))
        .collect())
}

/// The time of each partition's next record, or of its last if there is none: a later one is not older. With a scanner of
/// its own, since a scanner begins a partition once.
fn peek(settings: &IndexSettings, jobs: &[Job]) -> Result<BTreeMap<i32, u64>, ReadError> {
    let mut times = BTreeMap::new();
    let Some(first) = jobs.first() else { return Ok(times) };
    let scanner = Scanner::new(&settings.kafka, first.assigned.at.topic.clone())?;
    let places = jobs.iter().map(|job| {
        let Assigned { at, base, high, .. } = &job.assigned;
        (at.partition, (*base).min(high - 1))
    });
    scanner.begin(&places.collect::<Vec<_>>())?;
    let mut open: Vec<i32> = jobs.iter().map(|job| job.assigned.at.partition).collect();
    let deadline = settings.clock.monotonic() + PEEK_DEADLINE;
    while let Some(stuck) = open.first().copied() {
        if settings.clock.monotonic() > deadline {
            let topic = first.assigned.at.topic.to_string();
            return Err(ReadError::Stalled { topic, partition: stuck, after: -1 });
        }
        let mut shown = None;
        scanner.poll(POLL, |scanned| match scanned {
            Scanned::Record(partition, record) => {
                shown = Some(partition);
                times.entry(partition).or_insert(record.time_ms());
            }
            Scanned::End(partition) => shown = Some(partition),
        })?;
        if let Some(partition) = shown
            && open.contains(&partition)
        {
            open.retain(|open| *open != partition);
            scanner.end(partition)?;
        }
    }
    Ok(times)
}
