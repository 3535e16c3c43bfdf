//! When requests are sent, and how many.
//!
//! Each request takes a [`Turn`]. In an open loop the turn's number says when it is meant to be sent, and a turn is given when
//! that time has come; in a closed loop it is given at once. Whoever takes a turn late, because the receiver had kept all
//! workers waiting, is told the time that was meant, so that the wait counts (the rule that avoids "coordinated omission").

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::clock::Clock;
use tokio::sync::Semaphore;

/// The thread that gives turns looks this often whether the load was stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// When a load ends.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// After so many requests.
    pub(super) requests: Option<u64>,
    /// Or after so long.
    pub(super) duration: Option<Duration>,
    /// How long after that a request is still sent that was due before.
    pub(super) grace: Duration,
}

/// The times of an open loop: evenly spaced.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// Requests a second.
    rate: f64,
}

impl Schedule {
    /// When request `number`, counted from 0, is meant to be sent, after the begin.
    fn at(&self, number: u64) -> Duration {
        Duration::try_from_secs_f64(number as f64 / self.rate).unwrap_or(Duration::MAX)
    }

    /// How many are due by a time after the begin.
    fn due(&self, since: Duration) -> u64 {
        (since.as_secs_f64() * self.rate) as u64 + 1
    }

    /// How many are meant to be sent before a time after the begin.
    fn within(&self, duration: Duration) -> u64 {
        (duration.as_secs_f64() * self.rate).ceil() as u64
    }
}

/// One request's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Which request it is, counted from 0.
    pub(super) number: u64,
    /// In an open loop, when it is meant to be sent.
    pub(super) intended: Option<Duration>,
    /// It comes so late that it is not to be sent any more.
    pub(super) is_late: bool,
}

/// The turns of one load.
#[derive(Debug)]
pub(super) struct Turns {
    clock: Clock,
    begin: OnceLock<Duration>,
    /// When a closed loop ends, and from when on an open loop's turns are late, after the begin.
    end: Duration,
    /// Who sends; each is to find out that there are no more turns.
    workers: usize,
    next: AtomicU64,
    total: AtomicU64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    schedule: Schedule,
    due: Semaphore,
    released: AtomicU64,
}

impl Turns {
    /// Turns for so many workers, at a rate (open loop) or at once (closed loop).
    pub(super) fn new(rate: Option<f64>, limits: &Limits, workers: usize, clock: Clock) -> Self {
        let schedule = rate.map(|rate| Schedule { rate });
        let within = schedule.zip(limits.duration).map_or(u64::MAX, |(schedule, duration)| schedule.within(duration));
        let total = limits.requests.unwrap_or(u64::MAX).min(within);
        let end = match schedule {
            Some(schedule) => schedule.at(total.saturating_sub(1)).saturating_add(limits.grace),
            None => limits.duration.unwrap_or(Duration::MAX),
        };
        let open =
            schedule.map(|schedule| Open { schedule, due: Semaphore::const_new(0), released: AtomicU64::new(0) });
        Self { clock, begin: OnceLock::new(), end, workers, next: AtomicU64::new(0), total: total.into(), open }
    }

    /// Sets the time from which on turns are counted.
    pub(super) fn begin(&self, at: Duration) {
        self.begin.get_or_init(|| at);
    }

    /// Waits for a turn; `None` when there are no more.
    pub(super) async fn take(&self) -> Option<Turn> {
        if let Some(open) = &self.open {
            // It is never closed.
            open.due.acquire().await.ok()?.forget();
        }
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        if number >= self.total.load(Ordering::SeqCst) {
            return None;
        }
        let since = self.since();
        match &self.open {
            Some(open) => {
                let intended = Some(self.at_begin().saturating_add(open.schedule.at(number)));
                Some(Turn { number, intended, is_late: since > self.end })
            }
            None => (since < self.end).then_some(Turn { number, intended: None, is_late: false }),
        }
    }

    /// No more turns: those that were not taken are none.
    pub(super) fn stop(&self) {
        self.total.store(0, Ordering::SeqCst);
    }

    /// Gives the turns of an open loop as they become due. Blocks until there are no more.
    pub(super) fn release_all(&self) {
        while let Some(pause) = self.release() {
            std::thread::sleep(pause.min(STOP_INTERVAL));
        }
    }

