//! What became of requests: each is noted once, with one outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use http::StatusCode;
use serde::Serialize;

/// Longest time that is told apart, in nanoseconds: an hour.
const TIME_MAX_NS: u64 = 3600 * 1_000_000_000;
/// Digits to which times are kept.
const DIGITS: u8 = 3;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With an answer.
    Status(StatusCode),
    /// Before it was sent: no connection could be made.
    NoConnection,
    /// Without an answer in time. It may have been received.
    Timeout,
    /// The connection broke before there was an answer. It may have been received.
    Broken,
    /// It was due, and no connection was free until long after the load's end.
    NotSent,
}

impl Outcome {
    /// Whether the receiver has taken it.
    pub(super) fn is_received(self) -> bool {
        matches!(self, Self::Status(status) if status.is_success())
    }
}

/// When a request was meant to be sent (in an open loop), was sent, and ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) intended: Option<Duration>,
    pub(super) began: Duration,
    pub(super) ended: Duration,
    /// Whether its event was sent before.
    pub(super) is_repeat: bool,
}

impl Exchange {
    /// How long somebody waited who wanted to send at the time that was meant.
    fn latency(&self) -> Duration {
        self.ended.saturating_sub(self.intended.unwrap_or(self.began))
    }
}

/// Each request under exactly one of the first five.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counts {
    /// Answers by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) no_connection: u64,
    pub(super) timeout: u64,
    pub(super) broken: u64,
    pub(super) not_sent: u64,
    /// Requests whose event was sent before.
    pub(super) repeats: u64,
    /// Connections that were made, and requests that an ending connection had not taken and another one got.
    pub(super) connections_made: u64,
    pub(super) moves: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.no_connection += other.no_connection;
        self.timeout += other.timeout;
        self.broken += other.broken;
        self.not_sent += other.not_sent;
        self.repeats += other.repeats;
        self.connections_made += other.connections_made;
        self.moves += other.moves;
    }

    /// All requests.
    pub(super) fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.no_connection + self.timeout + self.broken + self.not_sent
    }

    /// Those that were received.
    pub(super) fn received(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| (200..300).contains(*status)).map(|(_, count)| count).sum()
    }
}

/// The sums.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    /// How long requests took that were received, and the others, in nanoseconds.
    pub(super) received_ns: Histogram<u64>,
    pub(super) failed_ns: Histogram<u64>,
    /// How much later than meant requests were sent, in nanoseconds.
    pub(super) lag_ns: Histogram<u64>,
    /// When the last one ended.
    pub(super) last: Duration,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let times =
            || Histogram::new_with_bounds(1, TIME_MAX_NS, DIGITS).expect("the bounds are in order and the digits few");
        Self {
            counts: Counts::default(),
            received_ns: times(),
            failed_ns: times(),
            lag_ns: times(),
            last: Duration::ZERO,
        }
    }

    /// Notes a request that has ended.
    pub(super) fn note(&mut self, exchange: &Exchange, outcome: Outcome) {
        let counts = &mut self.counts;
        let count = match outcome {
            Outcome::Status(status) => counts.statuses.entry(status.as_u16()).or_default(),
            Outcome::NoConnection => &mut counts.no_connection,
            Outcome::Timeout => &mut counts.timeout,
            Outcome::Broken => &mut counts.broken,
            Outcome::NotSent => &mut counts.not_sent,
        };
        *count += 1;
        counts.repeats += u64::from(exchange.is_repeat);
        let times = if outcome.is_received() { &mut self.received_ns } else { &mut self.failed_ns };
        times.saturating_record(ns(exchange.latency()));
        if let Some(intended) = exchange.intended {
            self.lag_ns.saturating_record(ns(exchange.began.saturating_sub(intended)));
        }
        self.last = self.last.max(exchange.ended);
    }

    /// Adds the connections that were made, and the requests that moved.
    pub(super) fn add_counts(&mut self, (connections, moves): (u64, u64)) {
        self.counts.connections_made += connections;
        self.counts.moves += moves;
    }

    /// Adds what another thread has counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        for (mine, theirs) in [
            (&mut self.received_ns, &other.received_ns),
            (&mut self.failed_ns, &other.failed_ns),
            (&mut self.lag_ns, &other.lag_ns),
        ] {
            mine.add(theirs).expect("the bounds are the same");
        }
        self.last = self.last.max(other.last);
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn exchange(intended: Option<u32>, began: u32, ended: u32) -> Exchange {
        Exchange { intended: intended.map(|ms| ms * MS), began: began * MS, ended: ended * MS, is_repeat: false }
    }

    fn median_ms(times: &Histogram<u64>) -> f64 {
        times.value_at_quantile(0.5) as f64 / 1e6
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let outcomes = [
            Outcome::Status(StatusCode::OK),
            Outcome::Status(StatusCode::OK),
            Outcome::Status(StatusCode::ACCEPTED),
            Outcome::Status(StatusCode::UNAUTHORIZED),
            Outcome::NoConnection,
            Outcome::Timeout,
            Outcome::Broken,
            Outcome::NotSent,
        ];
        let (mut one, mut two) = (Tally::new(), Tally::new());
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let tally = if number % 2 == 0 { &mut one } else { &mut two };
            tally.note(&exchange(None, 0, 1), outcome);
        }
        one.add(&two);
        let counts = &one.counts;
        assert_eq!((counts.requests(), counts.received()), (8, 3));
        assert_eq!(counts.statuses, BTreeMap::from([(200, 2), (202, 1), (401, 1)]));
        assert_eq!((counts.no_connection, counts.timeout, counts.broken, counts.not_sent), (1, 1, 1, 1));
        assert_eq!((one.received_ns.len(), one.failed_ns.len()), (3, 5));
    }

    /// A receiver that stalls for a second on one request, at 100 requests a second on one connection: by its own time each
    /// other request took 1 ms, and whoever wanted to send waited for half a second in the middle.
    #[test]
    fn an_open_loop_counts_the_wait_of_those_that_could_not_be_sent() {
        let (mut open, mut closed) = (Tally::new(), Tally::new());
        let mut now = 0;
        for number in 0..100 {
            let (began, took) = (now.max(10 * number), if number == 0 { 1000 } else { 1 });
            now = began + took;
            open.note(&exchange(Some(10 * number), began, now), Outcome::Status(StatusCode::OK));
            closed.note(&exchange(None, began, now), Outcome::Status(StatusCode::OK));
        }
        assert_eq!(median_ms(&closed.received_ns).round(), 1.0);
        let median = median_ms(&open.received_ns);
        assert!((500.0..600.0).contains(&median), "{median}");
        assert_eq!(open.lag_ns.max() / 1_000_000, 990, "how late the generator was is told apart");
        assert_eq!(closed.lag_ns.len(), 0);
    }

    #[test]
    fn times_are_kept_to_three_digits() {
        let mut tally = Tally::new();
        tally.note(&exchange(Some(0), 0, 1234), Outcome::Status(StatusCode::OK));
        let kept = median_ms(&tally.received_ns);
        assert!((kept - 1234.0).abs() <= 1.234, "{kept}");
        // Longer than an hour is an hour.
        tally.note(&exchange(Some(0), 0, 7_200_000), Outcome::Timeout);
        assert!(median_ms(&tally.failed_ns) >= 3_600_000.0);
    }
}
