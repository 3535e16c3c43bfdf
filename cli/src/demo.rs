//! `sealstream demo`: the whole path in one process, under all that goes wrong in earnest, and books that must balance.
//!
//! ```text
//! sender ══TLS══▶ ingest ─▶ Kafka ─▶ processor ─┬─HTTP─▶ sink, which is busy at times
//!                                               └──────▶ output topic, which is read back
//! ```
//!
//! Among the requests are repeats that are re-encrypted and re-signed, forged signatures, stale timestamps, an event
//! whose sink fails twice before it succeeds, and one that can't be decrypted (`plan`). What arrives is counted apart
//! from the processor (`witness`); [`books`] says whether it adds up.

pub mod books;
mod conductor;
mod plan;
pub mod report;
mod sending;
mod stage;
mod witness;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::shutdown::Group;
use common::telemetry::{LogConfig, LogFormat, install_logging, install_metrics};

use crate::sender_config::SenderConfig;
use crate::{Verdict, say};
use books::{Seen, Sink};
use conductor::{Conductor, Counts};
use plan::Kind;
use report::{Latency, Report};
use sending::{Ledger, Sending};
use stage::Stage;
use witness::Witness;

pub use stage::Kafka;

/// Which Kafka, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KafkaKind {
    /// Inside this process; nothing is kept
    Embedded,
    /// A broker that runs
    Real,
}

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Requests to send, the repeats, forgeries and so on among them
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: u32,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=240))]
    concurrency: u16,
    /// Which Kafka
    #[arg(long, value_enum, default_value = "embedded")]
    kafka: KafkaKind,
    /// The real Kafka's bootstrap servers
    #[arg(long, value_name = "HOST:PORT", env = "KAFKA_BOOTSTRAP")]
    bootstrap: Option<String>,
    /// Stay up afterwards, to send by hand
    #[arg(long)]
    keep: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// What is logged to standard error
    #[arg(long, value_name = "LEVEL", default_value = "warn", value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    log: String,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Requests to send.
    pub requests: usize,
    /// Requests under way at once.
    pub at_once: usize,
    /// Which Kafka.
    pub kafka: Kafka,
}

/// Runs `demo`: good if the books balance.
pub async fn run(args: &Args) -> Result<Verdict> {
    install_logging(&LogConfig { format: LogFormat::Human, level: args.log.clone() });
    let kafka = match (args.kafka, &args.bootstrap) {
        (KafkaKind::Embedded, _) => Kafka::Embedded,
        (KafkaKind::Real, Some(bootstrap)) => Kafka::Real(bootstrap.clone()),
        (KafkaKind::Real, None) => bail!(
            "which Kafka? Name one with --bootstrap or KAFKA_BOOTSTRAP; `cargo xtask kafka up` starts one, and \
             `./x demo --kafka real` does both"
        ),
    };
    tell_kafka(&kafka);
    let run = Run { requests: usize::try_from(args.events)?, at_once: usize::from(args.concurrency), kafka };
    let signals = Group::new();
    let performance = unless_asked_to_end(&signals, Performance::set(&run)).await?;
    let performed = unless_asked_to_end(&signals, performance.perform(run.at_once)).await;
    if let Err(error) = performed {
        // In order, unless that is interrupted too.
        unless_asked_to_end(&signals, performance.stage.strike()).await?;
        return Err(error);
    }
    let report = if args.keep {
        // Whatever comes later is not in the books.
        let report = performance.report();
        tell(args, &report);
        keep(args, performance, &signals).await?;
        report
    } else {
        let report = unless_asked_to_end(&signals, performance.end()).await?;
        tell(args, &report);
        report
    };
    Ok(Verdict::good_if(report.books.conserved))
}

async fn unless_asked_to_end<T>(signals: &Group, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = signals.on_signals() => bail!("interrupted"),
    }
}

/// A run from its beginning to its end, with the books made after everything was taken down.
pub async fn play(run: &Run) -> Result<Report> {
    let performance = Performance::set(run).await?;
    match performance.perform(run.at_once).await {
        Ok(()) => performance.end().await,
        Err(error) => {
            performance.stage.strike().await?;
            Err(error)
        }
    }
}

/// A run.
struct Performance {
    stage: Stage,
    before: Counts,
    witness: Arc<Witness>,
    ledger: Arc<Ledger>,
    requests: usize,
}

impl Performance {
    /// Brings everything up.
    async fn set(run: &Run) -> Result<Self> {
        let (clock, metrics) = (Clock::system(), install_metrics());
        let before = Counts::read(&metrics);
        let (witness, ledger) = (Witness::new(run.requests, clock.clone()), Ledger::new(run.requests));
        let stage = Stage::set(&run.kafka, &witness, clock, metrics).await?;
        Ok(Self { stage, before, witness, ledger, requests: run.requests })
    }

