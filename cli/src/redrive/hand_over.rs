//! Puts letters back, a batch at a time: the records and their markers in one transaction, so that there is never one
//! without the other.
//!
//! One transactional id stands for the deployment: who takes it over later fences who had it, and ends what that left open.
//! So of two operators who redrive at once only one does, and markers read after the takeover are all that there are.

use anyhow::{Context, Result};
use common::id::KeyedId;
use common::kafka::producer::{Outgoing, ProduceError, ProducerSettings, TransactionError, TransactionalProducer};
use common::record::{Head, Headers, LetterId, LetterPlace, Marker, RecordKeys, Retry};
use common::topics::{Prefix, Topic};
use processor::config::Config;
use processor::record_keys;

use crate::dlq::Target;

/// How often an ending of a transaction is asked for again, or a batch that was not taken is sent again.
const TRIES: u32 = 5;

/// A letter that goes back.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) place: LetterPlace,
    pub(super) letter: LetterId,
    pub(super) head: Head,
    pub(super) target: Target,
    pub(super) value: Vec<u8>,
}

/// See the module.
pub(super) struct HandOver {
    producer: TransactionalProducer,
    prefix: Prefix,
    keys: Keys,
}

/// What makes the MACs of both halves.
pub(super) struct Keys {
    pub(super) edge: RecordKeys,
    pub(super) core: RecordKeys,
}

impl Keys {
    /// Of a deployment.
    pub(super) fn load(config: &Config) -> Result<Self> {
        Ok(Self { edge: record_keys(&config.pipeline.edge_keys)?, core: record_keys(&config.pipeline.core_keys)? })
    }
}

impl HandOver {
    /// Takes the deployment's transactional id over. Blocks.
    pub(super) fn begin(config: &Config, keys: Keys) -> Result<Self> {
        let prefix = config.topics.prefix.clone();
        let id = format!("{prefix}.redrive");
        let producer = TransactionalProducer::new(&config.kafka, &ProducerSettings::default(), &id);
        let producer = producer.with_context(|| {
            format!(
                "taking the transactional id {id} over; where Kafka has access rules they must allow it to this user"
            )
        })?;
        Ok(Self { producer, prefix, keys })
    }

    /// Puts a batch back: all of it, or nothing. Blocks.
    pub(super) fn put(&self, batch: &[Parcel], now_ms: u64) -> Result<()> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            self.producer.begin().map_err(explained)?;
            if let Err((place, error)) = batch.iter().try_for_each(|parcel| self.send(parcel, now_ms)) {
                self.producer.abort().map_err(explained)?;
                return Err(error).with_context(|| format!("the letter {place}; nothing of its batch was redriven"));
            }
            match self.commit() {
                Ok(()) => return Ok(()),
                Err(TransactionError::AbortNeeded(error)) if tries > 0 => {
                    tracing::warn!(%error, "a batch was not taken, and is sent again");
                    self.producer.abort().map_err(explained)?;
                }
                Err(error) => return Err(explained(error)),
            }
        }
    }

    fn send(&self, parcel: &Parcel, now_ms: u64) -> Result<(), (LetterPlace, ProduceError)> {
        let (headers, id) = redriven(&self.keys, parcel, now_ms);
        let topic = parcel.target.topic.name(&self.prefix);
        let key = id.as_ref().map(|id| &id.0[..]);
        let record = Outgoing { topic: &topic, partition: parcel.target.partition, key, value: &parcel.value };
        let marker = Marker { place: parcel.place, letter: parcel.letter, redriven_ms: now_ms };
        let marked = self.keys.core.seal_marker(&marker);
        let dead = Topic::Dead.name(&self.prefix);
        // Beside its letter: retention never takes the marker first, and a copy elsewhere is told from it.
        let mark = Outgoing { topic: &dead, partition: Some(parcel.place.partition), key: None, value: b"" };
        for (record, headers) in [(record, &headers), (mark, &marked)] {
            let sent = self.producer.send(record, headers.iter());
            // The commit waits for it.
            drop(sent.map_err(|error| (parcel.place, error))?);
        }
        Ok(())
    }

    fn commit(&self) -> Result<(), TransactionError> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match self.producer.commit() {
                Err(TransactionError::Unanswered(error)) if tries > 0 => {
                    tracing::warn!(%error, "a commit was not answered, and is asked for again");
                }
                ended => return ended,
            }
        }
    }
}

