//! The deliverer beside bare loops: the shipped `processor` delivers the same records to a file and to a Kafka sink that a
//! bare loop copies, and opens and copies. One run, in turn, so that ratios hold on a noisy machine: `./x bench`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::events::Events;
use benches::floor::{Floor, Took};
use benches::usage::{as_f64, cpu};
use clap::Parser;
use comfy_table::Table;
use common::clock::Clock;
use common::id::SourceId;
use common::kafka::admin::{Admin, TopicSpec};
use common::kafka::client::KafkaConfig;
use tests::answer::{get, metric};
use tests::materials::Materials;
use tests::{environment, ports};

const SOURCE: &str = "acme";

/// Measures the deliverer beside bare loops.
#[derive(Parser, Clone)]
struct Options {
    /// Records in each run
    #[arg(long, default_value_t = 300_000)]
    records: u64,
    /// Bytes of each event's payload
    #[arg(long, default_value_t = 1024)]
    payload_bytes: usize,
    /// Partitions of events
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// How often each contender runs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// A bare loop, as a process of its own: copies this output topic's number
    #[arg(long, hide = true)]
    floor: Option<String>,
    #[arg(long, hide = true)]
    dir: Option<std::path::PathBuf>,
    #[arg(long, hide = true)]
    opening: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let (Some(output), Some(dir)) = (&options.floor, &options.dir) {
        let opening = options.opening.then(|| Ok::<_, anyhow::Error>((source(), Materials::at(dir).keyring(SOURCE)?)));
        let floor = Floor {
            bootstrap: environment::kafka()?.bootstrap,
            input: "bench.events".to_owned(),
            partitions: options.partitions.try_into()?,
            output: output.clone(),
            records: options.records,
            opening: opening.transpose()?,
        };
        println!("{}", serde_json::to_string(&tokio::task::block_in_place(|| floor.run())?)?);
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let bench = Bench::new(options, folder.path()).await?;
    bench.fill().await?;
    let mut times: BTreeMap<&str, Vec<Took>> = BTreeMap::new();
    for round in 0..bench.options.rounds {
        eprintln!("round {} of {}", round + 1, bench.options.rounds);
        times.entry(COPY).or_default().push(bench.floor(&format!("copy-{round}"), false).await?);
        times.entry(OPEN).or_default().push(bench.floor(&format!("open-{round}"), true).await?);
        times.entry(KAFKA).or_default().push(bench.processor("kafka", round).await?);
        times.entry(FILE).or_default().push(bench.processor("file", round).await?);
    }
    bench.tell(&times)
}

const COPY: &str = "bare consume–produce loop";
const OPEN: &str = "bare consume–open–produce loop";
const KAFKA: &str = "deliverer to a Kafka sink";
const FILE: &str = "deliverer to a file sink";

fn source() -> SourceId {
    SOURCE.parse().expect("it is a source's name")
}

struct Bench<'a> {
    options: Options,
    dir: &'a Path,
    kafka: KafkaConfig,
    materials: Materials,
    admin: Admin,
}

impl<'a> Bench<'a> {
    async fn new(options: Options, dir: &'a Path) -> Result<Self> {
        let kafka = environment::kafka()?;
        let materials = Materials::create(dir, [SOURCE], [])?;
        let bench = Self { admin: Admin::new(&kafka)?, options, dir, kafka, materials };
        Ok(bench)
    }

    /// A processor's configuration with one sink, and its topics.
    fn configure(&self, kind: &str, round: usize) -> Result<(std::path::PathBuf, std::net::SocketAddr)> {
        let admin = ports::free();
        let mut text = format!(
            r#"data.dir = "data-{kind}-{round}"
admin.address = "{admin}"
roles.router = false
kafka.bootstrap = "{}"
topics = {{ prefix = "bench", partitions = {}, danger_single_broker = true }}
[pipeline]
edge_keys = [{{ id = "edge-1", file = "secrets/edge-1.key" }}]
core_keys = [{{ id = "core-1", file = "secrets/core-1.key" }}]
id_keys = [{{ id = "id-1", file = "secrets/id-1.key" }}]
[source.{SOURCE}]
keys = [{{ id = "k1", file = "secrets/{SOURCE}.k1.key" }}]
sinks = ["{kind}-{round}"]
[sink.{kind}-{round}]
kind = "{kind}"
"#,
            self.kafka.bootstrap, self.options.partitions
        );
        match kind {
            "kafka" => writeln!(text, "topic = \"bench.out.{kind}-{round}\"")?,
            _ => writeln!(text, "path = \"out-{round}.jsonl\"")?,
        }
        let path = self.dir.join(format!("{kind}-{round}.toml"));
        std::fs::write(&path, text)?;
        let create = ["topics", "create", "--config"];
        let made = Command::new(environment::binary("sealstream")?).args(create).arg(&path).output()?;
        ensure!(made.status.success(), "creating topics: {}", String::from_utf8_lossy(&made.stderr));
        Ok((path, admin))
    }

