use super::*;

const WINDOW: Duration = Duration::from_secs(80);

fn batch(first: i64, next: i64, seen_ms: u64) -> Batch {
    let id = |offset: i64| KeyedId(i128::from(offset).to_be_bytes());
    let entries = (first..next).map(|offset| Entry { id: id(offset), owner: offset, seen_ms }).collect();
    Batch { first, next, anchor: (next - 1, id(next - 1)), entries }
}

fn open(dir: &std::path::Path, cluster: &str) -> SledStore {
    SledStore::open(dir, WINDOW, 1 << 20, cluster).unwrap()
}

#[test]
fn batches_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let batches = [batch(0, 3, 1000), batch(3, 9, 11_000), batch(9, 10, 21_000)];
    {
        let store = open(dir.path(), "c");
        batches.iter().for_each(|batch| store.append("t", 1, batch).unwrap());
        store.append("t", 11, &batch(0, 1, 1000)).unwrap();
    }
    let store = open(dir.path(), "c");
    assert_eq!(store.load("t", 1, 21_000).unwrap(), batches);
    store.forget("t", 1).unwrap();
    assert_eq!(store.load("t", 1, 21_000).unwrap(), []);
    assert_eq!(store.load("t", 11, 21_000).unwrap().len(), 1, "partition 11 is not partition 1");
}

#[test]
fn a_hole_ends_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), "c");
    for batch in [batch(0, 3, 1000), batch(3, 5, 1000), batch(6, 9, 1000)] {
        store.append("t", 0, &batch).unwrap();
    }
    assert_eq!(store.load("t", 0, 1000).unwrap().last().map(|batch| batch.next), Some(5));
}

#[test]
fn what_is_older_than_the_window_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), "c");
    store.append("t", 0, &batch(0, 3, 9_999)).unwrap();
    store.append("t", 0, &batch(3, 5, 10_000)).unwrap();
    assert_eq!(store.load("t", 0, 90_000).unwrap().len(), 1, "a tree spans an eighth of the window");
    assert_eq!(store.load("t", 0, 20_000).unwrap().len(), 1, "and is gone for good");
}

#[test]
fn another_cluster_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), "c").append("t", 0, &batch(0, 3, 1000)).unwrap();
    assert_eq!(open(dir.path(), "d").load("t", 0, 1000).unwrap(), []);
}

#[test]
fn garbage_is_an_empty_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    open(&path, "c").append("t", 0, &batch(0, 3, 1000)).unwrap();
    std::fs::write(path.join("db"), [0xa5; 100]).unwrap();
    std::fs::write(path.join("conf"), "garbage").unwrap();
    assert_eq!(open(&path, "c").load("t", 0, 1000).unwrap(), []);
}

#[test]
fn what_cannot_be_opened_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    std::fs::write(&path, "not a folder").unwrap();
    assert_eq!(open(&path, "c").load("t", 0, 1000).unwrap(), []);
    assert!(dir.path().join("index.bad").exists());
}

#[test]
fn every_prefix_of_a_value_is_refused_or_whole_entries() {
    let whole = batch(5, 8, 1000);
    let value = encode(&whole);
    assert_eq!(decode(&5_i64.to_be_bytes(), &value).unwrap(), whole);
    for len in 0..value.len() {
        let decoded = decode(&5_i64.to_be_bytes(), &value[..len]);
        assert_eq!(decoded.is_ok(), len >= 32 && len % 32 == 0, "{len}");
    }
    assert!(decode(&[0; 7], &value).is_err());
    assert!(decode(&8_i64.to_be_bytes(), &value).is_err(), "a batch is not empty");
}
