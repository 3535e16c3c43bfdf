//! Ingest's configuration. `ingest.default.toml` is its manual.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::config::{self, ByteSize, Check, ConfigPath, Mistake, Mistakes, Moment, Period, SecretFile, Spec};
use common::envelope::Format;
use common::id::{KeyId, SourceId};
use common::kafka::client::KafkaConfig;
use common::limits::{BODY_BYTES_CAP, RECORD_BYTES_MAX};
use common::pin::Pin;
use common::signature::{SIGNATURES_MAX, Window};
use common::spans::Export;
use common::telemetry::LogConfig;
use common::topics::Prefix;
use ipnet::IpNet;
use serde::Deserialize;

use crate::rate::ENTRY_BYTES_MAX;
use crate::scheme::Scheme;
use crate::server::connection_bytes_max;

/// Most secrets of one source, whether they are accepted now, were once, or will be: each is worked through for every request
/// to the source's path.
const SECRETS_MAX: usize = 4 * SIGNATURES_MAX;

/// The manual, and the defaults.
pub const DEFAULTS: &str = include_str!("../ingest.default.toml");

/// Everything ingest can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
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
    /// `[publish]`
    pub publish: Publish,
    /// `[limits]`
    pub limits: Limits,
    /// `[rate]`
    pub rate: Rate,
    /// `[drain]`
    pub drain: Drain,
    /// `[reload]`
    pub reload: Reload,
    /// `[pipeline]`
    pub pipeline: Pipeline,
    /// `[source.<name>]`
    pub source: BTreeMap<SourceId, Source>,
}

/// `[listen]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Where senders connect.
    pub address: SocketAddr,
    /// Where balancers ask, by GET, whether to send requests; empty: nowhere.
    pub health_path: String,
    /// The certificate chain.
    pub certificate: ConfigPath,
    /// Its private key.
    pub key: ConfigPath,
    /// The authorities of clients' certificates; empty for none.
    pub client_ca: ConfigPath,
    /// Their revocation lists; empty for none.
    pub client_crl: ConfigPath,
    /// Whether a client needs a certificate.
    pub client_certificate: ClientCertificate,
    /// Load balancers that say for whom they connect.
    pub proxy_protocol: ProxyProtocol,
    /// HTTP proxies that say for whom they ask.
    pub forwarded: Forwarded,
}

/// Whether a client needs a certificate, where there is a `client_ca`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// Every client does.
    Required,
    /// Only those of sources that have pins.
    Optional,
}

/// `listen.proxy_protocol`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// From where a header is required. Empty: from nowhere.
    pub trusted: Vec<IpNet>,
}

/// `listen.forwarded`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    /// The header that is read.
    pub header: ForwardedHeader,
    /// From where it is believed. Empty: from nowhere.
    pub trusted: Vec<IpNet>,
}

/// A header by which proxies say for whom they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ForwardedHeader {
    /// What most proxies write.
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// RFC 7239.
    #[serde(rename = "forwarded")]
    Forwarded,
}

/// `[reload]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// How often files are looked at; 0 for never.
    #[serde(with = "config::duration")]
    pub interval: Duration,
}

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where metrics and health are served.
    pub address: SocketAddr,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The collector that gets spans; empty for none.
    pub otlp_endpoint: String,
    /// Further authorities for it.
    pub otlp_ca: ConfigPath,
    /// The part of the requests without a trace that are traced.
    pub sample_ratio: f64,
}

impl Telemetry {
    /// Where spans go.
    pub fn export(&self) -> Export<'_> {
        Export { endpoint: &self.otlp_endpoint, ca: &self.otlp_ca, ratio: self.sample_ratio }
    }
}

/// `[topics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    /// What every name begins with.
    pub prefix: Prefix,
}

