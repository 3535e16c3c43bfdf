//! Where a letter would be redriven to, or why never.
//!
//! ```text
//! read from                         goes to
//! inbox: nobody saw its event id    inbox again, where ingest put it first
//! events, a retry lane of a sink    the first retry lane of that sink, in the partition that it came from
//! ```
//!
//! A lane asks for no age and knows a record by how often it was redriven, so what waited long in `dead`, `too_old` too, is
//! delivered from there; in the inbox its age begins anew. `bad_mac` goes nowhere: nothing says who wrote it. `misplaced`
//! goes nowhere: its genuine record lies in its own place and was handed on from there. What would only die again, or be
//! passed over, is kept until the configuration has what it lacks.

use std::fmt;

use common::record::Reason;
use common::topics::Topic;
use processor::config::Config;

use super::letters::Letter;

/// Where a letter goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The topic: `inbox`, or a lane.
    pub(crate) topic: Topic,
    /// The partition; any of the inbox.
    pub(crate) partition: Option<i32>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.topic.role())
    }
}

/// Why a letter is not redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    /// The letter's own MAC is wrong.
    NotTrusted,
    /// The record's MAC was wrong where it was read.
    BadMac,
    /// It lay in a partition that is not its event's.
    Misplaced,
    /// Its source is not in the configuration.
    NoSource,
    /// Its sink is not in the configuration.
    NoSink,
    /// Its source no longer names its sink.
    NotFed,
    /// It comes from no topic, or from no partition, that there is now.
    NoPlace,
}

impl Kept {
    /// Its name in the results.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotTrusted => "not_trusted",
            Self::BadMac => "bad_mac",
            Self::Misplaced => "misplaced",
            Self::NoSource => "no_source",
            Self::NoSink => "no_sink",
            Self::NotFed => "not_fed",
            Self::NoPlace => "no_place",
        }
    }

    /// Why, and what can be done about it.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::NotTrusted => {
                "its MAC is wrong: no processor with these core keys wrote it, and it is never redriven"
            }
            Self::BadMac => "nothing says who wrote it: it is never redriven",
            Self::Misplaced => "it is a copy of a record that was handed on from its own place: it is never redriven",
            Self::NoSource => "its source is not in the configuration: add it, then redrive",
            Self::NoSink => "its sink is not in the configuration: add it, then redrive",
            Self::NotFed => "its source no longer names its sink: add the sink to the source's sinks, then redrive",
            Self::NoPlace => "the topics have no such partition now",
        }
    }
}

