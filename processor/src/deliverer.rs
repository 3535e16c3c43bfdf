//! The deliverer: hands each event to one sink, once. The same code runs on `events` and on the retry lanes.
//!
//! A failed dispatch is parked in a retry lane, an event that a sink refuses or that used up its attempts goes to `dead`;
//! the offset completes when one of these is acknowledged. A dispatch waits before the sink's [`Gate`], holding its permit:
//! while the sink is down records stay where they are, and lag grows instead of retry traffic.

use std::sync::Arc;
use std::time::Duration;

use common::id::{KeyedId, SinkId, placement};
use common::kafka::consumer::Incoming;
use common::record::{Head, Reason, Retry};
use common::spans::Kind;
use common::topics::Topic;
use sha2::{Digest, Sha256};

use crate::control::{self, Control};
use crate::core::breaker::{Charge, Sign};
use crate::core::concurrency::Load;
use crate::core::partition::DedupKey;
use crate::core::schedule::{Next, Park, Schedule};
use crate::engine::{Inspected, Lane, Turn, Work};
use crate::gate::{Gate, Pass};
use crate::journal::{self, Point};
use crate::metrics::{self, DeliveryAge, RetryLateness};
use crate::outcome::Outcome;
use crate::pipeline::{HandOff, Item, Pipeline};
use crate::sink::{Event, Refusal, Sink};

/// The work of the deliverer of one sink.
pub struct Deliverer {
    /// What all share.
    pub pipeline: Arc<Pipeline>,
    /// The sink's name.
    pub sink_id: SinkId,
    /// The sink.
    pub sink: Arc<Sink>,
    /// Who may be dispatched to it, and when: one for all its lanes.
    pub gate: Arc<Gate>,
    /// When to try again.
    pub schedule: Schedule,
    /// How old its events are when it has them.
    pub age: DeliveryAge,
    /// How late its retries are.
    pub lateness: RetryLateness,
    /// The oldest record that is delivered, in milliseconds between ingest and `events`.
    pub age_max_ms: u64,
}

impl Work for Deliverer {
    type Item = Item;
    type Pass = Step;

    fn inspect(&self, lane: &Lane, record: &Incoming<'_>) -> Inspected<Item> {
        let keys = self.pipeline.keys.load();
        let mut item = Item::read(&keys.core, &lane.topic, record);
        let key = item.head.as_ref().ok().and_then(|head| dedup_key(&lane.topic, head));
        match (&item.head, key) {
            (Ok(head), Some(key)) if !keys.sources.feeds(&head.source, &self.sink_id) => Inspected::Pass { key },
            (Ok(_), None) => {
                // The MAC is right, but what this lane needs is not there: written by another version, or by hand.
                item.head = Err(Reason::BadMac);
                Inspected::Run { key: None, item }
            }
            (Ok(_) | Err(_), key) => Inspected::Run { key, item },
        }
    }

    async fn pass(&self, item: &Item) -> Step {
        match &item.head {
            Err(reason) => Step::Bury(*reason),
            Ok(head) => match self.rest(head) {
                Some(park) => Step::Wait(park),
                None => Step::Dispatch(self.gate.pass().await),
            },
        }
    }

    async fn run(&self, turn: Turn, item: Item, step: Step) -> Option<Outcome> {
        let end = match step {
            Step::Bury(reason) => Err(reason.into()),
            Step::Wait(park) => self.wait_on(&turn, &item, park),
            Step::Dispatch(pass) => self.dispatch(&turn, &item, pass).await,
        };
        match end {
            Ok(()) => Some(Outcome::Delivered),
            Err(End::Dead { reason, status }) => {
                let letter = Item { head: self.letter_head(&turn, &item, reason), value: item.value.clone() };
                let buried = self.pipeline.bury(&turn, &letter, reason, status).await;
                journal::pass(Point::AfterBuryAck);
                buried
            }
            Err(End::Park { head, topic }) => {
                let headers = self.pipeline.keys().core.seal(&topic, &head, &item.value);
                let key = head.identity.map(|identity| identity.id.0);
                let record = HandOff {
                    topic: &topic,
                    // The same place in every lane: a hand-off repeated by a crash meets itself.
                    partition: Some(turn.partition()),
                    key: key.as_ref().map(|key| &key[..]),
                    headers,
                    value: &item.value,
                };
                self.pipeline.hand_off(&turn, record).await?;
                journal::pass(Point::AfterParkAck);
                Some(Outcome::Parked)
            }
        }
    }
}

/// What a run does with its record.
pub enum Step {
    /// The sink may have it now.
    Dispatch(Pass),
    /// Its lane is over, and it is not due.
    Wait(Park),
    /// It is not to be trusted.
    Bury(Reason),
}

