use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// With chunks this small, some hundred ids already make whole chunks, splits and a deep directory.
type Small = Table<4>;

const WINDOW: u64 = 1000;

/// Evenly spread ids, and ids that no sender could choose: with a common beginning, in a row, at both ends.
fn id(family: u8, number: u16) -> KeyedId {
    let number = u128::from(number);
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    KeyedId(
        match family {
            0..=4 => spread,
            5 => spread >> 64,
            6 => number,
            _ => u128::MAX - number,
        }
        .to_be_bytes(),
    )
}

/// What happens to a table.
#[derive(Debug, Clone)]
enum Step {
    /// These ids are seen.
    See { family: u8, from: u16, count: u16 },
    /// Time goes on.
    Wait(u64),
    /// Offsets go on.
    Skip(i64),
    /// An id is seen whose owner lies this far back.
    Old { number: u16, back: i64 },
    /// All segments are swept.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9_u8, 0..2000_u16, 1..400_u16).prop_map(|(family, from, count)| Step::See { family, from, count }),
        3 => prop_oneof![4 => 0..WINDOW / 2, 1 => Just(WINDOW), 1 => Just(u64::from(u32::MAX)), 1 => 0..1_u64 << 34].prop_map(Step::Wait),
        1 => prop_oneof![1..100_i64, (1_i64 << 31)..(1 << 34)].prop_map(Step::Skip),
        2 => (0..400_u16, 0..1_i64 << 33).prop_map(|(number, back)| Step::Old { number, back }),
        2 => Just(Step::Sweep),
    ]
}

#[derive(Default)]
struct Pair {
    table: Small,
    map: HashMap<KeyedId, Known>,
    offset: i64,
    now: u64,
}

impl Pair {
    fn oldest(&self) -> u64 {
        self.now.saturating_sub(WINDOW)
    }

    fn see(&mut self, id: KeyedId, owner: i64) {
        let known = Known { owner, seen_ms: self.now };
        let oldest = self.oldest();
        let mut before = None;
        self.table.update(id, oldest, |found| {
            before = found;
            known
        });
        let expect = self.map.insert(id, known);
        match expect {
            Some(expect) if expect.seen_ms >= oldest => assert_eq!(before, Some(expect)),
            Some(_) | None => assert!(before.is_none() || before == expect, "{before:?}, not {expect:?}"),
        }
        self.offset += 1;
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::See { family, from, count } => {
                (from..from + count).for_each(|number| self.see(id(family, number), self.offset));
            }
            Step::Wait(ms) => self.now += ms,
            Step::Skip(offsets) => self.offset += offsets,
            Step::Old { number, back } => self.see(id(0, number), self.offset.saturating_sub(back)),
            Step::Sweep => {
                (0..self.table.segments()).for_each(|segment| self.table.sweep(segment, self.oldest()));
                let oldest = self.oldest();
                self.map.retain(|_, known| known.seen_ms >= oldest);
                assert_eq!(self.table.len(), self.map.len(), "a sweep drops what is old and nothing else");
            }
        }
        let oldest = self.oldest();
        for (id, expect) in &self.map {
            let known = self.table.get(*id);
            assert!(known == Some(*expect) || expect.seen_ms < oldest && known.is_none(), "{known:?}, not {expect:?}");
        }
        self.table.segments.iter().for_each(Segment::check);
        assert_eq!(self.table.len(), self.table.segments.iter().map(Segment::len).sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map(offset in prop_oneof![Just(0), Just(i64::MAX >> 1), Just(i64::MIN)], steps in prop::collection::vec(step(), 1..30)) {
        let mut pair = Pair { offset, ..Pair::default() };
        steps.iter().for_each(|step| pair.run(step));
    }
}

#[test]
fn a_fresh_table_costs_next_to_nothing() {
    let mut table = Table::<CHUNK>::default();
    assert_eq!(table.bytes(), 0);
    table.update(id(0, 1), 0, |_| Known { owner: 0, seen_ms: 0 });
    assert!(table.bytes() < 1500, "{}", table.bytes());
}

fn spread(number: u64) -> KeyedId {
    let high = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    KeyedId((u128::from(high ^ high >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9_94d0_49bb_1331_11eb)).to_be_bytes())
}

#[test]
fn memory_per_id_is_bounded_while_it_grows_and_given_back() {
    let mut table = Table::<CHUNK>::default();
    for number in 0..200_000 {
        table.update(spread(number), 0, |_| Known { owner: 0, seen_ms: 0 });
        if number >= 20_000 && number % 1000 == 0 {
            let per_id = table.bytes() as f64 / table.len() as f64;
            assert!(per_id < 32.0, "{per_id} bytes at {number}");
        }
    }
    assert!(table.segments() > 4);
    (0..table.segments()).for_each(|segment| table.sweep(segment, 1));
    assert!(table.is_empty() && table.bytes() < 20_000, "{}", table.bytes());
}

#[test]
fn segments_do_not_grow_all_at_once() {
    let mut table = Table::<64>::default();
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    for number in 0..300_000 {
        table.update(spread(number), 0, |_| Known { owner: 0, seen_ms: 0 });
        if number >= 150_000 {
            let per_id = table.bytes() as f64 / table.len() as f64;
            (least, most) = (least.min(per_id), most.max(per_id));
        }
    }
    assert!(most / least < 1.05, "from {least} to {most} bytes for an id");
}
