//! `sealstream send`: seals, signs and sends events, again and again until the receiver has them.
//!
//! The input is a sequence of JSON values, each an event with its id in it: one on the command line, many in a file of
//! JSON lines. With `--id` it is one event of any bytes.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use common::clock::Clock;
use common::id::EventId;
use common::shutdown::Group;
use common::telemetry::{LogConfig, LogFormat, install_logging};
use processor::event::{Found, Pointer, find};
use sender::{Failure, SendError, Sender};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, mpsc};

use crate::sender_config::{Flags, SenderConfig};
use crate::{Verdict, say};

/// Largest event that is read with `--id`: more than any receiver takes.
const EVENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Options of `send`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event; - or nothing: standard input, which may hold several
    #[arg(value_name = "EVENT", conflicts_with_all = ["data", "file"])]
    event: Option<String>,
    /// The event
    #[arg(long, value_name = "EVENT", conflicts_with = "file")]
    data: Option<String>,
    /// A file with events, one JSON value after the other, for example a line each
    #[arg(long)]
    file: Option<PathBuf>,
    /// The event's id; the whole input is then one event, of any bytes
    #[arg(long)]
    id: Option<String>,
    /// Where an event's id is: a JSON pointer, the same as the receiver's rule for this source
    #[arg(long, value_name = "POINTER", default_value = "/id")]
    id_pointer: Pointer,
    /// Events under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Print the results as JSON, a line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// An event to be sent.
struct Event {
    id: EventId,
    payload: Bytes,
}

