//! The public edge: verifies signed requests and publishes them, still sealed, to Kafka.
//!
//! A request passes through stages that are types of their own, and is answered 200 only after the brokers'
//! acknowledgement. Ingest keeps nothing on disk, knows no event ids, and cannot open a payload: the crate that could is
//! not among its dependencies.
//!
//! Its configuration is read anew while it runs: see [`common::reload`], and `settings` for what that changes.
//!
//! [`start`] runs it inside any process; the binary adds arguments, logs and signals.

mod caps;
pub mod config;
mod edge;
mod failures;
mod forwarded;
mod frames;
mod metrics;
mod network;
pub mod proxy_protocol;
mod publish;
mod quota;
mod rate;
mod refusal;
mod scheme;
mod server;
mod settings;
mod shares;
mod source;
mod stage;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::admin::{self, Health};
use common::clock::Clock;
use common::config::{Mistake, Mistakes};
use common::kafka::client::{ClientError, KafkaConfig};
use common::reload::{Facts, Marks, Reading, Ready, Reload, Reloader};
use common::shutdown::Group;
use common::spans::{ExportError, Tracer};
use common::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use metrics::{ConnectionOutcome, HandshakeFailure, Limit, Outcome, VerificationFailure};
pub use rate::exchange::ExchangeError;
pub use scheme::Scheme;

use edge::Edge;
use metrics::EdgeMetrics;
use publish::{Producers, Publisher};
use rate::exchange::Store;
use server::Server;
use settings::Settings;

/// The condition that holds while Kafka answers and has the inbox.
const KAFKA: &str = "kafka";
/// The condition that holds while new requests are taken.
const TAKING: &str = "taking_requests";
/// The condition that holds once certificate and key are loaded.
const TLS: &str = "tls";

/// How often Kafka is asked whether it is there, when it was and when it was not.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBE_INTERVAL_UNREADY: Duration = Duration::from_secs(1);
/// How often the producer's queue is looked at.
const QUEUE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_DEADLINE: Duration = Duration::from_secs(3);
/// How long the brokers may take to say that a new producer may not begin.
const PROOF: Duration = Duration::from_secs(3);
/// How long answers that are written already may take to leave.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// How long what is queued may take to reach the brokers, however late it is.
const FLUSH_DEADLINE_MIN: Duration = Duration::from_secs(1);

/// What the process around gives.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Runs everything. Cancelling it drains ingest; its tasks end after everything was flushed.
    pub group: Group,
    /// The time.
    pub clock: Clock,
    /// Where to count.
    pub metrics: Metrics,
}

