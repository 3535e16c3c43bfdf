//! The consumer: one thread that polls, one that commits, and the rules of owning a partition.
//!
//! This is the only file that names rdkafka's consumer. It knows nothing of records or sinks: a [`Handler`] decides how
//! much is admitted, what is done with it, and what may be committed. What this file sees to:
//!
//! * Every partition has a queue of its own, split off *before* it is assigned, so that a full partition holds up neither
//!   the others nor the callbacks.
//! * Snapshot, commit and answer happen under one lock, and so does the end of a revoke: the broker accepts a commit
//!   for a partition that its sender no longer owns, so nothing but this lock keeps a late one from overwriting the
//!   next owner's.
//! * An error answer to a commit says nothing: some of it may be stored. Nothing is concluded, the next commit repeats it.
//! * On revoke: fence, drain, commit, unassign. On loss: no wait, no commit.
//! * Doubt ends the process: a fatal client error or a callback that hangs. The supervisor starts it again, and static
//!   membership makes that cheap.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Offset};

use super::client::{ClientError, KafkaConfig, Logged, log, log_error};
use crate::clock::Clock;

/// A broker call inside a callback takes no longer than this.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Most records taken from one partition before the others get their turn.
const TURN_RECORDS: usize = 256;

/// The poll thread looks at its queues at least this often, whatever wakes it.
const IDLE: Duration = Duration::from_millis(100);

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
    /// The committed offset, where reading begins.
    pub base: i64,
    /// The metadata committed with it.
    pub metadata: String,
    /// Records between the committed offset and the log's first that retention deleted: they are lost.
    pub lost: u64,
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

/// What a consumer's owner decides. All calls but [`snapshot`](Self::snapshot) and [`committed`](Self::committed), which
/// come from the commit thread too, come from the poll thread, and none may block except [`drain`](Self::drain).
pub trait Handler: Send + Sync + 'static {
    /// Partitions were assigned, with a new epoch each.
    fn assigned(&self, partitions: Vec<Assigned>);

    /// How many records of this partition are wanted now.
    fn room(&self, at: &TopicPartition) -> usize;

    /// Takes a record. Called at most as often as [`room`](Self::room) said, and not again before `room` was asked anew
    /// once it has answered [`More::NotNow`].
    fn record(&self, at: &TopicPartition, record: Incoming<'_>) -> More;

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

/// A running member of a consumer group.
pub struct GroupConsumer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    settings: ConsumerSettings,
    handler: Arc<dyn Handler>,
    clock: Clock,
    waker: Waker,
    die: Die,
    consumer: OnceLock<Weak<BaseConsumer<Context>>>,
    queues: Mutex<HashMap<TopicPartition, PartitionQueue<Context>>>,
    owned: Mutex<Vec<TopicPartition>>,
    /// Held over snapshot, commit and answer, and over the end of a revoke.
    ownership: Mutex<()>,
    stop: AtomicBool,
    commit_wake: (Mutex<()>, Condvar),
    /// When the poll thread last came round, in milliseconds of the monotonic clock.
    tick_ms: Arc<AtomicU64>,
    /// When the poll thread entered a callback, likewise; 0 outside of one.
    callback_ms: AtomicU64,
}

struct Context(Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: Code, list: &mut TopicPartitionList) {
        let shared = &self.0;
        shared.callback_ms.store(shared.now_ms().max(1), Ordering::SeqCst);
        match code {
            Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => shared.assign(consumer, list),
            Code::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => shared.revoke(consumer, list),
            other => {
                tracing::warn!(group = %shared.settings.group, code = ?other, "rebalance error");
                if let Err(error) = consumer.unassign() {
                    shared.die(format!("unassign after a rebalance error: {error}"));
                }
            }
        }
        shared.callback_ms.store(0, Ordering::SeqCst);
    }
}

