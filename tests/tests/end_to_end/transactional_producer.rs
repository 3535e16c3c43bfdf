//! The transactional producer alone, on a real broker.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use common::clock::Clock;
use common::kafka::admin::{Admin, TopicSpec};
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::{
    Assigned, Commit, ConsumerSettings, Edge, GroupConsumer, Handler, Incoming, More, OnFenced, Reader, TopicPartition,
    Waker, commit_first, committed, log_edges,
};
use common::kafka::producer::{
    Delivery, Outgoing, ProduceError, ProducerSettings, TransactionError, TransactionalProducer,
};
use tests::environment;
use tests::wait::{until, until_true};

/// How long a transaction may take to become visible once its commit was answered.
const VISIBLE_DEADLINE: Duration = Duration::from_secs(30);

/// A topic of one partition, removed at the end of its test.
struct OwnTopic {
    kafka: KafkaConfig,
    name: String,
}

impl OwnTopic {
    async fn create(purpose: &str) -> Result<Self> {
        let kafka = environment::kafka()?;
        let name = format!("{purpose}-{:08x}", getrandom::u32()?);
        let spec = TopicSpec { name: name.clone(), partitions: 1, replication: 1, settings: BTreeMap::new() };
        Admin::new(&kafka)?.create(&spec).await?;
        Ok(Self { kafka, name })
    }

    async fn producer(&self) -> Result<TransactionalProducer, TransactionError> {
        let (kafka, id) = (self.kafka.clone(), format!("{}-id", self.name));
        let made = move || TransactionalProducer::new(&kafka, &ProducerSettings::default(), &id);
        tokio::task::spawn_blocking(made).await.expect("making it does not panic")
    }

    fn send(&self, producer: &TransactionalProducer, value: &str) -> Result<Delivery, ProduceError> {
        let record = Outgoing { topic: &self.name, partition: Some(0), key: None, value: value.as_bytes() };
        producer.send(record, [])
    }

    /// What a reader of committed records sees, from the first to the last that is not in an open transaction.
    async fn visible(&self) -> Result<Vec<String>> {
        let (kafka, topic) = (self.kafka.clone(), self.name.clone());
        let read = move || {
            let reader = Reader::new(&kafka)?;
            let mut values = Vec::new();
            let range = reader.watermarks(&topic, 0)?;
            reader.read(&topic, 0, range, |record| {
                values.push(String::from_utf8_lossy(record.value()).into_owned());
                ControlFlow::Continue(())
            })?;
            Ok(values)
        };
        tokio::task::spawn_blocking(read).await?
    }

    async fn shows(&self, expect: &[&str]) -> Result<()> {
        let what = format!("a reader of committed records sees {expect:?}");
        until(&what, VISIBLE_DEADLINE, async || Ok((self.visible().await? == expect).then_some(()))).await
    }

    async fn remove(self) -> Result<()> {
        Ok(Admin::new(&self.kafka)?.delete(&[self.name]).await?)
    }
}

