//! Everything that the demonstration needs, brought up in this process and taken down again in order: Kafka, a new
//! deployment as `init` writes it, ingest with TLS, a processor with its index on disk, and the sinks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use common::clock::Clock;
use common::config::SecretFile;
use common::kafka::admin::Admin;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::Doubt;
use common::kafka::embedded::EmbeddedKafka;
use common::record::{RecordKey, RecordKeys};
use common::shutdown::Group;
use common::standard_webhooks::SigningKey;
use common::telemetry::Metrics;
use common::topics::Topic;
use data_encoding::HEXLOWER;
use http::Uri;
use processor::config::Config;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::witness::{Tail, Watch, Witness};
use crate::deployment::{self, DEFAULT_PATH, INGEST, MainSink, Options, PROCESSOR, SENDER, SINK_SECRET};
use crate::receiver::Receiver;
use crate::topics;

/// Partitions of every topic: enough to see work shared, few enough to be read one after the other.
const PARTITIONS: u32 = 8;
/// The deployment's one source.
const SOURCE: &str = "acme";
/// How long everything may take to be ready, and to end.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(25);

/// Which Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kafka {
    /// librdkafka's cluster inside this process.
    Embedded,
    /// A real one, at these bootstrap servers.
    Real(String),
}

/// See the module.
pub(super) struct Stage {
    /// Time.
    pub(super) clock: Clock,
    /// Where everything counts.
    pub(super) metrics: Metrics,
    /// Ingest.
    pub(super) ingest: ingest::Running,
    processor: processor::Running,
    config: Config,
    edge: Group,
    sinks: Group,
    watch: Watch,
    doubt: Arc<std::sync::Mutex<Option<String>>>,
    real: bool,
    // Dropped last, in this order: the cluster after its clients, the files after everything.
    embedded: Option<EmbeddedKafka>,
    dir: tempfile::TempDir,
}

/// The cluster, before anything runs on it.
struct Cluster {
    kafka: KafkaConfig,
    prefix: String,
    /// Whether it has less than three brokers.
    single: bool,
}

impl Stage {
    /// Brings everything up and waits until it is ready.
    pub(super) async fn set(kafka: &Kafka, witness: &Arc<Witness>, clock: Clock, metrics: Metrics) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sealstream-demo-").tempdir().context("making a temporary folder")?;
        let cluster = match kafka {
            Kafka::Embedded => None,
            Kafka::Real(bootstrap) => Some(reach(bootstrap)?),
        };

        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on the loopback interface")?;
        write(dir.path(), cluster.as_ref(), &format!("http://{}/events", listener.local_addr()?), &clock)?;
        let (mut ingest_config, mut config) = load(dir.path(), cluster.as_ref())?;
        let embedded = match &cluster {
            Some(_) => {
                topics::create(&config, true).await.context("making the topics")?;
                None
            }
            None => {
                let embedded = embed(&config)?;
                ingest_config.kafka = embedded.config();
                config.kafka = embedded.config();
                Some(embedded)
            }
        };

        let sinks = Group::new();
        let key = SigningKey::parse(&SecretFile::new(dir.path().join(SINK_SECRET)).load()?)?;
        let judge = witness.clone();
        Receiver::new(key, clock.clone(), Arc::new(move |delivery| judge.judge(delivery)))
            .serve(&sinks, listener, None);
        let watch = watch(&config, witness)?;