impl GroupConsumer {
    /// Joins the group and starts the threads.
    pub fn start(
        kafka: &KafkaConfig,
        settings: ConsumerSettings,
        handler: Arc<dyn Handler>,
        clock: Clock,
        waker: Waker,
        die: Die,
    ) -> Result<Self, ClientError> {
        let config = group_settings(kafka, &settings)?;
        let shared = Arc::new(Shared {
            settings,
            handler,
            clock,
            waker: waker.clone(),
            die,
            consumer: OnceLock::new(),
            queues: Mutex::default(),
            owned: Mutex::default(),
            ownership: Mutex::new(()),
            stop: AtomicBool::new(false),
            commit_wake: (Mutex::new(()), Condvar::new()),
            tick_ms: Arc::new(AtomicU64::new(0)),
            callback_ms: AtomicU64::new(0),
        });
        shared.tick_ms.store(shared.now_ms(), Ordering::SeqCst);
        let mut consumer: BaseConsumer<Context> = config.create_with_context(Context(shared.clone()))?;
        consumer.set_nonempty_callback(move || waker.wake());
        let consumer = Arc::new(consumer);
        shared.consumer.set(Arc::downgrade(&consumer)).ok();
        let topics: Vec<&str> = shared.settings.topics.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&topics)?;

        let mut threads = Vec::new();
        let (poll, commit, watch) = (shared.clone(), shared.clone(), shared.clone());
        let committing = consumer.clone();
        threads.push(spawn("commit", move || commit.commit_loop(&committing)));
        threads.push(spawn("poll", move || poll.poll_loop(consumer)));
        threads.push(spawn("watchdog", move || watch.watch_loop()));
        Ok(Self { shared, threads })
    }

    /// When the poll thread last came round, in milliseconds of the clock's monotonic time.
    pub fn tick_ms(&self) -> Arc<AtomicU64> {
        self.shared.tick_ms.clone()
    }

    /// Who this member is now. `None` once it has stopped.
    pub fn metadata(&self) -> Option<GroupMetadata> {
        self.shared.consumer.get()?.upgrade()?.group_metadata().map(GroupMetadata)
    }

    /// The partitions owned now.
    pub fn owned(&self) -> Vec<TopicPartition> {
        self.shared.owned.lock().clone()
    }

    /// Makes the commit thread look whether there is something to commit.
    pub fn commit_soon(&self) {
        self.shared.commit_wake.1.notify_one();
    }

    /// Fences, drains, commits and leaves by closing, so that a static member keeps its place. Blocks.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.waker.wake();
        self.shared.commit_wake.1.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(group = %self.shared.settings.group, "a consumer thread panicked");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("the system has room for a thread")
}

fn group_settings(kafka: &KafkaConfig, settings: &ConsumerSettings) -> Result<ClientConfig, ClientError> {
    let mut config = kafka.settings()?;
    config.set("group.id", &settings.group);
    config.set("group.protocol", "classic");
    config.set("partition.assignment.strategy", "cooperative-sticky");
    if let Some(instance) = &settings.instance {
        config.set("group.instance.id", instance);
    }
    let session = settings.session.as_millis();
    config.set("session.timeout.ms", session.to_string());
    config.set("heartbeat.interval.ms", (session / 15).clamp(300, 3000).to_string());
    config.set("max.poll.interval.ms", (session * 6).clamp(60_000, 300_000).to_string());
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    reading(&mut config);
    Ok(config)
}

