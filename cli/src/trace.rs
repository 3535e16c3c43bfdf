//! `sealstream trace`: follows one event through the topics, and says how far each sink has come.
//!
//! ```text
//! events       the partition that its id decides: every copy, and which of them repeat another
//! inbox        the record that each copy was made from: it has the same sealed body, and came when the copy says
//! retry lanes  where it was parked, and until when
//! dead         its letters, and whether they were redriven
//! groups       what is committed says which of these are complete
//! ```
//!
//! It reads only, outside of any group. It needs the keys of the pipeline, which check records and make keyed ids, and none
//! that opens a payload. What is said of an event follows from the log alone: an offset of `events` that a sink's group has
//! completed, and that was neither parked nor buried, was delivered.

mod life;
mod search;

use anyhow::{Result, bail};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use common::clock::Clock;
use common::id::{EventId, KeyedId, SourceId, placement};
use processor::config::Config;
use serde_json::{Value, json};

use crate::dlq::{Moment, id_keys, keyed_ids};
use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};

use life::{Life, Outcome, Step, What};
use search::Search;

/// Options of `trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event's id as its sender wrote it, with --source; or its keyed id or webhook-id, which takes longer
    #[arg(value_name = "EVENT-ID")]
    event: String,
    /// The source that the event id is of
    #[arg(long, value_name = "NAME")]
    source: Option<SourceId>,
    #[command(flatten)]
    processor: ProcessorConfig,
    /// Look for what came at this time or later: RFC 3339, or so long ago, for example 3days. Without it, the deduplication
    /// window
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `trace`.
pub async fn run(args: &Args) -> Result<Verdict> {
    // Nothing else waits for the runtime's own thread.
    tokio::task::block_in_place(|| follow(args))
}

fn follow(args: &Args) -> Result<Verdict> {
    let config = args.processor.load()?;
    if config.topics.danger_embedded {
        bail!("an embedded cluster is gone with its process: there is nothing to follow an event through");
    }
    let sources: Vec<SourceId> = args.source.iter().cloned().collect();
    let ids = keyed_ids(&args.event, &sources, || id_keys(&config))?;
    let partitions = partitions(args, &config)?;
    let now_ms = Clock::system().unix_ms();
    let window_ms = u64::try_from(config.dedup.window.as_millis())?;
    let since_ms = args.since.map_or(now_ms.saturating_sub(window_ms), |since| since.unix_ms(now_ms));
    // What came before decides whether something is a repeat.
    let from_ms = since_ms.saturating_sub(window_ms);
    let found = Search::new(&config)?.look(&ids, &partitions, from_ms)?;
    let Some(life) = Life::of(found, &config) else {
        let since = crate::dlq::time(from_ms);
        say::note(format_args!("sealstream: {}", nothing(args, &partitions, &since)));
        if args.json {
            say::json(&json!({ "found": false, "keyed_ids": texts(&ids), "partitions": partitions, "since": since }));
        }
        return Ok(Verdict::Bad);
    };
    if args.json {
        say::json(&json(&life, &ids))
    } else {
        tell(&life)
    }
    Ok(Verdict::Good)
}

/// Where in `events` it may lie. Its id as the sender wrote it says that; a keyed one doesn't.
fn partitions(args: &Args, config: &Config) -> Result<Vec<i32>> {
    match &args.source {
        Some(source) => Ok(vec![placement(source, &EventId::new(&*args.event)?, config.topics.partitions)]),
        None => Ok((0..i32::try_from(config.topics.partitions)?).collect()),
    }
}

/// What it can mean that there is nothing.
fn nothing(args: &Args, partitions: &[i32], since: &str) -> String {
    let place = match (partitions, &args.source) {
        ([one], Some(source)) => format!("partition {one} of events, the place of this id of {source},"),
        _ => "events".to_owned(),
    };
    format!(
        "{place} has no record of it since {since}. Either it was not received, or under another id or source; or it came before \
         (--since); or it could not be opened, and then nobody knows its id: `sealstream dlq list` shows what could not"
    )
}

