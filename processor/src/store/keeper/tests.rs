//! The keeper with disks that fail, and with sled's folder in every bad condition.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::tests::{batch, place};

/// A disk that fails as a test wishes.
struct Double {
    batches: Vec<Batch>,
    fault: Option<fn() -> Fault>,
    bytes: u64,
    closed: Arc<AtomicUsize>,
    /// Appending waits until a load was asked for too.
    gate: Option<Arc<Mutex<()>>>,
}

impl Double {
    fn fail<T>(&self, well: T) -> Result<T, Fault> {
        self.fault.map_or(Ok(well), |fault| Err(fault()))
    }
}

impl Disk for Double {
    fn load(&mut self, _: &Place) -> Result<Vec<Batch>, Fault> {
        self.fail(self.batches.clone())
    }
    fn append(&mut self, _: &Place, batch: &Batch) -> Result<(), Fault> {
        drop(self.gate.as_ref().map(|gate| gate.lock()));
        self.batches.push(batch.clone());
        Ok(())
    }
    fn forget(&mut self, _: &Place) -> Result<(), Fault> {
        self.batches.clear();
        Ok(())
    }
    fn sweep(&mut self, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Fault> {
        self.fail(())
    }
    fn bytes(&mut self) -> Result<u64, Fault> {
        Ok(self.bytes)
    }
    fn close(self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

fn double() -> Double {
    Double { batches: Vec::new(), fault: None, bytes: 0, closed: Arc::default(), gate: None }
}

/// A keeper of the doubles that `make` makes, in a folder with one file.
fn keeper(make: impl FnMut() -> Result<Double, Fault> + Send + 'static) -> (tempfile::TempDir, Keeper) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("index");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "").unwrap();
    (parent, Keeper::on(dir, 1000, Clock::system(), make))
}

fn sled(dir: &Path) -> Keeper {
    let settings = KeeperSettings {
        dir: dir.to_owned(),
        window: Duration::from_secs(80),
        cache_bytes: 1 << 20,
        disk_bytes: 1 << 30,
        cluster: "c".to_owned(),
    };
    // What the tests append is of the first seconds of 1970, and not older than the window.
    Keeper::start(settings, Clock::manual(1000).0)
}

#[test]
fn what_was_appended_is_loaded_and_survives_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let keeper = sled(&path);
    keeper.append(&place(0), batch(0, 3, 1000));
    keeper.append(&place(0), batch(3, 4, 1000));
    assert_eq!(keeper.load(&place(0)).len(), 2);
    keeper.close();
    assert_eq!(keeper.load(&place(0)), [], "closed");
    let keeper = sled(&path);
    assert_eq!(keeper.load(&place(0)).len(), 2);
    keeper.forget(&place(0));
    assert_eq!(keeper.load(&place(0)), []);
    keeper.close();
}

#[test]
fn an_io_error_switches_it_off_and_leaves_the_folder() {
    let error = || Fault::Io(std::io::Error::from(std::io::ErrorKind::StorageFull));
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = closed.clone();
    let (parent, keeper) = keeper(move || Ok(Double { fault: Some(error), closed: counted.clone(), ..double() }));
    keeper.append(&place(0), batch(0, 3, 1000));
    assert_eq!(keeper.load(&place(0)), []);
    keeper.append(&place(0), batch(3, 4, 1000));
    keeper.close();
    assert!(parent.path().join("index/file").exists() && !parent.path().join("index.bad").exists());
    assert_eq!(closed.load(Ordering::SeqCst), 0, "closing what failed may hang");
}

#[test]
fn damage_and_panics_put_the_folder_aside() {
    fn damage() -> Fault {
        Fault::Damage("a page".to_owned())
    }
    fn panics() -> Fault {
        panic!("inside the library")
    }
    for fault in [damage, panics] {
        let (parent, keeper) = keeper(move || Ok(Double { fault: Some(fault), ..double() }));
        assert_eq!(keeper.load(&place(0)), []);
        keeper.close();
        assert!(parent.path().join("index.bad/file").exists() && !parent.path().join("index").exists());
    }
}

#[test]
fn what_cannot_be_opened_is_put_aside_once_and_then_done_without() {
    for (successes, batches) in [(1, 1), (0, 0)] {
        let tries = AtomicUsize::new(0);
        let (parent, keeper) = keeper(move || match tries.fetch_add(1, Ordering::SeqCst) {
            0 => panic!("the library does not like it"),
            again if again <= successes => Ok(double()),
            _ => Err(Fault::Io(std::io::Error::from(std::io::ErrorKind::PermissionDenied))),
        });
        keeper.append(&place(0), batch(0, 3, 1000));
        assert_eq!(keeper.load(&place(0)).len(), batches);
        keeper.close();
        assert!(parent.path().join("index.bad/file").exists());
    }
}

#[test]
fn what_grew_too_large_is_begun_anew() {
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = opened.clone();
    let (parent, keeper) = keeper(move || {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(Double { bytes: if first { 1001 } else { 1000 }, ..double() })
    });
    keeper.settle();
    keeper.append(&place(0), batch(0, 3, 1000));
    assert_eq!(keeper.load(&place(0)).len(), 1, "and used on");
    keeper.close();
    assert_eq!(opened.load(Ordering::SeqCst), 2);
    assert!(!parent.path().join("index").exists() && !parent.path().join("index.bad").exists());
}

#[test]
fn a_slow_disk_leaves_holes_and_blocks_nobody() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.clone();
    let shut = gate.lock();
    let (_parent, keeper) = keeper(move || Ok(Double { gate: Some(held.clone()), ..double() }));
    let many = i64::try_from(QUEUE_BATCHES).unwrap() + 10;
    (0..many).for_each(|at| keeper.append(&place(0), batch(at, at + 1, 1000)));
    drop(shut);
    let kept = keeper.load(&place(0)).len();
    // One may be with the disk, outside of the queue.
    assert!((QUEUE_BATCHES..=QUEUE_BATCHES + 1).contains(&kept), "{kept}");
    keeper.close();
}

#[test]
fn garbage_is_an_empty_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let written = sled(&path);
    written.append(&place(0), batch(0, 3, 1000));
    written.close();
    std::fs::write(path.join("db"), [0xa5; 100]).unwrap();
    std::fs::write(path.join("conf"), "garbage").unwrap();
    let keeper = sled(&path);
    assert_eq!(keeper.load(&place(0)), []);
    keeper.append(&place(0), batch(0, 3, 1000));
    assert_eq!(keeper.load(&place(0)).len(), 1);
    // Whether the folder is put aside is the library's choice: garbage may be an empty database to it.
    keeper.close();
}

