//! What must be right before a processor joins its groups, asked of the brokers: `sealstream topics check` asks the same.
//!
//! The judging is pure ([`crate::topics::check`], [`offsets`], [`metadata_bytes`]); this file also does the asking.

use common::kafka::admin::{Admin, AdminError, TopicState};
use common::kafka::client::{ClientError, KafkaConfig};
use common::kafka::consumer::scanner::Scanner;
use common::kafka::consumer::{ReadError, TopicPartition, beyond_the_end, committed, start_anew};

use crate::config::{Config, SinkKind};
use crate::core::progress::metadata_bytes_max;
use crate::topics::{Finding, check, check_output, specs};

/// Why the brokers could not be asked. The operator's fault, or the network's.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The broker did not answer, or refused.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Offsets could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A task of ours ended early.
    #[error("asking for offsets: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What a processor refuses to start on.
    pub findings: Vec<Finding>,
    /// What may be right, and can't be known here.
    pub warnings: Vec<Finding>,
}

/// Compares a deployment's topics, groups and brokers with what the configuration wants.
pub async fn inspect(config: &Config) -> Result<Inspection, CheckError> {
    let admin = Admin::new(&config.kafka)?;
    let mut inspection = Inspection::default();
    let mut sound = Vec::new();
    for spec in specs(config) {
        let state = admin.describe(&spec.name).await?;
        if state.as_ref().is_some_and(|state| state.partitions == spec.partitions) {
            sound.push(spec.name.clone());
        }
        inspection.findings.extend(check(&spec, state.as_ref()));
    }
    inspection.findings.extend(groups(config, &sound).await?);
    match admin.broker_setting("offset.metadata.max.bytes").await {
        Ok(found) => inspection.findings.extend(metadata_bytes(found.as_deref(), config.group.window)),
        // Not everybody may read the brokers' settings.
        Err(error) => tracing::debug!(%error, "the brokers' settings can't be read"),
    }
    outputs(config, &admin, &mut inspection).await?;
    Ok(inspection)
}

/// Asks for the groups' offsets, all at once: each question needs a client of its own, which must find its coordinator.
async fn groups(config: &Config, sound: &[String]) -> Result<Vec<Finding>, CheckError> {
    let prefix = &config.topics.prefix;
    let partitions = i32::try_from(config.topics.partitions).expect("a checked configuration holds small numbers");
    let mut asked = Vec::new();
    for (group, topics) in config.groups() {
        for topic in topics.iter().map(|topic| topic.name(prefix)).filter(|topic| sound.contains(topic)) {
            let (kafka, group) = (config.kafka.clone(), group.name(prefix));
            asked.push(tokio::task::spawn_blocking(move || one_group(&kafka, &group, &topic, partitions)));
        }
    }
    let mut findings = Vec::new();
    for answer in asked {
        findings.extend(answer.await??);
    }
    Ok(findings)
}

fn one_group(kafka: &KafkaConfig, group: &str, topic: &str, partitions: i32) -> Result<Vec<Finding>, CheckError> {
    let stored: Vec<_> = committed(kafka, group, topic, partitions)?.into_iter().map(|(offset, _)| offset).collect();
    // The ends come second: a group never stands beyond one that was read later.
    let ends = Scanner::new(kafka, topic.into())?.log_ends(partitions)?;
    Ok(offsets(group, topic, &stored, &ends))
}

/// What is wrong with a group's committed offsets of a topic, given the ends of its partitions.
pub fn offsets(group: &str, topic: &str, stored: &[Option<i64>], ends: &[i64]) -> Vec<Finding> {
    let finding = |wrong, remedy| Finding { topic: topic.to_owned(), wrong, remedy };
    let mut findings = Vec::new();
    let without = stored.iter().filter(|offset| offset.is_none()).count();
    if without == stored.len() {
        findings.push(finding(
            format!("group {group} has no committed offset in any of its {without} partitions"),
            "run `sealstream topics create`; if the group had offsets before, they expired, and it will read again what the log still \
             has"
            .to_owned(),
        ));
    } else if without > 0 {
        findings.push(finding(
            format!(
                "group {group} has no committed offset in {without} of its {} partitions: they expired",
                stored.len()
            ),
            "run `sealstream topics create`; the group will read again what the log still has of these".to_owned(),
        ));
    }
    let beyond = (0..).zip(stored.iter().zip(ends)).find_map(|(partition, (base, end))| {
        let base = base.filter(|base| base > end)?;
        Some(beyond_the_end(group, &TopicPartition { topic: topic.into(), partition }, base, *end))
    });
    if let Some(wrong) = beyond {
        findings.push(finding(wrong, start_anew(group, topic)));
    }
    findings
}