fn texts(ids: &[KeyedId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn json(life: &Life, ids: &[KeyedId]) -> Value {
    let steps: Vec<Value> = life.steps.iter().map(step_json).collect();
    let sinks: Vec<Value> = life
        .sinks
        .iter()
        .map(|fate| {
            let mut value = json!({
                "sink": fate.sink.as_str(), "offset": fate.offset, "state": fate.outcome.as_str(), "attempts": fate.attempts,
            });
            match &fate.outcome {
                Outcome::Waiting { until_ms } => value["until"] = time(*until_ms).into(),
                Outcome::Dead { reason } => value["reason"] = reason.as_str().into(),
                Outcome::Delivered | Outcome::Open | Outcome::Unknown => {}
            }
            value
        })
        .collect();
    json!({
        "found": true,
        "source": life.source.as_str(),
        "keyed_ids": texts(ids),
        "id": life.id.to_string(),
        "webhook_id": life.id.webhook_id(),
        "traceparent": life.traceparent,
        "timeline": steps,
        "sinks": sinks,
    })
}

fn step_json(step: &Step) -> Value {
    let mut value = json!({
        "time": time(step.time_ms), "time_ms": step.time_ms, "topic": step.topic.role(),
        "partition": step.partition, "offset": step.offset, "what": step.what.as_str(),
    });
    match &step.what {
        What::Accepted { received_ms, redriven_ms } => {
            value["received_ms"] = (*received_ms).into();
            value["redriven_ms"] = (*redriven_ms).into();
        }
        What::Copied => {}
        What::Repeat { of } => value["of"] = (*of).into(),
        What::Parked { sink, attempt, hop, until_ms, .. } => {
            value["sink"] = sink.as_str().into();
            value["attempt"] = (*attempt).into();
            value["hop"] = (*hop).into();
            value["until"] = time(*until_ms).into();
        }
        What::Dead { sink, attempt, reason, status, origin, .. } => {
            value["sink"] = sink.as_ref().map(|sink| sink.as_str()).into();
            value["attempt"] = (*attempt).into();
            value["reason"] = reason.as_str().into();
            value["status"] = (*status).into();
            value["origin"] = origin.to_string().into();
        }
        What::Redriven { letter } => value["letter"] = letter.to_string().into(),
    }
    value
}

/// Shows it to people.
fn tell(life: &Life) {
    let paint = say::Paint::for_stdout();
    say::line(format_args!("{} {}  {}", paint.strong(&life.source), paint.strong(life.id), life.id.webhook_id()));
    if let Some(traceparent) = &life.traceparent {
        say::line(format_args!("traceparent {traceparent}"));
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["time", "place", "attempt", "what happened"]);
    for step in &life.steps {
        let place = format!("{} {}/{}", step.topic.role(), step.partition, step.offset);
        let attempt = step.what.attempt().map(|attempt| attempt.to_string()).unwrap_or_default();
        table.add_row([time(step.time_ms), place, attempt, step.what.to_string()]);
    }
    say::line(table);
    for fate in &life.sinks {
        let outcome = match &fate.outcome {
            Outcome::Delivered => paint.good("delivered"),
            Outcome::Dead { reason } => paint.bad(format_args!("dead: {reason}")),
            Outcome::Waiting { until_ms } => format!("waits in a retry lane until {}", time(*until_ms)),
            Outcome::Open => "open: not handed to the sink yet, or not answered".to_owned(),
            Outcome::Unknown => "not known: its group has committed nothing here".to_owned(),
        };
        say::line(format_args!("{}  events offset {}  attempts {}  {outcome}", fate.sink, fate.offset, fate.attempts));
    }
}

/// A time in RFC 3339, to the millisecond: what happens to an event happens within seconds.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}
