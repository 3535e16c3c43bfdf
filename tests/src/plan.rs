//! What a test wants: how many processes, which sources and sinks, and what may happen to them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use common::kafka::client::KafkaConfig;

use crate::environment;
use crate::materials::KEY_ID;
use crate::sink::Behaviour;
use crate::stack::Stack;
use crate::topic::{UNREADABLE_MAX, UNREADABLE_MAX_TRANSACTIONAL};

/// A source of events.
#[derive(Debug, Clone)]
pub(crate) struct SourcePlan {
    pub(crate) name: &'static str,
    pub(crate) sinks: Vec<&'static str>,
    pub(crate) event_id: &'static str,
    pub(crate) standard: bool,
}

impl SourcePlan {
    /// Whether its events have ids of their own.
    pub(crate) fn has_ids(&self) -> bool {
        self.event_id != SIGNED_CONTENT
    }
}

/// The rule of a source without event ids.
const SIGNED_CONTENT: &str = "signed-content";

/// A sink.
#[derive(Debug, Clone)]
pub(crate) struct SinkPlan {
    pub(crate) name: &'static str,
    pub(crate) kind: SinkKind,
}

/// What a sink is.
#[derive(Debug, Clone)]
pub(crate) enum SinkKind {
    /// An HTTP server of this process.
    Http(Behaviour),
    /// An HTTP server that the test runs itself, at this URL. It keeps its own books.
    Elsewhere(String),
    /// A topic `<prefix>.out.<sink>`, with or without transactions.
    Kafka { transactional: bool },
    /// A file `out/<sink>.jsonl`.
    File,
}

/// See the module. Unless told otherwise: one ingest, one processor, one source `acme`, no sink, no repeats.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) name: &'static str,
    pub(crate) kafka: Option<KafkaConfig>,
    pub(crate) ingests: usize,
    pub(crate) processors: usize,
    pub(crate) partitions: u32,
    pub(crate) sources: Vec<SourcePlan>,
    pub(crate) sinks: Vec<SinkPlan>,
    pub(crate) permits: usize,
    pub(crate) attempts_max: u32,
    pub(crate) breaks: bool,
    pub(crate) dedup_window: Duration,
    pub(crate) ack_deadline: Duration,
    pub(crate) repeats_max: usize,
    pub(crate) supervised: bool,
    pub(crate) strange_letters: usize,
    pub(crate) concurrency: Option<usize>,
    pub(crate) processor: &'static str,
    pub(crate) copies: i32,
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// The retry lanes: short, so that tests are.
pub(crate) const LANES: [&str; 2] = ["1s", "2s"];

/// Fewer failures open no breaker.
pub const BREAKER_DISPATCHES_MIN: u32 = 5;

/// Dispatches of a half-open breaker.
pub const BREAKER_PROBES: usize = 3;

