//! An HTTP sink that remembers everything: each request with its time and what it was answered.
//!
//! It checks each request as a receiver of Standard Webhooks would, with code of its own. How it answers and how long that
//! takes is up to its [`Behaviour`]. A request that it answers with a success has an effect: for one half of them, chosen
//! by the seed, as soon as it is there, for the other half only when it is answered, and then never if its sender was gone
//! by then. Real sinks are of both kinds: the first shows what is repeated, the second what is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::clock::Clock;
use common::shutdown::Group;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use sha2::Sha256;
use tokio::net::TcpListener;

use crate::seed::Seed;
use crate::serve::serve;

/// How far a delivery's timestamp may be from now, in seconds.
const TOLERANCE_S: u64 = 60;

/// A request as the rule of a behaviour sees it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The `webhook-id`.
    pub webhook_id: &'a str,
    /// The payload's `id`, empty if it has none.
    pub event_id: &'a str,
    /// How many requests with this `webhook-id` there were, this one included.
    pub attempt: usize,
}

/// What a sink answers.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

impl Reply {
    /// A success.
    pub const OK: Self = Self::status(200);

    /// A status and nothing else.
    pub const fn status(status: u16) -> Self {
        Self { status, retry_after_s: None }
    }
}

type Rule = Arc<dyn Fn(Arrival<'_>) -> Reply + Send + Sync>;

/// How a sink behaves.
#[derive(Clone)]
pub struct Behaviour {
    delay_ms: RangeInclusive<u64>,
    rule: Rule,
}

impl Behaviour {
    /// Answers 200 at once.
    pub fn good() -> Self {
        Self::by_rule(|_| Reply::OK)
    }

    /// Answers at once what the rule says.
    pub fn by_rule(rule: impl Fn(Arrival<'_>) -> Reply + Send + Sync + 'static) -> Self {
        Self { delay_ms: 0..=0, rule: Arc::new(rule) }
    }

    /// Fails the first `count` requests of each event with a status.
    pub fn failing_first(count: usize, status: u16) -> Self {
        Self::by_rule(move |arrival| if arrival.attempt <= count { Reply::status(status) } else { Reply::OK })
    }

    /// Takes so long for each answer, in milliseconds.
    pub fn slow(mut self, delay_ms: RangeInclusive<u64>) -> Self {
        self.delay_ms = delay_ms;
        self
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Behaviour({:?} ms)", self.delay_ms)
    }
}

/// One request that the sink got.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The `webhook-id`.
    pub webhook_id: String,
    /// The payload's `id`, empty if it has none.
    pub event_id: String,
    /// How many requests with this `webhook-id` there were, this one included.
    pub attempt: usize,
    /// When it came, by this process's monotonic clock.
    pub at: Duration,
    /// What it was answered, or was going to be.
    pub status: u16,
    /// Whether it had an effect.
    pub is_effect: bool,
    /// The media type of the payload.
    pub content_type: String,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
    /// The payload.
    pub payload: Bytes,
}

/// See the module. Clones are the same sink.
#[derive(Clone)]
pub struct RecordingSink(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    key: Vec<u8>,
    behaviour: Mutex<Behaviour>,
    clock: Clock,
    seen: Mutex<Seen>,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

struct Seen {
    deliveries: Vec<Delivery>,
    /// By `webhook-id`: how many requests, and the payload of the first.
    known: BTreeMap<String, (usize, Bytes)>,
    effects: BTreeSet<String>,
    violations: Vec<String>,
    seed: Seed,
}

impl Seen {
    /// The effect of a request.
    fn apply(&mut self, index: usize) {
        let delivery = &mut self.deliveries[index];
        delivery.is_effect = true;
        self.effects.insert(delivery.webhook_id.clone());
    }
}

/// What becomes of a request.
struct Decision {
    reply: Reply,
    delay: Duration,
    /// The delivery that has its effect when it is answered.
    applies: Option<usize>,
}

impl RecordingSink {
    /// Listens on a free loopback port, as a task of `group`. `key` is its half of the signing secret.
    pub(crate) async fn start(group: &Group, key: Vec<u8>, behaviour: Behaviour, seed: Seed) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let seen = Seen {
            deliveries: Vec::new(),
            known: BTreeMap::new(),
            effects: BTreeSet::new(),
            violations: Vec::new(),
            seed,
        };
        let sink = Self(Arc::new(Shared {
            address: listener.local_addr()?,
            key,
            behaviour: Mutex::new(behaviour),
            clock: Clock::system(),
            seen: Mutex::new(seen),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
        }));
        let answering = sink.clone();
        let answer = move |request| {
            let sink = answering.clone();
            async move { Ok::<_, Infallible>(sink.take(request).await) }
        };
        group.spawn("sink", serve(group.clone(), listener, answer));
        Ok(sink)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.0.address)
    }

    /// Behaves otherwise from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.0.behaviour.lock().expect("nothing panics while it sets a behaviour") = behaviour;
    }

    /// Every request so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.seen().deliveries.clone()
    }

    /// The requests that carried this event id.
    pub fn deliveries_of(&self, event_id: &str) -> Vec<Delivery> {
        self.seen().deliveries.iter().filter(|delivery| delivery.event_id == event_id).cloned().collect()
    }

    /// How many different events had an effect.
    pub fn effect_count(&self) -> usize {
        self.seen().effects.len()
    }

    /// How many requests there were.
    pub fn delivery_count(&self) -> usize {
        self.seen().deliveries.len()
    }

    /// How often each event had an effect, by `webhook-id`.
    pub fn effects(&self) -> BTreeMap<String, usize> {
        let mut effects = BTreeMap::new();
        for delivery in self.seen().deliveries.iter().filter(|delivery| delivery.is_effect) {
            *effects.entry(delivery.webhook_id.clone()).or_default() += 1;
        }
        effects
    }

    /// Requests that are being answered now.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    /// Most requests that were being answered at once.
    pub fn in_flight_max(&self) -> usize {
        self.0.in_flight_max.load(Ordering::SeqCst)
    }

    /// What no receiver should have to see: wrong signatures, changed payloads.
    pub fn violations(&self) -> Vec<String> {
        self.seen().violations.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().expect("nothing panics while it notes a request")
    }

    async fn take(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let _counted = InFlight::begin(&self.0);
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return Response::new(Full::default());
        };
        let payload = body.to_bytes();
        let Decision { reply, delay, applies } = self.decide(&head, payload.clone());
        tokio::time::sleep(delay).await;
        if let Some(index) = applies {
            // Not reached if the sender was gone by now.
            self.seen().apply(index);
        }
        let mut response = Response::builder().status(reply.status);
        if let Some(seconds) = reply.retry_after_s {
            response = response.header(RETRY_AFTER, seconds);
        }
        // Some sinks tell in their answer what they were sent.
        response.body(Full::new(payload)).expect("a status and a number make a response")
    }

    /// Notes a request, and decides about it.
    fn decide(&self, head: &Parts, payload: Bytes) -> Decision {
        let behaviour = self.0.behaviour.lock().expect("nothing panics while it sets a behaviour").clone();
        let verified = verify(&self.0.key, &self.0.clock, head, &payload);
        let mut seen = self.seen();
        let webhook_id = match verified {
            Ok(webhook_id) => webhook_id,
            Err(error) => {
                seen.violations.push(error.to_string());
                return Decision { reply: Reply::status(401), delay: Duration::ZERO, applies: None };
            }
        };
        let event_id = event_id(&payload);
        let (count, first) = seen.known.entry(webhook_id.clone()).or_insert_with(|| (0, payload.clone()));
        *count += 1;
        let (attempt, changed) = (*count, *first != payload);
        if changed {
            seen.violations.push(format!("{webhook_id} came with another payload"));
        }
        let reply = (behaviour.rule)(Arrival { webhook_id: &webhook_id, event_id: &event_id, attempt });
        let delivery = Delivery {
            webhook_id,
            event_id,
            attempt,
            at: self.0.clock.monotonic(),
            status: reply.status,
            is_effect: false,
            content_type: text(head, &CONTENT_TYPE).unwrap_or_default().to_owned(),
            traceparent: text(head, &HeaderName::from_static("traceparent")).map(str::to_owned),
            payload,
        };
        let index = seen.deliveries.len();
        seen.deliveries.push(delivery);
        let delay = Duration::from_millis(seen.seed.within(behaviour.delay_ms));
        let applies = if !(200..300).contains(&reply.status) {
            None
        } else if seen.seed.choose(2) == 0 {
            seen.apply(index);
            None
        } else {
            Some(index)
        };
        Decision { reply, delay, applies }
    }
}

