//! Opening a partition: its index is brought up to the committed offset before the first record is admitted.
//!
//! What the cache on disk has is loaded, the rest is read from the log: `[high, base)`, where `high` is the cache's end,
//! or the offset at the time of `base` less the window. This runs on a thread of its own, off the consumer's callbacks:
//! other partitions go on meanwhile.

use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use common::clock::Clock;
use common::id::KeyedId;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{Assigned, Incoming, ReadError, Reader, TopicPartition};

use super::Lane;
use crate::core::index::{Entry, Index};
use crate::core::partition::{DedupKey, Partition};
use crate::core::progress::{MetadataError, Progress};
use crate::store::{BATCH_ENTRIES, Batch, Store};

/// Tells a record's dedup key, `None` for a record that can't be trusted.
pub type KeyOf = Arc<dyn Fn(&Lane, &Incoming<'_>) -> Option<DedupKey> + Send + Sync>;

/// How an index is made.
#[derive(Clone)]
pub struct IndexSettings {
    /// The window.
    pub window: Duration,
    /// How to read the log.
    pub kafka: KafkaConfig,
    /// Whether the cluster knows no offsets by time: then the scan starts at the log's beginning.
    pub embedded: bool,
    /// The cache.
    pub store: Arc<dyn Store>,
    /// What this group's part of the cache is called.
    pub cache: String,
    /// Tells a record's key.
    pub key_of: KeyOf,
    /// Time.
    pub clock: Clock,
}

impl IndexSettings {
    /// What a topic is called in the cache.
    fn cached(&self, at: &TopicPartition) -> String {
        format!("{}@{}", at.topic, self.cache)
    }
}

/// A partition to be opened.
pub(super) struct Job {
    pub(super) lane: Arc<Lane>,
    pub(super) epoch: u64,
    pub(super) assigned: Assigned,
    pub(super) window: u32,
}

/// A partition that may be admitted from.
pub(super) struct Opened {
    pub(super) at: TopicPartition,
    pub(super) epoch: u64,
    pub(super) partition: Partition,
    pub(super) cache: Option<Cache>,
}

/// Opens partitions, one after the other.
pub(super) struct Opener(Sender<Job>);

impl Opener {
    pub(super) fn start(settings: IndexSettings, opened: impl Fn(Opened) + Send + 'static) -> Self {
        let (jobs, waiting) = channel::<Job>();
        let run = move || {
            // One reader for all: connecting costs more than most scans.
            let mut reader = None;
            while let Ok(job) = waiting.recv() {
                opened(open(&settings, &mut reader, job));
            }
        };
        std::thread::Builder::new().name("opener".to_owned()).spawn(run).expect("the system has room for a thread");
        Self(jobs)
    }

    pub(super) fn open(&self, job: Job) {
        // The thread ends only after the sender is gone.
        self.0.send(job).ok();
    }
}

/// Progress from what was committed.
pub(super) fn progress(assigned: &Assigned, window: u32) -> Result<Progress, MetadataError> {
    Progress::restore(assigned.base, &assigned.metadata, window)
}

fn open(settings: &IndexSettings, reader: &mut Option<Reader>, job: Job) -> Opened {
    let Job { lane, epoch, assigned, window } = job;
    let progress = progress(&assigned, window).unwrap_or_else(|error| {
        // Written by another version: what it says is lost, so these records are delivered again, as after a crash.
        tracing::error!(topic = %assigned.at.topic, partition = assigned.at.partition, %error, "progress above the committed offset is not known");
        Progress::restore(assigned.base, "", window).expect("empty metadata is known")
    });
    let (index, from_log) = loop {
        match build(settings, reader, &lane, &assigned) {
            Ok(built) => break built,
            Err(error) => {
                tracing::warn!(%error, "the dedup index could not be read from the log, trying again");
                *reader = None;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    };
    tracing::info!(topic = %assigned.at.topic, partition = assigned.at.partition, base = assigned.base, high = index.high(),
        ids = index.len(), from_log, "partition open");
    let cache = Cache::new(settings, &assigned.at, index.high());
    Opened { at: assigned.at, epoch, partition: Partition::new(progress, Some(index)), cache: Some(cache) }
}

/// The index up to `base` at least, and how many of its records were read from the log.
fn build(
    settings: &IndexSettings,
    reader: &mut Option<Reader>,
    lane: &Lane,
    assigned: &Assigned,
) -> Result<(Index, i64), ReadError> {
    let Assigned { at, base, low, high, .. } = assigned;
    let (base, low, high) = (*base, *low, *high);
    if base <= low {
        // Nothing lies before: whatever the cache has is of another log.
        forget(settings, at);
        return Ok((Index::new(settings.window, base), 0));
    }
    let reader = match reader {
        Some(reader) => reader,
        None => reader.insert(Reader::new(&settings.kafka)?),
    };
    let start = window_start(settings, reader, assigned)?.max(low);
    let mut index = load(settings, reader, lane, at, (start, high))?.unwrap_or_else(|| {
        forget(settings, at);
        Index::new(settings.window, start)
    });
    let from = index.high();
    if from < base {
        let mut cache = Cache::new(settings, at, from);
        reader.read(&at.topic, at.partition, (from, base), |record| {
            let mut changed = Vec::new();
            match (settings.key_of)(lane, &record) {
                Some(key) => {
                    index.look(record.offset(), key.id, key.previous, record.time_ms(), &mut changed);
                }
                None => index.cover(record.offset() + 1),
            }
            cache.note(record.offset(), &changed);
            ControlFlow::Continue(())
        })?;
        index.cover(base);
        cache.cover(base);
        cache.flush();
    }
    Ok((index, (base - from).max(0)))
}

/// The first offset that can matter to a verdict at or after `base`.
fn window_start(settings: &IndexSettings, reader: &Reader, assigned: &Assigned) -> Result<i64, ReadError> {
    if settings.embedded {
        return Ok(assigned.low);
    }
    let at = &assigned.at;
    let mut time_ms = settings.clock.unix_ms();
    reader.read(&at.topic, at.partition, (assigned.base, assigned.high.min(assigned.base + 1)), |record| {
        time_ms = time_ms.min(record.time_ms());
        ControlFlow::Break(())
    })?;
    let window_ms = u64::try_from(settings.window.as_millis()).unwrap_or(u64::MAX);
    Ok(reader.offset_at(&at.topic, at.partition, time_ms.saturating_sub(window_ms))?.min(assigned.base))
}

/// The index from the cache, if it covers the window from `start` on and belongs to this log.
fn load(
    settings: &IndexSettings,
    reader: &Reader,
    lane: &Lane,
    at: &TopicPartition,
    (start, end): (i64, i64),
) -> Result<Option<Index>, ReadError> {
    let batches = match settings.store.load(&settings.cached(at), at.partition, settings.clock.unix_ms()) {
        Ok(batches) => batches,
        Err(error) => {
            tracing::warn!(topic = %at.topic, partition = at.partition, %error, "the index cache is of no use here: the log is scanned");
            return Ok(None);
        }
    };
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return Ok(None) };
    if first.first > start || last.next > end || last.anchor.0 < start {
        return Ok(None);
    }
    let mut belongs = false;
    reader.read(&at.topic, at.partition, (last.anchor.0, last.anchor.0 + 1), |record| {
        belongs = record.offset() == last.anchor.0
            && (settings.key_of)(lane, &record).is_some_and(|key| key.id == last.anchor.1);
        ControlFlow::Break(())
    })?;
    if !belongs {
        tracing::warn!(topic = %at.topic, partition = at.partition, "the index cache is of another log: the topic was made anew");
        return Ok(None);
    }
    let mut index = Index::new(settings.window, start);
    for batch in &batches {
        batch.entries.iter().for_each(|entry| index.restore(*entry, batch.next));
        index.cover(batch.next);
    }
    Ok(Some(index))
}

fn forget(settings: &IndexSettings, at: &TopicPartition) {
    if let Err(error) = settings.store.forget(&settings.cached(at), at.partition) {
        tracing::warn!(topic = %at.topic, partition = at.partition, %error, "the index cache could not be emptied");
    }
}

/// Collects what the index learns into batches for the cache.
pub(super) struct Cache {
    store: Weak<dyn Store>,
    topic: String,
    partition: i32,
    batch: Batch,
}

impl Cache {
    fn new(settings: &IndexSettings, at: &TopicPartition, first: i64) -> Self {
        Self {
            store: Arc::downgrade(&settings.store),
            topic: settings.cached(at),
            partition: at.partition,
            batch: empty(first),
        }
    }

    /// Takes note of a record: what it changed, if anything.
    pub(super) fn note(&mut self, offset: i64, changed: &[Entry]) {
        if offset < self.batch.next {
            return;
        }
        self.batch.next = offset + 1;
        if let Some(entry) = changed.first() {
            self.batch.anchor = (offset, entry.id);
        }
        self.batch.entries.extend_from_slice(changed);
        if self.batch.entries.len() >= BATCH_ENTRIES {
            self.flush();
        }
    }

    fn cover(&mut self, next: i64) {
        self.batch.next = self.batch.next.max(next);
    }

    /// Hands the batch to the store. A failure costs start-up time only: the chain has a hole there.
    pub(super) fn flush(&mut self) {
        if self.batch.entries.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, empty(0));
        self.batch = empty(batch.next);
        let Some(store) = self.store.upgrade() else { return };
        if let Err(error) = store.append(&self.topic, self.partition, &batch) {
            tracing::warn!(topic = %self.topic, partition = self.partition, %error, "the index cache could not be written");
        }
    }
}

fn empty(first: i64) -> Batch {
    Batch { first, next: first, anchor: (-1, KeyedId([0; KeyedId::LEN])), entries: Vec::new() }
}
