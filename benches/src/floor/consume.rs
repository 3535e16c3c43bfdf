//! Bare loops: one consumer and one producer of rdkafka, with the settings of the product's clients, no group, no index, no MAC.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::envelope::Envelope;
use common::id::SourceId;
use open::Keyring;
use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{LINGER_US, Stopwatch, Took, client, producer};

/// What a loop reads and writes.
pub struct Consume {
    /// The brokers.
    pub bootstrap: String,
    /// The topic that is read, all partitions from their beginning.
    pub input: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// The topic that is written.
    pub output: String,
    /// How many records are read.
    pub records: u64,
    /// What is done with each.
    pub work: Work,
}

/// What is done with each record.
pub enum Work {
    /// Its value is written as it is.
    Copy,
    /// It is opened, and its value is written as it is.
    Open(SourceId, Keyring),
    /// It is opened, and its payload is written.
    Unseal(SourceId, Keyring),
}

#[derive(Default)]
struct Acks {
    good: AtomicU64,
    bad: AtomicU64,
}

struct Counting(Arc<Acks>);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.good } else { &self.0.bad };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Consume {
    /// Copies the records, and waits until all are acknowledged.
    pub fn run(&self) -> Result<Took> {
        let mut reading = client(&self.bootstrap);
        reading.set("group.id", "bare").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "50");
        reading.set("queued.min.messages", "1000").set("queued.max.messages.kbytes", "2048");
        reading.set("fetch.queue.backoff.ms", "20");
        let consumer: BaseConsumer = reading.create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.input, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let acks = Arc::new(Acks::default());
        let producer: ThreadedProducer<Counting> =
            producer(&self.bootstrap, LINGER_US, true).create_with_context(Counting(acks.clone()))?;

        let mut begun = None;
        let mut read = 0;
        while read < self.records {
            let message = consumer.poll(Duration::from_secs(30)).context("nothing came")??;
            if begun.is_none() {
                begun = Some(Stopwatch::start(std::process::id())?);
            }
            let value = message.payload().unwrap_or_default();
            match &self.work {
                Work::Copy => self.write(&producer, message.key(), value)?,
                Work::Open(source, keyring) => {
                    black_box(open::open(keyring, &Envelope::parse(value, source)?)?);
                    self.write(&producer, message.key(), value)?;
                }
                Work::Unseal(source, keyring) => {
                    let opened = open::open(keyring, &Envelope::parse(value, source)?)?;
                    self.write(&producer, message.key(), &opened.plaintext)?;
                }
            }
            read += 1;
        }
        producer.flush(Duration::from_secs(60))?;
        let took = begun.context("no record was read")?.took()?;
        let (good, bad) = (acks.good.load(Ordering::Relaxed), acks.bad.load(Ordering::Relaxed));
        if good != self.records || bad != 0 {
            bail!("{good} of {} records were acknowledged, {bad} failed", self.records);
        }
        Ok(took)
    }

    fn write(&self, producer: &ThreadedProducer<Counting>, key: Option<&[u8]>, value: &[u8]) -> Result<()> {
        loop {
            let record = BaseRecord::<[u8], [u8]>::to(&self.output).key(key.unwrap_or_default()).payload(value);
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}
