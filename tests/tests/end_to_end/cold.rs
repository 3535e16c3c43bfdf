//! A processor without a cache of its index: what it delivers before it knows the window, and what it does when its
//! partitions leave before it does.

use std::time::Duration;

use anyhow::{Context, Result};
use common::envelope::Format;
use tests::client::Client;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::stack::Stack;
use tests::wait::{until, until_true};

const DEADLINE: Duration = Duration::from_secs(60);
/// Events in the window; at [`SLOW`] records in a second, reading them takes long enough to do something meanwhile.
const WARM: usize = 600;
const SLOW: &str = "40";
const SINK: &[(&str, &str)] = &[("lane", "events"), ("sink", "main")];

async fn warm_up(stack: &mut Stack, client: &Client) -> Result<()> {
    for number in 0..WARM {
        client.send(&format!("evt-{number}")).await?;
    }
    stack.settled().await
}

async fn without_its_cache(stack: &mut Stack, number: usize) -> Result<()> {
    stack.processor(number).stop().await?;
    std::fs::remove_dir_all(stack.dir().join(format!("data/{number}/index"))).context("deleting the cache")
}

async fn metric(stack: &mut Stack, number: usize, name: &str, holds: impl Fn(f64) -> bool) -> Result<f64> {
    until(&format!("{name} of processor-{number}"), DEADLINE, async || {
        // One that has only just started does not answer yet.
        let found = stack.processor(number).metric(name, SINK).await.ok();
        Ok(found.filter(|found| holds(*found)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_partition_that_serves_at_once_repeats_what_its_window_holds_until_it_is_read_and_nothing_else()
-> Result<()> {
    // Of the copies below, two may come in before the window is known.
    let plan = Plan::new("cold-serve").partitions(1).source("acme", &["main"]).http("main", Behaviour::good());
    let plan = plan.repeats_max(2).variable("PROCESSOR__DEDUP__COLD_INDEX", "serve");
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        let sink = stack.sink("main");
        warm_up(stack, &client).await?;
        without_its_cache(stack, 0).await?;
        let rate = "PROCESSOR__DEDUP__SCAN_RECORDS_PER_SECOND";
        stack.processor(0).set(rate, Some(SLOW.to_owned()));
        stack.processor(0).up().await?;

        for id in ["evt-fresh", "evt-fresh", "evt-0", "evt-0", "evt-1"] {
            client.send(id).await?;
        }
        until_true("the copies are delivered", DEADLINE, || sink.delivery_count() >= WARM + 3).await?;
        let left = stack.processor(0).metric("processor_scan_left_records", SINK).await?;
        assert!(left > 0.0, "the window was read before the copies were delivered: they show nothing");
        assert_eq!(stack.processor(0).metric("processor_partitions_opening", SINK).await?, 0.0);
        assert_eq!(sink.deliveries_of("evt-fresh").len(), 1, "what came after the opening is recognised");
        assert_eq!(sink.deliveries_of("evt-0").len(), 2, "the window was not known; the third copy came after that");
        assert_eq!(sink.deliveries_of("evt-1").len(), 2);

        stack.settled().await?;
        metric(stack, 0, "processor_scan_left_records", |left| left == 0.0).await?;
        for number in 0..WARM {
            client.send(&format!("evt-{number}")).await?;
        }
        client.send("evt-fresh").await?;
        stack.settled().await?;
        assert_eq!(sink.delivery_count(), WARM + 3, "with the window read, nothing is delivered again");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_leave_while_they_are_opened_are_opened_elsewhere_and_nothing_is_repeated() -> Result<()> {
    let plan = Plan::new("cold-leave").partitions(2).processors(2).source("acme", &["main"]);
    plan.http("main", Behaviour::good())
        .run(async |stack| {
            let client = stack.client(0, "acme", Format::Native)?;
            warm_up(stack, &client).await?;
            for number in 0..2 {
                without_its_cache(stack, number).await?;
                let rate = "PROCESSOR__DEDUP__SCAN_RECORDS_PER_SECOND";
                stack.processor(number).set(rate, Some(SLOW.to_owned()));
            }
            // The first ends in the midst of reading, and so does the second, which has its partitions meanwhile or its own.
            for number in 0..2 {
                stack.processor(number).start()?;
                metric(stack, number, "processor_partitions_opening", |opening| opening > 0.0).await?;
                stack.processor(number).stop().await?;
            }
            stack.processor(1).up().await?;
            stack.processor(0).up().await?;
            for number in 0..WARM {
                client.send(&format!("evt-{number}")).await?;
            }
            stack.settled().await?;
            assert_eq!(stack.sink("main").delivery_count(), WARM);
            Ok(())
        })
        .await
}
