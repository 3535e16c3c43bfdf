//! The processor's configuration. `processor.default.toml` is its manual.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::config::{self, ByteSize, Check, ConfigPath, Mistake, Mistakes, SecretFile, Spec};
use common::id::{KeyId, SinkId, SourceId};
use common::kafka::client::KafkaConfig;
use common::kafka::producer::TRANSACTION_TIMEOUT;
use common::pin::Pin;
use common::spans::Export;
use common::telemetry::LogConfig;
use common::topics::{Delay, Group, Prefix, Topic};
use serde::Deserialize;

use crate::core::breaker::BreakerSettings;
use crate::core::index;
use crate::core::lease::Lease;
use crate::core::progress::WINDOW_MAX;
use crate::core::schedule::Schedule;
use crate::engine::ColdIndex;
use crate::event::Pointer;

/// The manual, and the defaults.
pub const DEFAULTS: &str = include_str!("../processor.default.toml");

/// Everything a processor can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[roles]`
    pub roles: Roles,
    /// `[data]`
    pub data: Data,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: LogConfig,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[kafka]`
    pub kafka: KafkaConfig,
    /// `[topics]`
    pub topics: Topics,
    /// `[group]`
    pub group: GroupConfig,
    /// `[pipeline]`
    pub pipeline: Pipeline,
    /// `[router]`
    pub router: Router,
    /// `[dedup]`
    pub dedup: Dedup,
    /// `[retry]`
    pub retry: Retry,
    /// `[reload]`
    pub reload: Reload,
    /// `[source.<name>]`
    #[serde(default)]
    pub source: BTreeMap<SourceId, Source>,
    /// `[sink.<name>]`
    #[serde(default)]
    pub sink: BTreeMap<SinkId, Sink>,
}

/// `[roles]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Reads `inbox`.
    pub router: bool,
    /// Reads `events` and the retry lanes.
    pub deliverer: bool,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The slots' folder.
    pub dir: ConfigPath,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where metrics and health are served.
    pub address: SocketAddr,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The collector that gets spans; empty for none.
    pub otlp_endpoint: String,
    /// Further authorities for it.
    pub otlp_ca: ConfigPath,
}

impl Telemetry {
    /// Where spans go. No trace begins here.
    pub fn export(&self) -> Export<'_> {
        Export { endpoint: &self.otlp_endpoint, ca: &self.otlp_ca, ratio: 0.0 }
    }
}

/// `[topics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    /// What every name begins with.
    pub prefix: Prefix,
    /// Partitions of each.
    pub partitions: u32,
    /// Copies of each partition.
    pub replication: u32,
    /// How long records lie there.
    #[serde(with = "config::duration")]
    pub retention: Duration,
    /// How long dead letters lie in theirs, unless `retention` is longer.
    #[serde(with = "config::duration")]
    pub dead_retention: Duration,
    /// One broker will do.
    pub danger_single_broker: bool,
    /// The in-process cluster.
    pub danger_embedded: bool,
}

/// `[group]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The session timeout.
    #[serde(with = "config::duration")]
    pub session: Duration,
    /// How often to commit.
    #[serde(with = "config::duration")]
    pub commit_interval: Duration,
    /// The progress window.
    pub window: u32,
    /// How long a revoke waits for sends.
    #[serde(with = "config::duration")]
    pub drain_deadline: Duration,
}

/// `[pipeline]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Check what ingest made.
    pub edge_keys: Vec<KeyFile>,
    /// Make and check everything behind it.
    pub core_keys: Vec<KeyFile>,
    /// Make keyed ids: the current one, then the previous.
    pub id_keys: Vec<KeyFile>,
}

/// A key with its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Its name.
    pub id: KeyId,
    /// Its file.
    pub file: SecretFile,
}

/// `[router]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Records under way.
    pub in_flight: usize,
}

/// `[dedup]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    /// The window.
    #[serde(with = "config::duration")]
    pub window: Duration,
    /// The oldest record that is delivered.
    #[serde(with = "config::duration")]
    pub age_max: Duration,
    /// The memory of the cache on disk.
    pub cache_bytes: ByteSize,
    /// Its largest size there.
    pub cache_disk_bytes: ByteSize,
    /// What to do with a partition that the cache knows nothing of.
    pub cold_index: ColdIndex,
    /// How fast to read the log for that.
    pub scan_records_per_second: u32,
}

