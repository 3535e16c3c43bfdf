//! Looks at the engines now and then, and at the ends of the logs that they read: for what nobody counts as it happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::kafka::client::ClientError;
use common::kafka::consumer::Reader;
use common::topics::Prefix;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::{Lane, Position, Watched};
use crate::metrics;

/// How often the engines are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// After how many of these looks the brokers are asked where the logs end: one question for each topic.
const LAG_EVERY: u32 = 10;

/// Where the logs end.
pub(crate) struct Log {
    reader: Reader,
    prefix: Prefix,
    partitions: i32,
    /// What was told of last, by topic, sink and partition.
    told: BTreeMap<(String, String, i32), Arc<Lane>>,
}

impl Log {
    /// Of a deployment. Connects when it is asked.
    pub(crate) fn new(config: &Config) -> Result<Self, ClientError> {
        Ok(Self {
            reader: Reader::new(&config.kafka)?,
            prefix: config.topics.prefix.clone(),
            partitions: i32::try_from(config.topics.partitions).unwrap_or(i32::MAX),
            told: BTreeMap::new(),
        })
    }

    /// Notes the lag of each partition. Blocks.
    fn note(&mut self, positions: Vec<Position>) {
        let mut ends = BTreeMap::new();
        let mut told = BTreeMap::new();
        let mut are_away = false;
        for Position { lane, partition, base } in positions {
            let name = lane.topic.name(&self.prefix);
            // Brokers that are away are asked once: each question takes its time then.
            let ends = ends.entry(name).or_insert_with_key(|name| {
                let asked = (!are_away).then(|| self.reader.log_ends(name, self.partitions))?;
                asked
                    .inspect_err(|error| tracing::debug!(%error, "the lag is not known"))
                    .inspect_err(|_| are_away = true)
                    .ok()
            });
            let end = ends.as_ref().zip(usize::try_from(partition).ok()).and_then(|(ends, at)| ends.get(at));
            if let Some(end) = end {
                metrics::lag(&lane.topic, &lane.sink, partition, end - base);
            }
            told.insert((lane.topic.role().into_owned(), lane.sink.clone(), partition), lane);
        }
        // Another processor tells of those that left.
        for ((_, sink, partition), lane) in self.told.iter().filter(|(key, _)| !told.contains_key(key)) {
            metrics::lag(&lane.topic, sink, *partition, 0);
        }
        self.told = told;
    }
}

/// Looks until the token is cancelled. Without a log no lag is told.
pub(crate) async fn run(engines: Vec<Arc<dyn Watched>>, mut log: Option<Log>, over: CancellationToken) {
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0_u32;
    while over.run_until_cancelled(every.tick()).await.is_some() {
        engines.iter().for_each(|engine| engine.measure());
        if looks.is_multiple_of(LAG_EVERY)
            && let Some(mut asked) = log.take()
        {
            let positions: Vec<Position> = engines.iter().flat_map(|engine| engine.positions()).collect();
            let asking = tokio::task::spawn_blocking(move || {
                asked.note(positions);
                asked
            });
            log = asking.await.ok();
        }
        looks = looks.wrapping_add(1);
    }
    // Dropping a client blocks.
    let _dropped = tokio::task::spawn_blocking(move || drop(log)).await;
}