/// `[publish]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// How long a sender waits for the broker.
    #[serde(with = "config::duration")]
    pub ack_deadline: Duration,
    /// How long records wait for company.
    #[serde(with = "config::duration")]
    pub linger: Duration,
    /// Records waiting.
    pub queue_records: u32,
    /// Bytes waiting.
    pub queue_bytes: ByteSize,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of one body.
    pub body_bytes_max: ByteSize,
    /// Of request line and headers.
    pub head_bytes_max: ByteSize,
    /// Headers of one request.
    pub header_count_max: usize,
    /// Of path and query.
    pub uri_bytes_max: ByteSize,
    /// For a whole head; also the longest idle time.
    #[serde(with = "config::duration")]
    pub head_deadline: Duration,
    /// For a whole body.
    #[serde(with = "config::duration")]
    pub body_deadline: Duration,
    /// The slowest body.
    pub body_bytes_per_second_min: ByteSize,
    /// For a TLS handshake.
    #[serde(with = "config::duration")]
    pub handshake_deadline: Duration,
    /// Handshakes at once.
    pub handshakes_max: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// Of those, from one network.
    pub connections_per_ip_max: usize,
    /// Requests on one connection, one after the other.
    pub requests_per_connection_max: u64,
    /// Longest life of a connection.
    #[serde(with = "config::duration")]
    pub connection_age_max: Duration,
    /// HTTP/2 streams at once on one connection.
    pub streams_per_connection_max: u32,
    /// HTTP/2 frames that no request explains, on one connection.
    pub frames_without_request_max: u64,
    /// Requests between their head and their answer.
    pub requests_in_flight_max: usize,
    /// Per network; 0 for no limit.
    pub failed_authentications_per_second: u32,
    /// At once; 0 for a second's worth.
    pub failed_authentications_burst: u32,
    /// Verifications at once of a network that is over that limit.
    pub failing_verifications_max: usize,
}

/// `[rate]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Per network and path; 0 for no limit.
    pub requests_per_minute: u32,
    /// At once; 0 for a minute's worth.
    pub burst: u32,
    /// Entries in the table.
    pub addresses_max: usize,
    /// Whether nodes share budgets.
    pub store: RateStore,
    /// `[rate.redis]`
    pub redis: RateRedis,
}

/// Where budgets are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateStore {
    /// In this process.
    Memory,
    /// In this process and, shared with other nodes, in Redis.
    Redis,
}

/// `[rate.redis]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRedis {
    /// `host:port`.
    pub address: String,
    /// The database's number.
    pub database: u32,
    /// Empty for the default user.
    pub username: String,
    /// Empty for no password.
    pub password_file: SecretFile,
    /// What keys begin with.
    pub prefix: String,
    /// `[rate.redis.tls]`
    pub tls: RateRedisTls,
}

/// `[rate.redis.tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRedisTls {
    /// Whether to use TLS.
    pub enabled: bool,
    /// PEM file of the authorities to trust instead of the system's; empty for the system's.
    pub ca: ConfigPath,
}

/// `[drain]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// How long to go on listening.
    #[serde(with = "config::duration")]
    pub notice: Duration,
    /// For everything.
    #[serde(with = "config::duration")]
    pub deadline: Duration,
}

/// `[pipeline]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Makes records' MACs.
    pub edge_key: KeyFile,
}

/// A key or secret with its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Its name.
    pub id: KeyId,
    /// Its file.
    pub file: SecretFile,
}

/// One secret of a source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSecret {
    /// Its name.
    pub id: KeyId,
    /// Its file.
    pub file: SecretFile,
    /// When it begins to be accepted.
    #[serde(default)]
    pub not_before: Option<Moment>,
    /// When it ends.
    #[serde(default)]
    pub not_after: Option<Moment>,
}

impl SourceSecret {
    /// When it is accepted.
    pub fn period(&self) -> Period {
        Period { not_before: self.not_before, not_after: self.not_after }
    }
}

/// `[source.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Whether its signatures are accepted.
    pub enabled: bool,
    /// Where its senders POST to.
    pub path: String,
    /// How its senders sign.
    pub scheme: Scheme,
    /// What its senders may send.
    pub formats: Vec<Format>,
    /// How far a timestamp may be from our clock.
    #[serde(with = "config::duration")]
    pub tolerance: Duration,
    /// Its secrets.
    pub secrets: Vec<SourceSecret>,
    /// Accepted requests; 0 for no limit.
    pub requests_per_second: u32,
    /// At once; 0 for a second's worth.
    pub burst: u32,
    /// The keys that its senders' client certificates may have; empty if they need none.
    pub pins: Vec<Pin>,
}