/// `[retry]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The delays.
    pub lanes: Vec<Delay>,
    /// Dispatches of one event to one sink.
    pub attempts_max: u32,
}

/// `[reload]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// How often files are looked at; 0 for never.
    #[serde(with = "config::duration")]
    pub interval: Duration,
}

/// `[source.<name>]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Opening keys.
    pub keys: Vec<KeyFile>,
    /// Where a native event's id is.
    pub event_id: EventIdRule,
    /// Where its type is.
    pub event_type: Pointer,
    /// Where its time is; empty for the time of receipt.
    pub event_time: Pointer,
    /// Where its events go.
    pub sinks: Vec<SinkId>,
}

/// How a native event's id is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventIdRule {
    /// A member of the payload.
    Pointer(Pointer),
    /// The source has none: what was signed.
    SignedContent,
}

impl<'de> Deserialize<'de> for EventIdRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "signed-content" {
            return Ok(Self::SignedContent);
        }
        let pointer: Pointer = text.parse().map_err(serde::de::Error::custom)?;
        if pointer.is_root() {
            return Err(serde::de::Error::custom("needs a JSON pointer such as \"/id\", or \"signed-content\""));
        }
        Ok(Self::Pointer(pointer))
    }
}

/// `[sink.<name>]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// What it is.
    pub kind: SinkKind,
    /// Longest dispatch.
    #[serde(with = "config::duration")]
    pub timeout: Duration,
    /// Most that a crash can repeat, per lane.
    pub permits: Auto,
    /// Dispatches under way.
    pub concurrency: Auto,
    /// `[sink.<name>.breaker]`
    pub breaker: BreakerConfig,
    /// HTTP: where to.
    pub url: String,
    /// HTTP: the signing secret.
    pub secret: SecretFile,
    /// HTTP: further authorities.
    pub ca: ConfigPath,
    /// HTTP: the keys that the server may have.
    pub pins: Vec<Pin>,
    /// HTTP: allows `http://`.
    pub danger_plain_http: bool,
    /// Kafka: the output topic.
    pub topic: String,
    /// Kafka: output and progress become visible together.
    pub transactional: bool,
    /// Kafka: how often they do.
    #[serde(with = "config::duration")]
    pub transaction_interval: Duration,
    /// Kafka: its cluster, unless it is the pipeline's.
    pub kafka: KafkaConfig,
    /// File: where.
    pub path: ConfigPath,
}

/// A number, or `"auto"`: what is right for the kind of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auto {
    /// By the kind.
    ByKind,
    /// This many.
    Exactly(usize),
}

impl<'de> Deserialize<'de> for Auto {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoVisitor;

        impl serde::de::Visitor<'_> for AutoVisitor {
            type Value = Auto;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a number of 1 or more, or \"auto\"")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Auto, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Unsigned(number), &self);
                usize::try_from(number).ok().filter(|number| *number > 0).map(Auto::Exactly).ok_or_else(wrong)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Auto, E> {
                let wrong = |_| E::invalid_value(serde::de::Unexpected::Signed(number), &self);
                u64::try_from(number).map_err(wrong).and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Auto, E> {
                // An environment variable is a text, whatever it says.
                match text.parse() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) if text == "auto" => Ok(Auto::ByKind),
                    Err(_) => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(AutoVisitor)
    }
}

/// `[sink.<name>.breaker]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerConfig {
    /// The time over which results are counted.
    #[serde(with = "config::duration")]
    pub window: Duration,
    /// Fewer results open nothing.
    pub dispatches_min: u32,
    /// The part of failures that opens.
    pub failure_percent: u32,
    /// How long it stays open at first.
    #[serde(with = "config::duration")]
    pub open_first: Duration,
    /// The longest that it stays open.
    #[serde(with = "config::duration")]
    pub open_max: Duration,
    /// Dispatches that decide whether it closes.
    pub probes: u32,
}

impl From<BreakerConfig> for BreakerSettings {
    fn from(config: BreakerConfig) -> Self {
        let BreakerConfig { window, dispatches_min, failure_percent, open_first, open_max, probes } = config;
        Self { window, dispatches_min, failure_percent, open_first, open_max, probes }
    }
}

impl Sink {
    /// What only a start brings into effect.
    fn as_started(&self) -> Self {
        Self { secret: SecretFile::default(), ca: ConfigPath::default(), pins: Vec::new(), ..self.clone() }
    }

