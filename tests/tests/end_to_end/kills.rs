//! `kill -9` under load, again and again: nothing that was answered 200 is lost, and no more is repeated than was in flight.

use std::time::Duration;

use anyhow::Result;
use common::kafka::consumer::ownerless;
use common::topics::{Group, Topic};
use tests::load::{Load, LoadPlan};
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::wait::{until, until_true};

const KILLS: usize = 20;
/// How long the work that a kill waits for may take.
const WORK_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn ingest_is_killed_under_load_and_everything_answered_200_is_in_the_log() -> Result<()> {
    // Without processors: the books compare what was answered 200 with the inbox.
    let plan =
        Plan::new("ingest-kills").ingests(2).processors(0).source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let clients = stack.clients("acme")?;
        let of_ingest = [0, 0, 1, 1];
        assert_eq!(clients.len(), of_ingest.len());
        let load = Load::start(
            clients,
            LoadPlan { ids: "evt-kill", in_flight: 32, repeat_every: 0, ahead_of: None, rate: None },
        );
        let busy = |ingest: usize| {
            let clients = (0..of_ingest.len()).filter(|client| of_ingest[*client] == ingest);
            clients.map(|client| load.under_way(client)).sum::<usize>()
        };
        for _ in 0..KILLS {
            let victim = stack.seed().choose(2);
            let enough = load.acked() + stack.seed().within(30..=300);
            until_true("more events are answered 200", WORK_DEADLINE, || load.acked() >= enough).await?;
            until_true("requests are under way at the victim", WORK_DEADLINE, || busy(victim) >= 4).await?;
            stack.ingest(victim).kill().await?;
            stack.ingest(victim).up().await?;
        }
        let attempts = load.attempts();
        let acked = load.stop().await?;
        assert!(attempts > acked, "no attempt failed: the kills met no request");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processor_is_killed_under_load_and_loses_nothing_and_repeats_at_most_its_permits() -> Result<()> {
    const PERMITS: usize = 32;
    let plan = Plan::new("processor-kills").source("acme", &["main"]).permits(PERMITS).repeats_max(KILLS * PERMITS);
    let plan = plan.http("main", Behaviour::good().slow(20..=60));
    plan.run(async |stack| {
        let sink = stack.sink("main");
        let ahead_of = Some((sink.clone(), 1000));
        let load = Load::start(
            stack.clients("acme")?,
            LoadPlan { ids: "evt-kill", in_flight: 24, repeat_every: 7, ahead_of, rate: None },
        );
        for kill in 1..=KILLS {
            let enough = sink.effect_count() + usize::try_from(stack.seed().within(20..=200))?;
            until_true("more events arrive at the sink", WORK_DEADLINE, || sink.effect_count() >= enough).await?;
            let half = PERMITS / 2;
            until_true("half of the permits are busy", WORK_DEADLINE, || sink.in_flight() >= half).await?;
            stack.processor(0).kill().await?;
            stack.processor(0).up().await?;
            let repeated: usize = sink.effects().values().map(|count| count - 1).sum();
            assert!(repeated <= kill * PERMITS, "{repeated} repeats after {kill} kills");
        }
        let acked = load.stop().await?;
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!(summary.delivered["main"] as u64, acked, "unique ids at the sink, and unique ids answered 200");
        assert!(sink.in_flight_max() <= PERMITS);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_restarted_one_by_one_under_load_without_a_repeat() -> Result<()> {
    const ROUNDS: usize = 2;
    // One sink that is sometimes wrong, so that retry lanes take part.
    let rule = |arrival: tests::sink::Arrival<'_>| match (arrival.event_id.ends_with('7'), arrival.attempt) {
        (true, 1) => tests::sink::Reply::status(503),
        _ => tests::sink::Reply::OK,
    };
    let plan = Plan::new("rolling").ingests(2).processors(3).source("acme", &["main"]);
    let plan = plan.http("main", Behaviour::by_rule(rule).slow(20..=60));
    plan.run(async |stack| {
        let sink = stack.sink("main");
        let ahead_of = Some((sink.clone(), 1000));
        let load = Load::start(
            stack.clients("acme")?,
            LoadPlan { ids: "evt-roll", in_flight: 24, repeat_every: 7, ahead_of, rate: None },
        );
        stack.spread(async || Ok(())).await?;
        for _ in 0..ROUNDS {
            for number in 0..stack.processor_count() {
                until_true("the sink is busy", WORK_DEADLINE, || sink.in_flight() >= 8).await?;
                stack.processor(number).stop().await?;
                stack.processor(number).up().await?;
                let enough = sink.effect_count() + 100;
                until_true("more events arrive at the sink", WORK_DEADLINE, || sink.effect_count() >= enough).await?;
            }
        }
        let acked = load.stop().await?;
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!(summary.delivered["main"] as u64, acked);
        // That nothing was delivered twice is in the books.
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_is_killed_while_it_gives_partitions_up_leaves_none_to_nobody() -> Result<()> {
    const PERMITS: usize = 32;
    const PARTITIONS: u32 = 6;
    // A revoke waits for what was sent, so that there is time to look: of answers that come one by one, some are always far off.
    // The place of who was killed must still be kept when it is back.
    let plan = Plan::new("ownerless").processors(2).partitions(PARTITIONS).source("acme", &["main"]);
    let plan = plan.permits(PERMITS).repeats_max(PERMITS).variable("PROCESSOR__GROUP__SESSION", "10s");
    let plan = plan.variable("PROCESSOR__SINK__DEFAULT__TIMEOUT", "6s");
    let plan = plan.http("main", Behaviour::good().slow(1000..=5500));
    plan.run_prepared(async |stack| {
        stack.ingest(0).up().await?;
        stack.processor(0).up().await?;
        let sink = stack.sink("main");
        let load = Load::start(
            stack.clients("acme")?,
            LoadPlan {
                ids: "evt-gap",
                in_flight: 16,
                repeat_every: 0,
                ahead_of: Some((sink.clone(), 200)),
                rate: None,
            },
        );
        until_true("the sink is busy", WORK_DEADLINE, || sink.in_flight() >= PERMITS / 2).await?;
        stack.processor(1).start()?;
        let group = Group::Deliver("main".parse()?).name(&stack.config().topics.prefix);
        let (kafka, topic) = (stack.kafka().clone(), stack.topic_name(&Topic::Events));
        until("processor-0 is giving partitions up", WORK_DEADLINE, async || {
            let (kafka, topic, group) = (kafka.clone(), topic.clone(), group.clone());
            let look = move || ownerless(&kafka, &group, &topic, PARTITIONS.cast_signed());
            let found = tokio::task::spawn_blocking(look).await?;
            Ok(found.ok().flatten().filter(|found| !found.is_empty()))
        })
        .await?;
        stack.processor(0).kill().await?;
        stack.processor(0).up().await?;
        sink.behave(Behaviour::good());
        let acked = load.stop().await?;
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!(summary.delivered["main"] as u64, acked);
        let again =
            (0..2).map(|number| stack.processor(number).log_lines("are nobody's")).collect::<Result<Vec<_>>>()?;
        assert!(again.iter().any(|lines| !lines.is_empty()), "another rebalance came before: nothing was shown");
        Ok(())
    })
    .await
}