/// Whether brokers that take so many bytes of commit metadata take what a full progress window needs.
pub fn metadata_bytes(found: Option<&str>, window: u32) -> Option<Finding> {
    let found: u64 = found?.parse().ok()?;
    let needed = metadata_bytes_max(window) as u64;
    (found < needed).then(|| Finding {
        topic: "__consumer_offsets".to_owned(),
        wrong: format!("offset.metadata.max.bytes is {found} where group.window = {window} needs {needed}"),
        remedy: format!(
            "set offset.metadata.max.bytes={needed} or more in every broker's properties, or lower group.window"
        ),
    })
}

/// Whether the output topics of Kafka sinks are there. Another cluster is its owner's affair: what is wrong there is a warning.
async fn outputs(config: &Config, admin: &Admin, inspection: &mut Inspection) -> Result<(), CheckError> {
    for (name, sink) in config.sink.iter().filter(|(_, sink)| sink.kind == SinkKind::Kafka) {
        if sink.kafka.bootstrap.is_empty() {
            let found = admin.describe(&sink.topic).await?;
            if sink.transactional {
                inspection.findings.extend(check_output(&sink.topic, found.as_ref()));
            } else {
                inspection.findings.extend(output(&sink.topic, name.as_str(), found.as_ref()));
            }
            continue;
        }
        let found = match Admin::new(&sink.kafka) {
            Ok(admin) => admin.describe(&sink.topic).await.map_err(CheckError::from),
            Err(error) => Err(error.into()),
        };
        match found {
            Ok(found) => inspection.warnings.extend(output(&sink.topic, name.as_str(), found.as_ref())),
            Err(error) => inspection.warnings.push(Finding {
                topic: sink.topic.clone(),
                wrong: format!("the cluster of sink {name} can't be asked: {error}"),
                remedy: format!("look whether sink.{name}.kafka is right, and whether the cluster runs"),
            }),
        }
    }
    Ok(())
}

fn output(topic: &str, sink: &str, found: Option<&TopicState>) -> Option<Finding> {
    found.is_none().then(|| Finding {
        topic: topic.to_owned(),
        wrong: format!("is missing: sink {sink} writes to it"),
        remedy: "make it as its readers want it, or with `sealstream topics create --outputs`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(stored: &[Option<i64>], ends: &[i64]) -> Vec<String> {
        let findings = offsets("g", "t", stored, ends);
        assert!(findings.iter().all(|finding| finding.remedy.contains("sealstream topics create")));
        findings.into_iter().map(|finding| finding.wrong).collect()
    }

    #[test]
    fn each_state_of_a_groups_offsets_is_told_apart() {
        assert_eq!(wrong(&[Some(0), Some(5), Some(7)], &[0, 5, 9]), [""; 0], "at the end, and before it");
        assert!(matches!(&wrong(&[None, None], &[0, 5])[..], [one] if one.contains("in any of its 2")));
        assert!(
            matches!(&wrong(&[Some(1), None], &[1, 5])[..], [one] if one.contains("1 of its 2") && one.contains("expired"))
        );
        let anew = wrong(&[Some(6), Some(8)], &[6, 7]);
        assert!(matches!(&anew[..], [one] if one.contains("offset 8 of t-1") && one.contains("made anew")), "{anew:?}");
        assert!(offsets("g", "t", &[Some(1)], &[0])[0].remedy.contains("--delete-offsets --group g --topic t"));
        assert_eq!(wrong(&[None, Some(8)], &[6, 7]).len(), 2, "both at once");
    }

    #[test]
    fn the_commit_metadata_must_fit_a_full_window() {
        let bytes = |bytes: usize| metadata_bytes(Some(&bytes.to_string()), 16_384);
        assert_eq!((metadata_bytes(Some("4096"), 16_384), bytes(metadata_bytes_max(16_384))), (None, None));
        let needed = format!("needs {}", metadata_bytes_max(16_384));
        assert!(bytes(metadata_bytes_max(16_384) - 1).is_some_and(|finding| finding.wrong.contains(&needed)));
        assert_eq!(metadata_bytes(Some(&(metadata_bytes_max(16_384) - 1).to_string()), 16_320), None);
        assert_eq!(metadata_bytes(None, 16_384), None, "it may not be readable");
    }

    #[test]
    fn an_output_topic_must_be_there() {
        assert!(output("out", "main", None).is_some_and(|finding| finding.remedy.contains("--outputs")));
        let state = TopicState { partitions: 1, replication: 1, settings: std::collections::BTreeMap::new() };
        assert_eq!(output("out", "main", Some(&state)), None);
    }
}
