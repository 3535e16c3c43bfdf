use super::*;

const WINDOW: Duration = Duration::from_secs(10);

fn id(n: u8) -> KeyedId {
    KeyedId([n; 16])
}

fn look(index: &mut Index, offset: i64, id: KeyedId, time_ms: u64) -> Verdict {
    index.look(offset, id, None, time_ms, &mut Vec::new())
}

#[test]
fn an_id_is_delivered_once_and_its_own_replay_again() {
    let mut index = Index::new(WINDOW, 0);
    assert_eq!(look(&mut index, 0, id(1), 1000), Verdict::Deliver);
    assert_eq!(look(&mut index, 1, id(1), 1001), Verdict::Repeat);
    assert_eq!(look(&mut index, 0, id(1), 1000), Verdict::Deliver, "a replay of the owner");
    assert_eq!(look(&mut index, 1, id(1), 1001), Verdict::Repeat, "a replay of the repeat");
}

#[test]
fn the_window_has_both_edges_and_slides() {
    let mut index = Index::new(WINDOW, 0);
    look(&mut index, 0, id(1), 1000);
    assert_eq!(look(&mut index, 1, id(1), 11_000), Verdict::Repeat, "exactly the window");
    assert_eq!(look(&mut index, 2, id(1), 21_000), Verdict::Repeat, "the repeat renewed it");
    assert_eq!(look(&mut index, 3, id(1), 31_001), Verdict::Deliver, "one past it");
}

#[test]
fn time_is_made_monotonic() {
    let mut index = Index::new(WINDOW, 0);
    look(&mut index, 0, id(1), 50_000);
    look(&mut index, 1, id(2), 1000);
    assert_eq!(look(&mut index, 2, id(2), 60_000), Verdict::Repeat, "id 2 was seen at 50 000 at the earliest");
}

#[test]
fn an_id_is_known_under_the_previous_key() {
    let mut index = Index::new(WINDOW, 0);
    let mut changed = Vec::new();
    assert_eq!(index.look(0, id(1), None, 1000, &mut changed), Verdict::Deliver);
    assert_eq!(index.look(1, id(2), Some(id(1)), 1001, &mut changed), Verdict::Repeat);
    assert_eq!(index.look(2, id(2), None, 1002, &mut changed), Verdict::Repeat, "after the rotation's window");
    assert_eq!(changed.len(), 4);
}

#[test]
fn a_rebuilt_index_agrees() {
    let mut live = Index::new(WINDOW, 0);
    let mut entries = Vec::new();
    for (offset, n) in [(0, 1), (1, 2), (2, 1), (3, 3)] {
        let mut changed = Vec::new();
        live.look(offset, id(n), None, 1000, &mut changed);
        entries.extend(changed.into_iter().map(|entry| (entry, offset + 1)));
    }
    let mut rebuilt = Index::new(WINDOW, 0);
    entries.into_iter().for_each(|(entry, next)| rebuilt.restore(entry, next));
    for (offset, n, verdict) in
        [(0, 1, Verdict::Deliver), (1, 2, Verdict::Deliver), (2, 1, Verdict::Repeat), (4, 3, Verdict::Repeat)]
    {
        assert_eq!(look(&mut rebuilt, offset, id(n), 1001), verdict, "offset {offset}");
    }
}

#[test]
fn old_ids_leave() {
    let mut index = Index::new(WINDOW, 0);
    for offset in 0..1000 {
        look(&mut index, offset, KeyedId((offset as u128).to_le_bytes()), u64::try_from(offset).unwrap() * 1000);
    }
    assert!(index.len() <= 13, "{}", index.len());
}
