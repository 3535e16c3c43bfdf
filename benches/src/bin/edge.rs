//! Ingest beside the floors: a bare server of hyper and rustls, the same with a record published and acknowledged, and the
//! shipped `ingest` with every check on, under the same loads. In turn, so that ratios hold on a noisy machine:
//! `./x bench ingest`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use benches::figures::{median, ratio, shown, tell};
use benches::load::{self, Quantiles, Report};
use benches::plot::{self, Line};
use benches::process::Process;
use benches::processors::make_topic;
use benches::usage::{Cpu, as_f64, brokers, resident_mib};
use clap::Parser;
use comfy_table::Table;
use common::kafka::admin::Admin;
use serde::Serialize;
use tests::materials::{KEY_ID, Materials};
use tests::{environment, ports};

const SOURCE: &str = "acme";

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    Http,
    Kafka,
    Ingest,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Http, Self::Kafka, Self::Ingest];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "floor: hyper, rustls",
            Self::Kafka => "floor: hyper, rustls, rdkafka",
            Self::Ingest => "ingest",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Http => "http_floor",
            Self::Kafka => "kafka_floor",
            Self::Ingest => "ingest",
        }
    }
}

/// One load on one server.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    /// Requests a second that were meant to be sent; none in a closed loop.
    offered_per_second: Option<f64>,
    received_per_second: f64,
    /// Of the server's process, per request.
    cpu_us: f64,
    cpu_user_us: f64,
    cpu_system_us: f64,
    broker_cpu_us: f64,
    generator_cpu_us: f64,
    generator_cores: f64,
    /// After the load.
    resident_mib: f64,
    latency_ms: Option<Quantiles>,
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
    let mut at_half = Runs::new();
    for round in 0..rounds {
        eprintln!("half load ({half:.0} requests/s), round {} of {rounds}", round + 1);
        bench.each(&mut at_half, |_| Some(half)).await?;
    }
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
    dir: &'a Path,
    admin: Admin,
    bootstrap: String,
    /// Numbers the runs: each has topics of its own.
    count: usize,
}

impl<'a> Bench<'a> {
    fn new(options: Options, dir: &'a Path) -> Result<Self> {
        let kafka = environment::kafka()?;
        Materials::create(dir, [SOURCE], [])?;
        let sender = format!(
            "url = \"\"\nsource = \"{SOURCE}\"\nsecret = \"secrets/{SOURCE}.hmac.s1\"\n\
             key = {{ id = \"{KEY_ID}\", file = \"secrets/{SOURCE}.{KEY_ID}.key\" }}\nca = \"tls/ca.pem\"\n"
        );
        std::fs::write(dir.join("sender.toml"), sender)?;
        Ok(Self { admin: Admin::new(&kafka)?, bootstrap: kafka.bootstrap, options, dir, count: 0 })
    }

    /// Measures each server once, in turn.
    async fn each(&mut self, runs: &mut Runs, offered: impl Fn(Contender) -> Option<f64>) -> Result<()> {
        for contender in Contender::ALL {
            let run = self.run(contender, offered(contender)).await?;
            runs.entry(contender).or_default().push(run);
        }
        Ok(())
    }

    /// Starts a server, warms it up, and puts a load on it: at a rate, or as much as it takes.
    async fn run(&mut self, contender: Contender, offered: Option<f64>) -> Result<Run> {
        self.count += 1;
        let prefix = format!("bench-edge-{}", self.count);
        let topic = format!("{prefix}.inbox");
        make_topic(&self.admin, &topic, self.options.partitions).await?;
        let (listens, log) = (ports::free(), self.dir.join(format!("{prefix}.log")));
        let server = Process::start(&mut self.command(contender, &prefix, listens)?, &log, listens).await?;
        let url = format!("https://localhost:{}/in/{SOURCE}", listens.port());
        self.load(&url, self.options.warm_up, None)?;
        let before = (Cpu::of(server.id())?, brokers()?);
        let report = self.load(&url, self.options.seconds, offered)?;
        let (server_cpu, broker_cpu) = (Cpu::of(server.id())? - before.0, brokers()? - before.1);
        let resident_mib = resident_mib(server.id())?;
        server.stop()?;
        self.admin.delete(&[topic]).await?;
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / as_f64(report.requests);
        Ok(Run {
            offered_per_second: offered,
            received_per_second: report.received_per_second,
            cpu_us: each(server_cpu.total()),
            cpu_user_us: each(server_cpu.user),
            cpu_system_us: each(server_cpu.system),
            broker_cpu_us: each(broker_cpu.total()),
            generator_cpu_us: report.cpu_us_per_request,
            generator_cores: report.cpu_cores,
            resident_mib,
            latency_ms: report.latency_ms,
        })
    }

    fn load(&self, url: &str, seconds: f64, rate: Option<f64>) -> Result<Report> {
        let Options { connections, body_bytes, load, .. } = &self.options;
        let mut words = vec![
            format!("--duration={}ms", (seconds * 1000.0).round()),
            format!("--connections={connections}"),
            format!("--body-bytes={body_bytes}B"),
        ];
        words.extend(rate.map(|rate| format!("--rate={rate:.1}")));
        words.extend(load.split_whitespace().map(str::to_owned));
        load::run(&self.dir.join("sender.toml"), url, &words)
    }

    fn command(&self, contender: Contender, prefix: &str, listens: SocketAddr) -> Result<Command> {
        let mut command = match contender {
            Contender::Http | Contender::Kafka => {
                let mut command = Command::new(environment::binary("floor")?);
                command.args(["serve", "--certificate", "tls/server.pem", "--key", "tls/server.key"]);
                command.args(["--listen", &listens.to_string()]);
                command
            }
            Contender::Ingest => {
                let mut command = Command::new(environment::binary("ingest")?);
                command.arg("--config").arg(self.configure(prefix, listens)?);
                command
            }
        };
        if contender == Contender::Kafka {
            command.args(["--topic", &format!("{prefix}.inbox")]);
        }
        command.current_dir(self.dir);
        Ok(command)
    }

    /// Ingest as it is shipped: all that is not said here is its default.
    fn configure(&self, prefix: &str, listens: SocketAddr) -> Result<PathBuf> {
        let text = format!(
            r#"listen = {{ address = "{listens}", certificate = "tls/server.pem", key = "tls/server.key" }}
admin.address = "{}"
kafka.bootstrap = "{}"
topics.prefix = "{prefix}"
drain.notice = "1ms"
pipeline.edge_key = {{ id = "edge-1", file = "secrets/edge-1.key" }}
[source.{SOURCE}]
path = "/in/{SOURCE}"
secrets = [{{ id = "s1", file = "secrets/{SOURCE}.hmac.s1" }}]
"#,
            ports::free(),
            self.bootstrap
        );
        let path = self.dir.join(format!("{prefix}.toml"));
        std::fs::write(&path, text)?;
        Ok(path)
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
        let Options { connections, body_bytes, partitions, rounds, seconds, load, .. } = &self.options;
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
                    "seconds": seconds, "load": load, "half_load_per_second": half, "runs": raw,
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