    /// Most that a crash can repeat, per lane.
    pub fn permits(&self) -> usize {
        match (self.permits, self.kind) {
            (Auto::Exactly(permits), _) => permits,
            (Auto::ByKind, SinkKind::Http) => 256,
            (Auto::ByKind, SinkKind::Kafka | SinkKind::File) => 8192,
        }
    }

    /// Most dispatches under way at once.
    pub fn concurrency(&self) -> usize {
        match (self.concurrency, self.kind) {
            (Auto::Exactly(concurrency), _) => concurrency,
            (Auto::ByKind, SinkKind::Http) => 64,
            (Auto::ByKind, SinkKind::Kafka | SinkKind::File) => 8192,
        }
    }
}

/// What a sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// POST, signed as Standard Webhooks.
    Http,
    /// CloudEvents on a topic.
    Kafka,
    /// JSON lines.
    File,
}

impl Dedup {
    /// How much longer than the window the log must reach back, at least: old records leave by whole segments, and the window
    /// of a record that waits for its sink began earlier.
    pub fn margin(&self) -> Duration {
        self.window / 8
    }
}

impl Config {
    /// Loads the defaults, a file and the environment.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        config::load(Spec { name: "processor", defaults: DEFAULTS, env_prefix: "PROCESSOR" }, file, env)
    }

    /// Every file that it names and that is read, not written.
    pub fn files(&self) -> Vec<PathBuf> {
        let Pipeline { edge_keys, core_keys, id_keys } = &self.pipeline;
        let sources = self.source.values().flat_map(|source| &source.keys);
        let keys = [edge_keys, core_keys, id_keys].into_iter().flatten().chain(sources);
        let mut files: Vec<PathBuf> = keys.map(|key| key.file.as_path().to_owned()).collect();
        files.extend(self.kafka.files());
        for sink in self.sink.values() {
            files.extend(
                Some(&sink.secret).filter(|secret| !secret.is_empty()).map(|secret| secret.as_path().to_owned()),
            );
            files.extend(sink.ca.if_set().map(Path::to_owned));
            files.extend(sink.kafka.files());
        }
        files
    }

    /// The keys whose values differ from `running`'s and take effect only at a start.
    pub fn restart_keys(&self, running: &Self) -> Vec<String> {
        let differing = [
            ("roles", self.roles != running.roles),
            ("data", self.data != running.data),
            ("admin", self.admin != running.admin),
            ("log", self.log != running.log),
            ("telemetry", self.telemetry != running.telemetry),
            ("kafka", self.kafka != running.kafka),
            ("topics", self.topics != running.topics),
            ("group", self.group != running.group),
            ("router", self.router != running.router),
            ("dedup", self.dedup != running.dedup),
            ("retry", self.retry != running.retry),
            ("reload", self.reload != running.reload),
        ];
        let mut keys: Vec<String> =
            differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect();
        let names: BTreeSet<&SinkId> = self.sink.keys().chain(running.sink.keys()).collect();
        let differs = |name: &&SinkId| match (self.sink.get(*name), running.sink.get(*name)) {
            (Some(now), Some(then)) => now.as_started() != then.as_started(),
            (Some(_), None) | (None, Some(_)) | (None, None) => true,
        };
        keys.extend(names.into_iter().filter(differs).map(|name| format!("sink.{name}")));
        keys
    }

    /// The retry lanes as a schedule. The configuration was checked.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.retry.lanes.clone(), self.retry.attempts_max).expect("checked when it was loaded")
    }

    /// Every topic of this deployment: name and role.
    pub fn pipeline_topics(&self) -> Vec<Topic> {
        let mut topics = vec![Topic::Inbox, Topic::Events, Topic::Dead];
        for sink in self.sink.keys() {
            topics.extend(self.retry_topics(sink));
        }
        topics
    }

    /// The retry lanes of a sink.
    pub fn retry_topics(&self, sink: &SinkId) -> impl Iterator<Item = Topic> {
        self.retry.lanes.iter().map(move |delay| Topic::Retry { sink: sink.clone(), delay: *delay })
    }

    /// Every consumer group of this deployment, with the topics that it reads.
    pub fn groups(&self) -> Vec<(Group, Vec<Topic>)> {
        let mut groups = vec![(Group::Router, vec![Topic::Inbox])];
        for sink in self.sink.keys() {
            groups.push((Group::Deliver(sink.clone()), vec![Topic::Events]));
            groups.push((Group::Retry(sink.clone()), self.retry_topics(sink).collect()));
        }
        groups
    }

    /// The cluster that a Kafka sink writes to.
    pub fn sink_cluster<'a>(&'a self, sink: &'a Sink) -> &'a KafkaConfig {
        if sink.kafka.bootstrap.is_empty() { &self.kafka } else { &sink.kafka }
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        self.kafka.check("kafka", mistakes);
        let mut mistake = |key: &str, sentence: &str| mistakes.push(Mistake::new(key, sentence));
        if let Some(sentence) = self.telemetry.export().endpoint_mistake() {
            mistake("telemetry.otlp_endpoint", sentence);
        }
        if !self.roles.router && !self.roles.deliverer {
            mistake("roles", "at least one role must be on");
        }
        if self.topics.partitions == 0 || self.topics.partitions > 10_000 {
            mistake("topics.partitions", "must be from 1 to 10000");
        }
        if self.topics.replication == 0
            || (self.topics.replication == 1 && !self.topics.danger_single_broker && !self.topics.danger_embedded)
        {
            mistake(
                "topics.replication",
                "one copy is lost with its disk: use 2 or more, or say topics.danger_single_broker",
            );
        }
        if self.group.window == 0 || self.group.window > WINDOW_MAX {
            mistake("group.window", "must be from 1 to 16384");
        }
        if self.dedup.window.is_zero() {
            mistake("dedup.window", "must not be zero");
        }
        if self.dedup.window > index::WINDOW_MAX {
            mistake("dedup.window", "must be 45d or less: the index keeps times in 32 bits of milliseconds");
        }
        if self.dedup.age_max >= self.topics.retention {
            mistake("dedup.age_max", "must be less than topics.retention");
        }
        if self.dedup.window + self.dedup.margin() > self.topics.retention {
            mistake(
                "dedup.window",
                "leaves no margin: topics.retention must be longer by an eighth of it, since repeats are found in the log",
            );
        }
        if self.dedup.cache_disk_bytes < ByteSize::kib(16 * 1024) {
            mistake("dedup.cache_disk_bytes", "must be 16MiB or more");
        }
        if self.dedup.scan_records_per_second == 0 {
            mistake("dedup.scan_records_per_second", "must be 1 or more");
        }
        if Schedule::new(self.retry.lanes.clone(), self.retry.attempts_max).is_none() {
            mistake(
                "retry.lanes",
                "needs at least one delay, each longer than the one before, and attempts_max of 1 or more",
            );
        }
        if self.router.in_flight == 0 {
            mistake("router.in_flight", "must be 1 or more");
        }
        for (key, keys) in [
            ("pipeline.edge_keys", &self.pipeline.edge_keys),
            ("pipeline.core_keys", &self.pipeline.core_keys),
            ("pipeline.id_keys", &self.pipeline.id_keys),
        ] {
            if keys.is_empty() {
                mistake(key, "needs at least one key");
            }
            doubled(key, keys, &mut mistake);
        }
        if self.pipeline.id_keys.len() > 2 {
            mistake("pipeline.id_keys", "has the current key and at most one previous one");
        }
        if self.source.is_empty() {
            mistake("source", "no [source.<name>] is configured");
        }
        for (name, source) in &self.source {
            let key = |field: &str| format!("source.{name}.{field}");
            if source.keys.is_empty() {
                mistake(&key("keys"), "needs at least one key");
            }
            doubled(&key("keys"), &source.keys, &mut mistake);
            if source.sinks.is_empty() {
                mistake(&key("sinks"), "needs at least one sink");
            }
            for sink in source.sinks.iter().filter(|sink| !self.sink.contains_key(*sink)) {
                mistake(&key("sinks"), &format!("there is no [sink.{sink}]"));
            }
        }
        for (name, sink) in &self.sink {
            check_sink(name, sink, self.group.session, mistakes);
            if sink.transactional {
                check_transactional(name, sink, self.topics.danger_embedded, mistakes);
            }
        }
    }
}