#[test]
fn a_file_in_its_place_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    std::fs::write(&path, "not a folder").unwrap();
    let keeper = sled(&path);
    keeper.append(&place(0), batch(0, 3, 1000));
    assert_eq!(keeper.load(&place(0)).len(), 1);
    keeper.close();
    assert!(dir.path().join("index.bad").is_file());
}

#[test]
fn a_folder_deleted_while_it_is_in_use_switches_it_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let keeper = sled(&path);
    keeper.append(&place(0), batch(0, 3, 1000));
    assert_eq!(keeper.load(&place(0)).len(), 1);
    std::fs::remove_dir_all(&path).unwrap();
    keeper.append(&place(0), batch(3, 4, 1000));
    keeper.close();
    assert!(keeper.0.queue.lock().ended);
    assert!(!path.exists());
}

/// Bits flipped and files cut short, wherever: what comes back is a part of what was written, or nothing.
#[test]
fn damaged_files_never_yield_what_was_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let written: Vec<_> = (0..40).map(|at| batch(at * 100, at * 100 + 100, at.cast_unsigned() * 1000)).collect();
    let keeper = sled(&good);
    written.iter().for_each(|batch| keeper.append(&place(0), batch.clone()));
    keeper.close();
    let mut damaged = 0;
    for seed in 0..60_u64 {
        let path = dir.path().join(format!("bad-{seed}"));
        std::fs::create_dir_all(path.join("blobs")).unwrap();
        std::fs::copy(good.join("conf"), path.join("conf")).unwrap();
        let mut bytes = std::fs::read(good.join("db")).unwrap();
        let at = |salt: u64| {
            let random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
                ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93);
            usize::try_from(random % bytes.len() as u64).unwrap()
        };
        let places: Vec<_> = (0..1 + seed % 8).map(at).collect();
        if seed % 3 == 0 {
            bytes.truncate(places[0]);
        } else {
            places.iter().for_each(|place| bytes[*place] ^= 1 << (seed % 8));
        }
        std::fs::write(path.join("db"), bytes).unwrap();
        let keeper = sled(&path);
        let loaded = keeper.load(&place(0));
        keeper.close();
        damaged += usize::from(loaded.len() < written.len());
        for batch in &loaded {
            assert!(written.contains(batch), "seed {seed}");
        }
    }
    assert!(damaged > 0, "no seed met anything");
}