impl Config {
    /// Loads the file over the defaults, then the variables that begin with `INGEST__`.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        config::load(Spec { name: "ingest", defaults: DEFAULTS, env_prefix: "INGEST" }, file, env)
    }

    /// Every file that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let Listen { certificate, key, client_ca, client_crl, .. } = &self.listen;
        let paths = [certificate, key, client_ca, client_crl].into_iter().filter_map(ConfigPath::if_set);
        let secrets = self.source.values().flat_map(|source| &source.secrets).map(|secret| &secret.file);
        let secrets = secrets.chain([&self.pipeline.edge_key.file]).map(SecretFile::as_path);
        let paths = paths.chain(self.rate.files());
        paths.chain(secrets).map(Path::to_owned).chain(self.kafka.files()).collect()
    }

    /// The keys whose values differ from `running`'s and take effect only at a start.
    pub fn restart_keys(&self, running: &Self) -> Vec<String> {
        let differing = [
            ("listen.address", self.listen.address != running.listen.address),
            ("admin.address", self.admin.address != running.admin.address),
            ("log", self.log != running.log),
            ("telemetry", self.telemetry != running.telemetry),
            ("kafka.bootstrap", self.kafka.bootstrap != running.kafka.bootstrap),
            ("topics.prefix", self.topics.prefix != running.topics.prefix),
            ("publish", self.publish != running.publish),
            ("rate", self.rate.needs_start(&running.rate)),
            ("drain", self.drain != running.drain),
            ("reload.interval", self.reload != running.reload),
        ];
        differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
    }

    /// What senders can make ingest keep in memory, in bytes, whatever they do: bodies of requests in flight, records that
    /// wait for the broker, connections that each fill everything that they may, and tables of addresses. The process itself
    /// comes on top.
    pub fn memory_bytes_max(&self) -> u64 {
        /// What Kafka's client keeps for a record beside the record.
        const QUEUED_RECORD_BYTES: u64 = 1024;
        let (limits, publish) = (&self.limits, &self.publish);
        let bodies = limits.requests_in_flight_max as u64 * limits.body_bytes_max.as_u64();
        let queue = publish.queue_bytes.as_u64() + u64::from(publish.queue_records) * QUEUED_RECORD_BYTES;
        let connections = limits.connections_max as u64 * connection_bytes_max(limits);
        let tables =
            u64::from(self.rate.requests_per_minute > 0) + u64::from(limits.failed_authentications_per_second > 0);
        let addresses = tables * self.rate.addresses_max as u64 * ENTRY_BYTES_MAX;
        bodies + queue + connections + addresses
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        self.kafka.check("kafka", mistakes);
        let mut require = |holds: bool, key: &str, sentence: &str| {
            if !holds {
                mistakes.push(Mistake::new(key, sentence));
            }
        };
        require(!self.listen.certificate.is_empty(), "listen.certificate", "is required: a PEM file");
        require(!self.listen.key.is_empty(), "listen.key", "is required: a PEM file");
        require(!self.pipeline.edge_key.file.is_empty(), "pipeline.edge_key.file", "is required: a file with the key");
        require((0.0..=1.0).contains(&self.telemetry.sample_ratio), "telemetry.sample_ratio", "must be from 0 to 1");
        if let Some(sentence) = self.telemetry.export().endpoint_mistake() {
            require(false, "telemetry.otlp_endpoint", sentence);
        }
        let health_path = &self.listen.health_path;
        require(
            health_path.is_empty() || is_path(health_path),
            "listen.health_path",
            "must be a path such as /healthz",
        );
        let clients = !self.listen.client_ca.is_empty();
        require(clients || self.listen.client_crl.is_empty(), "listen.client_crl", "needs listen.client_ca");
        require(!self.source.is_empty(), "source", "at least one source is required: [source.<name>]");
        self.publish.check(&mut require);
        self.limits.check(&mut require);
        self.rate.check(&mut require);
        require(
            self.limits.body_deadline + self.publish.ack_deadline < self.drain.deadline,
            "drain.deadline",
            "must be more than limits.body_deadline and publish.ack_deadline together",
        );
        require(self.drain.notice < self.drain.deadline, "drain.notice", "must be shorter than drain.deadline");
        let mut schemes = BTreeMap::new();
        for (id, source) in &self.source {
            let scheme = schemes.entry(&source.path).or_insert(source.scheme);
            require(
                *scheme == source.scheme,
                &format!("source.{id}.scheme"),
                "must be that of every source on its path",
            );
            source.check(&mut |holds, key, sentence| require(holds, &format!("source.{id}.{key}"), sentence));
            require(clients || source.pins.is_empty(), &format!("source.{id}.pins"), "needs listen.client_ca");
        }
    }
}

