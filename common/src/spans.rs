//! Spans of traced events, and their export to an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! What is traced says the sender's `traceparent`, and for requests without one a ratio. A span carries configured names,
//! numbers and keyed ids; never a payload, and never an event id as its sender wrote it.
//!
//! Whoever ends a span never waits: spans go into a queue of fixed length, and one that finds it full is dropped and counted.
//! One task exports them in batches, each once. A collector that is down, slow or wrong costs spans and nothing else.
//!
//! | name, after the program's | labels |
//! |---|---|
//! | `_spans_total` | `outcome`: `exported`; `dropped`, for want of room in the queue; `failed`, not taken by the collector |

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use metrics::{Counter, Unit, counter, describe_counter};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::ConfigPath;
use crate::http_client::{ClientError, ClientOptions, HttpsClient, Schemes};
use crate::shutdown::Group;
use crate::telemetry::Metrics;
use crate::tls::{TlsError, certificates};
use crate::trace::TraceContext;

/// Spans waiting for the collector: some seconds of a few hundred traced events, and 2 MiB at most.
const QUEUE: usize = 2048;
/// Spans in one request.
const BATCH_MAX: usize = 512;
/// How long spans wait for company.
const LINGER: Duration = Duration::from_millis(500);
/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same once the process ends: for the request that is under way, and for a last one.
const LAST_TIMEOUT: Duration = Duration::from_millis(400);

/// Where spans go.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// URL of a collector; empty for none.
    pub endpoint: &'a str,
    /// Authorities to trust besides the system's.
    pub ca: &'a ConfigPath,
    /// The part of the events without a trace of their own that are traced, from 0 to 1.
    pub ratio: f64,
}

impl Export<'_> {
    /// What is wrong with the endpoint.
    pub fn endpoint_mistake(&self) -> Option<&'static str> {
        let is_url = |text: &str| {
            text.parse::<Uri>()
                .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        };
        let valid = self.endpoint.is_empty() || is_url(self.endpoint);
        (!valid).then_some("must be a URL such as \"http://localhost:4318/v1/traces\"")
    }

    /// Reads the authorities and tells what is wrong with them.
    pub fn ca_mistake(&self) -> Option<String> {
        self.ca.if_set().and_then(|ca| certificates(ca).err()).map(|error| error.to_string())
    }
}

/// Why spans can't be exported. The operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The URL.
    #[error("the collector's URL: {0}")]
    Url(#[from] http::uri::InvalidUri),
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Makes spans, or none. Clones make spans of the same process.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Shared>>);

struct Shared {
    queue: mpsc::Sender<Message>,
    dropped: Counter,
    clock: Clock,
    /// Of 2^63 trace ids, how many are sampled.
    threshold: u64,
}

/// What a span does, as OpenTelemetry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Works on a record.
    Consumer,
    /// Waits for the answer of somebody else.
    Client,
}

/// When a span began.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    unix_ms: u64,
    monotonic: Duration,
}

/// A span under way. It ends when it is dropped.
pub struct Span {
    shared: Arc<Shared>,
    context: TraceContext,
    begun: Begun,
    message: Message,
}

impl Tracer {
    /// Makes no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// Exports as a task of the group until the group is cancelled; with an empty endpoint it is off.
    pub fn start(
        export: Export<'_>,
        program: &'static str,
        group: &Group,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, ExportError> {
        if export.endpoint.is_empty() {
            return Ok(Self::off());
        }
        let extra_roots = export.ca.if_set().map(certificates).transpose()?.unwrap_or_default();
        // A collector is often a neighbour without TLS; what it gets are names and keyed ids.
        let client =
            HttpsClient::new(&ClientOptions { schemes: Schemes::HttpToo, extra_roots, ..ClientOptions::default() })?;
        let name = format!("{program}_spans_total");
        let ended = |outcome: &'static str| counter!(name.clone(), "outcome" => outcome);
        let (dropped, exported, failed) = metrics.scope(|| {
            describe_counter!(name.clone(), Unit::Count, "spans of traced events, by what became of them");
            (ended("dropped"), ended("exported"), ended("failed"))
        });
        let (queue, spans) = mpsc::channel(QUEUE);
        let exporter = Exporter {
            client,
            url: export.endpoint.parse()?,
            resource: resource(program),
            exported,
            failed,
            is_down: false,
        };
        group.spawn("span_export", exporter.run(spans, group.token()));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio from 0 to 1")]
        let threshold = (export.ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
        Ok(Self(Some(Arc::new(Shared { queue, dropped, clock: clock.clone(), threshold }))))
    }

    /// Now, if spans are made at all.
    pub fn begin(&self) -> Option<Begun> {
        self.0.as_ref().map(|shared| Begun::now(&shared.clock))
    }

    /// A span of a trace that is recorded, below the one that `traceparent` names. Without one, `root` decides whether a trace
    /// begins here.
    pub fn span(
        &self,
        begun: Option<Begun>,
        name: &'static str,
        kind: Kind,
        traceparent: Option<&str>,
    ) -> Option<Span> {
        let shared = self.0.as_ref()?;
        let parent = traceparent?.parse::<TraceContext>().ok().filter(|parent| parent.is_sampled())?;
        let begun = begun.unwrap_or_else(|| Begun::now(&shared.clock));
        Some(Span::new(shared.clone(), parent.at(random()?), Some(parent), begun, name, kind))
    }

    /// The first span of a trace that begins here, if the ratio wants one.
    pub fn root(&self, begun: Option<Begun>, name: &'static str, kind: Kind) -> Option<Span> {
        let shared = self.0.as_ref().filter(|shared| shared.threshold > 0)?;
        let trace: [u8; 16] = random()?;
        // As OpenTelemetry's sampler by ratio does: the id itself is the chance.
        let chance = u64::from_be_bytes(*trace.last_chunk().expect("it is longer")) >> 1;
        if chance >= shared.threshold {
            return None;
        }
        let begun = begun.unwrap_or_else(|| Begun::now(&shared.clock));
        Some(Span::new(shared.clone(), TraceContext::sampled(trace, random()?), None, begun, name, kind))
    }
}

impl Begun {
    fn now(clock: &Clock) -> Self {
        Self { unix_ms: clock.unix_ms(), monotonic: clock.monotonic() }
    }
}

/// Random bytes that are not all zero; none if the system has none, and then nothing is traced.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    (bytes != [0; N]).then_some(bytes)
}

impl Span {
    fn new(
        shared: Arc<Shared>,
        context: TraceContext,
        parent: Option<TraceContext>,
        begun: Begun,
        name: &'static str,
        kind: Kind,
    ) -> Self {
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Client => SpanKind::Client,
        };
        let message = Message {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_vec(),
            parent_span_id: parent.map(|parent| parent.span.to_vec()).unwrap_or_default(),
            name: name.to_owned(),
            kind: kind.into(),
            ..Message::default()
        };
        Self { shared, context, begun, message }
    }

