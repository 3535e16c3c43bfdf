//! The consumer: one thread that polls, one that commits, and the rules of owning a partition.
//!
//! This module and its parts are the only ones that name rdkafka's consumer. They know nothing of records or sinks: a
//! [`Handler`] decides how much is admitted, what is done with it, and what may be committed.
//!
//! | part | what |
//! |---|---|
//! | `member` | a member of a group: its settings and its threads |
//! | `rebalance` | what happens when partitions come and go |
//! | `commit` | snapshot, commit and answer |
//! | `ownerless` | partitions that nobody in the group owns |
//! | `watch` | ends the process when a call hangs |
//! | `reader` | reading outside of any group |
//! | `scanner` | reading several partitions side by side |
//! | `offsets` | a group's offsets, looked at or made from outside |

mod commit;
mod member;
mod offsets;
mod ownerless;
mod reader;
mod rebalance;
pub mod scanner;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Offset};

use super::client::{ClientError, KafkaConfig};
use super::producer::TransactionalProducer;

pub use member::GroupConsumer;
pub use offsets::{
    Edge, GroupOffsets, beyond_the_end, commit_first, commit_from_outside, committed, log_edges, start_anew,
};
pub use ownerless::ownerless;
pub use reader::{ReadError, Reader};

/// A broker call inside a callback takes no longer than this.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// A partition of one of the topics that a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
}

/// A partition that was just assigned. Nothing is read from it before the handler gives it room.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// Which.
    pub at: TopicPartition,
    /// The committed offset.
    pub committed: i64,
    /// The metadata committed with it.
    pub metadata: String,
    /// Where reading begins: at the committed offset, or at the log's first if retention has taken that.
    pub base: i64,
    /// The log's first offset.
    pub low: i64,
    /// The log's end.
    pub high: i64,
}

/// What is to be committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Which.
    pub at: TopicPartition,
    /// The lowest offset that is not complete.
    pub base: i64,
    /// What is complete above it.
    pub metadata: String,
}

/// Who a member is in the present generation of its group: what makes offsets in a transaction those of a member.
pub struct GroupMetadata(pub(super) ConsumerGroupMetadata);

/// Offsets with their metadata, as the library wants them.
pub(super) fn commit_list(commits: &[Commit]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for commit in commits {
        let mut element = list.add_partition(&commit.at.topic, commit.at.partition);
        element.set_offset(Offset::Offset(commit.base))?;
        element.set_metadata(&commit.metadata);
    }
    Ok(list)
}

/// A record as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    message: &'a BorrowedMessage<'a>,
}

impl<'a> Incoming<'a> {
    pub(super) fn of(message: &'a BorrowedMessage<'a>) -> Self {
        Self { message }
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    /// The broker's time of it, Unix milliseconds; the producer's on the embedded cluster.
    pub fn time_ms(&self) -> u64 {
        self.message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.message.key()
    }

    /// Its value; a tombstone's is empty.
    pub fn value(&self) -> &'a [u8] {
        self.message.payload().unwrap_or_default()
    }

    /// Its headers; one without a value reads as empty.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let headers = self.message.headers();
        headers
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key, header.value.unwrap_or_default()))
    }
}

/// Whether a handler takes another record of the same partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// As many as there was room for.
    Yes,
    /// None before it was asked for its room again: it keeps this one for later.
    NotNow,
}