        let edge = Group::new();
        let deps = ingest::Deps { group: edge.clone(), clock: clock.clone(), metrics: metrics.clone() };
        let ingest = ingest::start(ingest_config, deps).await.context("starting ingest")?;
        let doubt = Arc::default();
        let deps = processor::Deps {
            tasks: Group::new(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            die: die(&doubt),
            generation: 1,
        };
        let processor = processor::start(config.clone(), deps).await.context("starting the processor")?;
        let real = cluster.is_some();
        let stage = Self { clock, metrics, ingest, processor, config, edge, sinks, watch, doubt, real, embedded, dir };
        match stage.ready().await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.strike().await?;
                Err(error)
            }
        }
    }

    /// Where the source's events go.
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}{DEFAULT_PATH}", self.ingest.local_addr().port())
    }

    /// The sender's configuration.
    pub(super) fn sender(&self) -> PathBuf {
        self.dir.path().join(SENDER)
    }

    /// The topic with the events in plain text.
    pub(super) fn output_topic(&self) -> String {
        output_topic(&self.config.topics.prefix.to_string())
    }

    /// How to reach Kafka.
    pub(super) fn bootstrap(&self) -> &str {
        &self.config.kafka.bootstrap
    }

    /// Where the processor's metrics are.
    pub(super) fn processor_admin(&self) -> std::net::SocketAddr {
        self.processor.admin_address()
    }

    /// An error if something that must run does not.
    pub(super) fn runs(&self) -> Result<()> {
        let doubt = self.doubt.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(doubt) = doubt {
            bail!("the processor gave up: {doubt}");
        }
        if self.watch.failed() {
            bail!("the output topic can no longer be read");
        }
        Ok(())
    }

    /// Takes everything down: first what takes events, then what delivers them, then what they are delivered to.
    pub(super) async fn strike(self) -> Result<()> {
        let Self { processor, config, edge, sinks, watch, real, embedded, dir, .. } = self;
        edge.cancel();
        let mut ended = edge.wait(END_DEADLINE).await;
        ended &= timeout(END_DEADLINE, processor.stop()).await.is_ok();
        let read = timeout(END_DEADLINE, watch.finish()).await.context("it takes too long");
        sinks.cancel();
        ended &= sinks.wait(END_DEADLINE).await;
        if real {
            remove_topics(&config).await;
        }
        // The cluster's threads are joined.
        tokio::task::block_in_place(|| drop(embedded));
        dir.close().context("removing the temporary folder")?;
        read.flatten().context("reading the output topic to its end")?;
        if ended { Ok(()) } else { Err(anyhow!("not everything ended within {END_DEADLINE:?}")) }
    }

    async fn ready(&self) -> Result<()> {
        self.tell_sender()?;
        let deadline = self.clock.monotonic() + READY_DEADLINE;
        while !(self.ingest.health().ready() && self.processor.health().ready()) {
            self.runs()?;
            if self.clock.monotonic() > deadline {
                bail!("ingest and the processor were not ready within {READY_DEADLINE:?}; --log info says why");
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Writes ingest's port into the sender's configuration: it was not known before.
    fn tell_sender(&self) -> Result<()> {
        let path = self.sender();
        let mut document: toml_edit::DocumentMut = crate::files::read(&path)?.parse()?;
        document["url"] = toml_edit::value(self.url());
        std::fs::write(&path, document.to_string()).with_context(|| format!("writing {}", path.display()))
    }
}

fn output_topic(prefix: &str) -> String {
    format!("{prefix}.output")
}

/// Asks a real cluster how large it is, and takes a prefix that nobody has used.
fn reach(bootstrap: &str) -> Result<Cluster> {
    let kafka = KafkaConfig::plaintext(bootstrap);
    let hint = || {
        format!("there is no Kafka at {bootstrap}: `cargo xtask kafka up` starts one, and --bootstrap names another")
    };
    let (_, brokers) = tokio::task::block_in_place(|| Admin::new(&kafka)?.cluster()).with_context(hint)?;
    let mut suffix = [0; 4];
    getrandom::fill(&mut suffix).context("the system gives no random bytes")?;
    Ok(Cluster { kafka, prefix: format!("sealstream-demo-{}", HEXLOWER.encode(&suffix)), single: brokers < 3 })
}

fn write(dir: &Path, cluster: Option<&Cluster>, sink_url: &str, clock: &Clock) -> Result<()> {
    let options = Options {
        source: SOURCE.parse()?,
        // The port is not known yet.
        url: Uri::from_static("https://localhost/webhook"),
        hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        kafka: cluster.map_or_else(|| "127.0.0.1:9092".to_owned(), |cluster| cluster.kafka.bootstrap.clone()),
        danger_single_broker: cluster.is_none_or(|cluster| cluster.single),
        sink: MainSink::Http(sink_url.parse()?),
        output_topic: Some(output_topic(prefix(cluster))),
    };
    deployment::write(dir, &options, clock)
}

fn prefix(cluster: Option<&Cluster>) -> &str {
    cluster.map_or("sealstream", |cluster| &cluster.prefix)
}

/// Loads the configurations, with what only a demonstration wants.
fn load(dir: &Path, cluster: Option<&Cluster>) -> Result<(ingest::Config, Config)> {
    let prefix = prefix(cluster);
    let partitions = PARTITIONS.to_string();
    let embedded = if cluster.is_none() { "true" } else { "false" };
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let ingest = pairs(&[
        ("INGEST__LISTEN__ADDRESS", "127.0.0.1:0"),
        ("INGEST__ADMIN__ADDRESS", "127.0.0.1:0"),
        ("INGEST__TOPICS__PREFIX", prefix),
        // Nobody balances load to it.
        ("INGEST__DRAIN__NOTICE", "0s"),
    ]);
    let processor = pairs(&[
        ("PROCESSOR__ADMIN__ADDRESS", "127.0.0.1:0"),
        ("PROCESSOR__TOPICS__PREFIX", prefix),
        ("PROCESSOR__TOPICS__PARTITIONS", &partitions),
        ("PROCESSOR__TOPICS__DANGER_EMBEDDED", embedded),
        // Short, so that a retry is seen soon.
        ("PROCESSOR__RETRY__LANES", "[\"1s\", \"2s\"]"),
        // Rate ≤ permits / (sink time + commit time): the sinks are fast, so commits decide.
        ("PROCESSOR__SINK__MAIN__PERMITS", "1024"),
    ]);
    let ingest = ingest::Config::load(Some(&dir.join(INGEST)), ingest.into_iter())?;
    Ok((ingest, Config::load(Some(&dir.join(PROCESSOR)), processor.into_iter())?))
}

fn embed(config: &Config) -> Result<EmbeddedKafka> {
    let prefix = &config.topics.prefix;
    let mut names: Vec<String> = config.pipeline_topics().iter().map(|topic| topic.name(prefix)).collect();
    names.push(output_topic(&prefix.to_string()));
    let partitions = i32::try_from(PARTITIONS).expect("a small number");
    EmbeddedKafka::start(names.iter().map(|name| (name.as_str(), partitions))).context("starting the embedded Kafka")
}

fn watch(config: &Config, witness: &Arc<Witness>) -> Result<Watch> {
    let prefix = &config.topics.prefix;
    let outputs = Tail::new(&config.kafka, output_topic(&prefix.to_string()), PARTITIONS)?;
    let dead = Tail::new(&config.kafka, Topic::Dead.name(prefix), PARTITIONS)?;
    let mut keys = Vec::new();
    for key in &config.pipeline.core_keys {
        keys.push(RecordKey::new(key.id.clone(), &key.file.load()?));
    }
    let keys = RecordKeys::new(keys).context("the deployment has no core key")?;
    Ok(Watch::start(witness.clone(), outputs, dead, keys))
}

/// A processor that is in doubt must end. Here it is one part of a process, which then says so and ends as a whole.
fn die(doubt: &Arc<std::sync::Mutex<Option<String>>>) -> common::kafka::consumer::Die {
    let doubt = doubt.clone();
    Arc::new(move |Doubt(why)| {
        // It goes on to say so until the process ends.
        let mut doubt = doubt.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if doubt.is_none() {
            tracing::error!(why, "the processor is in doubt");
            *doubt = Some(why);
        }
    })
}

/// Removes the topics from a real cluster.
async fn remove_topics(config: &Config) {
    let prefix = &config.topics.prefix;
    let mut names: Vec<String> = config.pipeline_topics().iter().map(|topic| topic.name(prefix)).collect();
    names.push(output_topic(&prefix.to_string()));
    let removed = async { anyhow::Ok(Admin::new(&config.kafka)?.delete(&names).await?) };
    if let Err(error) = removed.await {
        tracing::warn!(%error, %prefix, "the demonstration's topics could not be removed");
    }
}
