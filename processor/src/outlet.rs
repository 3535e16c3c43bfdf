//! Where a group's records are written: each for itself, or as parts of the group's transaction.
//!
//! A write ends with the broker's acknowledgement. In a transaction that makes nothing visible yet: the group's commit
//! does, together with the offsets of what the records were made from. A record that may or may not be in the open
//! transaction is doubt, and ends the process: its next start ends the transaction, too.

use std::sync::Arc;
use std::time::Duration;

use common::kafka::consumer::{Die, Doubt};
use common::kafka::producer::{Outgoing, ProduceError, Producer, TransactionalProducer};

/// See the module.
pub enum Outlet {
    /// Each record for itself.
    Plain(Producer),
    /// The open transaction of a group.
    Transaction {
        /// Of the group.
        producer: Arc<TransactionalProducer>,
        /// Ends the process.
        die: Die,
    },
}

impl Outlet {
    /// Writes a record and waits for its acknowledgement.
    pub async fn write<'h>(
        &self,
        record: Outgoing<'_>,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<(), ProduceError> {
        let (producer, die) = match self {
            Self::Plain(producer) => {
                producer.send(record, headers)?.await?;
                return Ok(());
            }
            Self::Transaction { producer, die } => (producer, die),
        };
        let answer = match producer.send(record, headers) {
            // Refused before it was a part of the transaction, which is as good as before.
            Err(error @ (ProduceError::QueueFull | ProduceError::TooLarge)) => return Err(error),
            Err(error) => Err(error),
            Ok(delivery) => {
                let unanswered = Unanswered { die, topic: record.topic, is_answered: false };
                let answer = delivery.await;
                unanswered.answered();
                answer
            }
        };
        if let Err(error) = &answer {
            die(Doubt(format!("a record of a transaction for {}: {error}", record.topic)));
        }
        answer.map(drop)
    }

    /// Waits until everything queued has been answered for. What is queued in a transaction ends with it. Blocks.
    pub fn flush(&self, deadline: Duration) {
        match self {
            Self::Plain(producer) => {
                if let Err(error) = producer.flush(deadline) {
                    tracing::warn!(%error, "records were not acknowledged: what they were made from is replayed");
                }
            }
            Self::Transaction { .. } => {}
        }
    }
}

/// Ends the process if whoever wrote a record of a transaction does not wait for its answer: the record would become
/// visible without its offset.
struct Unanswered<'a> {
    die: &'a Die,
    topic: &'a str,
    is_answered: bool,
}

impl Unanswered<'_> {
    fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            (self.die)(Doubt(format!("nobody waits for a record of a transaction for {}", self.topic)));
        }
    }
}
