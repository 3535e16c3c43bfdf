//! Kafka is away, and comes back.

use std::time::Duration;

use anyhow::Result;
use common::envelope::Format;
use tests::broker::OwnBroker;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::wait::until;

const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_events_are_answered_503_and_with_it_again_everything_recovers_by_itself() -> Result<()> {
    let broker = OwnBroker::start().await?;
    let plan = Plan::new("outage").kafka(broker.kafka()).ack_deadline(Duration::from_secs(2));
    // A processor that cannot tell whether it still owns its partitions ends itself, and its supervisor starts it again.
    let plan = plan.source("acme", &["main"]).http("main", Behaviour::good()).supervised();
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        for stop in [true, false] {
            client.send(&format!("evt-before-{stop}")).await?;
            stack.settled().await?;
            if stop {
                broker.stop().await?
            } else {
                broker.kill().await?
            };
            for number in 0..4 {
                // Whether its record reaches the log later is open; that it was not promised is not.
                let id = format!("evt-without-{stop}-{number}");
                let answer = client.offer(&id, tests::client::payload(&id).as_bytes()).await?;
                assert_eq!((answer.status, answer.code.as_str()), (503, "unavailable"));
                assert!(answer.retry_after_s.is_some_and(|seconds| seconds > 0), "{answer:?}");
            }
            broker.restart().await?;
            let id = format!("evt-after-{stop}");
            until("an event is accepted again", RECOVERY_DEADLINE, async || {
                let answer = client.offer(&id, tests::client::payload(&id).as_bytes()).await?;
                Ok(answer.is_ok().then_some(()))
            })
            .await?;
            let sink = stack.sink("main");
            until("it arrives at the sink", RECOVERY_DEADLINE, async || {
                stack.supervise()?;
                Ok((!sink.deliveries_of(&id).is_empty()).then_some(()))
            })
            .await?;
        }
        Ok(())
    })
    .await?;
    broker.end().await
}
