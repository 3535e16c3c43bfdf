//! `sealstream trace` and `sealstream tail`, on the life of real events.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use serde_json::{Value, json};
use tests::client::payload;
use tests::environment::binary;
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;
use tokio::process::Command;

use super::operator::{ended, sealstream};

const DEADLINE: Duration = Duration::from_secs(60);

/// The sink of these tests: the event says how often it is to fail.
fn told_by_the_id(arrival: Arrival<'_>) -> Reply {
    match arrival.event_id.split('-').next() {
        Some("bad") => Reply::status(400),
        Some("never") => Reply::status(500),
        Some("later") if arrival.attempt == 1 => Reply::status(503),
        _ => Reply::OK,
    }
}

fn config(stack: &Stack) -> String {
    stack.dir().join("processor-0.toml").display().to_string()
}

/// What `trace` says of an event of acme.
async fn trace(stack: &Stack, id: &str) -> Result<Value> {
    let config = config(stack);
    let printed = sealstream(&["trace", id, "--source", "acme", "--config", &config, "--json"], &[]).await?;
    ensure!(!printed.contains("canary"), "no payload: {printed}");
    Ok(serde_json::from_str(&printed)?)
}

/// The steps of a life: topic, what happened, and the attempt.
fn steps(life: &Value) -> Vec<(String, &str, Option<u64>)> {
    let steps = life["timeline"].as_array().into_iter().flatten();
    steps
        .map(|step| {
            let topic = step["topic"].as_str().unwrap_or_default().to_owned();
            (topic, step["what"].as_str().unwrap_or_default(), step["attempt"].as_u64())
        })
        .collect()
}

