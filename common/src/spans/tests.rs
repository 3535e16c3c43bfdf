use std::convert::Infallible;
use std::sync::Mutex;

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

type Got = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector that answers this status and body, and what it got.
async fn collector(status: u16, answer: ExportTraceServiceResponse) -> (String, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let got = Got::default();
    let (taking, answer) = (got.clone(), Bytes::from(answer.encode_to_vec()));
    // Its tasks end with the test's runtime.
    let (group, connections) = (Group::new(), Group::new());
    group.spawn("collector", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (got, answer) = (taking.clone(), answer.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (got, answer) = (got.clone(), answer.clone());
                async move {
                    assert_eq!(
                        (request.uri().path(), &request.headers()[CONTENT_TYPE]),
                        ("/v1/traces", &"application/x-protobuf".parse().unwrap())
                    );
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    got.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
                    Ok::<_, Infallible>(Response::builder().status(status).body(Full::new(answer)).unwrap())
                }
            });
            connections.spawn("collector", http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, got)
}

struct Under {
    tracer: Tracer,
    group: Group,
    metrics: Metrics,
}

impl Under {
    fn test(endpoint: &str, ratio: f64) -> Self {
        let (group, metrics) = (Group::new(), Metrics::isolated());
        let (clock, hand) = Clock::manual(1_700_000_000_000);
        hand.advance(Duration::from_millis(1));
        let export = Export { endpoint, ca: &ConfigPath::default(), ratio };
        Self { tracer: Tracer::start(export, "test", &group, &clock, &metrics).unwrap(), group, metrics }
    }

    fn count(&self, outcome: &str) -> f64 {
        self.metrics.value("test_spans_total", &[("outcome", outcome)])
    }

    /// Ends the exporter, which sends what is left.
    async fn end(&self) {
        self.group.cancel();
        assert!(self.group.wait(Duration::from_secs(20)).await);
    }
}

#[tokio::test]
async fn a_span_and_its_child_reach_the_collector_with_what_was_noted() {
    let (url, got) = collector(200, ExportTraceServiceResponse::default()).await;
    let under = Under::test(&url, 0.0);
    let mut parent = under.tracer.span(under.tracer.begin(), "ingest", Kind::Server, Some(PARENT)).unwrap();
    parent.text("sealstream.source", "acme");
    parent.number("messaging.kafka.offset", 7_i64);
    let told = parent.context().to_string();
    let mut child = under.tracer.span(None, "deliver", Kind::Client, Some(&told)).unwrap();
    child.fail("timeout");
    let last = child.context();
    drop((parent, child));
    under.end().await;
    assert_eq!((under.count("exported"), under.count("failed"), under.count("dropped")), (2.0, 0.0, 0.0));

    let got = got.lock().unwrap();
    let spans: Vec<&Message> = got
        .iter()
        .flat_map(|request| &request.resource_spans)
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    let [parent, child] = spans[..] else { panic!("{spans:?}") };
    let sent: TraceContext = PARENT.parse().unwrap();
    assert_eq!((&parent.trace_id[..], &parent.parent_span_id[..]), (&sent.trace[..], &sent.span[..]));
    assert_eq!((&child.trace_id, &child.parent_span_id), (&parent.trace_id, &parent.span_id));
    assert_eq!((&child.span_id[..], last.trace), (&last.span[..], sent.trace));
    assert_eq!(
        (&*parent.name, parent.kind(), parent.start_time_unix_nano),
        ("ingest", SpanKind::Server, 1_700_000_000_001_000_000)
    );
    assert_eq!(
        child.status.as_ref().map(|status| (status.code(), &*status.message)),
        Some((StatusCode::Error, "timeout"))
    );
    let noted: Vec<&str> = parent.attributes.iter().map(|attribute| &*attribute.key).collect();
    assert_eq!(noted, ["sealstream.source", "messaging.kafka.offset"]);
    let program = &got[0].resource_spans[0].resource.as_ref().unwrap().attributes[1];
    assert_eq!(
        (&*program.key, program.value.clone()),
        ("service.name", attribute("", any_value::Value::StringValue("test".into())).value)
    );
}

#[tokio::test]
async fn a_span_is_made_only_of_what_is_sampled() {
    let (url, _) = collector(200, ExportTraceServiceResponse::default()).await;
    let never = Under::test(&url, 0.0);
    let not_sampled = PARENT.replace("-01", "-00");
    for traceparent in [None, Some(&*not_sampled), Some("nonsense")] {
        assert!(never.tracer.span(None, "ingest", Kind::Server, traceparent).is_none());
    }
    assert!(never.tracer.root(None, "ingest", Kind::Server).is_none());
    let always = Under::test(&url, 1.0);
    let contexts: Vec<_> =
        (0..8).map(|_| always.tracer.root(None, "ingest", Kind::Server).unwrap().context()).collect();
    assert!(contexts.iter().all(|context| context.is_sampled()) && contexts[0].trace != contexts[1].trace);
    let half = Under::test(&url, 0.5);
    let sampled = (0..1000).filter(|_| half.tracer.root(None, "ingest", Kind::Server).is_some()).count();
    assert!((350..650).contains(&sampled), "{sampled} of 1000: the chance of this is below 1e-20");
    let off = Under::test("", 1.0);
    assert!(off.tracer.begin().is_none() && off.tracer.root(None, "ingest", Kind::Server).is_none());
    assert!(off.tracer.span(None, "ingest", Kind::Server, Some(PARENT)).is_none());
    assert!(!off.metrics.render().contains("spans"), "nothing is declared either");
}

#[tokio::test]
async fn a_full_queue_drops_spans_and_counts_them() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let under = Under::test(&format!("http://{}/", silent.local_addr().unwrap()), 1.0);
    // On this runtime of one thread nothing takes from the queue meanwhile.
    for _ in 0..QUEUE + 5 {
        drop(under.tracer.root(None, "ingest", Kind::Server));
    }
    assert_eq!(under.count("dropped"), 5.0);
    under.end().await;
    assert_eq!(under.count("failed"), QUEUE as f64, "the last request is given up");
}

#[tokio::test]
async fn what_the_collector_would_not_have_counts_as_failed() {
    let partial = opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess {
        rejected_spans: 1,
        ..Default::default()
    };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
    for (status, exported) in [(200, 2.0), (503, 0.0), (400, 0.0)] {
        let (url, _) = collector(status, answer.clone()).await;
        let under = Under::test(&url, 1.0);
        (0..3).for_each(|_| drop(under.tracer.root(None, "ingest", Kind::Server)));
        under.end().await;
        assert_eq!((under.count("exported"), under.count("failed")), (exported, 3.0 - exported), "{status}");
    }
}

#[test]
fn an_endpoint_is_a_url_or_nothing() {
    let mistake = |endpoint| Export { endpoint, ca: &ConfigPath::default(), ratio: 0.0 }.endpoint_mistake();
    for good in ["", "http://localhost:4318/v1/traces", "https://collector.example.com/v1/traces"] {
        assert_eq!(mistake(good), None, "{good}");
    }
    for bad in ["localhost:4318", "grpc://localhost:4317", "/v1/traces", "http://"] {
        assert!(mistake(bad).is_some(), "{bad}");
    }
}
