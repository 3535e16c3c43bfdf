//! A running deployment of a test's own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::envelope::Format;
use common::http_client::{ClientOptions, HttpsClient, Schemes};
use common::kafka::admin::{Admin, TopicSpec};
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{commit_first, committed};
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::shutdown::Group;
use common::tls;
use common::topics::{Group as ConsumerGroup, Topic};
use processor::audit::{Audit, audit};
use sender::{Config, Sender};
use tempfile::TempDir;

use crate::books::{Books, Letter, Summary};
use crate::client::{Client, TIMEOUT};
use crate::ledger::Ledger;
use crate::load::retry_policy;
use crate::materials::{KEY_ID, Materials};
use crate::node::{Node, NodeSpec};
use crate::plan::{Plan, SinkKind, output_topic};
use crate::seed::Seed;
use crate::sink::RecordingSink;
use crate::topic::{self, Record};
use crate::wait::until;
use crate::{environment, ports};

/// How long everything that was accepted may take to be committed.
const SETTLED_DEADLINE: Duration = Duration::from_secs(120);
/// Lines of each log that a failing test shows.
const LOG_LINES: usize = 40;

/// See the module.
pub struct Stack {
    plan: Plan,
    prefix: String,
    kafka: KafkaConfig,
    config: Option<processor::config::Config>,
    materials: Materials,
    ingests: Vec<Node>,
    addresses: Vec<SocketAddr>,
    processors: Vec<Node>,
    sinks: BTreeMap<&'static str, RecordingSink>,
    client: HttpsClient,
    ledger: Ledger,
    seed: Seed,
    tasks: Group,
    folder: Option<TempDir>,
    done: bool,
}

