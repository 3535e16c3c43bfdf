//! A member of a consumer group: a thread that polls, one that commits, and one that watches both.
//!
//! What this file sees to, together with `rebalance`:
//!
//! * Every partition has a queue of its own, split off *before* it is assigned, so that a full partition holds up neither
//!   the others nor the callbacks.
//! * Snapshot, commit and answer happen under one lock, and so does the end of a revoke: the broker accepts a commit
//!   for a partition that its sender no longer owns, so nothing but this lock keeps a late one from overwriting the
//!   next owner's.
//! * An error answer to a commit says nothing: some of it may be stored. Nothing is concluded, the next commit repeats it.
//! * On revoke: fence, drain, commit, unassign. On loss: no wait, no commit.
//! * Doubt ends the process: a fatal client error, and a callback, a commit or a leave that hangs. The supervisor starts
//!   it again, and static membership makes that cheap.

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
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Offset};

use super::watch::Watched;
use super::{ConsumerSettings, Die, Doubt, GroupMetadata, Handler, Incoming, More, TopicPartition, Waker, reading};
use crate::clock::Clock;
use crate::kafka::client::{ClientError, KafkaConfig, log, log_error};

/// Most records taken from one partition before the others get their turn.
const TURN_RECORDS: usize = 256;

/// A poll thread that was away for longer than this may have missed a rebalance.
const TICK_GAP_MAX: Duration = Duration::from_secs(2);

/// The poll thread looks at its queues at least this often, whatever wakes it.
const IDLE: Duration = Duration::from_millis(100);

/// A running member of a consumer group.
pub struct GroupConsumer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) settings: ConsumerSettings,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) clock: Clock,
    pub(super) waker: Waker,
    pub(super) die: Die,
    pub(super) consumer: OnceLock<Weak<BaseConsumer<Context>>>,
    pub(super) queues: Mutex<HashMap<TopicPartition, PartitionQueue<Context>>>,
    pub(super) owned: Mutex<Vec<TopicPartition>>,
    /// Held over snapshot, commit and answer, and over the end of a revoke.
    pub(super) ownership: Mutex<()>,
    pub(super) stop: AtomicBool,
    /// Whether everything has ended but the watchdog.
    pub(super) left: AtomicBool,
    pub(super) commit_wake: (Mutex<()>, Condvar),
    /// Whether the poll thread is to leave the group and join it again.
    pub(super) rejoin: AtomicBool,
    /// When the poll thread last came round, in milliseconds of the monotonic clock.
    pub(super) tick_ms: Arc<AtomicU64>,
    /// Calls that may hang, and what the watchdog knows of them.
    pub(super) callback: Watched,
    pub(super) committing: Watched,
    pub(super) leaving: Watched,
}

