//! `sealstream status`, on what real nodes count and a real Kafka holds.

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use common::kafka::consumer::Reader;
use common::topics::Topic;
use serde_json::{Value, json};
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;

use super::operator::ended;

/// Refuses what its id calls bad.
pub(super) fn refuses_bad_ones(arrival: Arrival<'_>) -> Reply {
    if arrival.event_id.starts_with("bad") { Reply::status(400) } else { Reply::OK }
}

/// The options that name a stack's configuration and its nodes.
pub(super) fn options(stack: &mut Stack) -> Vec<String> {
    let nodes = [stack.ingest(0).admin(), stack.processor(0).admin()];
    let config = stack.dir().join("processor-0.toml").display().to_string();
    let nodes = nodes.into_iter().flat_map(|admin| ["--node".to_owned(), format!("http://{admin}")]);
    ["--config".to_owned(), config].into_iter().chain(nodes).collect()
}

/// The view as JSON, and whether the command called it good.
async fn status(options: &[String], more: &[&str]) -> Result<(Value, bool)> {
    let words: Vec<&str> = [&["status", "--json", "--interval", "1s"], more].concat();
    let words: Vec<&str> = words.into_iter().chain(options.iter().map(String::as_str)).collect();
    let output = ended(&words, &[]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    let view = serde_json::from_slice(&output.stdout).with_context(|| format!("status said: {said}"))?;
    Ok((view, output.status.success()))
}

/// The lag of a group, of all its topics together.
fn lag(view: &Value, name: &str) -> Option<u64> {
    let groups = view["groups"].as_array()?;
    let ours = groups.iter().filter(|group| group["group"].as_str().is_some_and(|group| group.ends_with(name)));
    ours.map(|group| group["lag"].as_u64()).sum()
}

/// What is asked of all partitions at once is what is asked of each.
fn check_watermarks(stack: &Stack) -> Result<()> {
    let topics = [Topic::Inbox, Topic::Events, Topic::Dead].map(|topic| stack.topic_name(&topic));
    let partitions = i32::try_from(stack.config().topics.partitions)?;
    tokio::task::block_in_place(|| {
        let reader = Reader::new(stack.kafka())?;
        for (topic, all) in topics.iter().zip(reader.all_watermarks(&topics, partitions)?) {
            let each = (0..partitions).map(|partition| reader.watermarks(topic, partition));
            assert_eq!(all, each.collect::<Result<Vec<_>, _>>()?, "{topic}");
        }
        let absent = reader.all_watermarks(&["there-is-no-such-topic".to_owned()], 1);
        assert!(absent.is_err(), "{absent:?}");
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_the_nodes_count_and_what_kafka_holds() -> Result<()> {
    let plan = Plan::new("status").source("acme", &["main"]).http("main", Behaviour::by_rule(refuses_bad_ones));
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for id in ["good-1", "good-2", "bad-1"] {
            client.send(id).await?;
        }
        stack.settled().await?;
        let options = options(stack);
        let (view, good) = status(&options, &[]).await?;
        assert!(good && view["troubles"] == json!([]) && view["has_rates"] == true, "{view}");
        let states: Vec<_> =
            view["nodes"].as_array().context("nodes")?.iter().map(|node| (&node["kind"], &node["state"])).collect();
        assert_eq!(states, [(&json!("ingest"), &json!("ready")), (&json!("processor"), &json!("ready"))]);
        assert_eq!(view["edge"]["requests"]["received"], json!({ "total": 3.0, "rate": 0.0 }));
        assert_eq!(view["router"]["routed"]["total"], 3.0);
        let main = &view["sinks"][0];
        assert_eq!(
            (&main["records"]["delivered"]["total"], &main["records"]["dead"]["total"]),
            (&json!(2.0), &json!(1.0))
        );
        assert_eq!(main["breakers"], json!({ "closed": 1, "half_open": 0, "open": 0 }));
        assert_eq!(main["lanes"], json!([{ "delay": "1s", "waiting": 0 }, { "delay": "2s", "waiting": 0 }]));
        assert_eq!(view["sources"][0]["secrets"]["s1"]["total"], 3.0);
        assert_eq!(view["letters"]["by_reason"], json!({ "refused": 1 }));
        assert_eq!(view["letters"]["by_sink"], json!({ "main": 1 }));
        for group in [".router", ".deliver.main", ".retry.main"] {
            assert_eq!(lag(&view, group), Some(0), "{group}");
        }
        let ends: i64 = view["groups"][0]["partitions"]
            .as_array()
            .context("partitions")?
            .iter()
            .filter_map(|part| part["end"].as_i64())
            .sum();
        assert_eq!(ends, 3, "the ends of the inbox");

        check_watermarks(stack)?;

        // For people, and --watch without a terminal, is shown once.
        let words: Vec<&str> = ["status", "--watch"].into_iter().chain(options.iter().map(String::as_str)).collect();
        let shown = ended(&words, &[]).await?;
        let text = String::from_utf8(shown.stdout)?;
        ensure!(shown.status.success() && text.contains("dead letters: 1 wait (1 refused), 0 redriven"), "{text}");
        assert!(!text.contains('\x1b'), "no colours: {text:?}");

        // What waits is seen in Kafka, and a node that is down is told; the rest stands.
        stack.processor(0).stop().await?;
        client.send("good-3").await?;
        let (view, good) = status(&options, &[]).await?;
        assert!(!good && view["nodes"][1]["state"] == "no_answer", "{}", view["nodes"]);
        assert_eq!((lag(&view, ".router"), &view["edge"]["requests"]["received"]["total"]), (Some(1), &json!(4.0)));
        stack.processor(0).up().await
    })
    .await
}
