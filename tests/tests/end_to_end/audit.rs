//! `sealstream audit`: nothing is missing, from Kafka alone, while events are under way and processors are killed.
//!
//! Besides, every test's stack is audited at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use common::envelope::Format;
use common::kafka::consumer::{Commit, TopicPartition, commit_from_outside, committed};
use common::secret::Secret;
use common::topics::Topic;
use open::Key;
use serde_json::{Value, json};
use tests::load::{Load, LoadPlan};
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;
use tests::wait::{until, until_true};

use super::operator::ended;

const KILLS: usize = 6;
const PERMITS: usize = 32;
/// How long the work that a kill waits for may take.
const WORK_DEADLINE: Duration = Duration::from_secs(60);
/// How long the brokers may take to forget members that have left.
const LEAVE_DEADLINE: Duration = Duration::from_secs(60);

/// Whether the audit holds by its exit status, and what it prints.
async fn audit(stack: &Stack) -> Result<(bool, Value)> {
    let config = stack.dir().join("processor-0.toml").display().to_string();
    let output = ended(&["audit", "--json", "--config", &config], &[]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let value: Value = serde_json::from_slice(&output.stdout).with_context(|| said)?;
    assert_eq!(value["holds"], output.status.success(), "{value}");
    Ok((output.status.success(), value))
}

/// What a group counts, by its name without the prefix.
fn group<'a>(audit: &'a Value, name: &str) -> &'a Value {
    let groups = audit["groups"].as_array().expect("there are groups");
    let is_it = |group: &&Value| group["group"].as_str().is_some_and(|found| found.ends_with(&format!(".{name}")));
    groups.iter().find(is_it).expect("the group is one of them")
}

/// How often something ended so in a group.
fn count(audit: &Value, name: &str, outcome: &str) -> u64 {
    group(audit, name)["completed"].pointer(outcome).and_then(Value::as_u64).unwrap_or_default()
}

/// The sum over all outcomes, of each partition of each group.
fn sums(audit: &Value) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for group in audit["groups"].as_array().expect("there are groups") {
        for at in group["partitions"].as_array().expect("there are partitions") {
            let mut completed = at["completed"].as_object().expect("outcomes are named").clone();
            let dead = completed.remove("dead").and_then(|dead| dead.as_object().cloned()).unwrap_or_default();
            let sum: i64 = completed.values().chain(dead.values()).filter_map(Value::as_i64).sum();
            let number = |key: &str| at[key].as_i64().expect("it is a number");
            assert_eq!(number("end") - number("start"), sum + number("open"), "{at}");
            sums.insert(format!("{} {} {}", group["group"], at["topic"], at["partition"]), sum);
        }
    }
    sums
}

/// Commits in the place of a group's processors, once the brokers know that they have left.
async fn commit(stack: &Stack, group: &str, commit: Commit) -> Result<()> {
    until("the brokers take a commit from outside", LEAVE_DEADLINE, async || {
        let (kafka, group, commits) = (stack.kafka().clone(), group.to_owned(), vec![commit.clone()]);
        let answer = tokio::task::spawn_blocking(move || commit_from_outside(&kafka, &group, &commits)).await?;
        Ok(answer.ok())
    })
    .await
}

/// What becomes of an event, told by its number: 1 in 40 is refused, 1 in 40 never taken.
fn by_number(arrival: Arrival<'_>) -> Reply {
    match number(arrival.event_id) % 40 {
        7 => Reply::status(400),
        8 => Reply::status(500),
        _ => Reply::OK,
    }
}