impl Plan {
    /// A plan for the test of this name.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            kafka: None,
            ingests: 1,
            processors: 1,
            partitions: 6,
            sources: Vec::new(),
            sinks: Vec::new(),
            permits: 64,
            attempts_max: 4,
            breaks: false,
            dedup_window: Duration::from_secs(3600),
            ack_deadline: Duration::from_secs(10),
            repeats_max: 0,
            supervised: false,
            strange_letters: 0,
            concurrency: None,
            processor: "processor",
            copies: 1,
            variables: Vec::new(),
        }
    }

    /// A cluster of the test's own instead of the shared one.
    pub fn kafka(mut self, kafka: KafkaConfig) -> Self {
        self.kafka = Some(kafka);
        self
    }

    /// How many ingest processes.
    pub fn ingests(mut self, count: usize) -> Self {
        self.ingests = count;
        self
    }

    /// How many processors. With none, the books are kept for the inbox only.
    pub fn processors(mut self, count: usize) -> Self {
        self.processors = count;
        self
    }

    /// How many partitions each topic has.
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = count;
        self
    }

    /// A source whose events go to these sinks. Its path is `/in/<name>`.
    pub fn source(mut self, name: &'static str, sinks: &[&'static str]) -> Self {
        self.sources.push(SourcePlan { name, sinks: sinks.to_vec(), event_id: "/id", standard: false });
        self
    }

    /// A source without event ids: what was signed is the id.
    pub fn source_without_ids(mut self, name: &'static str, sinks: &[&'static str]) -> Self {
        self.sources.push(SourcePlan { name, sinks: sinks.to_vec(), event_id: SIGNED_CONTENT, standard: false });
        self
    }

    /// A source whose senders sign as Standard Webhooks has it.
    pub fn standard_source(mut self, name: &'static str, sinks: &[&'static str]) -> Self {
        self.sources.push(SourcePlan { name, sinks: sinks.to_vec(), event_id: "/id", standard: true });
        self
    }

    /// An HTTP sink that behaves so.
    pub fn http(mut self, name: &'static str, behaviour: Behaviour) -> Self {
        self.sinks.push(SinkPlan { name, kind: SinkKind::Http(behaviour) });
        self
    }

    /// A Kafka sink.
    pub fn output(mut self, name: &'static str) -> Self {
        self.sinks.push(SinkPlan { name, kind: SinkKind::Kafka { transactional: false } });
        self
    }

    /// A Kafka sink whose output and progress become visible together.
    pub fn transactional(mut self, name: &'static str) -> Self {
        self.sinks.push(SinkPlan { name, kind: SinkKind::Kafka { transactional: true } });
        self
    }

    /// A file sink.
    pub fn file(mut self, name: &'static str) -> Self {
        self.sinks.push(SinkPlan { name, kind: SinkKind::File });
        self
    }

    /// Permits of each sink and lane.
    pub fn permits(mut self, permits: usize) -> Self {
        self.permits = permits;
        self
    }

    /// Dispatches of one event to one sink before it is dead.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Circuit breakers that open on few failures and for a short time. Without this they never open, and what a sink does
    /// to an event is between the two of them.
    pub fn breakers(mut self) -> Self {
        self.breaks = true;
        self
    }

    /// How long an event's id is remembered.
    pub fn dedup_window(mut self, window: Duration) -> Self {
        self.dedup_window = window;
        self
    }

    /// How long ingest waits for the broker.
    pub fn ack_deadline(mut self, deadline: Duration) -> Self {
        self.ack_deadline = deadline;
        self
    }

    /// How many effects more than one per event the books allow at one sink: none unless processors are killed.
    pub fn repeats_max(mut self, repeats: usize) -> Self {
        self.repeats_max = repeats;
        self
    }

    /// How many letters a test writes that no processor wrote: the books leave them out, and want no more of them.
    pub fn strange_letters(mut self, count: usize) -> Self {
        self.strange_letters = count;
        self
    }

    /// Processes may end themselves in doubt, and are started again: for tests that take Kafka away.
    pub fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// An HTTP sink that the test runs itself.
    pub fn elsewhere(mut self, name: &'static str, url: String) -> Self {
        self.sinks.push(SinkPlan { name, kind: SinkKind::Elsewhere(url) });
        self
    }

    /// Dispatches of each sink at once, instead of what the processor finds right.
    pub fn concurrency(mut self, dispatches: usize) -> Self {
        self.concurrency = Some(dispatches);
        self
    }

    /// The name of the processors' binary.
    pub fn processor_binary(mut self, name: &'static str) -> Self {
        self.processor = name;
        self
    }

    /// Copies of each partition.
    pub fn copies(mut self, copies: i32) -> Self {
        self.copies = copies;
        self
    }

    /// A variable that overrides the processors' configuration.
    pub fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Starts a stack, runs the test's body on it, and balances the books. What a failing test needs to be understood is
    /// printed, and its folder stays.
    pub async fn run(self, body: impl AsyncFnOnce(&mut Stack) -> Result<()>) -> Result<()> {
        let mut stack = Stack::start(self).await?;
        body(&mut stack).await?;
        stack.finish().await
    }

    /// The same for a body that starts the stack's processes itself.
    pub async fn run_prepared(self, body: impl AsyncFnOnce(&mut Stack) -> Result<()>) -> Result<()> {
        let mut stack = Stack::prepare(self).await?;
        body(&mut stack).await?;
        stack.finish().await
    }

    /// Offsets in a row that may hold no record for a reader of committed records.
    pub(crate) fn unreadable_max(&self) -> i64 {
        let transactional = |sink: &SinkPlan| matches!(sink.kind, SinkKind::Kafka { transactional: true });
        if self.sinks.iter().any(transactional) { UNREADABLE_MAX_TRANSACTIONAL } else { UNREADABLE_MAX }
    }

    pub(crate) fn cluster(&self) -> Result<KafkaConfig> {
        self.kafka.clone().map_or_else(environment::kafka, Ok)
    }

    pub(crate) fn ingest_toml(&self, prefix: &str, bootstrap: &str, listen: SocketAddr, admin: SocketAddr) -> String {
        let ack_deadline_ms = self.ack_deadline.as_millis();
        let mut text = format!(
            r#"listen = {{ address = "{listen}", certificate = "tls/server.pem", key = "tls/server.key" }}
admin.address = "{admin}"
log.level = "info,ingest=debug"
kafka.bootstrap = "{bootstrap}"
topics.prefix = "{prefix}"
publish.ack_deadline = "{ack_deadline_ms}ms"
drain.notice = "100ms"
pipeline.edge_key = {{ id = "edge-1", file = "secrets/edge-1.key" }}
"#
        );
        for SourcePlan { name, standard, .. } in &self.sources {
            let (scheme, file) = if *standard {
                ("standard-webhooks", format!("{name}.whsec"))
            } else {
                ("native", format!("{name}.hmac.s1"))
            };
            let source = format!(
                "[source.{name}]\npath = \"/in/{name}\"\nscheme = \"{scheme}\"\nsecrets = [{{ id = \"s1\", file = \"secrets/{file}\" }}]\n"
            );
            text.push_str(&source);
        }
        text
    }

    pub(crate) fn processor_toml(
        &self,
        prefix: &str,
        bootstrap: &str,
        admin: SocketAddr,
        sink_url: impl Fn(&str) -> String,
        out: &Path,
    ) -> String {
        let Self { partitions, permits, attempts_max, copies, .. } = self;
        let dispatches_min = if self.breaks { BREAKER_DISPATCHES_MIN } else { u32::MAX };
        let window_ms = self.dedup_window.as_millis();
        let single = *copies == 1;
        let concurrency =
            self.concurrency.map(|dispatches| format!("concurrency = {dispatches}\n")).unwrap_or_default();
        let mut text = format!(
            r#"data.dir = "data"
admin.address = "{admin}"
log.level = "info,processor=debug"
kafka.bootstrap = "{bootstrap}"
topics = {{ prefix = "{prefix}", partitions = {partitions}, replication = {copies}, danger_single_broker = {single} }}
group = {{ session = "6s", drain_deadline = "5s" }}
dedup.window = "{window_ms}ms"
retry = {{ lanes = {LANES:?}, attempts_max = {attempts_max} }}
[pipeline]
edge_keys = [{{ id = "edge-1", file = "secrets/edge-1.key" }}]
core_keys = [{{ id = "core-1", file = "secrets/core-1.key" }}]
id_keys = [{{ id = "id-1", file = "secrets/id-1.key" }}]
[sink.default]
timeout = "2s"
permits = {permits}
{concurrency}[sink.default.breaker]
window = "10s"
dispatches_min = {dispatches_min}
open_first = "200ms"
open_max = "1s"
probes = {BREAKER_PROBES}
"#
        );
        for SourcePlan { name, sinks, event_id, .. } in &self.sources {
            write!(
                text,
                "[source.{name}]\nkeys = [{{ id = \"{KEY_ID}\", file = \"secrets/{name}.{KEY_ID}.key\" }}]\n\
                 event_id = \"{event_id}\"\nsinks = {sinks:?}\n"
            )
            .expect("writing to memory");
        }
        for SinkPlan { name, kind } in &self.sinks {
            let http = |url: &str| {
                format!("url = \"{url}\"\nsecret = \"secrets/sink-{name}.whsec\"\ndanger_plain_http = true")
            };
            let kind = match kind {
                SinkKind::Http(_) => http(&sink_url(name)),
                SinkKind::Elsewhere(url) => http(url),
                SinkKind::Kafka { transactional } => format!(
                    "kind = \"kafka\"\ntopic = \"{}\"\ntransactional = {transactional}",
                    output_topic(prefix, name)
                ),
                SinkKind::File => format!("kind = \"file\"\npath = \"{}/{name}.jsonl\"", out.display()),
            };
            writeln!(text, "[sink.{name}]\n{kind}").expect("writing to memory");
        }
        text
    }
}

/// The output topic of a Kafka sink.
pub(crate) fn output_topic(prefix: &str, sink: &str) -> String {
    format!("{prefix}.out.{sink}")
}
