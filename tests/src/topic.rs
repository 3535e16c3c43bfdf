//! Whole topics, read from their first record to their last.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{Incoming, ReadError, Reader};
use common::record::Origin;

/// Offsets in a row that no reader of committed records sees: the ends of transactions, and small ones that were given up.
pub(crate) const UNREADABLE_MAX: i64 = 4;

/// The same where a transactional sink writes: whatever a killed processor had under way was given up.
pub(crate) const UNREADABLE_MAX_TRANSACTIONAL: i64 = 100_000;

/// A record, with everything that Kafka keeps of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The broker's time of it.
    pub time_ms: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Headers that a test may keep and alter.
pub fn owned<'h>(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Vec<(String, Vec<u8>)> {
    headers.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
}

impl Record {
    fn of(partition: i32, incoming: Incoming<'_>) -> Self {
        Self {
            partition,
            offset: incoming.offset(),
            time_ms: incoming.time_ms(),
            key: incoming.key().map(<[u8]>::to_vec),
            headers: owned(incoming.headers()),
            value: incoming.value().to_vec(),
        }
    }

    /// The text of a header, which must be there once at most.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().and_then(|(_, value)| std::str::from_utf8(value).ok());
        assert!(found.next().is_none(), "the header {name} is there twice");
        value
    }

    /// The headers as the record's MAC wants them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Where it lies.
    pub fn origin(&self, role: &str) -> Origin {
        Origin { role: role.to_owned(), partition: self.partition, offset: self.offset }
    }

    /// Everything of it that Kafka stores: key, headers and value.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let headers = self.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]);
        self.key.as_deref().into_iter().chain(headers).chain([self.value.as_slice()])
    }
}

/// Every record of a topic, partition by partition. What is not committed is no record. There are more offsets than
/// records where there were transactions: reading ends at the log's end and nowhere else.
///
/// More than `unreadable_max` offsets in a row without a record are an error.
pub async fn read(kafka: &KafkaConfig, topic: &str, partitions: u32, unreadable_max: i64) -> Result<Vec<Record>> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    let partitions = i32::try_from(partitions)?;
    tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let mut records = Vec::new();
        for partition in 0..partitions {
            let (from, to) = reader.watermarks(&topic, partition)?;
            let mut next = from;
            let mut gap = None;
            reader.read(&topic, partition, (from, to), |incoming| {
                if incoming.offset() > next + unreadable_max {
                    gap = Some(next);
                }
                next = incoming.offset() + 1;
                records.push(Record::of(partition, incoming));
                ControlFlow::Continue(())
            })?;
            if gap.is_some() || to > next + unreadable_max {
                bail!("{topic}-{partition} has offsets {from} to {to}, of which some were not read: {gap:?} or {next}");
            }
        }
        Ok(records)
    })
    .await?
}

/// What `take` makes of the records of a topic from these positions on, and the positions after them.
pub(crate) async fn follow<T: Send + 'static>(
    kafka: &KafkaConfig,
    topic: &str,
    mut positions: Vec<i64>,
    take: impl Fn(Record) -> Result<T> + Send + 'static,
) -> Result<(Vec<T>, Vec<i64>)> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let mut taken = Vec::new();
        for (partition, position) in (0..).zip(&mut positions) {
            let (_, end) = reader.watermarks(&topic, partition)?;
            let from = *position;
            reader.read(&topic, partition, (from, end), |incoming| {
                // The client can deliver an offset twice.
                if incoming.offset() >= *position {
                    *position = incoming.offset() + 1;
                    taken.push(take(Record::of(partition, incoming)));
                }
                ControlFlow::Continue(())
            })?;
            *position = end;
        }
        Ok((taken.into_iter().collect::<Result<_>>()?, positions))
    })
    .await?
}

/// The end of each partition's log, topic by topic.
pub async fn ends(kafka: &KafkaConfig, topics: Vec<String>, partitions: u32) -> Result<Vec<Vec<i64>>> {
    let kafka = kafka.clone();
    let partitions = i32::try_from(partitions)?;
    let read = move || {
        let reader = Reader::new(&kafka)?;
        let end = |topic: &str, partition| reader.watermarks(topic, partition).map(|(_, end)| end);
        let of = |topic: &String| (0..partitions).map(|partition| end(topic, partition)).collect();
        topics.iter().map(of).collect::<Result<Vec<Vec<i64>>, ReadError>>()
    };
    Ok(tokio::task::spawn_blocking(read).await??)
}
