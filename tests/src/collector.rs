//! An OpenTelemetry collector that remembers everything: OTLP over HTTP, as protobuf.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use common::shutdown::Group;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use crate::serve::serve;

/// See the module. Clones are the same collector.
#[derive(Debug, Clone)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

impl Collector {
    /// Listens on a free loopback port, as a task of `group`.
    pub async fn start(group: &Group) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let collector = Self { address: listener.local_addr()?, spans: Arc::default() };
        let taking = collector.clone();
        let answer = move |request| {
            let collector = taking.clone();
            async move { Ok::<_, Infallible>(collector.take(request).await) }
        };
        group.spawn("collector", serve(group.clone(), listener, answer));
        Ok(collector)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Every span so far, with the program that made it.
    pub fn spans(&self) -> Vec<(String, Span)> {
        self.spans.lock().expect("nothing panics while it notes a request").clone()
    }

    async fn take(&self, request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
        let is_protobuf = request.headers().get(CONTENT_TYPE).is_some_and(|is| is == "application/x-protobuf");
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let Some(decoded) = ExportTraceServiceRequest::decode(body).ok().filter(|_| is_protobuf) else {
            return Response::builder().status(400).body(Full::default()).expect("a status makes a response");
        };
        let mut spans = self.spans.lock().expect("nothing panics while it notes a request");
        for resource in decoded.resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let program = attributes.iter().find(|attribute| attribute.key == "service.name");
            let program = program.and_then(|name| text(name.value.clone()?.value?)).unwrap_or_default();
            let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| (program.clone(), span)));
        }
        Response::new(Full::from(ExportTraceServiceResponse::default().encode_to_vec()))
    }
}

/// An attribute of a span, as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    text(attribute.value.clone()?.value?)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}
