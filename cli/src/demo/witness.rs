//! What is seen of the events apart from the processor: at the HTTP sink, in the output topic, in the dead letters.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock::Clock;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{Incoming, ReadError, Reader};
use common::record::{Dead, RecordKeys};
use serde::Deserialize;

use super::plan::{FLAKY, FLAKY_FAILURES, event_of};
use crate::receiver::{Answer, Delivery};

/// How long the reading thread rests when there was nothing to read.
const REST: Duration = Duration::from_millis(20);

/// What was seen at one sink.
pub(super) struct Sightings {
    arrivals: Vec<AtomicU32>,
    /// When each arrived first, in microseconds of the monotonic clock; 0: not yet.
    first_us: Vec<AtomicU64>,
    events: AtomicU64,
}

impl Sightings {
    fn new(events: usize) -> Self {
        Self {
            arrivals: std::iter::repeat_with(AtomicU32::default).take(events).collect(),
            first_us: std::iter::repeat_with(AtomicU64::default).take(events).collect(),
            events: AtomicU64::new(0),
        }
    }

    fn see(&self, event: usize, now_us: u64) {
        let Some(arrivals) = self.arrivals.get(event) else { return };
        if arrivals.fetch_add(1, Ordering::SeqCst) == 0 {
            self.first_us[event].store(now_us.max(1), Ordering::SeqCst);
            self.events.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Different events seen.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::SeqCst)
    }

    /// How often each event was seen.
    pub(super) fn arrivals(&self) -> Vec<u32> {
        self.arrivals.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// When an event was first seen, in microseconds of the monotonic clock.
    pub(super) fn first_us(&self, event: usize) -> Option<u64> {
        Some(self.first_us.get(event)?.load(Ordering::SeqCst)).filter(|us| *us > 0)
    }
}

/// What was seen of everything.
pub(super) struct Witness {
    /// At the HTTP sink.
    pub(super) http: Sightings,
    /// In the output topic.
    pub(super) kafka: Sightings,
    /// Records of the output topic that were read.
    pub(super) outputs_read: AtomicU64,
    /// Dispatches that the HTTP sink put off.
    pub(super) put_off: AtomicU64,
    /// Whether deliveries are printed, as they are once events are sent by hand.
    pub(super) prints: AtomicBool,
    failures_left: AtomicU32,
    /// The number of one event that each `webhook-id` stood for.
    ids: Mutex<HashMap<Box<str>, usize>>,
    /// `webhook-id`s that stood for two events.
    ids_confused: AtomicU64,
    dead: Mutex<BTreeMap<String, u64>>,
    clock: Clock,
}

/// A payload, as far as it is read here.
#[derive(Deserialize)]
struct Payload<'a> {
    id: &'a str,
}

