//! Reading a configuration anew while its process runs: when it is told to, and when one of its files has changed.
//!
//! Everything is read, checked and built first. Then it takes effect at once; or, after any mistake, none of it does: the
//! last good one stays, each mistake is told once, and the failure is counted. What is read is judged only if no file
//! changed meanwhile, so that half of a rotation, or half of a file, is never taken for the whole.
//!
//! Files are looked at by their metadata, links followed, every few seconds: that sees a rename, a rewrite, and the swap of
//! a directory's link by which Kubernetes replaces mounted secrets, on every file system. After a mistake it is tried again
//! now and then, since what was wrong may be elsewhere.
//!
//! | name, after the program's | labels |
//! |---|---|
//! | `_config_generation` | none: 1 at the start, one more each time that a configuration took effect |
//! | `_config_reloads_total` | `outcome`: `applied`, `failed` |
//! | `_config_reloaded_timestamp_seconds` | none: when one took effect last, Unix time |
//! | `_config_restart_needed` | none: how many configured values wait for the next start |
//! | `_certificate_expiry_timestamp_seconds` | `certificate`: the key that names its file. The first that ends in it, Unix time |

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Mistake, Mistakes};
use crate::shutdown::Group;
use crate::telemetry::Metrics;

/// How often files may change while they are read before it is given up until the next look.
const ROUNDS_MAX: usize = 5;
/// How long after a failure it is tried again, though no file has changed.
const AGAIN: Duration = Duration::from_secs(30);

/// What one reading brought.
pub struct Reading {
    /// Every file that the configuration names, whether it could be read or not, and the configuration's own. Empty if not
    /// even that could be told: those of before are looked at then.
    pub files: Vec<PathBuf>,
    /// What may take effect, or everything that is wrong.
    pub outcome: Result<Ready, Mistakes>,
}

/// A configuration that was read, checked and built.
pub struct Ready {
    /// Makes it take effect. Called in the runtime; must not block.
    pub apply: Box<dyn FnOnce() + Send>,
    /// What is told about it.
    pub facts: Facts,
}

/// What is told about a configuration that takes effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Keys whose configured value is another than the running one, and stays so until the next start.
    pub restart: Vec<String>,
    /// By the key that names a file of certificates: when the first of them ends, Unix seconds.
    pub expiries: BTreeMap<String, u64>,
}

/// Reads everything anew. Called on a thread that may block.
pub type Read = Arc<dyn Fn() -> Reading + Send + Sync>;

/// Why nothing took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is wrong; the last good one stays. The operator's fault.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// The process is ending.
    #[error("nothing is reloaded any more: the process is ending")]
    Ended,
}

/// A moment of the files: equal as long as none was touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(BTreeMap<PathBuf, Option<Mark>>);

/// A file's identity and age, where its links lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Marks {
    /// How these files are now. Blocks.
    pub fn of(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|file| (file.clone(), mark(file))).collect())
    }
}

fn mark(file: &Path) -> Option<Mark> {
    let found = std::fs::metadata(file).ok()?;
    Some(Mark {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Asks for a reload. Clones ask the same reloader.
#[derive(Debug, Clone)]
pub struct Reload {
    asking: mpsc::Sender<oneshot::Sender<Result<u64, ReloadError>>>,
    generation: Arc<AtomicU64>,
}

impl Reload {
    /// The number of the configuration in effect.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Reads everything anew, and answers the generation that took effect. When this has answered, it has.
    pub async fn now(&self) -> Result<u64, ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.asking.send(answer).await.map_err(|_| ReloadError::Ended)?;
        answered.await.unwrap_or(Err(ReloadError::Ended))
    }
}

/// The hang-up signals of this process, taken over: by default they would end it.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

impl Hangups {
    /// Takes them over from now on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn take() -> Self {
        Self(signal(SignalKind::hangup()).inspect_err(|error| tracing::error!(%error, "cannot listen for SIGHUP")).ok())
    }

    /// Reloads at each, as a task of the group.
    pub fn reload(self, reload: Reload, group: &Group) {
        let Some(mut hangups) = self.0 else { return };
        let token = group.token();
        group.spawn("sighup", async move {
            while token.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
                tracing::info!(signal = "SIGHUP", "asked to reload");
                // Told and counted where it happened.
                let _outcome = reload.now().await;
            }
        });
    }
}

