//! The gate before one sink: who may dispatch now. Shared by the sink's groups, `events` and the retry lanes.
//!
//! It joins the pure [`Breaker`] and [`Concurrency`] to the runs that wait for them. Who waits is let through in the order
//! of arrival, and only the first in the queue is woken. So each probe of a half-open breaker is another event, and one
//! that fails goes to the end of the queue by way of a retry lane.
//!
//! Invariants: a [`Pass`] comes back, whatever becomes of its run; a run that is dropped while it waits leaves nothing
//! behind.

use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::id::SinkId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::breaker::{Answer, Breaker, BreakerSettings, Charge, Sign, Stance, Ticket};
use crate::core::concurrency::{Concurrency, Load};
use crate::metrics::GateMetrics;

/// See the module.
pub struct Gate {
    sink: SinkId,
    clock: Clock,
    state: Mutex<State>,
    /// Held by the first in the queue; it is fair.
    first: tokio::sync::Mutex<()>,
    /// Something has come back.
    changed: Notify,
    metrics: GateMetrics,
}

struct State {
    breaker: Breaker,
    concurrency: Concurrency,
}

/// Leave to dispatch one event.
pub struct Pass {
    gate: Arc<Gate>,
    ticket: Ticket,
    began: Duration,
    is_back: bool,
}

impl Gate {
    /// A gate that is open to so many at once.
    pub fn new(sink: SinkId, settings: BreakerSettings, concurrency: usize, clock: Clock, seed: u64) -> Arc<Self> {
        let metrics = GateMetrics::new(sink.as_str());
        let state = State { breaker: Breaker::new(settings, seed), concurrency: Concurrency::new(concurrency) };
        metrics.stance(state.breaker.stance());
        metrics.limit(state.concurrency.limit());
        Arc::new(Self {
            sink,
            clock,
            state: Mutex::new(state),
            first: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            metrics,
        })
    }