fn number(event_id: &str) -> u64 {
    event_id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_equation_holds_while_processors_are_killed_and_the_sums_are_what_was_sent() -> Result<()> {
    const UNOPENABLE: usize = 3;
    const OF_ANOTHER_SINK: usize = 5;
    let plan = Plan::new("audit").processors(2).permits(PERMITS).repeats_max(KILLS * PERMITS * 3);
    let plan = plan.source("acme", &["main"]).source("beta", &["disk"]);
    let plan = plan.http("main", Behaviour::by_rule(by_number).slow(20..=60)).file("disk");
    plan.run(async |stack| {
        let sink = stack.sink("main");
        let config = stack.sender_config(0, "acme", Format::Native)?;
        let unopenable =
            stack.client_of(sender::Config { key: Key::try_from(&Secret::from(vec![7; 32]))?, ..config })?;
        for number in 0..UNOPENABLE {
            let signed = unopenable.prepare("evt", format!("{{\"id\":\"evt-{number}\"}}").as_bytes())?;
            assert!(unopenable.post(signed).await?.is_ok(), "ingest cannot see what is wrong with it");
        }
        let of_another_sink = stack.client(0, "beta", Format::Jwe)?;
        for number in 0..OF_ANOTHER_SINK {
            of_another_sink.send(&format!("evt-beta-{number}")).await?;
        }
        let ahead_of = Some((sink.clone(), 500));
        let load = Load::start(
            stack.clients("acme")?,
            LoadPlan { ids: "evt-audit", in_flight: 16, repeat_every: 7, ahead_of, rate: None },
        );
        let mut before = BTreeMap::new();
        let mut open_seen = false;
        for kill in 0..KILLS {
            let victim = kill % 2;
            let enough = sink.effect_count() + usize::try_from(stack.seed().within(50..=200))?;
            until_true("more events arrive at the sink", WORK_DEADLINE, || sink.effect_count() >= enough).await?;
            until_true("dispatches are under way", WORK_DEADLINE, || sink.in_flight() >= PERMITS / 4).await?;
            for killed in [false, true] {
                if killed {
                    stack.processor(victim).kill().await?;
                }
                let (holds, found) = audit(stack).await?;
                assert!(holds, "{found}");
                open_seen |= found["open"].as_i64() > Some(0);
                let sums = sums(&found);
                let is_less = |(at, sum): (&String, &i64)| sums[at] < *sum;
                assert!(!before.iter().any(is_less), "a count went back: {before:?}, {sums:?}");
                before = sums;
            }
            stack.processor(victim).up().await?;
        }
        assert!(open_seen, "no audit met anything that was under way");
        let acked = load.stop().await?;
        stack.settled().await?;
        stack.balance().await?;

        let (holds, found) = audit(stack).await?;
        assert!(holds, "{found}");
        sums(&found);
        let (inbox, events) = (stack.records(&Topic::Inbox).await?.len(), stack.records(&Topic::Events).await?.len());
        let of_kind = |kind: u64| (0..acked).filter(|number| number % 40 == kind).count() as u64;
        let (refused, exhausted) = (of_kind(7), of_kind(8));
        assert!(refused > 0 && exhausted > 0, "{acked} events were too few");
        assert_eq!(
            group(&found, "router")["completed"],
            json!({ "routed": inbox - UNOPENABLE, "dead": { "open_failed": UNOPENABLE } })
        );
        // Copies that the router wrote twice are repeats, whatever was killed.
        let repeats = events as u64 - acked - OF_ANOTHER_SINK as u64;
        let of_disk = json!({ "delivered": OF_ANOTHER_SINK, "repeat": repeats, "passed": acked });
        assert_eq!(group(&found, "deliver.disk")["completed"], of_disk);
        assert!(group(&found, "retry.disk")["completed"].as_object().is_some_and(serde_json::Map::is_empty));
        // A dispatch that took too long is one more that is parked, and delivered from its lane.
        let first = |outcome| count(&found, "deliver.main", outcome);
        let again = |outcome| count(&found, "retry.main", outcome);
        assert_eq!((first("/repeat"), first("/passed")), (repeats, OF_ANOTHER_SINK as u64));
        assert_eq!(first("/delivered") + first("/parked") + first("/dead/refused"), acked);
        assert_eq!(first("/delivered") + again("/delivered"), acked - refused - exhausted);
        assert_eq!(first("/dead/refused") + again("/dead/refused"), refused);
        assert_eq!((first("/dead/exhausted"), again("/dead/exhausted")), (0, exhausted));
        assert_eq!(found["open"], 0);
        for flow in found["flows"].as_array().context("there are flows")? {
            assert_eq!(flow["is_complete"], true, "{flow}");
        }
        Ok(())
    })
    .await
}

/// What does not add up is named, and stays so: a processor that goes on counts from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_counts_wrongly_is_named_and_is_not_forgotten() -> Result<()> {
    const PARTITION: i32 = 3;
    let plan = Plan::new("audit-wrong").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        let mut sent = 0;
        let mut send = async |count: usize| -> Result<()> {
            for _ in 0..count {
                client.send(&format!("evt-{sent}")).await?;
                sent += 1;
            }
            Ok(())
        };
        send(40).await?;
        stack.settled().await?;
        assert!(audit(stack).await?.0);
        stack.processor(0).stop().await?;

        let topic = stack.topic_name(&Topic::Events);
        let name = format!("{}.deliver.main", stack.prefix());
        let partitions = i32::try_from(stack.config().topics.partitions)?;
        let stored = {
            let (kafka, name, topic) = (stack.kafka().clone(), name.clone(), topic.clone());
            tokio::task::spawn_blocking(move || committed(&kafka, &name, &topic, partitions)).await??
        };
        let (base, genuine) = stored[usize::try_from(PARTITION)?].clone();
        let base = base.context("the group has an offset")?;
        let at = TopicPartition { topic: topic.as_str().into(), partition: PARTITION };
        let of = |base: i64, metadata: &str| Commit { at: at.clone(), base, metadata: metadata.to_owned() };
        let wrong = |found: &Value| {
            let partitions = group(found, "deliver.main")["partitions"].as_array().cloned().unwrap_or_default();
            let wrong = partitions.into_iter().filter(|at| at["holds"] == false);
            wrong
                .map(|at| (at["partition"].clone(), at["wrong"].as_str().unwrap_or_default().to_owned()))
                .collect::<Vec<_>>()
        };

        let counted = genuine.strip_prefix("2::0d").context("all of it was delivered")?.parse::<u64>()?;
        for (metadata, why) in [
            (format!("2::0d{}", counted + 1), format!("{} completions are counted where {counted}", counted + 1)),
            (format!("2::0d{}", counted - 1), format!("{} completions are counted where {counted}", counted - 1)),
            (format!("2:Bg:0d{}", counted + 2), "the log ends at".to_owned()),
            ("nonsense".to_owned(), "not of a form known here".to_owned()),
        ] {
            commit(stack, &name, of(base, &metadata)).await?;
            let (holds, found) = audit(stack).await?;
            assert!(!holds, "{metadata}: {found}");
            let wrong = wrong(&found);
            assert!(
                matches!(&wrong[..], [(at, said)] if at == PARTITION && said.contains(&why)),
                "{metadata}: {wrong:?}"
            );
        }
        // The text names it, too.
        let config = stack.dir().join("processor-0.toml").display().to_string();
        let output = ended(&["audit", "--config", &config], &[]).await?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains(&format!("{topic}-{PARTITION}")) && text.contains("not of a form known here"), "{text}");

        commit(stack, &name, of(base, &format!("2::0d{}", counted + 1))).await?;
        stack.processor(0).up().await?;
        send(40).await?;
        stack.settled().await?;
        let (holds, found) = audit(stack).await?;
        assert!(!holds && wrong(&found).len() == 1, "it was not forgotten: {found}");

        // Committed without counts, counting begins anew; that is the remedy.
        stack.processor(0).stop().await?;
        let base = group(&found, "deliver.main")["partitions"][usize::try_from(PARTITION)?]["committed"].as_i64();
        commit(stack, &name, of(base.context("it is a number")?, "")).await?;
        let (holds, found) = audit(stack).await?;
        assert!(holds, "{found}");
        stack.processor(0).up().await
    })
    .await
}
