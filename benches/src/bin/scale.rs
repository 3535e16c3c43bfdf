//! How ingest's cost grows: with connections, sizes, sources, secrets, linger and partitions, one at a time, beside the server
//! of hyper, rustls and rdkafka that checks nothing; and what an idle connection keeps in memory: `./x bench scale`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::figures::{median, ratio, shown, tell};
use benches::idle::idle_bytes;
use benches::servers::{Contender, Run, Servers, Shape, Times};
use clap::Parser;
use comfy_table::Table;
use serde_json::{Value, json};

/// Measures how ingest's cost grows.
#[derive(Parser)]
struct Options {
    /// How long each load runs, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long the same load runs before, in seconds: what it costs to begin is not measured
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A curve to measure, again for several; without it all are
    #[arg(long = "curve", value_name = "NAME")]
    curves: Vec<String>,
    /// The largest value of each curve
    #[arg(long, value_name = "N", default_value_t = u32::MAX)]
    up_to: u32,
    /// Requests a second; without it each connection sends as soon as it has its answer
    #[arg(long)]
    rate: Option<f64>,
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    idle: u16,
    /// A line with a JSON object instead of each table
    #[arg(long)]
    json: bool,
}

struct Curve {
    name: &'static str,
    values: &'static [u32],
    shape: fn(Shape, u32) -> Shape,
}

const CURVES: [Curve; 6] = [
    Curve {
        name: "connections",
        values: &[10, 64, 256, 1000, 4000, 10_000],
        shape: |shape, n| Shape { connections: n.try_into().unwrap_or(u16::MAX), ..shape },
    },
    Curve {
        name: "body-bytes",
        values: &[256, 1024, 4096, 16_384, 65_536, 262_144],
        shape: |shape, n| Shape { body_bytes: n, ..shape },
    },
    Curve { name: "sources", values: &[1, 10, 100, 1000, 10_000], shape: |shape, n| Shape { sources: n, ..shape } },
    Curve { name: "secrets", values: &[1, 2, 3, 4, 5], shape: |shape, n| Shape { secrets: n, ..shape } },
    Curve { name: "linger-us", values: &[0, 250, 1000, 4000], shape: |shape, n| Shape { linger_us: n, ..shape } },
    Curve {
        name: "partitions",
        values: &[1, 4, 16, 64],
        shape: |shape, n| Shape { partitions: n.try_into().unwrap_or(i32::MAX), ..shape },
    },
];

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let known = |name: &String| name == "idle" || CURVES.iter().any(|curve| curve.name == name);
    ensure!(options.curves.iter().all(known), "curves are {} and idle", CURVES.map(|curve| curve.name).join(", "));
    let wanted = |name: &str| options.curves.is_empty() || options.curves.iter().any(|wanted| wanted == name);
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let mut servers = Servers::new(folder.path())?;
    for curve in CURVES.iter().filter(|curve| wanted(curve.name)) {
        let (table, value) = measure(&mut servers, curve, &options).await?;
        tell(options.json, table, || json!({ curve.name: value }));
    }
    if wanted("idle") {
        let mut of = async |contender| idle_bytes(&mut servers, contender, options.idle).await;
        let (floor, ingest) = (of(Contender::Http).await?, of(Contender::Ingest).await?);
        let count = options.idle;
        let text = format!("{count} idle connections: {floor:.0} bytes each of the bare server, {ingest:.0} of ingest");
        tell(options.json, text, || json!({ "idle": { "connections": count, "http_floor": floor, "ingest": ingest } }));
    }
    Ok(())
}

async fn measure(servers: &mut Servers<'_>, curve: &Curve, options: &Options) -> Result<(Table, Value)> {
    let times =
        Times { warm_up: Duration::from_secs_f64(options.warm_up), measured: Duration::from_secs_f64(options.seconds) };
    let mut table = Table::new();
    table.set_header([
        curve.name,
        "requests/s",
        "CPU µs",
        "user",
        "system",
        "floor's CPU µs",
        "ingest ÷ floor",
        "broker µs",
        "p50 ms",
        "p99 ms",
        "RSS MiB",
    ]);
    let mut rows = Vec::new();
    for value in curve.values.iter().copied().filter(|value| *value <= options.up_to) {
        let shape = (curve.shape)(Shape::default(), value);
        let (mut floor, mut ingest): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            eprintln!("{} {value}, round {} of {}", curve.name, round + 1, options.rounds);
            for (contender, runs) in [(Contender::Kafka, &mut floor), (Contender::Ingest, &mut ingest)] {
                runs.push(match options.rate {
                    Some(rate) => servers.run(contender, &shape, times, Some(rate)).await?,
                    None => servers.steady(contender, &shape, times).await?,
                });
            }
        }
        let cpu = |runs: &[Run]| runs.iter().map(|run| run.cpu_us).collect::<Vec<_>>();
        let of = |pick: fn(&Run) -> f64| median(ingest.iter().map(pick));
        let (floor_cpu, against) = (median(cpu(&floor)), ratio(&cpu(&ingest), &cpu(&floor)));
        let p50 = |run: &Run| run.latency_ms.map_or(f64::NAN, |times| times.p50);
        let p99 = |run: &Run| run.latency_ms.map_or(f64::NAN, |times| times.p99);
        let columns = [
            of(|run| run.received_per_second),
            of(|run| run.cpu_us),
            of(|run| run.cpu_user_us),
            of(|run| run.cpu_system_us),
            floor_cpu,
            against,
            of(|run| run.broker_cpu_us),
            of(p50),
            of(p99),
            of(|run| run.resident_mib),
        ];
        table.add_row([value.to_string()].into_iter().chain(columns.map(shown)));
        rows.push(
            json!({ "value": value, "kafka_floor": floor, "ingest": ingest, "ingest_cpu_vs_kafka_floor": against }),
        );
    }
    Ok((table, Value::Array(rows)))
}
