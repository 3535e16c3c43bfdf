//! Commits: snapshot, commit and answer, under the lock over ownership.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;

use super::member::{Context, Shared};
use super::{TopicPartition, commit_list};

/// How often to commit while nothing completes: what renews the lease.
const IDLE_COMMIT: Duration = Duration::from_secs(1);

impl Shared {
    /// Commits what the handler says. The caller holds `ownership`.
    pub(super) fn commit(
        &self,
        consumer: &BaseConsumer<Context>,
        only: Option<&[TopicPartition]>,
    ) -> Result<(), KafkaError> {
        if consumer.assignment_lost() {
            // The callback is on its way. Till then the library would commit as a stranger, which a broker takes from
            // anybody while the group has no member.
            return Ok(());
        }
        let commits = self.handler.snapshot(only);
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&commits)?;
        let sent = self.clock.monotonic();
        let _watched = self.committing.enter(sent);
        consumer.commit(&list, CommitMode::Sync)?;
        self.handler.committed(&commits, sent);
        self.waker.wake();
        Ok(())
    }

    pub(super) fn commit_loop(&self, consumer: &BaseConsumer<Context>) {
        let mut last = self.clock.monotonic();
        let mut failed = false;
        while !self.stop.load(Ordering::SeqCst) {
            {
                let mut guard = self.commit_wake.0.lock();
                self.commit_wake.1.wait_for(&mut guard, self.settings.commit_interval);
            }
            let now = self.clock.monotonic();
            if !failed && !self.handler.dirty() && now.saturating_sub(last) < IDLE_COMMIT {
                continue;
            }
            last = now;
            let _ownership = self.ownership.lock();
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let result = self.commit(consumer, None);
            failed = result.is_err();
            if let Err(error) = result {
                tracing::debug!(group = %self.settings.group, %error, "commit failed, it is repeated");
                if let Some((code, why)) = consumer.client().fatal_error() {
                    self.die_of(code, &format!("commit: {why}"));
                }
            }
        }
    }
}
