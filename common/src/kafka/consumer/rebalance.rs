//! What happens when partitions come and go. Runs in the poll thread, inside the library's callback.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, RebalanceProtocol};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::member::{Context, Shared};
use super::{Assigned, CALL_DEADLINE, TopicPartition, beyond_the_end};
use crate::kafka::producer::TRANSACTION_TIMEOUT;

impl Shared {
    pub(super) fn names(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let name = |topic: &str| self.settings.topics.iter().find(|known| &***known == topic).cloned();
        let elements = list.elements();
        let names = elements.iter().map(|element| TopicPartition {
            topic: name(element.topic()).unwrap_or_else(|| element.topic().into()),
            partition: element.partition(),
        });
        names.collect()
    }

    pub(super) fn assign(&self, consumer: &BaseConsumer<Context>, list: &mut TopicPartitionList) {
        let ownership = self.ownership.lock();
        if self.stop.load(Ordering::SeqCst) {
            // Leaving: take the partitions without reading them, so that the group is stable until the close.
            if let Err(error) = consumer.incremental_assign(list) {
                self.die(format!("assign while stopping: {error}"));
            }
            return;
        }
        let assigned = match self.positions(consumer, list) {
            Ok(assigned) => assigned,
            Err(why) => return self.die(why),
        };
        let mut queues = Vec::new();
        for partition in &assigned {
            let at = &partition.at;
            let queue = self.consumer.get().and_then(Weak::upgrade).and_then(|consumer| {
                let waker = self.waker.clone();
                let mut queue = consumer.split_partition_queue(&at.topic, at.partition)?;
                queue.set_nonempty_callback(move || waker.wake());
                Some(queue)
            });
            let Some(queue) = queue else { return self.die(format!("no queue for {at:?}")) };
            queues.push((at.clone(), queue));
            if let Err(error) = list.set_partition_offset(&at.topic, at.partition, Offset::Offset(partition.base)) {
                return self.die(format!("offset of {at:?}: {error}"));
            }
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Eager => consumer.assign(list),
            RebalanceProtocol::Cooperative | RebalanceProtocol::None => consumer.incremental_assign(list),
        };
        if let Err(error) = result {
            return self.die(format!("assign: {error}"));
        }
        tracing::info!(group = %self.settings.group, partitions = ?brief(&self.names(list)), "partitions assigned");
        self.owned.lock().extend(queues.iter().map(|(at, _)| at.clone()));
        self.queues.lock().extend(queues);
        self.handler.assigned(assigned);
        drop(ownership);
        self.commit_wake.1.notify_one();
        self.waker.wake();
    }

    /// Where the group stands, from the broker.
    fn positions(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) -> Result<Vec<Assigned>, String> {
        let mut asked = TopicPartitionList::new();
        for at in self.names(list) {
            asked.add_partition(&at.topic, at.partition);
        }
        // Offsets in an open transaction are not told before it ends, at the latest by its timeout.
        let deadline = match &self.settings.transaction {
            None => CALL_DEADLINE,
            Some(_) => CALL_DEADLINE + TRANSACTION_TIMEOUT,
        };
        let stored =
            consumer.committed_offsets(asked, deadline).map_err(|error| format!("committed offsets: {error}"))?;
        let mut assigned = Vec::new();
        for (at, element) in self.names(&stored).into_iter().zip(stored.elements()) {
            let (low, high) = consumer
                .fetch_watermarks(&at.topic, at.partition, CALL_DEADLINE)
                .map_err(|error| format!("watermarks of {at:?}: {error}"))?;
            if let Err(error) = element.error() {
                return Err(format!("committed offset of {at:?}: {error}"));
            }
            let committed = match element.offset() {
                Offset::Offset(committed) => committed,
                _ if self.settings.embedded => low,
                _ => {
                    return Err(format!(
                        "{}-{} has no committed offset: it expired, or the group was never made; \
                         `sealstream topics create` commits the first offsets of every group",
                        at.topic, at.partition
                    ));
                }
            };
            if committed > high {
                return Err(beyond_the_end(&self.settings.group, &at, committed, high));
            }
            if committed < low {
                // Nothing can bring these back. Go on with what is there, and say so.
                tracing::error!(group = %self.settings.group, topic = %at.topic, partition = at.partition, committed, low,
                    "records were lost to retention before they were read");
            }
            let metadata = element.metadata().to_owned();
            assigned.push(Assigned { committed, metadata, base: committed.max(low), low, high, at });
        }
        Ok(assigned)
    }

    pub(super) fn revoke(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let partitions = self.names(list);
        let lost = consumer.assignment_lost();
        if lost && self.settings.transaction.is_some() {
            // What was sent for these partitions is in the open transaction beside what was sent for others.
            return self.die("the assignment was lost with a transaction open");
        }
        self.handler.fence(&partitions);
        if !lost {
            self.handler.drain(&partitions);
        }
        let ownership = self.ownership.lock();
        if !lost && let Err(error) = self.commit(consumer, Some(&partitions)) {
            tracing::warn!(group = %self.settings.group, %error, "the last commit before a revoke failed: its records are replayed");
        }
        {
            let mut queues = self.queues.lock();
            queues.retain(|at, _| !partitions.contains(at));
        }
        self.owned.lock().retain(|at| !partitions.contains(at));
        self.handler.revoked(&partitions);
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Eager => consumer.unassign(),
            RebalanceProtocol::Cooperative | RebalanceProtocol::None => consumer.incremental_unassign(list),
        };
        drop(ownership);
        tracing::info!(group = %self.settings.group, lost, partitions = ?brief(&partitions), "partitions revoked");
        if let Err(error) = result {
            self.die(format!("unassign: {error}"));
        }
    }
}

/// `topic: [partitions]`, for the log.
fn brief(partitions: &[TopicPartition]) -> std::collections::BTreeMap<&str, Vec<i32>> {
    let mut brief: std::collections::BTreeMap<&str, Vec<i32>> = std::collections::BTreeMap::new();
    for at in partitions {
        brief.entry(&at.topic).or_default().push(at.partition);
    }
    brief
}
