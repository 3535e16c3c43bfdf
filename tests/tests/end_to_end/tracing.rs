//! Traces: from the sender's `traceparent` to the sink's, with spans at a collector or without.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::clock::Clock;
use common::envelope::Format;
use common::shutdown::Group;
use common::trace::TraceContext;
use http::HeaderValue;
use serde_json::Value;
use tests::client::{Client, payload};
use tests::collector::{Collector, attribute};
use tests::plan::Plan;
use tests::ports;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::until;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const DEADLINE: Duration = Duration::from_secs(30);

async fn send(stack: &Stack, client: &Client, id: &str, traceparent: Option<&str>) -> Result<()> {
    let mut signed = client.prepare(id, payload(id).as_bytes())?;
    if let Some(traceparent) = traceparent {
        signed.headers.insert("traceparent", HeaderValue::from_str(traceparent)?);
    }
    ensure!(client.post(signed).await?.is_ok());
    stack.ledger().event("acme", id);
    Ok(())
}

/// Every program exports to this address, and ingest traces this part of what has no trace.
fn export(stack: &mut Stack, url: &str, ratio: &str) {
    stack.ingest(0).set("INGEST__TELEMETRY__OTLP_ENDPOINT", Some(url.to_owned()));
    stack.ingest(0).set("INGEST__TELEMETRY__SAMPLE_RATIO", Some(ratio.to_owned()));
    stack.ingest(0).set("INGEST__LOG__LEVEL", Some("info,ingest=trace".to_owned()));
    stack.processor(0).set("PROCESSOR__TELEMETRY__OTLP_ENDPOINT", Some(url.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_sender_through_every_program_to_the_sink() -> Result<()> {
    let group = Group::new();
    let collector = Collector::start(&group).await?;
    let plan = Plan::new("traced").source("acme", &["main"]).http("main", Behaviour::failing_first(1, 503));
    plan.run_prepared(async |stack| {
        export(stack, &collector.url(), "0.0");
        stack.start_nodes().await?;
        let client = stack.client(0, "acme", Format::Jwe)?;
        let not_sampled = TRACEPARENT.replace("-01", "-00");
        send(stack, &client, "evt-plain", None).await?;
        send(stack, &client, "evt-not-sampled", Some(&not_sampled)).await?;
        send(stack, &client, "evt-traced", Some(TRACEPARENT)).await?;
        stack.settled().await?;
        let found =
            until("four spans", DEADLINE, async || Ok(Some(collector.spans()).filter(|spans| spans.len() >= 4)));
        let spans = found.await?;
        let names: Vec<_> = spans.iter().map(|(program, span)| format!("{program} {}", span.name)).collect();
        ensure!(spans.len() == 4, "one event is traced, and its first dispatch failed: {names:?}");
        let of =
            |name: &str| spans.iter().filter(|(_, span)| span.name == name).map(|(_, span)| span).collect::<Vec<_>>();
        let (ingest, route, mut deliver) = (of("ingest"), of("route"), of("deliver"));
        let ([ingest], [route]) = (&ingest[..], &route[..]) else { anyhow::bail!("{names:?}") };
        deliver.sort_by_key(|span| attribute(span, "sealstream.attempt"));
        let [first, second] = deliver[..] else { anyhow::bail!("{names:?}") };

        // Each below the one before, and both dispatches below the copy.
        let sent: TraceContext = TRACEPARENT.parse()?;
        assert!(spans.iter().all(|(_, span)| span.trace_id == sent.trace));
        assert_eq!(ingest.parent_span_id, sent.span);
        assert_eq!(route.parent_span_id, ingest.span_id);
        assert_eq!((&first.parent_span_id, &second.parent_span_id), (&route.span_id, &route.span_id));
        let of_sink: Vec<_> = stack.sink("main").deliveries_of("evt-traced");
        let told: Vec<TraceContext> = of_sink
            .iter()
            .map(|delivery| Ok(delivery.traceparent.as_deref().context("it is traced")?.parse()?))
            .collect::<Result<_>>()?;
        let told: Vec<_> =
            told.iter().map(|context| (context.trace, context.span.to_vec(), context.is_sampled())).collect();
        assert_eq!(told, [(sent.trace, first.span_id.clone(), true), (sent.trace, second.span_id.clone(), true)]);

        // What each says: names, places, keyed ids; nothing that a sender wrote.
        assert_eq!(first.status.as_ref().map(|status| status.message.as_str()), Some("status"));
        assert_eq!(second.status, None);
        assert_eq!(
            (attribute(second, "sealstream.attempt"), attribute(second, "sealstream.sink")),
            (Some("2".into()), Some("main".into()))
        );
        assert_eq!(attribute(second, "messaging.destination.name").as_deref(), Some("retry.main.1s"));
        assert_eq!(attribute(ingest, "sealstream.source").as_deref(), Some("acme"));
        assert_eq!(attribute(route, "sealstream.event"), attribute(first, "sealstream.event"));
        assert_eq!(attribute(route, "messaging.kafka.offset"), attribute(ingest, "messaging.kafka.offset"));
        let all = format!("{spans:?}");
        assert!(!all.contains("evt-") && !all.contains("canary"), "{all}");

        // What is not sampled is passed on as it came, and nothing is made of nothing.
        let traceparent = |id: &str| stack.sink("main").deliveries_of(id)[0].traceparent.clone();
        assert_eq!((traceparent("evt-not-sampled"), traceparent("evt-plain")), (Some(not_sampled), None));

        // The same request is in ingest's log: by its id, with its source and its place.
        let lines = stack.ingest(0).log_lines("\"message\":\"received\"")?;
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
        let request = attribute(ingest, "sealstream.request").context("it has an id")?;
        let line = lines.iter().find(|line| line["request_id"] == *request).context("it is in the log")?;
        assert_eq!(
            (&line["source"], line["offset"].to_string()),
            (&"acme".into(), attribute(ingest, "messaging.kafka.offset").unwrap_or_default())
        );
        assert_eq!(Some(line["partition"].to_string()), attribute(ingest, "messaging.destination.partition.id"));
        let failed = stack.processor(0).log_lines("dispatch failed")?;
        let failed: Vec<Value> = failed.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
        let id = attribute(first, "sealstream.event").context("it has a keyed id")?;
        let failed = failed.iter().find(|line| line["id"] == *id).context("the failure is in the log")?;
        let says = ["source", "sink", "topic", "attempt"].map(|name| failed[name].to_string());
        assert_eq!(says, ["\"acme\"", "\"main\"", "\"events\"", "1"]);
        assert_eq!(Some(failed["partition"].to_string()), attribute(first, "messaging.destination.partition.id"));
        assert_eq!(Some(failed["offset"].to_string()), attribute(first, "messaging.kafka.offset"));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_in_the_log_with_its_id_and_its_source() -> Result<()> {
    let plan = Plan::new("refused-log").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        let old = client.prepare_at(Clock::system().unix_s() - 3600, "evt-old", payload("evt-old").as_bytes())?;
        let answer = client.post(old).await?;
        assert_eq!(answer.code, "timestamp_out_of_tolerance");
        let lines = stack.ingest(0).log_lines("\"message\":\"refused\"")?;
        let [line] = &lines[..] else { anyhow::bail!("{lines:?}") };
        let line: Value = serde_json::from_str(line)?;
        assert_eq!((&line["source"], &line["code"]), (&"acme".into(), &"timestamp_out_of_tolerance".into()));
        assert_eq!(line["request_id"].as_str(), answer.request_id.as_deref());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_at_its_address_everything_is_delivered_and_spans_are_lost() -> Result<()> {
    const EVENTS: usize = 50;
    let plan = Plan::new("untraced").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run_prepared(async |stack| {
        // Nobody listens there.
        export(stack, &format!("http://{}/v1/traces", ports::free()), "1.0");
        stack.start_nodes().await?;
        let client = stack.client(0, "acme", Format::Native)?;
        for number in 0..EVENTS {
            send(stack, &client, &format!("evt-{number}"), None).await?;
        }
        stack.settled().await?;
        assert_eq!(stack.sink("main").effect_count(), EVENTS);
        for name in ["ingest", "processor"] {
            let node = if name == "ingest" { stack.ingest(0) } else { stack.processor(0) };
            let (metric, least) = (format!("{name}_spans_total"), EVENTS as f64);
            until("the spans are given up", DEADLINE, async || {
                let failed = node.metric(&metric, &[("outcome", "failed")]).await?;
                Ok((failed >= least).then_some(()))
            })
            .await?;
            assert_eq!(node.metric(&metric, &[("outcome", "exported")]).await?, 0.0);
            assert_eq!(node.log_lines("the collector takes no spans")?.len(), 1, "told once");
        }
        Ok(())
    })
    .await
}