/// What all that read have in common.
fn reading(config: &mut ClientConfig) {
    config.set("isolation.level", "read_committed");
    config.set("fetch.wait.max.ms", "50");
    config.set("fetch.queue.backoff.ms", "20");
    config.set("queued.min.messages", "1000");
    config.set("queued.max.messages.kbytes", "2048");
    config.set("fetch.message.max.bytes", crate::limits::RECORD_BYTES_MAX.to_string());
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    fn die(&self, why: impl Into<String>) {
        (self.die)(Doubt(format!("{}: {}", self.settings.group, why.into())));
    }

    fn names(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let name = |topic: &str| self.settings.topics.iter().find(|known| &***known == topic).cloned();
        let elements = list.elements();
        let names = elements.iter().map(|element| TopicPartition {
            topic: name(element.topic()).unwrap_or_else(|| element.topic().into()),
            partition: element.partition(),
        });
        names.collect()
    }

    fn assign(&self, consumer: &BaseConsumer<Context>, list: &mut TopicPartitionList) {
        let ownership = self.ownership.lock();
        if self.stop.load(Ordering::SeqCst) {
            // Leaving: take the partitions without reading them, so that the group is stable until the close.
            if let Err(error) = consumer.incremental_assign(list) {
                self.die(format!("assign while stopping: {error}"));
            }
            return;
        }
        let assigned = match self.positions(consumer, list) {
            Ok(assigned) => assigned,
            Err(why) => return self.die(why),
        };
        let mut queues = Vec::new();
        for partition in &assigned {
            let at = &partition.at;
            let queue = self.consumer.get().and_then(Weak::upgrade).and_then(|consumer| {
                let waker = self.waker.clone();
                let mut queue = consumer.split_partition_queue(&at.topic, at.partition)?;
                queue.set_nonempty_callback(move || waker.wake());
                Some(queue)
            });
            let Some(queue) = queue else { return self.die(format!("no queue for {at:?}")) };
            queues.push((at.clone(), queue));
            if let Err(error) = list.set_partition_offset(&at.topic, at.partition, Offset::Offset(partition.base)) {
                return self.die(format!("offset of {at:?}: {error}"));
            }
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Eager => consumer.assign(list),
            RebalanceProtocol::Cooperative | RebalanceProtocol::None => consumer.incremental_assign(list),
        };
        if let Err(error) = result {
            return self.die(format!("assign: {error}"));
        }
        tracing::info!(group = %self.settings.group, partitions = ?brief(&self.names(list)), "partitions assigned");
        self.owned.lock().extend(queues.iter().map(|(at, _)| at.clone()));
        self.queues.lock().extend(queues);
        self.handler.assigned(assigned);
        drop(ownership);
        self.commit_wake.1.notify_one();
        self.waker.wake();
    }

    /// Where the group stands, from the broker.
    fn positions(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) -> Result<Vec<Assigned>, String> {
        let mut asked = TopicPartitionList::new();
        for at in self.names(list) {
            asked.add_partition(&at.topic, at.partition);
        }
        let stored =
            consumer.committed_offsets(asked, CALL_DEADLINE).map_err(|error| format!("committed offsets: {error}"))?;
        let mut assigned = Vec::new();
        for (at, element) in self.names(&stored).into_iter().zip(stored.elements()) {
            let (low, high) = consumer
                .fetch_watermarks(&at.topic, at.partition, CALL_DEADLINE)
                .map_err(|error| format!("watermarks of {at:?}: {error}"))?;
            let base = match element.offset() {
                Offset::Offset(base) => base,
                _ if self.settings.embedded => low,
                _ => {
                    return Err(format!(
                        "{}-{} has no committed offset: it expired, or the group was never made; \
                         `sealstream topics create` commits the first offsets of every group",
                        at.topic, at.partition
                    ));
                }
            };
            if base > high {
                return Err(beyond_the_end(&self.settings.group, &at, base, high));
            }
            let lost = u64::try_from(low - base).unwrap_or(0);
            if lost > 0 {
                // Nothing can bring these back. Go on with what is there, and say so.
                tracing::error!(group = %self.settings.group, topic = %at.topic, partition = at.partition, committed = base, low,
                    "records were lost to retention before they were read");
            }
            assigned.push(Assigned {
                base: base.max(low),
                metadata: element.metadata().to_owned(),
                lost,
                low,
                high,
                at,
            });
        }
        Ok(assigned)
    }

    fn revoke(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let partitions = self.names(list);
        let lost = consumer.assignment_lost();
        self.handler.fence(&partitions);
        if !lost {
            self.handler.drain(&partitions);
        }
        let ownership = self.ownership.lock();
        if !lost && let Err(error) = self.commit(consumer, Some(&partitions)) {
            tracing::warn!(group = %self.settings.group, %error, "the last commit before a revoke failed: its records are replayed");
        }
        {
            let mut queues = self.queues.lock();
            queues.retain(|at, _| !partitions.contains(at));
        }
        self.owned.lock().retain(|at| !partitions.contains(at));
        self.handler.revoked(&partitions);
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Eager => consumer.unassign(),
            RebalanceProtocol::Cooperative | RebalanceProtocol::None => consumer.incremental_unassign(list),
        };
        drop(ownership);
        tracing::info!(group = %self.settings.group, lost, partitions = ?brief(&partitions), "partitions revoked");
        if let Err(error) = result {
            self.die(format!("unassign: {error}"));
        }
    }

    /// Commits what the handler says. The caller holds `ownership`.
    fn commit(&self, consumer: &BaseConsumer<Context>, only: Option<&[TopicPartition]>) -> Result<bool, KafkaError> {
        let commits = self.handler.snapshot(only);
        if commits.is_empty() {
            return Ok(false);
        }
        let list = commit_list(&commits)?;
        let sent = self.clock.monotonic();
        consumer.commit(&list, CommitMode::Sync)?;
        self.handler.committed(&commits, sent);
        self.waker.wake();
        Ok(true)
    }

    fn commit_loop(&self, consumer: &BaseConsumer<Context>) {
        const IDLE_COMMIT: Duration = Duration::from_secs(1);
        let mut last = self.clock.monotonic();
        while !self.stop.load(Ordering::SeqCst) {
            {
                let mut guard = self.commit_wake.0.lock();
                self.commit_wake.1.wait_for(&mut guard, self.settings.commit_interval);
            }
            let now = self.clock.monotonic();
            if !self.handler.dirty() && now.saturating_sub(last) < IDLE_COMMIT {
                continue;
            }
            last = now;
            let _ownership = self.ownership.lock();
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if let Err(error) = self.commit(consumer, None) {
                tracing::debug!(group = %self.settings.group, %error, "commit failed, it is repeated");
                if consumer.client().fatal_error().is_some() {
                    self.die(format!("commit: {error}"));
                }
            }
        }
    }

    fn poll_loop(&self, consumer: Arc<BaseConsumer<Context>>) {
        while !self.stop.load(Ordering::SeqCst) {
            self.tick_ms.store(self.now_ms(), Ordering::SeqCst);
            if let Some(result) = consumer.poll(Duration::ZERO) {
                match result {
                    Ok(message) => {
                        // Split before it was assigned, so this can't be; skipping the record would lose it.
                        self.die(format!(
                            "a record of {}-{} came past its queue",
                            message.topic(),
                            message.partition()
                        ));
                    }
                    Err(error) => self.on_error(&error),
                }
            }
            if self.turn() == 0 {
                self.waker.wait(IDLE);
            }
        }
        let owned = self.owned.lock().clone();
        self.handler.fence(&owned);
        self.handler.drain(&owned);
        {
            let _ownership = self.ownership.lock();
            if let Err(error) = self.commit(&consumer, None) {
                tracing::warn!(group = %self.settings.group, %error, "the last commit failed: its records are replayed");
            }
            self.queues.lock().clear();
            self.owned.lock().clear();
            self.handler.revoked(&owned);
        }
        // Closing a static member leaves its place to its next start; `unsubscribe` would give it away.
        drop(consumer);
    }

    /// One turn over all queues: how many records were taken.
    fn turn(&self) -> usize {
        let queues = self.queues.lock();
        let mut taken = 0;
        for (at, queue) in queues.iter() {
            let room = self.handler.room(at).min(TURN_RECORDS);
            for _ in 0..room {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        taken += 1;
                        match self.handler.record(at, Incoming { message: &message }) {
                            More::Yes => {}
                            More::NotNow => break,
                        }
                    }
                    Some(Err(error)) => {
                        self.on_error(&error);
                        break;
                    }
                    None => break,
                }
            }
        }
        taken
    }

    fn on_error(&self, error: &KafkaError) {
        let group = &self.settings.group;
        match error {
            KafkaError::MessageConsumptionFatal(_) => self.die(error.to_string()),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                // Retention overtook us, or the topic was made anew. The next start sees which.
                self.die(format!("the log no longer has the next offset: {error}"));
            }
            error => tracing::debug!(%group, %error, "consumer error"),
        }
    }

    /// A synchronous commit has no deadline of its own, and a callback that hangs holds the whole group.
    fn watch_loop(&self) {
        let deadline = u64::try_from(self.settings.callback_deadline.as_millis()).unwrap_or(u64::MAX);
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(250));
            let entered = self.callback_ms.load(Ordering::SeqCst);
            if entered != 0 && self.now_ms().saturating_sub(entered) > deadline {
                self.die("a rebalance callback is past its deadline");
            }
        }
    }
}