/// Runs a step that blocks.
async fn step<T: Send + 'static>(
    producer: &Arc<TransactionalProducer>,
    step: impl FnOnce(&TransactionalProducer) -> T + Send + 'static,
) -> Result<T> {
    let producer = producer.clone();
    Ok(tokio::task::spawn_blocking(move || step(&producer)).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_seen_whole_or_not_at_all() -> Result<()> {
    let topic = OwnTopic::create("whole").await?;
    let producer = Arc::new(topic.producer().await?);

    producer.begin()?;
    for value in ["a", "b"] {
        topic.send(&producer, value)?.await?;
    }
    // Acknowledged, in the log, and not to be seen.
    assert_eq!(topic.visible().await?, Vec::<String>::new());
    step(&producer, TransactionalProducer::commit).await??;
    topic.shows(&["a", "b"]).await?;

    producer.begin()?;
    topic.send(&producer, "given up")?.await?;
    step(&producer, TransactionalProducer::abort).await??;
    producer.begin()?;
    topic.send(&producer, "c")?.await?;
    step(&producer, TransactionalProducer::commit).await??;
    topic.shows(&["a", "b", "c"]).await?;

    tokio::task::spawn_blocking(move || drop(producer)).await?;
    topic.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_ends_behind_an_open_transaction_but_for_who_reads_what_is_committed() -> Result<()> {
    let topic = OwnTopic::create("edges").await?;
    let producer = Arc::new(topic.producer().await?);
    producer.begin()?;
    topic.send(&producer, "open")?.await?;
    let (kafka, name) = (topic.kafka.clone(), topic.name.clone());
    let asked = tokio::task::spawn_blocking(move || -> Result<_> {
        let edge = |edge| log_edges(&kafka, &[&name], 1, edge);
        Ok((edge(Edge::First)?, edge(Edge::End)?, Reader::new(&kafka)?.log_ends(&name, 1)?))
    });
    assert_eq!(asked.await??, (vec![0], vec![1], vec![0]));
    step(&producer, TransactionalProducer::abort).await??;
    topic.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_of_an_id_fences_the_first_and_ends_its_transaction() -> Result<()> {
    let topic = OwnTopic::create("fenced").await?;
    let first = Arc::new(topic.producer().await?);
    first.begin()?;
    topic.send(&first, "of the first")?.await?;

    let second = Arc::new(topic.producer().await?);
    second.begin()?;
    topic.send(&second, "of the second")?.await?;
    step(&second, TransactionalProducer::commit).await??;
    topic.shows(&["of the second"]).await?;

    let refused = step(&first, TransactionalProducer::commit).await?;
    assert!(matches!(refused, Err(TransactionError::Fenced(_))), "{refused:?}");
    let again = first.begin();
    assert!(matches!(again, Err(TransactionError::Fenced(_))), "and from then on: {again:?}");
    topic.shows(&["of the second"]).await?;

    tokio::task::spawn_blocking(move || drop((first, second))).await?;
    topic.remove().await
}

/// A member that owns and does nothing.
struct Idle;

impl Handler for Idle {
    fn assigned(&self, _: Vec<Assigned>) {}

    fn room(&self, _: &TopicPartition) -> usize {
        0
    }

    fn record(&self, _: &TopicPartition, _: Incoming<'_>) -> More {
        More::NotNow
    }

    fn turned(&self) {}

    fn passed(&self, _: &TopicPartition, _: i64) {}

    fn lapsed(&self, _: Duration) {}

    fn hold(&self) -> bool {
        true
    }

    fn release(&self) {}

    fn fence(&self, _: &[TopicPartition]) {}

    fn drain(&self, _: &[TopicPartition]) {}

    fn snapshot(&self, _: Option<&[TopicPartition]>) -> Vec<Commit> {
        Vec::new()
    }

    fn committed(&self, _: &[Commit], _: Duration) {}

    fn revoked(&self, _: &[TopicPartition]) {}

    fn dirty(&self) -> bool {
        false
    }
}

/// A processor that starts asks where its groups stand. One that died in the middle of its commit has left newer offsets
/// in a transaction, and the start must not wait until that has timed out.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_told_at_once_while_newer_ones_are_in_an_open_transaction() -> Result<()> {
    let topic = OwnTopic::create("offsets").await?;
    let (kafka, name, group) = (topic.kafka.clone(), topic.name.clone(), format!("{}-group", topic.name));
    let stored = {
        let (kafka, name, group) = (kafka.clone(), name.clone(), group.clone());
        move || committed(&kafka, &group, &name, 1)
    };
    let first = {
        let (kafka, name, group) = (kafka.clone(), name.clone(), group.clone());
        move || commit_first(&kafka, &group, &name, 1)
    };
    tokio::task::spawn_blocking(first).await??;
    let settings = ConsumerSettings {
        group: group.clone(),
        topics: vec![name.as_str().into()],
        instance: Some(format!("{name}-instance")),
        session: Duration::from_secs(10),
        callback_deadline: Duration::from_secs(60),
        commit_interval: Duration::from_millis(20),
        embedded: false,
        transaction: None,
        on_fenced: OnFenced(Arc::new(|| {})),
    };
    let die = Arc::new(|doubt| panic!("{doubt:?}"));
    let member = GroupConsumer::start(&kafka, settings, Arc::new(Idle), Clock::system(), Waker::new(), die)?;
    until_true("the member owns the topic", VISIBLE_DEADLINE, || member.owned().len() == 1).await?;

    let producer = Arc::new(topic.producer().await?);
    producer.begin()?;
    topic.send(&producer, "a")?.await?;
    let at = TopicPartition { topic: name.as_str().into(), partition: 0 };
    let newer = vec![Commit { at, base: 1, metadata: "mark".to_owned() }];
    let metadata = member.metadata().expect("the member runs");
    step(&producer, move |producer| producer.send_offsets(&newer, &metadata)).await??;
    // While it is open, the former ones; a read that waited for its end would end with an error.
    assert_eq!(tokio::task::spawn_blocking(stored.clone()).await??, [(Some(0), String::new())]);
    step(&producer, TransactionalProducer::commit).await??;
    until("offsets and metadata are committed with it", VISIBLE_DEADLINE, async || {
        let stored = tokio::task::spawn_blocking(stored.clone()).await??;
        Ok((stored == [(Some(1), "mark".to_owned())]).then_some(()))
    })
    .await?;

    tokio::task::spawn_blocking(move || (member.stop(), drop(producer))).await?;
    topic.remove().await
}
