//! The cache in sled: the only file that names it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Batch, Store, StoreError, bucket_ms, chain, decode, encode};

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// A cache in a folder of its own.
pub struct SledStore {
    db: sled::Db,
    window_ms: u64,
    bucket_ms: u64,
}

impl SledStore {
    /// Opens the cache. One that can't be opened is put aside (`<dir>.bad`) and begun anew.
    ///
    /// `cluster` is the Kafka cluster's id: a cache made with another cluster is emptied.
    pub fn open(dir: &Path, window: Duration, cache_bytes: u64, cluster: &str) -> Result<Self, StoreError> {
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(Some(500));
        let db = match config.open() {
            Ok(db) => db,
            Err(error) => {
                let aside = put_aside(dir);
                tracing::warn!(%error, ?aside, "the index cache can't be opened: it is put aside, and the log is scanned instead");
                config.open()?
            }
        };
        if db.get("cluster")?.is_none_or(|known| known != cluster.as_bytes()) {
            for name in db.tree_names() {
                if name != "__sled__default" {
                    db.drop_tree(name)?;
                }
            }
            db.insert("cluster", cluster.as_bytes())?;
        }
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { db, window_ms, bucket_ms: bucket_ms(window) })
    }

    /// The trees of a partition, with the bucket of each, oldest first.
    fn trees(&self, topic: &str, partition: i32) -> Vec<(u64, sled::IVec)> {
        let prefix = format!("{topic}/{partition}/");
        let bucket = |name: &sled::IVec| std::str::from_utf8(name.strip_prefix(prefix.as_bytes())?).ok()?.parse().ok();
        let mut trees: Vec<_> =
            self.db.tree_names().into_iter().filter_map(|name| Some((bucket(&name)?, name))).collect();
        trees.sort();
        trees
    }
}

impl Store for SledStore {
    fn load(&self, topic: &str, partition: i32, now_ms: u64) -> Result<Vec<Batch>, StoreError> {
        let oldest = now_ms.saturating_sub(self.window_ms) / self.bucket_ms;
        let mut batches = Vec::new();
        for (bucket, name) in self.trees(topic, partition) {
            if bucket < oldest {
                self.db.drop_tree(name)?;
                continue;
            }
            for item in &self.db.open_tree(name)? {
                let (key, value) = item?;
                batches.push(decode(&key, &value)?);
            }
        }
        Ok(chain(batches))
    }

    fn append(&self, topic: &str, partition: i32, batch: &Batch) -> Result<(), StoreError> {
        let seen_ms = batch.entries.last().map_or(0, |entry| entry.seen_ms);
        let tree = self.db.open_tree(format!("{topic}/{partition}/{}", seen_ms / self.bucket_ms))?;
        tree.insert(batch.first.to_be_bytes(), encode(batch))?;
        Ok(())
    }

    fn forget(&self, topic: &str, partition: i32) -> Result<(), StoreError> {
        for (_, name) in self.trees(topic, partition) {
            self.db.drop_tree(name)?;
        }
        Ok(())
    }
}

fn put_aside(dir: &Path) -> Option<PathBuf> {
    let mut aside = dir.as_os_str().to_owned();
    aside.push(".bad");
    let aside = PathBuf::from(aside);
    // One is enough to look at; an older one makes room.
    std::fs::remove_dir_all(&aside).ok();
    std::fs::rename(dir, &aside).ok().map(|()| aside)
}