/// How a run goes on that delivers nothing.
enum End {
    Dead { reason: Reason, status: Option<u16> },
    Park { head: Box<Head>, topic: Topic },
}

impl From<Reason> for End {
    fn from(reason: Reason) -> Self {
        Self::Dead { reason, status: None }
    }
}

impl Deliverer {
    /// Where a record waits on that came to the end of its lane before it is due.
    fn rest(&self, head: &Head) -> Option<Park> {
        let due_ms = head.retry.as_ref().and_then(|retry| retry.due_ms);
        self.schedule.rest(due_ms, self.pipeline.clock.unix_ms())
    }

    async fn dispatch(&self, turn: &Turn, item: &Item, pass: Pass) -> Result<(), End> {
        let head = item.head.as_ref().map_err(|reason| *reason)?;
        let identity = head.identity.ok_or(Reason::BadMac)?;
        // What was redriven begins anew: it may have waited in `dead` for longer than anything may be on its way.
        let since_ms = head.redriven_ms.unwrap_or(head.received_ms);
        if head.retry.is_none() && turn.time_ms().saturating_sub(since_ms) > self.age_max_ms {
            return Err(Reason::TooOld.into());
        }
        let keys = self.pipeline.keys();
        let (unsealed, description) = keys.sources.unseal_described(head, &item.value)?;
        if placement(&head.source, &unsealed.id, self.pipeline.partitions) != turn.partition() {
            return Err(Reason::Misplaced.into());
        }
        // Each dispatch is a span of its own, below the one that put the record into events.
        let mut span = self.pipeline.span("deliver", Kind::Client, turn, head);
        let attempt = head.retry.as_ref().map_or(0, |retry| retry.attempt).saturating_add(1);
        if let Some(span) = &mut span {
            span.text("sealstream.sink", self.sink_id.as_str());
            span.text("sealstream.event", identity.id.to_string());
            span.number("sealstream.attempt", attempt);
        }
        let traceparent = span.as_ref().map(|span| span.context().to_string().into());
        let event = Event {
            webhook_id: identity.id.webhook_id(),
            id: unsealed.id,
            source: head.source.clone(),
            description,
            traceparent: traceparent.or_else(|| head.traceparent.clone()),
            payload: unsealed.payload,
        };
        if let Some(retry) = &head.retry {
            // Never before either: it waited for its lane, and for what the sink asked for.
            let due_ms = turn.due_ms().max(retry.due_ms.unwrap_or(0));
            self.lateness.note(self.pipeline.clock.unix_ms().saturating_sub(due_ms));
        }
        let answer = self.sink.deliver(&event).await;
        if let (Some(mut span), Err(refusal)) = (span, &answer) {
            span.fail(refusal.kind());
        }
        journal::answered(turn, head, identity.id, &answer);
        journal::pass(Point::AfterSinkAnswer);
        let refusal = match answer {
            Ok(()) => {
                pass.end(Sign::Works, Load::Borne);
                let first_ms = head.retry.as_ref().map_or(turn.time_ms(), |retry| retry.first_seen_ms);
                self.age.note(self.pipeline.clock.unix_ms().saturating_sub(first_ms));
                tracing::trace!(
                    source = %head.source, sink = %self.sink_id, topic = turn.origin().role, partition = turn.partition(),
                    offset = turn.offset(), attempt, id = %identity.id, "delivered"
                );
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        let charge = pass.end(refusal.sign(), refusal.load());
        metrics::failed(self.sink_id.as_str(), &refusal);
        tracing::debug!(
            source = %head.source, sink = %self.sink_id, topic = turn.origin().role, partition = turn.partition(),
            offset = turn.offset(), attempt, id = %identity.id, %refusal, ?charge, "dispatch failed"
        );
        match refusal {
            Refusal::Permanent { status } => Err(End::Dead { reason: Reason::Refused, status: Some(status) }),
            Refusal::Status { status, retry_after } => Err(self.failed(turn, head, charge, Some(status), retry_after)),
            Refusal::Timeout | Refusal::Transport(_) | Refusal::Overload(_) => {
                Err(self.failed(turn, head, charge, None, None))
            }
        }
    }

    /// What was done for this sink before this run.
    fn before(&self, turn: &Turn, head: &Head) -> Retry {
        head.retry.clone().unwrap_or_else(|| Retry {
            sink: self.sink_id.clone(),
            first_seen_ms: turn.time_ms(),
            redrive: 0,
            attempt: 0,
            hop: 0,
            due_ms: None,
        })
    }

    /// A letter's head: it names the sink, and counts the dispatch that was the last.
    fn letter_head(&self, turn: &Turn, item: &Item, reason: Reason) -> Result<Head, Reason> {
        let head = item.head.as_ref().map_err(|reason| *reason)?;
        let before = self.before(turn, head);
        let attempt = before.attempt + u32::from(matches!(reason, Reason::Refused | Reason::Exhausted));
        Ok(Head { retry: Some(Retry { attempt, due_ms: None, ..before }), ..head.clone() })
    }

    /// What becomes of an event whose dispatch failed, and may be tried again.
    fn failed(&self, turn: &Turn, head: &Head, charge: Charge, status: Option<u16>, asked: Option<Duration>) -> End {
        let before = self.before(turn, head);
        let now_ms = self.pipeline.clock.unix_ms();
        match charge {
            // The sink was what failed: the event goes to the end of the queue, and no nearer to `dead`.
            Charge::Nothing => self.hop(head, before, self.schedule.again(asked, now_ms)),
            Charge::Attempt => match self.schedule.after(before.attempt + 1, asked, now_ms) {
                Next::Exhausted => End::Dead { reason: Reason::Exhausted, status },
                Next::Park(park) => self.park(head, Retry { attempt: before.attempt + 1, hop: 0, ..before }, park),
            },
        }
    }

    fn wait_on(&self, turn: &Turn, item: &Item, park: Park) -> Result<(), End> {
        let head = item.head.as_ref().map_err(|reason| *reason)?;
        Err(self.hop(head, self.before(turn, head), park))
    }

    /// Parks once more for the same attempt.
    fn hop(&self, head: &Head, before: Retry, park: Park) -> End {
        self.park(head, Retry { hop: before.hop.saturating_add(1), ..before }, park)
    }

    fn park(&self, head: &Head, retry: Retry, park: Park) -> End {
        let retry = Retry { due_ms: park.due_ms, ..retry };
        let head = Head { retry: Some(retry), ..head.clone() };
        End::Park { head: Box::new(head), topic: Topic::Retry { sink: self.sink_id.clone(), delay: park.delay } }
    }
}

/// What a record of a lane is known by. In `events` that is its id; in a retry lane the id together with how it came
/// there, so that each park is an event of its own and a hand-off repeated by a crash is not.
pub fn dedup_key(topic: &Topic, head: &Head) -> Option<DedupKey> {
    let identity = head.identity?;
    match (topic, &head.retry) {
        (Topic::Events, None) => Some(DedupKey { id: identity.id, previous: identity.previous }),
        (Topic::Retry { sink, .. }, Some(retry)) if retry.sink == *sink => {
            let mut hash = Sha256::new();
            hash.update(identity.id.0);
            // An event that comes again after the window is another, though the first may have been parked within it.
            hash.update(retry.first_seen_ms.to_be_bytes());
            let numbers = [retry.redrive, retry.attempt, retry.hop];
            for number in numbers.iter().filter(|_| !control::is(Control::NoAttemptInKey)) {
                hash.update(number.to_be_bytes());
            }
            hash.update(retry.sink.as_str());
            let hash = hash.finalize();
            let id = KeyedId::try_from(&hash[..KeyedId::LEN]).expect("a hash is longer than an id");
            Some(DedupKey { id, previous: None })
        }
        (Topic::Inbox | Topic::Events | Topic::Retry { .. } | Topic::Dead, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use common::record::Identity;
    use common::topics::Delay;

    use super::*;

    fn parked(first_seen_ms: u64, attempt: u32) -> Head {
        let sink: SinkId = "main".parse().unwrap();
        Head {
            source: "acme".parse().unwrap(),
            received_ms: 1,
            timestamp: "1".into(),
            traceparent: None,
            identity: Some(Identity { id: KeyedId([7; 16]), previous: None }),
            retry: Some(Retry { sink, first_seen_ms, redrive: 0, attempt, hop: 0, due_ms: None }),
            redriven_ms: None,
        }
    }

    fn key(head: &Head) -> DedupKey {
        let delay: Delay = "10s".parse().unwrap();
        dedup_key(&Topic::Retry { sink: "main".parse().unwrap(), delay }, head).unwrap()
    }

    #[test]
    fn a_retry_lane_knows_a_hand_off_repeated_by_a_crash_and_nothing_else() {
        let first = key(&parked(1000, 1));
        assert_eq!(first, key(&parked(1000, 1)), "the same record of events, handed off again");
        assert_ne!(first, key(&parked(1000, 2)), "the next attempt");
        assert_ne!(first, key(&parked(90_000_000, 1)), "another event of that id, after the window");
    }
}
