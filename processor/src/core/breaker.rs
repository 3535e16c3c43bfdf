//! The circuit breaker of one sink: while the sink is what is wrong, events wait instead of being tried, parked and given up.
//!
//! ```text
//!            enough failures within the window              the open time is over
//!   closed ───────────────────────────────────▶ open ───────────────────────────▶ half-open ──┐
//!      ▲                                          ▲                                │ │        │ `probes` dispatches,
//!      │                                          └──── as large a part failed ────┘ │        │ one by one or at once
//!      └──────────────────────────────────────────────── it no longer can ───────────┘ ◀──────┘
//! ```
//!
//! It is a function of events and time: it waits for nothing, and who is to be dispatched next is its owner's affair.
//!
//! Invariants:
//! * While it is open nothing is dispatched, while it is half-open at most `probes` events.
//! * A failure costs its event an attempt only if the breaker was closed from its dispatch to its end and stays so. So no
//!   event is used up by a sink that is down, however long.
//! * One event decides nothing: opening takes several dispatches, and of the probes as large a part must fail as opens a
//!   closed breaker. An event that a working sink always refuses neither keeps the breaker open nor the others waiting.
//! * A result counts only for the state in which its dispatch began: what was sent to a sink that was down and comes back
//!   late says nothing about the sink that was mended since.

use std::time::Duration;

/// Parts of the sliding window: it forgets by a tenth at a time.
const PARTS: usize = 10;

/// Up to this part of an open time is taken off at random, so that several processors do not probe in step.
const JITTER: f64 = 0.2;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// The time over which results are counted.
    pub window: Duration,
    /// It does not open on fewer results than these.
    pub dispatches_min: u32,
    /// It opens when at least this part of them failed, in percent.
    pub failure_percent: u32,
    /// How long it stays open at first.
    pub open_first: Duration,
    /// The longest that it stays open, after doublings.
    pub open_max: Duration,
    /// Dispatches of a half-open breaker.
    pub probes: u32,
}

/// What a dispatch says about its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The sink works.
    Works,
    /// It answered, and said something about this event or about its load.
    Answers,
    /// The sink is what is wrong.
    Fails,
}

/// Leave to dispatch one event. It comes back by [`Breaker::end`] or [`Breaker::give_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    /// Whether a half-open breaker gave it.
    pub is_probe: bool,
}

/// The answer to who wants to dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go ahead.
    Go(Ticket),
    /// Ask again at this time, or when something has come back.
    NotBefore(Duration),
    /// Ask again when something has come back.
    NotNow,
}

/// Whether a failure is the event's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// It costs an attempt.
    Attempt,
    /// It costs nothing.
    Nothing,
}

/// The state as metrics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// Dispatches go ahead.
    Closed,
    /// A few go ahead.
    HalfOpen,
    /// None do.
    Open,
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// Raised at every change of the state.
    generation: u64,
    /// Openings in a row: each doubles the open time.
    row: u32,
    openings: u64,
    random: u64,
}

#[derive(Debug)]
enum State {
    Closed { since: Duration, counts: Counts },
    Open { until: Duration },
    HalfOpen { given: u32, passed: u32, failed: u32 },
}

impl Breaker {
    /// A closed breaker. `seed` is what its jitter comes from.
    pub fn new(settings: BreakerSettings, seed: u64) -> Self {
        let state = State::Closed { since: Duration::ZERO, counts: Counts::new(settings.window) };
        Self { settings, state, generation: 0, row: 0, openings: 0, random: seed }
    }

    /// The state.
    pub fn stance(&self) -> Stance {
        match self.state {
            State::Closed { .. } => Stance::Closed,
            State::Open { .. } => Stance::Open,
            State::HalfOpen { .. } => Stance::HalfOpen,
        }
    }

    /// How often it has opened.
    pub fn openings(&self) -> u64 {
        self.openings
    }

    /// Asks for leave to dispatch.
    pub fn ask(&mut self, now: Duration) -> Answer {
        if let State::Open { until } = self.state {
            if now < until {
                return Answer::NotBefore(until);
            }
            self.change(State::HalfOpen { given: 0, passed: 0, failed: 0 });
        }
        let is_probe = match &mut self.state {
            State::Closed { .. } => false,
            State::HalfOpen { given, .. } if *given < self.settings.probes => {
                *given += 1;
                true
            }
            State::HalfOpen { .. } | State::Open { .. } => return Answer::NotNow,
        };
        Answer::Go(Ticket { generation: self.generation, is_probe })
    }

