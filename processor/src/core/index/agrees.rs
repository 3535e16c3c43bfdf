//! The index against the map.

use proptest::prelude::*;

use super::reference::Reference;
use super::*;

const WINDOW_MS: u64 = 1000;

/// What happens to an index.
#[derive(Debug, Clone)]
enum Step {
    /// The next record, after a gap, some time later (or, by a clock that was set back, earlier).
    Look { gap: i64, id: u16, previous: Option<u16>, later_ms: i64 },
    /// Many records, each with an id of its own.
    Fill { from: u16, count: u16, later_ms: u64 },
    /// A record again.
    Replay(prop::sample::Index),
    /// A restart: a new index takes over what the old one said, up to a point.
    Restore(prop::sample::Index),
    /// Offsets without records.
    Cover(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let later = prop_oneof![
        8 => 0..50_i64,
        2 => Just(WINDOW_MS.cast_signed()),
        2 => Just(WINDOW_MS.cast_signed() + 1),
        1 => -500..0_i64,
        1 => Just(i64::from(u32::MAX)),
        1 => 0..1_i64 << 34,
    ];
    let gap = prop_oneof![20 => 0..3_i64, 1 => (1_i64 << 31)..(1 << 33)];
    prop_oneof![
        12 => (gap, 0..30_u16, prop::option::weighted(0.3, 0..30_u16), later)
            .prop_map(|(gap, id, previous, later_ms)| Step::Look { gap, id, previous, later_ms }),
        1 => (100..1000_u16, 1..200_u16, 0..20_u64).prop_map(|(from, count, later_ms)| Step::Fill { from, count, later_ms }),
        4 => any::<prop::sample::Index>().prop_map(Step::Replay),
        1 => any::<prop::sample::Index>().prop_map(Step::Restore),
        1 => prop_oneof![0..5_i64, (1_i64 << 31)..(1 << 33)].prop_map(Step::Cover),
    ]
}

fn id(number: u16) -> KeyedId {
    KeyedId((u128::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

struct Both {
    index: Index,
    reference: Reference,
    time_ms: u64,
    records: Vec<(i64, KeyedId, Option<KeyedId>)>,
    entries: Vec<(Entry, i64)>,
}

impl Both {
    fn look(&mut self, offset: i64, id: KeyedId, previous: Option<KeyedId>) {
        let (mut changed, mut expect) = (Vec::new(), Vec::new());
        let verdict = self.index.look(offset, id, previous, self.time_ms, &mut changed);
        assert_eq!(verdict, self.reference.look(offset, id, previous, self.time_ms, &mut expect), "at {offset}");
        assert_eq!(changed, expect);
        self.records.push((offset, id, previous));
        self.entries.extend(changed.into_iter().map(|entry| (entry, offset + 1)));
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Look { gap, id: number, previous, later_ms } => {
                self.time_ms = self.time_ms.saturating_add_signed(*later_ms);
                self.look(self.index.high() + gap, id(*number), previous.map(id));
            }
            Step::Fill { from, count, later_ms } => {
                for number in *from..from + count {
                    self.time_ms += later_ms;
                    self.look(self.index.high(), id(number), None);
                }
            }
            Step::Replay(which) if !self.records.is_empty() => {
                let (offset, id, previous) = *which.get(&self.records);
                // Of what has left the window nothing is promised: nobody asks.
                if self.reference.has(id) && previous.is_none_or(|id| self.reference.has(id)) {
                    let mut changed = Vec::new();
                    let verdict = self.index.look(offset, id, previous, self.time_ms, &mut changed);
                    assert_eq!(
                        verdict,
                        self.reference.look(offset, id, previous, self.time_ms, &mut changed),
                        "replay of {offset}"
                    );
                    assert!(changed.is_empty());
                }
            }
            Step::Restore(which) => {
                let high = self.records.first().map_or(0, |(offset, ..)| *offset);
                self.entries.truncate(which.index(self.entries.len() + 1));
                self.index = new(high);
                self.reference = Reference::new(WINDOW_MS, high);
                for (entry, next) in &self.entries {
                    self.index.restore(*entry, *next);
                    self.reference.restore(*entry, *next);
                }
                let high = self.reference.high();
                self.records.retain(|(offset, ..)| *offset < high);
            }
            Step::Cover(offsets) => {
                let high = self.index.high() + offsets;
                self.index.cover(high);
                self.reference.cover(high);
            }
            Step::Replay(_) => {}
        }
        assert_eq!(self.index.high(), self.reference.high());
        assert!(self.index.len() >= self.reference.len());
    }
}

fn new(high: i64) -> Index {
    Index::new(Duration::from_millis(WINDOW_MS), high)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map(start in prop_oneof![Just(0), 0..1_i64 << 40], steps in prop::collection::vec(step(), 1..120)) {
        let mut both = Both {
            index: new(start),
            reference: Reference::new(WINDOW_MS, start),
            time_ms: 1_700_000_000_000,
            records: Vec::new(),
            entries: Vec::new(),
        };
        steps.iter().for_each(|step| both.run(step));
    }
}
