//! What the alert rules look at is what the shipped binaries export.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::wait::until;

const RULES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/edge.rules.yml"));

/// The metrics that the rules name, each with the labels that it must have.
fn selectors() -> BTreeSet<String> {
    let is_code =
        |line: &&str| !["#", "summary:", "description:"].iter().any(|word| line.trim_start().starts_with(word));
    let code = RULES.lines().filter(is_code).collect::<Vec<_>>().join("\n");
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
        all = each.flat_map(|pair| all.iter().map(move |known| [&known[..], &[pair.clone()]].concat())).collect();
    }
    (name, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_and_label_of_the_rules_is_exported() -> Result<()> {
    let selectors = selectors();
    ensure!(selectors.len() >= 13, "{selectors:?}");
    Plan::new("alerts")
        .source("acme", &["main"])
        .http("main", Behaviour::good())
        .run(async |stack| {
            let client = stack.client(0, "acme", Format::Native)?;
            client.send("evt-alert").await?;
            client.send("evt-alert").await?;
            let mut missing = Vec::new();
            let found = until("every series is there", Duration::from_secs(30), async || {
                let text = [stack.ingest(0).metrics().await?, stack.processor(0).metrics().await?].concat();
                missing.clear();
                for selector in &selectors {
                    let (name, all) = parts(selector);
                    let lacks = |matchers: &Vec<_>| !text.lines().any(|line| fits(line, name, matchers));
                    missing.extend(all.into_iter().filter(lacks).map(|matchers| (name.to_owned(), matchers)));
                }
                Ok(missing.is_empty().then_some(()))
            });
            let found = found.await;
            found.with_context(|| format!("{missing:?}"))
        })
        .await
}