    /// A dispatch that was allowed was not made.
    pub fn give_back(&mut self, ticket: Ticket) {
        if let State::HalfOpen { given, .. } = &mut self.state
            && ticket.generation == self.generation
        {
            *given -= 1;
        }
    }

    /// A dispatch has ended. The answer matters only where it failed.
    pub fn end(&mut self, ticket: Ticket, sign: Sign, now: Duration) -> Charge {
        if ticket.generation != self.generation {
            return Charge::Nothing;
        }
        let BreakerSettings { dispatches_min, failure_percent, probes, .. } = self.settings;
        let is_much = |failed: u32, of: u32| u64::from(failed) * 100 >= u64::from(failure_percent) * u64::from(of);
        match (&mut self.state, sign) {
            (State::Closed { .. }, Sign::Answers) => Charge::Attempt,
            (State::Closed { counts, .. }, Sign::Works) => {
                counts.add(now, 1, 0);
                Charge::Attempt
            }
            (State::Closed { since, counts }, Sign::Fails) => {
                counts.add(now, 0, 1);
                let (worked, failed) = counts.sum(now);
                if worked + failed < dispatches_min || !is_much(failed, worked + failed) {
                    return Charge::Attempt;
                }
                // A sink that passes its probes and then fails under load is not asked as often as one that just fell.
                let relapsed = self.openings > 0 && now.saturating_sub(*since) < self.settings.window;
                self.row = if relapsed { self.row + 1 } else { 0 };
                self.open(now);
                Charge::Nothing
            }
            (State::HalfOpen { passed, failed, .. }, sign) => {
                match sign {
                    Sign::Fails => *failed += 1,
                    // Whoever answers about an event or about its load is there.
                    Sign::Works | Sign::Answers => *passed += 1,
                }
                if is_much(*failed, probes) {
                    self.row += 1;
                    self.open(now);
                } else if !is_much(probes - *passed, probes) {
                    self.change(State::Closed { since: now, counts: Counts::new(self.settings.window) });
                }
                Charge::Nothing
            }
            // It gives no tickets, so none of its generation comes back.
            (State::Open { .. }, _) => Charge::Nothing,
        }
    }

    fn open(&mut self, now: Duration) {
        let BreakerSettings { open_first, open_max, .. } = self.settings;
        let doubled = 2_u32.checked_pow(self.row).and_then(|factor| open_first.checked_mul(factor));
        let long = doubled.map_or(open_max, |doubled| doubled.min(open_max));
        self.openings += 1;
        let until = now + long.mul_f64(1.0 - JITTER * self.fraction());
        self.change(State::Open { until });
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    /// The next number of a sequence, from 0 to below 1 (SplitMix64).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).expect("the upper half of 64 bits");
        f64::from(high) / 4_294_967_296.0
    }
}

/// Results of the last window.
#[derive(Debug)]
struct Counts {
    part: Duration,
    /// By the number of the part modulo their count: that number, what worked, what failed.
    parts: [(u64, u32, u32); PARTS],
}

impl Counts {
    fn new(window: Duration) -> Self {
        let part = (window / u32::try_from(PARTS).expect("a small number")).max(Duration::from_nanos(1));
        Self { part, parts: [(0, 0, 0); PARTS] }
    }

    fn number(&self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.part.as_nanos()).unwrap_or(u64::MAX)
    }

    fn add(&mut self, now: Duration, worked: u32, failed: u32) {
        let number = self.number(now);
        let at = usize::try_from(number % PARTS as u64).expect("less than the number of parts");
        let part = &mut self.parts[at];
        if part.0 != number {
            *part = (number, 0, 0);
        }
        part.1 = part.1.saturating_add(worked);
        part.2 = part.2.saturating_add(failed);
    }

    fn sum(&self, now: Duration) -> (u32, u32) {
        let number = self.number(now);
        let recent = self.parts.iter().filter(|part| number.saturating_sub(part.0) < PARTS as u64);
        recent.fold((0, 0), |(worked, failed), part| (worked.saturating_add(part.1), failed.saturating_add(part.2)))
    }
}

#[cfg(test)]
mod tests;
