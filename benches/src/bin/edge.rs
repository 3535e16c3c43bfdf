//! Ingest beside the floors: a bare server of hyper and rustls, the same with a record published and acknowledged, and the
//! shipped `ingest` with every check on, under the same loads. In turn, so that ratios hold on a noisy machine:
//! `./x bench ingest`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use benches::figures::{median, ratio, shown, tell};
use benches::load::Quantiles;
use benches::plot::{self, Line};
use benches::servers::{Contender, Run, Servers, Shape, Times};
use clap::Parser;
use comfy_table::Table;

/// Measures ingest beside the floors.
#[derive(Parser)]
struct Options {
    /// How long each load runs, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long each server is warmed up before, in seconds
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// How often each server is measured in each way
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How often each server is measured at half load
    #[arg(long, default_value_t = 8)]
    half_rounds: usize,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: u16,
    /// Bytes of each body
    #[arg(long, default_value_t = 1024)]
    body_bytes: u32,
    /// Partitions of the topics
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Points of the plot: parts of what each server took in a closed loop
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.25,0.5,0.65,0.8,0.9")]
    points: Vec<f64>,
    /// Where the plot goes; without it the points are not measured
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// More words for `sealstream load`, for example "--http 2 --streams 32" or "--new-connections"
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    load: String,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What each server was measured at: round by round.
type Runs = BTreeMap<Contender, Vec<Run>>;

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let mut bench = Bench::new(options, folder.path())?;
    let rounds = bench.options.rounds;

    let mut closed = Runs::new();
    for round in 0..rounds {
        eprintln!("closed loop, round {} of {rounds}", round + 1);
        bench.each(&mut closed, |_| None).await?;
    }
    // The same for all: half of what the slowest takes.
    let taken = |contender| median(closed[&contender].iter().map(|run| run.received_per_second));
    let half = Contender::ALL.map(taken).into_iter().fold(f64::INFINITY, f64::min) / 2.0;
    let at_half = bench.at_half(half).await?;
    let mut curves = Runs::new();
    if let Some(path) = bench.options.plot.clone() {
        for part in bench.options.points.clone() {
            eprintln!("curve, at {part} of what each takes");
            bench.each(&mut curves, |contender| Some(part * taken(contender))).await?;
        }
        bench.draw(&path, &curves)?;
    }
    bench.tell(half, &closed, &at_half, &curves);
    Ok(())
}

struct Bench<'a> {
    options: Options,
    shape: Shape,
    times: Times,
    servers: Servers<'a>,
}

impl<'a> Bench<'a> {
    fn new(options: Options, dir: &'a Path) -> Result<Self> {
        let Options { connections, body_bytes, partitions, .. } = options;
        let load = options.load.clone();
        let shape = Shape { connections, body_bytes, partitions, load, ..Shape::default() };
        let times = Times {
            warm_up: Duration::from_secs_f64(options.warm_up),
            measured: Duration::from_secs_f64(options.seconds),
        };
        Ok(Self { servers: Servers::new(dir)?, options, shape, times })
    }

    /// Measures each server once, in turn.
    async fn each(&mut self, runs: &mut Runs, offered: impl Fn(Contender) -> Option<f64>) -> Result<()> {
        for contender in Contender::ALL {
            let run = self.servers.run(contender, &self.shape, self.times, offered(contender)).await?;
            runs.entry(contender).or_default().push(run);
        }
        Ok(())
    }

    /// Measures each server at the same rate, in turn. All run from the first round to the last: what a tail shows is not that one
    /// has just begun, nor that the broker has just taken another one's topic away.
    async fn at_half(&mut self, half: f64) -> Result<Runs> {
        let mut servers = Vec::new();
        for contender in Contender::ALL {
            let server = self.servers.start(contender, &self.shape).await?;
            self.servers.warm_up(&server, &self.shape, self.times)?;
            servers.push((contender, server));
        }
        let (mut runs, rounds) = (Runs::new(), self.options.half_rounds);
        for round in 0..rounds {
            eprintln!("half load ({half:.0} requests/s), round {} of {rounds}", round + 1);
            for (contender, server) in &servers {
                let run = self.servers.measure(server, &self.shape, self.times, Some(half))?;
                runs.entry(*contender).or_default().push(run);
            }
        }
        for (_, server) in servers {
            self.servers.end(server).await?;
        }
        Ok(runs)
    }