    /// Sends everything and waits until all of it has ended.
    async fn perform(&self, at_once: usize) -> Result<()> {
        let Self { stage, before, witness, ledger, requests } = self;
        let conductor = Conductor::new(stage, *before, witness.clone(), ledger.clone(), *requests);
        let config = SenderConfig::load(Some(&stage.sender()))?;
        let sending = Sending::new(&config, ledger.clone(), stage.clock.clone(), conductor.open())?;
        // The first goes alone: once it has arrived everywhere, every group has its partitions.
        conductor.during(sending.send(1, 1)).await.context("sending the first request")?;
        conductor.settle().await?;
        conductor.during(sending.send(*requests, at_once)).await.context("sending")?;
        conductor.settle().await
    }

    /// Takes everything down, then makes the books: after that nothing can change them.
    async fn end(self) -> Result<Report> {
        let Self { stage, before, witness, ledger, requests } = self;
        let metrics = stage.metrics.clone();
        stage.strike().await?;
        Ok(report(Counts::read(&metrics).since(before), &witness, &ledger, requests))
    }

    /// The books as of now.
    fn report(&self) -> Report {
        let counts = Counts::read(&self.stage.metrics).since(self.before);
        report(counts, &self.witness, &self.ledger, self.requests)
    }
}

fn report(counts: Counts, witness: &Witness, ledger: &Ledger, requests: usize) -> Report {
    let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    let seen = Seen {
        sent: number(&ledger.sent),
        accepted: ledger.accepted_by_event(),
        refused: ledger.refused(),
        uncertain: number(&ledger.uncertain),
        http: Sink { arrivals: witness.http.arrivals(), repeats: counts.repeats[0] },
        kafka: Sink { arrivals: witness.kafka.arrivals(), repeats: counts.repeats[1] },
        webhook_ids: witness.webhook_ids(),
        retried: number(&witness.put_off),
        dead: witness.dead(),
    };
    // The first request waited for the groups to form, and the flaky event for its retries.
    let first = usize::from(requests > 1);
    let measured = || (first..requests).filter(|event| *event != plan::FLAKY && Kind::of(*event) == Kind::Event);
    let started_us = (first..requests).map(|event| ledger.started_us(event)).filter(|us| *us > 0).min().unwrap_or(0);
    let last_us = measured().filter_map(|event| witness.http.first_us(event).max(witness.kafka.first_us(event))).max();
    let seconds = Duration::from_micros(last_us.unwrap_or(started_us).saturating_sub(started_us)).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "numbers of requests are far below 2^52")]
    let rate = if seconds > 0.0 { (requests - first) as f64 / seconds } else { 0.0 };
    let ack_us = ledger.ack_us();
    let delivery_us =
        measured().filter_map(|event| Some(witness.http.first_us(event)?.saturating_sub(ledger.started_us(event))));
    Report {
        books: seen.books(),
        seconds,
        rate,
        ack: Latency::of(ack_us.get(first..).unwrap_or_default().to_vec()),
        delivery: Latency::of(delivery_us.collect()),
    }
}

fn tell_kafka(kafka: &Kafka) {
    match kafka {
        Kafka::Embedded => say::note(
            "Kafka runs inside this process: its data is in memory, in one copy, and is gone when the demo ends.\n\
             --kafka real does the same on a real one.\n",
        ),
        Kafka::Real(bootstrap) => say::note(format_args!("Kafka at {bootstrap}, with topics of the demo's own.\n")),
    }
}

fn tell(args: &Args, report: &Report) {
    if args.json {
        return say::json(&report.json());
    }
    report.tell();
    let paint = say::Paint::for_stdout();
    say::line(format_args!(
        "\n{}
  {called} demo --keep
      stay up and send by hand
  {called} demo --kafka real
      the same on a real broker
  {program} init DIR
      a deployment of your own: configuration, keys, a development CA
  ARCHITECTURE.md
      why the books balance, also when processes are killed",
        paint.strong("Where to look next:"),
        called = called(),
        program = program()
    ));
}

/// What was typed to run this: the name of a program that runs us for the user, if there is one.
fn called() -> String {
    std::env::args_os().next().map_or_else(program, |name| name.display().to_string())
}

/// This program.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "sealstream".to_owned(), |path| path.display().to_string())
}

/// Stays up until the process is asked to end.
async fn keep(args: &Args, performance: Performance, signals: &Group) -> Result<()> {
    let Performance { stage, witness, .. } = performance;
    let text = format!(
        "\nready: {} send --config {} --data '{{\"id\":\"evt_1\",\"type\":\"hello\"}}'
  events go to      {} (send one twice: the second is recognised)
  the HTTP sink     prints what it gets, here
  the Kafka sink    kcat -b {} -t {} -C -f '%h %s\\n'
  metrics           http://{}/metrics (ingest), http://{}/metrics (processor)
  end with Ctrl-C",
        program(),
        stage.sender().display(),
        stage.url(),
        stage.bootstrap(),
        stage.output_topic(),
        stage.ingest.admin_addr(),
        stage.processor_admin(),
    );
    // Standard output is one object with --json.
    if args.json {
        say::note(text);
    } else {
        witness.prints.store(true, Ordering::SeqCst);
        say::line(text);
    }
    signals.on_signals().await;
    unless_asked_to_end(signals, stage.strike()).await
}