    /// Waits for leave to dispatch.
    pub async fn pass(self: &Arc<Self>) -> Pass {
        let _first = self.first.lock().await;
        loop {
            let not_before = match self.ask() {
                Ok(pass) => return pass,
                Err(not_before) => not_before,
            };
            let changed = self.changed.notified();
            match not_before {
                Some(time) => {
                    let wait = time.saturating_sub(self.clock.monotonic());
                    let _ = tokio::time::timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// A pass, or when to ask again besides when something has come back.
    fn ask(self: &Arc<Self>) -> Result<Pass, Option<Duration>> {
        let mut state = self.state.lock();
        if !state.concurrency.has_room() {
            return Err(None);
        }
        let began = self.clock.monotonic();
        let before = state.breaker.stance();
        let answer = state.breaker.ask(began);
        self.note(before, &state);
        match answer {
            Answer::Go(ticket) => {
                state.concurrency.begin();
                Ok(Pass { gate: self.clone(), ticket, began, is_back: false })
            }
            Answer::NotBefore(time) => Err(Some(time)),
            Answer::NotNow => Err(None),
        }
    }

    fn note(&self, before: Stance, state: &State) {
        let stance = state.breaker.stance();
        if stance == before {
            return;
        }
        self.metrics.stance(stance);
        let (sink, openings) = (&self.sink, state.breaker.openings());
        match (stance, before) {
            (Stance::Open, Stance::Closed | Stance::Open) => {
                tracing::warn!(%sink, openings, "too many dispatches fail: the sink's events wait");
            }
            (Stance::Open, Stance::HalfOpen) => tracing::info!(%sink, openings, "the sink still fails"),
            (Stance::HalfOpen, _) => tracing::debug!(%sink, "probing the sink"),
            (Stance::Closed, _) => tracing::info!(%sink, openings, "the sink works again"),
        }
        if stance == Stance::Open {
            self.metrics.opened();
        }
    }
}

impl Pass {
    /// The dispatch has ended: what it says about the sink, and about its load. Answers whether a failure costs an attempt.
    pub fn end(mut self, sign: Sign, load: Load) -> Charge {
        self.is_back = true;
        let gate = &self.gate;
        let mut state = gate.state.lock();
        let now = gate.clock.monotonic();
        let before = (state.breaker.stance(), state.concurrency.limit());
        let charge = state.breaker.end(self.ticket, sign, now);
        state.concurrency.end(self.began, load, now);
        gate.note(before.0, &state);
        let limit = state.concurrency.limit();
        if limit != before.1 {
            gate.metrics.limit(limit);
        }
        drop(state);
        if self.ticket.is_probe {
            gate.metrics.probed(sign);
        }
        gate.changed.notify_one();
        charge
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_back {
            let mut state = self.gate.state.lock();
            state.breaker.give_back(self.ticket);
            state.concurrency.give_back();
            drop(state);
            self.gate.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use common::clock::ManualClock;
    use common::telemetry::Metrics;

    use super::*;
    use crate::metrics;

    const SETTINGS: BreakerSettings = BreakerSettings {
        window: Duration::from_secs(60),
        dispatches_min: 2,
        failure_percent: 50,
        open_first: Duration::from_secs(5),
        open_max: Duration::from_secs(60),
        probes: 1,
    };

    fn gate(concurrency: usize) -> (Arc<Gate>, ManualClock, Metrics) {
        let (clock, hand) = Clock::manual(0);
        let metrics = Metrics::isolated();
        let sink = "main".parse().unwrap();
        let gate = metrics.scope(|| Gate::new(sink, SETTINGS, concurrency, clock, 1));
        (gate, hand, metrics)
    }

    type Waiting = std::pin::Pin<Box<dyn Future<Output = Pass>>>;

    fn waiting(gate: &Arc<Gate>) -> Waiting {
        let gate = gate.clone();
        Box::pin(async move { gate.pass().await })
    }

    /// What a waiting run has now.
    async fn look(waiting: &mut Waiting) -> Option<Pass> {
        std::future::poll_fn(|context| match waiting.as_mut().poll(context) {
            Poll::Ready(pass) => Poll::Ready(Some(pass)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn fail(gate: &Arc<Gate>) -> Charge {
        look(&mut waiting(gate)).await.expect("there is room").end(Sign::Fails, Load::Unknown)
    }

    #[tokio::test]
    async fn who_waits_goes_in_the_order_of_arrival() {
        let (gate, _, _) = gate(1);
        let pass = gate.pass().await;
        let mut queue = [(); 3].map(|()| waiting(&gate));
        for run in &mut queue {
            assert!(look(run).await.is_none());
        }
        pass.end(Sign::Works, Load::Borne);
        let [mut first, mut second, third] = queue;
        assert!(look(&mut second).await.is_none(), "the first is first");
        let pass = look(&mut first).await.expect("its turn");
        assert!(look(&mut second).await.is_none(), "one at a time");
        // One that leaves makes room, and one that leaves the queue is passed over.
        drop((first, third));
        drop(pass);
        assert!(look(&mut second).await.is_some());
    }

    #[tokio::test]
    async fn while_open_all_wait_and_then_one_probes() {
        let (gate, hand, metrics) = gate(64);
        let state = || metrics.value(metrics::BREAKER_STATE, &[("sink", "main")]);
        assert_eq!(fail(&gate).await, Charge::Attempt);
        assert_eq!(state(), 0.0);
        assert_eq!(fail(&gate).await, Charge::Nothing);
        assert_eq!((state(), metrics.value(metrics::BREAKER_OPENINGS, &[])), (2.0, 1.0));
        let mut queue = [(); 3].map(|()| waiting(&gate));
        for run in &mut queue {
            assert!(look(run).await.is_none());
        }
        let [mut first, mut second, mut third] = queue;
        hand.advance(Duration::from_secs(5));
        // As its timer does, which runs by another clock here.
        gate.changed.notify_one();
        let probe = look(&mut first).await.expect("the open time is over");
        assert!(look(&mut second).await.is_none(), "one probe");
        assert_eq!(state(), 1.0);
        // A probe that was never made is followed by another event's.
        drop(probe);
        let probe = look(&mut second).await.expect("another probe");
        assert_eq!(probe.end(Sign::Works, Load::Borne), Charge::Nothing);
        assert_eq!(state(), 0.0);
        assert!(look(&mut third).await.is_some());
        let probes = |result| metrics.value(metrics::BREAKER_PROBES, &[("sink", "main"), ("result", result)]);
        assert_eq!((probes("passed"), probes("failed")), (1.0, 0.0));
    }

    #[tokio::test]
    async fn the_first_in_the_queue_wakes_by_itself_when_the_open_time_is_over() {
        let short = Duration::from_millis(50);
        let settings = BreakerSettings { open_first: short, open_max: short, ..SETTINGS };
        let clock = Clock::system();
        let gate = Gate::new("main".parse().unwrap(), settings, 64, clock.clone(), 1);
        let began = clock.monotonic();
        fail(&gate).await;
        fail(&gate).await;
        let mut run = waiting(&gate);
        assert!(look(&mut run).await.is_none());
        tokio::time::timeout(Duration::from_secs(60), run)
            .await
            .expect("nobody else wakes it")
            .end(Sign::Works, Load::Borne);
        assert!(clock.monotonic() - began >= short.mul_f64(0.8), "{:?}", clock.monotonic() - began);
    }

    #[tokio::test]
    async fn overload_lowers_the_limit_and_the_metric_shows_it() {
        let (gate, hand, metrics) = gate(8);
        let limit = || metrics.value(metrics::CONCURRENCY_LIMIT, &[("sink", "main")]);
        assert_eq!(limit(), 8.0);
        hand.advance(Duration::from_secs(1));
        let pass = gate.pass().await;
        pass.end(Sign::Answers, Load::TooMuch);
        assert_eq!(limit(), 4.0);
        let passes = [gate.pass().await, gate.pass().await, gate.pass().await, gate.pass().await];
        assert!(look(&mut waiting(&gate)).await.is_none());
        drop(passes);
        assert!(look(&mut waiting(&gate)).await.is_some());
    }
}