impl Stack {
    /// Makes keys, topics and configuration files, and starts every process.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let mut stack = Self::prepare(plan).await?;
        stack.start_nodes().await?;
        Ok(stack)
    }

    /// Makes keys, topics and configuration files; starts nothing.
    pub(crate) async fn prepare(plan: Plan) -> Result<Self> {
        let seed = Seed::of(plan.name);
        let kafka = plan.cluster()?;
        let prefix = format!("{}-{:08x}", plan.name, getrandom::u32()?);
        let folder = tempfile::Builder::new().prefix(&format!("sealstream-{}-", plan.name)).tempdir()?;
        let dir = folder.path().to_owned();
        let sources = plan.sources.iter().map(|source| source.name);
        let materials = Materials::create(&dir, sources, plan.sinks.iter().map(|sink| sink.name))?;
        plan.sources.iter().filter(|source| source.standard).try_for_each(|source| materials.standard(source.name))?;
        let options = ClientOptions {
            schemes: Schemes::HttpsOnly,
            extra_roots: tls::certificates(&materials.authority())?,
            ..ClientOptions::default()
        };
        let mut stack = Self {
            client: HttpsClient::new(&options)?,
            plan,
            prefix,
            kafka,
            config: None,
            materials,
            ingests: Vec::new(),
            addresses: Vec::new(),
            processors: Vec::new(),
            sinks: BTreeMap::new(),
            ledger: Ledger::default(),
            seed,
            tasks: Group::new(),
            folder: Some(folder),
            done: false,
        };
        stack.start_sinks().await?;
        stack.describe(&dir)?;
        stack.create_topics().await?;
        Ok(stack)
    }

    /// Starts every process, and waits until each is ready.
    pub async fn start_nodes(&mut self) -> Result<()> {
        for node in self.ingests.iter_mut().chain(&mut self.processors) {
            node.start()?;
        }
        for node in self.ingests.iter_mut().chain(&mut self.processors) {
            node.ready().await?;
        }
        Ok(())
    }

    async fn start_sinks(&mut self) -> Result<()> {
        for sink in &self.plan.sinks {
            if let SinkKind::Http(behaviour) = &sink.kind {
                let key = self.materials.sink_key(sink.name)?;
                let started = RecordingSink::start(&self.tasks, key, behaviour.clone(), self.seed.clone()).await?;
                self.sinks.insert(sink.name, started);
            }
        }
        Ok(())
    }

    /// Writes the configuration files.
    fn describe(&mut self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir.join("logs"))?;
        let node = |name: String, binary: &str, admin, text: String| -> Result<Node> {
            let config = dir.join(format!("{name}.toml"));
            std::fs::write(&config, text)?;
            let log = dir.join("logs").join(format!("{name}.log"));
            let (program, may_doubt) = (environment::binary(binary)?, self.plan.supervised);
            let variables = if binary == "ingest" { Vec::new() } else { self.plan.variables.clone() };
            Ok(Node::new(NodeSpec { name, program, config, variables, log, admin, may_doubt }))
        };
        let bootstrap = &self.kafka.bootstrap;
        for number in 0..self.plan.ingests {
            let (listen, admin) = (ports::free(), ports::free());
            let text = self.plan.ingest_toml(&self.prefix, bootstrap, listen, admin);
            self.ingests.push(node(format!("ingest-{number}"), "ingest", admin, text)?);
            self.addresses.push(listen);
        }
        // One more than wanted, for the topics of a stack without processors.
        for number in 0..=self.plan.processors {
            let admin = ports::free();
            let url = |sink: &str| self.sinks.get(sink).map(RecordingSink::url).unwrap_or_default();
            let text = self.plan.processor_toml(&self.prefix, bootstrap, admin, url, &dir.join("out"));
            self.processors.push(node(format!("processor-{number}"), self.plan.processor, admin, text)?);
        }
        self.processors.pop();
        let any = dir.join(format!("processor-{}.toml", self.plan.processors));
        self.config = Some(processor::config::Config::load(Some(&any), std::iter::empty())?);
        Ok(())
    }

    /// As `sealstream topics create` does: the topics, and the first offsets of every group.
    async fn create_topics(&self) -> Result<()> {
        let config = self.config();
        let admin = Admin::new(&self.kafka)?;
        let outputs =
            self.plan.sinks.iter().filter(|sink| matches!(sink.kind, SinkKind::Kafka { .. })).map(|sink| TopicSpec {
                name: output_topic(&self.prefix, sink.name),
                partitions: 1,
                replication: self.plan.copies,
                settings: BTreeMap::new(),
            });
        for spec in processor::topics::specs(config).into_iter().chain(outputs) {
            admin.create(&spec).await.with_context(|| format!("creating {}", spec.name))?;
        }
        let partitions = i32::try_from(config.topics.partitions)?;
        let mut commits = Vec::new();
        for (group, topics) in config.groups() {
            let (kafka, group) = (self.kafka.clone(), group.name(&config.topics.prefix));
            let topics: Vec<_> = topics.iter().map(|topic| topic.name(&config.topics.prefix)).collect();
            commits.push(tokio::task::spawn_blocking(move || {
                topics.iter().try_for_each(|topic| commit_first(&kafka, &group, topic, partitions).map(drop))
            }));
        }
        for commit in commits {
            commit.await?.context("committing first offsets")?;
        }
        Ok(())
    }

    /// The folder with configuration, keys, logs and data.
    pub fn dir(&self) -> &Path {
        self.folder.as_ref().expect("the folder lives as long as the stack").path()
    }

    /// What the topics' names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How to reach Kafka.
    pub fn kafka(&self) -> &KafkaConfig {
        &self.kafka
    }

    /// The processors' configuration.
    pub fn config(&self) -> &processor::config::Config {
        self.config.as_ref().expect("it is loaded before anything starts")
    }

    /// Keys and certificates.
    pub fn materials(&self) -> &Materials {
        &self.materials
    }

    /// What was answered 200.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Randomness of this run.
    pub fn seed(&mut self) -> &mut Seed {
        &mut self.seed
    }

    /// An ingest process.
    pub fn ingest(&mut self, number: usize) -> &mut Node {
        &mut self.ingests[number]
    }

    /// A processor.
    pub fn processor(&mut self, number: usize) -> &mut Node {
        &mut self.processors[number]
    }

    /// How many processors there are.
    pub fn processor_count(&self) -> usize {
        self.processors.len()
    }

    /// Where a source's events go at an ingest.
    pub fn url(&self, ingest: usize, source: &str) -> String {
        format!("https://localhost:{}/in/{source}", self.addresses[ingest].port())
    }

    /// A sender of a source at an ingest.
    pub fn client(&self, ingest: usize, source: &str, format: Format) -> Result<Client> {
        self.client_of(self.sender_config(ingest, source, format)?)
    }

    /// A sender with a configuration that a test has bent.
    pub fn client_of(&self, config: Config) -> Result<Client> {
        let (source, format) = (config.source.to_string(), config.format);
        let sender = Sender::new(config, self.client.clone(), Clock::system())?;
        Ok(Client::new(&source, format, sender, self.ledger.clone()))
    }

    /// What a sender of a source needs to know.
    pub fn sender_config(&self, ingest: usize, source: &str, format: Format) -> Result<Config> {
        self.sender_config_at(&self.url(ingest, source), source, format)
    }

    /// The same for another URL.
    pub(crate) fn sender_config_at(&self, url: &str, source: &str, format: Format) -> Result<Config> {
        Ok(Config {
            url: url.parse()?,
            source: source.parse()?,
            secret: self.materials.signing_secret(source)?,
            key_id: KEY_ID.parse()?,
            key: self.materials.sealing_key(source)?,
            format,
            timeout: TIMEOUT,
            retry: retry_policy(),
        })
    }

    /// A client that trusts the stack's own authority.
    pub fn http_client(&self) -> HttpsClient {
        self.client.clone()
    }

    /// A sender of a source in each format at each ingest.
    pub fn clients(&self, source: &str) -> Result<Vec<Client>> {
        let each =
            (0..self.ingests.len()).flat_map(|ingest| [Format::Native, Format::Jwe].map(|format| (ingest, format)));
        each.map(|(ingest, format)| self.client(ingest, source, format)).collect()
    }

    /// An HTTP sink.
    pub fn sink(&self, name: &str) -> RecordingSink {
        self.sinks[name].clone()
    }

    /// The lines of a file sink, as JSON.
    pub fn file_lines(&self, sink: &str) -> Result<Vec<serde_json::Value>> {
        let path = self.dir().join("out").join(format!("{sink}.jsonl"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The output topic of a Kafka sink.
    pub fn output_topic(&self, sink: &str) -> String {
        output_topic(&self.prefix, sink)
    }

    /// A topic's name in Kafka.
    pub fn topic_name(&self, topic: &Topic) -> String {
        topic.name(&self.config().topics.prefix)
    }

    /// The dead letters so far.
    pub async fn letters(&self) -> Result<Vec<Letter>> {
        let keys = self.materials.core_keys()?;
        Letter::read(&keys, &self.records(&Topic::Dead).await?)
    }

    /// Writes a record of a test's own making, as somebody with access to Kafka could. `None` for any partition.
    pub async fn inject(&self, topic: &Topic, partition: Option<i32>, record: &Record) -> Result<()> {
        let producer = Producer::new(&self.kafka, &ProducerSettings::default())?;
        let name = self.topic_name(topic);
        let key = record.key.as_deref();
        producer.send(Outgoing { topic: &name, partition, key, value: &record.value }, record.headers())?.await?;
        // Dropping it blocks.
        Ok(tokio::task::spawn_blocking(move || drop(producer)).await?)
    }

    /// Every record of a topic.
    pub async fn records(&self, topic: &Topic) -> Result<Vec<Record>> {
        topic::read(&self.kafka, &self.topic_name(topic), self.plan.partitions, self.plan.unreadable_max()).await
    }

    /// Every record of a Kafka sink's output topic.
    pub async fn output(&self, sink: &str) -> Result<Vec<Record>> {
        topic::read(&self.kafka, &self.output_topic(sink), 1, self.plan.unreadable_max()).await
    }

    /// Waits until every processor has worked on `events`, that is, until the groups are spread over all of them. `feed`
    /// sends something.
    pub async fn spread(&mut self, mut feed: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        until("every processor has its share of events", SETTLED_DEADLINE, async || {
            feed().await?;
            self.supervise()?;
            for processor in &self.processors {
                for lane in ["inbox", "events"] {
                    match processor.metric("processor_records_total", &[("lane", lane)]).await {
                        // It ended in doubt after it was looked at, or is being started again.
                        Err(_) if self.plan.supervised => return Ok(None),
                        Err(error) => return Err(error),
                        Ok(0.0) => return Ok(None),
                        Ok(_) => {}
                    }
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// Starts again whatever has ended by itself because it was in doubt, as a supervisor does. Anything else that ended
    /// by itself is an error.
    pub fn supervise(&mut self) -> Result<()> {
        self.ingests.iter_mut().chain(&mut self.processors).try_for_each(Node::supervise)
    }

    /// Waits until the groups have committed everything that is in their topics.
    pub async fn settled(&mut self) -> Result<()> {
        let mut before = None;
        let mut open = String::new();
        let waited = until("everything is committed", SETTLED_DEADLINE, async || {
            open.clear();
            self.supervise()?;
            let ends = self.ends(&mut open).await?;
            // What was handed on between two looks shows itself as an end that moved.
            let same = before.as_ref() == Some(&ends);
            before = Some(ends);
            Ok((same && open.is_empty()).then_some(()))
        });
        let waited = waited.await;
        waited.with_context(|| format!("open:\n{open}"))
    }

    /// The ends of all topics that groups read; what is not committed is noted in `open`.
    pub(crate) async fn ends(&self, open: &mut String) -> Result<Vec<Vec<i64>>> {
        // Side by side: each look takes a new client, and that takes its time to find the group's coordinator.
        let mut looks = Vec::new();
        for (group, topics) in self.groups() {
            for topic in topics {
                let (kafka, count) = (self.kafka.clone(), i32::try_from(self.plan.partitions)?);
                let (group, name) = (group.clone(), topic.clone());
                let stored = tokio::task::spawn_blocking(move || committed(&kafka, &group, &name, count));
                looks.push((topic, stored));
            }
        }
        let mut topics = Vec::new();
        let mut committed = Vec::new();
        for (topic, stored) in looks {
            topics.push(topic);
            committed.push(stored.await??);
        }
        // The ends come second: what arrives in between is seen as open.
        let ends = topic::ends(&self.kafka, topics.clone(), self.plan.partitions).await?;
        for ((topic, ends), stored) in topics.iter().zip(&ends).zip(committed) {
            for (partition, (end, (base, above))) in ends.iter().zip(stored).enumerate() {
                if base != Some(*end) {
                    writeln!(open, "{topic}-{partition}: end {end}, committed {base:?}, above it {above:?}")?;
                }
            }
        }
        Ok(ends)
    }

    /// The groups that work in this stack, with the topics that they read.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let prefix = &self.config().topics.prefix;
        let names = |(group, topics): (ConsumerGroup, Vec<Topic>)| {
            (group.name(prefix), topics.iter().map(|topic| topic.name(prefix)).collect())
        };
        let works = self.plan.processors > 0;
        self.config().groups().into_iter().filter(|_| works).map(names).collect()
    }

    /// Waits until everything is committed, stops every process, and balances the books.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.settled().await?;
        let audit = self.audit().await?;
        anyhow::ensure!(audit.holds(), "the audit does not hold: {audit:?}");
        for node in self.ingests.iter_mut().chain(&mut self.processors) {
            if node.is_running() {
                node.stop().await?;
            }
            // sled's panics are contained on the thread of the cache on disk, which tests damage.
            let panics: Vec<_> =
                node.log_lines("panic")?.into_iter().filter(|line| !line.contains("index-cache")).collect();
            anyhow::ensure!(panics.is_empty(), "{} panicked: {panics:?}", node.name());
        }
        let summary = self.balance().await?;
        self.tasks.cancel();
        self.remove_topics().await?;
        say(&format!("{}: {summary}", self.plan.name));
        if environment::keeps_folders()
            && let Some(folder) = self.folder.take()
        {
            say(&format!("{}: the folder is {}", self.plan.name, folder.keep().display()));
        }
        self.done = true;
        Ok(())
    }

    /// Stops every process and removes the topics without balancing the books: whoever calls this has kept its own.
    /// With `keep`, the folder stays for a look at it.
    pub(crate) async fn close(mut self, keep: bool) -> Result<()> {
        for node in self.ingests.iter_mut().chain(&mut self.processors) {
            if node.is_running() {
                node.kill().await?;
            }
        }
        self.tasks.cancel();
        self.remove_topics().await?;
        if (keep || environment::keeps_folders())
            && let Some(folder) = self.folder.take()
        {
            say(&format!("{}: the folder is {}", self.plan.name, folder.keep().display()));
        }
        self.done = true;
        Ok(())
    }

    /// Spares the broker what nobody will read again.
    async fn remove_topics(&self) -> Result<()> {
        let pipeline = processor::topics::specs(self.config()).into_iter().map(|spec| spec.name);
        let outputs = self.plan.sinks.iter().filter(|sink| matches!(sink.kind, SinkKind::Kafka { .. }));
        let topics: Vec<_> = pipeline.chain(outputs.map(|sink| self.output_topic(sink.name))).collect();
        Ok(Admin::new(&self.kafka)?.delete(&topics).await?)
    }

    /// What `sealstream audit` finds now.
    pub async fn audit(&self) -> Result<Audit> {
        let config = processor::config::Config { kafka: self.kafka.clone(), ..self.config().clone() };
        Ok(audit(&config).await?)
    }

    /// Balances the books as they are now. What is not committed yet is missing there.
    pub async fn balance(&self) -> Result<Summary> {
        Books::read(self, &self.plan).await?.balance(self.plan.repeats_max)
    }

    /// Shows what a failing test needs to be understood.
    fn explain(&mut self) {
        let folder: Option<PathBuf> = self.folder.take().map(TempDir::keep);
        let mut text = format!("== {} failed; its folder is {folder:?}\n", self.plan.name);
        for node in self.ingests.iter().chain(&self.processors) {
            text.push_str(&format!("== {}, the end of its log\n{}\n", node.name(), node.log_tail(LOG_LINES)));
        }
        for (name, sink) in &self.sinks {
            let (requests, events) = (sink.delivery_count(), sink.effect_count());
            text.push_str(&format!("== sink {name}: {requests} requests, {events} events, {:?}\n", sink.violations()));
        }
        say(&text);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.tasks.cancel();
        if !self.done {
            self.explain();
        }
    }
}

#[allow(clippy::print_stderr, reason = "the test runner shows it with a test that fails, and on request")]
fn say(text: &str) {
    eprintln!("{text}");
}
