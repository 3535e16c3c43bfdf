//! `sealstream tail`: prints the records of a topic as they come. It reads only, is in no group, and commits nothing.
//!
//! Without `--reveal-payloads` it shows what the log's keys show and needs no key that opens anything. With it, it shows
//! payloads and event ids in the clear. Either way it says on standard error who began it, when and for what: whoever runs
//! operators' commands keeps that.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::id::{SinkId, SourceId};
use common::kafka::consumer::scanner::{Scanned, Scanner};
use common::kafka::consumer::{Edge, Incoming, log_edges};
use common::record::{Dead, Head, Reason, RecordKeys};
use common::topics::Topic;
use data_encoding::BASE64;
use nix::unistd::{Uid, User};
use processor::config::Config;
use processor::record_keys;
use processor::unseal::Sources;
use serde_json::value::RawValue;

use crate::dlq::time;
use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};

/// How long to wait for the next record before looking around.
const PAUSE: Duration = Duration::from_millis(250);

/// Options of `tail`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    processor: ProcessorConfig,
    /// Which topic: inbox, events, dead, or a retry lane such as retry.main.10s
    #[arg(long, value_name = "ROLE", default_value = "events")]
    topic: String,
    /// Of this source only
    #[arg(long, value_name = "NAME")]
    source: Option<SourceId>,
    /// Of sources whose events go to this sink only; of dead letters, those that it gave up
    #[arg(long, value_name = "NAME")]
    sink: Option<SinkId>,
    /// Begin with the oldest record that is kept, instead of the next one
    #[arg(long)]
    from_beginning: bool,
    /// End after so many records; 0 goes on for ever
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    /// Open payloads and print them, and event ids, in the clear. That is logged
    #[arg(long)]
    reveal_payloads: bool,
    /// Print a line of JSON for each record
    #[arg(long)]
    json: bool,
}

/// Runs `tail`.
pub async fn run(args: &Args) -> Result<Verdict> {
    // Nothing else waits for the runtime's own thread.
    tokio::task::block_in_place(|| follow(args))
}

fn follow(args: &Args) -> Result<Verdict> {
    let config = args.processor.load()?;
    if config.topics.danger_embedded {
        bail!("an embedded cluster is seen by its own process only");
    }
    let topic = topic(&args.topic, &config)?;
    let view = View::new(args, &config, topic)?;
    let name = view.topic.name(&config.topics.prefix);
    log_use(args, &name);
    let scanner = Scanner::new(&config.kafka, name.as_str().into())?;
    let context = || format!("{name} can't be read; `sealstream topics check` says what is wrong with it");
    let partitions = i32::try_from(config.topics.partitions)?;
    let from = match args.from_beginning {
        true => log_edges(&config.kafka, &[&name], partitions, Edge::First),
        false => scanner.log_ends(partitions),
    };
    let from: Vec<(i32, i64)> = (0..partitions).zip(from.with_context(context)?).collect();
    scanner.begin(&from).with_context(context)?;
    let mut shown = 0;
    while args.limit == 0 || shown < args.limit {
        let took = |scanned: Scanned<'_>| {
            if let Scanned::Record(partition, record) = scanned
                && let Some(line) = view.line(partition, record)
            {
                shown += 1;
                if args.json { say::json(&line) } else { say::line(line.plain()) }
            }
        };
        scanner.poll(PAUSE, took).with_context(context)?;
    }
    Ok(Verdict::Good)
}

/// The topic of this role.
fn topic(role: &str, config: &Config) -> Result<Topic> {
    let topics = config.pipeline_topics();
    let known = topics.iter().find(|topic| topic.role() == role).cloned();
    known.with_context(|| {
        let roles: Vec<_> = topics.iter().map(Topic::role).collect();
        format!("there is no topic {role}: this deployment has {}", roles.join(", "))
    })
}

/// Says who looks at what. Times are the log's.
fn log_use(args: &Args, topic: &str) {
    let uid = Uid::current();
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let (source, sink) = (args.source.as_ref().map(SourceId::as_str), args.sink.as_ref().map(SinkId::as_str));
    let reveals_payloads = args.reveal_payloads;
    tracing::warn!(
        user,
        uid = uid.as_raw(),
        pid = std::process::id(),
        topic,
        source,
        sink,
        from_beginning = args.from_beginning,
        reveals_payloads,
        "records are looked at"
    );
}

/// What is shown of records.
struct View<'a> {
    args: &'a Args,
    config: &'a Config,
    topic: Topic,
    keys: RecordKeys,
    /// Open payloads, if they are asked for.
    sources: Option<Sources>,
}

/// What a record shows.
#[derive(Debug, serde::Serialize)]
struct Line {
    time: String,
    topic: String,
    partition: i32,
    offset: i64,
    body_bytes: usize,
    trusted: bool,
    #[serde(flatten)]
    said: Option<Said>,
    #[serde(flatten)]
    opened: Option<Opened>,
}

/// What it says of itself, if its MAC is right.
#[derive(Debug, serde::Serialize)]
struct Said {
    source: String,
    received_ms: u64,
    keyed_id: Option<String>,
    sink: Option<String>,
    attempt: Option<u32>,
    reason: Option<&'static str>,
    traceparent: Option<String>,
}

