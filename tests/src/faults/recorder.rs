//! An HTTP sink for long runs: it keeps how often each event had an effect, and nothing else of a request.
//!
//! How it behaves is its [`Temper`], which may change at any time. A request that it takes has its effect for one half of
//! them as soon as it is there, for the other half only when it is answered, and then never if its sender was gone by then:
//! the first half shows what is repeated, the second what is lost.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use common::clock::Clock;
use common::shutdown::Group;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::journal::{EventId, of_webhook_id};
use crate::seed::Seed;
use crate::serve::serve;
use crate::sink::verify;

/// How a sink behaves. Chances are per mille of the requests.
#[derive(Debug, Clone)]
pub struct Temper {
    /// How long an answer takes, in milliseconds.
    pub delay_ms: RangeInclusive<u64>,
    /// How many take `tail_ms` instead.
    pub tail: u64,
    /// How long those take.
    pub tail_ms: RangeInclusive<u64>,
    /// How many are answered 500: a fault, which says nothing about the load.
    pub fail: u64,
    /// How many are answered 503: too much, so that who sends goes slower.
    pub busy: u64,
    /// How many have their effect and are never answered.
    pub hang: u64,
    /// How many have their effect, and then the connection is cut.
    pub reset: u64,
    /// How many *events* are refused for good, in 10 000.
    pub refuse: u64,
}

impl Default for Temper {
    /// Slow, and not always well: at least a tenth of the dispatches to both sinks together fails and is tried again.
    fn default() -> Self {
        Self { delay_ms: 20..=60, tail: 0, tail_ms: 0..=0, fail: 220, busy: 1, hang: 0, reset: 0, refuse: 20 }
    }
}

/// See the module. Clones are the same sink.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    key: OnceLock<Vec<u8>>,
    clock: Clock,
    temper: Mutex<Temper>,
    seen: Mutex<Seen>,
    events: AtomicUsize,
    requests: AtomicU64,
    in_flight: AtomicUsize,
}

struct Seen {
    effects: HashMap<EventId, u32>,
    violations: Vec<String>,
    seed: Seed,
}

/// What becomes of a request.
enum Fate {
    Answer { status: u16, delay: Duration, applies: Option<EventId> },
    Hang,
    Reset,
}

/// A connection that is cut on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the sink cuts the connection")]
struct Cut;

impl Recorder {
    /// Listens on a free loopback port, as a task of `group`.
    pub async fn start(group: &Group, temper: Temper, seed: Seed) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let seen = Seen { effects: HashMap::new(), violations: Vec::new(), seed };
        let recorder = Self(Arc::new(Shared {
            address: listener.local_addr()?,
            key: OnceLock::new(),
            clock: Clock::system(),
            temper: Mutex::new(temper),
            seen: Mutex::new(seen),
            events: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        }));
        let answering = recorder.clone();
        let answer = move |request| {
            let recorder = answering.clone();
            async move { recorder.answer(request).await }
        };
        group.spawn("recorder", serve(group.clone(), listener, answer));
        Ok(recorder)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.0.address)
    }

    /// Its half of the signing secret, before the first request comes.
    pub fn trust(&self, key: Vec<u8>) {
        self.0.key.set(key).expect("the secret is set once");
    }

    /// Behaves otherwise from now on. Answers how it behaved.
    pub fn behave(&self, temper: Temper) -> Temper {
        std::mem::replace(&mut *self.0.temper.lock().expect("nothing panics while it sets a temper"), temper)
    }

    /// How many different events had an effect or were refused for good.
    pub fn events(&self) -> usize {
        self.0.events.load(Ordering::SeqCst)
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Requests that are being answered now.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    /// How often each event had an effect since this was asked last, and what no receiver should have to see.
    pub fn take(&self) -> (HashMap<EventId, u32>, Vec<String>) {
        let mut seen = self.seen();
        self.0.events.store(0, Ordering::SeqCst);
        (std::mem::take(&mut seen.effects), std::mem::take(&mut seen.violations))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().expect("nothing panics while it notes a request")
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let _counted = InFlight::begin(&self.0);
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?;
        match self.decide(&head, &body.to_bytes()) {
            Fate::Answer { status, delay, applies } => {
                tokio::time::sleep(delay).await;
                // Not reached if the sender was gone by now.
                if let Some(id) = applies {
                    self.apply(&mut self.seen(), id);
                }
                let mut response = Response::new(Full::default());
                *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                Ok(response)
            }
            Fate::Hang => std::future::pending().await,
            Fate::Reset => Err(Cut),
        }
    }

    fn apply(&self, seen: &mut Seen, id: EventId) {
        let count = seen.effects.entry(id).or_default();
        *count += 1;
        if *count == 1 {
            self.0.events.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn decide(&self, head: &Parts, payload: &[u8]) -> Fate {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        let temper = self.0.temper.lock().expect("nothing panics while it sets a temper").clone();
        let key = self.0.key.get().map(Vec::as_slice).unwrap_or_default();
        let verified = verify(key, &self.0.clock, head, payload).and_then(|id| of_webhook_id(&id));
        let mut seen = self.seen();
        let id = match verified {
            Ok(id) => id,
            Err(error) => {
                seen.violations.push(error.to_string());
                return Fate::Answer { status: 401, delay: Duration::ZERO, applies: None };
            }
        };
        let delay_ms = if seen.seed.within(0..=999) < temper.tail { temper.tail_ms } else { temper.delay_ms };
        let delay = Duration::from_millis(seen.seed.within(delay_ms));
        if id % 10_000 < EventId::from(temper.refuse) {
            self.0.events.fetch_add(1, Ordering::SeqCst);
            return Fate::Answer { status: 422, delay, applies: None };
        }
        let chance = seen.seed.within(0..=999);
        let Temper { fail, busy, hang, reset, .. } = temper;
        if chance < fail {
            Fate::Answer { status: 500, delay, applies: None }
        } else if chance < fail + busy {
            Fate::Answer { status: 503, delay, applies: None }
        } else if chance < fail + busy + hang {
            self.apply(&mut seen, id);
            Fate::Hang
        } else if chance < fail + busy + hang + reset {
            self.apply(&mut seen, id);
            Fate::Reset
        } else if seen.seed.choose(2) == 0 {
            self.apply(&mut seen, id);
            Fate::Answer { status: 200, delay, applies: None }
        } else {
            Fate::Answer { status: 200, delay, applies: Some(id) }
        }
    }
}

struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
