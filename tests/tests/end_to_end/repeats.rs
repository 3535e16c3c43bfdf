//! What is sent again is delivered once, wherever its copies come in and whoever handles them.

use anyhow::Result;
use common::envelope::Format;
use tests::plan::Plan;
use tests::sink::Behaviour;

const EVENTS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_sealed_and_signed_anew_is_delivered_once_across_ingests_and_processors() -> Result<()> {
    let plan = Plan::new("repeats").ingests(2).processors(3).http("main", Behaviour::good());
    let plan = plan.source("acme", &["main"]).source("beta", &["main"]);
    plan.run(async |stack| {
        let warm = stack.client(0, "acme", Format::Native)?;
        let mut warmed = 0;
        stack
            .spread(async || {
                warmed += 1;
                warm.send(&format!("evt-warm-{warmed}")).await
            })
            .await?;

        // The first copy's envelope, and the second's: both formats, and each after the other.
        let formats = [
            (Format::Native, Format::Native),
            (Format::Jwe, Format::Jwe),
            (Format::Native, Format::Jwe),
            (Format::Jwe, Format::Native),
        ];
        for number in 0..EVENTS {
            let (first, second) = formats[number % formats.len()];
            let (one, two) = (stack.client(0, "acme", first)?, stack.client(1, "acme", second)?);
            let id = format!("evt-repeat-{number}");
            let (one, two) = tokio::join!(one.send(&id), two.send(&id));
            one.and(two)?;
        }
        stack.settled().await?;
        for number in 0..EVENTS {
            let deliveries = stack.sink("main").deliveries_of(&format!("evt-repeat-{number}"));
            assert_eq!(deliveries.len(), 1, "evt-repeat-{number}");
        }

        // An event of another source with the same id is another event.
        stack.client(1, "beta", Format::Jwe)?.send("evt-repeat-0").await?;
        stack.settled().await?;
        let both = stack.sink("main").deliveries_of("evt-repeat-0");
        assert_eq!(both.len(), 2);
        assert_ne!(both[0].webhook_id, both[1].webhook_id);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_source_without_ids_a_replay_is_a_repeat_and_an_honest_resend_a_new_event() -> Result<()> {
    let plan = Plan::new("no-ids").http("main", Behaviour::good()).source_without_ids("plain", &["main"]);
    plan.run(async |stack| {
        let client = stack.client(0, "plain", Format::Native)?;
        let first = client.prepare("unused", b"no JSON, no id")?;
        for _ in 0..3 {
            assert!(client.post(first.clone()).await?.is_ok());
        }
        stack.settled().await?;
        assert_eq!(stack.sink("main").delivery_count(), 1);
        assert!(client.post(client.prepare("unused", b"no JSON, no id")?).await?.is_ok());
        stack.settled().await?;
        let deliveries = stack.sink("main").deliveries();
        assert_eq!(deliveries.len(), 2);
        assert_eq!(deliveries[1].content_type, "application/octet-stream");
        assert_eq!(&deliveries[1].payload[..], b"no JSON, no id");
        Ok(())
    })
    .await
}
