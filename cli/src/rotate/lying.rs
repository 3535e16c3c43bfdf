//! How many records lie in a deployment's topics that need a key.
//!
//! Everything from a partition's first record to its end is read. A record's MAC and a JWE name their key; a native envelope
//! names none, so it is tried. What a record claims counts, whoever wrote it: a key is rather kept too long.
//!
//! An id key is needed by the records of `events` whose repeats may come yet, as long as no other key has made an id of theirs.
//! Records don't say by which key their ids are, so each is opened and its ids are made again. What no processor trusts is in
//! no index; what was opened once and can't be opened any more counts.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::envelope::Envelope;
use common::id::{IdKey, KeyId, SourceId};
use common::kafka::consumer::{Incoming, Reader};
use common::record::{mac_key_id, source_of};
use common::topics::Topic;
use open::{Key, Keyring};
use processor::config::Config;
use processor::keys::Keys;

use super::Kind;

/// Whether a record is under a key.
struct Under(Box<dyn Fn(&Incoming<'_>) -> bool>);

/// Counts the records under a key. Blocks.
pub(super) fn count(config: &Config, kind: Kind, source: Option<&SourceId>, id: &str, clock: &Clock) -> Result<u64> {
    let topics: Vec<Topic> = config.pipeline_topics();
    let (topics, under) = match kind {
        Kind::Signing => return Ok(0),
        Kind::Edge => (vec![Topic::Inbox], by_mac(id)),
        Kind::Core => (topics.into_iter().filter(|topic| *topic != Topic::Inbox).collect(), by_mac(id)),
        Kind::Id => (vec![Topic::Events], by_keyed_id(config, id, clock.unix_ms())?),
        Kind::Sealing => {
            let source = source.context("a sealing key is a source's")?;
            (topics, by_envelope(config, source, id.parse()?)?)
        }
    };
    let reader = Reader::new(&config.kafka)?;
    let partitions = i32::try_from(config.topics.partitions)?;
    let mut count = 0;
    for topic in &topics {
        let name = topic.name(&config.topics.prefix);
        for partition in 0..partitions {
            let read = reader.watermarks(&name, partition).and_then(|range| {
                reader.read(&name, partition, range, |record| {
                    count += u64::from((under.0)(&record));
                    ControlFlow::Continue(())
                })
            });
            read.with_context(|| {
                format!("{name} can't be read, so nothing is known of what lies there; nothing was changed")
            })?;
        }
    }
    Ok(count)
}

fn by_mac(id: &str) -> Under {
    let id = id.to_owned();
    Under(Box::new(move |record| mac_key_id(record.headers()) == Some(&id)))
}

fn by_envelope(config: &Config, source: &SourceId, id: KeyId) -> Result<Under> {
    let keys = config.source.get(source).with_context(|| format!("there is no source {source}"))?;
    let file = keys.keys.iter().find(|key| key.id == id).with_context(|| format!("source {source} has no key {id}"))?;
    let key = Key::try_from(&file.file.load()?)?;
    let (keyring, source) = (Keyring::new(vec![(id.clone(), key)])?, source.clone());
    Ok(Under(Box::new(move |record| {
        if source_of(record.headers()) != Some(source.as_str()) {
            return false;
        }
        match Envelope::parse(record.value(), &source) {
            Ok(Envelope::Jwe(jwe)) => jwe.header().kid == id,
            Ok(native @ Envelope::Native(_)) => open::open(&keyring, &native).is_ok(),
            Err(_) => false,
        }
    })))
}

fn by_keyed_id(config: &Config, id: &str, now_ms: u64) -> Result<Under> {
    let keys = Keys::load(config)?;
    let mut others = Vec::new();
    for key in config.pipeline.id_keys.iter().filter(|key| key.id.as_str() != id) {
        others.push(IdKey::new(key.id.clone(), &key.file.load()?));
    }
    // The window is by the brokers' clock: the margin is for what this machine's is off.
    let window = config.dedup.window + config.dedup.margin();
    let since_ms = now_ms.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
    Ok(Under(Box::new(move |record| {
        let head = keys.core.open(&Topic::Events, record.headers(), record.value());
        let Ok(head) = head else { return false };
        let Some(identity) = head.identity.filter(|_| record.time_ms() >= since_ms) else { return false };
        let Ok(unsealed) = keys.sources.unseal(&head, record.value()) else { return true };
        let ids = [Some(identity.id), identity.previous];
        !others.iter().any(|key| ids.contains(&Some(key.keyed_id(&head.source, &unsealed.id))))
    })))
}
