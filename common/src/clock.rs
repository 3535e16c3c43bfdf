//! Time, the only place that reads it: the wall clock for what is compared with others, the monotonic clock for durations.
//!
//! Invariants: every `Clock::system()` of a process counts `monotonic` from the same epoch, and `monotonic` never goes
//! back. A manual clock moves only when its [`ManualClock`] is told to, so that logic is tested without sleeping.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time: the system's, or a test's. Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { epoch: Instant },
    Manual(Arc<Hands>),
}

/// What a manual clock shows.
#[derive(Debug)]
struct Hands {
    unix_ms: AtomicU64,
    monotonic_ns: AtomicU64,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        #[allow(clippy::disallowed_methods, reason = "this is the clock that others must use")]
        let epoch = *EPOCH.get_or_init(Instant::now);
        Self(Source::System { epoch })
    }

    /// A clock that stands still at `start_unix_ms`, and the handle that moves it.
    pub fn manual(start_unix_ms: u64) -> (Self, ManualClock) {
        let hands = Arc::new(Hands { unix_ms: AtomicU64::new(start_unix_ms), monotonic_ns: AtomicU64::new(0) });
        (Self(Source::Manual(hands.clone())), ManualClock(hands))
    }

    /// Milliseconds since 1970-01-01 00:00 UTC. May jump either way when the machine's clock is set.
    pub fn unix_ms(&self) -> u64 {
        match &self.0 {
            Source::System { .. } => {
                #[allow(clippy::disallowed_methods, reason = "this is the clock that others must use")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Source::Manual(hands) => hands.unix_ms.load(Ordering::SeqCst),
        }
    }

    /// Whole seconds since 1970-01-01 00:00 UTC.
    pub fn unix_s(&self) -> u64 {
        self.unix_ms() / 1000
    }

    /// Time since an epoch of this process's choosing; never goes back. For durations and deadlines.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { epoch } => epoch.elapsed(),
            Source::Manual(hands) => Duration::from_nanos(hands.monotonic_ns.load(Ordering::SeqCst)),
        }
    }
}

/// Moves the clock it was made with.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

impl ManualClock {
    /// Lets time pass: both the wall clock and the monotonic clock move.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).expect("a test's step fits 64 bits of milliseconds");
        let ns = u64::try_from(by.as_nanos()).expect("a test's step fits 64 bits of nanoseconds");
        self.0.unix_ms.fetch_add(ms, Ordering::SeqCst);
        self.0.monotonic_ns.fetch_add(ns, Ordering::SeqCst);
    }

    /// Sets the wall clock, as an administrator or NTP would; the monotonic clock stays.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.0.unix_ms.store(unix_ms, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_moves_forward_and_shares_its_epoch() {
        let (one, two) = (Clock::system(), Clock::system());
        let before = one.monotonic();
        assert!(two.monotonic() >= before);
        // 2024-01-01 and 2100-01-01: the unit is milliseconds.
        assert!((1_704_067_200_000..4_102_444_800_000).contains(&one.unix_ms()));
        assert_eq!(one.unix_s(), one.unix_ms() / 1000);
    }

    #[test]
    fn a_manual_clock_moves_only_by_its_handle() {
        let (clock, hand) = Clock::manual(1_700_000_000_999);
        assert_eq!((clock.unix_ms(), clock.unix_s()), (1_700_000_000_999, 1_700_000_000));
        assert_eq!(clock.monotonic(), Duration::ZERO);
        hand.advance(Duration::from_millis(1));
        assert_eq!(clock.clone().unix_s(), 1_700_000_001);
        assert_eq!(clock.monotonic(), Duration::from_millis(1));
        hand.set_unix_ms(5);
        assert_eq!((clock.unix_ms(), clock.monotonic()), (5, Duration::from_millis(1)));
    }
}