fn step(topic: &str, what: &'static str, attempt: Option<u64>) -> (String, &'static str, Option<u64>) {
    (topic.to_owned(), what, attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_event_is_told_whatever_became_of_it() -> Result<()> {
    let plan = Plan::new("lives").source("acme", &["main"]).attempts_max(2);
    let plan = plan.http("main", Behaviour::by_rule(told_by_the_id));
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for id in ["good-1", "later-1", "bad-1", "never-1", "twice-1"] {
            client.send(id).await?;
        }
        stack.settled().await?;
        client.send("twice-1").await?;
        stack.settled().await?;

        let good = trace(stack, "good-1").await?;
        assert_eq!(steps(&good), [step("inbox", "accepted", None), step("events", "copied", None)]);
        let fate = &good["sinks"][0];
        assert_eq!(
            (&fate["sink"], &fate["state"], &fate["attempts"]),
            (&json!("main"), &json!("delivered"), &json!(1))
        );
        let delivery = &stack.sink("main").deliveries_of("good-1")[0];
        assert_eq!(good["webhook_id"], delivery.webhook_id.as_str());

        let later = trace(stack, "later-1").await?;
        let parked = step("retry.main.1s", "parked", Some(1));
        assert_eq!(steps(&later), [step("inbox", "accepted", None), step("events", "copied", None), parked.clone()]);
        assert_eq!((&later["sinks"][0]["state"], &later["sinks"][0]["attempts"]), (&json!("delivered"), &json!(2)));

        let bad = trace(stack, "bad-1").await?;
        assert_eq!(steps(&bad)[2..], [step("dead", "dead", Some(1))]);
        let letter = &bad["timeline"][2];
        assert_eq!((&letter["reason"], &letter["status"]), (&json!("refused"), &json!(400)));
        assert_eq!((&bad["sinks"][0]["state"], &bad["sinks"][0]["reason"]), (&json!("dead"), &json!("refused")));

        let never = trace(stack, "never-1").await?;
        assert_eq!(steps(&never)[2..], [parked, step("dead", "dead", Some(2))]);
        assert_eq!((&never["sinks"][0]["state"], &never["sinks"][0]["attempts"]), (&json!("dead"), &json!(2)));

        let twice = trace(stack, "twice-1").await?;
        let whats: Vec<_> = steps(&twice).into_iter().map(|(topic, what, _)| format!("{topic} {what}")).collect();
        assert_eq!(whats, ["inbox accepted", "events copied", "inbox accepted", "events repeat"]);
        let (first, repeat) = (&twice["timeline"][1], &twice["timeline"][3]);
        assert_eq!((&repeat["of"], &repeat["partition"]), (&first["offset"], &first["partition"]));
        assert_eq!(twice["sinks"].as_array().map(Vec::len), Some(1), "a repeat goes to no sink");

        // By what logs and sinks know it by, for people, and without finding anything.
        let config = config(stack);
        let by_webhook_id = sealstream(&["trace", &delivery.webhook_id, "--config", &config, "--json"], &[]).await?;
        assert_eq!(serde_json::from_str::<Value>(&by_webhook_id)?["timeline"], good["timeline"]);
        let people = sealstream(&["trace", "never-1", "--source", "acme", "--config", &config], &[]).await?;
        for word in ["accepted by ingest", "parked until", "dead, exhausted (status 500)", "attempts 2"] {
            assert!(people.contains(word), "{word} is not in\n{people}");
        }
        let nothing = ended(&["trace", "evt-none", "--source", "acme", "--config", &config, "--json"], &[]).await?;
        let said = String::from_utf8_lossy(&nothing.stderr);
        assert!(nothing.status.code() == Some(1) && said.contains("has no record of it since"), "{said}");
        assert_eq!(serde_json::from_slice::<Value>(&nothing.stdout)?["found"], false);
        let unnamed = ended(&["trace", "good-1", "--config", &config], &[]).await?;
        assert!(!unnamed.status.success() && String::from_utf8_lossy(&unnamed.stderr).contains("--source"));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_redrive_brought_back_has_two_lives_at_its_sink() -> Result<()> {
    let plan = Plan::new("lives-again").source("acme", &["main"]).http("main", Behaviour::by_rule(told_by_the_id));
    plan.run(async |stack| {
        stack.client(0, "acme", Format::Jwe)?.send("bad-1").await?;
        stack.settled().await?;
        stack.sink("main").behave(Behaviour::good());
        sealstream(&["redrive", "--config", &config(stack), "--yes"], &[]).await?;
        stack.settled().await?;
        let life = trace(stack, "bad-1").await?;
        let whats: Vec<_> = steps(&life).into_iter().map(|(_, what, _)| what).collect();
        assert_eq!(whats[..3], ["accepted", "copied", "dead"]);
        let rest: std::collections::BTreeSet<_> = whats[3..].iter().copied().collect();
        assert_eq!(rest, ["parked", "redriven"].into(), "the record and the marker of one transaction");
        assert_eq!(life["sinks"][0]["state"], "delivered");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_shown_only_when_that_is_said_and_who_looked_is_logged() -> Result<()> {
    let plan = Plan::new("tail").source("acme", &["main"]).source("beta", &["other"]);
    let plan = plan.http("main", Behaviour::by_rule(told_by_the_id)).http("other", Behaviour::good());
    plan.run(async |stack| {
        stack.client(0, "acme", Format::Native)?.send("evt-1").await?;
        stack.client(0, "acme", Format::Jwe)?.send("bad-2").await?;
        stack.client(0, "beta", Format::Jwe)?.send("evt-3").await?;
        stack.settled().await?;
        let config = config(stack);
        let tail = async |more: &[&str]| {
            let words = [&["tail", "--config", &config, "--from-beginning", "--json"], more].concat();
            let output = ended(&words, &[]).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{said}");
            Ok((String::from_utf8(output.stdout)?, said))
        };
        let (printed, said) = tail(&["--limit", "3"]).await?;
        let hidden: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(hidden.len(), 3);
        assert!(!printed.contains("canary") && !printed.contains("evt-") && !printed.contains("bad-2"), "{printed}");
        assert!(hidden.iter().all(|line| line["trusted"] == true && line["keyed_id"].is_string()));
        assert!(said.contains("records are looked at") && said.contains("reveals_payloads=false"), "{said}");

        let (printed, said) = tail(&["--limit", "2", "--source", "acme", "--reveal-payloads"]).await?;
        let mut shown: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        shown.sort_by_key(|line| line["id"].to_string());
        for (line, id) in shown.iter().zip(["bad-2", "evt-1"]) {
            let data: Value = serde_json::from_str(&payload(id))?;
            assert_eq!((&line["id"], &line["data"], &line["type"]), (&json!(id), &data, &json!("order.paid")));
        }
        let uid = format!("uid={}", nix::unistd::Uid::current());
        for word in ["records are looked at", "reveals_payloads=true", "source=\"acme\"", &uid, ".events\""] {
            assert!(said.contains(word), "{word} is not in {said}");
        }

        let (letters, _) = tail(&["--limit", "1", "--topic", "dead", "--sink", "main"]).await?;
        let letter: Value = serde_json::from_str(&letters)?;
        assert_eq!(
            (&letter["reason"], &letter["sink"], &letter["source"]),
            (&json!("refused"), &json!("main"), &json!("acme"))
        );
        let (inbox, _) = tail(&["--limit", "1", "--topic", "inbox", "--source", "beta", "--reveal-payloads"]).await?;
        assert_eq!(serde_json::from_str::<Value>(&inbox)?["id"], "evt-3");
        let nowhere = ended(&["tail", "--config", &config, "--topic", "other"], &[]).await?;
        assert!(String::from_utf8_lossy(&nowhere.stderr).contains("retry.main.1s"), "it names those that there are");

        // Without --from-beginning, what comes from then on.
        let mut following = Command::new(binary("sealstream")?);
        following.args(["tail", "--config", &config, "--limit", "1", "--json"]).kill_on_drop(true);
        let following = following.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
        let client = stack.client(0, "beta", Format::Jwe)?;
        let mut following = Box::pin(tokio::time::timeout(DEADLINE, following.wait_with_output()));
        let mut number = 0;
        // When it begins to look, only it knows.
        let output = loop {
            client.send(&format!("evt-new-{number}")).await?;
            number += 1;
            if let Ok(output) = tokio::time::timeout(Duration::from_millis(200), &mut following).await {
                break output.context("tail does not end")??;
            }
        };
        let line: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!((&line["source"], &line["topic"]), (&json!("beta"), &json!("events")));
        Ok(())
    })
    .await
}
