//! The processor's metrics, declared once.

use std::sync::OnceLock;
use std::time::Duration;

use common::id::{KeyId, SinkId, SourceId};
use common::topics::Topic;
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

use crate::core::breaker::{Sign, Stance};
use crate::outcome::Outcome;
use crate::sink::Refusal;

/// Records ended. Labels: `lane` (`inbox`, `events`, `retry`), `sink` (empty for the router), `outcome`
/// (see [`Outcome`]), `reason` (why it is dead, else empty).
pub const RECORDS: &str = "processor_records_total";
/// Seconds from the broker's time of an event's record to the sink's answer. Label: `sink`.
pub const DELIVERY_SECONDS: &str = "processor_delivery_age_seconds";
/// Dispatches that failed and may be tried again. Labels: `sink`, `kind` (`permanent`, `status`, `timeout`, `transport`,
/// `overload`).
pub const FAILURES: &str = "processor_dispatch_failures_total";
/// Ids held in the dedup index, those of the window and a few older ones. Labels: `lane` (`events`, `retry`), `sink`.
pub const INDEX_IDS: &str = "processor_index_ids";
/// Bytes of memory allocated for them. Labels: as those of the ids.
pub const INDEX_BYTES: &str = "processor_index_bytes";
/// Records that retention deleted before they were read: each is lost. Label: `sink` (empty for the router).
pub const LOST_TO_RETENTION: &str = "processor_records_lost_to_retention_total";
/// Partitions that are owned and not open yet. Labels: `lane` (`events`, `retry`), `sink`.
pub const OPENING: &str = "processor_partitions_opening";
/// Records read from the log to open partitions. Labels: `lane`, `sink`.
pub const SCANNED: &str = "processor_scanned_records_total";
/// Records that are still to be read from the log to open partitions. Labels: `lane`, `sink`.
pub const SCAN_LEFT: &str = "processor_scan_left_records";
/// Whether the index cache on disk is in use: 1 or 0.
pub const CACHE_IN_USE: &str = "processor_index_cache_in_use";
/// The index cache's size on disk, in bytes.
pub const CACHE_DISK: &str = "processor_index_cache_disk_bytes";
/// Batches for the index cache. Label: `outcome` (`written`, `dropped`: each of these costs a longer start).
pub const CACHE_BATCHES: &str = "processor_index_cache_batches_total";
/// What went wrong with the index cache. Label: `kind` (`io`, `damage`, `panic`, `stuck`, `full`, `foreign`).
pub const CACHE_FAULTS: &str = "processor_index_cache_faults_total";
/// The circuit breaker of a sink: 0 closed, 1 half-open, 2 open. It turns half-open with the first probe, so without
/// events an open one stays open. Label: `sink`.
pub const BREAKER_STATE: &str = "processor_breaker_state";
/// How often the circuit breaker of a sink opened, after failed probes too. Label: `sink`.
pub const BREAKER_OPENINGS: &str = "processor_breaker_openings_total";
/// Probes of a half-open circuit breaker that have ended. Labels: `sink`, `result` (`passed`, `failed`).
pub const BREAKER_PROBES: &str = "processor_breaker_probes_total";
/// How many dispatches to a sink may be under way at once now. Label: `sink`.
pub const CONCURRENCY_LIMIT: &str = "processor_concurrency_limit";