pub(super) struct Context(Arc<Shared>);

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
        let _watched = shared.callback.enter(shared.clock.monotonic());
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
            left: AtomicBool::new(false),
            commit_wake: (Mutex::new(()), Condvar::new()),
            rejoin: AtomicBool::new(false),
            tick_ms: Arc::new(AtomicU64::new(0)),
            callback: Watched::default(),
            committing: Watched::default(),
            leaving: Watched::default(),
        });
        shared.tick_ms.store(shared.now_ms(), Ordering::SeqCst);
        let mut consumer: BaseConsumer<Context> = config.create_with_context(Context(shared.clone()))?;
        consumer.set_nonempty_callback(move || waker.wake());
        let consumer = Arc::new(consumer);
        shared.consumer.set(Arc::downgrade(&consumer)).ok();
        shared.join(&consumer)?;

        let mut threads = Vec::new();
        let (poll, commit, watch) = (shared.clone(), shared.clone(), shared.clone());
        let committing = consumer.clone();
        threads.push(spawn("commit", move || commit.commit_loop(&committing)));
        threads.push(spawn("poll", move || poll.poll_loop(consumer)));
        if shared.settings.instance.is_some() {
            let look = shared.clone();
            threads.push(spawn("group", move || look.look_loop()));
        }
        let watchdog = Some(spawn("watchdog", move || watch.watch_loop()));
        Ok(Self { shared, threads, watchdog })
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
        let leaving = self.shared.leaving.enter(self.shared.clock.monotonic());
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.waker.wake();
        self.shared.commit_wake.1.notify_all();
        let join = |thread: JoinHandle<()>| {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!(group = %self.shared.settings.group, "a consumer thread panicked");
            }
        };
        self.threads.drain(..).for_each(join);
        // The watchdog goes last: it watches this, too.
        drop(leaving);
        self.shared.left.store(true, Ordering::SeqCst);
        if let Some(watchdog) = self.watchdog.take() {
            join(watchdog);
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
    config.set("max.poll.interval.ms", (session * 7).clamp(60_000, 300_000).to_string());
    reading(&mut config);
    Ok(config)
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends the process for a fatal error of the client. That of a member whose identity is in use elsewhere is noted
    /// first: a restart with the same one would only take it away again.
    pub(super) fn die_of(&self, code: RDKafkaErrorCode, error: &dyn std::fmt::Display) {
        if code == RDKafkaErrorCode::FencedInstanceId {
            (self.settings.on_fenced.0)();
        }
        self.die(error.to_string());
    }

    pub(super) fn die(&self, why: impl Into<String>) {
        (self.die)(Doubt(format!("{}: {}", self.settings.group, why.into())));
    }

    fn join(&self, consumer: &BaseConsumer<Context>) -> Result<(), KafkaError> {
        let topics: Vec<&str> = self.settings.topics.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&topics)
    }

    fn poll_loop(&self, consumer: Arc<BaseConsumer<Context>>) {
        while !self.stop.load(Ordering::SeqCst) {
            self.tick();
            if self.rejoin.swap(false, Ordering::SeqCst) {
                // What is owned is revoked in the next rounds; the library joins when that is done.
                consumer.unsubscribe();
                if let Err(error) = self.join(&consumer) {
                    self.die(format!("joining again: {error}"));
                }
            }
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
        self.commit_last(&consumer);
        {
            let _ownership = self.ownership.lock();
            self.queues.lock().clear();
            self.owned.lock().clear();
            self.handler.revoked(&owned);
        }
        // Closing a static member leaves its place to its next start; `unsubscribe` would give it away.
        drop(consumer);
    }

    /// The commit before leaving. While the group rebalances it is refused, also when the brokers have begun a generation
    /// that this member has not heard of yet. The rebalance waits for this thread: it comes round, taking no record, until
    /// the commit is taken.
    fn commit_last(&self, consumer: &BaseConsumer<Context>) {
        const DEADLINE: Duration = Duration::from_secs(5);
        const ROUND: Duration = Duration::from_millis(50);
        let deadline = self.clock.monotonic() + DEADLINE;
        loop {
            let committed = {
                let _ownership = self.ownership.lock();
                self.commit(consumer, None)
            };
            let Err(error) = committed else { return };
            let rebalances = matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::RebalanceInProgress | RDKafkaErrorCode::IllegalGeneration)
            );
            if !rebalances || self.clock.monotonic() > deadline {
                tracing::warn!(group = %self.settings.group, %error, "the last commit failed: its records are replayed");
                return;
            }
            drop(consumer.poll(ROUND));
        }
    }

    /// Notes that the poll thread came round. If it was away for long, whatever vouched for the ownership before is void,
    /// and it is so before anybody sees the new tick.
    fn tick(&self) {
        let (before, now) = (self.tick_ms.load(Ordering::SeqCst), self.now_ms());
        if Duration::from_millis(now.saturating_sub(before)) > TICK_GAP_MAX {
            self.handler.lapsed(Duration::from_millis(now));
        }
        self.tick_ms.store(now, Ordering::SeqCst);
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
                    // Everything up to here was taken, so what lies between the last record and the end are markers.
                    Some(Err(KafkaError::PartitionEOF(_))) => self.at_end(at),
                    Some(Err(error)) => {
                        self.on_error(&error);
                        break;
                    }
                    None => break,
                }
            }
        }
        self.handler.turned();
        taken
    }

    /// Tells the handler where the log ends that it has taken everything of. Asks no broker.
    fn at_end(&self, at: &TopicPartition) {
        let position = self.consumer.get().and_then(Weak::upgrade).and_then(|consumer| consumer.position().ok());
        let element = position.as_ref().and_then(|list| list.find_partition(&at.topic, at.partition));
        if let Some(Offset::Offset(end)) = element.map(|element| element.offset()) {
            self.handler.passed(at, end);
        }
    }

    fn on_error(&self, error: &KafkaError) {
        let group = &self.settings.group;
        match error {
            KafkaError::MessageConsumptionFatal(code) => self.die_of(*code, error),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                // Retention overtook us, or the topic was made anew. The next start sees which.
                self.die(format!("the log no longer has the next offset: {error}"));
            }
            error => tracing::debug!(%group, %error, "consumer error"),
        }
    }
}
