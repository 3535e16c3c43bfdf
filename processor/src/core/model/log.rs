//! Logs in memory, and what is true of them.

use std::sync::LazyLock;

use common::id::{KeyedId, SinkId, SourceId};
use common::record::{Head, Identity, Retry};
use common::topics::{Delay, Topic};

use crate::core::partition::DedupKey;
use crate::deliverer::dedup_key;

/// The dedup window.
pub(super) const WINDOW_MS: u64 = 10_000;

/// The delays of the retry lanes.
pub(super) const DELAYS: [&str; 2] = ["1s", "3s"];

/// What a record is, to one who knows all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// An event under an id key.
    Event { event: u8, new_key: bool },
    /// A park of the record that was at `origin` in `events`.
    Park(Park),
}

/// What is known of a park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Park {
    pub(super) event: u8,
    pub(super) origin: i64,
    pub(super) first_seen_ms: u64,
    pub(super) attempt: u32,
    pub(super) hop: u32,
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) offset: i64,
    pub(super) time_ms: u64,
    /// What it is, and what it is known by too.
    pub(super) what: (What, Option<What>),
    /// When it is due, where the delay of its lane is not all.
    pub(super) due_ms: Option<u64>,
    /// What the product knows it by.
    pub(super) key: DedupKey,
    /// Whether an earlier one within the window before it is the same.
    pub(super) repeat: bool,
    /// How often it ended: at the sink, in a lane, in `dead`.
    pub(super) ended: u32,
    monotonic_ms: u64,
}

/// The log of one partition.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) records: Vec<Record>,
    /// One past the last offset.
    pub(super) end: i64,
    time_ms: u64,
}

impl Log {
    /// Adds a record after `gap` offsets that nobody sees.
    pub(super) fn append(
        &mut self,
        gap: i64,
        time_ms: u64,
        what: (What, Option<What>),
        due_ms: Option<u64>,
        key: DedupKey,
    ) {
        self.time_ms = self.time_ms.max(time_ms);
        let same = |a: What| a == what.0 || Some(a) == what.1;
        let repeat = self.records.iter().rev().any(|earlier| {
            self.time_ms - earlier.monotonic_ms <= WINDOW_MS
                && (same(earlier.what.0) || earlier.what.1.is_some_and(same))
        });
        let offset = self.end + gap;
        self.end = offset + 1;
        let monotonic_ms = self.time_ms;
        self.records.push(Record { offset, time_ms, what, due_ms, key, repeat, ended: 0, monotonic_ms });
    }

    /// The first record at or after an offset.
    pub(super) fn from(&self, offset: i64) -> impl Iterator<Item = &Record> {
        self.records[self.records.partition_point(|record| record.offset < offset)..].iter()
    }

    /// The record at an offset.
    pub(super) fn at(&mut self, offset: i64) -> &mut Record {
        let at = self.records.binary_search_by_key(&offset, |record| record.offset).unwrap();
        &mut self.records[at]
    }

    /// What the broker says is the first offset at or after a time.
    pub(super) fn offset_at(&self, time_ms: u64) -> i64 {
        self.records.iter().find(|record| record.time_ms >= time_ms).map_or(self.end, |record| record.offset)
    }
}

/// The keyed id of an event, under the old id key or the new one.
pub(super) fn keyed_id(event: u8, new_key: bool) -> KeyedId {
    let number = u128::from(event) * 2 + u128::from(new_key) + 1;
    KeyedId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

static SINK: LazyLock<SinkId> = LazyLock::new(|| "main".parse().unwrap());
static SOURCE: LazyLock<SourceId> = LazyLock::new(|| "acme".parse().unwrap());
static LANE: LazyLock<Topic> =
    LazyLock::new(|| Topic::Retry { sink: SINK.clone(), delay: DELAYS[0].parse::<Delay>().unwrap() });

/// The product's key of a park.
pub(super) fn park_key(park: Park) -> DedupKey {
    let retry = Retry {
        sink: SINK.clone(),
        first_seen_ms: park.first_seen_ms,
        redrive: 0,
        attempt: park.attempt,
        hop: park.hop,
        due_ms: None,
    };
    let head = Head {
        source: SOURCE.clone(),
        received_ms: 0,
        timestamp: "1700000000".into(),
        traceparent: None,
        identity: Some(Identity { id: keyed_id(park.event, true), previous: None }),
        retry: Some(retry),
        redriven_ms: None,
    };
    dedup_key(&LANE, &head).unwrap()
}