    /// What its children name as their parent.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Notes a text: a configured name, or one of a fixed set.
    pub fn text(&mut self, key: &'static str, text: impl Into<String>) {
        self.attribute(key, any_value::Value::StringValue(text.into()));
    }

    /// Notes a number.
    pub fn number(&mut self, key: &'static str, number: impl Into<i64>) {
        self.attribute(key, any_value::Value::IntValue(number.into()));
    }

    /// Notes that what it stands for failed, and the kind of failure.
    pub fn fail(&mut self, kind: &'static str) {
        self.message.status = Some(Status { message: kind.to_owned(), code: StatusCode::Error.into() });
    }

    fn attribute(&mut self, key: &'static str, value: any_value::Value) {
        self.message.attributes.push(attribute(key, value));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut message = std::mem::take(&mut self.message);
        let took = self.shared.clock.monotonic().saturating_sub(self.begun.monotonic);
        let begun = Duration::from_millis(self.begun.unix_ms);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        (message.start_time_unix_nano, message.end_time_unix_nano) = (nanos(begun), nanos(begun + took));
        if self.shared.queue.try_send(message).is_err() {
            self.shared.dropped.increment(1);
        }
    }
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Who made the spans.
fn resource(program: &str) -> Resource {
    let text = |key, text: &str| attribute(key, any_value::Value::StringValue(text.to_owned()));
    let attributes = vec![
        text("service.namespace", "sealstream"),
        text("service.name", program),
        text("service.version", env!("CARGO_PKG_VERSION")),
    ];
    Resource { attributes, ..Resource::default() }
}

/// Sends spans to the collector.
struct Exporter {
    client: HttpsClient,
    url: Uri,
    resource: Resource,
    exported: Counter,
    failed: Counter,
    /// Whether the last request failed, which is told once.
    is_down: bool,
}

impl Exporter {
    /// Ends when the group is cancelled, after what is queued by then, or with the last tracer.
    async fn run(mut self, mut spans: mpsc::Receiver<Message>, over: CancellationToken) {
        loop {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            match over.run_until_cancelled(spans.recv_many(&mut batch, BATCH_MAX)).await {
                Some(0) => return,
                Some(_) => {}
                None => break,
            }
            let company = async {
                loop {
                    let room = BATCH_MAX - batch.len();
                    if room == 0 || spans.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            let _full_or_late = over.run_until_cancelled(tokio::time::timeout(LINGER, company)).await;
            self.send_while(&over, batch).await;
        }
        let mut last = Vec::new();
        while let Ok(span) = spans.try_recv() {
            last.push(span);
        }
        if !last.is_empty() {
            self.send(last, LAST_TIMEOUT).await;
        }
    }

    /// Sends a batch; once the group is cancelled there is little time left for that.
    async fn send_while(&mut self, over: &CancellationToken, batch: Vec<Message>) {
        let (count, failed) = (batch.len() as u64, self.failed.clone());
        let mut sending = pin!(self.send(batch, TIMEOUT));
        if over.run_until_cancelled(sending.as_mut()).await.is_none()
            && tokio::time::timeout(LAST_TIMEOUT, sending).await.is_err()
        {
            failed.increment(count);
        }
    }

    /// Sends a batch, once.
    async fn send(&mut self, spans: Vec<Message>, timeout: Duration) {
        let count = spans.len() as u64;
        let scope = InstrumentationScope { name: "sealstream".to_owned(), ..InstrumentationScope::default() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource_spans =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() };
        let body = ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec();
        match self.post(body.into(), timeout).await {
            Ok(rejected) => {
                self.failed.increment(rejected.min(count));
                self.exported.increment(count.saturating_sub(rejected));
                if std::mem::replace(&mut self.is_down, false) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                self.failed.increment(count);
                if !std::mem::replace(&mut self.is_down, true) {
                    tracing::warn!(%error, "the collector takes no spans: they are dropped until it does");
                }
            }
        }
    }

    /// How many spans the collector would not have.
    async fn post(&self, body: Bytes, timeout: Duration) -> Result<u64, String> {
        let request = Request::post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.client.exchange(request, timeout).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let partial =
            ExportTraceServiceResponse::decode(answer.into_body()).ok().and_then(|answer| answer.partial_success);
        Ok(partial.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
