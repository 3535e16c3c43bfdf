//! How to reach Kafka: configuration, and the librdkafka settings that every client has in common.
//!
//! TLS verification has no off switch: with TLS on, the broker's certificate and host name are always checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{ConfigPath, Mistake, SecretFile, SecretFileError};
use crate::telemetry::Sparing;

/// `[kafka]` of both binaries. See `ingest.default.toml` for the meaning of each key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// TLS to the brokers.
    pub tls: KafkaTls,
    /// Authentication to the brokers.
    pub sasl: KafkaSasl,
}

/// `[kafka.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// Whether to use TLS.
    pub enabled: bool,
    /// PEM file of the authorities to trust instead of the system's; empty for the system's.
    pub ca: ConfigPath,
    /// PEM file of the client certificate; empty for none.
    pub certificate: ConfigPath,
    /// PEM file of its key.
    pub key: ConfigPath,
}

/// `[kafka.sasl]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// Empty for none.
    pub mechanism: SaslMechanism,
    /// User name.
    pub username: String,
    /// File with the password.
    pub password_file: SecretFile,
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// No SASL.
    #[serde(rename = "")]
    None,
    /// The password itself: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Challenge and response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Plain => Some("PLAIN"),
            Self::ScramSha256 => Some("SCRAM-SHA-256"),
            Self::ScramSha512 => Some("SCRAM-SHA-512"),
        }
    }
}

/// See [`KafkaConfig::credentials`]. Not printed: it is a hash of a password among other things.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials([u8; 32]);

/// Why a client could not be made. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that the configuration names can't be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The password can't be read.
    #[error(transparent)]
    Password(#[from] SecretFileError),
    /// The password is not text.
    #[error("the password in kafka.sasl.password_file is not UTF-8")]
    PasswordText,
    /// librdkafka refused a setting, for example a certificate that can't be read.
    #[error("Kafka client: {0}")]
    Settings(#[from] KafkaError),
}

impl KafkaConfig {
    /// Plain TCP without authentication, as the embedded cluster has it.
    pub fn plaintext(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            tls: KafkaTls {
                enabled: false,
                ca: ConfigPath::default(),
                certificate: ConfigPath::default(),
                key: ConfigPath::default(),
            },
            sasl: KafkaSasl {
                mechanism: SaslMechanism::None,
                username: String::new(),
                password_file: SecretFile::default(),
            },
        }
    }

    /// What is wrong with the settings taken together. `at` is the table they stand in, for example `kafka`.
    pub fn check(&self, at: &str, mistakes: &mut Vec<Mistake>) {
        let mut mistake = |key: &str, sentence: &str| mistakes.push(Mistake::new(format!("{at}.{key}"), sentence));
        let (tls, sasl) = (&self.tls, &self.sasl);
        if self.bootstrap.trim().is_empty() {
            mistake("bootstrap", "names no broker");
        }
        if tls.certificate.is_empty() != tls.key.is_empty() {
            mistake("tls.key", "certificate and key go together");
        }
        if sasl.mechanism == SaslMechanism::Plain && !tls.enabled {
            mistake("sasl.mechanism", "PLAIN sends the password as it is: it needs TLS");
        }
        if sasl.mechanism != SaslMechanism::None && sasl.username.is_empty() {
            mistake("sasl.username", "is missing");
        }
        if sasl.mechanism != SaslMechanism::None && sasl.password_file.is_empty() {
            mistake("sasl.password_file", "is missing");
        }
    }

    /// The files that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let KafkaTls { ca, certificate, key, .. } = &self.tls;
        let files = [ca, certificate, key].into_iter().filter_map(ConfigPath::if_set).map(Path::to_owned);
        let password = Some(&self.sasl.password_file).filter(|file| !file.is_empty());
        files.chain(password.map(|file| file.as_path().to_owned())).collect()
    }

    /// A digest of what decides how a client proves who it is and whom it trusts, the files' content included: a client
    /// that was made under another digest has to be made anew.
    ///
    /// # Errors
    /// When one of the files can't be read.
    pub fn credentials(&self) -> Result<Credentials, ClientError> {
        let mut digest = Sha256::new();
        digest.update(format!("{:?}", (&self.tls, &self.sasl)));
        for path in self.files() {
            let unreadable = |cause| ClientError::Unreadable { path: path.clone(), cause };
            let content = Zeroizing::new(std::fs::read(&path).map_err(unreadable)?);
            digest.update((content.len() as u64).to_be_bytes());
            digest.update(&*content);
        }
        Ok(Credentials(digest.finalize().into()))
    }

    /// The settings of every client. Those that matter are set here, not left to the library's defaults.
    pub(super) fn settings(&self) -> Result<ClientConfig, ClientError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "sealstream");
        // A call inside a rebalance callback must not hang.
        config.set("socket.timeout.ms", "10000");
        config.set("socket.nagle.disable", "true");
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.ms", "100");
        config.set("reconnect.backoff.max.ms", "2000");
        config.set("topic.metadata.refresh.interval.ms", "60000");
        config.set("message.max.bytes", crate::limits::RECORD_BYTES_MAX.to_string());
        config.set("allow.auto.create.topics", "false");
        // Brokers may ask clients to push metrics: ours are scraped.
        config.set("enable.metrics.push", "false");
        config.set_log_level(RDKafkaLogLevel::Warning);
        let tls = &self.tls;
        let sasl = self.sasl.mechanism.as_str();
        config.set(
            "security.protocol",
            match (tls.enabled, sasl.is_some()) {
                (false, false) => "plaintext",
                (true, false) => "ssl",
                (false, true) => "sasl_plaintext",
                (true, true) => "sasl_ssl",
            },
        );
        if tls.enabled {
            config.set("enable.ssl.certificate.verification", "true");
            config.set("ssl.endpoint.identification.algorithm", "https");
            // OpenSSL is built in, so it does not know where this system keeps its authorities: librdkafka probes.
            let text = |path: &ConfigPath| path.as_path().to_string_lossy().into_owned();
            config.set("ssl.ca.location", if tls.ca.is_empty() { "probe".to_owned() } else { text(&tls.ca) });
            if !tls.certificate.is_empty() {
                config.set("ssl.certificate.location", text(&tls.certificate));
                config.set("ssl.key.location", text(&tls.key));
            }
        }
        if let Some(mechanism) = sasl {
            let password = self.sasl.password_file.load()?;
            let password = std::str::from_utf8(password.expose()).map_err(|_| ClientError::PasswordText)?;
            config.set("sasl.mechanism", mechanism);
            config.set("sasl.username", &self.sasl.username);
            config.set("sasl.password", password);
        }
        Ok(config)
    }
}

/// Carries librdkafka's log and errors over to ours.
pub struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

/// What the library repeats for each client, broker and try.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));

pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            // Facilities are a few dozen words of the library's.
            if let Some(left_out) = REPEATS.pass(facility, Clock::system().monotonic()) {
                tracing::warn!(target: "kafka", facility, left_out, "{message}");
            }
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(target: "kafka", facility, "{message}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", facility, "{message}"),
    }
}

pub(super) fn log_error(error: &KafkaError, reason: &str) {
    // Every broker down is repeated for each broker by the library: once a client is enough, at warn.
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        if let Some(left_out) = REPEATS.pass("all brokers down", Clock::system().monotonic()) {
            tracing::warn!(target: "kafka", left_out, "all brokers are down: {reason}");
        }
    } else {
        tracing::debug!(target: "kafka", %error, "{reason}");
    }
}
