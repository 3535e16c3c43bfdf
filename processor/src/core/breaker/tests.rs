use super::*;

const SETTINGS: BreakerSettings = BreakerSettings {
    window: Duration::from_secs(60),
    dispatches_min: 10,
    failure_percent: 50,
    open_first: Duration::from_secs(5),
    open_max: Duration::from_secs(60),
    probes: 3,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn breaker() -> Breaker {
    Breaker::new(SETTINGS, 7)
}

fn go(breaker: &mut Breaker, now: Duration) -> Ticket {
    match breaker.ask(now) {
        Answer::Go(ticket) => ticket,
        other @ (Answer::NotBefore(_) | Answer::NotNow) => panic!("{other:?} at {now:?}"),
    }
}

fn dispatch(breaker: &mut Breaker, sign: Sign, now: Duration) -> Charge {
    let ticket = go(breaker, now);
    breaker.end(ticket, sign, now)
}

fn until(breaker: &mut Breaker, now: Duration) -> Duration {
    match breaker.ask(now) {
        Answer::NotBefore(until) => until,
        other @ (Answer::Go(_) | Answer::NotNow) => panic!("{other:?} at {now:?}"),
    }
}

/// Opens it at `now`, and tells when that is over.
fn open(breaker: &mut Breaker, now: Duration) -> Duration {
    while breaker.stance() == Stance::Closed {
        dispatch(breaker, Sign::Fails, now);
    }
    until(breaker, now)
}

#[test]
fn opens_on_the_least_number_of_results_and_no_sooner() {
    let mut breaker = breaker();
    for _ in 0..9 {
        assert_eq!(dispatch(&mut breaker, Sign::Fails, s(1)), Charge::Attempt);
    }
    assert_eq!(breaker.stance(), Stance::Closed);
    assert_eq!(dispatch(&mut breaker, Sign::Fails, s(1)), Charge::Nothing, "the failure that opens it is free");
    assert_eq!((breaker.stance(), breaker.openings()), (Stance::Open, 1));
}

#[test]
fn opens_at_the_part_of_failures_and_not_below() {
    for (worked, failed, stance) in [(10, 10, Stance::Open), (11, 10, Stance::Closed), (5, 5, Stance::Open)] {
        let mut breaker = breaker();
        for _ in 0..worked {
            dispatch(&mut breaker, Sign::Works, s(1));
        }
        for _ in 0..failed {
            assert_eq!(breaker.stance(), Stance::Closed);
            dispatch(&mut breaker, Sign::Fails, s(1));
        }
        assert_eq!(breaker.stance(), stance, "{worked} worked, {failed} failed");
    }
}

#[test]
fn what_the_sink_says_of_an_event_or_its_load_opens_nothing_and_hides_nothing() {
    let mut breaker = breaker();
    for _ in 0..1000 {
        assert_eq!(dispatch(&mut breaker, Sign::Answers, s(1)), Charge::Attempt, "but costs its event an attempt");
    }
    for _ in 0..10 {
        assert_eq!(breaker.stance(), Stance::Closed);
        dispatch(&mut breaker, Sign::Fails, s(1));
    }
    assert_eq!(breaker.stance(), Stance::Open);
}

#[test]
fn failures_are_forgotten_after_the_window() {
    for (later, stance) in [(s(59), Stance::Open), (s(60), Stance::Closed)] {
        let mut breaker = breaker();
        for _ in 0..9 {
            dispatch(&mut breaker, Sign::Fails, Duration::ZERO);
        }
        dispatch(&mut breaker, Sign::Fails, later);
        assert_eq!(breaker.stance(), stance, "{later:?}");
    }
    // Its parts are used again and again, and each is emptied before.
    let mut breaker = breaker();
    for second in 0..1000 {
        dispatch(&mut breaker, Sign::Fails, s(second * 7));
        assert_eq!(breaker.stance(), Stance::Closed, "nine within any minute");
    }
}

#[test]
fn while_open_nothing_goes_until_its_time_is_over() {
    let mut breaker = breaker();
    let end = open(&mut breaker, s(1));
    assert!((s(5)..=s(6)).contains(&end), "first open time less jitter: {end:?}");
    assert_eq!(breaker.ask(end - ms(1)), Answer::NotBefore(end));
    assert!(go(&mut breaker, end).is_probe);
    assert_eq!(breaker.stance(), Stance::HalfOpen);
}

#[test]
fn half_open_lets_its_probes_go_and_no_more() {
    let mut breaker = breaker();
    let end = open(&mut breaker, s(1));
    let tickets = [(); 3].map(|()| go(&mut breaker, end));
    assert_eq!(breaker.ask(end), Answer::NotNow);
    breaker.give_back(tickets[0]);
    let again = go(&mut breaker, end);
    assert!(again.is_probe, "one that was not made");
    assert_eq!(breaker.ask(end), Answer::NotNow);
    // One that has come back is not followed by another before they have decided.
    assert_eq!(breaker.end(again, Sign::Fails, end), Charge::Nothing);
    assert_eq!(breaker.ask(end), Answer::NotNow);
}

#[test]
fn the_probes_decide_by_the_same_part_as_soon_as_they_can() {
    use Sign::{Answers, Fails, Works};
    let cases: [(&[Sign], Stance); 7] = [
        (&[Works], Stance::HalfOpen),
        (&[Works, Works], Stance::Closed),
        (&[Answers, Answers], Stance::Closed),
        (&[Fails], Stance::HalfOpen),
        (&[Fails, Fails], Stance::Open),
        (&[Fails, Works, Works], Stance::Closed),
        (&[Fails, Works, Fails], Stance::Open),
    ];
    for (signs, stance) in cases {
        let mut breaker = breaker();
        let end = open(&mut breaker, s(1));
        for sign in signs {
            assert_ne!(breaker.stance(), Stance::Closed);
            assert_eq!(dispatch(&mut breaker, *sign, end), Charge::Nothing, "a probe costs nothing");
        }
        assert_eq!(breaker.stance(), stance, "{signs:?}");
    }
}

#[test]
fn closing_forgets_what_was() {
    let mut breaker = breaker();
    let end = open(&mut breaker, s(1));
    for sign in [Sign::Fails, Sign::Works, Sign::Works] {
        dispatch(&mut breaker, sign, end);
    }
    for _ in 0..9 {
        assert_eq!(dispatch(&mut breaker, Sign::Fails, end), Charge::Attempt);
    }
    assert_eq!(breaker.stance(), Stance::Closed);
}

#[test]
fn what_began_before_a_change_counts_for_nothing_and_costs_nothing() {
    let mut breaker = breaker();
    let early = [(); 40].map(|()| go(&mut breaker, s(1)));
    let end = open(&mut breaker, s(1));
    assert_eq!(breaker.end(early[0], Sign::Fails, s(2)), Charge::Nothing, "open");
    let probe = go(&mut breaker, end);
    breaker.give_back(early[1]);
    assert_eq!(breaker.end(early[2], Sign::Fails, end), Charge::Nothing, "half-open");
    assert_eq!(breaker.end(early[3], Sign::Works, end), Charge::Nothing);
    let others = [go(&mut breaker, end), go(&mut breaker, end)];
    assert_eq!(breaker.ask(end), Answer::NotNow, "what was given back was no probe");
    breaker.end(probe, Sign::Works, end);
    assert_eq!(breaker.stance(), Stance::HalfOpen, "and what came late no result of one");
    breaker.end(others[0], Sign::Works, end);
    assert_eq!(breaker.stance(), Stance::Closed);
    assert_eq!(breaker.end(others[1], Sign::Fails, end), Charge::Nothing, "a probe that comes after the decision");
    for ticket in &early[4..] {
        assert_eq!(breaker.end(*ticket, Sign::Fails, end), Charge::Nothing, "closed again");
    }
    assert_eq!(breaker.stance(), Stance::Closed);
}

#[test]
fn the_open_time_doubles_up_to_its_limit_and_starts_again_after_a_good_window() {
    let mut breaker = breaker();
    let mut now = s(100);
    let mut end = open(&mut breaker, now);
    let within = |end: Duration, now: Duration, long: u64| {
        assert!(end - now <= s(long) && end - now >= s(long).mul_f64(0.8), "{:?}, not {long} s", end - now);
    };
    for long in [5, 10, 20, 40, 60, 60] {
        within(end, now, long);
        now = end;
        for _ in 0..2 {
            dispatch(&mut breaker, Sign::Fails, now);
        }
        end = until(&mut breaker, now);
    }
    for (good, long) in [(s(60) - ms(1), 60), (s(60), 5)] {
        for _ in 0..2 {
            dispatch(&mut breaker, Sign::Works, end);
        }
        assert_eq!(breaker.stance(), Stance::Closed);
        now = end + good;
        end = open(&mut breaker, now);
        within(end, now, long);
    }
}

#[test]
fn open_times_are_spread() {
    let ends: std::collections::BTreeSet<_> =
        (0..100).map(|seed| open(&mut Breaker::new(SETTINGS, seed), s(1))).collect();
    assert!(ends.len() > 90, "{} of 100", ends.len());
    assert!(ends.iter().next_back().unwrap().saturating_sub(*ends.first().unwrap()) > ms(700));
}

#[test]
fn however_many_openings_the_arithmetic_holds() {
    let settings = BreakerSettings { open_first: s(1), open_max: s(3600), ..SETTINGS };
    let mut breaker = Breaker::new(settings, 1);
    let mut end = open(&mut breaker, s(1));
    for _ in 0..100 {
        for _ in 0..2 {
            dispatch(&mut breaker, Sign::Fails, end);
        }
        end = until(&mut breaker, end);
    }
    assert_eq!(breaker.openings(), 101);
}

#[test]
fn one_event_that_is_always_refused_among_good_ones_keeps_nothing_open() {
    for probes in 1..=5 {
        let mut breaker = Breaker::new(BreakerSettings { probes, ..SETTINGS }, 3);
        let mut now = open(&mut breaker, s(1));
        // As its owner does it: first come, first served, and who fails goes to the end of the queue.
        let mut queue: std::collections::VecDeque<bool> = (0..8).map(|number| number == 0).collect();
        let mut rounds = 0;
        while breaker.stance() != Stance::Closed {
            rounds += 1;
            assert!(rounds <= 2, "{probes} probes: still not closed");
            while let Answer::Go(ticket) = breaker.ask(now) {
                let is_poison = queue.pop_front().unwrap();
                let sign = if is_poison { Sign::Fails } else { Sign::Works };
                breaker.end(ticket, sign, now);
                if is_poison {
                    queue.push_back(true);
                }
                if breaker.stance() == Stance::Closed {
                    break;
                }
            }
            now += s(120);
        }
        // From then on its failures cost it attempts, so it ends.
        assert_eq!(dispatch(&mut breaker, Sign::Fails, now), Charge::Attempt);
    }
}

#[test]
fn a_sink_that_is_down_costs_no_event_more_than_the_attempts_before_it_opened() {
    let mut breaker = breaker();
    let (mut charged, mut dispatches, mut now) = (0, 0, s(1));
    while now < s(24 * 3600) {
        match breaker.ask(now) {
            Answer::Go(ticket) => {
                dispatches += 1;
                charged += u32::from(breaker.end(ticket, Sign::Fails, now) == Charge::Attempt);
            }
            Answer::NotBefore(end) => now = end,
            Answer::NotNow => panic!("every probe has come back"),
        }
    }
    assert_eq!(charged, SETTINGS.dispatches_min - 1);
    let openings = u32::try_from(breaker.openings()).unwrap();
    assert_eq!(dispatches, SETTINGS.dispatches_min + 2 * (openings - 1), "two probes decide");
    assert!(openings < 24 * 3600 / 48 + 10, "{openings} openings in a day");

    // The control: without a breaker the same day costs as many attempts as there are dispatches.
    let mut never = Breaker::new(BreakerSettings { dispatches_min: u32::MAX, ..SETTINGS }, 7);
    let all = (0..1000).filter(|n| dispatch(&mut never, Sign::Fails, s(*n)) == Charge::Attempt).count();
    assert_eq!(all, 1000);
}