impl fmt::Debug for RecordingSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordingSink({})", self.0.address)
    }
}

/// Standard Webhooks, from its specification: the `webhook-id` of a request that is rightly signed.
pub(crate) fn verify(key: &[u8], clock: &Clock, head: &Parts, payload: &[u8]) -> Result<String> {
    let header = |name: &'static str| {
        let value = text(head, &HeaderName::from_static(name));
        value.ok_or_else(|| anyhow::anyhow!("the header {name} is missing, or is there twice"))
    };
    let (id, timestamp, signature) =
        (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let tail = id.strip_prefix("msg_").unwrap_or_default();
    ensure!(tail.len() == 22 && tail.bytes().all(safe), "the webhook-id {id:?} is not of our form");
    let age_s = clock.unix_s().abs_diff(timestamp.parse()?);
    ensure!(age_s <= TOLERANCE_S, "the webhook-timestamp is {age_s} s from now");
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(key)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(payload);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    ensure!(signature == expected, "the webhook-signature does not fit the request");
    Ok(id.to_owned())
}

/// The payload's `id`, as text; empty if there is none.
fn event_id(payload: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    match &json["id"] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The text of a header that must be there exactly once.
fn text<'h>(head: &'h Parts, name: &HeaderName) -> Option<&'h str> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        (None, _) | (Some(_), Some(_)) => None,
    }
}

struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.in_flight_max.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}