/// What is in it.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum Opened {
    Event {
        id: String,
        r#type: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data_base64: Option<String>,
    },
    Not {
        not_opened: &'static str,
    },
}

impl<'a> View<'a> {
    /// Loads the keys that it takes, and no others.
    fn new(args: &'a Args, config: &'a Config, topic: Topic) -> Result<Self> {
        let keys = match topic {
            Topic::Inbox => &config.pipeline.edge_keys,
            Topic::Events | Topic::Retry { .. } | Topic::Dead => &config.pipeline.core_keys,
        };
        let keys = record_keys(keys)?;
        let sources = args.reveal_payloads.then(|| Sources::load(&config.source)).transpose()?;
        Ok(Self { args, config, topic, keys, sources })
    }

    /// What a record shows; `None` if it is not meant, or no event.
    fn line(&self, partition: i32, record: Incoming<'_>) -> Option<Line> {
        let (head, reason) = match self.topic {
            Topic::Dead => match self.keys.open_dead(record.headers(), record.value()) {
                Ok(Dead::Marker(_)) => return None,
                Ok(Dead::Letter { head, failure }) => (head, Some(failure.reason)),
                Err(_) => (None, None),
            },
            Topic::Inbox | Topic::Events | Topic::Retry { .. } => {
                (self.keys.open(&self.topic, record.headers(), record.value()).ok(), None)
            }
        };
        if !self.is_meant(head.as_ref()) {
            return None;
        }
        Some(Line {
            time: time(record.time_ms()),
            topic: self.topic.role().into_owned(),
            partition,
            offset: record.offset(),
            body_bytes: record.value().len(),
            trusted: head.is_some() || reason.is_some(),
            opened: head.as_ref().and_then(|head| self.open(head, record.value())),
            said: head.map(|head| said(head, reason)),
        })
    }

    /// What is not trusted has no source and no sink.
    fn is_meant(&self, head: Option<&Head>) -> bool {
        let Args { source, sink, .. } = self.args;
        let feeds = |head: &Head, sink: &SinkId| match &head.retry {
            Some(retry) => retry.sink == *sink,
            None => self.config.source.get(&head.source).is_some_and(|source| source.sinks.contains(sink)),
        };
        source.as_ref().is_none_or(|wanted| head.is_some_and(|head| head.source == *wanted))
            && sink.as_ref().is_none_or(|wanted| head.is_some_and(|head| feeds(head, wanted)))
    }

    fn open(&self, head: &Head, value: &[u8]) -> Option<Opened> {
        let sources = self.sources.as_ref()?;
        let (unsealed, description) = match sources.unseal_described(head, value) {
            Ok(opened) => opened,
            Err(reason) => return Some(Opened::Not { not_opened: reason.as_str() }),
        };
        let data: Option<Box<RawValue>> = serde_json::from_slice(&unsealed.payload).ok();
        // A payload that spans lines is JSON all the same, but not a line of it.
        let data = data.filter(|data| !data.get().contains('\n'));
        let data_base64 = data.is_none().then(|| BASE64.encode(&unsealed.payload));
        Some(Opened::Event { id: unsealed.id.as_str().to_owned(), r#type: description.event_type, data, data_base64 })
    }
}

fn said(head: Head, reason: Option<Reason>) -> Said {
    let (sink, attempt) = head.retry.map(|retry| (retry.sink.to_string(), retry.attempt)).unzip();
    Said {
        source: head.source.to_string(),
        received_ms: head.received_ms,
        keyed_id: head.identity.map(|identity| identity.id.to_string()),
        sink,
        attempt,
        reason: reason.map(Reason::as_str),
        traceparent: head.traceparent.map(String::from),
    }
}

impl Line {
    /// For people. Text from a payload has its control characters escaped: it must not reach the terminal as they are.
    fn plain(&self) -> String {
        let Self { time, topic, partition, offset, body_bytes, .. } = self;
        let mut text = format!("{time}  {topic} {partition}/{offset}  {body_bytes} bytes");
        let mut word = |name: &str, value: Option<&dyn std::fmt::Display>| {
            if let Some(value) = value {
                text.push_str(&format!("  {name} {value}"));
            }
        };
        match &self.said {
            None => word("not trusted", Some(&"")),
            Some(said) => {
                word("source", Some(&said.source));
                word("keyed id", said.keyed_id.as_ref().map(|id| id as _));
                word("sink", said.sink.as_ref().map(|sink| sink as _));
                word("attempt", said.attempt.as_ref().map(|attempt| attempt as _));
                word("dead", said.reason.as_ref().map(|reason| reason as _));
            }
        }
        match &self.opened {
            None => {}
            Some(Opened::Not { not_opened }) => word("not opened:", Some(not_opened)),
            Some(Opened::Event { id, r#type, data, data_base64 }) => {
                word("id", Some(&id.escape_debug()));
                word("type", Some(&r#type.escape_debug()));
                let payload = data.as_ref().map(|data| data.get()).or(data_base64.as_deref()).unwrap_or_default();
                text.push_str(&format!("\n    {}", visible(payload)));
            }
        }
        text
    }
}

/// The same text with its control characters escaped.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}