    /// Sealed events, as the router would have put them there.
    async fn fill(&self) -> Result<()> {
        // Any configuration makes the topics.
        self.configure("file", usize::MAX)?;
        let Options { records, payload_bytes, partitions, .. } = self.options;
        let key = self.materials.sealing_key(SOURCE)?;
        let events = Events { topic: "bench.events", partitions, source: source() };
        let body = |id: &str| {
            let mut payload = format!(r#"{{"id":"{id}","type":"order.paid","text":""#);
            payload.extend(std::iter::repeat_n('x', payload_bytes.saturating_sub(payload.len() + 2)));
            payload.push_str(r#""}"#);
            Ok(open::seal_native(&key, payload.as_bytes())?.body)
        };
        events.fill(&self.kafka, &self.materials, records, body).await
    }

    async fn output(&self, name: &str) -> Result<String> {
        let name = format!("bench.out.{name}");
        let partitions = self.options.partitions.try_into()?;
        let settings = BTreeMap::from([("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())]);
        self.admin.create(&TopicSpec { name: name.clone(), partitions, replication: 1, settings }).await?;
        Ok(name)
    }

    async fn floor(&self, name: &str, opening: bool) -> Result<Took> {
        let output = self.output(name).await?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--floor").arg(&output).arg("--dir").arg(self.dir);
        command.args(["--records", &self.options.records.to_string()]);
        command.args(["--partitions", &self.options.partitions.to_string()]);
        if opening {
            command.arg("--opening");
        }
        let ran = tokio::task::block_in_place(|| command.stderr(Stdio::inherit()).output())?;
        ensure!(ran.status.success(), "the bare loop failed");
        self.admin.delete(&[output]).await?;
        Ok(serde_json::from_slice(&ran.stdout)?)
    }

    /// From the first record counted to the last, as the processor's own metrics say, looked at every 10 ms.
    async fn processor(&self, kind: &str, round: usize) -> Result<Took> {
        let output = self.output(&format!("{kind}-{round}")).await?;
        let (config, admin) = self.configure(kind, round)?;
        let log = std::fs::File::create(self.dir.join(format!("{kind}-{round}.log")))?;
        let mut child =
            Command::new(environment::binary("processor")?).arg("--config").arg(&config).stderr(log).spawn()?;
        let took = self.watch(&child, admin).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into()?), nix::sys::signal::Signal::SIGTERM)?;
        let status = tokio::task::block_in_place(|| child.wait())?;
        let took = took.with_context(|| format!("the log is in {}", self.dir.display()))?;
        ensure!(status.success(), "the processor ended with {status}");
        self.admin.delete(&[output]).await?;
        Ok(took)
    }

    async fn watch(&self, child: &std::process::Child, admin: std::net::SocketAddr) -> Result<Took> {
        let clock = Clock::system();
        let deadline = clock.monotonic() + Duration::from_secs(300);
        let mut begin = None;
        let mut every = tokio::time::interval(Duration::from_millis(10));
        while clock.monotonic() < deadline {
            every.tick().await;
            // Not up yet.
            let Ok((200, text)) = get(admin, "/metrics").await else { continue };
            let delivered = metric(&text, "processor_records_total", &[("outcome", "delivered")]);
            let now = (clock.monotonic(), cpu(child.id())?);
            if delivered > 0.0 && begin.is_none() {
                begin = Some((now, delivered));
            }
            if let Some(((begun, used), before)) = begin
                && delivered >= as_f64(self.options.records)
            {
                // What was delivered before the first look is not in the time.
                let share = as_f64(self.options.records) / (delivered - before);
                return Ok(Took {
                    seconds: (now.0 - begun).as_secs_f64() * share,
                    cpu_seconds: (now.1 - used).as_secs_f64() * share,
                });
            }
        }
        bail!("the processor did not deliver everything")
    }

    fn tell(&self, times: &BTreeMap<&str, Vec<Took>>) -> Result<()> {
        let median = |pick: fn(&Took) -> f64, name: &str| {
            let mut values: Vec<f64> = times[name].iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let records = as_f64(self.options.records);
        let row = |name: &'static str| {
            let (seconds, cpu) = (median(|took| took.seconds, name), median(|took| took.cpu_seconds, name));
            (name, records / seconds, cpu / records * 1e6)
        };
        let rows = [COPY, OPEN, KAFKA, FILE].map(row);
        if self.options.json {
            let of = |name: &str| rows.iter().find(|row| row.0 == name).map_or((0.0, 0.0), |row| (row.1, row.2));
            let (copy, open, kafka, file) = (of(COPY), of(OPEN), of(KAFKA), of(FILE));
            let object = serde_json::json!({
                "records": self.options.records,
                "deliverer_kafka_rate_vs_copy": kafka.0 / copy.0,
                "deliverer_file_rate_vs_copy": file.0 / copy.0,
                "deliverer_kafka_cpu_vs_floor": kafka.1 / open.1,
                "deliverer_file_cpu_vs_floor": file.1 / open.1,
                "copy_records_per_second": copy.0, "open_records_per_second": open.0,
                "kafka_records_per_second": kafka.0, "file_records_per_second": file.0,
                "copy_cpu_us": copy.1, "open_cpu_us": open.1, "kafka_cpu_us": kafka.1, "file_cpu_us": file.1,
            });
            println!("{object}");
            return Ok(());
        }
        let mut table = Table::new();
        table.set_header(["medians", "records/s", "CPU µs per record", "rate ÷ copy", "CPU ÷ open"]);
        for (name, rate, cpu) in rows {
            table.add_row([
                name.to_owned(),
                format!("{rate:.0}"),
                format!("{cpu:.1}"),
                format!("{:.2}", rate / rows[0].1),
                format!("{:.2}", cpu / rows[1].2),
            ]);
        }
        println!("{table}");
        Ok(())
    }
}
