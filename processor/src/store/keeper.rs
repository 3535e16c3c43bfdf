//! The thread that owns the cache on disk, and what happens when the disk fails.
//!
//! Nothing that happens on the disk reaches the processor:
//! * Appending never blocks. While the queue is full, batches are dropped, which leaves holes, and counted.
//! * Loading waits for [`LOAD_DEADLINE`] at most, whatever the disk does; then the log is read instead.
//! * An I/O error, the folder deleted, damage or a panic switches the cache off until the next start, with one warning.
//!   Damage also puts the folder aside (`<dir>.bad`, of which one is kept), so that the next start begins an empty one.
//! * A cache that can't be opened is put aside too and begun anew; if that fails, the processor runs without one.
//! * A cache that has grown beyond its bound is deleted and begun anew.
//!
//! What was appended is on its way to the disk within [`FLUSH_EVERY`]. What a crash loses of it is read from the log.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use common::clock::Clock;
use parking_lot::{Condvar, Mutex};

use super::sled_disk::SledDisk;
use super::{Batch, Place, Store, chain};
use crate::metrics::{self, CacheBatch, CacheFault};

/// Batches that wait to be written, 4 KiB each.
const QUEUE_BATCHES: usize = 2048;

/// How long a load may take.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long closing may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How often what was appended is flushed.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// How often the size is looked at, and old trees of partitions that are not read here.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Why the disk is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The disk is full, failing, or its folder is gone.
    #[error("{0}")]
    Io(#[source] std::io::Error),
    /// What is there is not what was written.
    #[error("{0}")]
    Damage(String),
    /// The library panicked.
    #[error("a panic in the library")]
    Panic,
}

impl Fault {
    fn kind(&self) -> CacheFault {
        match self {
            Self::Io(_) => CacheFault::Io,
            Self::Damage(_) => CacheFault::Damage,
            Self::Panic => CacheFault::Panic,
        }
    }

    /// Whether the folder is not to be opened again.
    fn is_damage(&self) -> bool {
        match self {
            Self::Io(_) => false,
            Self::Damage(_) | Self::Panic => true,
        }
    }
}

/// A cache on a disk, as the keeper's thread uses it. After a fault it is never used again, and not closed.
pub(super) trait Disk: Sized {
    /// Every sound batch of a partition.
    fn load(&mut self, place: &Place) -> Result<Vec<Batch>, Fault>;
    /// Adds a batch.
    fn append(&mut self, place: &Place, batch: &Batch) -> Result<(), Fault>;
    /// Forgets a partition.
    fn forget(&mut self, place: &Place) -> Result<(), Fault>;
    /// Drops what is too old for anybody.
    fn sweep(&mut self, now_ms: u64) -> Result<(), Fault>;
    /// Brings what was appended to the disk.
    fn flush(&mut self) -> Result<(), Fault>;
    /// The bytes on the disk.
    fn bytes(&mut self) -> Result<u64, Fault>;
    /// Ends its use in order.
    fn close(self);
}

/// Settings of a cache.
#[derive(Debug, Clone)]
pub struct KeeperSettings {
    /// Its folder.
    pub dir: PathBuf,
    /// The dedup window.
    pub window: Duration,
    /// The library's own memory.
    pub cache_bytes: u64,
    /// The largest size on disk.
    pub disk_bytes: u64,
    /// The Kafka cluster's id: a cache made with another one is emptied.
    pub cluster: String,
}

/// See the module.
pub struct Keeper(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<Command>,
    appends: usize,
    /// Nothing is appended any more; what waits is still done.
    closed: bool,
    ended: bool,
}

enum Command {
    Load(Place, Sender<Vec<Batch>>),
    Append(Place, Batch),
    Forget(Place),
}

impl Keeper {
    /// Opens the cache on a thread of its own.
    pub fn start(settings: KeeperSettings, clock: Clock) -> Self {
        let (dir, bound) = (settings.dir.clone(), settings.disk_bytes);
        let open = move || SledDisk::open(&settings.dir, settings.window, settings.cache_bytes, &settings.cluster);
        Self::on(dir, bound, clock, open)
    }

    fn on<D: Disk + 'static>(
        dir: PathBuf,
        disk_bytes: u64,
        clock: Clock,
        open: impl FnMut() -> Result<D, Fault> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() });
        let worker = Worker { shared: shared.clone(), dir, disk_bytes, clock, open };
        let thread = std::thread::Builder::new().name("index-cache".to_owned());
        thread.spawn(move || worker.run()).expect("the system has room for a thread");
        Self(shared)
    }

    /// Waits until everything before this call was done.
    #[cfg(test)]
    fn settle(&self) {
        self.load(&Place::new("", "", -1));
    }
}