fn doubled(key: &str, keys: &[KeyFile], mistake: &mut impl FnMut(&str, &str)) {
    let mut ids: Vec<_> = keys.iter().map(|key| &key.id).collect();
    ids.sort();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        mistake(key, "two keys have the same id");
    }
}

fn check_sink(name: &SinkId, sink: &Sink, session: Duration, mistakes: &mut Vec<Mistake>) {
    let key = |field: &str| format!("sink.{name}.{field}");
    let mut mistake = |field: &str, sentence: &str| mistakes.push(Mistake::new(key(field), sentence));
    let breaker = &sink.breaker;
    if breaker.window.is_zero() || breaker.open_first.is_zero() {
        mistake("breaker.window", "window and open_first must not be zero");
    }
    if breaker.open_max < breaker.open_first {
        mistake("breaker.open_max", "must not be less than breaker.open_first");
    }
    if !(1..=100).contains(&breaker.failure_percent) {
        mistake("breaker.failure_percent", "must be from 1 to 100");
    }
    if breaker.dispatches_min == 0 || breaker.probes == 0 {
        mistake("breaker.probes", "dispatches_min and probes must be 1 or more");
    }
    if Lease::new(session, sink.timeout).is_none() {
        mistake("timeout", "leaves no time to send in: it must be well below group.session");
    }
    match sink.kind {
        SinkKind::Http => {
            let url: Option<http::Uri> = sink.url.parse().ok();
            match url.as_ref().and_then(http::Uri::scheme_str) {
                Some("https") => {}
                Some("http") if !sink.pins.is_empty() => mistake("pins", "needs https: without it nobody shows a key"),
                Some("http") if sink.danger_plain_http => {}
                Some("http") => mistake("url", "sends payloads in the clear: use https, or say danger_plain_http"),
                Some(_) | None => mistake("url", "is not an http(s) URL"),
            }
            if sink.secret.is_empty() {
                mistake("secret", "is missing: deliveries are always signed");
            }
        }
        SinkKind::Kafka => {
            if sink.topic.is_empty() {
                mistake("topic", "is missing");
            }
            if !sink.kafka.bootstrap.is_empty() {
                sink.kafka.check(&key("kafka"), mistakes);
            }
        }
        SinkKind::File => {
            if sink.path.is_empty() {
                mistake("path", "is missing");
            }
        }
    }
}

