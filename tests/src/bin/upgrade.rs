//! Two releases beside each other: the program of `./x upgrade`; see `docs/compatibility.md`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use common::kafka::consumer::committed;
use tests::broker::OwnBroker;
use tests::environment;
use tests::load::{Load, LoadPlan};
use tests::node::Node;
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Reply};
use tests::stack::Stack;
use tests::wait::{until, until_true};

const INGESTS: usize = 2;
const PROCESSORS: usize = 3;
/// What is delivered between two steps at least.
const WORK: usize = 1000;
/// How long that may take, over the gap that a step leaves.
const WORK_DEADLINE: Duration = Duration::from_secs(60);
/// How long the brokers may take to forget members that have left.
const LEAVE_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upgrade: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let former =
        std::env::args_os().nth(1).map(PathBuf::from).context("the folder of the former release is missing")?;
    let brokers = OwnBroker::start().await?;
    let asked_to_stop = common::shutdown::Group::new().on_signals();
    // Whatever ends the work, its processes end with it.
    let outcome = tokio::select! {
        outcome = releases(&former, &brokers) => outcome,
        () = asked_to_stop => Err(anyhow::anyhow!("interrupted")),
    };
    brokers.end().await?;
    outcome
}

/// From the former release to this one, back, and to this one again, under load: each event is at its sinks once, and the
/// books balance.
async fn releases(former: &Path, brokers: &OwnBroker) -> Result<()> {
    let present = environment::binary("processor")?.parent().context("binaries are in a folder")?.to_owned();
    let plan = Plan::new("upgrade").kafka(brokers.kafka()).ingests(INGESTS).processors(PROCESSORS);
    let plan = plan.source("acme", &["main", "out"]).http("main", Behaviour::by_rule(some_later)).output("out");
    plan.run_prepared(async |stack| {
        (0..INGESTS).for_each(|number| stack.ingest(number).install(former));
        (0..PROCESSORS).for_each(|number| stack.processor(number).install(former));
        stack.start_nodes().await?;
        eprintln!("upgrade: the former release runs");
        let ahead_of = Some((stack.sink("main"), 500));
        let load = LoadPlan { ids: "evt-upgrade", in_flight: 16, repeat_every: 7, ahead_of, rate: None };
        let load = Load::start(stack.clients("acme")?, load);

        roll(stack, &present).await?;
        eprintln!("upgrade: one node after the other, this release has taken its place");
        back(stack, brokers, former).await?;
        eprintln!("upgrade: the former release is back");
        roll(stack, &present).await?;
        eprintln!("upgrade: this release has taken its place again");

        // The stack's end waits for everything, audits it and balances the books.
        load.stop().await?;
        Ok(())
    })
    .await
}

/// One event in ten is taken at its second attempt.
fn some_later(arrival: Arrival<'_>) -> Reply {
    if arrival.event_id.ends_with('3') && arrival.attempt == 1 { Reply::status(503) } else { Reply::OK }
}

/// Replaces one node after the other, processors first.
async fn roll(stack: &mut Stack, release: &Path) -> Result<()> {
    for number in 0..PROCESSORS {
        some_work(stack).await?;
        replace(stack.processor(number), release).await?;
    }
    roll_ingests(stack, release).await
}

async fn roll_ingests(stack: &mut Stack, release: &Path) -> Result<()> {
    for number in 0..INGESTS {
        some_work(stack).await?;
        replace(stack.ingest(number), release).await?;
    }
    some_work(stack).await
}

async fn replace(node: &mut Node, release: &Path) -> Result<()> {
    node.stop().await?;
    node.install(release);
    node.up().await
}

/// Ends all processors in order, repeats the commits without metadata, and starts the former ones.
async fn back(stack: &mut Stack, brokers: &OwnBroker, former: &Path) -> Result<()> {
    for number in 0..PROCESSORS {
        stack.processor(number).stop().await?;
    }
    for (group, topics) in stack.groups() {
        repeat_commits(stack, brokers, &group, &topics).await?;
    }
    for number in 0..PROCESSORS {
        let node = stack.processor(number);
        node.install(former);
        node.start()?;
    }
    for number in 0..PROCESSORS {
        stack.processor(number).ready().await?;
    }
    roll_ingests(stack, former).await
}

/// As the page says, with Kafka's own tool: again until it is done, since the brokers refuse while a member may come back.
async fn repeat_commits(stack: &Stack, brokers: &OwnBroker, group: &str, topics: &[String]) -> Result<()> {
    let words = ["--group", group, "--all-topics", "--reset-offsets", "--to-current", "--execute"].map(str::to_owned);
    let partitions = i32::try_from(stack.config().topics.partitions)?;
    until("the commits are without metadata", LEAVE_DEADLINE, async || {
        brokers.tool("kafka-consumer-groups.sh", &words).await?;
        for topic in topics {
            let (kafka, group, topic) = (stack.kafka().clone(), group.to_owned(), topic.clone());
            let stored = tokio::task::spawn_blocking(move || committed(&kafka, &group, &topic, partitions)).await??;
            if stored.iter().any(|(_, metadata)| !metadata.is_empty()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Waits until more events have arrived at the sink.
async fn some_work(stack: &Stack) -> Result<()> {
    let sink = stack.sink("main");
    let enough = sink.effect_count() + WORK;
    until_true("more events arrive at the sink", WORK_DEADLINE, || sink.effect_count() >= enough).await
}