/// Runs `send`: good if the receiver has every event.
pub async fn run(args: &Args) -> Result<Verdict> {
    install_logging(&LogConfig { format: LogFormat::Human, level: "warn".to_owned() });
    let config = SenderConfig::from_flags(args.flags.clone())?;
    let sender = config.sender(config.client()?, Clock::system())?;

    let (events, waiting) = mpsc::channel(usize::from(args.concurrency));
    let input = Input::of(args);
    let (id, pointer) = (args.id.clone(), args.id_pointer.clone());
    let reading = tokio::task::spawn_blocking(move || read(input, id, &pointer, &events));

    let clock = Clock::system();
    let started = clock.monotonic();
    let sending = Arc::new(Sending {
        sender,
        waiting: Mutex::new(waiting),
        json: args.json,
        received: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let group = Group::new();
    let workers: Vec<_> = (0..args.concurrency).map(|_| group.spawn("sender", sending.clone().work())).collect();
    for worker in workers {
        worker.await?;
    }
    // What came before a mistake in the input was sent: say so, then fail.
    let read = reading.await?;
    let (received, failed) = (sending.received.load(Ordering::Relaxed), sending.failed.load(Ordering::Relaxed));
    let seconds = (clock.monotonic() - started).as_secs_f64();
    if args.json {
        say::json(&serde_json::json!({ "received": received, "failed": failed, "seconds": seconds }));
    } else if received + failed != 1 {
        say::line(format_args!("{} received, {} failed, {seconds:.1} s", say::grouped(received), say::grouped(failed)));
    }
    read?;
    Ok(Verdict::good_if(failed == 0))
}

/// Where events come from.
enum Input {
    Text(String),
    File(PathBuf),
    Stdin,
}

impl Input {
    fn of(args: &Args) -> Self {
        match (&args.data, &args.event, &args.file) {
            (Some(text), ..) => Self::Text(text.clone()),
            (None, Some(text), _) if text != "-" => Self::Text(text.clone()),
            (None, _, Some(file)) => Self::File(file.clone()),
            (None, _, None) => Self::Stdin,
        }
    }
}

/// Reads events until the input ends. Blocks.
fn read(input: Input, id: Option<String>, pointer: &Pointer, events: &mpsc::Sender<Event>) -> Result<()> {
    let reader: Box<dyn Read> = match input {
        Input::Text(text) => Box::new(std::io::Cursor::new(text)),
        Input::File(path) => {
            Box::new(std::fs::File::open(&path).with_context(|| format!("reading {}", path.display()))?)
        }
        Input::Stdin => {
            if std::io::stdin().is_terminal() {
                say::note("reading events from standard input; end with Ctrl-D");
            }
            Box::new(std::io::stdin())
        }
    };
    let send = |event: Event| events.blocking_send(event).map_err(|_| anyhow!("sending was given up"));
    if let Some(id) = id {
        let mut payload = Vec::new();
        reader.take(EVENT_BYTES_MAX + 1).read_to_end(&mut payload)?;
        anyhow::ensure!(payload.len() as u64 <= EVENT_BYTES_MAX, "the event is larger than any receiver takes");
        return send(Event { id: EventId::new(id)?, payload: payload.into() });
    }
    let values = serde_json::Deserializer::from_reader(std::io::BufReader::new(reader)).into_iter::<Box<RawValue>>();
    let mut count = 0;
    for value in values {
        let value = value.context("the input is no sequence of JSON values; an event of another kind needs --id")?;
        count += 1;
        send(event(value.get(), pointer).with_context(|| format!("event {count}"))?)?;
    }
    if count == 0 {
        bail!("there is no event in the input");
    }
    Ok(())
}

fn event(json: &str, pointer: &Pointer) -> Result<Event> {
    let id = match find(json.as_bytes(), pointer) {
        Found::Text(id) | Found::Integer(id) => EventId::new(id)?,
        Found::Missing => {
            bail!("there is no event id where --id-pointer says; without it the receiver could not recognise a repeat")
        }
        Found::Unusable => bail!("the event id is no string and no integer, or is there twice"),
    };
    Ok(Event { id, payload: Bytes::copy_from_slice(json.as_bytes()) })
}

/// What the workers share.
struct Sending {
    sender: Arc<Sender>,
    waiting: Mutex<mpsc::Receiver<Event>>,
    json: bool,
    received: AtomicU64,
    failed: AtomicU64,
}

impl Sending {
    async fn work(self: Arc<Self>) {
        loop {
            let next = self.waiting.lock().await.recv().await;
            let Some(event) = next else { return };
            let result = self.sender.send(&event.id, &event.payload).await;
            let count = if result.is_ok() { &self.received } else { &self.failed };
            count.fetch_add(1, Ordering::Relaxed);
            self.tell(&event.id, result);
        }
    }

    fn tell(&self, id: &EventId, result: Result<sender::Sent, SendError>) {
        let id = id.as_str();
        match result {
            Ok(sent) if self.json => say::json(&serde_json::json!({
                "id": id, "received": true, "status": sent.status.as_u16(),
                "attempts": sent.attempt_count, "request_id": sent.request_id,
            })),
            Ok(sent) => {
                let paint = say::Paint::for_stdout();
                let attempts =
                    if sent.attempt_count == 1 { String::new() } else { format!(" at attempt {}", sent.attempt_count) };
                let request = sent.request_id.map_or_else(String::new, |id| format!(" (request {id})"));
                say::line(format_args!("{} {id}{attempts}{request}", paint.good("received")));
            }
            Err(error) if self.json => {
                let (status, code, request_id) = told(&error);
                say::json(&serde_json::json!({
                    "id": id, "received": false, "status": status, "code": code,
                    "request_id": request_id, "error": format!("{:#}", anyhow!(error)),
                }));
            }
            Err(error) => {
                let paint = say::Paint::for_stdout();
                let hint = hint(&error).map_or_else(String::new, |hint| format!("\n         {hint}"));
                say::line(format_args!("{} {id}: {:#}{hint}", paint.bad("failed  "), anyhow!(error)));
            }
        }
    }
}

/// What the receiver said.
fn told(error: &SendError) -> (Option<u16>, Option<&str>, Option<&str>) {
    match error {
        SendError::Prepare(_) => (None, None, None),
        SendError::Refused { failure, .. } | SendError::Exhausted { failure, .. } => match failure {
            Failure::Status { status, code, request_id } => {
                (Some(status.as_u16()), code.as_deref(), request_id.as_deref())
            }
            Failure::NoAnswer(_) => (None, None, None),
        },
    }
}

/// What to look at first.
fn hint(error: &SendError) -> Option<&'static str> {
    match told(error).1? {
        "signature_invalid" => Some(
            "the receiver has no such secret active for this path: compare --secret and --url with its configuration",
        ),
        "timestamp_out_of_tolerance" => Some("the clocks of this machine and of the receiver differ: set them by NTP"),
        "not_found" => Some("no source has this path: compare --url with the receiver's configuration"),
        "unsupported_media_type" => Some("the source does not take this envelope: try the other --format"),
        "unavailable" => {
            Some("the receiver has no Kafka: its /readyz says more. The same event may be sent again at any time")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(input: &str, id: Option<&str>, pointer: &str) -> Result<Vec<(String, String)>> {
        let (sender, mut receiver) = mpsc::channel(16);
        let result = read(Input::Text(input.to_owned()), id.map(str::to_owned), &pointer.parse().unwrap(), &sender);
        drop(sender);
        let mut found = Vec::new();
        while let Some(event) = receiver.blocking_recv() {
            found.push((event.id.as_str().to_owned(), String::from_utf8(event.payload.to_vec()).unwrap()));
        }
        result.map(|()| found)
    }

    #[test]
    fn the_input_is_a_sequence_of_values_kept_byte_for_byte() {
        let one = "{\"id\":\"a\",  \"n\": 1.50}";
        let two = "{\n \"id\": 7\n}";
        let found = events(&format!("{one}\n\n{two} "), None, "/id").unwrap();
        assert_eq!(found, [("a", one), ("7", two)].map(|(id, text)| (id.to_owned(), text.to_owned())));
        assert_eq!(events(r#"{"data":{"id":"x"}}"#, None, "/data/id").unwrap()[0].0, "x");
    }

    #[test]
    fn with_an_id_the_input_is_one_event_of_any_bytes() {
        assert_eq!(events("plain {", Some("i"), "/id").unwrap(), [("i".to_owned(), "plain {".to_owned())]);
        assert!(events("x", Some(""), "/id").is_err());
    }

    #[test]
    fn what_is_no_event_is_told() {
        for (input, expect) in [
            ("", "no event in the input"),
            ("{\"id\":\"a\"} plain", "needs --id"),
            ("{\"ID\":\"a\"}", "event 1: there is no event id"),
            ("{\"id\":null}", "event 1: the event id is no string"),
            ("{\"id\":\"a\",\"id\":\"b\"}", "event 1: the event id"),
        ] {
            let error = format!("{:#}", events(input, None, "/id").unwrap_err());
            assert!(error.contains(expect), "{input}: {error}");
        }
    }
}
