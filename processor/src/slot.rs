//! A processor's identity, which lives with its data.
//!
//! Under the data folder there are numbered slots; a processor takes the first that no other has locked, and its member id
//! is the uuid kept there. So a restart keeps its place in the group, several processors on one volume each get their own,
//! and none can ever run twice at once: the lock sees to that.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

/// Most processors on one data folder.
const SLOTS_MAX: u32 = 1024;

/// A locked slot. It is free again when this is dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Slot {
    dir: PathBuf,
    instance: String,
    _lock: File,
}

/// Why no slot could be taken. The operator's fault, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file could not be made or read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All slots are locked.
    #[error("all {SLOTS_MAX} slots under {path} are taken", path = .0.display())]
    Full(PathBuf),
}

impl Slot {
    /// Takes the first free slot under `data`.
    pub fn take(data: &Path) -> Result<Self, SlotError> {
        for number in 0..SLOTS_MAX {
            let dir = data.join(number.to_string());
            let error = |source| SlotError::File { path: dir.clone(), source };
            std::fs::create_dir_all(&dir).map_err(error)?;
            let lock =
                OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(error)?;
            match FileExt::try_lock(&lock) {
                Ok(()) => {
                    let instance = identity(&dir.join("instance")).map_err(error)?;
                    return Ok(Self { dir, instance, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
        }
        Err(SlotError::Full(data.to_owned()))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The member id: `group.instance.id`.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

fn identity(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if uuid::Uuid::parse_str(text.trim()).is_ok() => return Ok(text.trim().to_owned()),
        Ok(_) => {} // cut short by a full disk, or edited: a new one costs one rebalance
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let new = uuid::Uuid::new_v4().to_string();
    let aside = path.with_extension("new");
    std::fs::write(&aside, &new)?;
    std::fs::rename(&aside, path)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_its_identity_and_two_at_once_differ() {
        let data = tempfile::tempdir().unwrap();
        let (first, second) = (Slot::take(data.path()).unwrap(), Slot::take(data.path()).unwrap());
        assert_ne!((first.dir(), first.instance()), (second.dir(), second.instance()));
        let (dir, instance) = (first.dir().to_owned(), first.instance().to_owned());
        drop(first);
        let again = Slot::take(data.path()).unwrap();
        assert_eq!((again.dir(), again.instance()), (&*dir, &*instance));
    }

    #[test]
    fn a_damaged_identity_is_made_anew() {
        let data = tempfile::tempdir().unwrap();
        let dir = Slot::take(data.path()).unwrap().dir().to_owned();
        std::fs::write(dir.join("instance"), "half").unwrap();
        assert!(uuid::Uuid::parse_str(Slot::take(data.path()).unwrap().instance()).is_ok());
    }
}
