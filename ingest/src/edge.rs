//! One request from its head to its answer, and what all requests share.
//!
//! Every request gets exactly one answer and is counted exactly once; a panic in the way is answered with 500 and the
//! process lives on.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use common::admin::Health;
use common::clock::Clock;
use common::id::SourceId;
use common::kafka::client::ClientError;
use common::kafka::producer::Ack;
use common::shutdown::Group;
use common::spans::{self, Kind, Span, Tracer};
use common::telemetry::Sparing;
use futures_util::FutureExt;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::Config;
use crate::metrics::{EdgeMetrics, Outcome};
use crate::publish::Publisher;
use crate::rate::exchange::{Exchange, Store};
use crate::refusal::{Answer, Refusal};
use crate::settings::Settings;
use crate::stage::admitted::Admitted;
use crate::stage::authenticated::Authenticated;
use crate::stage::charged::Charged;
use crate::stage::fresh::Fresh;
use crate::stage::raw::{Client, RawRequest};
use crate::stage::record::Record;

const RECEIVED: &str = r#"{"status":"received"}"#;
const HEALTHY: &str = r#"{"status":"healthy"}"#;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is said of panics.
static REPEATS: Sparing = Sparing::every(Duration::from_secs(10));

/// What all requests share.
pub(crate) struct Edge {
    /// What is in effect.
    settings: ArcSwap<Settings>,
    /// Where nodes share their rate limiter's budgets, by what is in effect.
    store: Option<Arc<ArcSwap<Store>>>,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Clock,
    pub(crate) metrics: EdgeMetrics,
    /// Whether it should get requests.
    pub(crate) health: Health,
    tracer: Tracer,
    ids: RequestIds,
    draining: AtomicBool,
    /// The requests that are worked on.
    requests: TaskTracker,
}

/// An answer, and whether the connection ends with it.
pub(crate) struct Reply {
    /// The answer.
    pub(crate) response: Response<Full<Bytes>>,
    /// Whether the connection ends.
    pub(crate) closes: bool,
}