fn check_transactional(name: &SinkId, sink: &Sink, embedded: bool, mistakes: &mut Vec<Mistake>) {
    let mut mistake =
        |field: &str, sentence: &str| mistakes.push(Mistake::new(format!("sink.{name}.{field}"), sentence));
    match sink.kind {
        SinkKind::Kafka => {}
        SinkKind::Http | SinkKind::File => mistake("transactional", "is for kind = \"kafka\" only"),
    }
    if !sink.kafka.bootstrap.is_empty() {
        mistake("transactional", "needs the pipeline's own cluster: a transaction does not reach over two");
    }
    if embedded {
        mistake("transactional", "needs a real cluster: the embedded one has no transactions");
    }
    if sink.transaction_interval.is_zero() || sink.transaction_interval + sink.timeout >= TRANSACTION_TIMEOUT {
        mistake(
            "transaction_interval",
            "must be positive and, with timeout, less than the 15 s a transaction may last",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Mistakes> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("processor.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), std::iter::empty())
    }

    const GOOD: &str = r#"
[pipeline]
edge_keys = [{ id = "edge-1", file = "e" }]
core_keys = [{ id = "core-1", file = "c" }]
id_keys = [{ id = "id-1", file = "i" }]
[source.acme]
keys = [{ id = "k1", file = "k" }]
sinks = ["main", "out"]
[sink.main]
url = "https://example.com/hook"
secret = "s"
[sink.out]
kind = "kafka"
topic = "events"
"#;

    #[test]
    fn a_small_file_is_enough() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.sink.len(), 2);
        assert_eq!(config.pipeline_topics().len(), 3 + 2 * 4);
        assert_eq!(config.groups().len(), 5);
        assert_eq!(config.dedup.window, Duration::from_secs(86_400));
    }

    #[test]
    fn spans_go_to_a_url_or_nowhere() {
        let endpoint = |text: &str| load(&format!("{GOOD}[telemetry]\notlp_endpoint = \"{text}\"\n"));
        assert!(endpoint("").is_ok() && endpoint("http://localhost:4318/v1/traces").is_ok());
        let mistakes = endpoint("localhost:4318").unwrap_err();
        assert_eq!(mistakes.iter().map(Mistake::key).collect::<Vec<_>>(), ["telemetry.otlp_endpoint"]);
    }

    #[test]
    fn the_window_ends_where_the_index_can_not_tell_times_apart() {
        let window = |text| load(&format!("{GOOD}[dedup]\nwindow = \"{text}\"\n[topics]\nretention = \"90d\"\n"));
        assert!(window("45d").is_ok());
        let mistakes = window("46d").unwrap_err();
        assert_eq!(mistakes.iter().map(Mistake::key).collect::<Vec<_>>(), ["dedup.window"]);
    }

    #[test]
    fn permits_and_concurrency_go_by_the_kind_of_the_sink_unless_they_are_given() {
        let file = "[sink.disk]\nkind = \"file\"\npath = \"p\"\n";
        let config = load(&format!("{GOOD}{file}")).unwrap();
        let of = |config: &Config, sink: &str| {
            let sink = &config.sink[&sink.parse::<SinkId>().unwrap()];
            (sink.permits(), sink.concurrency())
        };
        assert_eq!(of(&config, "main"), (256, 64));
        assert_eq!(of(&config, "out"), (8192, 8192));
        assert_eq!(of(&config, "disk"), (8192, 8192));
        let config = load(&format!("{GOOD}permits = 7\n{file}concurrency = 3\n")).unwrap();
        assert_eq!((of(&config, "out"), of(&config, "disk")), ((7, 8192), (8192, 3)));
        let config = load(&format!("{GOOD}permits = \"7\"\n")).unwrap();
        assert_eq!(of(&config, "out"), (7, 8192), "as the environment gives it");
        for bad in ["0", "-1", "\"many\"", "1.5", "true", "\"0\"", "\"1.5\""] {
            let mistakes = load(&format!("{GOOD}permits = {bad}\n")).unwrap_err();
            assert_eq!(mistakes.iter().map(Mistake::key).collect::<Vec<_>>(), ["sink.out.permits"], "{bad}");
        }
    }

    #[test]
    fn the_breaker_has_limits_that_fit_together() {
        let breaker = |text: &str| load(&format!("{GOOD}[sink.out.breaker]\n{text}\n"));
        let settings: BreakerSettings = load(GOOD).unwrap().sink[&"out".parse::<SinkId>().unwrap()].breaker.into();
        assert_eq!((settings.dispatches_min, settings.failure_percent, settings.probes), (10, 50, 3));
        for (text, key) in [
            ("window = \"0s\"", "window"),
            ("open_first = \"2m\"", "open_max"),
            ("failure_percent = 0", "failure_percent"),
            ("failure_percent = 101", "failure_percent"),
            ("probes = 0", "probes"),
            ("dispatches_min = 0", "probes"),
        ] {
            let mistakes = breaker(text).unwrap_err();
            assert_eq!(mistakes.iter().map(Mistake::key).collect::<Vec<_>>(), [format!("sink.out.breaker.{key}")]);
        }
        assert!(breaker("open_first = \"1m\"\nfailure_percent = 100").is_ok());
    }

    #[test]
    fn every_relation_is_checked_in_one_run() {
        let bad = GOOD
            .replace("https://example.com", "http://example.com")
            .replace("\"out\"]", "\"nowhere\"]")
            .replace("topic = \"events\"", "timeout = \"40s\"")
            .replace("id_keys = [{ id = \"id-1\", file = \"i\" }]", "id_keys = []\n[dedup]\nwindow = \"8d\"");
        let mistakes = load(&bad).unwrap_err();
        let keys: Vec<_> = mistakes.iter().map(Mistake::key).collect();
        for key in [
            "sink.main.url",
            "source.acme.sinks",
            "sink.out.topic",
            "sink.out.timeout",
            "pipeline.id_keys",
            "dedup.window",
        ] {
            assert!(keys.contains(&key), "{key} is not in {mistakes}");
        }
    }

    #[test]
    fn a_transactional_sink_is_a_kafka_sink_on_the_own_real_cluster() {
        let out = |lines: &str| format!("{GOOD}transactional = true\n{lines}");
        assert!(load(&out("")).is_ok());
        for (text, key) in [
            (out("[sink.out.kafka]\nbootstrap = \"elsewhere:9092\""), "sink.out.transactional"),
            (out("[topics]\ndanger_embedded = true"), "sink.out.transactional"),
            (out("transaction_interval = \"5s\""), "sink.out.transaction_interval"),
            (out("transaction_interval = \"0s\""), "sink.out.transaction_interval"),
            (GOOD.replace("[sink.main]", "[sink.main]\ntransactional = true"), "sink.main.transactional"),
        ] {
            let mistakes = load(&text).unwrap_err();
            assert!(mistakes.iter().any(|mistake| mistake.key() == key), "{key} is not in {mistakes}");
        }
    }
}