/// Why a group can't go on where it stands: its topic is not the one that it read.
pub fn beyond_the_end(group: &str, at: &TopicPartition, base: i64, high: i64) -> String {
    let TopicPartition { topic, partition } = at;
    format!(
        "group {group} has committed offset {base} of {topic}-{partition}, whose log ends at {high}: the topic was made anew, or \
         has lost records; {}",
        start_anew(group, topic)
    )
}

/// What mends a group whose committed offsets are of no use.
pub fn start_anew(group: &str, topic: &str) -> String {
    format!(
        "to read the topic from its beginning, stop every processor, run `kafka-consumer-groups.sh --delete-offsets --group {group} \
         --topic {topic}` and then `sealstream topics create`"
    )
}

/// `topic: [partitions]`, for the log.
fn brief(partitions: &[TopicPartition]) -> std::collections::BTreeMap<&str, Vec<i32>> {
    let mut brief: std::collections::BTreeMap<&str, Vec<i32>> = std::collections::BTreeMap::new();
    for at in partitions {
        brief.entry(&at.topic).or_default().push(at.partition);
    }
    brief
}

/// Why a part of the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker did not answer, or refused.
    #[error("reading {topic}-{partition}: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// Nothing came for longer than the deadline.
    #[error("reading {topic}-{partition}: nothing came after offset {after}")]
    Stalled {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The last offset read.
        after: i64,
    },
}

