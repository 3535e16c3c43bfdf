//! The straight road: an event arrives at every kind of sink as it was meant.

use anyhow::{Context, Result};
use common::envelope::Format;
use http::HeaderValue;
use serde_json::Value;
use tests::client::payload;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tokio::process::Command;

/// A trace context as a sender may give it: not signed, only passed on.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_at_http_kafka_and_file_in_both_formats() -> Result<()> {
    let plan = Plan::new("happy").source("acme", &["main", "out", "disk"]);
    let plan = plan.http("main", Behaviour::good()).output("out").file("disk");
    plan.run(async |stack| {
        let ids = [("evt-native-1", Format::Native), ("evt-jwe-1", Format::Jwe)];
        for (id, format) in ids {
            let client = stack.client(0, "acme", format)?;
            let mut signed = client.prepare(id, payload(id).as_bytes())?;
            signed.headers.insert("traceparent", HeaderValue::from_static(TRACEPARENT));
            let answer = client.post(signed).await?;
            assert_eq!((answer.status, answer.says.as_str()), (200, "received"));
            stack.ledger().event("acme", id);
        }
        stack.settled().await?;

        let output = kcat(&stack.kafka().bootstrap, &stack.output_topic("out")).await?;
        let lines = stack.file_lines("disk")?;
        for (id, _) in ids {
            // The sink has verified the signature of each request; what it does not take is a violation in the books.
            let deliveries = stack.sink("main").deliveries_of(id);
            assert_eq!(deliveries.len(), 1);
            assert_eq!(deliveries[0].payload, payload(id));
            assert_eq!(deliveries[0].content_type, "application/json");
            assert_eq!(deliveries[0].traceparent.as_deref(), Some(TRACEPARENT));

            let record =
                output.iter().find(|record| record["key"] == id).context("the event is not in the output topic")?;
            assert_eq!(record["payload"], payload(id));
            let header = |name: &str| header(record, name);
            assert_eq!(header("content-type"), Some("application/json"));
            assert_eq!(header("ce_specversion"), Some("1.0"));
            assert_eq!(header("ce_id"), Some(id));
            assert_eq!(header("ce_source"), Some("acme"));
            assert_eq!(header("ce_type"), Some("order.paid"));
            assert_eq!((header("ce_traceparent"), header("traceparent")), (Some(TRACEPARENT), Some(TRACEPARENT)));
            assert_eq!(header("ce_webhookid"), Some(deliveries[0].webhook_id.as_str()));
            let time = header("ce_time").context("ce_time is missing")?;
            assert!(time.len() >= 20 && time.ends_with('Z'), "{time} is not of RFC 3339");

            let line = lines.iter().find(|line| line["id"] == id).context("the event is not in the file")?;
            assert_eq!(line["data"], serde_json::from_str::<Value>(&payload(id))?);
            assert_eq!((&line["source"], &line["type"]), (&"acme".into(), &"order.paid".into()));
            assert_eq!(line["webhook_id"], deliveries[0].webhook_id.as_str());
        }
        Ok(())
    })
    .await
}

/// Reads a topic with a client that shares no code with us: one JSON document per record.
async fn kcat(bootstrap: &str, topic: &str) -> Result<Vec<Value>> {
    let read =
        Command::new("kcat").args(["-C", "-e", "-q", "-J", "-o", "beginning", "-b", bootstrap, "-t", topic]).output();
    let output =
        read.await.context("running kcat: install the system's package kcat, or run the tests with `./x test`")?;
    anyhow::ensure!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// A header as kcat prints it: names and values in turn.
fn header<'r>(record: &'r Value, name: &str) -> Option<&'r str> {
    let words = record["headers"].as_array()?;
    words.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}
