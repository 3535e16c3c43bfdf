//! Putting a processor together, and taking it apart in order.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::admin::{self, Health};
use common::clock::Clock;
use common::config::{Mistake, Mistakes};
use common::id::SinkId;
use common::kafka::admin::{Admin, AdminError};
use common::kafka::client::ClientError;
use common::kafka::consumer::{ConsumerSettings, Die, Doubt, GroupConsumer, OnFenced, Waker};
use common::kafka::producer::{Producer, ProducerSettings, TransactionError, TransactionalProducer};
use common::reload::{Facts, Marks, Reload, Reloader, Start};
use common::shutdown::Group as Tasks;
use common::spans::{ExportError, Tracer};
use common::telemetry::Metrics;
use common::topics::{Group, Topic};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::checks::{CheckError, Inspection, inspect};
use crate::config::Config;
use crate::deliverer::{Deliverer, dedup_key};
use crate::engine::{
    Engine, EngineHandler, EngineSettings, Guard, IndexSettings, KeyOf, Lane, Surroundings, Throttle, Watched, Work,
};
use crate::gate::Gate;
use crate::keys::Keys;
use crate::metrics::{DeliveryAge, Ended, RetryLateness};
use crate::outlet::Outlet;
use crate::pipeline::Pipeline;
use crate::reload::{self, Reloading};
use crate::router::Router;
use crate::sink::{KafkaSink, Sink, SinkError};
use crate::slot::{self, Fenced, Slot, SlotError};
use crate::store::{Keeper, KeeperSettings, NoStore, Store};
use crate::{measure, metrics, topics};

/// How long the last records may take to be acknowledged when a processor stops.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// How long a hand-off may take before it is tried again.
const HAND_OFF_DEADLINE: Duration = Duration::from_secs(10);

/// What a processor needs from its process.
pub struct Deps {
    /// Its tasks.
    pub tasks: Tasks,
    /// Time.
    pub clock: Clock,
    /// What the admin listener shows.
    pub metrics: Metrics,
    /// Ends the process.
    pub die: Die,
    /// The number of the configuration that it starts with: 1, unless the process ran another before.
    pub generation: u64,
}

impl Deps {
    /// Of a process of its own: doubt ends it with status 70, and its supervisor starts it again.
    pub fn system(metrics: Metrics) -> Self {
        let die = |Doubt(why): Doubt| {
            tracing::error!(why, "ending the process: what it may still do is in doubt");
            std::process::exit(70);
        };
        Self { tasks: Tasks::new(), clock: Clock::system(), metrics, die: Arc::new(die), generation: 1 }
    }
}

