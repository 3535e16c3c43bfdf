//! A transactional Kafka sink: whoever reads committed records sees each event once, whatever dies.
//!
//! Output topics are read with kcat, at both isolation levels. What a reader of uncommitted records sees more is the
//! control: it shows that the kills met transactions that were open.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::envelope::Format;
use common::record::{Reason, Retry};
use common::topics::Topic;
use processor::audit::{GroupAccount, count};
use processor::outcome::Outcome;
use tests::broker::OwnBroker;
use tests::load::{Load, LoadPlan};
use tests::plan::Plan;
use tests::stack::Stack;
use tests::topic::{Record, ends, owned};
use tests::wait::until;
use tokio::process::Command;

const KILLS: usize = 20;
/// Events that are redriven, and records that are forged, for each kill.
const HANDED_ON: usize = 10;
/// Requests under way: few, because nothing else holds the senders back, and the books read all of it.
const IN_FLIGHT: usize = 2;
/// How long the work that a kill waits for may take.
const WORK_DEADLINE: Duration = Duration::from_secs(120);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
enum Isolation {
    Committed,
    Uncommitted,
}

/// How often each event is in the output, by its id.
async fn seen(stack: &Stack, isolation: Isolation) -> Result<BTreeMap<String, usize>> {
    let level = match isolation {
        Isolation::Committed => "isolation.level=read_committed",
        Isolation::Uncommitted => "isolation.level=read_uncommitted",
    };
    let (bootstrap, topic) = (stack.kafka().bootstrap.clone(), stack.output_topic("out"));
    let read = Command::new("kcat")
        .args(["-C", "-e", "-q", "-o", "beginning", "-f", "%k\n", "-X", level, "-b", &bootstrap, "-t", &topic])
        .output();
    let output =
        read.await.context("running kcat: install the system's package kcat, or run the tests with `./x test`")?;
    ensure!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    let mut seen = BTreeMap::new();
    for id in std::str::from_utf8(&output.stdout)?.lines() {
        *seen.entry(id.to_owned()).or_default() += 1;
    }
    Ok(seen)
}

/// The end of what a reader of committed records sees of the output.
async fn visible_end(stack: &Stack) -> Result<i64> {
    Ok(ends(stack.kafka(), vec![stack.output_topic("out")], 1).await?[0][0])
}

async fn visible_end_moves(stack: &mut Stack, by: i64) -> Result<()> {
    let enough = visible_end(stack).await? + by;
    until("more events become visible", WORK_DEADLINE, async || {
        stack.supervise()?;
        Ok((visible_end(stack).await? >= enough).then_some(()))
    })
    .await
}

