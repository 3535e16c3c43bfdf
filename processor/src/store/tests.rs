//! Chains, and the cache in sled.

use std::path::Path;
use std::time::Duration;

use super::keeper::Disk as _;
use super::sled_disk::SledDisk;
use super::*;

const WINDOW: Duration = Duration::from_secs(80);

pub(super) fn place(partition: i32) -> Place {
    Place::new("t", "main", partition)
}

pub(super) fn batch(first: i64, next: i64, time_ms: u64) -> Batch {
    let id = |offset: i64| KeyedId(i128::from(offset).to_be_bytes());
    let entries = (first..next).map(|offset| Entry { id: id(offset), owner: offset, seen_ms: time_ms }).collect();
    let anchor = Some(Anchor { offset: next - 1, id: id(next - 1), time_ms });
    Batch { first, next, time_ms, anchor, entries }
}

fn open(dir: &Path, cluster: &str) -> SledDisk {
    SledDisk::open(dir, WINDOW, 1 << 20, cluster).unwrap()
}

fn load(disk: &mut SledDisk, partition: i32) -> Vec<Batch> {
    chain(disk.load(&place(partition)).unwrap())
}

#[test]
fn a_hole_ends_the_chain_and_leftovers_do_not() {
    let ends = |batches: &[(i64, i64)]| {
        let batches = batches.iter().map(|(first, next)| batch(*first, *next, 1000)).collect();
        chain(batches).iter().map(|batch| batch.next).collect::<Vec<_>>()
    };
    assert_eq!(ends(&[(3, 5), (0, 3), (6, 9)]), [3, 5], "5 to 6 is missing");
    assert_eq!(ends(&[(0, 3), (3, 7), (6, 9), (7, 10)]), [3, 7, 10], "6 to 9 is from before 3 to 7 was filled");
    assert_eq!(ends(&[(0, 3), (0, 2), (3, 4)]), [3, 4]);
    assert_eq!(ends(&[]), [0; 0]);
}

#[test]
fn batches_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Batch { entries: Vec::new(), anchor: None, ..batch(10, 500, 21_000) };
    let batches = [batch(0, 3, 1000), batch(3, 9, 11_000), batch(9, 10, 21_000), empty];
    let mut disk = open(dir.path(), "c");
    batches.iter().for_each(|batch| disk.append(&place(1), batch).unwrap());
    disk.append(&place(11), &batch(0, 1, 1000)).unwrap();
    disk.close();
    let mut disk = open(dir.path(), "c");
    assert_eq!(load(&mut disk, 1), batches);
    disk.forget(&place(1)).unwrap();
    assert_eq!(load(&mut disk, 1), []);
    assert_eq!(load(&mut disk, 11).len(), 1, "partition 11 is not partition 1");
    disk.close();
}

#[test]
fn what_is_older_than_the_window_goes_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open(dir.path(), "c");
    disk.append(&place(0), &batch(0, 3, 9_999)).unwrap();
    disk.append(&place(0), &batch(3, 5, 10_000)).unwrap();
    disk.append(&place(0), &batch(5, 6, 89_999)).unwrap();
    assert_eq!(load(&mut disk, 0).len(), 3, "a tree spans an eighth of the window");
    disk.append(&place(0), &batch(6, 7, 90_000)).unwrap();
    assert_eq!(load(&mut disk, 0).first().map(|batch| batch.first), Some(3), "the chain begins later");
    disk.append(&place(1), &batch(0, 1, 200_000)).unwrap();
    assert_eq!(load(&mut disk, 0).len(), 3, "another partition's time says nothing");
    disk.sweep(90_000 + 160_000 + 9_999).unwrap();
    assert_eq!(load(&mut disk, 0).len(), 1, "nobody reads it here: the wall clock, at twice the window");
    disk.sweep(90_000 + 160_000 + 10_000).unwrap();
    assert_eq!((load(&mut disk, 0).len(), load(&mut disk, 1).len()), (0, 1));
    disk.close();
}

#[test]
fn another_cluster_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open(dir.path(), "c");
    disk.append(&place(0), &batch(0, 3, 1000)).unwrap();
    disk.close();
    let mut disk = open(dir.path(), "d");
    assert_eq!(load(&mut disk, 0), []);
    disk.close();
}

#[test]
fn a_batch_that_is_not_as_it_was_written_is_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open(dir.path(), "c");
    for (first, next) in [(0, 3), (3, 5), (5, 9)] {
        disk.append(&place(0), &batch(first, next, 1000)).unwrap();
    }
    disk.bend(&place(0), 3);
    assert_eq!(load(&mut disk, 0).last().map(|batch| batch.next), Some(3));
    disk.close();
}

/// The cache must not keep what it was asked for: its memory is bounded by `cache_bytes`, not by the index.
#[test]
fn loading_does_not_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open(dir.path(), "c");
    let full = |first: i64| {
        let mut full = batch(first, first + 128, 1000);
        full.entries.iter_mut().for_each(|entry| entry.id = KeyedId(rand(entry.owner)));
        full
    };
    for partition in 0..256 {
        (0..64).for_each(|at| disk.append(&place(partition), &full(at * 128)).unwrap());
    }
    disk.flush().unwrap();
    disk.close();
    let mut disk = open(dir.path(), "c");
    let before = resident_bytes();
    (0..256).for_each(|partition| assert_eq!(load(&mut disk, partition).len(), 64));
    let grown = resident_bytes().saturating_sub(before);
    // 64 MiB of batches were loaded; without the drain all of it stays.
    assert!(grown < 45 << 20, "{grown} bytes");
    disk.close();
}

fn rand(seed: i64) -> [u8; 16] {
    u128::from(seed.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