    fn draw(&self, path: &Path, curves: &Runs) -> Result<()> {
        let mut lines = Vec::new();
        for (contender, runs) in curves {
            for (name, pick) in [("p50", p50 as fn(&Quantiles) -> f64), ("p99", p99)] {
                let point = |run: &Run| Some((run.offered_per_second?, pick(run.latency_ms.as_ref()?)));
                let name = format!("{}, {name}", contender.name());
                lines.push(Line { name, points: runs.iter().filter_map(point).collect() });
            }
        }
        let Options { connections, body_bytes, .. } = self.options;
        plot::write(path, &format!("{connections} connections, bodies of {body_bytes} bytes"), &lines)
    }

    fn tell(&self, half: f64, closed: &Runs, at_half: &Runs, curves: &Runs) {
        let cpu = |contender| closed[&contender].iter().map(|run| run.cpu_us).collect::<Vec<_>>();
        let against = |floor| ratio(&cpu(Contender::Ingest), &cpu(floor));
        let p99_added_ms = at_half_of(at_half, Contender::Ingest, p99) - at_half_of(at_half, Contender::Kafka, p99);
        let mut table = Table::new();
        let half_load = format!("at {half:.0}/s: p50 ms");
        table.set_header([
            "medians",
            "requests/s",
            "CPU µs",
            "user",
            "system",
            "ingest ÷ it",
            "broker µs",
            "generator µs",
            "RSS MiB",
            &half_load,
            "p99",
            "p99.9",
            "CPU µs",
        ]);
        for contender in Contender::ALL {
            let of = |pick: fn(&Run) -> f64| median(closed[&contender].iter().map(pick));
            let cpu_at_half = median(at_half[&contender].iter().map(|run| run.cpu_us));
            table.add_row([
                contender.name().to_owned(),
                shown(of(|run| run.received_per_second)),
                shown(of(|run| run.cpu_us)),
                shown(of(|run| run.cpu_user_us)),
                shown(of(|run| run.cpu_system_us)),
                shown(against(contender)),
                shown(of(|run| run.broker_cpu_us)),
                shown(of(|run| run.generator_cpu_us)),
                shown(of(|run| run.resident_mib)),
                shown(at_half_of(at_half, contender, p50)),
                shown(at_half_of(at_half, contender, p99)),
                shown(at_half_of(at_half, contender, |times| times.p99_9)),
                shown(cpu_at_half),
            ]);
        }
        let ratios = format!(
            "ingest's CPU per request is {} of the Kafka floor's and {} of the HTTP floor's; at half load its p99 is {} ms later",
            shown(against(Contender::Kafka)),
            shown(against(Contender::Http)),
            shown(p99_added_ms)
        );
        let Options { connections, body_bytes, partitions, rounds, half_rounds, seconds, load, .. } = &self.options;
        let raw: serde_json::Map<_, _> = Contender::ALL
            .iter()
            .map(|contender| {
                let curve = curves.get(contender).map_or(&[][..], Vec::as_slice);
                let runs = serde_json::json!({
                    "closed": closed[contender], "half_load": at_half[contender], "curve": curve,
                });
                (contender.key().to_owned(), runs)
            })
            .collect();
        let object = || {
            serde_json::json!({
                "ingest_cpu_vs_kafka_floor": against(Contender::Kafka),
                "ingest_cpu_vs_http_floor": against(Contender::Http),
                "ingest_p99_added_ms": p99_added_ms,
                "ingest": {
                    "connections": connections, "body_bytes": body_bytes, "partitions": partitions, "rounds": rounds,
                    "half_rounds": half_rounds, "seconds": seconds, "load": load, "half_load_per_second": half, "runs": raw,
                },
            })
        };
        tell(self.options.json, format!("{table}\n{ratios}"), object);
    }
}

fn p50(times: &Quantiles) -> f64 {
    times.p50
}

fn p99(times: &Quantiles) -> f64 {
    times.p99
}

fn at_half_of(runs: &Runs, contender: Contender, pick: fn(&Quantiles) -> f64) -> f64 {
    median(runs[&contender].iter().filter_map(|run| run.latency_ms.as_ref().map(pick)))
}
