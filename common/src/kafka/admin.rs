//! Creating and inspecting topics.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ClientError, KafkaConfig, Logged};

const DEADLINE: Duration = Duration::from_secs(15);

/// Why an administrative call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker did not answer, or refused.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// One topic could not be made.
    #[error("topic {topic}: {code}")]
    Topic {
        /// Its name.
        topic: String,
        /// The broker's answer.
        code: RDKafkaErrorCode,
    },
}

/// A topic that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Copies of each; -1 for the cluster's default.
    pub replication: i32,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its partitions.
    pub partitions: i32,
    /// Copies of its first partition.
    pub replication: i32,
    /// Its settings in force, the broker's defaults included.
    pub settings: BTreeMap<String, String>,
}

/// An administrative client.
pub struct Admin(AdminClient<Logged>);

impl Admin {
    /// Connects when it is used.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, ClientError> {
        Ok(Self(kafka.settings()?.create_with_context(Logged)?))
    }

    /// Creates a topic unless it is there: `true` if it was made.
    pub async fn create(&self, spec: &TopicSpec) -> Result<bool, AdminError> {
        let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
        for (key, value) in &spec.settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().request_timeout(Some(DEADLINE)).operation_timeout(Some(DEADLINE));
        let results = self.0.create_topics([&topic], &options).await?;
        match results.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((topic, code))) => Err(AdminError::Topic { topic, code }),
            Some(Ok(_)) | None => Ok(true),
        }
    }

    /// Deletes topics. One that is not there counts as deleted.
    pub async fn delete(&self, topics: &[String]) -> Result<(), AdminError> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new().request_timeout(Some(DEADLINE)).operation_timeout(Some(DEADLINE));
        for result in self.0.delete_topics(&names, &options).await? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => return Err(AdminError::Topic { topic, code }),
            }
        }
        Ok(())
    }

    /// A topic as it is, `None` if there is none.
    pub async fn describe(&self, topic: &str) -> Result<Option<TopicState>, AdminError> {
        let metadata = self.0.inner().fetch_metadata(Some(topic), DEADLINE)?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
            Some(code) => return Err(AdminError::Topic { topic: topic.to_owned(), code }),
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let partitions = count(found.partitions().len());
        let replication = found.partitions().first().map_or(0, |partition| count(partition.replicas().len()));
        let options = AdminOptions::new().request_timeout(Some(DEADLINE));
        let resources = self.0.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await?;
        let mut settings = BTreeMap::new();
        for resource in resources {
            let resource = resource.map_err(|code| AdminError::Topic { topic: topic.to_owned(), code })?;
            let entries = resource.entries.into_iter().filter(|entry| !entry.is_sensitive);
            settings.extend(entries.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(Some(TopicState { partitions, replication, settings }))
    }

    /// A setting of the brokers, asked of one of them; `None` if it has none of this name, or doesn't tell.
    pub async fn broker_setting(&self, name: &str) -> Result<Option<String>, AdminError> {
        let metadata = self.0.inner().fetch_metadata(None, DEADLINE)?;
        let Some(broker) = metadata.brokers().first() else { return Ok(None) };
        let options = AdminOptions::new().request_timeout(Some(DEADLINE));
        let resources = self.0.describe_configs([&ResourceSpecifier::Broker(broker.id())], &options).await?;
        let entries = resources.into_iter().flatten().flat_map(|resource| resource.entries);
        Ok(entries.filter(|entry| entry.name == name).find_map(|entry| entry.value))
    }

    /// Which broker leads each partition of a topic. Blocks.
    pub fn leaders(&self, topic: &str) -> Result<Vec<i32>, AdminError> {
        let metadata = self.0.inner().fetch_metadata(Some(topic), DEADLINE)?;
        let partitions = metadata.topics().iter().flat_map(|found| found.partitions());
        let mut leaders: Vec<_> = partitions.map(|partition| (partition.id(), partition.leader())).collect();
        leaders.sort_unstable();
        Ok(leaders.into_iter().map(|(_, leader)| leader).collect())
    }

    /// The cluster's id, and how many brokers it has now. Blocks.
    pub fn cluster(&self) -> Result<(Option<String>, usize), AdminError> {
        let metadata = self.0.inner().fetch_metadata(None, DEADLINE)?;
        Ok((self.0.inner().fetch_cluster_id(DEADLINE), metadata.brokers().len()))
    }
}
