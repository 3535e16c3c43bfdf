//! The topic `events` is deleted and made anew while processors are down, and its groups begin at its first offset.
//!
//! Only the new log counts then. What a processor remembers of the old one must not be taken for it: an id of the old log
//! is new in the new one. One processor reads the old log; another makes progress in the new one, until that is longer than
//! what the first one's cache remembers; then the first comes back, and nothing but the anchor tells the two logs apart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::kafka::admin::Admin;
use common::kafka::consumer::{commit_first, committed};
use common::topics::Topic;
use tokio::task::JoinSet;

use super::checker::{Findings, check};
use super::injections::Gains;
use super::session::Outcome;
use super::suite::{DEADLINE, Suite};
use crate::wait::until;

/// Events before and after.
const OLD: u64 = 1400;
const NEW: u64 = 2200;
/// Events under way at once.
const AT_ONCE: usize = 32;

/// One round of it, on a stack with two processors.
pub async fn run(suite: &mut Suite, name: &'static str) -> Result<Outcome> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    suite.stop(0).await?;
    let old = suite.next..suite.next + OLD;
    write(suite, old.clone()).await?;
    suite.next = old.end;
    let before = checked(suite, old.start).await?;

    suite.stop(1).await?;
    make_anew(suite).await?;
    suite.up(0)?;
    let new = old.end..old.end + NEW;
    write(suite, new.clone()).await?;
    suite.settled().await?;
    suite.stop(0).await?;
    let mut gains = Gains::of(suite, 1);
    suite.up(1)?;
    suite.until("the processor with the old cache has partitions", DEADLINE, move |_| gains.any()).await?;
    write(suite, old.clone()).await?;
    suite.next = new.end;
    let mut findings = checked(suite, old.start).await?;
    findings.add(before);
    Ok(Outcome { fault: name, rounds: 1, repeats: 0, time: clock.monotonic() - begin, findings })
}

async fn checked(suite: &mut Suite, first: u64) -> Result<Findings> {
    suite.settled().await?;
    let history = suite.history(first).await?;
    Ok(tokio::task::spawn_blocking(move || check(&history)).await?)
}

async fn write(suite: &mut Suite, mut numbers: std::ops::Range<u64>) -> Result<()> {
    let mut writes = JoinSet::new();
    loop {
        while writes.len() < AT_ONCE
            && let Some(number) = numbers.next()
        {
            let (senders, format) = (suite.senders.clone(), suite.seed.choose(2));
            writes.spawn(async move { Arc::clone(&senders).write(number, format).await });
        }
        let Some(written) = writes.join_next().await else { return Ok(()) };
        written??;
        suite.supervise()?;
    }
}

async fn make_anew(suite: &Suite) -> Result<()> {
    let stack = &suite.stack;
    let admin = Admin::new(stack.kafka())?;
    let name = stack.topic_name(&Topic::Events);
    let specs = processor::topics::specs(stack.config());
    let spec = specs.into_iter().find(|spec| spec.name == name).context("events is one of the topics")?;
    admin.delete(std::slice::from_ref(&name)).await?;
    // It is deleted some time after the answer, and till then it is there already.
    until("events could be made anew", DEADLINE, async || Ok(admin.create(&spec).await.unwrap_or(false).then_some(())))
        .await?;
    for (group, topics) in stack.config().groups() {
        if !topics.contains(&Topic::Events) {
            continue;
        }
        let group = group.name(&stack.config().topics.prefix);
        // The members that are down keep the group until their sessions end; then the offsets of the old log are gone too.
        until("the groups begin at the first offset", DEADLINE, async || {
            let (kafka, group, name, count) = (stack.kafka().clone(), group.clone(), name.clone(), spec.partitions);
            let begun = move || {
                commit_first(&kafka, &group, &name, count).ok()?;
                let stored = committed(&kafka, &group, &name, count).ok()?;
                stored.iter().all(|(offset, _)| *offset == Some(0)).then_some(())
            };
            let begun = tokio::task::spawn_blocking(begun).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(begun)
        })
        .await?;
    }
    Ok(())
}
