//! Commits: snapshot, commit and answer, under the lock over ownership.
//!
//! A group commits in one of two ways. *Plain*: offsets alone, again and again, and an error concludes nothing. *In a
//! transaction*: everything that was done since the last commit becomes visible together with the offsets it was made from.
//!
//! ```text
//! hold: no effect starts, those started end ─▶ snapshot ─▶ offsets into the transaction ─▶ commit ─▶ begin ─▶ release
//! ```
//!
//! So nothing is part of a transaction whose offsets are not: an effect begins and ends, with its offset complete, between
//! a release and the next hold. The transaction belongs to all partitions at once, so a revoke of some commits all.
//! After any error it is not known what is visible, and nothing is tried: the process ends, and its next start ends the
//! transaction. The same when an assignment was lost: what was sent for it must not be committed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;

use super::member::{Context, Shared};
use super::{GroupMetadata, TopicPartition, commit_list};
use crate::kafka::producer::{TransactionError, TransactionalProducer};

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
        let _watched = self.committing.enter(self.clock.monotonic());
        match &self.settings.transaction {
            None => self.commit_offsets(consumer, only)?,
            Some(transaction) => {
                if let Err(error) = self.commit_transaction(consumer, transaction) {
                    if matches!(error, TransactionError::Fenced(_)) {
                        (self.settings.on_fenced.0)();
                    }
                    self.die(format!("transaction: {error}"));
                }
            }
        }
        self.waker.wake();
        Ok(())
    }

    fn commit_offsets(
        &self,
        consumer: &BaseConsumer<Context>,
        only: Option<&[TopicPartition]>,
    ) -> Result<(), KafkaError> {
        let commits = self.handler.snapshot(only);
        if commits.is_empty() {
            return Ok(());
        }
        let list = commit_list(&commits)?;
        let sent = self.clock.monotonic();
        consumer.commit(&list, CommitMode::Sync)?;
        self.handler.committed(&commits, sent);
        Ok(())
    }

    fn commit_transaction(
        &self,
        consumer: &BaseConsumer<Context>,
        transaction: &TransactionalProducer,
    ) -> Result<(), TransactionError> {
        if !self.handler.hold() {
            self.die("what was sent in a transaction is not answered for");
            return Ok(());
        }
        let commits = self.handler.snapshot(None);
        // Who owns nothing has sent nothing.
        if !commits.is_empty() {
            let Some(member) = consumer.group_metadata() else {
                self.die("the library does not say which member this is");
                return Ok(());
            };
            let sent = self.clock.monotonic();
            transaction.send_offsets(&commits, &GroupMetadata(member))?;
            transaction.commit()?;
            transaction.begin()?;
            self.handler.committed(&commits, sent);
        }
        self.handler.release();
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
            // A transaction renews no lease, so an empty one is of no use.
            let idle = self.settings.transaction.is_some() || now.saturating_sub(last) < IDLE_COMMIT;
            if !failed && !self.handler.dirty() && idle {
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