/// Seconds from when a record of a retry lane was due to its dispatch. Label: `sink`.
pub const RETRY_LATENESS: &str = "processor_retry_lateness_seconds";
/// Records admitted whose completion is not committed yet: the most that a crash can repeat. Labels: `lane` (`inbox`,
/// `events`, `retry`), `sink`.
pub const IN_FLIGHT: &str = "processor_in_flight_records";
/// How far back repeats are known, in seconds: of the partition that knows least. `dedup.window`, but for partitions that
/// were opened before their window was read. Labels: `lane` (`events`, `retry`), `sink`.
pub const WINDOW_COVERED: &str = "processor_index_window_covered_seconds";
/// Whether a group may start effects now, 1 or 0: it holds its lease, or is not at a commit of its transaction. Labels:
/// `lane`, `sink`.
pub const LEASE: &str = "processor_lease_held";
/// Partitions owned. Labels: `lane`, `sink`.
pub const OWNED: &str = "processor_partitions_owned";
/// How often partitions came or went. Labels: `lane`, `sink`, `kind` (`assigned`, `revoked`).
pub const REBALANCES: &str = "processor_rebalances_total";
/// Records between the lowest incomplete offset of a partition that is owned and its log's end; 0 once it is another's.
/// Labels: `topic` (the role), `sink` (empty for the router), `partition`.
pub const LAG: &str = "processor_lag_records";
/// Envelopes opened by the router: each is one message under its AES-GCM key, of which there may be 2^32. Labels: `source`,
/// `key`.
pub const OPENED: &str = "processor_messages_opened_total";

/// Describes every metric.
pub fn describe() {
    describe_histogram!(RETRY_LATENESS, Unit::Seconds, "from when a record of a retry lane was due to its dispatch");
    describe_gauge!(IN_FLIGHT, Unit::Count, "records admitted whose completion is not committed yet");
    describe_gauge!(WINDOW_COVERED, Unit::Seconds, "how far back repeats are known, of the partition that knows least");
    describe_gauge!(LEASE, Unit::Count, "whether a group may start effects now");
    describe_gauge!(OWNED, Unit::Count, "partitions owned");
    describe_counter!(REBALANCES, Unit::Count, "how often partitions came or went");
    describe_gauge!(LAG, Unit::Count, "records between the lowest incomplete offset of a partition and its log's end");
    describe_counter!(
        OPENED,
        Unit::Count,
        "envelopes opened by the router, by source and key: 2^32 at most under one key"
    );
    describe_counter!(RECORDS, Unit::Count, "records ended, by lane, sink, outcome and reason");
    describe_histogram!(DELIVERY_SECONDS, Unit::Seconds, "from the broker's time of an event to the sink's answer");
    describe_counter!(FAILURES, Unit::Count, "dispatches that failed and may be tried again");
    describe_gauge!(INDEX_IDS, Unit::Count, "ids held in the dedup index");
    describe_gauge!(INDEX_BYTES, Unit::Bytes, "memory allocated for the dedup index");
    describe_counter!(LOST_TO_RETENTION, Unit::Count, "records that retention deleted before they were read");
    describe_gauge!(OPENING, Unit::Count, "partitions that are owned and not open yet");
    describe_counter!(SCANNED, Unit::Count, "records read from the log to open partitions");
    describe_gauge!(SCAN_LEFT, Unit::Count, "records still to be read from the log to open partitions");
    describe_gauge!(CACHE_IN_USE, Unit::Count, "whether the index cache on disk is in use");
    describe_gauge!(CACHE_DISK, Unit::Bytes, "the index cache's size on disk");
    describe_counter!(CACHE_BATCHES, Unit::Count, "batches for the index cache, by what became of them");
    describe_counter!(CACHE_FAULTS, Unit::Count, "what went wrong with the index cache");
    describe_gauge!(BREAKER_STATE, Unit::Count, "the circuit breaker of a sink: 0 closed, 1 half-open, 2 open");
    describe_counter!(BREAKER_OPENINGS, Unit::Count, "how often the circuit breaker of a sink opened");
    describe_counter!(BREAKER_PROBES, Unit::Count, "probes of a half-open circuit breaker, by result");
    describe_gauge!(CONCURRENCY_LIMIT, Unit::Count, "dispatches to a sink that may be under way at once now");
}

fn lane(topic: &Topic) -> &'static str {
    match topic {
        Topic::Inbox => "inbox",
        Topic::Events => "events",
        Topic::Retry { .. } => "retry",
        Topic::Dead => "dead",
    }
}

/// Counts how the records of a lane ended. A series is there from its first record on.
#[derive(Debug, Default)]
pub struct Ended {
    counters: [OnceLock<Counter>; Outcome::KINDS],
}