/// Reads parts of the log outside of any group.
pub struct Reader(BaseConsumer<ReaderContext>);

struct ReaderContext;

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logged.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logged.error(error, reason);
    }
}

impl ConsumerContext for ReaderContext {}

impl Reader {
    /// A reader; it connects when it is used.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, ClientError> {
        let mut config = kafka.settings()?;
        // The library wants a name even from those that are in no group.
        config.set("group.id", "sealstream-reader");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true");
        reading(&mut config);
        Ok(Self(config.create_with_context(ReaderContext)?))
    }

    /// The log's first offset and its end. Blocks.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), ReadError> {
        self.0.fetch_watermarks(topic, partition, CALL_DEADLINE).map_err(|source| kafka_error(topic, partition, source))
    }

    /// The first offset whose record is at or after a time, or the log's end. Blocks.
    pub fn offset_at(&self, topic: &str, partition: i32, time_ms: u64) -> Result<i64, ReadError> {
        let error = |source| kafka_error(topic, partition, source);
        let mut list = TopicPartitionList::new();
        let time = i64::try_from(time_ms).unwrap_or(i64::MAX);
        list.add_partition_offset(topic, partition, Offset::Offset(time)).map_err(error)?;
        let found = self.0.offsets_for_times(list, CALL_DEADLINE).map_err(error)?;
        match found.find_partition(topic, partition).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            Some(_) | None => Ok(self.watermarks(topic, partition)?.1),
        }
    }

    /// Hands every record of `[from, to)` to `each`, in order, until it says stop. Blocks.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        (from, to): (i64, i64),
        mut each: impl FnMut(Incoming<'_>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), ReadError> {
        const STALL: Duration = Duration::from_secs(30);
        if from >= to {
            return Ok(());
        }
        let error = |source| kafka_error(topic, partition, source);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(error)?;
        self.0.assign(&list).map_err(error)?;
        let mut after = from - 1;
        let result = loop {
            match self.0.poll(STALL) {
                Some(Ok(message)) => {
                    after = message.offset();
                    if after >= to || each(Incoming { message: &message }).is_break() || after + 1 >= to {
                        break Ok(());
                    }
                }
                // The end of the log, though records at its tail may be markers that never come.
                Some(Err(KafkaError::PartitionEOF(_))) => break Ok(()),
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange),
                ))) => break Err(error(KafkaError::MessageConsumption(code))),
                Some(Err(fatal @ KafkaError::MessageConsumptionFatal(_))) => break Err(error(fatal)),
                Some(Err(passing)) => tracing::debug!(topic, partition, error = %passing, "reader error"),
                None => break Err(ReadError::Stalled { topic: topic.to_owned(), partition, after }),
            }
        };
        self.0.unassign().map_err(error)?;
        result
    }
}

