//! The topics that a deployment needs, and what is wrong with those that it has.

use std::collections::BTreeMap;

use common::kafka::admin::{TopicSpec, TopicState};
use common::limits::{BODY_BYTES_CAP, RECORD_BYTES_MAX};
use common::topics::Topic;

use crate::config::Config;

/// Every topic of the pipeline as it should be. The output topics of Kafka sinks are their consumers' affair.
pub fn specs(config: &Config) -> Vec<TopicSpec> {
    let replication = if config.topics.danger_single_broker { 1 } else { config.topics.replication };
    let settings = BTreeMap::from([
        ("message.timestamp.type".to_owned(), "LogAppendTime".to_owned()),
        ("max.message.bytes".to_owned(), RECORD_BYTES_MAX.to_string()),
        ("retention.bytes".to_owned(), "-1".to_owned()),
        ("cleanup.policy".to_owned(), "delete".to_owned()),
        ("unclean.leader.election.enable".to_owned(), "false".to_owned()),
        ("min.insync.replicas".to_owned(), replication.saturating_sub(1).max(1).to_string()),
    ]);
    let number = |n: u32| i32::try_from(n).expect("a checked configuration holds small numbers");
    let spec = |topic: Topic| {
        let retention = match &topic {
            Topic::Inbox | Topic::Events | Topic::Retry { .. } => config.topics.retention,
            Topic::Dead => config.topics.dead_retention.max(config.topics.retention),
        };
        let mut settings = settings.clone();
        settings.insert("retention.ms".to_owned(), retention.as_millis().to_string());
        TopicSpec {
            name: topic.name(&config.topics.prefix),
            partitions: number(config.topics.partitions),
            replication: number(replication),
            settings,
        }
    };
    config.pipeline_topics().into_iter().map(spec).collect()
}

/// What is wrong with a topic, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// What is wrong.
    pub wrong: String,
    /// What mends it.
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "topic {}: {}; {}", self.topic, self.wrong, self.remedy)
    }
}

/// What is wrong with the output topic of a transactional sink. One that refused a record would make its transaction fail, and
/// each attempt after it: it must take the largest event there is.
pub fn check_output(topic: &str, state: Option<&TopicState>) -> Vec<Finding> {
    let finding = |wrong: &str, remedy: String| Finding { topic: topic.to_owned(), wrong: wrong.to_owned(), remedy };
    let Some(state) = state else {
        return vec![finding("is missing", "make it: it is the output of a transactional sink".to_owned())];
    };
    let (key, wanted) = ("max.message.bytes", BODY_BYTES_CAP.to_string());
    if at_least(state.settings.get(key), &wanted) {
        return Vec::new();
    }
    let wrong = format!("{key} is less than {wanted}, so that an event could block the transactions of its sink");
    vec![finding(&wrong, alter(topic, key, &wanted))]
}

fn alter(topic: &str, key: &str, value: &str) -> String {
    format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {key}={value}")
}

/// Compares a topic as it is with what it should be.
pub fn check(spec: &TopicSpec, state: Option<&TopicState>) -> Vec<Finding> {
    let finding = |wrong: String, remedy: String| Finding { topic: spec.name.clone(), wrong, remedy };
    let Some(state) = state else {
        return vec![finding("is missing".to_owned(), "make it with `sealstream topics create`".to_owned())];
    };
    let mut findings = Vec::new();
    if state.partitions != spec.partitions {
        findings.push(finding(
            format!("has {} partitions where topics.partitions says {}", state.partitions, spec.partitions),
            "the number is fixed for the life of the topic: correct the configuration".to_owned(),
        ));
    }
    if state.replication < spec.replication {
        findings.push(finding(
            format!("has {} copies where {} are wanted", state.replication, spec.replication),
            "move it with kafka-reassign-partitions.sh, or say topics.danger_single_broker".to_owned(),
        ));
    }
    for (key, wanted) in &spec.settings {
        let found = state.settings.get(key);
        let enough = match key.as_str() {
            "max.message.bytes" | "min.insync.replicas" => at_least(found, wanted),
            // -1 is for ever.
            "retention.ms" => found.is_some_and(|found| found == "-1") || at_least(found, wanted),
            _ => found == Some(wanted),
        };
        if !enough {
            let found = found.map_or("not set", String::as_str);
            let remedy = alter(&spec.name, key, wanted);
            findings.push(finding(format!("{key} is {found} where {wanted} is wanted"), remedy));
        }
    }
    findings
}