impl Ended {
    /// Counts a record's end.
    pub(crate) fn count(&self, topic: &Topic, sink: &str, outcome: Outcome) {
        let new = || counter!(RECORDS, "lane" => lane(topic), "sink" => sink.to_owned(), "outcome" => outcome.as_str(), "reason" => outcome.reason());
        self.counters[outcome.kind()].get_or_init(new).increment(1);
    }
}

/// Notes what the dedup indexes of a group hold.
pub(crate) fn index(topic: &Topic, sink: &str, ids: usize, bytes: usize) {
    #[allow(clippy::cast_precision_loss, reason = "what fits a memory is far below 2^52")]
    let set = |name: &'static str, value: usize| {
        gauge!(name, "lane" => lane(topic), "sink" => sink.to_owned()).set(value as f64);
    };
    set(INDEX_IDS, ids);
    set(INDEX_BYTES, bytes);
}

/// What a group is about now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupNow {
    pub(crate) in_flight: usize,
    pub(crate) owned: usize,
    pub(crate) may_start: bool,
    /// `None` where repeats don't matter.
    pub(crate) covered: Option<Duration>,
}

/// Notes what a group is about.
pub(crate) fn group(topic: &Topic, sink: &str, now: GroupNow) {
    let set =
        |name: &'static str, value: f64| gauge!(name, "lane" => lane(topic), "sink" => sink.to_owned()).set(value);
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    set(IN_FLIGHT, count(now.in_flight));
    set(OWNED, count(now.owned));
    set(LEASE, if now.may_start { 1.0 } else { 0.0 });
    if let Some(covered) = now.covered {
        set(WINDOW_COVERED, covered.as_secs_f64());
    }
}

/// Counts that partitions came or went.
pub(crate) fn rebalanced(topic: &Topic, sink: &str, kind: &'static str) {
    counter!(REBALANCES, "lane" => lane(topic), "sink" => sink.to_owned(), "kind" => kind).increment(1);
}

/// Notes how much of a partition is left.
pub(crate) fn lag(topic: &Topic, sink: &str, partition: i32, records: i64) {
    let (topic, sink, partition) = (topic.role(), sink.to_owned(), partition.to_string());
    #[allow(clippy::cast_precision_loss, reason = "a count of records, far below 2^52")]
    gauge!(LAG, "topic" => topic, "sink" => sink, "partition" => partition).set(records.max(0) as f64);
}

/// Counts envelopes that were opened with a key of a source.
pub(crate) fn opened(source: &SourceId, key: &KeyId) -> Counter {
    counter!(OPENED, "source" => source.as_str().to_owned(), "key" => key.as_str().to_owned())
}

/// How late retries of a sink are.
pub struct RetryLateness(Histogram);

impl RetryLateness {
    /// Of a sink's events.
    pub fn of(sink: &SinkId) -> Self {
        Self(metrics::histogram!(RETRY_LATENESS, "sink" => sink.as_str().to_owned()))
    }

    /// Notes how long after it was due a retry was dispatched.
    pub(crate) fn note(&self, late_ms: u64) {
        #[allow(clippy::cast_precision_loss, reason = "an age in milliseconds is far below 2^52")]
        self.0.record(late_ms as f64 / 1000.0);
    }
}

/// How old events are when their sink has them.
pub struct DeliveryAge(Histogram);

impl DeliveryAge {
    /// Of a sink's events.
    pub fn of(sink: &SinkId) -> Self {
        Self(metrics::histogram!(DELIVERY_SECONDS, "sink" => sink.as_str().to_owned()))
    }

    /// Notes the age of an event that was delivered.
    pub(crate) fn note(&self, age_ms: u64) {
        #[allow(clippy::cast_precision_loss, reason = "an age in milliseconds is far below 2^52")]
        self.0.record(age_ms as f64 / 1000.0);
    }
}

