//! Partitions that nobody in their group owns, and how the group gets to know.
//!
//! In a cooperative rebalance a partition changes hands in two steps: its owner is told to give it up, and joins once more
//! when it has, and only that gives it to another member. A static member that dies between the two comes back without a
//! rebalance: the coordinator takes it for the one that it was, and tells it what it is to keep. Then the partition is
//! nobody's, in a group that is stable, for as long as no member comes or goes, and nobody is told.
//!
//! So every static member looks at its group now and then. When a partition was nobody's twice, and nothing moved between,
//! the one with the least to lose leaves the group and joins it again: that rebalances it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use super::TopicPartition;
use super::member::{Context, Shared};
use super::offsets::offsets_client;
use super::reader::{ReadError, kafka_error};
use crate::kafka::client::KafkaConfig;

/// How long the brokers may take to describe a group, and its topics.
const DEADLINE: Duration = Duration::from_secs(3);

/// The partitions of a topic that no member of a group was given. `None` while the group rebalances, and without members.
/// Blocks.
pub fn ownerless(
    kafka: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Option<Vec<i32>>, ReadError> {
    let consumer = offsets_client(kafka, group)?;
    let shares = Shares::of_group(consumer.client(), group).map_err(|source| kafka_error(topic, -1, source))?;
    let all = (0..partitions).map(|partition| TopicPartition { topic: topic.into(), partition });
    Ok(shares.map(|shares| shares.ownerless(all).into_iter().map(|at| at.partition).collect()))
}

/// A group that is stable: what each member was given. Members are in no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shares(Vec<BTreeSet<TopicPartition>>);

impl Shares {
    /// What the coordinator says. `None` while the group rebalances, and without members. Blocks.
    pub(super) fn of_group<C: ClientContext>(client: &Client<C>, group: &str) -> Result<Option<Self>, KafkaError> {
        let list = client.fetch_group_list(Some(group), DEADLINE)?;
        let Some(found) = list.groups().iter().find(|found| found.name() == group) else { return Ok(None) };
        if found.state() != "Stable" {
            return Ok(None);
        }
        let shares = found.members().iter().map(|member| parse(member.assignment().unwrap_or_default()));
        Ok(shares.collect::<Option<Vec<_>>>().map(Self))
    }

    /// Those of `all` that nobody was given.
    fn ownerless(&self, all: impl IntoIterator<Item = TopicPartition>) -> Vec<TopicPartition> {
        all.into_iter().filter(|at| !self.0.iter().any(|share| share.contains(at))).collect()
    }

    /// Whether nobody has less to lose than who was given this much.
    fn is_least(&self, own: &BTreeSet<TopicPartition>) -> bool {
        self.0.iter().min_by_key(|share| (share.len(), *share)) == Some(own)
    }
}

/// An assignment as the consumer protocol has it: a version, topics with their partitions, and data of the assignor's.
fn parse(mut bytes: &[u8]) -> Option<BTreeSet<TopicPartition>> {
    let mut share = BTreeSet::new();
    // Nothing at all is what a member has that was given nothing yet.
    if bytes.is_empty() {
        return Some(share);
    }
    let bytes = &mut bytes;
    take::<2>(bytes)?;
    for _ in 0..u32::from_be_bytes(take(bytes)?) {
        let length = u16::from_be_bytes(take(bytes)?);
        let (name, rest) = bytes.split_at_checked(length.into())?;
        *bytes = rest;
        let topic: Arc<str> = std::str::from_utf8(name).ok()?.into();
        for _ in 0..u32::from_be_bytes(take(bytes)?) {
            share.insert(TopicPartition { topic: topic.clone(), partition: i32::from_be_bytes(take(bytes)?) });
        }
    }
    Some(share)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

impl Shared {
    /// Looks at the group once in a session, and sooner at what seems wrong.
    pub(super) fn look_loop(&self) {
        let mut seen = None;
        loop {
            std::thread::park_timeout(if seen.is_some() { self.settings.session / 4 } else { self.settings.session });
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
            let found = self.look(&consumer);
            if let Some((shares, ownerless)) = found.as_ref().filter(|found| seen.as_ref() == Some(*found))
                && shares.is_least(&self.owned.lock().iter().cloned().collect())
            {
                tracing::warn!(group = %self.settings.group, ?ownerless, "partitions are nobody's: leaving the group, and joining it again");
                self.rejoin.store(true, Ordering::SeqCst);
                self.waker.wake();
                // What comes of it takes a while.
                seen = None;
                continue;
            }
            seen = found;
        }
    }

    /// What the members have, if that is not everything.
    fn look(&self, consumer: &BaseConsumer<Context>) -> Option<(Shares, Vec<TopicPartition>)> {
        let end = self.clock.monotonic() + DEADLINE;
        let all = self.settings.topics.iter().map(|topic| {
            let metadata = consumer.fetch_metadata(Some(topic), end.saturating_sub(self.clock.monotonic()))?;
            let partitions = metadata.topics().first().map_or(0, |found| found.partitions().len());
            Ok((0..).take(partitions).map(|partition| TopicPartition { topic: topic.clone(), partition }))
        });
        let found = all
            .collect::<Result<Vec<_>, KafkaError>>()
            .and_then(|all| Ok((all, Shares::of_group(consumer.client(), &self.settings.group)?)));
        match found {
            Ok((all, shares)) => {
                let shares = shares?;
                let ownerless = shares.ownerless(all.into_iter().flatten());
                (!ownerless.is_empty()).then_some((shares, ownerless))
            }
            Err(error) => {
                tracing::debug!(group = %self.settings.group, %error, "the group can't be looked at");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }

    /// As librdkafka writes it.
    const TWO_TOPICS: &[u8] =
        b"\0\0\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x02\0\x02bc\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff";

    #[test]
    fn an_assignment_is_read_and_a_part_of_one_is_not() {
        assert_eq!(parse(TWO_TOPICS), Some([at("a", 0), at("a", 2), at("bc", 1)].into()));
        assert_eq!(parse(b""), Some(BTreeSet::new()));
        for length in 1..TWO_TOPICS.len() - 4 {
            assert_eq!(parse(&TWO_TOPICS[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn who_has_least_to_lose_goes_and_only_for_what_is_nobodys() {
        let shares = Shares(vec![[at("a", 0), at("a", 2)].into(), [at("a", 3)].into(), [at("a", 4)].into()]);
        assert_eq!(shares.ownerless((0..5).map(|partition| at("a", partition))), [at("a", 1)]);
        assert_eq!(shares.ownerless([at("a", 0), at("a", 3)]), []);
        assert!(shares.is_least(&[at("a", 3)].into()), "of two with as much, one");
        for other in [vec![at("a", 4)], vec![at("a", 0), at("a", 2)], vec![]] {
            assert!(!shares.is_least(&other.into_iter().collect()), "what a member owns, not what it might");
        }
    }
}