/// Reloads, one time after the other.
pub struct Reloader {
    read: Read,
    files: Vec<PathBuf>,
    /// How the files were at the last reading.
    known: Marks,
    /// How they were at the last look, if that was another way.
    seen: Option<Marks>,
    /// What the last reading failed of, and when, by the monotonic clock.
    failure: Option<(String, Duration)>,
    generation: Arc<AtomicU64>,
    metrics: ReloadMetrics,
    clock: Clock,
}

/// What a reloader starts from.
pub struct Start {
    /// The program's name, which metrics begin with.
    pub name: &'static str,
    /// Its registry.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// The number of the running configuration: 1 when the process starts.
    pub generation: u64,
    /// How the files were before the running configuration was read.
    pub marks: Marks,
    /// What is told about the running configuration.
    pub facts: Facts,
}

impl Reloader {
    /// A reloader of a configuration that has just taken effect.
    pub fn new(start: Start, read: Read) -> Self {
        let Start { name, metrics, clock, generation, marks, facts } = start;
        let mut reloader = Self {
            read,
            files: marks.0.keys().cloned().collect(),
            known: marks,
            seen: None,
            failure: None,
            generation: Arc::new(AtomicU64::new(generation)),
            metrics: ReloadMetrics::new(name, metrics),
            clock,
        };
        reloader.tell(&facts);
        reloader
    }

    /// Runs it as a task of the group, which looks at the files at each interval; never if that is zero.
    pub fn start(mut self, group: &Group, interval: Duration) -> Reload {
        let (asking, mut asked) = mpsc::channel::<oneshot::Sender<_>>(1);
        let (over, generation) = (group.token(), self.generation.clone());
        group.spawn("reload", async move {
            loop {
                tokio::select! {
                    Some(answer) = asked.recv() => {
                        let outcome = self.reload(&over).await;
                        // Whoever asked may be gone.
                        let _ = answer.send(outcome);
                    }
                    () = tokio::time::sleep(interval), if !interval.is_zero() => self.look(&over).await,
                    () = over.cancelled() => return,
                }
            }
        });
        Reload { asking, generation }
    }

    /// Reloads if the files have changed since the last reading and not since the last look.
    async fn look(&mut self, over: &CancellationToken) {
        let files = self.files.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || Marks::of(&files)).await else { return };
        let again = self.failure.as_ref().is_some_and(|(_, at)| self.clock.monotonic() >= *at + AGAIN);
        let changed = now != self.known;
        if again || changed && self.seen.as_ref() == Some(&now) {
            self.seen = None;
            // Told and counted there.
            let _outcome = self.reload(over).await;
        } else {
            self.seen = changed.then_some(now);
        }
    }

    async fn reload(&mut self, over: &CancellationToken) -> Result<u64, ReloadError> {
        let (read, files) = (self.read.clone(), self.files.clone());
        let reading = tokio::task::spawn_blocking(move || read_settled(&*read, files));
        let Some(read) = over.run_until_cancelled(reading).await else { return Err(ReloadError::Ended) };
        let Settled { files, marks, outcome } = read.unwrap_or_else(|_panic| Settled {
            files: self.files.clone(),
            marks: self.known.clone(),
            outcome: Err(Mistake::new("", "reading the configuration panicked").into()),
        });
        (self.files, self.known) = (files, marks);
        match outcome {
            Ok(ready) => {
                (ready.apply)();
                let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
                self.failure = None;
                self.metrics.applied.increment(1);
                tracing::info!(generation, "configuration reloaded");
                self.tell(&ready.facts);
                Ok(generation)
            }
            Err(mistakes) => {
                self.metrics.failed.increment(1);
                let told = mistakes.to_string();
                if self.failure.as_ref().is_none_or(|(before, _)| *before != told) {
                    for mistake in mistakes.iter() {
                        tracing::error!(
                            generation = self.generation.load(Ordering::SeqCst),
                            "not reloaded, the last good configuration stays: {mistake}"
                        );
                    }
                }
                self.failure = Some((told, self.clock.monotonic()));
                Err(mistakes.into())
            }
        }
    }

    fn tell(&mut self, facts: &Facts) {
        self.metrics.generation.set(self.generation.load(Ordering::SeqCst) as f64);
        self.metrics.reloaded.set(self.clock.unix_s() as f64);
        self.metrics.restart_needed.set(facts.restart.len() as f64);
        for key in &facts.restart {
            tracing::warn!(key, "another value is configured: it takes effect at the next start");
        }
        self.metrics.expiries(&facts.expiries);
    }
}

