//! `sender.toml`: who sends, where to, and with which secrets. `sender.default.toml` is its manual.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::config::{self, Check, ConfigPath, Mistake, Mistakes, SecretFile, Spec};
use common::envelope::Format;
use common::http_client::{ClientOptions, HttpsClient, Schemes};
use common::id::{KeyId, SourceId};
use common::pin::Pin;
use common::secret::Secret;
use http::Uri;
use open::Key;
use sender::{RetryPolicy, Sender};
use serde::Deserialize;

/// The manual, and the defaults.
pub const DEFAULTS: &str = include_str!("../sender.default.toml");

/// What a sender can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SenderConfig {
    /// Where to.
    pub url: String,
    /// Who we are.
    pub source: String,
    /// Signs.
    pub secret: SecretFile,
    /// Seals.
    pub key: KeyFile,
    /// In which envelope.
    pub format: Format,
    /// Further authorities.
    pub ca: ConfigPath,
    /// The keys that the receiver may have.
    pub pins: Vec<Pin>,
    /// Longest attempt.
    #[serde(with = "config::duration")]
    pub timeout: Duration,
    /// Attempts for one event.
    pub attempts_max: u32,
    /// Allows `http://`.
    pub danger_plain_http: bool,
}

/// A key with its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Its name.
    pub id: KeyId,
    /// Its file.
    pub file: SecretFile,
}

/// What the command line sets; it comes after the file.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Who sends")]
pub struct Flags {
    /// What the sender needs, as `sealstream init` wrote it: DIR/sender/sender.toml
    #[arg(long, value_name = "FILE", env = "SEALSTREAM_SENDER")]
    pub config: Option<PathBuf>,
    /// Where the source's events go
    #[arg(long)]
    pub url: Option<String>,
    /// Name of the source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// File of the secret that signs
    #[arg(long, value_name = "FILE", env = "SEALSTREAM_SECRET")]
    pub secret: Option<PathBuf>,
    /// File of the key that seals
    #[arg(long, value_name = "FILE", env = "SEALSTREAM_KEY")]
    pub key: Option<PathBuf>,
    /// Name of that key, for a JWE
    #[arg(long, value_name = "ID")]
    pub key_id: Option<KeyId>,
    /// PEM file of authorities to trust besides the system's
    #[arg(long, value_name = "FILE", env = "SEALSTREAM_CA")]
    pub ca: Option<PathBuf>,
    /// A key that the receiver must have besides a valid certificate: sha256/…; may be repeated
    #[arg(long = "pin", value_name = "PIN")]
    pub pins: Vec<Pin>,
    /// The envelope: native or jwe
    #[arg(long, value_parser = format)]
    pub format: Option<Format>,
    /// Attempts for one event, the first included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: Option<u32>,
    /// Allow an http:// URL
    #[arg(long)]
    pub danger_plain_http: bool,
}

fn format(text: &str) -> Result<Format, &'static str> {
    match text {
        "native" => Ok(Format::Native),
        "jwe" => Ok(Format::Jwe),
        _ => Err("is native or jwe"),
    }
}

impl Check for SenderConfig {
    // What is missing in the file may still come from the command line.
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        if self.timeout.is_zero() {
            mistakes.push(Mistake::new("timeout", "must not be zero"));
        }
        if self.attempts_max == 0 {
            mistakes.push(Mistake::new("attempts_max", "must be 1 or more"));
        }
    }
}

impl SenderConfig {
    /// Loads a file, or only the defaults.
    pub fn load(file: Option<&Path>) -> Result<Self, Mistakes> {
        config::load(Spec { name: "sender.toml", defaults: DEFAULTS, env_prefix: "" }, file, std::iter::empty())
    }

    /// Loads what the command line says.
    pub fn from_flags(flags: Flags) -> Result<Self> {
        let Flags { config, url, source, secret, key, key_id, ca, pins, format, attempts, danger_plain_http } = flags;
        let mut loaded = Self::load(config.as_deref())?;
        let file = |path: Option<PathBuf>, loaded: &mut SecretFile| {
            if let Some(path) = path {
                *loaded = SecretFile::new(path);
            }
        };
        file(secret, &mut loaded.secret);
        file(key, &mut loaded.key.file);
        loaded.url = url.unwrap_or(loaded.url);
        loaded.source = source.unwrap_or(loaded.source);
        loaded.key.id = key_id.unwrap_or(loaded.key.id);
        loaded.ca = ca.map_or(loaded.ca, ConfigPath::new);
        if !pins.is_empty() {
            loaded.pins = pins;
        }
        loaded.format = format.unwrap_or(loaded.format);
        loaded.attempts_max = attempts.unwrap_or(loaded.attempts_max);
        loaded.danger_plain_http |= danger_plain_http;
        loaded.is_complete()?;
        Ok(loaded)
    }