/// Notes a mistake at a key unless what it requires holds.
type Require<'a> = dyn FnMut(bool, &str, &str) + 'a;

impl Publish {
    fn check(&self, require: &mut Require<'_>) {
        let second = Duration::from_secs(1);
        require(self.ack_deadline >= second, "publish.ack_deadline", "must be at least 1s");
        require(self.linger < second, "publish.linger", "must be less than 1s");
        require(self.queue_records > 0, "publish.queue_records", "must not be 0");
        let queue_kib = self.queue_bytes.as_u64() / 1024;
        let record_kib = RECORD_BYTES_MAX as u64 / 1024;
        require(
            (record_kib..=u64::from(u32::MAX) / 1024).contains(&queue_kib),
            "publish.queue_bytes",
            "must be at least 2MiB, the largest record, and less than 4GiB",
        );
    }
}

impl Limits {
    fn check(&self, require: &mut Require<'_>) {
        let body = self.body_bytes_max.as_u64();
        require((1..=BODY_BYTES_CAP).contains(&body), "limits.body_bytes_max", "must be from 1 byte to 1MiB");
        let head = self.head_bytes_max.as_u64();
        require((1024..=1024 * 1024).contains(&head), "limits.head_bytes_max", "must be from 1KiB to 1MiB");
        let uri = self.uri_bytes_max.as_u64();
        require((1..=head).contains(&uri), "limits.uri_bytes_max", "must be from 1 byte to limits.head_bytes_max");
        let headers = self.header_count_max;
        require((8..=1024).contains(&headers), "limits.header_count_max", "must be from 8 to 1024");
        let rate = self.body_bytes_per_second_min.as_u64();
        require(rate > 0, "limits.body_bytes_per_second_min", "must not be 0");
        for (key, deadline) in [
            ("limits.head_deadline", self.head_deadline),
            ("limits.body_deadline", self.body_deadline),
            ("limits.handshake_deadline", self.handshake_deadline),
            ("limits.connection_age_max", self.connection_age_max),
        ] {
            require(!deadline.is_zero(), key, "must not be 0");
        }
        for (key, count) in [
            ("limits.handshakes_max", self.handshakes_max),
            ("limits.connections_max", self.connections_max),
            ("limits.connections_per_ip_max", self.connections_per_ip_max),
            ("limits.requests_in_flight_max", self.requests_in_flight_max),
            ("limits.failing_verifications_max", self.failing_verifications_max),
        ] {
            require((1..=1_000_000).contains(&count), key, "must be from 1 to 1000000");
        }
        require(self.requests_per_connection_max > 0, "limits.requests_per_connection_max", "must not be 0");
        require(self.streams_per_connection_max > 0, "limits.streams_per_connection_max", "must not be 0");
        let frames = self.frames_without_request_max;
        require(frames >= 100, "limits.frames_without_request_max", "must be at least 100");
    }
}

impl Rate {
    /// Whether this can only take effect at a start: what nodes share is set up once.
    pub(crate) fn needs_start(&self, running: &Self) -> bool {
        self != running && [self, running].iter().any(|rate| rate.store == RateStore::Redis)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let RateRedis { password_file, tls, .. } = &self.redis;
        let files = [password_file.as_path(), tls.ca.as_path()].into_iter();
        files.filter(|file| self.store == RateStore::Redis && !file.as_os_str().is_empty())
    }