impl Witness {
    /// For events with the numbers below `events`.
    pub(super) fn new(events: usize, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            http: Sightings::new(events),
            kafka: Sightings::new(events),
            outputs_read: AtomicU64::new(0),
            put_off: AtomicU64::new(0),
            prints: AtomicBool::new(false),
            failures_left: AtomicU32::new(FLAKY_FAILURES),
            ids: Mutex::default(),
            ids_confused: AtomicU64::new(0),
            dead: Mutex::default(),
            clock,
        })
    }

    /// Judges a delivery to the HTTP sink.
    pub(super) fn judge(&self, delivery: &Delivery) -> Answer {
        let payload: Option<Payload<'_>> = serde_json::from_slice(&delivery.body).ok();
        let event = payload.and_then(|payload| event_of(payload.id));
        let fails = event == Some(FLAKY)
            && self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let answer = if fails { Answer::NotNow } else { Answer::Taken };
        if fails {
            self.put_off.fetch_add(1, Ordering::SeqCst);
        } else if let Some(event) = event {
            self.http.see(event, self.now_us());
            self.identify(&delivery.webhook_id, event);
        }
        if self.prints.load(Ordering::Relaxed) {
            crate::sink::print(delivery, answer);
        }
        answer
    }

    /// Takes note of a record of the output topic: a CloudEvent.
    fn output(&self, record: Incoming<'_>) {
        let header = |name: &str| {
            let value = record.headers().find(|(known, _)| *known == name).map(|(_, value)| value);
            value.and_then(|value| std::str::from_utf8(value).ok())
        };
        if let Some(event) = header("ce_id").and_then(event_of) {
            self.kafka.see(event, self.now_us());
            self.identify(header("ce_webhookid").unwrap_or_default(), event);
        }
        self.outputs_read.fetch_add(1, Ordering::SeqCst);
    }

    fn letter(&self, keys: &RecordKeys, record: Incoming<'_>) {
        let reason = match keys.open_dead(record.headers(), record.value()) {
            Ok(Dead::Letter { failure, .. }) => failure.reason.as_str(),
            // Nobody redrives here.
            Ok(Dead::Marker(_)) | Err(_) => "unverifiable",
        };
        *lock(&self.dead).entry(reason.to_owned()).or_default() += 1;
    }

    fn identify(&self, webhook_id: &str, event: usize) {
        let known = *lock(&self.ids).entry(webhook_id.into()).or_insert(event);
        if known != event {
            self.ids_confused.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Different `webhook-id`s seen. One that stood for two events counts twice, so that the books can't balance.
    pub(super) fn webhook_ids(&self) -> u64 {
        lock(&self.ids).len() as u64 + 2 * self.ids_confused.load(Ordering::SeqCst)
    }

    /// Dead letters, by reason.
    pub(super) fn dead(&self) -> BTreeMap<String, u64> {
        lock(&self.dead).clone()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is half done is left behind by a panic while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A topic that is read to its end, again and again.
pub(super) struct Tail {
    reader: Reader,
    topic: String,
    /// The next offset of each partition.
    next: Vec<i64>,
}

impl Tail {
    /// A topic with this many partitions, from its beginning.
    pub(super) fn new(kafka: &KafkaConfig, topic: String, partitions: u32) -> anyhow::Result<Self> {
        Ok(Self { reader: Reader::new(kafka)?, topic, next: (0..partitions).map(|_| 0).collect() })
    }

    /// Hands on what was added since the last time: how many records. Blocks.
    fn catch_up(&mut self, mut each: impl FnMut(Incoming<'_>)) -> Result<u64, ReadError> {
        let mut count = 0;
        for (partition, next) in (0..).zip(&mut self.next) {
            let (_, end) = self.reader.watermarks(&self.topic, partition)?;
            self.reader.read(&self.topic, partition, (*next, end), |record| {
                *next = record.offset() + 1;
                count += 1;
                each(record);
                ControlFlow::Continue(())
            })?;
        }
        Ok(count)
    }
}

/// Reads the output topic and the dead letters until it is told to stop and has read everything. Ends when it is dropped.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    reading: Option<tokio::task::JoinHandle<Result<(), ReadError>>>,
}

impl Watch {
    /// Starts reading.
    pub(super) fn start(witness: Arc<Witness>, mut outputs: Tail, mut dead: Tail, core_keys: RecordKeys) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reading = tokio::task::spawn_blocking(move || {
            loop {
                // Asked before it reads: what came before the wish to stop is read.
                let last = stopped.load(Ordering::SeqCst);
                let count = outputs.catch_up(|record| witness.output(record))?
                    + dead.catch_up(|record| witness.letter(&core_keys, record))?;
                match count {
                    0 if last => return Ok(()),
                    0 => std::thread::park_timeout(REST),
                    _ => {}
                }
            }
        });
        Self { stop, reading: Some(reading) }
    }

    /// Whether it ended by itself, which it does only by an error.
    pub(super) fn failed(&self) -> bool {
        self.reading.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }

    /// Reads the rest.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        match self.reading.take() {
            Some(reading) => Ok(reading.await??),
            None => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
