//! Sinks that are down, that ask for time, or that refuse one event for ever: nothing is lost, given up or hammered, and
//! nobody else waits.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::envelope::Format;
use common::record::Reason;
use common::topics::Topic;
use tests::load::{Load, LoadPlan};
use tests::plan::{BREAKER_PROBES, Plan};
use tests::sink::{Behaviour, RecordingSink, Reply};
use tests::stack::Stack;
use tests::wait::{until, until_true};

/// How long what a test waits for may take.
const DEADLINE: Duration = Duration::from_secs(90);

fn down() -> Behaviour {
    Behaviour::by_rule(|_| Reply::status(503))
}

async fn breaker(stack: &mut Stack, metric: &str, sink: &str) -> Result<f64> {
    stack.processor(0).metric(&format!("processor_breaker_{metric}"), &[("sink", sink)]).await
}

/// Waits until a sink's breaker has opened so many times.
async fn opened(stack: &mut Stack, sink: &str, times: f64) -> Result<()> {
    until(&format!("the breaker of {sink} has opened"), DEADLINE, async || {
        Ok((breaker(stack, "openings_total", sink).await? >= times).then_some(()))
    })
    .await
}

async fn arrived(sink: &RecordingSink, count: u64) -> Result<()> {
    until_true("every event is at the sink", DEADLINE, || sink.effect_count() as u64 >= count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_holds_up_no_other_and_gets_everything_when_it_is_mended() -> Result<()> {
    const MORE: u64 = 300;
    let plan = Plan::new("two-sinks").source("acme", &["works", "fails"]).breakers();
    let plan = plan.http("works", Behaviour::good()).http("fails", down());
    plan.run(async |stack| {
        let (works, fails) = (stack.sink("works"), stack.sink("fails"));
        let load = |stack: &Stack, ids| -> Result<Load> {
            let plan = LoadPlan { ids, in_flight: 16, repeat_every: 9, ahead_of: None, rate: None };
            Ok(Load::start(stack.clients("acme")?, plan))
        };
        let first = load(stack, "evt-one-down")?;
        opened(stack, "fails", 2.0).await?;
        // From here on one sink is shut. The other keeps up with what is accepted.
        let shut = first.acked();
        until_true("many more events are accepted", DEADLINE, || first.acked() >= shut + MORE).await?;
        let acked = first.stop().await?;
        arrived(&works, acked).await?;
        assert_eq!(works.delivery_count() as u64, acked, "each at the first dispatch");
        assert_eq!(fails.effect_count(), 0);
        let dispatched = fails.delivery_count();
        assert!((dispatched as u64) < acked / 2, "{dispatched} dispatches of {acked} events: it was not shut");
        fails.behave(Behaviour::good());
        arrived(&fails, acked).await?;
        stack.settled().await?;

        for sink in [&works, &fails] {
            sink.behave(down());
        }
        let before = breaker(stack, "openings_total", "fails").await?;
        let second = load(stack, "evt-both-down")?;
        opened(stack, "works", 2.0).await?;
        opened(stack, "fails", before + 2.0).await?;
        let more = second.stop().await?;
        for sink in [&works, &fails] {
            assert!((sink.effect_count() as u64) <= acked, "both are down");
            sink.behave(Behaviour::good());
        }
        for sink in [&works, &fails] {
            arrived(sink, acked + more).await?;
        }
        stack.settled().await?;
        let summary = stack.balance().await?;
        ensure!(summary.dead.is_empty(), "an event was given up because its sink was down: {summary}");
        assert_eq!(summary.delivered.values().map(|count| *count as u64).collect::<Vec<_>>(), [acked + more; 2]);
        Ok(())
    })
    .await
}

/// A sink is down while this many events come, and for longer than they have attempts for.
const DOWN_EVENTS: usize = 150;

fn down_plan(name: &'static str) -> Plan {
    Plan::new(name).source("acme", &["main"]).http("main", down()).attempts_max(3)
}

async fn send_all(stack: &mut Stack) -> Result<()> {
    let clients = stack.clients("acme")?;
    for number in 0..DOWN_EVENTS {
        clients[number % clients.len()].send(&format!("evt-down-{number}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_for_long_costs_no_event_its_life_and_is_only_probed() -> Result<()> {
    let plan = down_plan("long-down").breakers();
    plan.run(async |stack| {
        let sink = stack.sink("main");
        send_all(stack).await?;
        // What was under way when it first opened has ended.
        opened(stack, "main", 2.0).await?;
        let probes = async |stack: &mut Stack| breaker(stack, "probes_total", "main").await;
        let probes_before = probes(stack).await?;
        let before = sink.delivery_count();
        // In the control every event is dead after three dispatches. Here there are more rounds of probes than that.
        opened(stack, "main", 15.0).await?;
        let while_open = sink.delivery_count() - before;
        let probes_made = probes(stack).await? - probes_before;
        assert!(probes_made >= 12.0, "{probes_made}");
        // A probe that was counted before may have come after, of one round at most.
        ensure!(
            while_open as f64 <= probes_made + BREAKER_PROBES as f64,
            "{while_open} dispatches, and {probes_made} probes"
        );
        assert!(before < DOWN_EVENTS, "it opened long before each event was tried once: {before}");

        // A processor leaves in order though its records wait, and the next one finds them.
        stack.processor(0).stop().await?;
        stack.processor(0).up().await?;
        opened(stack, "main", 2.0).await?;
        assert!(stack.letters().await?.is_empty());
        assert_eq!(sink.effect_count(), 0);

        sink.behave(Behaviour::good());
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!((summary.delivered["main"], summary.dead.len()), (DOWN_EVENTS, 0), "{summary}");
        assert_eq!(breaker(stack, "state", "main").await?, 0.0, "closed");
        Ok(())
    })
    .await
}

/// The control of the test above: the same sink, the same events, no breaker.
#[tokio::test(flavor = "multi_thread")]
async fn control_without_a_breaker_the_same_sink_costs_every_event_its_life() -> Result<()> {
    let plan = down_plan("long-down-control");
    plan.run(async |stack| {
        send_all(stack).await?;
        stack.settled().await?;
        let summary = stack.balance().await?;
        assert_eq!(summary.dead.get(&Reason::Exhausted), Some(&DOWN_EVENTS), "{summary}");
        assert_eq!(stack.sink("main").delivery_count(), 3 * DOWN_EVENTS);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_asks_for_three_times_the_longest_lane_gets_it() -> Result<()> {
    const ASKED_S: u64 = 6;
    const EVENTS: usize = 12;
    let rule = |arrival: tests::sink::Arrival<'_>| match arrival.attempt {
        1 => Reply { status: 429, retry_after_s: Some(ASKED_S) },
        _ => Reply::OK,
    };
    // Two attempts: a hop that cost one would be the end of it.
    let plan = Plan::new("retry-after").source("acme", &["main"]).attempts_max(2);
    let plan = plan.http("main", Behaviour::by_rule(rule));
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for number in 0..EVENTS {
            client.send(&format!("evt-later-{number}")).await?;
        }
        stack.settled().await?;
        let sink = stack.sink("main");
        for number in 0..EVENTS {
            let deliveries = sink.deliveries_of(&format!("evt-later-{number}"));
            assert_eq!(deliveries.iter().map(|delivery| delivery.status).collect::<Vec<_>>(), [429, 200]);
            let waited = deliveries[1].at - deliveries[0].at;
            assert!(waited >= Duration::from_secs(ASKED_S), "evt-later-{number} was dispatched after {waited:?}");
        }
        let mut hops = 0;
        for topic in stack.config().retry_topics(&"main".parse()?).collect::<Vec<Topic>>() {
            let records = stack.records(&topic).await?;
            assert!(records.iter().all(|record| record.header("ss-attempt") == Some("1")), "hops cost no attempt");
            hops += records.len();
        }
        assert!((3 * EVENTS..=6 * EVENTS).contains(&hops), "{hops} parks of {EVENTS} events");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_sink_always_answers_404_keeps_no_other_waiting_and_ends_dead() -> Result<()> {
    const GOOD: usize = 60;
    const POISON: &str = "evt-poison";
    let mended = |arrival: tests::sink::Arrival<'_>| match arrival.event_id {
        POISON => Reply::status(404),
        _ => Reply::OK,
    };
    let plan = Plan::new("poison").source("acme", &["main"]).attempts_max(3).breakers().http("main", down());
    plan.run(async |stack| {
        let sink = stack.sink("main");
        let client = stack.client(0, "acme", Format::Native)?;
        // It comes first, so it is among what waits when the sink is mended.
        client.send(POISON).await?;
        for number in 0..GOOD {
            client.send(&format!("evt-good-{number}")).await?;
        }
        opened(stack, "main", 4.0).await?;
        sink.behave(Behaviour::by_rule(mended));
        arrived(&sink, GOOD as u64).await?;
        stack.settled().await?;
        let letters = stack.letters().await?;
        assert_eq!(letters.len(), 1, "{letters:#?}");
        assert_eq!((letters[0].failure.reason, letters[0].failure.status), (Reason::Exhausted, Some(404)));
        assert_eq!(stack.balance().await?.delivered["main"], GOOD);
        Ok(())
    })
    .await
}