fn at_least(found: Option<&String>, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    found.and_then(|found| number(found)).zip(number(wanted)).is_some_and(|(found, wanted)| found >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TopicSpec {
        let settings = [("retention.ms", "1000"), ("cleanup.policy", "delete"), ("min.insync.replicas", "2")];
        TopicSpec {
            name: "t".to_owned(),
            partitions: 4,
            replication: 3,
            settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    fn state() -> TopicState {
        TopicState { partitions: 4, replication: 3, settings: spec().settings }
    }

    #[test]
    fn letters_are_kept_longer_than_what_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("processor.toml");
        let text = r#"
pipeline = { edge_keys = [{ id = "e", file = "e" }], core_keys = [{ id = "c", file = "c" }], id_keys = [{ id = "i", file = "i" }] }
source.acme.keys = [{ id = "k", file = "k" }]
sink.main = { kind = "file", path = "out.jsonl" }
"#;
        std::fs::write(&path, text).unwrap();
        let days = |spec: &TopicSpec| spec.settings["retention.ms"].parse::<u64>().unwrap() / 86_400_000;
        for (retention, dead_retention, expected) in [("7d", "30d", 30), ("7d", "1d", 7), ("40d", "30d", 40)] {
            let variables = [("RETENTION", retention), ("DEAD_RETENTION", dead_retention)]
                .map(|(key, value)| (format!("PROCESSOR__TOPICS__{key}"), value.to_owned()));
            let specs = specs(&Config::load(Some(&path), variables.into_iter()).unwrap());
            let (dead, others): (Vec<_>, Vec<_>) = specs.iter().partition(|spec| spec.name == "sealstream.dead");
            assert_eq!(dead.into_iter().map(days).collect::<Vec<_>>(), [expected]);
            let pipeline = if retention == "7d" { 7 } else { 40 };
            assert!(!others.is_empty() && others.into_iter().all(|spec| days(spec) == pipeline));
        }
    }

    #[test]
    fn what_is_as_wanted_or_better_is_right() {
        assert_eq!(check(&spec(), Some(&state())), []);
        let mut better = TopicState { replication: 5, ..state() };
        better.settings.insert("retention.ms".to_owned(), "-1".to_owned());
        better.settings.insert("min.insync.replicas".to_owned(), "3".to_owned());
        assert_eq!(check(&spec(), Some(&better)), []);
    }

    #[test]
    fn the_output_of_transactions_takes_the_largest_event() {
        let output = |bytes: u64| {
            let settings = [("max.message.bytes".to_owned(), bytes.to_string())].into();
            check_output("out", Some(&TopicState { partitions: 1, replication: 1, settings }))
        };
        assert_eq!(output(BODY_BYTES_CAP), []);
        assert_eq!((output(BODY_BYTES_CAP - 1).len(), check_output("out", None).len()), (1, 1));
    }

    #[test]
    fn each_difference_is_named_with_its_remedy() {
        assert_eq!(check(&spec(), None).len(), 1);
        assert_eq!(check(&spec(), Some(&TopicState { partitions: 5, ..state() })).len(), 1);
        assert_eq!(check(&spec(), Some(&TopicState { replication: 1, ..state() })).len(), 1);
        for (key, value) in [("retention.ms", "999"), ("cleanup.policy", "compact"), ("min.insync.replicas", "1")] {
            let mut state = state();
            state.settings.insert(key.to_owned(), value.to_owned());
            let findings = check(&spec(), Some(&state));
            assert!(
                findings.len() == 1 && findings[0].wrong.contains(key) && findings[0].remedy.contains("kafka-configs"),
                "{key}"
            );
        }
    }
}