/// Why ingest could not start. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names is missing or wrong.
    #[error("{0}")]
    Configuration(#[from] Mistakes),
    /// The Kafka client refused its settings.
    #[error(transparent)]
    Kafka(#[from] ClientError),
    /// Spans can't be exported.
    #[error("telemetry: {0}")]
    Telemetry(#[from] ExportError),
    /// An address could not be listened on.
    #[error("cannot listen on {address} ({key}): {cause}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// A running ingest. It goes on when this is dropped: the group ends it.
#[derive(Debug, Clone)]
pub struct Running {
    local_addr: SocketAddr,
    admin_addr: SocketAddr,
    health: Health,
    reload: Reload,
}

impl Running {
    /// Where senders connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where metrics and health are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Whether it should get requests.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Reads its configuration anew.
    pub fn reload(&self) -> &Reload {
        &self.reload
    }
}

/// Reads every file that the configuration names and tells what is wrong with them. Opens no port and reaches for no broker.
pub fn check(config: &Config) -> Result<(), Mistakes> {
    let clock = Clock::system();
    let ca = config.telemetry.export().ca_mistake().map(|wrong| Mistake::new("telemetry.otlp_ca", wrong));
    Mistakes::none_in(ca.into_iter().collect())?;
    Settings::load(config, None, &EdgeMetrics::new(&Metrics::isolated(), &clock), &clock).map(drop)
}

/// What the clock of the Redis that nodes share a limit in says, Unix milliseconds, if one is configured.
pub async fn shared_store_time(config: &Config) -> Result<Option<u64>, ExchangeError> {
    // What is wrong with the files is told by `check`.
    match Store::load(&config.rate, &mut Vec::new()) {
        Some(store) => store.time_ms().await.map(Some),
        None => Ok(None),
    }
}

/// Starts ingest as tasks of the group, and returns when it listens. Kafka need not be there yet: readiness tells. Only the
/// files that the configuration names are ever read anew.
pub async fn start(config: Config, deps: Deps) -> Result<Running, StartError> {
    start_from(move || Ok((config.clone(), Vec::new())), deps).await
}

/// The same with a configuration that is itself read anew: `load` answers it, and the files that it was read from.
pub async fn start_from(
    load: impl Fn() -> Result<(Config, Vec<PathBuf>), Mistakes> + Send + Sync + 'static,
    deps: Deps,
) -> Result<Running, StartError> {
    let Deps { group, clock, metrics } = deps;
    let edge_metrics = EdgeMetrics::new(&metrics, &clock);
    // Once to know the files, and once after they were looked at: what changes from then on is seen.
    let marks = load().map(|(config, files)| Marks::of(&named(&config, files)))?;
    let (config, _) = load()?;
    let settings = Settings::load(&config, None, &edge_metrics, &clock)?;
    let facts = Facts { restart: Vec::new(), expiries: settings.expiries.clone() };
    // The internal listener has a group of its own, since it answers to the end; the last spans come with the last requests.
    let last = Group::new();
    let telemetry = &config.telemetry;
    let tracer = Tracer::start(telemetry.export(), "ingest", &last, &clock, &metrics)?;
    let edge = Arc::new(Edge::new(&config, settings, edge_metrics, clock.clone(), tracer)?);
    let server = Arc::new(Server::new(edge.clone()));
    let memory_bytes_max = config.memory_bytes_max();

    let health = edge.health.clone();
    health.set(TLS, true);
    health.set(KAFKA, false);
    health.set(TAKING, true);

    let address = config.listen.address;
    let listen = |key, address| move |cause| StartError::Listen { key, address, cause };
    let listener = TcpListener::bind(address).await.map_err(listen("listen.address", address))?;
    let local_addr = listener.local_addr().map_err(listen("listen.address", address))?;
    let address = config.admin.address;
    let admin_addr = admin::serve(&last, address, metrics.clone(), health.clone())
        .await
        .map_err(listen("admin.address", address))?;

    let reloading =
        Reloading { running: config.clone(), edge: edge.clone(), server: server.clone(), group: group.clone() };
    let begun = common::reload::Start { name: "ingest", metrics: metrics.clone(), clock, generation: 1, marks, facts };
    let reloader = Reloader::new(begun, Arc::new(move || reloading.read(&load)));
    let reload = reloader.start(&group, config.reload.interval);

    let listening = CancellationToken::new();
    group.spawn("ingest_listener", server.clone().listen(listener, listening.clone()));
    if let Some(exchange) = edge.exchange() {
        group.spawn("ingest_rate_exchange", exchange.run(group.token()));
    }
    group.spawn("ingest_queue", watch_queue(edge.publisher.clone(), edge.metrics.queue_records.clone(), group.clone()));
    group.spawn("ingest_probe", probe(edge.publisher.clone(), health.clone(), group.clone()));
    let drain = Drain { config: config.drain, edge, server, health: health.clone(), listening, last };
    let over = group.token();
    group.spawn("ingest", async move {
        over.cancelled().await;
        drain.run().await;
    });
    tracing::info!(%local_addr, %admin_addr, memory_bytes_max, "ingest listens");
    Ok(Running { local_addr, admin_addr, health, reload })
}

/// Every file that a configuration consists of.
fn named(config: &Config, mut files: Vec<PathBuf>) -> Vec<PathBuf> {
    files.extend(config.files());
    files
}

/// Reads everything anew for a running ingest.
struct Reloading {
    /// What only a start changes.
    running: Config,
    edge: Arc<Edge>,
    server: Arc<Server>,
    group: Group,
}

impl Reloading {
    /// Reads, checks and builds everything. Blocks.
    fn read(&self, load: impl Fn() -> Result<(Config, Vec<PathBuf>), Mistakes>) -> Reading {
        let (config, files) = match load() {
            Ok(loaded) => loaded,
            Err(mistakes) => return Reading { files: Vec::new(), outcome: Err(mistakes) },
        };
        Reading { files: named(&config, files), outcome: self.ready(&config) }
    }

    fn ready(&self, config: &Config) -> Result<Ready, Mistakes> {
        let in_effect = self.edge.settings();
        let settings = Settings::load(config, Some(&in_effect), &self.edge.metrics, &self.edge.clock)?;
        let same = settings.credentials == in_effect.credentials;
        let kafka = KafkaConfig { bootstrap: self.running.kafka.bootstrap.clone(), ..config.kafka.clone() };
        let producers = if same { None } else { Some((self.producers(&kafka)?, kafka)) };
        let facts = Facts { restart: config.restart_keys(&self.running), expiries: settings.expiries.clone() };
        let (edge, server, group) = (self.edge.clone(), self.server.clone(), self.group.clone());
        let apply = move || {
            if let Some((producers, kafka)) = producers {
                edge.publisher.replace(producers, kafka, &group);
            }
            server.apply(settings);
        };
        Ok(Ready { apply: Box::new(apply), facts })
    }

    /// Producers with other credentials, which have seen the inbox. Blocks.
    fn producers(&self, kafka: &KafkaConfig) -> Result<Producers, Mistakes> {
        let wrong = |cause: String| Mistakes::from(Mistake::new("kafka", cause));
        let producers = Producers::new(kafka, &self.running.publish).map_err(|error| wrong(error.to_string()))?;
        match self.edge.publisher.reaches_inbox_by(&producers, PROBE_DEADLINE) {
            Ok(_) => Ok(producers),
            Err(error) => Err(wrong(format!("the brokers are not reached with the new credentials: {error}"))),
        }
    }
}

/// Notes once a second how much waits for the brokers.
async fn watch_queue(publisher: Publisher, records: ::metrics::Gauge, group: Group) {
    let over = group.token();
    let mut every = tokio::time::interval(QUEUE_INTERVAL);
    while over.run_until_cancelled(every.tick()).await.is_some() {
        records.set(u32::try_from(publisher.waiting()).unwrap_or(u32::MAX));
    }
}

/// Keeps the condition [`KAFKA`] true to the facts.
async fn probe(publisher: Publisher, health: Health, group: Group) {
    let over = group.token();
    let (begun, mut told, mut mended) = (Instant::now(), None, None);
    loop {
        let probing = publisher.clone();
        let probed = tokio::task::spawn_blocking(move || probing.inbox_fault(PROBE_DEADLINE));
        let Some(fault) = over.run_until_cancelled(probed).await else { return };
        let fault = fault.unwrap_or_else(|panic| Some(panic.to_string()));
        // Of a producer that has only begun nobody knows that it is better than the one before.
        let is_new = mended.is_some_and(|at: Instant| at.elapsed() < PROOF);
        let fault = fault.or_else(|| told.clone().filter(|_| is_new));
        // Each reason once, until there is another or none.
        if let Some(reason) = fault.as_ref().filter(|reason| told.as_ref() != Some(*reason)) {
            tracing::warn!(reason, "the inbox is not reached");
        }
        let reached = fault.is_none();
        told = fault;
        health.set(KAFKA, reached);
        if mended.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL) && publisher.mend(&group) {
            mended = Some(Instant::now());
        }
        let settled = reached && begun.elapsed() >= PROOF;
        let interval = if settled { PROBE_INTERVAL } else { PROBE_INTERVAL_UNREADY };
        if over.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            return;
        }
    }
}

/// The orderly end.
struct Drain {
    config: config::Drain,
    edge: Arc<Edge>,
    server: Arc<Server>,
    health: Health,
    listening: CancellationToken,
    last: Group,
}

impl Drain {
    /// Refuses new requests, waits for those under way, closes connections, flushes the producer; then the rest.
    async fn run(self) {
        let begun = Instant::now();
        let deadline = begun + self.config.deadline;
        self.health.set(TAKING, false);
        self.edge.drain();
        tracing::info!("draining");
        let quiet = async {
            tokio::time::sleep_until(begun + self.config.notice).await;
            self.edge.drained().await;
        };
        if timeout_at(deadline, quiet).await.is_err() {
            tracing::warn!("requests were still under way at the drain deadline");
        }
        self.listening.cancel();
        self.server.close(CLOSE_DEADLINE).await;

        let left = deadline.saturating_duration_since(Instant::now()).max(FLUSH_DEADLINE_MIN);
        let Self { edge, server, .. } = self;
        drop(server);
        let publisher = edge.publisher.clone();
        drop(edge);
        // Flushing blocks, and so may the drop of the last handle.
        let flushed = tokio::task::spawn_blocking(move || publisher.flush(left)).await.unwrap_or(false);
        self.last.cancel();
        self.last.wait(CLOSE_DEADLINE).await;
        tracing::info!(flushed, "drained");
    }
}
