//! One session: a load, a fault done to it again and again, and the check of everything that was seen.

use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;

use super::checker::{Findings, check};
use super::injections::Fault;
use super::recreation;
use super::sending::{SendPlan, Sending};
use super::suite::{DEADLINE, Suite};
use crate::wait::until;

/// How often a session says how far it is.
const EVERY: Duration = Duration::from_secs(30);

/// How much a session does.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// How often the fault strikes.
    pub rounds: usize,
    /// Events to be acknowledged at least.
    pub events: u64,
    /// Events under way at once that are written to the inbox directly.
    pub direct: usize,
    /// Events under way at once through the ingests.
    pub through_ingest: usize,
    /// How many events the HTTP sink may be behind.
    pub ahead: u64,
    /// Every how many events one is sent again.
    pub repeat_every: u64,
}

/// What came of a session.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The fault.
    pub fault: &'static str,
    /// How often it struck.
    pub rounds: usize,
    /// Events that were sent again.
    pub repeats: u64,
    /// How long it took.
    pub time: Duration,
    /// What the checker found.
    pub findings: Findings,
}

/// Runs one.
pub async fn run(suite: &mut Suite, fault: Fault, amount: Amount, mut say: impl FnMut(&str)) -> Result<Outcome> {
    if fault == Fault::Recreate {
        return recreation::run(suite, fault.as_str()).await;
    }
    let clock = Clock::system();
    let begin = clock.monotonic();
    let first = suite.next;
    let plan = SendPlan {
        first,
        direct: amount.direct,
        through_ingest: if suite.setup.ingests > 0 { amount.through_ingest } else { 0 },
        repeat_every: amount.repeat_every,
        ahead: amount.ahead,
    };
    let sending = Sending::start(suite.senders.clone(), plan, suite.recorder.clone(), &mut suite.seed);
    let mut said = begin;
    let mut progress = |suite: &Suite, doing: &str, acked: u64| {
        if clock.monotonic() >= said + EVERY {
            said = clock.monotonic();
            let seconds = (said - begin).as_secs();
            say(&format!(
                "{}: {doing}, {acked} acknowledged, {} at the sink, {} kills so far, {seconds} s",
                fault.as_str(),
                suite.recorder.events(),
                suite.tally.kills
            ));
        }
    };
    for round in 0..amount.rounds {
        let struck = fault.strike(suite, round).await;
        struck.with_context(|| format!("{}, round {}", fault.as_str(), round + 1))?;
        progress(suite, &format!("round {} of {}", round + 1, amount.rounds), sending.acked());
    }
    let mut before = 0;
    while sending.acked() < amount.events {
        let acked = sending.acked();
        anyhow::ensure!(acked > before || before == 0, "no event was acknowledged for a while");
        before = acked;
        let end = clock.monotonic() + Duration::from_secs(5);
        let enough = || sending.acked() >= amount.events || (clock.monotonic() > end && sending.acked() > acked);
        suite.until("more events are acknowledged", DEADLINE, |_| Ok(enough())).await?;
        progress(suite, "all rounds done", sending.acked());
    }
    suite.mend()?;
    let stop = sending.stop();
    tokio::pin!(stop);
    let (next, repeats) = loop {
        tokio::select! {
            stopped = &mut stop => break stopped?,
            () = tokio::time::sleep(Duration::from_millis(20)) => suite.supervise()?,
        }
    };
    suite.next = next;
    suite.settled().await?;
    // An audit that fails is one that Kafka did not answer.
    let audit = until("the brokers answer an audit", DEADLINE, async || Ok(suite.stack.audit().await.ok())).await?;
    anyhow::ensure!(audit.holds(), "the audit does not hold: {audit:?}");
    let mut history = suite.history(first).await?;
    history.cut_off = fault.cuts_off();
    let findings = tokio::task::spawn_blocking(move || check(&history)).await?;
    let time = clock.monotonic() - begin;
    Ok(Outcome { fault: fault.as_str(), rounds: amount.rounds, repeats, time, findings })
}
