#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;

const PATIENCE: Duration = Duration::from_secs(20);
const OFTEN: Duration = Duration::from_millis(20);

/// A program whose configuration is one file with a number; `bad` is a mistake.
struct Program {
    dir: TempDir,
    in_effect: Arc<Mutex<String>>,
    readings: Arc<AtomicUsize>,
    metrics: Metrics,
    hand: ManualClock,
    group: Group,
    reload: Reload,
}

fn read(file: &Path) -> Result<String, Mistakes> {
    match std::fs::read_to_string(file) {
        Ok(text) if text == "bad" => Err(Mistake::new("number", "is bad").into()),
        Ok(text) => Ok(text),
        Err(error) => Err(Mistake::new("number", error.to_string()).into()),
    }
}

impl Program {
    /// Starts with what is in `dir/number`. `meanwhile` is called at each reading, after the file was read.
    fn start_in(dir: TempDir, interval: Duration, meanwhile: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let file = dir.path().join("number");
        let (in_effect, readings) = (Arc::new(Mutex::new(read(&file).unwrap())), Arc::new(AtomicUsize::new(0)));
        let (metrics, group) = (Metrics::isolated(), Group::new());
        let (clock, hand) = Clock::manual(1_700_000_000_000);
        let marks = Marks::of(std::slice::from_ref(&file));
        let (shown, counted) = (in_effect.clone(), readings.clone());
        let again: Read = Arc::new(move || {
            let outcome = read(&file);
            meanwhile(counted.fetch_add(1, Ordering::SeqCst));
            let shown = shown.clone();
            let outcome = outcome.map(|text| {
                let expiries = [("listen.certificate".to_owned(), 1_800_000_000)].into();
                let restart = if text == "other" { vec!["listen.address".to_owned()] } else { Vec::new() };
                Ready { facts: Facts { restart, expiries }, apply: Box::new(move || *shown.lock() = text) }
            });
            Reading { files: vec![file.clone()], outcome }
        });
        let start =
            Start { name: "test", metrics: metrics.clone(), clock, generation: 1, marks, facts: Facts::default() };
        let reload = Reloader::new(start, again).start(&group, interval);
        Self { dir, in_effect, readings, metrics, hand, group, reload }
    }

    fn start(interval: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("number"), "1").unwrap();
        Self::start_in(dir, interval, |_| {})
    }

    fn write(&self, text: &str) {
        std::fs::write(self.dir.path().join("number"), text).unwrap();
    }

    fn shows(&self) -> String {
        self.in_effect.lock().clone()
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics.value(&format!("test_{name}"), labels)
    }

    fn counts(&self) -> (f64, f64, f64) {
        let reloads = |outcome| self.value("config_reloads_total", &[("outcome", outcome)]);
        (self.value("config_generation", &[]), reloads("applied"), reloads("failed"))
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}\n{}", self.metrics.render());
    }

    async fn finish(self) {
        self.group.cancel();
        assert!(self.group.wait(PATIENCE).await);
        assert_eq!(self.reload.now().await, Err(ReloadError::Ended));
    }
}

#[tokio::test]
async fn it_reloads_when_asked_and_keeps_the_last_good_one() {
    let program = Program::start(Duration::ZERO);
    assert_eq!((program.shows().as_str(), program.counts()), ("1", (1.0, 0.0, 0.0)));
    program.hand.advance(Duration::from_secs(60));
    program.write("2");
    assert_eq!(program.reload.now().await, Ok(2));
    assert_eq!((program.shows().as_str(), program.counts()), ("2", (2.0, 1.0, 0.0)));
    assert_eq!(program.value("config_reloaded_timestamp_seconds", &[]), 1_700_000_060.0);
    let expiry = |program: &Program| {
        program.value("certificate_expiry_timestamp_seconds", &[("certificate", "listen.certificate")])
    };
    assert_eq!(expiry(&program), 1_800_000_000.0);

    program.hand.advance(Duration::from_secs(60));
    program.write("bad");
    let error = program.reload.now().await.unwrap_err();
    assert_eq!(error.to_string(), "number: is bad");
    std::fs::remove_file(program.dir.path().join("number")).unwrap();
    assert!(program.reload.now().await.unwrap_err().to_string().starts_with("number: No such file"));
    assert_eq!((program.shows().as_str(), program.counts()), ("2", (2.0, 1.0, 2.0)));
    assert_eq!(program.value("config_reloaded_timestamp_seconds", &[]), 1_700_000_060.0, "of the last good one");

    program.write("other");
    assert_eq!(program.reload.now().await, Ok(3));
    assert_eq!(program.value("config_restart_needed", &[]), 1.0);
    program.write("3");
    assert_eq!(program.reload.now().await, Ok(4));
    assert_eq!(program.value("config_restart_needed", &[]), 0.0);
    program.finish().await;
}

