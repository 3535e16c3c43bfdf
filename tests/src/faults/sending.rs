//! The load: events of two sources with equal ids, some of them sent again, until it is told to stop.
//!
//! Most events are sealed, signed and given their edge MAC here and written to the inbox directly, as ingest would: a
//! whole run through TLS would measure our senders. A configured part goes through the real ingests, with the sender's own
//! retries. Every so often an event is sent a second time, sealed and signed anew: at once or much later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::envelope::Format;
use common::id::{EventId, IdKey, SourceId};
use common::kafka::producer::{Outgoing, Producer, ProducerSettings};
use common::record::{Head, RecordKeys};
use common::shutdown::Group;
use common::signature::TIMESTAMP_HEADER;
use common::topics::Topic;
use sender::Sender;

use super::journal;
use super::recorder::Recorder;
use crate::seed::Seed;
use crate::stack::Stack;

/// The sources: what one calls its event, the other calls one of its own.
pub const SOURCES: [&str; 2] = ["acme", "bolt"];

/// How long the last events may take when a load is stopped.
const STOP_DEADLINE: Duration = Duration::from_secs(180);
/// How long a worker waits before it looks again whether it may go on.
const PAUSE: Duration = Duration::from_millis(5);
/// How far back an event may lie that is sent again.
const REPEAT_BACK: u64 = 3000;

/// How much, and how.
#[derive(Debug, Clone, Copy)]
pub struct SendPlan {
    /// The number of the first event.
    pub first: u64,
    /// Events under way at once that are written to the inbox directly.
    pub direct: usize,
    /// Events under way at once through the ingests.
    pub through_ingest: usize,
    /// Every how many events one is sent again.
    pub repeat_every: u64,
    /// How many events the sink may be behind before the load waits for it.
    pub ahead: u64,
}

/// What makes and sends events of one stack.
pub struct Senders {
    direct: Vec<[Sender; 2]>,
    through_ingest: Vec<Vec<Sender>>,
    producer: Producer,
    inbox: String,
    edge: RecordKeys,
    id_key: IdKey,
    clock: Clock,
}

impl Senders {
    /// Senders of both sources, of both formats, at each ingest.
    pub fn new(stack: &Stack, ingests: usize) -> Result<Self> {
        let sender = |ingest: Option<usize>, source: &str, format| -> Result<Sender> {
            let config = match ingest {
                Some(ingest) => stack.sender_config(ingest, source, format)?,
                None => stack.sender_config_at("https://localhost/in", source, format)?,
            };
            Ok(Sender::new(config, stack.http_client(), Clock::system())?)
        };
        let both = |source: &str| -> Result<[Sender; 2]> {
            Ok([sender(None, source, Format::Native)?, sender(None, source, Format::Jwe)?])
        };
        let at_ingests = |source: &str| -> Result<Vec<Sender>> {
            let each = (0..ingests).flat_map(|ingest| [Format::Native, Format::Jwe].map(|format| (ingest, format)));
            each.map(|(ingest, format)| sender(Some(ingest), source, format)).collect()
        };
        Ok(Self {
            direct: SOURCES.iter().map(|source| both(source)).collect::<Result<_>>()?,
            through_ingest: SOURCES.iter().map(|source| at_ingests(source)).collect::<Result<_>>()?,
            producer: Producer::new(
                stack.kafka(),
                &ProducerSettings { linger: Duration::from_millis(5), ..ProducerSettings::default() },
            )?,
            inbox: stack.topic_name(&Topic::Inbox),
            edge: stack.materials().edge_keys()?,
            id_key: stack.materials().id_key()?,
            clock: Clock::system(),
        })
    }

    /// The keyed id of an event.
    pub fn id(&self, number: u64) -> journal::EventId {
        let (source, event) = identity(number);
        let source: SourceId = SOURCES[source].parse().expect("a source's name");
        u128::from_be_bytes(self.id_key.keyed_id(&source, &event).0)
    }

