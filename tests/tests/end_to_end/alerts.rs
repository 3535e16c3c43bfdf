//! What the alert rules and the dashboard look at is what the shipped binaries export.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use tests::plan::Plan;
use tests::sink::{Behaviour, Reply};
use tests::stack::Stack;
use tests::wait::until;

const EDGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/edge.rules.yml"));

const DELIVERY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/delivery.rules.yml"));

const DASHBOARD: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/dashboards/overview.json"));

/// Rules without what is said about them.
fn code(rules: &str) -> String {
    let is_code =
        |line: &&str| !["#", "summary:", "description:"].iter().any(|word| line.trim_start().starts_with(word));
    rules.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The dashboard's queries.
fn queries() -> Result<String> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    Ok(queries.join("\n"))
}

/// The metrics that queries name, each with the labels that it must have.
fn selectors(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for prefix in ["ingest_", "processor_"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_ascii_alphanumeric() || before == '_' {
                continue;
            }
            let rest = &code[at..];
            let name_len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let labels_len = match rest[name_len..].starts_with('{') {
                true => rest[name_len..].find('}').map_or(0, |end| end + 1),
                false => 0,
            };
            found.insert(rest[..name_len + labels_len].to_owned());
        }
    }
    found
}

/// Whether a line of `/metrics` is a series of this selector. Of `a|b` each part has to be there: see [`parts`]. What is not
/// looked at by its value has to have one.
fn fits(line: &str, name: &str, matchers: &[(String, String)]) -> bool {
    let Some((series, _value)) = line.rsplit_once(' ') else { return false };
    let (found, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = format!(",{}", labels.trim_end_matches('}'));
    let fits = |(label, value): &(String, String)| match (label.strip_suffix('!'), value.strip_suffix(".*")) {
        (Some(label), _) => labels.contains(&format!(",{label}=\"")),
        (None, Some(beginning)) => labels.contains(&format!(",{label}=\"{beginning}")),
        (None, None) => format!("{labels},").contains(&format!(",{label}=\"{value}\",")),
    };
    found == name && matchers.iter().all(fits)
}

/// A selector's name, and the labels of each series that it must find: one for each alternative.
fn parts(selector: &str) -> (&str, Vec<Vec<(String, String)>>) {
    let (name, labels) = selector.split_once('{').unwrap_or((selector, "}"));
    let mut all = vec![Vec::new()];
    for matcher in labels.trim_end_matches('}').split("\",").filter(|matcher| !matcher.is_empty()) {
        let (label, value) = matcher.split_once('=').expect("a matcher has a value");
        let values = value.trim_start_matches('~').trim_matches('"');
        let each = values.split('|').map(|value| (label.to_owned(), value.to_owned()));
        all = each
            .flat_map(|pair| all.iter().map(move |known| [&known[..], std::slice::from_ref(&pair)].concat()))
            .collect();
    }
    (name, all)
}

/// Waits until a stack's ingest and processor export a series for each selector.
async fn exported(stack: &mut Stack, selectors: &BTreeSet<String>) -> Result<()> {
    let mut missing = Vec::new();
    let found = until("every series is there", Duration::from_secs(30), async || {
        let text = [stack.ingest(0).metrics().await?, stack.processor(0).metrics().await?].concat();
        missing.clear();
        for selector in selectors {
            let (name, all) = parts(selector);
            let lacks = |matchers: &Vec<_>| !text.lines().any(|line| fits(line, name, matchers));
            missing.extend(all.into_iter().filter(lacks).map(|matchers| (name.to_owned(), matchers)));
        }
        Ok(missing.is_empty().then_some(()))
    });
    found.await.with_context(|| format!("{missing:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_and_label_of_the_rules_is_exported() -> Result<()> {
    let selectors = selectors(&code(EDGE));
    ensure!(selectors.len() >= 13, "{selectors:?}");
    Plan::new("alerts")
        .source("acme", &["main"])
        .http("main", Behaviour::good())
        .run(async |stack| {
            let client = stack.client(0, "acme", Format::Native)?;
            client.send("evt-alert").await?;
            client.send("evt-alert").await?;
            exported(stack, &selectors).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_dashboard_and_of_the_rules_of_delivery_is_exported() -> Result<()> {
    let selectors = selectors(&[queries()?, code(DELIVERY)].join("\n"));
    ensure!(selectors.len() >= 24, "{selectors:?}");
    // One event is parked once, one dies.
    let sink = Behaviour::by_rule(|arrival| match (arrival.event_id, arrival.attempt) {
        ("evt-bad", _) => Reply::status(400),
        (_, 1) => Reply::status(503),
        _ => Reply::OK,
    });
    Plan::new("dashboard")
        .source("acme", &["main"])
        .http("main", sink)
        .run(async |stack| {
            let client = stack.client(0, "acme", Format::Native)?;
            client.send("evt-good").await?;
            client.send("evt-bad").await?;
            stack.settled().await?;
            exported(stack, &selectors).await?;

            // What they say: nothing is left, and what was opened was opened with the one key.
            let processor = stack.processor(0);
            let ended = until("no lag is left", Duration::from_secs(30), async || {
                let lag = processor.metric("processor_lag_records", &[]).await?;
                let open = processor.metric("processor_in_flight_records", &[]).await?;
                Ok((lag == 0.0 && open == 0.0).then_some(()))
            });
            ended.await?;
            let value = async |name: &str, labels: &[(&str, &str)]| processor.metric(name, labels).await;
            assert_eq!(value("processor_messages_opened_total", &[("source", "acme"), ("key", "k1")]).await?, 2.0);
            assert_eq!(value("processor_retry_lateness_seconds_count", &[("sink", "main")]).await?, 1.0);
            assert_eq!(
                value("processor_retry_lateness_seconds_bucket", &[("sink", "main"), ("le", "86400")]).await?,
                1.0
            );
            let window = value("processor_index_window_covered_seconds", &[("lane", "events"), ("sink", "main")]);
            assert_eq!(window.await?, 3600.0);
            assert_eq!(value("processor_partitions_owned", &[("lane", "events"), ("sink", "main")]).await?, 6.0);
            assert!(value("processor_rebalances_total", &[("kind", "assigned"), ("lane", "inbox")]).await? >= 1.0);
            let text = [stack.ingest(0).metrics().await?, stack.processor(0).metrics().await?].concat();
            let named: BTreeSet<&str> =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
            let described: BTreeSet<&str> =
                text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
            let bare: Vec<_> = named.difference(&described).collect();
            assert!(bare.is_empty(), "without a description: {bare:?}");
            Ok(())
        })
        .await
}
