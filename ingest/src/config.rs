//! Ingest's configuration. `ingest.default.toml` is its manual.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::config::{self, ByteSize, Check, ConfigPath, Mistake, Mistakes, SecretFile, Spec};
use common::envelope::Format;
use common::id::{KeyId, SourceId};
use common::kafka::client::KafkaConfig;
use common::limits::{BODY_BYTES_CAP, RECORD_BYTES_MAX};
use common::signature::{SIGNATURES_MAX, Window};
use common::telemetry::LogConfig;
use common::topics::Prefix;
use ipnet::IpNet;
use serde::Deserialize;

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
    /// The certificate chain.
    pub certificate: ConfigPath,
    /// Its private key.
    pub key: ConfigPath,
    /// Load balancers that say for whom they connect.
    pub proxy_protocol: ProxyProtocol,
    /// HTTP proxies that say for whom they ask.
    pub forwarded: Forwarded,
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

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where metrics and health are served.
    pub address: SocketAddr,
}

/// `[topics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    /// What every name begins with.
    pub prefix: Prefix,
}

/// `[publish]`
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRedisTls {
    /// Whether to use TLS.
    pub enabled: bool,
    /// PEM file of the authorities to trust instead of the system's; empty for the system's.
    pub ca: ConfigPath,
}

/// `[drain]`
#[derive(Debug, Clone, Deserialize)]
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

/// `[source.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Whether its signatures are accepted.
    pub enabled: bool,
    /// Where its senders POST to.
    pub path: String,
    /// What its senders may send.
    pub formats: Vec<Format>,
    /// How far a timestamp may be from our clock.
    #[serde(with = "config::duration")]
    pub tolerance: Duration,
    /// Active secrets.
    pub secrets: Vec<KeyFile>,
    /// Accepted requests; 0 for no limit.
    pub requests_per_second: u32,
    /// At once; 0 for a second's worth.
    pub burst: u32,
}

impl Config {
    /// Loads the file over the defaults, then the variables that begin with `INGEST__`.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        config::load(Spec { name: "ingest", defaults: DEFAULTS, env_prefix: "INGEST" }, file, env)
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
        for (id, source) in &self.source {
            source.check(&mut |holds, key, sentence| require(holds, &format!("source.{id}.{key}"), sentence));
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
    }
}

impl Rate {
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

impl Source {
    fn check(&self, require: &mut Require<'_>) {
        let plain =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'`' | b'{' | b'}');
        require(
            self.path.starts_with('/') && self.path.len() <= 1024 && self.path.bytes().all(plain),
            "path",
            "must begin with / and consist of characters that a URL's path may have",
        );
        require(!self.formats.is_empty(), "formats", "must name at least one format");
        let whole = self.tolerance.subsec_nanos() == 0;
        let seconds = self.tolerance.as_secs();
        require(
            whole && (Window::TOLERANCE_S_MIN..=Window::TOLERANCE_S_MAX).contains(&seconds),
            "tolerance",
            "must be whole seconds from 30s to 15m",
        );
        require(self.secrets.len() <= SIGNATURES_MAX, "secrets", "must be at most 5");
        require(!self.enabled || !self.secrets.is_empty(), "secrets", "must not be empty while the source is enabled");
        let mut ids = BTreeSet::new();
        for (index, secret) in self.secrets.iter().enumerate() {
            require(ids.insert(&secret.id), &format!("secrets[{index}].id"), "is used twice");
            require(!secret.file.is_empty(), &format!("secrets[{index}].file"), "must not be empty");
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
            ("limits.head_deadline = \"1ms\"", "limits.head_deadline = \"0s\"", "limits.head_deadline"),
            ("drain.deadline = \"26s\"", "drain.deadline = \"25s\"", "drain.deadline"),
            ("drain.notice = \"29s\"", "drain.notice = \"30s\"", "drain.notice"),
            ("publish.queue_bytes = \"2MiB\"", "publish.queue_bytes = \"1MiB\"", "publish.queue_bytes"),
            ("publish.ack_deadline = \"1s\"", "publish.ack_deadline = \"999ms\"", "publish.ack_deadline"),
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
            ("source.acme.path = \"/\"", "source.acme.path = \"a\"", "source.acme.path"),
            ("source.acme.path = \"/a\"", "source.acme.path = \"/a?b\"", "source.acme.path"),
            ("source.acme.formats = [\"jwe\"]", "source.acme.formats = []", "source.acme.formats"),
            ("source.off.enabled = false", "source.off.enabled = true", "source.off.secrets"),
        ] {
            assert_eq!(mistakes_with(good), Vec::<String>::new(), "{good}");
            assert_eq!(mistakes_with(bad), [key], "{bad}");
        }
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
}
