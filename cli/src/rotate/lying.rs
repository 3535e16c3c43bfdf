//! How many records lie in a deployment's topics that need a key.
//!
//! Everything from a partition's first record to its end is read. A record's MAC and a JWE name their key; a native envelope
//! names none, so it is tried. What a record claims counts, whoever wrote it: a key is rather kept too long.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use common::envelope::Envelope;
use common::id::{KeyId, SourceId};
use common::kafka::consumer::{Incoming, Reader};
use common::record::{mac_key_id, source_of};
use common::topics::Topic;
use open::{Key, Keyring};
use processor::config::Config;

use super::Kind;

/// Whether a record is under a key.
struct Under(Box<dyn Fn(&Incoming<'_>) -> bool>);

/// Counts the records under a key. Blocks.
pub(super) fn count(config: &Config, kind: Kind, source: Option<&SourceId>, id: &str) -> Result<u64> {
    let topics: Vec<Topic> = config.pipeline_topics();
    let (topics, under) = match kind {
        Kind::Signing => return Ok(0),
        Kind::Edge => (vec![Topic::Inbox], by_mac(id)),
        Kind::Core => (topics.into_iter().filter(|topic| *topic != Topic::Inbox).collect(), by_mac(id)),
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
