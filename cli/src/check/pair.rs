//! What ingest and the processor must have in common, and what they must not.

use common::config::SecretFile;
use common::secret::Secret;

use super::Finding;

type Processor = processor::config::Config;

pub(super) fn check(ingest: &ingest::Config, processor: &Processor, findings: &mut Vec<Finding>) {
    let mut wrong = |found: String, remedy: &str| findings.push(Finding::wrong("both", found, remedy));
    let prefixes = (&ingest.topics.prefix, &processor.topics.prefix);
    if prefixes.0 != prefixes.1 {
        wrong(
            format!(
                "topics.prefix is {} for ingest and {} for the processor: what one writes the other never reads",
                prefixes.0, prefixes.1
            ),
            "give both the same topics.prefix",
        );
    }
    edge_key(ingest, processor, &mut wrong);
    for id in ingest.source.keys().filter(|id| !processor.source.contains_key(*id)) {
        wrong(
            format!("source {id} is accepted and the processor does not know it: its events become dead letters"),
            "add [source.<name>] with its keys and sinks to the processor: `sealstream source add` does both",
        );
    }
    for id in processor.source.keys().filter(|id| !ingest.source.contains_key(*id)) {
        findings.push(Finding::look(
            "both",
            format!("the processor has keys of source {id}, and ingest accepts nothing of it"),
            "add the source to ingest, or remove its keys once all its events are delivered",
        ));
    }
    let tolerance = ingest.source.iter().max_by_key(|(_, source)| source.tolerance);
    if let Some((id, source)) = tolerance.filter(|(_, source)| source.tolerance * 2 > processor.dedup.window) {
        findings.push(Finding::wrong(
            "both",
            format!(
                "source.{id}.tolerance lets a request be sent again for {} s, and dedup.window is {} s: who records a request can have it \
                 delivered twice",
                source.tolerance.as_secs() * 2,
                processor.dedup.window.as_secs()
            ),
            "make dedup.window at least twice the tolerance",
        ));
    }
    if ingest.kafka.bootstrap != processor.kafka.bootstrap {
        findings.push(Finding::look(
            "both",
            format!(
                "kafka.bootstrap is {} for ingest and {} for the processor",
                ingest.kafka.bootstrap, processor.kafka.bootstrap
            ),
            "fine for two ways to one cluster; else name the same brokers",
        ));
    }
    opening_keys(ingest, processor, findings);
}

/// The processor must know the key that ingest signs records with, by the same name.
fn edge_key(ingest: &ingest::Config, processor: &Processor, wrong: &mut impl FnMut(String, &str)) {
    let key = &ingest.pipeline.edge_key;
    let Some(known) = processor.pipeline.edge_keys.iter().find(|known| known.id == key.id) else {
        return wrong(
            format!(
                "pipeline.edge_key {} is not among the processor's pipeline.edge_keys: every event becomes a dead letter, bad_mac",
                key.id
            ),
            "add it to the processor first, then use it at ingest: `sealstream rotate add edge`",
        );
    };
    if let (Ok(one), Ok(other)) = (key.file.load(), known.file.load())
        && !one.is_same_as(&other)
    {
        wrong(
            format!(
                "pipeline.edge_key {} is not the same bytes for ingest and the processor: every event becomes a dead letter, bad_mac",
                key.id
            ),
            "copy the file of one to the other",
        );
    }
}

/// Ingest must hold nothing that opens an envelope.
fn opening_keys(ingest: &ingest::Config, processor: &Processor, findings: &mut Vec<Finding>) {
    let secrets =
        |files: Vec<&SecretFile>| -> Vec<Secret> { files.into_iter().filter_map(|file| file.load().ok()).collect() };
    let opening = secrets(processor.source.values().flat_map(|source| &source.keys).map(|key| &key.file).collect());
    for (id, source) in &ingest.source {
        for secret in &source.secrets {
            let Ok(bytes) = secret.file.load() else { continue };
            if opening.iter().any(|key| key.is_same_as(&bytes)) {
                findings.push(Finding::wrong(
                    "both",
                    format!(
                        "source {id}: secret {} signs and also opens envelopes, so ingest could read payloads",
                        secret.id
                    ),
                    "make another secret for signing: `sealstream rotate add`",
                ));
            }
        }
    }
}
