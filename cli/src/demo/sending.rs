//! The sender's side of the demonstration: makes each request as the plan says, over TLS on a few kept-alive connections,
//! and takes note of the answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use common::clock::Clock;
use common::envelope::Format;
use common::http_client::retry_after;
use common::secret::Secret;
use common::shutdown::Group;
use http::{Response, StatusCode};
use sender::{PrepareError, Sender, Signed};
use serde::Deserialize;
use tokio::sync::watch;

use super::plan::{Kind, STALE_S, event_id, format, payload};
use crate::sender_config::SenderConfig;

/// Clients, each with connections of its own: one connection carries so many requests at once and no more.
const CLIENTS: usize = 4;
/// Attempts of one request that ingest can't take now.
const ATTEMPTS_MAX: u32 = 20;
/// Longest pause between them.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Everything noted by the sender.
pub(super) struct Ledger {
    /// Requests sent.
    pub(super) sent: AtomicU64,
    /// Requests answered 200.
    pub(super) accepted: AtomicU64,
    /// Of those, the undecryptable.
    pub(super) accepted_undecryptable: AtomicU64,
    /// Different events answered 200, the undecryptable not among them.
    pub(super) accepted_events: AtomicU64,
    /// Requests that may have been accepted though they were not answered 200.
    pub(super) uncertain: AtomicU64,
    /// How often each event was answered 200.
    accepted_by_event: Vec<AtomicU32>,
    /// When each event was sent first, in microseconds of the monotonic clock.
    started_us: Vec<AtomicU64>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    refused: BTreeMap<String, u64>,
    ack_us: Vec<u64>,
}

impl Ledger {
    /// An empty one for this many requests.
    pub(super) fn new(requests: usize) -> Arc<Self> {
        Arc::new(Self {
            sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            accepted_undecryptable: AtomicU64::new(0),
            accepted_events: AtomicU64::new(0),
            uncertain: AtomicU64::new(0),
            accepted_by_event: std::iter::repeat_with(AtomicU32::default).take(requests).collect(),
            started_us: std::iter::repeat_with(AtomicU64::default).take(requests).collect(),
            notes: Mutex::default(),
        })
    }

    /// How often each event was answered 200.
    pub(super) fn accepted_by_event(&self) -> Vec<u32> {
        self.accepted_by_event.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// When an event was sent first.
    pub(super) fn started_us(&self, event: usize) -> u64 {
        self.started_us.get(event).map_or(0, |us| us.load(Ordering::SeqCst))
    }

    /// Refusals by code.
    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).refused.clone()
    }

    /// How long each 200 took, in microseconds.
    pub(super) fn ack_us(&self) -> Vec<u64> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).ack_us.clone()
    }

    fn accept(&self, kind: Kind, event: usize, took_us: u64) {
        let count = self.accepted_by_event[event].fetch_add(1, Ordering::SeqCst);
        match kind {
            Kind::Undecryptable => self.accepted_undecryptable.fetch_add(1, Ordering::SeqCst),
            Kind::Event | Kind::Repeat { .. } | Kind::Forged | Kind::Stale => {
                self.accepted_events.fetch_add(u64::from(count == 0), Ordering::SeqCst)
            }
        };
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).ack_us.push(took_us);
    }

    fn refuse(&self, code: String) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner).refused.entry(code).or_default() += 1;
    }
}

/// One client's senders.
struct Senders {
    native: Arc<Sender>,
    jwe: Arc<Sender>,
    /// Sign with a secret that ingest does not know.
    forging: Arc<Sender>,
    /// Seals with a key that the processor does not know.
    missealing: Arc<Sender>,
}

impl Senders {
    fn new(config: &SenderConfig, clock: &Clock) -> Result<Self> {
        let client = config.client()?;
        let with = |format, secret: Secret, key: Secret| {
            let config = SenderConfig { format, ..config.clone() };
            config.sender_with(client.clone(), clock.clone(), secret, &key)
        };
        let (secret, key) = (|| config.secret.load(), || config.key.file.load());
        Ok(Self {
            native: with(Format::Native, secret()?, key()?)?,
            jwe: with(Format::Jwe, secret()?, key()?)?,
            forging: with(Format::Native, unknown()?, key()?)?,
            missealing: with(Format::Native, secret()?, unknown()?)?,
        })
    }

    fn sealing(&self, number: usize) -> &Sender {
        match format(number) {
            Format::Native => &self.native,
            Format::Jwe => &self.jwe,
        }
    }