/// Where a letter would go if it was not redriven yet.
pub(crate) fn target(letter: &Letter, config: &Config) -> Result<Target, Kept> {
    let content = letter.content.as_ref().map_err(|_| Kept::NotTrusted)?;
    match content.failure.reason {
        Reason::BadMac => return Err(Kept::BadMac),
        Reason::Misplaced => return Err(Kept::Misplaced),
        Reason::UnknownSource
        | Reason::InvalidEnvelope
        | Reason::UnknownKey
        | Reason::OpenFailed
        | Reason::InvalidEventId
        | Reason::TooOld
        | Reason::Refused
        | Reason::Exhausted => {}
    }
    let head = content.head.as_ref().ok_or(Kept::BadMac)?;
    let source = config.source.get(&head.source).ok_or(Kept::NoSource)?;
    let origin = &content.failure.origin;
    if origin.role == Topic::Inbox.role() {
        return Ok(Target { topic: Topic::Inbox, partition: None });
    }
    let (Some(retry), Some(_)) = (&head.retry, head.identity) else { return Err(Kept::NoPlace) };
    if !config.sink.contains_key(&retry.sink) {
        return Err(Kept::NoSink);
    }
    if !source.sinks.contains(&retry.sink) {
        return Err(Kept::NotFed);
    }
    if u32::try_from(origin.partition).is_ok_and(|partition| partition < config.topics.partitions) {
        let topic = config.retry_topics(&retry.sink).next().ok_or(Kept::NoPlace)?;
        Ok(Target { topic, partition: Some(origin.partition) })
    } else {
        Err(Kept::NoPlace)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use common::record::{Origin, RecordError};

    use super::*;
    use crate::dlq::letters::tests::{failure, head, letter};

    pub(crate) fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("processor.toml");
        let text = r#"
topics.partitions = 8
pipeline = { edge_keys = [{ id = "e", file = "e" }], core_keys = [{ id = "c", file = "c" }], id_keys = [{ id = "i", file = "i" }] }
[source.acme]
keys = [{ id = "k", file = "k" }]
sinks = ["main"]
[sink.main]
kind = "file"
path = "main.jsonl"
[sink.other]
kind = "file"
path = "other.jsonl"
"#;
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), std::iter::empty()).unwrap()
    }

    /// Whether the reason keeps a letter for ever; all others go where their origin says.
    fn is_final(reason: Reason) -> Option<Kept> {
        match reason {
            Reason::BadMac => Some(Kept::BadMac),
            Reason::Misplaced => Some(Kept::Misplaced),
            Reason::UnknownSource
            | Reason::InvalidEnvelope
            | Reason::UnknownKey
            | Reason::OpenFailed
            | Reason::InvalidEventId
            | Reason::TooOld
            | Reason::Refused
            | Reason::Exhausted => None,
        }
    }

    #[test]
    fn every_reason_from_every_origin_has_its_target() {
        let inbox = Target { topic: Topic::Inbox, partition: None };
        let lane = Topic::Retry { sink: "main".parse().unwrap(), delay: "10s".parse().unwrap() };
        let lane = Target { topic: lane, partition: Some(3) };
        for reason in Reason::ALL {
            for (role, sink, goes_to) in [
                ("inbox", None, &inbox),
                ("events", Some("main"), &lane),
                ("retry.main.10s", Some("main"), &lane),
                ("retry.main.1h", Some("main"), &lane),
                ("retry.main.7m", Some("main"), &lane),
            ] {
                let expected = is_final(*reason).map_or_else(|| Ok(goes_to.clone()), Err);
                let found = target(&letter(Some(head(sink)), failure(*reason, role)), &config());
                assert_eq!(found, expected, "{reason} from {role}");
            }
        }
    }

    #[test]
    fn what_the_configuration_lacks_keeps_a_letter() {
        let of = |sink: Option<&str>, role: &str| letter(Some(head(sink)), failure(Reason::Refused, role));
        assert_eq!(target(&of(Some("gone"), "events"), &config()), Err(Kept::NoSink));
        assert_eq!(target(&of(Some("other"), "events"), &config()), Err(Kept::NotFed));
        let mut without = config();
        without.source.clear();
        assert_eq!(target(&of(Some("main"), "events"), &without), Err(Kept::NoSource));
        assert_eq!(target(&of(None, "inbox"), &without), Err(Kept::NoSource));
        let mut smaller = config();
        smaller.topics.partitions = 3;
        assert_eq!(target(&of(Some("main"), "events"), &smaller), Err(Kept::NoPlace));
        assert!(target(&of(None, "inbox"), &smaller).is_ok(), "any partition of the inbox will do");
    }

    #[test]
    fn what_is_not_trusted_or_says_too_little_is_kept() {
        let of_sink = letter(Some(head(Some("main"))), failure(Reason::Refused, "events"));
        let forged = Letter { content: Err(RecordError::BadMac), ..of_sink };
        assert_eq!(target(&forged, &config()), Err(Kept::NotTrusted));
        let headless = letter(None, failure(Reason::Refused, "events"));
        assert_eq!(target(&headless, &config()), Err(Kept::BadMac));
        let no_sink = letter(Some(head(None)), failure(Reason::Refused, "events"));
        assert_eq!(target(&no_sink, &config()), Err(Kept::NoPlace));
        let origin = Origin { role: "events".to_owned(), partition: -1, offset: 0 };
        let nowhere =
            letter(Some(head(Some("main"))), common::record::Failure { origin, ..failure(Reason::Refused, "") });
        assert_eq!(target(&nowhere, &config()), Err(Kept::NoPlace));
    }
}
