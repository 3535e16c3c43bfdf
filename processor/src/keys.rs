//! The keys of a running processor: one set, never changed, swapped as a whole when the configuration is read anew.

use common::config::{Mistake, Mistakes, SecretFileError};
use common::id::IdKey;
use common::record::{RecordKey, RecordKeys};

use crate::config::{Config, KeyFile};
use crate::unseal::Sources;

/// See the module.
pub struct Keys {
    /// Check what ingest made.
    pub edge: RecordKeys,
    /// Make and check everything behind it.
    pub core: RecordKeys,
    /// Makes keyed ids.
    pub id: IdKey,
    /// Made them before, while it rotates.
    pub previous_id: Option<IdKey>,
    /// Open events.
    pub sources: Sources,
}

impl Keys {
    /// Reads every key, and tells everything that is wrong with any of them.
    pub fn load(config: &Config) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, error: SecretFileError| mistakes.push(Mistake::new(key, error.to_string()));
        let pipeline = &config.pipeline;
        let edge = record_keys(&pipeline.edge_keys).map_err(|error| wrong("pipeline.edge_keys", error));
        let core = record_keys(&pipeline.core_keys).map_err(|error| wrong("pipeline.core_keys", error));
        let id = id_keys(&pipeline.id_keys).map_err(|error| wrong("pipeline.id_keys", error));
        let sources = Sources::load(&config.source).map_err(|error| mistakes.extend(error.iter().cloned()));
        Mistakes::none_in(mistakes)?;
        let (Ok(edge), Ok(core), Ok((id, previous_id)), Ok(sources)) = (edge, core, id, sources) else {
            unreachable!("each that is missing left a mistake")
        };
        Ok(Self { edge, core, id, previous_id, sources })
    }
}

/// The keys of one half, from a configuration that was checked.
pub fn record_keys(files: &[KeyFile]) -> Result<RecordKeys, SecretFileError> {
    let mut keys = Vec::new();
    for key in files {
        keys.push(RecordKey::new(key.id.clone(), &key.file.load()?));
    }
    Ok(RecordKeys::new(keys).expect("a checked configuration has at least one key of each kind"))
}

fn id_keys(files: &[KeyFile]) -> Result<(IdKey, Option<IdKey>), SecretFileError> {
    let mut keys = Vec::new();
    for key in files {
        keys.push(IdKey::new(key.id.clone(), &key.file.load()?));
    }
    let mut keys = keys.into_iter();
    let current = keys.next().expect("a checked configuration has an id key");
    Ok((current, keys.next()))
}