/// An error with what it means for the letters.
fn explained(error: TransactionError) -> anyhow::Error {
    let meaning = match &error {
        TransactionError::Fenced(_) => {
            "another redrive of this deployment began after this one, which ends here; nothing is redriven twice. Run it again when the other is \
             done, if letters are left"
        }
        TransactionError::Unanswered(_) | TransactionError::Fatal(_) => {
            "Kafka did not say what became of the last batch; it was taken together with its markers, or not at all. Run it again for what is left"
        }
        TransactionError::AbortNeeded(_) | TransactionError::Client(_) => {
            "the last batch was not redriven; run it again for what is left"
        }
    };
    anyhow::Error::new(error).context(meaning)
}

/// The headers with which a letter goes back, and its key there.
fn redriven(keys: &Keys, parcel: &Parcel, now_ms: u64) -> (Headers, Option<KeyedId>) {
    let head = parcel.head.clone();
    match &parcel.target.topic {
        // As ingest wrote it, but for an age that begins anew: it may have waited for longer than any record may.
        Topic::Inbox => {
            let head = Head { identity: None, retry: None, redriven_ms: Some(now_ms), ..head };
            (keys.edge.seal(&Topic::Inbox, &head, &parcel.value), None)
        }
        topic @ (Topic::Retry { .. } | Topic::Events | Topic::Dead) => {
            // With a count of its own it repeats nothing that was in the lane before.
            let again = |retry: Retry| Retry { redrive: retry.redrive + 1, attempt: 0, hop: 0, ..retry };
            let head = Head { retry: head.retry.map(again), ..head };
            (keys.core.seal(topic, &head, &parcel.value), head.identity.map(|identity| identity.id))
        }
    }
}

#[cfg(test)]
mod tests {
    use common::record::Reason;

    use super::*;
    use crate::dlq::target;
    use crate::dlq::tests::{config, failure, head, keys, letter};

    fn parcel(sink: Option<&str>, role: &str) -> Parcel {
        let letter = letter(Some(head(sink)), failure(Reason::TooOld, role));
        let target = target(&letter, &config()).unwrap();
        let content = letter.content.unwrap();
        let head = content.head.unwrap();
        Parcel { place: letter.place, letter: content.id, head, target, value: b"body".to_vec() }
    }

    fn opened(keys: &RecordKeys, topic: &Topic, headers: &Headers) -> Head {
        keys.open(topic, headers.iter(), b"body").unwrap()
    }

    fn both() -> Keys {
        Keys { edge: keys("edge-1"), core: keys("core-1") }
    }

    #[test]
    fn what_a_sink_gave_up_goes_to_its_lane_as_a_record_that_was_never_there() {
        let parcel = parcel(Some("main"), "retry.main.1h");
        let (headers, id) = redriven(&both(), &parcel, 5);
        let found = opened(&keys("core-1"), &parcel.target.topic, &headers);
        let before = head(Some("main")).retry.unwrap();
        let retry = Some(Retry { redrive: 1, attempt: 0, hop: 0, ..before });
        assert_eq!(found, Head { retry, ..head(Some("main")) }, "and nothing else of it changes");
        assert_eq!(id, found.identity.map(|identity| identity.id));
    }

    #[test]
    fn what_was_never_opened_goes_to_the_inbox_with_an_age_that_begins_anew() {
        let parcel = parcel(None, "inbox");
        let (headers, id) = redriven(&both(), &parcel, 5);
        let found = opened(&keys("edge-1"), &Topic::Inbox, &headers);
        assert_eq!((found, id), (Head { redriven_ms: Some(5), ..head(None) }, None));
    }
}