#[tokio::test]
async fn it_sees_a_rewrite_a_rename_a_mistake_and_its_remedy() {
    let program = Program::start(OFTEN);
    program.write("2");
    program.until("a rewrite is seen", |program| program.shows() == "2").await;
    let new = program.dir.path().join("new");
    std::fs::write(&new, "3").unwrap();
    std::fs::rename(&new, program.dir.path().join("number")).unwrap();
    program.until("a rename is seen", |program| program.shows() == "3").await;
    program.write("bad");
    program.until("a mistake is counted", |program| program.counts().2 == 1.0).await;
    assert_eq!(program.shows(), "3");
    program.write("4");
    program.until("its remedy is seen", |program| program.shows() == "4").await;
    assert_eq!(program.counts(), (4.0, 3.0, 1.0), "once for each change");
    program.finish().await;
}

#[tokio::test]
async fn it_sees_kubernetes_swap_a_directorys_link() {
    let dir = tempfile::tempdir().unwrap();
    let volume = |name: &str, text: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("number"), text).unwrap();
    };
    volume("..2026_01", "1");
    symlink("..2026_01", dir.path().join("..data")).unwrap();
    symlink("..data/number", dir.path().join("number")).unwrap();
    volume("..2026_02", "2");
    let program = Program::start_in(dir, OFTEN, |_| {});
    let at = program.dir.path();
    symlink("..2026_02", at.join("..data_tmp")).unwrap();
    std::fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    std::fs::remove_dir_all(at.join("..2026_01")).unwrap();
    program.until("the swap is seen", |program| program.shows() == "2").await;
    assert_eq!(program.counts(), (2.0, 1.0, 0.0));
    program.finish().await;
}

#[tokio::test]
async fn what_changes_while_it_is_read_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("number");
    std::fs::write(&file, "1").unwrap();
    // The first reading sees the half of a file.
    let program = Program::start_in(dir, Duration::ZERO, move |reading| {
        if reading == 0 {
            std::fs::write(&file, "22").unwrap();
        }
    });
    program.write("2");
    assert_eq!(program.reload.now().await, Ok(2));
    assert_eq!((program.shows().as_str(), program.readings.load(Ordering::SeqCst)), ("22", 2));
    program.finish().await;
}

#[tokio::test]
async fn what_never_stops_changing_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("number");
    std::fs::write(&file, "1").unwrap();
    let program = Program::start_in(dir, Duration::ZERO, move |reading| {
        std::fs::write(&file, "9".repeat(reading + 2)).unwrap();
    });
    let error = program.reload.now().await.unwrap_err();
    assert_eq!(error.to_string(), "the configuration's files change while they are read");
    assert_eq!((program.shows().as_str(), program.readings.load(Ordering::SeqCst)), ("1", ROUNDS_MAX));
    program.finish().await;
}

#[tokio::test]
async fn after_a_mistake_it_is_tried_again_though_no_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("number"), "1").unwrap();
    let program = Program::start_in(dir, OFTEN, |_| {});
    program.write("bad");
    program.until("it failed", |program| program.counts().2 == 1.0).await;
    program.hand.advance(AGAIN);
    program.until("it failed again", |program| program.counts().2 == 2.0).await;
    program.hand.advance(AGAIN);
    program.until("and again", |program| program.counts().2 == 3.0).await;
    program.finish().await;
}
