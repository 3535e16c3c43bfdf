//! Reading a running processor's configuration anew: keys, sources, and what HTTP sinks trust and sign with.
//!
//! A Kafka client keeps the credentials that it was made with. When they change, and the brokers take the new ones, the
//! processor is told to start anew within its process: its members leave and come back as the same static ones.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use common::config::{Mistake, Mistakes};
use common::id::SinkId;
use common::kafka::admin::Admin;
use common::kafka::client::{Credentials, KafkaConfig};
use common::reload::{Facts, Reading, Ready};
use common::tls;
use tokio::sync::Notify;

use crate::config::{Config, SinkKind};
use crate::keys::Keys;
use crate::sink::Link;

/// What only a start brings into effect, and where the rest takes effect.
pub(crate) struct Reloading {
    /// The configuration that was started.
    pub(crate) running: Config,
    /// How it reached Kafka.
    pub(crate) credentials: BTreeMap<String, Credentials>,
    /// Its keys.
    pub(crate) keys: Arc<ArcSwap<Keys>>,
    /// Its HTTP sinks.
    pub(crate) links: BTreeMap<SinkId, Arc<ArcSwap<Link>>>,
    /// Told when it must start anew.
    pub(crate) superseded: Arc<Notify>,
}

/// Every file that a configuration consists of.
pub(crate) fn named(config: &Config, mut files: Vec<PathBuf>) -> Vec<PathBuf> {
    files.extend(config.files());
    files
}

/// How clusters are reached, by the keys that say so.
fn clusters(config: &Config) -> impl Iterator<Item = (String, &KafkaConfig)> {
    let sinks = config.sink.iter().map(|(name, sink)| (format!("sink.{name}.kafka"), &sink.kafka));
    sinks.chain([("kafka".to_owned(), &config.kafka)])
}

/// What leads to Kafka, by the keys that say so.
pub(crate) fn credentials(config: &Config) -> Result<BTreeMap<String, Credentials>, Mistakes> {
    let (mut read, mut mistakes) = (BTreeMap::new(), Vec::new());
    for (key, kafka) in clusters(config) {
        match kafka.credentials() {
            Ok(credentials) => drop(read.insert(key, credentials)),
            Err(error) => mistakes.push(Mistake::new(key, error.to_string())),
        }
    }
    Mistakes::none_in(mistakes)?;
    Ok(read)
}

/// When the authorities of HTTP sinks end, Unix seconds, by the keys that name their files.
pub(crate) fn expiries(config: &Config) -> Result<BTreeMap<String, u64>, Mistakes> {
    let (mut read, mut mistakes) = (BTreeMap::new(), Vec::new());
    for (key, ca) in config.sink.iter().filter_map(|(name, sink)| Some((format!("sink.{name}.ca"), sink.ca.if_set()?)))
    {
        match tls::certificate_expiry(ca) {
            Ok(end) => drop(read.insert(key, end)),
            Err(error) => mistakes.push(Mistake::new(key, error.to_string())),
        }
    }
    Mistakes::none_in(mistakes)?;
    Ok(read)
}

/// What the brokers say against new credentials.
fn refused(key: &str, kafka: &KafkaConfig) -> Option<Mistake> {
    let asked = Admin::new(kafka).map_err(|error| error.to_string());
    let asked = asked.and_then(|admin| admin.cluster().map_err(|error| error.to_string()));
    asked.err().map(|error| Mistake::new(key, format!("the brokers don't take the new credentials: {error}")))
}

impl Reloading {
    /// Reads, checks and builds everything. Blocks.
    pub(crate) fn read(&self, load: impl Fn() -> Result<(Config, Vec<PathBuf>), Mistakes>) -> Reading {
        match load() {
            Ok((config, files)) => Reading { files: named(&config, files), outcome: self.ready(&config) },
            Err(mistakes) => Reading { files: Vec::new(), outcome: Err(mistakes) },
        }
    }

    fn ready(&self, config: &Config) -> Result<Ready, Mistakes> {
        let mut mistakes = Vec::new();
        let keys = Keys::load(config).map_err(|wrong| mistakes.extend(wrong.iter().cloned()));
        let credentials = credentials(config).map_err(|wrong| mistakes.extend(wrong.iter().cloned()));
        let expiries = expiries(config).map_err(|wrong| mistakes.extend(wrong.iter().cloned()));
        let mut links = Vec::new();
        for (name, running) in &self.links {
            // One that is gone stays as it is until the next start.
            let Some(sink) = config.sink.get(name).filter(|sink| sink.kind == SinkKind::Http) else { continue };
            // Whether plain HTTP may be spoken goes with the URL, which stays.
            let plain = self.running.sink.get(name).is_some_and(|running| running.danger_plain_http);
            match Link::new(&crate::config::Sink { danger_plain_http: plain, ..sink.clone() }) {
                Ok(link) => links.push((running.clone(), Arc::new(link))),
                Err(error) => mistakes.push(Mistake::new(format!("sink.{name}"), error.to_string())),
            }
        }
        Mistakes::none_in(mistakes)?;
        let (Ok(keys), Ok(credentials), Ok(expiries)) = (keys, credentials, expiries) else {
            unreachable!("each that is missing left a mistake")
        };
        let restart = config.restart_keys(&self.running);
        let is_new = |key: &String| credentials.get(key) != self.credentials.get(key) && !restart.contains(key);
        let changed: Vec<_> = clusters(config).filter(|(key, _)| is_new(key)).collect();
        Mistakes::none_in(changed.iter().filter_map(|(key, kafka)| refused(key, kafka)).collect())?;
        let (in_effect, superseded) = (self.keys.clone(), self.superseded.clone());
        let is_superseded = !changed.is_empty();
        let apply = move || {
            in_effect.store(Arc::new(keys));
            links.into_iter().for_each(|(running, link)| running.store(link));
            if is_superseded {
                superseded.notify_one();
            }
        };
        Ok(Ready { apply: Box::new(apply), facts: Facts { restart, expiries } })
    }
}
