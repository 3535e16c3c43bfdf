//! What becomes of events that a sink does not take at once, and of those that cannot be opened.

use std::time::Duration;

use anyhow::{Context, Result};
use common::envelope::Format;
use common::record::Reason;
use common::secret::Secret;
use open::Key;
use tests::books::Letter;
use tests::plan::Plan;
use tests::sink::{Arrival, Behaviour, Delivery, Reply};

/// The sink of these tests, told by the events themselves how to behave.
fn told_by_the_id(arrival: Arrival<'_>) -> Reply {
    match arrival.event_id.split('-').next() {
        Some("twice") if arrival.attempt <= 2 => Reply::status(503),
        Some("later") if arrival.attempt == 1 => Reply { status: 429, retry_after_s: Some(2) },
        Some("bad") => Reply::status(400),
        Some("never") => Reply::status(500),
        _ => Reply::OK,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_does_not_take_is_tried_again_or_is_dead_with_its_reason() -> Result<()> {
    let plan = Plan::new("failures").source("acme", &["main", "disk"]).attempts_max(3);
    let plan = plan.http("main", Behaviour::by_rule(told_by_the_id)).file("disk");
    plan.run(async |stack| {
        for format in [Format::Native, Format::Jwe] {
            let client = stack.client(0, "acme", format)?;
            for kind in ["good", "twice", "later", "bad", "never"] {
                client.send(&format!("{kind}-{format:?}")).await?;
            }
        }
        stack.settled().await?;

        let sink = stack.sink("main");
        let letters = stack.letters().await?;
        assert_eq!(letters.len(), 4, "bad and never, of both formats: {letters:#?}");
        for format in [Format::Native, Format::Jwe] {
            let deliveries = |kind: &str| sink.deliveries_of(&format!("{kind}-{format:?}"));
            assert_eq!(statuses(&deliveries("good")), [200]);

            let twice = deliveries("twice");
            assert_eq!(statuses(&twice), [503, 503, 200]);
            assert!(pause(&twice, 0) >= Duration::from_secs(1), "the first lane: {:?}", pause(&twice, 0));
            assert!(pause(&twice, 1) >= Duration::from_secs(2), "the second lane: {:?}", pause(&twice, 1));

            let later = deliveries("later");
            assert_eq!(statuses(&later), [429, 200]);
            assert!(pause(&later, 0) >= Duration::from_secs(2), "Retry-After: {:?}", pause(&later, 0));

            let bad = deliveries("bad");
            assert_eq!(statuses(&bad), [400]);
            check_letter(&letters, &bad[0], Reason::Refused, 400, 1);

            let never = deliveries("never");
            assert_eq!(statuses(&never), [500, 500, 500]);
            check_letter(&letters, &never[0], Reason::Exhausted, 500, 3);
        }
        // The other sink has had every event once, whatever this one did.
        assert_eq!(stack.file_lines("disk")?.len(), 10);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_burst_that_fails_is_tried_again() -> Result<()> {
    const EVENTS: usize = 300;
    let plan = Plan::new("burst").source("acme", &["main"]).http("main", Behaviour::failing_first(2, 503));
    plan.run(async |stack| {
        let clients = stack.clients("acme")?;
        for number in 0..EVENTS {
            clients[number % clients.len()].send(&format!("evt-burst-{number}")).await?;
        }
        stack.settled().await?;
        assert_eq!(stack.balance().await?.delivered["main"], EVENTS);
        assert_eq!(stack.sink("main").delivery_count(), 3 * EVENTS);
        Ok(())
    })
    .await
}

fn statuses(deliveries: &[Delivery]) -> Vec<u16> {
    deliveries.iter().map(|delivery| delivery.status).collect()
}

fn pause(deliveries: &[Delivery], after: usize) -> Duration {
    deliveries[after + 1].at - deliveries[after].at
}

/// A letter says which sink gave the event up, why, with which status, and after how many attempts.
fn check_letter(letters: &[Letter], delivery: &Delivery, reason: Reason, status: u16, attempts: u32) {
    let is_its = |letter: &&Letter| {
        let identity = letter.head.as_ref().and_then(|head| head.identity);
        identity.is_some_and(|identity| identity.id.webhook_id() == delivery.webhook_id)
    };
    let letter = letters.iter().find(is_its).expect("there is a letter for the event");
    assert_eq!((letter.failure.reason, letter.failure.status), (reason, Some(status)));
    let retry = letter.head.as_ref().and_then(|head| head.retry.as_ref()).expect("the letter names its sink");
    assert_eq!((retry.sink.as_str(), retry.attempt), ("main", attempts));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_or_identified_is_dead_with_its_reason() -> Result<()> {
    let plan = Plan::new("unopened").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let good = stack.client(0, "acme", Format::Native)?;
        let wrong_key = |format| -> Result<_> {
            let config = stack.sender_config(0, "acme", format)?;
            stack.client_of(sender::Config { key: Key::try_from(&Secret::from(vec![7; 32]))?, ..config })
        };
        let config = stack.sender_config(0, "acme", Format::Jwe)?;
        let unknown_key = stack.client_of(sender::Config { key_id: "k2".parse()?, ..config })?;
        let long_id = format!(r#"{{"id":"{}"}}"#, "x".repeat(257));
        let cases: [(_, &[u8], Reason); 9] = [
            (wrong_key(Format::Native)?, br#"{"id":"evt"}"#, Reason::OpenFailed),
            (wrong_key(Format::Jwe)?, br#"{"id":"evt"}"#, Reason::OpenFailed),
            (unknown_key, br#"{"id":"evt"}"#, Reason::UnknownKey),
            (stack.client(0, "acme", Format::Native)?, b"no JSON", Reason::InvalidEventId),
            (stack.client(0, "acme", Format::Native)?, b"{}", Reason::InvalidEventId),
            (stack.client(0, "acme", Format::Native)?, br#"{"id":""}"#, Reason::InvalidEventId),
            (stack.client(0, "acme", Format::Native)?, br#"{"id":1.5}"#, Reason::InvalidEventId),
            (stack.client(0, "acme", Format::Native)?, br#"{"id":"a","id":"a"}"#, Reason::InvalidEventId),
            (stack.client(0, "acme", Format::Native)?, long_id.as_bytes(), Reason::InvalidEventId),
        ];
        let mut expected = Vec::new();
        for (client, payload, reason) in cases {
            let signed = client.prepare("evt", payload)?;
            assert!(client.post(signed.clone()).await?.is_ok(), "ingest cannot see what is wrong with it");
            expected.push((signed.body, reason));
        }
        good.send("evt-good").await?;
        stack.settled().await?;

        let letters = stack.letters().await?;
        assert_eq!(letters.len(), expected.len());
        for (body, reason) in expected {
            let letter = letters.iter().find(|letter| letter.value == body[..]).context("there is no letter")?;
            assert_eq!(letter.failure.reason, reason);
            assert_eq!(letter.failure.origin.role, "inbox");
            assert_eq!(letter.head.as_ref().map(|head| head.source.as_str()), Some("acme"));
        }
        assert_eq!(stack.sink("main").delivery_count(), 1, "only the good one");
        Ok(())
    })
    .await
}
