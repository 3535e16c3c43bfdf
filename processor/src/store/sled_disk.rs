//! The cache in sled: the only file that names it.
//!
//! ```text
//! tree   <topic>@<sink>/<partition>/<bucket>     bucket = time of the batch / (window / 8)
//! ```
//!
//! A tree is dropped when everything in it is older than the window: for a partition that is read, as soon as a newer batch
//! says so; for others, by the wall clock at twice the window. Used by one thread only, the keeper's.
//!
//! What is known of sled 0.34.7, found by trying:
//! * Its cache looks at its own size only after 128 accesses to each of 256 parts, and pages above an eighth of a segment
//!   count as nothing. Small pages and [`drain`] keep it within `cache_bytes`; without, it held everything that was loaded.
//! * After an I/O error every later call fails, and dropping the database may wait for ever. So it is never dropped then.
//! * It panics on some damage. The keeper catches that.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keeper::{Disk, Fault};
use super::{Batch, Place, codec};

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. } => Self::Damage(error.to_string()),
        }
    }
}

/// A cache in a folder of its own.
pub(super) struct SledDisk {
    // Never dropped by accident: see the module.
    db: std::mem::ManuallyDrop<sled::Db>,
    dir: PathBuf,
    cache_bytes: u64,
    window_ms: u64,
    /// The newest bucket of each partition that was written to.
    newest: HashMap<Place, u64>,
}

impl SledDisk {
    /// Opens the cache, or begins one. One that was made with another Kafka cluster is emptied.
    pub(super) fn open(dir: &Path, window: Duration, cache_bytes: u64, cluster: &str) -> Result<Self, Fault> {
        // The keeper flushes: a thread of sled's own that died would be waited for for ever.
        let db = sled::Config::new().path(dir).cache_capacity(cache_bytes.max(1 << 20)).flush_every_ms(None).open()?;
        if db.get("cluster")?.is_none_or(|known| known != cluster.as_bytes()) {
            for name in db.tree_names() {
                if name != "__sled__default" {
                    db.drop_tree(name)?;
                }
            }
            db.insert("cluster", cluster.as_bytes())?;
        }
        Ok(Self {
            db: std::mem::ManuallyDrop::new(db),
            dir: dir.to_owned(),
            cache_bytes,
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            newest: HashMap::new(),
        })
    }

    /// Flips a bit of the batch that begins at `first`.
    #[cfg(test)]
    pub(super) fn bend(&mut self, place: &Place, first: i64) {
        for (_, name) in self.trees(place) {
            let tree = self.db.open_tree(name).unwrap();
            tree.update_and_fetch(first.to_be_bytes(), |value| {
                let mut value = value?.to_vec();
                value[60] ^= 1;
                Some(value)
            })
            .unwrap();
        }
    }

    fn bucket(&self, time_ms: u64) -> u64 {
        time_ms / (self.window_ms / 8).max(1)
    }

    /// The trees of a partition, with the bucket of each, oldest first.
    fn trees(&self, place: &Place) -> Vec<(u64, sled::IVec)> {
        let prefix = format!("{place}/");
        let mut trees = self.every_tree();
        trees.retain(|(_, name)| {
            name.strip_prefix(prefix.as_bytes()).is_some_and(|bucket| bucket.iter().all(u8::is_ascii_digit))
        });
        trees.sort();
        trees
    }

    fn every_tree(&self) -> Vec<(u64, sled::IVec)> {
        let bucket = |name: &sled::IVec| std::str::from_utf8(name).ok()?.rsplit('/').next()?.parse().ok();
        self.db.tree_names().into_iter().filter_map(|name| Some((bucket(&name)?, name))).collect()
    }

    fn drop_older(&self, trees: Vec<(u64, sled::IVec)>, oldest: u64) -> Result<(), Fault> {
        for (_, name) in trees.into_iter().filter(|(bucket, _)| *bucket < oldest) {
            self.db.drop_tree(name)?;
        }
        Ok(())
    }
}

impl Disk for SledDisk {
    fn load(&mut self, place: &Place) -> Result<Vec<Batch>, Fault> {
        let mut batches = Vec::new();
        let mut touched = Touched::default();
        for (_, name) in self.trees(place) {
            let tree = self.db.open_tree(name)?;
            for item in &tree {
                let (key, value) = item?;
                batches.extend(codec::decode(place, &key, &value));
                touched.bytes += value.len() as u64;
                touched.keys.push((tree.clone(), key));
                if touched.bytes > self.cache_bytes / 2 {
                    drain(std::mem::take(&mut touched))?;
                }
            }
        }
        drain(touched)?;
        Ok(batches)
    }

    fn append(&mut self, place: &Place, batch: &Batch) -> Result<(), Fault> {
        let bucket = self.bucket(batch.time_ms);
        if self.newest.get(place).is_none_or(|newest| *newest < bucket) {
            let oldest = self.bucket(batch.time_ms.saturating_sub(self.window_ms));
            self.drop_older(self.trees(place), oldest)?;
            self.newest.insert(place.clone(), bucket);
        }
        let tree = self.db.open_tree(format!("{place}/{bucket}"))?;
        tree.insert(batch.first.to_be_bytes(), codec::encode(place, batch))?;
        Ok(())
    }

    fn forget(&mut self, place: &Place) -> Result<(), Fault> {
        self.newest.remove(place);
        self.drop_older(self.trees(place), u64::MAX)
    }

    fn sweep(&mut self, now_ms: u64) -> Result<(), Fault> {
        let oldest = self.bucket(now_ms.saturating_sub(self.window_ms.saturating_mul(2)));
        self.drop_older(self.every_tree(), oldest)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.db.flush()?;
        // Its files stay open when the folder is deleted, so writing alone would not tell.
        std::fs::metadata(self.dir.join("db")).map_err(Fault::Io)?;
        Ok(())
    }

    fn bytes(&mut self) -> Result<u64, Fault> {
        Ok(self.db.size_on_disk()?)
    }

    fn close(self) {
        drop(std::mem::ManuallyDrop::into_inner(self.db));
    }
}

/// What a load has read since the cache was last drained.
#[derive(Default)]
struct Touched {
    bytes: u64,
    keys: Vec<(sled::Tree, sled::IVec)>,
}

/// Makes sled look at its cache's size, by as many accesses to what was just read as that takes: up to sixteen keys lie on
/// one page.
fn drain(touched: Touched) -> Result<(), Fault> {
    for (tree, key) in std::iter::repeat_n(&touched.keys, 9).flatten() {
        tree.contains_key(key)?;
    }
    Ok(())
}