/// What a reading brought during which no file changed.
struct Settled {
    files: Vec<PathBuf>,
    marks: Marks,
    outcome: Result<Ready, Mistakes>,
}

fn read_settled(read: &(dyn Fn() -> Reading + Send + Sync), mut files: Vec<PathBuf>) -> Settled {
    let mut before = Marks::of(&files);
    for _ in 0..ROUNDS_MAX {
        let reading = read();
        if !reading.files.is_empty() {
            files = reading.files;
        }
        let after = Marks::of(&files);
        if after == before {
            return Settled { files, marks: after, outcome: reading.outcome };
        }
        before = after;
    }
    let outcome = Err(Mistake::new("", "the configuration's files change while they are read").into());
    Settled { files, marks: before, outcome }
}

struct ReloadMetrics {
    name: &'static str,
    registry: Metrics,
    generation: Gauge,
    applied: Counter,
    failed: Counter,
    reloaded: Gauge,
    restart_needed: Gauge,
    /// The files that are told about.
    certificates: BTreeSet<String>,
}

/// Describes every metric of a program's configuration, with its unit.
fn describe(name: &str) {
    let level = |rest: &str, unit, text: &'static str| describe_gauge!(format!("{name}_{rest}"), unit, text);
    level("config_generation", Unit::Count, "the number of the configuration in effect");
    level("config_reloaded_timestamp_seconds", Unit::Seconds, "when a configuration took effect last, Unix time");
    level("config_restart_needed", Unit::Count, "configured values that wait for the next start");
    level(
        "certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "when the first certificate of a file ends, Unix time",
    );
    describe_counter!(format!("{name}_config_reloads_total"), Unit::Count, "readings of the configuration, by outcome");
}

impl ReloadMetrics {
    fn new(name: &'static str, registry: Metrics) -> Self {
        let made = |outcome: &'static str| counter!(format!("{name}_config_reloads_total"), "outcome" => outcome);
        let gauge = |rest: &str| gauge!(format!("{name}_{rest}"));
        let (applied, failed, generation, reloaded, restart_needed) = registry.scope(|| {
            describe(name);
            let gauges = ["config_generation", "config_reloaded_timestamp_seconds", "config_restart_needed"].map(gauge);
            let [generation, reloaded, restart_needed] = gauges;
            (made("applied"), made("failed"), generation, reloaded, restart_needed)
        });
        let certificates = BTreeSet::new();
        Self { name, registry, generation, applied, failed, reloaded, restart_needed, certificates }
    }

    fn expiries(&mut self, expiries: &BTreeMap<String, u64>) {
        let gauge = |certificate: &String| {
            let name = format!("{}_certificate_expiry_timestamp_seconds", self.name);
            self.registry.scope(|| gauge!(name, "certificate" => certificate.clone()))
        };
        // A series can't be taken back: one that is no longer configured never ends.
        for gone in self.certificates.iter().filter(|known| !expiries.contains_key(*known)) {
            gauge(gone).set(f64::INFINITY);
        }
        for (certificate, unix_s) in expiries {
            gauge(certificate).set(*unix_s as f64);
        }
        self.certificates.extend(expiries.keys().cloned());
    }
}

#[cfg(test)]
mod tests;