impl Edge {
    /// Puts together what requests share.
    pub(crate) fn new(
        config: &Config,
        settings: Settings,
        metrics: EdgeMetrics,
        clock: Clock,
        tracer: Tracer,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            store: settings.store.clone().map(|store| Arc::new(ArcSwap::from_pointee(store))),
            in_flight: Arc::new(Semaphore::new(settings.limits.requests_in_flight_max)),
            settings: ArcSwap::from_pointee(settings),
            publisher: Publisher::new(&config.kafka, &config.topics.prefix, &config.publish, &clock)?,
            clock,
            metrics,
            health: Health::new(),
            tracer,
            ids: RequestIds::new(),
            draining: AtomicBool::new(false),
            requests: TaskTracker::new(),
        })
    }

    /// What is in effect now, to be kept.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// What is in effect now, for a moment: without counting one more who has it.
    pub(crate) fn in_effect(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// What shares the rate limiter's budgets with other nodes, if any do.
    pub(crate) fn exchange(&self) -> Option<Exchange> {
        let (limiter, store) = (self.settings().rate.clone()?, self.store.clone()?);
        Some(Exchange::new(limiter, store, self.metrics.rate.clone(), self.clock.clone()))
    }

    /// Lets this take effect: for every request whose body is not complete yet, and for all that come.
    pub(crate) fn apply(&self, settings: Settings, group: &Group) {
        let next = settings.limits.requests_in_flight_max;
        if let (Some(in_effect), Some(store)) = (&self.store, &settings.store) {
            in_effect.store(Arc::new(store.clone()));
        }
        let before = self.settings.swap(Arc::new(settings));
        resize(&self.in_flight, before.limits.requests_in_flight_max, next, group);
    }

    /// From now on new requests are refused.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.requests.close();
    }

    /// Ends when every request that was under way has been answered. Only after [`drain`](Self::drain).
    pub(crate) async fn drained(&self) {
        self.requests.wait().await;
    }

    /// Checks a request's head. Its body has so many bytes at least.
    pub(crate) fn begin(&self, head: Parts, body_len_min: u64, client: &Client) -> Begun {
        // Counted before the flag is read, and the flag set before the count is read: whoever sees it unset is waited for.
        let counted = self.requests.token();
        fence(Ordering::SeqCst);
        let traced = self.tracer.begin();
        let admit = AssertUnwindSafe(|| self.admit(head, body_len_min, client));
        let admission = catch_unwind(admit).unwrap_or_else(|_panic| Err(panicked()));
        Begun { admission, traced, counted }
    }

    fn admit(&self, head: Parts, body_len_min: u64, client: &Client) -> Result<Admission, Refusal> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(Refusal::ShuttingDown);
        }
        #[cfg(test)]
        assert!(!head.headers.contains_key("x-test-panic"), "a bug");
        let raw = RawRequest { head, body_len_min, client, settings: self.settings() };
        if raw.head.method == Method::GET && raw.settings.is_health_path(raw.head.uri.path()) {
            return if self.health.ready() { Ok(Admission::HealthCheck) } else { Err(Refusal::NotReady) };
        }
        Ok(Admission::Event(Admitted::admit(raw, self)?))
    }

    /// Answers a request.
    pub(crate) async fn serve<B>(&self, begun: Begun, body: B) -> Reply
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let tally = self.metrics.begin();
        let id = self.ids.next();
        let request_id = id.to_str().expect("a request id is of letters and digits");
        let mut source = None;
        let taken = {
            let work = pin!(self.take(begun, body, request_id, &mut source));
            unpanicked(work).await
        };
        let reply = match taken {
            Ok(Taken::Event) => {
                tally.end(Outcome::Received);
                Reply { response: Response::new(Full::from(RECEIVED)), closes: false }
            }
            Ok(Taken::HealthCheck) => {
                tally.end(Outcome::Healthy);
                Reply { response: Response::new(Full::from(HEALTHY)), closes: false }
            }
            Err(refusal) => {
                let answer = refusal.answer();
                tally.end(answer.outcome);
                let cause = std::error::Error::source(&refusal).map(ToString::to_string);
                let source = source.as_ref().map(SourceId::as_str);
                tracing::debug!(request_id, source, code = answer.outcome.as_str(), %refusal, cause, "refused");
                Reply { response: refused(&answer, request_id), closes: answer.closes }
            }
        };
        reply.finish(id)
    }

    /// Takes one request through its stages and into the log, or answers whether it would.
    /// `source` is told whose it is as soon as that is known.
    async fn take<B>(
        &self,
        begun: Begun,
        body: B,
        request_id: &str,
        source: &mut Option<SourceId>,
    ) -> Result<Taken, Refusal>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Begun { admission, traced, counted: _counted } = begun;
        let admitted = match admission? {
            Admission::Event(admitted) => admitted,
            Admission::HealthCheck => return Ok(Taken::HealthCheck),
        };
        let mut authenticated = Authenticated::authenticate(admitted, body, self).await?;
        let source = source.insert(authenticated.source().id.clone());
        let mut span = self.span(traced, &mut authenticated);
        let stored = match self.record(authenticated) {
            Ok(charged) => self.store(charged).await,
            Err(refusal) => Err(refusal),
        };
        if let Ok(Ack { partition, offset }) = &stored {
            tracing::trace!(request_id, %source, partition, offset, "received");
        }
        if let Some(span) = &mut span {
            span.text("sealstream.request", request_id);
            conclude(span, &stored);
        }
        stored.map(|_| Taken::Event)
    }

    /// Makes a record of a request of one of our senders, at its source's cost.
    fn record(&self, authenticated: Authenticated) -> Result<Charged, Refusal> {
        let fresh = Fresh::check(authenticated, self.clock.unix_s())?;
        let record = Record::seal(fresh, &self.in_effect().keys, self.clock.unix_ms())?;
        Charged::charge(record, self.clock.monotonic())
    }

    /// Takes a record into the log.
    fn store(&self, charged: Charged) -> impl Future<Output = Result<Ack, Refusal>> {
        let source = charged.source().clone();
        let published = self.publisher.publish(charged, &self.metrics);
        // No refusal costs a source anything.
        published.map(move |published| published.inspect_err(|_| source.limit.give_back()))
    }

    /// A span of a request, if it is traced; what comes behind is below it. Nobody but our senders makes us trace anything.
    fn span(&self, begun: Option<spans::Begun>, authenticated: &mut Authenticated) -> Option<Box<Span>> {
        let begun = Some(begun?);
        let mut span = match authenticated.traceparent() {
            Some(traceparent) => self.tracer.span(begun, "ingest", Kind::Server, Some(traceparent)),
            None => self.tracer.root(begun, "ingest", Kind::Server),
        }?;
        authenticated.trace_at(span.context());
        span.text("sealstream.source", authenticated.source().id.as_str());
        Some(Box::new(span))
    }
}

/// Notes how a request ended, and where its record lies.
fn conclude(span: &mut Span, stored: &Result<Ack, Refusal>) {
    match stored {
        Ok(Ack { partition, offset }) => {
            span.text("messaging.system", "kafka");
            span.text("messaging.destination.name", "inbox");
            span.text("messaging.destination.partition.id", partition.to_string());
            span.number("messaging.kafka.offset", *offset);
            span.text("sealstream.outcome", Outcome::Received.as_str());
        }
        Err(refusal) => {
            let outcome = refusal.answer().outcome.as_str();
            span.text("sealstream.outcome", outcome);
            span.fail(outcome);
        }
    }
}