    /// Seals and signs one attempt.
    fn prepare(&self, clock: &Clock, number: usize, kind: Kind) -> Result<Signed, PrepareError> {
        let event = kind.event(number);
        let (id, payload) = (event_id(event), payload(event));
        let payload = payload.as_bytes();
        match kind {
            Kind::Event | Kind::Repeat { .. } => self.sealing(number).prepare(&id, payload),
            Kind::Forged => self.forging.prepare(&id, payload),
            Kind::Stale => self.sealing(number).prepare_at(clock.unix_s().saturating_sub(STALE_S), &id, payload),
            Kind::Undecryptable => self.missealing.prepare(&id, payload),
        }
    }
}

/// 32 bytes that nobody knows.
fn unknown() -> Result<Secret> {
    let mut bytes = vec![0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::from(bytes))
}

/// The sender's side.
pub(super) struct Sending {
    clients: Vec<Senders>,
    ledger: Arc<Ledger>,
    clock: Clock,
    next: AtomicUsize,
    until: AtomicUsize,
    /// Whether there is room for more.
    open: watch::Receiver<bool>,
}

impl Sending {
    /// Reads the sender's configuration and secrets. Requests are sent while `open` says true.
    pub(super) fn new(
        config: &SenderConfig,
        ledger: Arc<Ledger>,
        clock: Clock,
        open: watch::Receiver<bool>,
    ) -> Result<Arc<Self>> {
        let clients = (0..CLIENTS).map(|_| Senders::new(config, &clock)).collect::<Result<_>>()?;
        Ok(Arc::new(Self { clients, ledger, clock, next: AtomicUsize::new(0), until: AtomicUsize::new(0), open }))
    }

    /// Sends what is left of the requests with numbers below `until`, so many at once.
    pub(super) async fn send(self: &Arc<Self>, until: usize, at_once: usize) -> Result<()> {
        self.until.store(until, Ordering::SeqCst);
        let group = Group::new();
        let workers: Vec<_> =
            (0..at_once).map(|worker| group.spawn("demo_sender", self.clone().work(worker))).collect();
        for worker in workers {
            worker.await??;
        }
        Ok(())
    }

    async fn work(self: Arc<Self>, worker: usize) -> Result<()> {
        let mut open = self.open.clone();
        loop {
            // An error: nobody watches any more, so nobody waits for what would be sent.
            open.wait_for(|open| *open).await?;
            let taken = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| {
                (next < self.until.load(Ordering::SeqCst)).then_some(next + 1)
            });
            let Ok(number) = taken else { return Ok(()) };
            self.request(&self.clients[worker % CLIENTS], number).await?;
        }
    }

    /// Makes one request, and again while ingest can't take it.
    async fn request(&self, senders: &Senders, number: usize) -> Result<()> {
        let Self { ledger, clock, .. } = self;
        let kind = Kind::of(number);
        let event = kind.event(number);
        for attempt in 1..=ATTEMPTS_MAX {
            let started = clock.monotonic();
            let started_us = micros(started);
            // Of the first attempt only, and of the first copy.
            let _ = ledger.started_us[event].compare_exchange(0, started_us.max(1), Ordering::SeqCst, Ordering::SeqCst);
            let signed = senders.prepare(clock, number, kind)?;
            ledger.sent.fetch_add(1, Ordering::SeqCst);
            let (code, may_pass, asked) = match senders.native.exchange(signed).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    ledger.accept(kind, event, micros(clock.monotonic()) - started_us);
                    return Ok(());
                }
                Ok(answer) => {
                    let status = answer.status();
                    let may_pass = status.is_server_error()
                        || status == StatusCode::TOO_MANY_REQUESTS
                        || status == StatusCode::REQUEST_TIMEOUT;
                    ledger.uncertain.fetch_add(u64::from(status.is_server_error()), Ordering::SeqCst);
                    (code(&answer), may_pass, retry_after(answer.headers(), clock.unix_s()))
                }
                Err(error) => {
                    tracing::debug!(number, "no answer: {:#}", anyhow::Error::from(error));
                    ledger.uncertain.fetch_add(1, Ordering::SeqCst);
                    ("no_answer".to_owned(), true, None)
                }
            };
            ledger.refuse(code);
            if !may_pass {
                return Ok(());
            }
            let pause = asked.unwrap_or(Duration::from_millis(50) * attempt);
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The code of a refusal.
fn code(answer: &Response<Bytes>) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        code: String,
    }
    let refusal: Option<Refusal> = serde_json::from_slice(answer.body()).ok();
    refusal.map_or_else(|| format!("http_{}", answer.status().as_u16()), |refusal| refusal.code)
}