impl Store for Keeper {
    fn load(&self, place: &Place) -> Vec<Batch> {
        let (answer, answered) = channel();
        self.0.push(Command::Load(place.clone(), answer));
        match answered.recv_timeout(LOAD_DEADLINE) {
            Ok(batches) => chain(batches),
            // It is switched off, and has said so.
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(%place, "the index cache does not answer: the log is read instead");
                metrics::cache_fault(CacheFault::Stuck);
                Vec::new()
            }
        }
    }

    fn append(&self, place: &Place, batch: Batch) {
        self.0.push(Command::Append(place.clone(), batch));
    }

    fn forget(&self, place: &Place) {
        self.0.push(Command::Forget(place.clone()));
    }

    fn close(&self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        self.0.changed.notify_all();
        if !queue.ended && self.0.changed.wait_while_for(&mut queue, |queue| !queue.ended, CLOSE_DEADLINE).timed_out() {
            tracing::warn!("the index cache does not close: what it was not done with is read from the log");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn push(&self, command: Command) {
        let mut queue = self.queue.lock();
        if queue.closed || queue.ended {
            return; // a load sees its answer's end dropped
        }
        match &command {
            Command::Append(..) if queue.appends >= QUEUE_BATCHES => {
                drop(queue);
                return metrics::cache_batch(CacheBatch::Dropped);
            }
            Command::Append(..) => queue.appends += 1,
            Command::Load(..) | Command::Forget(..) => {}
        }
        queue.commands.push_back(command);
        self.changed.notify_all();
    }

    /// The next command; `None` after a while without one, or when there will be none.
    fn next(&self) -> Option<Command> {
        let mut queue = self.queue.lock();
        if queue.commands.is_empty() && !queue.closed {
            self.changed.wait_for(&mut queue, FLUSH_EVERY);
        }
        let command = queue.commands.pop_front()?;
        if matches!(command, Command::Append(..)) {
            queue.appends -= 1;
        }
        Some(command)
    }

    fn is_done(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed && queue.commands.is_empty()
    }
}

struct Worker<O> {
    shared: Arc<Shared>,
    dir: PathBuf,
    disk_bytes: u64,
    clock: Clock,
    open: O,
}

impl<D: Disk, O: FnMut() -> Result<D, Fault>> Worker<O> {
    fn run(mut self) {
        let disk = self.begin();
        metrics::cache_in_use(disk.is_some());
        if let Some(disk) = disk
            && let Err(fault) = self.work(disk)
        {
            self.switch_off(&fault);
        }
        let mut queue = self.shared.queue.lock();
        queue.ended = true;
        // Whoever waits for a load gets its answer's end now.
        queue.commands.clear();
        self.shared.changed.notify_all();
    }

    /// The disk; begun anew if it can't be opened, `None` if that fails too.
    fn begin(&mut self) -> Option<D> {
        let fault = match contain(&mut self.open) {
            Ok(disk) => return Some(disk),
            Err(fault) => fault,
        };
        metrics::cache_fault(fault.kind());
        let aside = put_aside(&self.dir);
        tracing::warn!(%fault, ?aside, "the index cache can't be opened: it is put aside, and the log is read instead");
        match contain(&mut self.open) {
            Ok(disk) => Some(disk),
            Err(fault) => {
                tracing::warn!(%fault, dir = %self.dir.display(), "no index cache: every start reads the log");
                None
            }
        }
    }

    fn work(&mut self, mut disk: D) -> Result<(), Fault> {
        let (mut flushed, mut swept) = (self.clock.monotonic(), Duration::ZERO);
        let mut unflushed = false;
        loop {
            match self.shared.next() {
                Some(Command::Load(place, answer)) => {
                    answer.send(contain(|| disk.load(&place))?).ok();
                }
                Some(Command::Append(place, batch)) => {
                    contain(|| disk.append(&place, &batch))?;
                    metrics::cache_batch(CacheBatch::Written);
                    unflushed = true;
                }
                Some(Command::Forget(place)) => contain(|| disk.forget(&place))?,
                None => {}
            }
            let now = self.clock.monotonic();
            let done = self.shared.is_done();
            if unflushed && (done || now.saturating_sub(flushed) >= FLUSH_EVERY) {
                contain(|| disk.flush())?;
                (flushed, unflushed) = (now, false);
            }
            if swept.is_zero() || now.saturating_sub(swept) >= SWEEP_EVERY {
                swept = now.max(Duration::from_nanos(1));
                contain(|| disk.sweep(self.clock.unix_ms()))?;
                let bytes = contain(|| disk.bytes())?;
                metrics::cache_disk(bytes);
                if bytes > self.disk_bytes {
                    disk = self.begin_anew(disk, bytes)?;
                }
            }
            if done {
                contain(|| {
                    disk.close();
                    Ok(())
                })?;
                return Ok(());
            }
        }
    }

    fn begin_anew(&mut self, disk: D, bytes: u64) -> Result<D, Fault> {
        tracing::warn!(
            bytes,
            bound = self.disk_bytes,
            "the index cache is larger than dedup.cache_disk_bytes: it is deleted and begun anew"
        );
        metrics::cache_fault(CacheFault::Full);
        contain(|| {
            disk.close();
            Ok(())
        })?;
        std::fs::remove_dir_all(&self.dir).map_err(Fault::Io)?;
        contain(&mut self.open)
    }

    fn switch_off(&self, fault: &Fault) {
        metrics::cache_in_use(false);
        metrics::cache_fault(fault.kind());
        let aside = if fault.is_damage() { put_aside(&self.dir) } else { None };
        tracing::warn!(%fault, ?aside, "the index cache is switched off until the next start, which reads the log instead");
    }
}

/// The call's result; a panic is a fault.
fn contain<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Fault::Panic))
}

fn put_aside(dir: &Path) -> Option<PathBuf> {
    let mut aside = dir.as_os_str().to_owned();
    aside.push(".bad");
    let aside = PathBuf::from(aside);
    // One is enough to look at; an older one makes room.
    if aside.is_dir() {
        std::fs::remove_dir_all(&aside).ok()
    } else {
        std::fs::remove_file(&aside).ok()
    };
    std::fs::rename(dir, &aside).ok().map(|()| aside)
}

#[cfg(test)]
mod tests;