/// Counts a failed dispatch.
pub(crate) fn failed(sink: &str, refusal: &Refusal) {
    counter!(FAILURES, "sink" => sink.to_owned(), "kind" => refusal.kind()).increment(1);
}

/// What became of a batch for the cache on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheBatch {
    Written,
    Dropped,
}

/// What went wrong with the cache on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheFault {
    Io,
    Damage,
    Panic,
    Stuck,
    Full,
    Foreign,
}

/// Counts a batch for the cache on disk.
pub(crate) fn cache_batch(outcome: CacheBatch) {
    let outcome = match outcome {
        CacheBatch::Written => "written",
        CacheBatch::Dropped => "dropped",
    };
    counter!(CACHE_BATCHES, "outcome" => outcome).increment(1);
}

/// Counts what went wrong with the cache on disk.
pub(crate) fn cache_fault(kind: CacheFault) {
    let kind = match kind {
        CacheFault::Io => "io",
        CacheFault::Damage => "damage",
        CacheFault::Panic => "panic",
        CacheFault::Stuck => "stuck",
        CacheFault::Full => "full",
        CacheFault::Foreign => "foreign",
    };
    counter!(CACHE_FAULTS, "kind" => kind).increment(1);
}

/// Notes whether the cache on disk is in use.
pub(crate) fn cache_in_use(in_use: bool) {
    gauge!(CACHE_IN_USE).set(if in_use { 1.0 } else { 0.0 });
}

/// Notes the size of the cache on disk.
pub(crate) fn cache_disk(bytes: u64) {
    #[allow(clippy::cast_precision_loss, reason = "a disk has far fewer than 2^52 bytes")]
    gauge!(CACHE_DISK).set(bytes as f64);
}

/// Notes how far the opening of a group's partitions has come.
pub(crate) fn opening(topic: &Topic, sink: &str, partitions: usize, left: u64, scanned: u64) {
    let set = |name: &'static str, value: f64| {
        gauge!(name, "lane" => lane(topic), "sink" => sink.to_owned()).set(value);
    };
    #[allow(clippy::cast_precision_loss, reason = "counts of records, far below 2^52")]
    set(SCAN_LEFT, left as f64);
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    set(OPENING, partitions as f64);
    counter!(SCANNED, "lane" => lane(topic), "sink" => sink.to_owned()).increment(scanned);
}

/// Counts records that are lost.
pub(crate) fn lost_to_retention(sink: &str, records: u64) {
    counter!(LOST_TO_RETENTION, "sink" => sink.to_owned()).increment(records);
}

/// The metrics of a sink's gate.
pub(crate) struct GateMetrics {
    state: Gauge,
    openings: Counter,
    probes_passed: Counter,
    probes_failed: Counter,
    limit: Gauge,
}

impl GateMetrics {
    pub(crate) fn new(sink: &str) -> Self {
        let probes = |result: &'static str| counter!(BREAKER_PROBES, "sink" => sink.to_owned(), "result" => result);
        Self {
            state: gauge!(BREAKER_STATE, "sink" => sink.to_owned()),
            openings: counter!(BREAKER_OPENINGS, "sink" => sink.to_owned()),
            probes_passed: probes("passed"),
            probes_failed: probes("failed"),
            limit: gauge!(CONCURRENCY_LIMIT, "sink" => sink.to_owned()),
        }
    }

    pub(crate) fn stance(&self, stance: Stance) {
        self.state.set(match stance {
            Stance::Closed => 0.0,
            Stance::HalfOpen => 1.0,
            Stance::Open => 2.0,
        });
    }

    pub(crate) fn opened(&self) {
        self.openings.increment(1);
    }

    pub(crate) fn probed(&self, sign: Sign) {
        match sign {
            Sign::Works | Sign::Answers => self.probes_passed.increment(1),
            Sign::Fails => self.probes_failed.increment(1),
        }
    }

    pub(crate) fn limit(&self, limit: usize) {
        self.limit.set(u32::try_from(limit).unwrap_or(u32::MAX));
    }
}