    /// Gives the turns that are due now, and says how long it is until the next; `None` after the last.
    fn release(&self) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let total = self.total.load(Ordering::SeqCst);
        let (since, released) = (self.since(), open.released.load(Ordering::SeqCst));
        let due = open.schedule.due(since).min(total).max(released);
        open.due.add_permits(usize::try_from(due - released).unwrap_or(usize::MAX));
        open.released.store(due, Ordering::SeqCst);
        if due >= total {
            open.due.add_permits(self.workers);
            return None;
        }
        Some(open.schedule.at(due).saturating_sub(since))
    }

    fn at_begin(&self) -> Duration {
        self.begin.get().copied().unwrap_or_default()
    }

    fn since(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.at_begin())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limits(requests: Option<u64>, duration_ms: Option<u32>) -> Limits {
        Limits { requests, duration: duration_ms.map(|ms| ms * MS), grace: 1000 * MS }
    }

    /// Asks once for a turn.
    fn ask(turns: &Turns) -> Poll<Option<Turn>> {
        pin!(turns.take()).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Takes every turn that is there now.
    fn taken(turns: &Turns) -> Vec<Turn> {
        let mut found = Vec::new();
        while let Poll::Ready(Some(turn)) = ask(turns) {
            found.push(turn);
        }
        found
    }

    #[test]
    fn an_open_loop_gives_each_turn_at_its_time_and_no_sooner() {
        let (clock, hand) = Clock::manual(0);
        hand.advance(700 * MS);
        let turns = Turns::new(Some(100.0), &limits(None, Some(50)), 2, clock);
        turns.begin(700 * MS);
        let mut times = Vec::new();
        for at in 0..70_u32 {
            let more = turns.release();
            times.extend(taken(&turns).into_iter().map(|turn| (at, turn)));
            if more.is_none() {
                break;
            }
            hand.advance(MS);
        }
        let expected: Vec<_> = (0..5_u32)
            .map(|n| (10 * n, Turn { number: n.into(), intended: Some((700 + 10 * n) * MS), is_late: false }))
            .collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn the_pause_leads_to_the_next_turn() {
        let (clock, hand) = Clock::manual(0);
        let turns = Turns::new(Some(3.0), &limits(Some(1000), None), 1, clock);
        turns.begin(Duration::ZERO);
        for number in 0..1000 {
            let pause = turns.release();
            assert_eq!(taken(&turns).iter().map(|turn| turn.number).collect::<Vec<_>>(), [number]);
            // The clock shows whole nanoseconds.
            hand.advance(pause.unwrap_or_default() + Duration::from_nanos(1));
        }
        assert_eq!(turns.release(), None);
    }

    #[test]
    fn a_turn_that_is_taken_late_keeps_the_time_that_was_meant() {
        let (clock, hand) = Clock::manual(0);
        let turns = Turns::new(Some(10.0), &limits(Some(8), None), 1, clock);
        turns.begin(Duration::ZERO);
        hand.advance(300 * MS);
        turns.release();
        let intended: Vec<_> = taken(&turns).iter().map(|turn| turn.intended.unwrap().as_millis()).collect();
        assert_eq!(intended, [0, 100, 200, 300], "all that were due while nobody could send");
        hand.advance(2000 * MS);
        turns.release();
        let late: Vec<_> = taken(&turns).iter().map(|turn| (turn.number, turn.is_late)).collect();
        assert_eq!(late, [(4, true), (5, true), (6, true), (7, true)], "more than the grace after the last one's time");
    }

    #[test]
    fn every_worker_learns_of_the_end() {
        let (clock, hand) = Clock::manual(0);
        let turns = Turns::new(Some(1000.0), &limits(Some(4), None), 3, clock);
        turns.begin(Duration::ZERO);
        hand.advance(10 * MS);
        assert_eq!(turns.release(), None);
        assert_eq!(taken(&turns).len(), 4);
        // The first of them has met the end above.
        for _ in 1..3 {
            assert_eq!(ask(&turns), Poll::Ready(None));
        }
    }

    #[test]
    fn a_closed_loop_ends_by_number_or_by_time() {
        let (clock, hand) = Clock::manual(0);
        let turns = Turns::new(None, &limits(Some(3), None), 1, clock.clone());
        turns.begin(Duration::ZERO);
        assert_eq!(taken(&turns).len(), 3);
        assert_eq!(turns.release(), None, "it has no times");

        let turns = Turns::new(None, &limits(None, Some(10)), 1, clock);
        turns.begin(Duration::ZERO);
        hand.advance(9 * MS);
        assert!(matches!(ask(&turns), Poll::Ready(Some(Turn { intended: None, .. }))));
        hand.advance(MS);
        assert_eq!(ask(&turns), Poll::Ready(None));
    }

    #[test]
    fn a_load_that_is_stopped_gives_no_more_turns() {
        for rate in [None, Some(1000.0)] {
            let (clock, hand) = Clock::manual(0);
            let turns = Turns::new(rate, &limits(Some(100), None), 1, clock);
            turns.begin(Duration::ZERO);
            hand.advance(10 * MS);
            turns.release();
            turns.stop();
            assert_eq!(turns.release(), None);
            assert_eq!(taken(&turns), []);
        }
    }
}
