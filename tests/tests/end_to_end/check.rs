//! `sealstream check` against a deployment that runs: what only the brokers can tell.

use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use sealstream::check::{Args, Finding, Level, examine};
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::stack::Stack;

async fn wrong(stack: &Stack, clock: &Clock) -> Vec<Finding> {
    let file = |name: &str| Some(stack.dir().join(name));
    let args = Args { ingest: file("ingest-0.toml"), processor: file("processor-0.toml"), offline: false, json: false };
    examine(&args, clock).await.into_iter().filter(|finding| finding.level == Level::Wrong).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_runs_is_found_good_and_what_is_wrong_with_its_cluster_is_told() -> Result<()> {
    let plan = Plan::new("check").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let now = Clock::system();
        stack.client(0, "acme", common::envelope::Format::Native)?.send("evt-1").await?;
        stack.settled().await?;
        assert_eq!(wrong(stack, &now).await, []);

        // The brokers stamped the event an hour after what this clock says.
        let (late, _hands) = Clock::manual(now.unix_ms() - 3_600_000);
        let found = wrong(stack, &late).await;
        let clock = found.iter().find(|finding| finding.area == "clock");
        let hour =
            |finding: &Finding| finding.found.contains("of the brokers are 3") && finding.found.ends_with(" s apart");
        assert!(clock.is_some_and(hour), "{found:#?}");
        assert!(clock.is_some_and(|finding| finding.remedy.contains("NTP")), "{found:#?}");

        let admin = common::kafka::admin::Admin::new(stack.kafka())?;
        let dead = stack.topic_name(&common::topics::Topic::Dead);
        admin.delete(std::slice::from_ref(&dead)).await?;
        let missing = async || {
            let found = wrong(stack, &now).await;
            let told = |finding: &Finding| {
                finding.area == "kafka"
                    && finding.found.contains(&format!("{dead}: is missing"))
                    && finding.remedy.contains("topics create")
            };
            Ok(found.iter().any(told).then_some(()))
        };
        tests::wait::until("the missing topic is told", Duration::from_secs(30), missing).await?;
        sealstream::topics::create(stack.config(), false).await?;
        Ok(())
    })
    .await
}