/// A request whose head was checked.
pub(crate) struct Begun {
    /// What it is, or why it is refused.
    admission: Result<Admission, Refusal>,
    traced: Option<spans::Begun>,
    /// As long as there is this, it is waited for.
    counted: TaskTrackerToken,
}

impl Begun {
    /// Whether its body will be asked for, and read, unless it breaks off, to its end or to a limit.
    pub(crate) fn asks_for_body(&self) -> bool {
        matches!(self.admission, Ok(Admission::Event(_)))
    }
}

/// What a request is.
enum Admission {
    /// An event, as far as its head says.
    Event(Admitted),
    /// A question, and the answer is yes.
    HealthCheck,
}

/// What was taken.
enum Taken {
    /// The brokers have it.
    Event,
    /// A question, and the answer is yes.
    HealthCheck,
}

/// Changes how many permits there are. Those given out are not taken back: what is too many goes as it comes home, before
/// anybody else gets it.
pub(crate) fn resize(permits: &Arc<Semaphore>, before: usize, after: usize, group: &Group) {
    if after >= before {
        return permits.add_permits(after - before);
    }
    let left = before - after;
    let left = left - permits.forget_permits(left);
    let left = u32::try_from(left).expect("a limit's check rules out more than a million");
    if left > 0 {
        let permits = permits.clone();
        group.spawn("fewer_permits", async move {
            permits.acquire_many_owned(left).await.expect("the semaphore is never closed").forget();
        });
    }
}

impl Reply {
    /// Adds what every answer has.
    fn finish(mut self, request_id: HeaderValue) -> Self {
        let headers = self.response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REQUEST_ID, request_id);
        self
    }
}

fn refused(answer: &Answer, request_id: &str) -> Response<Full<Bytes>> {
    let (sentence, code) = (answer.sentence, answer.outcome.as_str());
    // Sentences, codes and ids are ours and have no character that JSON escapes.
    let body = format!(r#"{{"error":"{sentence}","code":"{code}","request_id":"{request_id}"}}"#);
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = answer.status;
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    if let Some(seconds) = answer.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// The future, with a panic turned into a refusal. What it had in hand is dropped; what it shares is behind locks and
/// atomics that no request holds across code that can fail.
fn unpanicked<T>(
    mut future: Pin<&mut impl Future<Output = Result<T, Refusal>>>,
) -> impl Future<Output = Result<T, Refusal>> {
    std::future::poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.unwrap_or_else(|_panic| Poll::Ready(Err(panicked())))
    })
}

/// What is said after a panic.
fn panicked() -> Refusal {
    // Whoever can bring one about can do it again and again.
    if let Some(left_out) = REPEATS.pass("panic", Clock::system().monotonic()) {
        tracing::error!(left_out, "a request's handler panicked");
    }
    Refusal::Internal
}

/// Length of a request id, of the first 2³² of a process.
const ID_LEN: usize = 24;

/// Ids that tell requests apart in logs, of this process and of all others: random bits of the process and a count.
struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let process = getrandom::u64().expect("the system has random bytes");
        Self { process, count: AtomicU64::new(0) }
    }

    fn next(&self) -> HeaderValue {
        let mut id = String::with_capacity(ID_LEN);
        write!(id, "{:016x}{:08x}", self.process, self.count.fetch_add(1, Ordering::Relaxed))
            .expect("writing to memory");
        HeaderValue::from_maybe_shared(Bytes::from(id)).expect("a request id is of letters and digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_are_resized_without_taking_any_back() {
        let group = Group::new();
        let permits = Arc::new(Semaphore::new(3));
        let take = || permits.clone().try_acquire_owned();
        let held = [take().unwrap(), take().unwrap(), take().unwrap()];
        resize(&permits, 3, 1, &group);
        tokio::task::yield_now().await;
        let [one, two, three] = held;
        drop(one);
        assert!(take().is_err(), "three is still two more than one");
        drop(two);
        assert!(take().is_err());
        drop(three);
        assert!(group.wait(std::time::Duration::from_secs(20)).await);
        let only = take().unwrap();
        assert!(take().is_err());
        resize(&permits, 1, 2, &group);
        drop((only, take().unwrap()));
        assert_eq!(permits.available_permits(), 2);
        resize(&permits, 2, 1, &group);
        assert_eq!(permits.available_permits(), 1);
    }
}
