//! How many dispatches to one sink are under way at once: as many as it bears.
//!
//! A sink that answers is given one more at a time until something says that it is too much; then it is given half.
//! That is additive increase and multiplicative decrease, as TCP does it: it settles just below what the sink bears, and
//! several processors that share a sink come to share it evenly.
//!
//! Invariants:
//! * The limit lies within `1..=max`.
//! * One overload halves it once: of what was under way together, all may fail together. So a failure counts only if its
//!   dispatch began after the last decrease.
//! * It rises only while it is what holds dispatches back: an idle sink proves nothing.

use std::time::Duration;

/// Rounds that the limit takes from nothing to its maximum: a round is as many answers as there are dispatches at once.
const ROUNDS: f64 = 64.0;

/// What a dispatch says about the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The sink took it.
    Borne,
    /// Nothing: it failed for another reason.
    Unknown,
    /// It was too much.
    TooMuch,
}

/// See the module.
#[derive(Debug)]
pub struct Concurrency {
    max: f64,
    limit: f64,
    under_way: usize,
    decreased: Duration,
}

impl Concurrency {
    /// A limit that starts at its maximum: a sink is taken for able to bear what was configured until it says otherwise.
    pub fn new(max: usize) -> Self {
        let max = u32::try_from(max.max(1)).unwrap_or(u32::MAX).into();
        Self { max, limit: max, under_way: 0, decreased: Duration::ZERO }
    }

    /// The present limit.
    pub fn limit(&self) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies within 1..=max")]
        let whole = self.limit as usize;
        whole
    }

    /// Whether another dispatch may begin.
    pub fn has_room(&self) -> bool {
        self.under_way < self.limit()
    }

    /// A dispatch begins.
    pub fn begin(&mut self) {
        self.under_way += 1;
    }

    /// A dispatch that began at `began` has ended.
    pub fn end(&mut self, began: Duration, load: Load, now: Duration) {
        let in_use = self.under_way * 2 >= self.limit();
        self.under_way -= 1;
        match load {
            Load::Borne if in_use => {
                let step = (self.max / ROUNDS).max(1.0);
                self.limit = (self.limit + step / self.limit).min(self.max);
            }
            Load::TooMuch if began >= self.decreased => {
                self.limit = (self.limit / 2.0).max(1.0);
                self.decreased = now;
            }
            Load::Borne | Load::TooMuch | Load::Unknown => {}
        }
    }

    /// A dispatch that was begun was not made.
    pub fn give_back(&mut self) {
        self.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// As many dispatches as there is room for, from `began` to `ended`.
    fn round(concurrency: &mut Concurrency, load: Load, began: Duration, ended: Duration) -> usize {
        let mut count = 0;
        while concurrency.has_room() {
            concurrency.begin();
            count += 1;
        }
        (0..count).for_each(|_| concurrency.end(began, load, ended));
        count
    }

    #[test]
    fn overload_halves_it_once_for_all_that_was_under_way() {
        let mut concurrency = Concurrency::new(64);
        for (n, expected) in [64, 32, 16, 8, 4, 2, 1, 1, 1].into_iter().enumerate() {
            assert_eq!(concurrency.limit(), expected);
            let began = ms(n as u64 * 100);
            assert_eq!(round(&mut concurrency, Load::TooMuch, began + ms(1), began + ms(50)), expected);
        }
    }

    #[test]
    fn a_failure_of_before_the_last_decrease_is_known_already() {
        let mut concurrency = Concurrency::new(64);
        (0..3).for_each(|_| concurrency.begin());
        concurrency.end(ms(10), Load::TooMuch, ms(100));
        concurrency.end(ms(99), Load::TooMuch, ms(200));
        assert_eq!(concurrency.limit(), 32);
        concurrency.end(ms(100), Load::TooMuch, ms(201));
        assert_eq!(concurrency.limit(), 16);
    }

    /// As many answers as there is room for, of a sink that is kept busy all the time.
    fn busy_round(concurrency: &mut Concurrency) {
        for _ in 0..concurrency.limit() {
            while concurrency.has_room() {
                concurrency.begin();
            }
            concurrency.end(ms(1000), Load::Borne, ms(1001));
        }
        (0..concurrency.under_way).for_each(|_| concurrency.give_back());
    }

    /// One that has been halved down to 1.
    fn least(max: usize) -> Concurrency {
        let mut concurrency = Concurrency::new(max);
        (0..20).for_each(|n| {
            round(&mut concurrency, Load::TooMuch, ms(n), ms(n));
        });
        assert_eq!(concurrency.limit(), 1);
        concurrency
    }

    #[test]
    fn it_rises_by_one_a_round_up_to_its_maximum() {
        let mut concurrency = least(64);
        for _ in 0..70 {
            let before = concurrency.limit();
            busy_round(&mut concurrency);
            assert!((before..=before + 1).contains(&concurrency.limit()), "{before}, then {}", concurrency.limit());
        }
        assert_eq!(concurrency.limit(), 64, "and no further");
    }

    #[test]
    fn a_wide_one_rises_in_as_many_rounds() {
        let mut concurrency = least(8192);
        let rounds = (1..100).find(|_| {
            busy_round(&mut concurrency);
            concurrency.limit() == 8192
        });
        assert!(rounds.is_some_and(|rounds| (50..=70).contains(&rounds)), "{rounds:?}");
    }

    #[test]
    fn an_idle_sink_and_one_that_is_wrong_otherwise_change_nothing() {
        let mut concurrency = Concurrency::new(64);
        round(&mut concurrency, Load::TooMuch, ms(1), ms(2));
        for _ in 0..1000 {
            concurrency.begin();
            concurrency.end(ms(10), Load::Borne, ms(11));
        }
        assert_eq!(concurrency.limit(), 32, "one at a time shows nothing about thirty-three");
        round(&mut concurrency, Load::Unknown, ms(20), ms(21));
        assert_eq!(concurrency.limit(), 32);
    }

    #[test]
    fn what_was_not_made_leaves_its_room() {
        let mut concurrency = Concurrency::new(1);
        concurrency.begin();
        assert!(!concurrency.has_room());
        concurrency.give_back();
        assert!(concurrency.has_room());
        assert_eq!(Concurrency::new(0).limit(), 1, "never none");
    }
}
