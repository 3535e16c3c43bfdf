//! The active keys of one source.

use common::id::KeyId;

use crate::aead::Key;

/// The active opening keys of one source, in the order in which they are tried. During a rotation there are two.
#[derive(Debug)]
pub struct Keyring(Vec<(KeyId, Key)>);

/// Keys that make no keyring. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// No key: nothing could be opened.
    #[error("a source needs at least one key")]
    Empty,
    /// Two keys of the same id: a JWE names its key by id.
    #[error("the key id {0} is there twice")]
    RepeatedId(KeyId),
}

impl Keyring {
    /// Checks that there is a key and that ids differ.
    pub fn new(keys: Vec<(KeyId, Key)>) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        for (i, (id, _)) in keys.iter().enumerate() {
            if keys[..i].iter().any(|(earlier, _)| earlier == id) {
                return Err(KeyringError::RepeatedId(id.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// The ids of the keys, in order.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.iter().map(|(id, _)| id)
    }

    /// The key of an id.
    pub(crate) fn by_id(&self, id: &KeyId) -> Option<&Key> {
        self.0.iter().find(|(own, _)| own == id).map(|(_, key)| key)
    }

    /// All keys with their ids, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(KeyId, Key)> {
        self.0.iter()
    }
}
