//! Opening partitions: the index of each is brought up to its committed offset before its first record is admitted.
//!
//! What the cache on disk has is loaded, and the rest is read from the log: `[high, base)`, where `high` is the end of
//! the cache's chain, or the offset at the time of `base` less the window. This runs on a thread of its own, off the
//! consumer's callbacks, so that other partitions go on meanwhile.
//!
//! Several partitions of one topic are read side by side, in a *burst*: asking the brokers costs a round trip for all
//! instead of one for each. A partition that is revoked, or whose engine ends, is given up within [`POLL`]. What the brokers
//! don't answer is asked again, for ever: a partition with half an index would repeat events.
//!
//! With `dedup.cold_index = "serve"` a partition without a usable cache is opened at once, with an index that begins at
//! `base`. The thread goes on with the whole one until it has seen as much as that, and then puts it in its place.

mod burst;
mod start;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::clock::Clock;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{Assigned, Incoming, TopicPartition};
use common::telemetry::Sparing;

use super::Lane;
use super::cache::Cache;
use super::throttle::Throttle;
use crate::core::index::Index;
use crate::core::partition::{DedupKey, Partition};
use crate::core::progress::{BASE_MAX, MetadataError, Progress};
use crate::metrics;
use crate::store::{Place, Store};

/// How often a thread that waits looks whether its partitions are still wanted.
const POLL: Duration = Duration::from_millis(100);

/// Most partitions of one burst. Others wait for the next.
const BURST_PARTITIONS: usize = 256;

/// How long to wait before brokers that did not answer are asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is said of brokers that don't answer.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));

/// Tells a record's dedup key, `None` for a record that can't be trusted.
pub type KeyOf = Arc<dyn Fn(&Lane, &Incoming<'_>) -> Option<DedupKey> + Send + Sync>;

/// What to do with a partition whose window must be read from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColdIndex {
    /// It is opened when its window is known.
    Wait,
    /// It is opened at once.
    Serve,
}

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
    /// What to do without a cache.
    pub cold: ColdIndex,
    /// How fast to read.
    pub throttle: Arc<Throttle>,
    /// Time.
    pub clock: Clock,
}

impl IndexSettings {
    fn place(&self, at: &TopicPartition) -> Place {
        Place::new(&at.topic, &self.cache, at.partition)
    }

    fn window_ms(&self) -> u64 {
        u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A partition to be opened.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) lane: Arc<Lane>,
    pub(super) epoch: u64,
    pub(super) assigned: Assigned,
    pub(super) window: u32,
    /// Whether the cache turned out to be of another log.
    pub(super) foreign: bool,
    /// Whether it was opened already, with an index that is to be completed.
    pub(super) early: bool,
}

/// A partition's index, and the cache that goes on where it ends.
pub(super) struct Built {
    pub(super) index: Index,
    pub(super) cache: Cache,
}

/// The engine, as its opener sees it.
pub(super) trait Owner: Send + Sync {
    /// Whether a partition is still to be opened, or completed.
    fn wants(&self, job: &Job) -> bool;

    /// A partition may be admitted from. Without a cache its index is completed later.
    fn opened(&self, job: &Job, partition: Partition, cache: Option<Cache>);

    /// Puts a whole index in the place of one that begins at `base`; gives it back, with the offset that it must cover first,
    /// if that one has seen more.
    fn completed(&self, job: &Job, built: Built) -> Option<(Built, i64)>;
}

/// Opens partitions.
pub(super) struct Opener(Sender<Job>);

impl Opener {
    pub(super) fn start(settings: IndexSettings, owner: Arc<dyn Owner>) -> Self {
        let (jobs, waiting) = channel::<Job>();
        let run = move || Work { settings, owner, waiting, backlog: VecDeque::new() }.run();
        std::thread::Builder::new().name("opener".to_owned()).spawn(run).expect("the system has room for a thread");
        Self(jobs)
    }

    pub(super) fn open(&self, job: Job) {
        // The thread ends only after the sender is gone.
        self.0.send(job).ok();
    }
}

/// Progress from what was committed. What retention took since then is lost, and counted.
pub(super) fn progress(lane: &Lane, assigned: &Assigned, window: u32) -> Result<Progress, MetadataError> {
    let mut progress = Progress::restore(assigned.committed, &assigned.metadata, window)?;
    metrics::lost_to_retention(&lane.sink, progress.expire(assigned.base));
    Ok(progress)
}

/// The opener's thread.
struct Work {
    settings: IndexSettings,
    owner: Arc<dyn Owner>,
    waiting: Receiver<Job>,
    backlog: VecDeque<Job>,
}

impl Work {
    fn run(mut self) {
        loop {
            if self.backlog.is_empty() {
                match self.waiting.recv() {
                    Ok(job) => self.backlog.push_back(job),
                    Err(_) => return,
                }
            }
            self.backlog.extend(self.waiting.try_iter());
            let owner = self.owner.clone();
            self.backlog.retain(|job| owner.wants(job));
            let Some(lane) = self.backlog.front().map(|job| job.lane.clone()) else { continue };
            let mut burst = burst::Burst::new(&self.settings, &*owner, lane);
            if let Err(error) = burst.run(&self.waiting, &mut self.backlog) {
                if let Some(left_out) = REPEATS.pass("index", self.settings.clock.monotonic()) {
                    tracing::warn!(%error, left_out, "the dedup index could not be read from the log, trying again");
                }
                self.backlog.extend(burst.left());
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// A partition that can be admitted from.
fn partition(job: &Job, index: Index) -> Partition {
    let Assigned { at, base, .. } = &job.assigned;
    let progress = progress(&job.lane, &job.assigned, job.window).unwrap_or_else(|error| {
        // Written by another version: what it says is lost, so these records are delivered again, as after a crash, and
        // counting begins anew.
        tracing::error!(topic = %at.topic, partition = at.partition, %error, "progress above the committed offset is not known");
        Progress::restore((*base).clamp(0, BASE_MAX), "", job.window).expect("these and empty metadata are known")
    });
    Partition::new(progress, Some(index))
}