    /// Writes an event to the inbox, again and again until it is acknowledged.
    pub(crate) async fn write(&self, number: u64, format: usize) -> Result<()> {
        let (source, event) = identity(number);
        let signed = self.direct[source][format].prepare(&event, payload(&event).as_bytes())?;
        let timestamp = signed.headers.get(TIMESTAMP_HEADER).and_then(|text| text.to_str().ok());
        let head = Head {
            source: SOURCES[source].parse()?,
            received_ms: self.clock.unix_ms(),
            timestamp: timestamp.context("a signed event has a timestamp")?.into(),
            traceparent: None,
            identity: None,
            retry: None,
            redriven_ms: None,
        };
        let headers = self.edge.seal(&Topic::Inbox, &head, &signed.body);
        loop {
            let record = Outgoing { topic: &self.inbox, partition: None, key: None, value: &signed.body };
            let written = match self.producer.send(record, headers.iter()) {
                Ok(delivery) => delivery.await.is_ok(),
                Err(_) => false,
            };
            if written {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends an event to an ingest, with the sender's own retries.
    async fn send(&self, number: u64, choice: usize) -> Result<()> {
        let (source, event) = identity(number);
        let senders = &self.through_ingest[source];
        senders[choice % senders.len()].send(&event, payload(&event).as_bytes()).await?;
        Ok(())
    }
}

fn identity(number: u64) -> (usize, EventId) {
    let event = EventId::new(format!("evt-{}", number / 2)).expect("a short id");
    (usize::try_from(number % 2).expect("one or none"), event)
}

fn payload(event: &EventId) -> String {
    format!(r#"{{"id":"{}","type":"order.paid"}}"#, event.as_str())
}

/// A load that is running.
pub struct Sending {
    shared: Arc<Shared>,
    group: Group,
}

struct Shared {
    senders: Arc<Senders>,
    plan: SendPlan,
    sink: Recorder,
    next: AtomicU64,
    acked: AtomicU64,
    repeats: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Sending {
    /// Starts it.
    pub fn start(senders: Arc<Senders>, plan: SendPlan, sink: Recorder, seed: &mut Seed) -> Self {
        let shared = Arc::new(Shared {
            senders,
            plan,
            sink,
            next: AtomicU64::new(plan.first),
            acked: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            trouble: Mutex::new(None),
        });
        let group = Group::new();
        for worker in 0..plan.direct + plan.through_ingest {
            group.spawn("sending", work(shared.clone(), group.clone(), worker >= plan.direct, seed.fork()));
        }
        Self { shared, group }
    }

    /// How many events were acknowledged.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::SeqCst)
    }

    /// Begins no further event, and waits for those under way. Answers one past the last event's number, all of which
    /// are acknowledged, and how many were sent again.
    pub async fn stop(self) -> Result<(u64, u64)> {
        self.group.cancel();
        if !self.group.wait(STOP_DEADLINE).await {
            bail!("the load's last events were not acknowledged within {} s", STOP_DEADLINE.as_secs());
        }
        if let Some(trouble) = self.shared.trouble.lock().expect("nothing panics while it notes trouble").take() {
            bail!("the load could not go on: {trouble}");
        }
        Ok((self.shared.next.load(Ordering::SeqCst), self.shared.repeats.load(Ordering::SeqCst)))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.group.cancel();
    }
}

async fn work(shared: Arc<Shared>, group: Group, through_ingest: bool, mut seed: Seed) {
    let token = group.token();
    let plan = shared.plan;
    while !token.is_cancelled() {
        let behind = shared.acked.load(Ordering::SeqCst).saturating_sub(shared.sink.events() as u64);
        if behind > plan.ahead {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let mut sent = shared.one(number, through_ingest, &mut seed).await;
        if sent.is_ok() {
            shared.acked.fetch_add(1, Ordering::SeqCst);
            if plan.repeat_every > 0 && number.is_multiple_of(plan.repeat_every) {
                // Itself at once, or one of long ago; by another way and in another envelope.
                let back = if seed.choose(2) == 0 { 0 } else { seed.within(0..=REPEAT_BACK) };
                let again = number.saturating_sub(back).max(plan.first);
                let has_ingests = plan.through_ingest > 0;
                sent = shared.one(again, has_ingests && !through_ingest, &mut seed).await;
                shared.repeats.fetch_add(1, Ordering::SeqCst);
            }
        }
        if let Err(error) = sent {
            *shared.trouble.lock().expect("nothing panics while it notes trouble") = Some(format!("{error:#}"));
            return;
        }
    }
}

impl Shared {
    async fn one(&self, number: u64, through_ingest: bool, seed: &mut Seed) -> Result<()> {
        if through_ingest {
            self.senders.send(number, seed.choose(1024)).await
        } else {
            self.senders.write(number, seed.choose(2)).await
        }
    }
}
