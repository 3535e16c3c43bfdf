//! What somebody with access to Kafka can write, and what becomes of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use common::envelope::Format;
use common::record::{MAC_HEADER, Reason};
use common::topics::Topic;
use tests::plan::Plan;
use tests::sink::Behaviour;
use tests::topic::Record;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_forged_altered_copied_or_moved_is_dead_and_never_delivered() -> Result<()> {
    let plan = Plan::new("tampering").source("acme", &["main"]).http("main", Behaviour::good());
    plan.run(async |stack| {
        let client = stack.client(0, "acme", Format::Native)?;
        client.send("evt-genuine").await?;
        stack.settled().await?;
        let genuine = only(stack.records(&Topic::Inbox).await?)?;
        let event = only(stack.records(&Topic::Events).await?)?;
        let retry = Topic::Retry { sink: "main".parse()?, delay: "1s".parse()? };

        let mut expected = BTreeMap::new();
        let mut inject = async |value: &str, topic: &Topic, partition, record: Record, reason| {
            // Told apart by their values; those that must keep theirs are told by where they were written.
            let record = if value.is_empty() { record } else { Record { value: value.into(), ..record } };
            *expected.entry((topic.role().into_owned(), reason)).or_insert(0) += 1;
            stack.inject(topic, partition, &record).await
        };
        let bare = Record { headers: Vec::new(), ..genuine.clone() };
        inject("no headers at all", &Topic::Inbox, None, bare.clone(), Reason::BadMac).await?;
        inject("a genuine head", &Topic::Inbox, None, genuine.clone(), Reason::BadMac).await?;
        inject("", &Topic::Inbox, None, with(&genuine, "ss-source", "beta"), Reason::BadMac).await?;
        inject("", &Topic::Inbox, None, with(&genuine, "ss-timestamp", "1700000000"), Reason::BadMac).await?;
        inject("", &Topic::Inbox, None, with(&genuine, MAC_HEADER, "1:edge-1:AAAA"), Reason::BadMac).await?;
        inject("", &Topic::Inbox, None, with(&genuine, MAC_HEADER, "1:nobody:AAAA"), Reason::BadMac).await?;
        let twice = with_added(&genuine, "ss-source", "acme");
        inject("", &Topic::Inbox, None, twice, Reason::BadMac).await?;
        inject("", &Topic::Inbox, None, event.clone(), Reason::BadMac).await?;

        let place = Some(event.partition);
        inject("", &Topic::Events, place, genuine.clone(), Reason::BadMac).await?;
        inject("", &Topic::Events, place, bare, Reason::BadMac).await?;
        inject("", &Topic::Events, place, with(&event, "ss-id", &"0".repeat(32)), Reason::BadMac).await?;
        inject("", &Topic::Events, Some((event.partition + 1) % 6), event.clone(), Reason::Misplaced).await?;
        inject("", &retry, place, event.clone(), Reason::BadMac).await?;
        inject("", &retry, place, genuine.clone(), Reason::BadMac).await?;

        // What is after it in the same partitions still comes through.
        for number in 0..20 {
            client.send(&format!("evt-after-{number}")).await?;
        }
        stack.settled().await?;
        let mut found = BTreeMap::new();
        for letter in stack.letters().await? {
            *found.entry((letter.failure.origin.role, letter.failure.reason)).or_insert(0) += 1;
        }
        assert_eq!(found, expected);
        assert_eq!(stack.sink("main").delivery_count(), 21, "the genuine event and those after it, once each");

        // A copy into its own place of what is genuine there is a repeat, and one into the inbox as well.
        stack.inject(&Topic::Events, place, &event).await?;
        stack.inject(&Topic::Inbox, None, &genuine).await?;
        stack.settled().await?;
        assert_eq!(stack.sink("main").delivery_count(), 21);
        assert_eq!(stack.letters().await?.len(), expected.values().sum::<i32>() as usize);
        Ok(())
    })
    .await
}

fn only(records: Vec<Record>) -> Result<Record> {
    assert_eq!(records.len(), 1);
    records.into_iter().next().context("there is a record")
}

fn with(record: &Record, name: &str, value: &str) -> Record {
    let mut record = record.clone();
    record.headers.retain(|(known, _)| known != name);
    with_added(&record, name, value)
}

fn with_added(record: &Record, name: &str, value: &str) -> Record {
    let mut record = record.clone();
    record.headers.push((name.to_owned(), value.as_bytes().to_vec()));
    record
}
