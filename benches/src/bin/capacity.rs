//! Whether cost per event stays what it is when there are more nodes, so that a load can be planned for: one ingest and one
//! processor, then two and three, at the same rate, in turn: `./x bench capacity`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::figures::{median, shown, tell};
use benches::process::Process;
use benches::processors::{Ground, Options as Records, ended, until_ended};
use benches::servers::{Shape, configure, start_load, url};
use benches::usage::{Cpu, as_f64, brokers};
use clap::Parser;
use comfy_table::Table;
use serde::Serialize;
use tests::wait::until;
use tests::{environment, ports};

/// Measures what an event costs one node of each kind, and several.
#[derive(Parser)]
struct Options {
    /// Events a second
    #[arg(long, default_value_t = 4000.0)]
    rate: f64,
    /// How long, in seconds
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Partitions of each topic
    #[arg(long, default_value_t = 12)]
    partitions: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How many ingests and processors: what is predicted from, and what is predicted.
const ONE: (usize, usize) = (1, 1);
const SEVERAL: (usize, usize) = (2, 3);
/// The metric's labels of what a processor has delivered at its first dispatch.
const DELIVERED: [(&str, &str); 2] = [("lane", "events"), ("outcome", "delivered")];
/// How long processors may take to share the work.
const DEADLINE: Duration = Duration::from_secs(60);

/// CPU time per event, in µs, all nodes of a kind together.
#[derive(Debug, Clone, Copy, Serialize)]
struct Cost {
    ingest_us: f64,
    processor_us: f64,
    broker_us: f64,
    p99_ms: f64,
}

/// One figure of it.
type Pick = fn(&Cost) -> f64;

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let (mut one, mut several) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        one.push(measure(&options, ONE, &format!("bench-capacity-{round}-one")).await?);
        several.push(measure(&options, SEVERAL, &format!("bench-capacity-{round}-several")).await?);
    }
    let of = |costs: &[Cost], pick: Pick| median(costs.iter().map(pick));
    let rows: [(&str, Pick); 4] = [
        ("ingest, CPU µs per event", |cost| cost.ingest_us),
        ("processor, CPU µs per event", |cost| cost.processor_us),
        ("broker, CPU µs per event", |cost| cost.broker_us),
        ("p99 of the answer, ms", |cost| cost.p99_ms),
    ];
    let mut table = Table::new();
    table.set_header(["medians", "1 ingest, 1 processor", "2 ingests, 3 processors", "measured ÷ predicted"]);
    for (name, pick) in rows {
        let (predicted, measured) = (of(&one, pick), of(&several, pick));
        table.add_row([name.to_owned(), shown(predicted), shown(measured), shown(measured / predicted)]);
    }
    tell(
        options.json,
        table,
        || serde_json::json!({ "capacity": { "rate": options.rate, "one": one, "several": several } }),
    );
    Ok(())
}

/// Runs so many nodes under the load until every event is delivered.
async fn measure(options: &Options, (ingests, processors): (usize, usize), prefix: &str) -> Result<Cost> {
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let records = Records { records: 0, payload_bytes: 0, partitions: options.partitions, rounds: 1, json: false };
    let ground = Ground::new(&records, folder.path(), prefix, &[])?;
    let output = ground.output("orders").await?;
    let rest = format!("sinks = [\"out\"]\n[sink.out]\nkind = \"kafka\"\ntopic = \"{output}\"\n");
    let mut config = None;
    let mut cores: Vec<(Process, SocketAddr)> = Vec::new();
    for number in 0..processors {
        let admin = ports::free();
        let file = ground.configure(&format!("processor-{number}"), admin, &rest)?;
        let mut command = Command::new(environment::binary("processor")?);
        command.arg("--config").arg(&file);
        cores.push((Process::start(&mut command, &file.with_extension("log"), admin).await?, admin));
        config = Some(file);
    }
    let shape = Shape { connections: 32, ..Shape::default() };
    let mut edges: Vec<(Process, SocketAddr)> = Vec::new();
    for number in 0..ingests {
        let (name, listens) = (format!("ingest-{number}"), ports::free());
        let file = configure(ground.dir, &ground.kafka.bootstrap, prefix, &name, listens, &shape)?;
        let mut command = Command::new(environment::binary("ingest")?);
        command.arg("--config").arg(&file).current_dir(ground.dir);
        edges.push((Process::start(&mut command, &file.with_extension("log"), listens).await?, listens));
    }
    let each = options.rate / as_f64(ingests as u64);
    let run = |time: Duration| -> Result<(u64, f64)> {
        let start = |(_, listens): &(Process, SocketAddr)| {
            start_load(ground.dir, &url(*listens), &shape, Some(time), Some(each))
        };
        let loads = edges.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut total = (0, 0_f64);
        for load in loads {
            let report = load.finish()?;
            total = (total.0 + report.requests, total.1.max(report.latency_ms.map_or(f64::NAN, |times| times.p99)));
        }
        Ok(total)
    };
    let admins: Vec<_> = cores.iter().map(|(_, admin)| *admin).collect();
    // Until every processor has its share, and has opened it.
    let mut sent = 0;
    until("every processor takes part", DEADLINE, async || {
        sent += run(Duration::from_secs(1))?.0;
        for admin in &admins {
            if ended(*admin, &DELIVERED).await == 0.0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    until_ended(&admins, &DELIVERED, sent).await?;

    let cpu = |nodes: &[(Process, SocketAddr)]| -> Result<Duration> {
        nodes.iter().map(|(process, _)| Ok(Cpu::of(process.id())?.total())).sum()
    };
    let before = (cpu(&edges)?, cpu(&cores)?, brokers()?.total());
    let (requests, p99_ms) = run(Duration::from_secs_f64(options.seconds))?;
    until_ended(&admins, &DELIVERED, sent + requests).await?;
    let after = (cpu(&edges)?, cpu(&cores)?, brokers()?.total());
    for (process, _) in edges.into_iter().chain(cores) {
        let status = process.stop()?;
        ensure!(status.success(), "a node ended with {status}: the logs are in {}", folder.keep().display());
    }
    ground.remove(output).await?;
    if let Some(config) = config {
        ground.remove_all(&config).await?;
    }
    let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / as_f64(requests);
    Ok(Cost {
        ingest_us: each(before.0, after.0),
        processor_us: each(before.1, after.1),
        broker_us: each(before.2, after.2),
        p99_ms,
    })
}
