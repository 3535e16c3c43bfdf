//! The processor's metrics, declared once.

use common::topics::Topic;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

use crate::outcome::Outcome;
use crate::sink::Refusal;

/// Records ended. Labels: `lane` (`inbox`, `events`, `retry`), `sink` (empty for the router), `outcome`
/// (see [`Outcome`]), `reason` (why it is dead, else empty).
pub const RECORDS: &str = "processor_records_total";
/// Seconds from the broker's time of an event's record to the sink's answer. Label: `sink`.
pub const DELIVERY_SECONDS: &str = "processor_delivery_age_seconds";
/// Dispatches that failed and may be tried again. Labels: `sink`, `kind` (`status`, `timeout`, `transport`).
pub const FAILURES: &str = "processor_dispatch_failures_total";
/// Ids held in the dedup index. Labels: `sink`.
pub const INDEX_IDS: &str = "processor_index_ids";

/// Describes every metric.
pub fn describe() {
    describe_counter!(RECORDS, Unit::Count, "records ended, by lane, sink, outcome and reason");
    describe_histogram!(DELIVERY_SECONDS, Unit::Seconds, "from the broker's time of an event to the sink's answer");
    describe_counter!(FAILURES, Unit::Count, "dispatches that failed and may be tried again");
    describe_gauge!(INDEX_IDS, Unit::Count, "ids held in the dedup index");
}

/// Counts a record's end.
pub(crate) fn record(topic: &Topic, sink: &str, outcome: &Outcome) {
    let lane = match topic {
        Topic::Inbox => "inbox",
        Topic::Events => "events",
        Topic::Retry { .. } => "retry",
        Topic::Dead => "dead",
    };
    counter!(RECORDS, "lane" => lane, "sink" => sink.to_owned(), "outcome" => outcome.as_str(), "reason" => outcome.reason())
        .increment(1);
}

/// Notes how old a delivered event is.
pub(crate) fn delivered(sink: &str, age_ms: u64) {
    #[allow(clippy::cast_precision_loss, reason = "an age in milliseconds is far below 2^52")]
    metrics::histogram!(DELIVERY_SECONDS, "sink" => sink.to_owned()).record(age_ms as f64 / 1000.0);
}

/// Counts a failed dispatch.
pub(crate) fn failed(sink: &str, refusal: &Refusal) {
    counter!(FAILURES, "sink" => sink.to_owned(), "kind" => refusal.kind()).increment(1);
}