fn kafka_error(topic: &str, partition: i32, source: KafkaError) -> ReadError {
    ReadError::Kafka { topic: topic.to_owned(), partition, source }
}

/// The offsets that a group has committed, `None` where it has none. Blocks.
pub fn committed(
    kafka: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<(Option<i64>, String)>, ReadError> {
    let consumer = offsets_client(kafka, group)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let found = with_coordinator(|| consumer.committed_offsets(list.clone(), CALL_DEADLINE));
    let found = found.map_err(|source| kafka_error(topic, -1, source))?;
    let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    Ok(found.elements().iter().map(|element| (offset(element.offset()), element.metadata().to_owned())).collect())
}

/// Commits the first offsets of a group: for every partition of `topic` in which it has none. Answers how many. Blocks.
///
/// A group made so starts at the log's beginning; one whose offsets expired later is never taken for a new one.
pub fn commit_first(kafka: &KafkaConfig, group: &str, topic: &str, partitions: i32) -> Result<usize, ReadError> {
    let stored = committed(kafka, group, topic, partitions)?;
    let consumer = offsets_client(kafka, group)?;
    let mut list = TopicPartitionList::new();
    for (partition, _) in (0..partitions).zip(stored).filter(|(_, (offset, _))| offset.is_none()) {
        let error = |source| kafka_error(topic, partition, source);
        let low = first_offset(&consumer, topic, partition).map_err(error)?;
        list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(error)?;
    }
    if list.count() > 0 {
        with_coordinator(|| consumer.commit(&list, CommitMode::Sync))
            .map_err(|source| kafka_error(topic, -1, source))?;
    }
    Ok(list.count())
}

/// Calls again while the group's coordinator moves, or is made: the first group of a new cluster waits for its topic.
fn with_coordinator<T>(call: impl Fn() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    const PAUSE: Duration = Duration::from_millis(200);
    let mut tries = CALL_DEADLINE.as_millis() / PAUSE.as_millis();
    loop {
        tries -= 1;
        match call() {
            Err(error) if tries > 0 && is_moving(&error) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

/// The first offset of a partition that may have been made a moment ago: it takes the brokers a while to know of it.
fn first_offset(consumer: &BaseConsumer<ReaderContext>, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut tries = CALL_DEADLINE.as_millis() / PAUSE.as_millis();
    loop {
        tries -= 1;
        match consumer.fetch_watermarks(topic, partition, CALL_DEADLINE) {
            Ok((low, _)) => return Ok(low),
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition,
            )) if tries > 0 => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

fn offsets_client(kafka: &KafkaConfig, group: &str) -> Result<BaseConsumer<ReaderContext>, ClientError> {
    let mut config = kafka.settings()?;
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    Ok(config.create_with_context(ReaderContext)?)
}