/// A record of `events` as a redrive would hand it to the sink's first retry lane: to be delivered once more.
fn redriven(stack: &Stack, record: &Record) -> Result<(Topic, Record)> {
    let keys = stack.materials().core_keys()?;
    let mut head = keys.open(&Topic::Events, record.headers(), &record.value)?;
    let sink = "out".parse()?;
    head.retry = Some(Retry { sink, first_seen_ms: record.time_ms, redrive: 1, attempt: 0, hop: 0, due_ms: None });
    let lane = stack.config().retry_topics(&"out".parse()?).next().context("there is a retry lane")?;
    let headers = owned(keys.seal(&lane, &head, &record.value).iter());
    Ok((lane, Record { headers, ..record.clone() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_a_reader_of_committed_records_sees_each_event_once() -> Result<()> {
    const AGAIN: usize = KILLS * HANDED_ON;
    let plan = Plan::new("txn-kills").source("acme", &["out"]).transactional("out").permits(1024).repeats_max(AGAIN);
    plan.run(async |stack| {
        // First what is redriven later: the same events, to be seen once more.
        let clients = stack.clients("acme")?;
        for number in 0..AGAIN {
            clients[number % clients.len()].send(&format!("evt-again-{number}")).await?;
        }
        stack.settled().await?;
        let again = stack.records(&Topic::Events).await?;
        assert_eq!(again.len(), AGAIN);

        let plan = LoadPlan { ids: "evt-txn", in_flight: IN_FLIGHT, repeat_every: 7, ahead_of: None, rate: None };
        let load = Load::start(stack.clients("acme")?, plan);
        for share in again.chunks(HANDED_ON) {
            for record in share {
                let (lane, redriven) = redriven(stack, record)?;
                stack.inject(&lane, Some(record.partition), &redriven).await?;
                let forged = Record { value: b"forged".to_vec(), ..record.clone() };
                stack.inject(&Topic::Events, Some(record.partition), &forged).await?;
            }
            let by = i64::try_from(stack.seed().within(20..=100))?;
            visible_end_moves(stack, by).await?;
            stack.processor(0).kill().await?;
            stack.processor(0).up().await?;
        }
        let acked = load.stop().await?;
        stack.settled().await?;

        let committed = seen(stack, Isolation::Committed).await?;
        let times = |id: &str| if id.starts_with("evt-again-") { 2 } else { 1 };
        let wrong: Vec<_> = committed.iter().filter(|(id, count)| **count != times(id)).take(10).collect();
        assert!(wrong.is_empty(), "not seen as often as delivered: {wrong:?}");
        assert_eq!(committed.len() as u64, acked + AGAIN as u64, "none is missing");
        let letters = stack.letters().await?;
        let forged: std::collections::BTreeSet<_> =
            letters.iter().map(|letter| (letter.failure.origin.partition, letter.failure.origin.offset)).collect();
        assert!(letters.iter().all(|letter| letter.failure.reason == Reason::BadMac));
        assert_eq!((letters.len(), forged.len()), (AGAIN, AGAIN), "each forged record is dead once");

        let (total, all) = (committed.values().sum::<usize>(), seen(stack, Isolation::Uncommitted).await?);
        let uncommitted = all.values().sum::<usize>();
        // The counts are part of the transactions, too.
        let audit = stack.audit().await?;
        let delivered = |group: &GroupAccount| count(&group.partitions, Outcome::Delivered);
        assert_eq!(audit.groups.iter().map(delivered).sum::<u64>(), total as u64, "{audit:?}");
        eprintln!("{KILLS} kills: {acked} events, {total} records committed, {uncommitted} written");
        assert!(
            uncommitted > total,
            "no kill met an open transaction: {uncommitted} records, {total} of them committed"
        );
        Ok(())
    })
    .await
}

// A rebalance may end a member whose transaction it meets: its offsets are of an earlier generation. Hence the supervision.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_one_by_one_under_load_processors_show_each_event_once() -> Result<()> {
    let plan = Plan::new("txn-rolling").processors(3).source("acme", &["out"]).transactional("out").supervised();
    plan.run(async |stack| {
        let plan = LoadPlan { ids: "evt-roll", in_flight: IN_FLIGHT, repeat_every: 7, ahead_of: None, rate: None };
        let load = Load::start(stack.clients("acme")?, plan);
        stack.spread(async || Ok(())).await?;
        for number in 0..stack.processor_count() {
            visible_end_moves(stack, 50).await?;
            stack.processor(number).stop().await?;
            stack.processor(number).up().await?;
        }
        visible_end_moves(stack, 50).await?;
        let acked = load.stop().await?;
        stack.settled().await?;
        let committed = seen(stack, Isolation::Committed).await?;
        assert!(committed.values().all(|count| *count == 1), "{committed:?}");
        assert_eq!(committed.len() as u64, acked);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_stopped_or_killed_and_started_again_transactions_go_on() -> Result<()> {
    let broker = OwnBroker::start().await?;
    let plan = Plan::new("txn-outage").kafka(broker.kafka()).ack_deadline(Duration::from_secs(2));
    let plan = plan.source("acme", &["out"]).transactional("out").supervised();
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for stop in [true, false] {
            client.send(&format!("evt-before-{stop}")).await?;
            becomes_visible(stack, &format!("evt-before-{stop}")).await?;
            if stop {
                broker.stop().await?;
            } else {
                broker.kill().await?;
            }
            broker.restart().await?;
            client.persist(&format!("evt-after-{stop}")).await?;
            becomes_visible(stack, &format!("evt-after-{stop}")).await?;
        }
        stack.settled().await?;
        let committed = seen(stack, Isolation::Committed).await?;
        assert!(committed.len() == 4 && committed.values().all(|count| *count == 1), "{committed:?}");
        Ok(())
    })
    .await?;
    broker.end().await
}

async fn becomes_visible(stack: &mut Stack, id: &str) -> Result<()> {
    until("an event is visible", RECOVERY_DEADLINE, async || {
        stack.supervise()?;
        Ok(seen(stack, Isolation::Committed).await?.contains_key(id).then_some(()))
    })
    .await
}