/// What a consumer's owner decides. What belongs to a commit ([`hold`](Self::hold), [`snapshot`](Self::snapshot),
/// [`committed`](Self::committed), [`release`](Self::release)) comes from the commit thread or from the poll thread, all
/// else from the poll thread, and none may block except `hold` and [`drain`](Self::drain).
pub trait Handler: Send + Sync + 'static {
    /// Partitions were assigned, with a new epoch each.
    fn assigned(&self, partitions: Vec<Assigned>);

    /// How many records of this partition are wanted now.
    fn room(&self, at: &TopicPartition) -> usize;

    /// Takes a record. Called at most as often as [`room`](Self::room) said, and not again before `room` was asked anew
    /// once it has answered [`More::NotNow`].
    fn record(&self, at: &TopicPartition, record: Incoming<'_>) -> More;

    /// One turn over all partitions has ended.
    fn turned(&self);

    /// Everything below `end` was taken, and the log ended there: offsets below it that no record had are markers.
    fn passed(&self, at: &TopicPartition, end: i64);

    /// The poll thread was away for so long that a rebalance may have been missed: no commit sent before `now` vouches for
    /// an ownership any more.
    fn lapsed(&self, now: Duration);

    /// Starts no new effect of any partition from now on, and waits until those started have ended. `false` if they have
    /// not at its own deadline. Only between it and [`release`](Self::release) is a transaction committed.
    fn hold(&self) -> bool;

    /// Effects may start again.
    fn release(&self);

    /// Starts no new effect for these partitions from now on.
    fn fence(&self, partitions: &[TopicPartition]);

    /// Waits until the effects already started have ended, or for its own deadline.
    fn drain(&self, partitions: &[TopicPartition]);

    /// What may be committed now: of these partitions, or of all.
    fn snapshot(&self, only: Option<&[TopicPartition]>) -> Vec<Commit>;

    /// A commit was acknowledged. `sent` is when it was sent, by the clock's monotonic time.
    fn committed(&self, commits: &[Commit], sent: Duration);

    /// Forgets these partitions.
    fn revoked(&self, partitions: &[TopicPartition]);

    /// Whether something completed since the last snapshot.
    fn dirty(&self) -> bool;
}

/// Settings of a group's consumer.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// The group.
    pub group: String,
    /// The topics.
    pub topics: Vec<Arc<str>>,
    /// The identity of a static member. `None` only on the embedded cluster.
    pub instance: Option<String>,
    /// The session timeout.
    pub session: Duration,
    /// How long the poll thread may be in a rebalance callback before the process ends.
    pub callback_deadline: Duration,
    /// How often to commit while something completes.
    pub commit_interval: Duration,
    /// Whether the cluster is the embedded one: a group without offsets starts at the log's beginning.
    pub embedded: bool,
    /// The open transaction that everything the handler does is part of, and that commits its offsets. `None` where each
    /// effect stands for itself. Needs an `instance`: it is what the broker tells a member of today from one of
    /// yesterday by, when the library has forgotten its member id.
    pub transaction: Option<Arc<TransactionalProducer>>,
    /// Called before the process ends because another one has this member's identity.
    pub on_fenced: OnFenced,
}

/// Takes note that another process has this member's identity.
#[derive(Clone)]
pub struct OnFenced(pub Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for OnFenced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnFenced")
    }
}

/// What a running consumer shares with its handler.
#[derive(Debug, Clone)]
pub struct Waker(Arc<(Mutex<bool>, Condvar)>);

impl Default for Waker {
    fn default() -> Self {
        Self::new()
    }
}

impl Waker {
    /// A waker that nobody waits for yet.
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    /// Makes the poll thread look at its queues again.
    pub fn wake(&self) {
        let mut woken = self.0.0.lock();
        if !*woken {
            *woken = true;
            self.0.1.notify_one();
        }
    }

    fn wait(&self, at_most: Duration) {
        let mut woken = self.0.0.lock();
        if !*woken {
            self.0.1.wait_for(&mut woken, at_most);
        }
        *woken = false;
    }
}

/// Why the process must end.
#[derive(Debug, Clone)]
pub struct Doubt(pub String);

/// Ends the process: never returns in a product, may record in a test.
pub type Die = Arc<dyn Fn(Doubt) + Send + Sync>;

/// The library wants a name even from those that are in no group.
const NO_GROUP: &str = "sealstream-reader";

/// A client that reads outside of any group.
fn groupless(kafka: &KafkaConfig) -> Result<ClientConfig, ClientError> {
    let mut config = kafka.settings()?;
    config.set("group.id", NO_GROUP);
    reading(&mut config);
    Ok(config)
}

/// What all that read have in common.
fn reading(config: &mut ClientConfig) {
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    config.set("enable.partition.eof", "true"); // tells where a log ends whose last offsets are markers
    config.set("isolation.level", "read_committed");
    config.set("fetch.wait.max.ms", "50");
    config.set("fetch.queue.backoff.ms", "20");
    config.set("queued.min.messages", "1000");
    config.set("queued.max.messages.kbytes", "2048");
    config.set("fetch.message.max.bytes", crate::limits::RECORD_BYTES_MAX.to_string());
}