/// Why a processor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names is missing or wrong.
    #[error("{0}")]
    Configuration(#[from] Mistakes),
    /// A sink.
    #[error("sink {sink}: {source}")]
    Sink {
        /// Its name.
        sink: SinkId,
        /// Why.
        #[source]
        source: Box<SinkError>,
    },
    /// No identity.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// A Kafka client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A group's transactional id can't be taken over.
    #[error("transactions of group {group}: {source}")]
    Transaction {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: TransactionError,
    },
    /// Kafka was asked and did not answer well.
    #[error(transparent)]
    Kafka(#[from] AdminError),
    /// Kafka was asked about topics and groups, and did not answer well.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Topics are not as they must be.
    #[error("the topics are not as they must be:\n{}", .0.iter().map(|finding| format!("  {finding}")).collect::<Vec<_>>().join("\n"))]
    Topics(Vec<topics::Finding>),
    /// Spans can't be exported.
    #[error("telemetry: {0}")]
    Telemetry(#[from] ExportError),
    /// The admin listener.
    #[error("admin.address {address}: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running processor.
pub struct Running {
    admin_address: SocketAddr,
    consumers: Vec<GroupConsumer>,
    pipelines: Vec<Arc<Pipeline>>,
    sinks: Vec<Arc<Sink>>,
    store: Arc<dyn Store>,
    health: Health,
    reload: Reload,
    superseded: Arc<Notify>,
    tasks: Tasks,
    // Locked as long as it runs.
    _slot: Option<Slot>,
}

/// Reads every file that the configuration names and tells what is wrong with them. Reaches for no broker.
pub fn check(config: &Config) -> Result<(), Mistakes> {
    let ca = config.telemetry.export().ca_mistake().map(|wrong| Mistake::new("telemetry.otlp_ca", wrong));
    Mistakes::none_in(ca.into_iter().collect())?;
    Keys::load(config)?;
    reload::credentials(config)?;
    reload::expiries(config).map(drop)
}

/// Starts a processor. It joins its groups in the background; `/readyz` says when every partition that it owns is open. Only
/// the files that the configuration names are ever read anew.
pub async fn start(config: Config, deps: Deps) -> Result<Running, StartError> {
    start_from(move || Ok((config.clone(), Vec::new())), deps).await
}

/// The same with a configuration that is itself read anew: `load` answers it, and the files that it was read from.
pub async fn start_from(
    load: impl Fn() -> Result<(Config, Vec<PathBuf>), Mistakes> + Send + Sync + 'static,
    deps: Deps,
) -> Result<Running, StartError> {
    metrics::describe();
    // Once to know the files, and once after they were looked at: what changes from then on is seen.
    let marks = load().map(|(config, files)| Marks::of(&reload::named(&config, files)))?;
    let (config, _) = load()?;
    let keys = Arc::new(ArcSwap::from_pointee(Keys::load(&config)?));
    let (credentials, expiries) = (reload::credentials(&config)?, reload::expiries(&config)?);
    let embedded = config.topics.danger_embedded;
    let health = Health::new();
    health.set("partitions", false);
    let address = config.admin.address;
    let admin_address = admin::serve(&deps.tasks, address, deps.metrics.clone(), health.clone())
        .await
        .map_err(|source| StartError::Admin { address, source })?;

    let tracer = Tracer::start(config.telemetry.export(), "processor", &deps.tasks, &deps.clock, &deps.metrics)?;
    let cluster = if embedded { None } else { Some(check_topics(&config).await?) };
    let slot = if embedded { None } else { Some(Slot::take(config.data.dir.as_path())?) };
    let store = store(&config, slot.as_ref(), cluster, &deps.clock);
    let producer = Producer::new(
        &config.kafka,
        &ProducerSettings { ack_deadline: HAND_OFF_DEADLINE, ..ProducerSettings::default() },
    )?;
    let pipeline = pipeline(&config, &deps, keys.clone(), tracer, Arc::new(Outlet::Plain(producer)));
    let mut builder = Builder {
        config: &config,
        deps: &deps,
        keys: keys.clone(),
        pipeline,
        store: store.clone(),
        throttle: Arc::new(Throttle::new(deps.clock.clone(), config.dedup.scan_records_per_second)),
        instance: slot.as_ref().map(|slot| slot.instance().to_owned()),
        on_fenced: on_fenced(slot.as_ref(), deps.clock.clone()),
        consumers: Vec::new(),
        engines: Vec::new(),
    };
    if config.roles.router {
        builder.router()?;
    }
    let (mut sinks, mut pipelines) = (Vec::new(), vec![builder.pipeline.clone()]);
    let mut links = BTreeMap::new();
    if config.roles.deliverer {
        for (name, sink) in &config.sink {
            if sink.transactional {
                for side in builder.transactional(name)? {
                    sinks.push(side.sink);
                    pipelines.push(side.pipeline);
                }
                continue;
            }
            let made = Sink::new(sink, config.sink_cluster(sink), deps.clock.clone())
                .map_err(|source| StartError::Sink { sink: name.clone(), source: Box::new(source) })?;
            links.extend(made.link().map(|link| (name.clone(), link)));
            let made = Arc::new(made);
            let side = Side { pipeline: builder.pipeline.clone(), sink: made.clone(), transaction: None };
            builder.deliverer(name, &side, &side)?;
            sinks.push(made);
        }
    }
    let Builder { consumers, engines, .. } = builder;
    report_health(&deps.tasks, health.clone(), engines.clone());
    let log = (!embedded).then(|| measure::Log::new(&config)).transpose()?;
    deps.tasks.spawn("measure", measure::run(engines, log, deps.tasks.token()));
    if config.roles.deliverer {
        for (name, sink) in &config.sink {
            tracing::info!(sink = %name, per_lane = sink.permits(), lanes = 1 + config.retry.lanes.len(), "a crash repeats at most per_lane × lanes deliveries");
        }
    }
    let superseded = Arc::new(Notify::new());
    let reloading = Reloading { running: config.clone(), credentials, keys, links, superseded: superseded.clone() };
    let facts = Facts { restart: Vec::new(), expiries };
    let begun = Start {
        name: "processor",
        metrics: deps.metrics,
        clock: deps.clock,
        generation: deps.generation,
        marks,
        facts,
    };
    let reloader = Reloader::new(begun, Arc::new(move || reloading.read(&load)));
    let reload = reloader.start(&deps.tasks, config.reload.interval);
    let tasks = deps.tasks;
    Ok(Running { admin_address, consumers, pipelines, sinks, store, health, reload, superseded, tasks, _slot: slot })
}

impl Running {
    /// Where metrics and health are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Whether every partition owned is open, and at least one is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Reads its configuration anew.
    pub fn reload(&self) -> &Reload {
        &self.reload
    }

    /// Ends when its credentials for Kafka are others than those it started with: stop it and start another.
    pub async fn superseded(&self) {
        self.superseded.notified().await;
    }

    /// Leaves in order: fence, drain, commit, close; then waits for what was handed on.
    pub async fn stop(self) {
        let Self { consumers, pipelines, sinks, store, tasks, _slot, .. } = self;
        // Consumers are closed on threads of their own: closing polls, and callbacks wait.
        let closing = consumers.into_iter().map(|consumer| tokio::task::spawn_blocking(move || consumer.stop()));
        for closed in closing.collect::<Vec<_>>() {
            if closed.await.is_err() {
                tracing::error!("a consumer could not be closed");
            }
        }
        tasks.cancel();
        tasks.wait(FLUSH_DEADLINE).await;
        let flushed = tokio::task::spawn_blocking(move || {
            pipelines.iter().for_each(|pipeline| pipeline.outlet.flush(FLUSH_DEADLINE));
            sinks.iter().for_each(|sink| sink.flush(FLUSH_DEADLINE));
            store.close();
            // The last handles of the producers: dropping one blocks.
            drop((pipelines, sinks));
        });
        if flushed.await.is_err() {
            tracing::error!("the producers could not be flushed");
        }
        drop(_slot);
    }
}

/// The cache on disk.
fn store(config: &Config, slot: Option<&Slot>, cluster: Option<String>, clock: &Clock) -> Arc<dyn Store> {
    let dir = match slot {
        Some(slot) => slot.dir().to_owned(),
        None if config.data.dir.is_empty() => return Arc::new(NoStore),
        None => config.data.dir.as_path().to_owned(),
    };
    let settings = KeeperSettings {
        dir: dir.join("index"),
        window: config.dedup.window,
        cache_bytes: config.dedup.cache_bytes.as_u64(),
        disk_bytes: config.dedup.cache_disk_bytes.as_u64(),
        cluster: cluster.unwrap_or_else(|| "embedded".to_owned()),
    };
    Arc::new(Keeper::start(settings, clock.clone()))
}

/// The groups of a processor while it is put together.
struct Builder<'a> {
    config: &'a Config,
    deps: &'a Deps,
    keys: Arc<ArcSwap<Keys>>,
    pipeline: Arc<Pipeline>,
    store: Arc<dyn Store>,
    throttle: Arc<Throttle>,
    instance: Option<String>,
    on_fenced: OnFenced,
    consumers: Vec<GroupConsumer>,
    engines: Vec<Arc<dyn Watched>>,
}

/// How a group's consumer works.
struct GroupHow {
    dispatch_timeout: Duration,
    index: Option<IndexSettings>,
    commit_interval: Duration,
    transaction: Option<Arc<TransactionalProducer>>,
}

/// What the deliverer of one group works with.
struct Side {
    pipeline: Arc<Pipeline>,
    sink: Arc<Sink>,
    /// What its output, its hand-offs and its progress are parts of.
    transaction: Option<Arc<TransactionalProducer>>,
}

impl Builder<'_> {
    /// The groups of a transactional sink. Each has transactions of its own, for a transaction has the offsets of one group.
    fn transactional(&mut self, name: &SinkId) -> Result<[Side; 2], StartError> {
        let sides = [self.side(name, Group::Deliver(name.clone()))?, self.side(name, Group::Retry(name.clone()))?];
        let [events, retries] = &sides;
        self.deliverer(name, events, retries)?;
        Ok(sides)
    }

    fn side(&self, name: &SinkId, group: Group) -> Result<Side, StartError> {
        let settings = &self.config.sink[name];
        let group = group.name(&self.config.topics.prefix);
        let instance = self.instance.as_deref().expect("a checked configuration has it on a real cluster only");
        // The lock on the slot sees to it that nobody has the id but this process, and a dead one that it follows.
        let id = format!("{group}-{instance}");
        let producer = ProducerSettings { ack_deadline: settings.timeout, ..ProducerSettings::default() };
        let take_over = || {
            let producer = TransactionalProducer::new(&self.config.kafka, &producer, &id)?;
            producer.begin()?;
            Ok(Arc::new(producer))
        };
        let transaction =
            tokio::task::block_in_place(take_over).map_err(|source| StartError::Transaction { group, source })?;
        let outlet = Outlet::Transaction { producer: transaction.clone(), die: self.deps.die.clone() };
        let outlet = Arc::new(outlet);
        Ok(Side {
            pipeline: pipeline(self.config, self.deps, self.keys.clone(), self.pipeline.tracer.clone(), outlet.clone()),
            sink: Arc::new(Sink::Kafka(KafkaSink::through(outlet, settings.topic.clone()))),
            transaction: Some(transaction),
        })
    }

    fn router(&mut self) -> Result<(), StartError> {
        let work = Router::new(self.pipeline.clone());
        let in_flight = self.config.router.in_flight;
        let lane = self.lane(Topic::Inbox, None, in_flight);
        // A copy that is late is recognised behind it, so nothing is taken off the lease for a hand-off under way.
        let how = GroupHow {
            dispatch_timeout: Duration::ZERO,
            index: None,
            commit_interval: self.config.group.commit_interval,
            transaction: None,
        };
        self.group(&Group::Router, work, vec![lane], how)
    }

    fn deliverer(&mut self, name: &SinkId, events: &Side, retries: &Side) -> Result<(), StartError> {
        let settings = &self.config.sink[name];
        let (breaker, clock) = (settings.breaker.into(), self.deps.clock.clone());
        // One for both groups: what one learns about the sink, the other knows.
        let gate = Gate::new(name.clone(), breaker, settings.concurrency(), clock, RandomState::new().hash_one(name));
        let work = |side: &Side| Deliverer {
            gate: gate.clone(),
            pipeline: side.pipeline.clone(),
            sink_id: name.clone(),
            sink: side.sink.clone(),
            schedule: self.config.schedule(),
            age: DeliveryAge::of(name),
            lateness: RetryLateness::of(name),
            age_max_ms: u64::try_from(self.config.dedup.age_max.as_millis()).unwrap_or(u64::MAX),
        };
        let (fresh, again) = (work(events), work(retries));
        let lane = |topic| self.lane(topic, Some(name), settings.permits());
        let fresh_lanes = vec![lane(Topic::Events)];
        let retry_lanes: Vec<Lane> = self.config.retry_topics(name).map(lane).collect();
        let pipeline = self.pipeline.clone();
        let key_of: KeyOf = Arc::new(move |lane, record| {
            let head = pipeline.keys.load().core.open(&lane.topic, record.headers(), record.value()).ok()?;
            dedup_key(&lane.topic, &head)
        });
        // Two sinks read the same topic: each has a cache of its own, or one's progress would pass for the other's.
        let index = IndexSettings {
            window: self.config.dedup.window,
            kafka: self.config.kafka.clone(),
            embedded: self.config.topics.danger_embedded,
            store: self.store.clone(),
            cache: name.to_string(),
            key_of,
            cold: self.config.dedup.cold_index,
            throttle: self.throttle.clone(),
            clock: self.deps.clock.clone(),
        };
        let how = |side: &Side| GroupHow {
            dispatch_timeout: settings.timeout,
            index: Some(index.clone()),
            commit_interval: match side.transaction {
                None => self.config.group.commit_interval,
                Some(_) => settings.transaction_interval,
            },
            transaction: side.transaction.clone(),
        };
        let (fresh_how, again_how) = (how(events), how(retries));
        self.group(&Group::Deliver(name.clone()), fresh, fresh_lanes, fresh_how)?;
        self.group(&Group::Retry(name.clone()), again, retry_lanes, again_how)
    }

    fn lane(&self, topic: Topic, sink: Option<&SinkId>, permits: usize) -> Lane {
        let delay_ms = match &topic {
            Topic::Retry { delay, .. } => delay.as_ms(),
            Topic::Inbox | Topic::Events | Topic::Dead => 0,
        };
        let name = topic.name(&self.config.topics.prefix).into();
        let sink = sink.map(SinkId::to_string).unwrap_or_default();
        Lane {
            topic,
            name,
            sink,
            delay_ms,
            partitions: self.config.topics.partitions,
            permits,
            ended: Ended::default(),
        }
    }

    fn group<W: Work>(&mut self, group: &Group, work: W, lanes: Vec<Lane>, how: GroupHow) -> Result<(), StartError> {
        let Config { kafka, group: settings, topics, .. } = self.config;
        let GroupHow { dispatch_timeout, index, commit_interval, transaction } = how;
        let names = lanes.iter().map(|lane| lane.name.clone()).collect();
        let waker = Waker::new();
        let surroundings = Surroundings {
            clock: self.deps.clock.clone(),
            tasks: self.deps.tasks.clone(),
            runtime: Handle::current(),
            die: self.deps.die.clone(),
        };
        let engine_settings = EngineSettings {
            window: settings.window,
            drain_deadline: settings.drain_deadline,
            session: settings.session,
            dispatch_timeout,
            guard: if transaction.is_some() { Guard::Transaction } else { Guard::Lease },
        };
        let engine = Engine::new(work, lanes, engine_settings, surroundings, index, waker.clone())
            .expect("the configuration's check rules out a session without time to send");
        let consumer = GroupConsumer::start(
            kafka,
            ConsumerSettings {
                group: group.name(&topics.prefix),
                topics: names,
                instance: self.instance.clone(),
                session: settings.session,
                callback_deadline: settings.drain_deadline + Duration::from_secs(30),
                commit_interval,
                embedded: topics.danger_embedded,
                transaction,
                on_fenced: self.on_fenced.clone(),
            },
            Arc::new(EngineHandler(engine.clone())),
            self.deps.clock.clone(),
            waker,
            self.deps.die.clone(),
        )?;
        engine.watch_tick(consumer.tick_ms());
        self.engines.push(engine);
        self.consumers.push(consumer);
        Ok(())
    }
}

/// What router and deliverers share, but for where they write.
fn pipeline(
    config: &Config,
    deps: &Deps,
    keys: Arc<ArcSwap<Keys>>,
    tracer: Tracer,
    outlet: Arc<Outlet>,
) -> Arc<Pipeline> {
    let (prefix, partitions) = (config.topics.prefix.clone(), config.topics.partitions);
    Arc::new(Pipeline { outlet, prefix, partitions, keys, clock: deps.clock.clone(), tracer })
}

/// Writes it down where the next start looks for it.
fn on_fenced(slot: Option<&Slot>, clock: Clock) -> OnFenced {
    let dir = slot.map(|slot| slot.dir().to_owned());
    OnFenced(Arc::new(move || match dir.as_deref().map(|dir| slot::fenced(dir, clock.unix_ms())) {
        Some(Ok(Fenced::Renewed { instance })) => tracing::warn!(
            instance,
            "fenced twice within five minutes: another processor has a copy of this slot; it has a new identity now"
        ),
        Some(Err(error)) => {
            tracing::warn!(%error, "that another processor has this one's identity could not be written down");
        }
        Some(Ok(Fenced::Once)) | None => {}
    }))
}

/// Refuses to start on topics that could lose or repeat events. Answers the cluster's id.
async fn check_topics(config: &Config) -> Result<String, StartError> {
    let Inspection { findings, warnings } = inspect(config).await?;
    for warning in warnings {
        tracing::warn!(topic = %warning.topic, remedy = %warning.remedy, "{}", warning.wrong);
    }
    if config.topics.danger_single_broker {
        tracing::warn!("topics.danger_single_broker: an acknowledged event is on one disk only");
    }
    if !findings.is_empty() {
        return Err(StartError::Topics(findings));
    }
    let admin = Admin::new(&config.kafka)?;
    let (cluster, _) = tokio::task::block_in_place(|| admin.cluster())?;
    Ok(cluster.unwrap_or_default())
}

/// Ready while every partition that is owned is open. A processor without partitions is a spare, and ready too.
fn report_health(tasks: &Tasks, health: Health, engines: Vec<Arc<dyn Watched>>) {
    let token = tasks.token();
    tasks.spawn("health", async move {
        let mut every = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                _ = every.tick() => health.set("partitions", engines.iter().all(|engine| engine.is_open())),
                () = token.cancelled() => return,
            }
        }
    });
}