    fn is_complete(&self) -> Result<()> {
        let needed = [
            ("url", self.url.is_empty()),
            ("source", self.source.is_empty()),
            ("secret", self.secret.is_empty()),
            ("key", self.key.file.is_empty()),
        ];
        let missing: Vec<_> =
            needed.iter().filter(|(_, missing)| *missing).map(|(name, _)| format!("--{name}")).collect();
        anyhow::ensure!(
            missing.is_empty(),
            "{} not given: name a file with --config (`sealstream init` writes DIR/{}), or give what is missing",
            missing.join(", "),
            crate::deployment::SENDER,
        );
        Ok(())
    }

    /// Reads the certificates.
    pub fn client(&self) -> Result<HttpsClient> {
        Ok(HttpsClient::new(&self.client_options()?)?)
    }

    /// The same for those who make connections of their own.
    pub(crate) fn client_options(&self) -> Result<ClientOptions> {
        let schemes = if self.danger_plain_http { Schemes::HttpToo } else { Schemes::HttpsOnly };
        let extra_roots = self.ca.if_set().map(common::tls::certificates).transpose()?.unwrap_or_default();
        let pins = self.pins.clone();
        Ok(ClientOptions { schemes, extra_roots, pins, ..ClientOptions::default() })
    }

    /// Reads the secrets.
    pub fn sender(&self, client: HttpsClient, clock: Clock) -> Result<Arc<Sender>> {
        self.sender_with(client, clock, self.secret.load()?, &self.key.file.load()?)
    }

    /// A sender with other secrets than the configured: for those who want to be refused.
    pub(crate) fn sender_with(
        &self,
        client: HttpsClient,
        clock: Clock,
        secret: Secret,
        key: &Secret,
    ) -> Result<Arc<Sender>> {
        let url: Uri = self.url.parse().with_context(|| format!("the URL {:?}", self.url))?;
        if url.scheme_str() == Some("http") && !self.danger_plain_http {
            anyhow::bail!("{url} is not encrypted: use https, or say danger_plain_http");
        }
        if url.scheme_str() == Some("http") && !self.pins.is_empty() {
            anyhow::bail!("{url} is not encrypted, so nobody there shows a key that could be pinned");
        }
        let source: SourceId = self.source.parse()?;
        let key = Key::try_from(key).with_context(|| format!("the key in {}", self.key.file.as_path().display()))?;
        let config = sender::Config {
            url,
            source,
            secret,
            key_id: self.key.id.clone(),
            key,
            format: self.format,
            timeout: self.timeout,
            retry: RetryPolicy { attempts_max: self.attempts_max, ..RetryPolicy::default() },
        };
        Ok(Arc::new(Sender::new(config, client, clock)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_fits_the_type() {
        let config = SenderConfig::load(None).unwrap();
        assert_eq!((config.format, config.attempts_max, config.key.id.as_str()), (Format::Native, 8, "k1"));
    }

    #[test]
    fn what_is_missing_is_named_together() {
        let flags = Flags { url: Some("https://localhost/webhook".to_owned()), ..Flags::default() };
        let error = SenderConfig::from_flags(flags).unwrap_err().to_string();
        assert!(error.starts_with("--source, --secret, --key not given"), "{error}");
    }

    #[test]
    fn the_command_line_comes_after_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sender.toml");
        let pin: Pin = format!("sha256/{}=", "A".repeat(43)).parse().unwrap();
        let text =
            "url = \"https://one.example/\"\nsource = \"acme\"\nsecret = \"s\"\nkey = { id = \"k7\", file = \"k\" }\n";
        std::fs::write(&file, text).unwrap();
        let flags = Flags {
            config: Some(file),
            url: Some("https://two.example/".to_owned()),
            key: Some("elsewhere".into()),
            pins: vec![pin],
            ..Flags::default()
        };
        let config = SenderConfig::from_flags(flags).unwrap();
        assert_eq!(
            (config.url.as_str(), config.source.as_str(), config.key.id.as_str()),
            ("https://two.example/", "acme", "k7")
        );
        assert_eq!(config.secret.as_path(), dir.path().join("s"), "the file's paths start at the file");
        assert_eq!(config.pins, [pin]);
        assert_eq!(config.key.file.as_path(), Path::new("elsewhere"), "the command line's where it is typed");
    }

    #[test]
    fn plain_http_must_be_asked_for() {
        let config = SenderConfig {
            url: "http://localhost/".to_owned(),
            source: "acme".to_owned(),
            ..SenderConfig::load(None).unwrap()
        };
        let client =
            HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, ..ClientOptions::default() }).unwrap();
        let secret = || Secret::from(vec![7; 32]);
        let refused = config.sender_with(client.clone(), Clock::system(), secret(), &secret());
        assert!(refused.unwrap_err().to_string().contains("danger_plain_http"));
        let config = SenderConfig { danger_plain_http: true, ..config };
        config.sender_with(client.clone(), Clock::system(), secret(), &secret()).unwrap();
        let pin = format!("sha256/{}=", "A".repeat(43)).parse().unwrap();
        let config = SenderConfig { pins: vec![pin], ..config };
        let refused = config.sender_with(client, Clock::system(), secret(), &secret());
        assert!(refused.unwrap_err().to_string().contains("pinned"));
    }
}