    fn check(&self, require: &mut Require<'_>) {
        require(self.addresses_max >= 1024, "rate.addresses_max", "must be at least 1024");
        // More would not fit the numbers that are kept.
        let day = u64::from(self.requests_per_minute) * 24 * 60;
        require(
            self.requests_per_minute == 0 || u64::from(self.burst) <= day,
            "rate.burst",
            "must be at most a day's worth of rate.requests_per_minute",
        );
        let redis = &self.redis;
        let used = self.store == RateStore::Redis;
        let has_port =
            redis.address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        require(!used || has_port, "rate.redis.address", "must be host:port");
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
        require(
            (1..=64).contains(&redis.prefix.len()) && redis.prefix.bytes().all(plain),
            "rate.redis.prefix",
            "must be 1 to 64 letters, digits, '.', '_', '-' and ':'",
        );
        require(
            redis.username.is_empty() || !redis.password_file.is_empty(),
            "rate.redis.password_file",
            "is required with rate.redis.username",
        );
    }
}

/// Whether a request can have this path.
fn is_path(text: &str) -> bool {
    let plain =
        |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'`' | b'{' | b'}');
    text.starts_with('/') && text.len() <= 1024 && text.bytes().all(plain)
}

impl Source {
    fn check(&self, require: &mut Require<'_>) {
        require(is_path(&self.path), "path", "must begin with / and consist of characters that a URL's path may have");
        require(!self.formats.is_empty(), "formats", "must name at least one format");
        let whole = self.tolerance.subsec_nanos() == 0;
        let seconds = self.tolerance.as_secs();
        require(
            whole && (Window::TOLERANCE_S_MIN..=Window::TOLERANCE_S_MAX).contains(&seconds),
            "tolerance",
            "must be whole seconds from 30s to 15m",
        );
        let periods: Vec<Period> = self.secrets.iter().map(SourceSecret::period).collect();
        require(Period::overlap(&periods) <= SIGNATURES_MAX, "secrets", "must be at most 5 at any time");
        require(self.secrets.len() <= SECRETS_MAX, "secrets", "must be at most 20, those not accepted now included");
        require(!self.enabled || !self.secrets.is_empty(), "secrets", "must not be empty while the source is enabled");
        let mut ids = BTreeSet::new();
        for (index, secret) in self.secrets.iter().enumerate() {
            require(ids.insert(&secret.id), &format!("secrets[{index}].id"), "is used twice");
            require(!secret.file.is_empty(), &format!("secrets[{index}].file"), "must not be empty");
            let period = secret.period();
            require(!period.is_empty(), &format!("secrets[{index}].not_after"), "must be later than not_before");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is right, with one more line at its end.
    fn mistakes_with(more: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ingest.toml");
        let base = "listen.certificate = \"c\"\nlisten.key = \"k\"\npipeline.edge_key.file = \"e\"\n\
                    source.acme.secrets = [{ id = \"s1\", file = \"s\" }]\n";
        std::fs::write(&file, format!("{base}{more}")).unwrap();
        match Config::load(Some(&file), std::iter::empty()) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(|mistake| mistake.key().to_owned()).collect(),
        }
    }

    #[test]
    fn the_manual_fits_the_type_and_lacks_only_what_only_the_operator_knows() {
        assert_eq!(mistakes_with(""), Vec::<String>::new());
        let bare = Config::load(None, std::iter::empty()).unwrap_err();
        let keys: Vec<&str> = bare.iter().map(Mistake::key).collect();
        assert_eq!(keys, ["listen.certificate", "listen.key", "pipeline.edge_key.file", "source"]);
    }

    #[test]
    fn relations_have_both_edges() {
        for (good, bad, key) in [
            ("limits.body_bytes_max = \"1MiB\"", "limits.body_bytes_max = 1048577", "limits.body_bytes_max"),
            ("limits.body_bytes_max = 1", "limits.body_bytes_max = 0", "limits.body_bytes_max"),
            (
                "limits.head_bytes_max = \"2KiB\"",
                "limits.head_bytes_max = 1023\nlimits.uri_bytes_max = 9",
                "limits.head_bytes_max",
            ),
            ("limits.uri_bytes_max = \"16KiB\"", "limits.uri_bytes_max = 16385", "limits.uri_bytes_max"),
            ("limits.header_count_max = 8", "limits.header_count_max = 7", "limits.header_count_max"),
            ("limits.connections_max = 1", "limits.connections_max = 0", "limits.connections_max"),
            (
                "limits.frames_without_request_max = 100",
                "limits.frames_without_request_max = 99",
                "limits.frames_without_request_max",
            ),
            ("limits.head_deadline = \"1ms\"", "limits.head_deadline = \"0s\"", "limits.head_deadline"),
            ("drain.deadline = \"26s\"", "drain.deadline = \"25s\"", "drain.deadline"),
            ("drain.notice = \"29s\"", "drain.notice = \"30s\"", "drain.notice"),
            ("publish.queue_bytes = \"2MiB\"", "publish.queue_bytes = \"1MiB\"", "publish.queue_bytes"),
            ("publish.ack_deadline = \"1s\"", "publish.ack_deadline = \"999ms\"", "publish.ack_deadline"),
            ("telemetry.sample_ratio = 1", "telemetry.sample_ratio = 1.01", "telemetry.sample_ratio"),
            ("telemetry.sample_ratio = 0.0", "telemetry.sample_ratio = -0.01", "telemetry.sample_ratio"),
            (
                "telemetry.otlp_endpoint = \"http://localhost:4318/v1/traces\"",
                "telemetry.otlp_endpoint = \"localhost:4318\"",
                "telemetry.otlp_endpoint",
            ),
            ("rate.addresses_max = 1024", "rate.addresses_max = 1023", "rate.addresses_max"),
            (
                "rate = { requests_per_minute = 1, burst = 1440 }",
                "rate = { requests_per_minute = 1, burst = 1441 }",
                "rate.burst",
            ),
            (
                "rate = { store = \"redis\", redis.address = \"[::1]:6379\" }",
                "rate = { store = \"redis\", redis.address = \"localhost\" }",
                "rate.redis.address",
            ),
            ("rate.redis.prefix = \"a.b_c-d:e\"", "rate.redis.prefix = \"a b\"", "rate.redis.prefix"),
            (
                "rate.redis = { username = \"u\", password_file = \"p\" }",
                "rate.redis.username = \"u\"",
                "rate.redis.password_file",
            ),
            (
                "limits.failing_verifications_max = 1",
                "limits.failing_verifications_max = 0",
                "limits.failing_verifications_max",
            ),
            (
                "listen.proxy_protocol.trusted = [\"10.0.0.0/8\", \"2001:db8::/32\"]",
                "listen.proxy_protocol.trusted = [\"10.0.0.0/33\"]",
                "listen.proxy_protocol.trusted[0]",
            ),
            (
                "listen.forwarded.header = \"forwarded\"",
                "listen.forwarded.header = \"x-real-ip\"",
                "listen.forwarded.header",
            ),
            ("source.acme.tolerance = \"30s\"", "source.acme.tolerance = \"29s\"", "source.acme.tolerance"),
            ("source.acme.tolerance = \"15m\"", "source.acme.tolerance = \"901s\"", "source.acme.tolerance"),
            ("source.acme.tolerance = \"31s\"", "source.acme.tolerance = \"30s 1ms\"", "source.acme.tolerance"),
            ("source.acme.path = \"/a/b%20c\"", "source.acme.path = \"/a b\"", "source.acme.path"),
            ("listen.health_path = \"\"", "listen.health_path = \"healthz\"", "listen.health_path"),
            ("source.acme.path = \"/\"", "source.acme.path = \"a\"", "source.acme.path"),
            ("source.acme.path = \"/a\"", "source.acme.path = \"/a?b\"", "source.acme.path"),
            (
                "source.acme.scheme = \"standard-webhooks\"",
                "source.b = { scheme = \"standard-webhooks\", secrets = [{ id = \"s1\", file = \"f\" }] }",
                "source.b.scheme",
            ),
            ("source.acme.formats = [\"jwe\"]", "source.acme.formats = []", "source.acme.formats"),
            ("source.off.enabled = false", "source.off.enabled = true", "source.off.secrets"),
            ("listen.client_ca = \"c\"\nlisten.client_crl = \"c\"", "listen.client_crl = \"c\"", "listen.client_crl"),
        ] {
            assert_eq!(mistakes_with(good), Vec::<String>::new(), "{good}");
            assert_eq!(mistakes_with(bad), [key], "{bad}");
        }
    }

    #[test]
    fn memory_is_the_sum_of_what_is_configured() {
        let bound = |change: fn(&mut Config)| {
            let mut config = crate::tests::config();
            config.limits.requests_in_flight_max = 10;
            config.limits.connections_max = 10;
            config.limits.failed_authentications_per_second = 10;
            change(&mut config);
            config.memory_bytes_max()
        };
        let plain = bound(|_| {});
        assert_eq!(bound(|config| config.limits.requests_in_flight_max = 11) - plain, 256 * 1024);
        assert_eq!(bound(|config| config.limits.body_bytes_max = ByteSize::kib(257)) - plain, 10 * 1024);
        assert_eq!(bound(|config| config.publish.queue_bytes = ByteSize::kib(256 * 1024 + 1)) - plain, 1024);
        assert_eq!(bound(|config| config.rate.addresses_max += 1) - plain, ENTRY_BYTES_MAX);
        assert_eq!(bound(|config| config.rate.requests_per_minute = 1) - plain, 100_000 * ENTRY_BYTES_MAX);
        assert!(bound(|config| config.limits.connections_max = 11) > plain);
        assert!(bound(|config| config.limits.head_bytes_max = ByteSize::kib(17)) > plain);
        assert!(bound(|config| config.limits.streams_per_connection_max = 65) > plain);
    }

    #[test]
    fn a_source_has_up_to_five_secrets_with_different_ids() {
        let secrets = |ids: &[&str]| {
            let list: Vec<String> = ids.iter().map(|id| format!("{{id=\"{id}\",file=\"f\"}}")).collect();
            mistakes_with(&format!("source.b.secrets = [{}]", list.join(",")))
        };
        assert_eq!(secrets(&["1", "2", "3", "4", "5"]), Vec::<String>::new());
        assert_eq!(secrets(&["1", "2", "3", "4", "5", "6"]), ["source.b.secrets"]);
        assert_eq!(secrets(&["1", "2", "1"]), ["source.b.secrets[2].id"]);
    }

    #[test]
    fn five_secrets_may_be_accepted_at_any_time_and_more_one_after_the_other() {
        let secrets = |periods: &[&str]| {
            let one = |(id, period): (usize, &&str)| format!("{{id=\"{id}\",file=\"f\"{period}}}");
            let list: Vec<String> = periods.iter().enumerate().map(one).collect();
            mistakes_with(&format!("source.b.secrets = [{}]", list.join(",")))
        };
        let (old, new) = (",not_after=2026-01-02T00:00:00Z", ",not_before=\"2026-01-02T01:00:00+01:00\"");
        assert_eq!(secrets(&[old, "", "", "", "", new]), Vec::<String>::new());
        assert_eq!(secrets(&[old, "", "", "", "", "", new]), ["source.b.secrets"]);
        assert_eq!(secrets(&[",not_before=2026-01-02T00:00:00Z,not_after=2026-01-02T00:00:01Z"]), Vec::<String>::new());
        let empty = ",not_before=2026-01-02T00:00:00Z,not_after=2026-01-02T00:00:00Z";
        assert_eq!(secrets(&[empty]), ["source.b.secrets[0].not_after"]);
        assert_eq!(secrets(&[",not_after=\"soon\""]), ["source.b.secrets[0].not_after"]);
        let one_after_the_other =
            |day| format!(",not_before=2026-01-{day:02}T00:00:00Z,not_after=2026-01-{:02}T00:00:00Z", day + 1);
        let days: Vec<String> = (1..=21).map(one_after_the_other).collect();
        let days: Vec<&str> = days.iter().map(String::as_str).collect();
        assert_eq!(secrets(&days[..20]), Vec::<String>::new());
        assert_eq!(secrets(&days), ["source.b.secrets"]);
    }

    #[test]
    fn pins_need_an_authority_and_a_form() {
        let pin = format!("source.acme.pins = [\"sha256/{}=\"]", "A".repeat(43));
        assert_eq!(mistakes_with(&format!("listen.client_ca = \"c\"\n{pin}")), Vec::<String>::new());
        assert_eq!(mistakes_with(&pin), ["source.acme.pins"]);
        let bad = "listen.client_ca = \"c\"\nsource.acme.pins = [\"sha256/AAAA\"]";
        assert_eq!(mistakes_with(bad), ["source.acme.pins[0]"]);
    }
}
