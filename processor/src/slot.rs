//! A processor's identity, which lives with its data.
//!
//! Under the data folder there are numbered slots; a processor takes the first that no other has locked, and its member id
//! is the uuid kept there. So a restart keeps its place in the group, several processors on one volume each get their own,
//! and none can ever run twice at once: the lock sees to that.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::{FileExt, TryLockError};

/// Being fenced a second time within this means that another process has the same identity.
const FENCED_WITHIN: Duration = Duration::from_secs(300);

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
    #[error("data.dir: {path} can't be used: {source}; it must be a folder that the processor may write to", path = path.display())]
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

/// What being fenced means for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fenced {
    /// Once: the brokers may have been slow to forget this process's own predecessor.
    Once,
    /// Twice within five minutes: another process has this identity, because the volume was copied. The slot has a new one,
    /// and is empty otherwise: its next start uses it.
    Renewed {
        /// The new member id.
        instance: String,
    },
}

/// Notes in a slot's folder that the brokers fenced its process: another one joined with the same member id. The process
/// must end in any case, and does so after this.
///
/// The file `fenced` holds when that was last, as Unix milliseconds in decimal.
pub fn fenced(dir: &Path, now_ms: u64) -> Result<Fenced, SlotError> {
    let error = |source| SlotError::File { path: dir.to_owned(), source };
    note_fenced(dir, now_ms).map_err(error)
}

fn note_fenced(dir: &Path, now_ms: u64) -> io::Result<Fenced> {
    let path = dir.join("fenced");
    let last = match std::fs::read_to_string(&path) {
        // One that was cut short by a full disk counts as none.
        Ok(text) => text.trim().parse::<u64>().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let within = u64::try_from(FENCED_WITHIN.as_millis()).unwrap_or(u64::MAX);
    // A clock that was set back says nothing.
    if last.and_then(|last| now_ms.checked_sub(last)).is_none_or(|passed| passed > within) {
        replace(&path, &now_ms.to_string())?;
        return Ok(Fenced::Once);
    }
    // The cache goes first: a crash in between must not leave the old cache with the new identity.
    let index = dir.join("index");
    match std::fs::remove_dir_all(&index) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let instance = new_identity(&dir.join("instance"))?;
    std::fs::remove_file(&path)?;
    Ok(Fenced::Renewed { instance })
}

fn identity(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if uuid::Uuid::parse_str(text.trim()).is_ok() => Ok(text.trim().to_owned()),
        Ok(_) => new_identity(path), // cut short by a full disk, or edited: a new one costs one rebalance
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_identity(path),
        Err(error) => Err(error),
    }
}

fn new_identity(path: &Path) -> io::Result<String> {
    let new = uuid::Uuid::new_v4().to_string();
    replace(path, &new)?;
    Ok(new)
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, path)
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

    #[test]
    fn a_copied_volume_gets_a_new_identity_and_an_empty_slot() {
        let data = tempfile::tempdir().unwrap();
        let slot = Slot::take(data.path()).unwrap();
        let (dir, instance) = (slot.dir().to_owned(), slot.instance().to_owned());
        drop(slot);
        std::fs::create_dir(dir.join("index")).unwrap();
        let again = || Slot::take(data.path()).unwrap().instance().to_owned();
        assert_eq!(fenced(&dir, 1_000_000).unwrap(), Fenced::Once);
        assert_eq!(fenced(&dir, 1_300_001).unwrap(), Fenced::Once, "just over five minutes later");
        assert_eq!(fenced(&dir, 1_200_000).unwrap(), Fenced::Once, "the clock was set back");
        assert!(again() == instance && dir.join("index").exists());
        let Fenced::Renewed { instance: renewed } = fenced(&dir, 1_500_000).unwrap() else { panic!("five minutes") };
        assert!(renewed != instance && again() == renewed && !dir.join("index").exists());
        assert_eq!(fenced(&dir, 1_500_001).unwrap(), Fenced::Once, "the new identity begins anew");
    }

    #[test]
    fn a_damaged_note_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fenced"), "12x").unwrap();
        assert_eq!(fenced(dir.path(), 1000).unwrap(), Fenced::Once);
        assert!(matches!(fenced(dir.path(), 1001).unwrap(), Fenced::Renewed { .. }));
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Slot::take(&file).unwrap_err().to_string();
        assert!(error.contains("data.dir") && error.contains("may write"), "{error}");
    }
}
