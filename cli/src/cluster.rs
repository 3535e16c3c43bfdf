//! A whole deployment at a glance, and read-only: Kafka's offsets, the dead letters, and what the nodes count.
//!
//! `sealstream status` and `sealstream console` show the same [`View`], made of two looks: what is so now, and by how much
//! the counters rose in between. A part that can't be had is shown as such, and the rest of it stands.

mod exposition;
mod lag;
mod nodes;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use processor::config::Config;
use serde::Serialize;

use crate::dlq::{self, Followed};

pub(crate) use exposition::added;
pub(crate) use lag::GroupLag;
pub(crate) use nodes::Args as NodeArgs;
use nodes::{Look, Nodes};
pub(crate) use view::View;
#[cfg(test)]
pub(crate) use view::tests::sample;

/// Dead letters that are kept at hand: about half a kilobyte each.
const LETTERS_MAX: u32 = 1_000_000;

/// The dead letters at hand, shared with who searches them. Clones are the same.
#[derive(Clone)]
pub(crate) struct Letters(Arc<Mutex<Followed>>);

impl Letters {
    pub(crate) fn of(followed: Followed) -> Self {
        Self(Arc::new(Mutex::new(followed)))
    }

    /// Whoever panicked under the lock left letters behind that were folded so far: reading goes on from there.
    pub(crate) fn locked(&self) -> MutexGuard<'_, Followed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is looked at.
pub(crate) struct Cluster {
    offsets: Arc<lag::Offsets>,
    letters: Letters,
    nodes: Nodes,
    clock: Clock,
}

/// What one look came to.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    unix_ms: u64,
    groups: Result<Vec<GroupLag>, String>,
    letters: Result<LetterCounts, String>,
    nodes: Vec<Look>,
}

/// How many dead letters there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LetterCounts {
    /// Those that were not redriven.
    pub(crate) waiting: u64,
    /// Those that were.
    pub(crate) redriven: u64,
    /// Those that wait, by reason.
    pub(crate) by_reason: BTreeMap<String, u64>,
    /// Those that wait, by the sink that gave them up; none for those that no sink had.
    pub(crate) by_sink: BTreeMap<String, u64>,
    /// When the newest one was given up, Unix milliseconds.
    pub(crate) newest_ms: Option<u64>,
    /// Offsets of the topic that are too old to be counted here.
    pub(crate) left_out: u64,
}

impl Cluster {
    /// Connects when it is looked at.
    pub(crate) fn of(config: &Config, nodes: &NodeArgs, clock: &Clock) -> Result<Self> {
        Ok(Self {
            offsets: Arc::new(lag::Offsets::of(config)?),
            letters: Letters::of(Followed::of(config, LETTERS_MAX)?),
            nodes: Nodes::new(nodes, clock.clone())?,
            clock: clock.clone(),
        })
    }

    /// The dead letters at hand.
    pub(crate) fn letters(&self) -> Letters {
        self.letters.clone()
    }

    /// Looks at everything, once.
    pub(crate) async fn look(&self) -> Snapshot {
        let (offsets, letters) = (self.offsets.clone(), self.letters.clone());
        let of_kafka = tokio::task::spawn_blocking(move || (told(offsets.look()), told(counts(&letters))));
        let nodes = self.nodes.look().await;
        let failed = |error: tokio::task::JoinError| (Err(error.to_string()), Err(error.to_string()));
        let (groups, letters) = of_kafka.await.unwrap_or_else(failed);
        Snapshot { unix_ms: self.clock.unix_ms(), groups, letters, nodes }
    }

    /// Two looks, so far apart.
    pub(crate) async fn view(&self, config: &Config, apart: Duration) -> View {
        let before = self.look().await;
        tokio::time::sleep(apart).await;
        View::between(Some(&before), &self.look().await, config)
    }
}

/// Reads on, and counts.
fn counts(letters: &Letters) -> Result<LetterCounts> {
    let mut letters = letters.locked();
    letters.read_on()?;
    let mut counts = LetterCounts { left_out: letters.left_out(), ..LetterCounts::default() };
    for letter in letters.letters() {
        counts.newest_ms = counts.newest_ms.max(Some(letter.time_ms));
        let content = letter.content.as_ref().ok();
        if content.is_some_and(|content| content.redriven_ms.is_some()) {
            counts.redriven += 1;
            continue;
        }
        counts.waiting += 1;
        *counts.by_reason.entry(dlq::reason(letter).to_owned()).or_default() += 1;
        let head = content.and_then(|content| content.head.as_ref());
        if let Some(retry) = head.and_then(|head| head.retry.as_ref()) {
            *counts.by_sink.entry(retry.sink.to_string()).or_default() += 1;
        }
    }
    Ok(counts)
}

fn told<T>(outcome: Result<T>) -> Result<T, String> {
    outcome.map_err(|error| sentence(&error))
}

/// An error with those of its causes that it does not tell itself.
fn sentence(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_each_cause_once() {
        let error = anyhow::anyhow!("timed out").context("no broker: timed out").context("looking");
        assert_eq!(sentence(&error), "looking: no broker: timed out");
    }
}
