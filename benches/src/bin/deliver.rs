//! The deliverer beside the floors: the shipped `processor` delivers the same records to a file, to a Kafka sink and to a local
//! HTTP sink that bare loops copy, open and write, and post. In turn, so that ratios hold on a noisy machine: `./x bench deliver`.
#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use benches::figures::{cpu_us, median, rate, ratio, raw, shown, tell};
use benches::floor::Took;
use benches::process::Process;
use benches::processors::{Ground, Options, SOURCE, took};
use clap::Parser;
use comfy_table::Table;
use common::topics::Topic;
use tests::{environment, ports};

/// Measures the deliverer beside the floors.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Dispatches to the HTTP sink at once, and connections of its floor
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
}

const COPY: &str = "floor: consume, produce";
const OPEN: &str = "floor: consume, open, produce";
const POST: &str = "floor: post";
const KAFKA: &str = "deliverer to a Kafka sink";
const FILE: &str = "deliverer to a file sink";
const HTTP: &str = "deliverer to an HTTP sink";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new().prefix("sealstream-bench-").tempdir()?;
    let names: Vec<_> = (0..arguments.options.rounds).map(|round| format!("http-{round}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let ground = Ground::new(&arguments.options, folder.path(), "bench", &names)?;
    let bench = Bench { ground, concurrency: arguments.concurrency };
    // Any configuration makes the topics.
    let (any, _) = bench.configure("file", usize::MAX, "path = \"out.jsonl\"")?;
    bench.ground.fill(Topic::Events).await?;
    let mut times: BTreeMap<&str, Vec<Took>> = BTreeMap::new();
    for round in 0..arguments.options.rounds {
        eprintln!("round {} of {}", round + 1, arguments.options.rounds);
        let mut note = |name, took| times.entry(name).or_default().push(took);
        note(COPY, bench.consume(&format!("copy-{round}"), &[]).await?);
        note(OPEN, bench.consume(&format!("open-{round}"), &["--open", SOURCE, "--unseal"]).await?);
        note(KAFKA, bench.kafka(round).await?);
        note(FILE, bench.processor("file", round, &format!("path = \"out-{round}.jsonl\"")).await?);
        let (post, http) = bench.http(round).await?;
        note(POST, post);
        note(HTTP, http);
    }
    bench.ground.remove_all(&any).await?;
    show(&arguments.options, &times);
    Ok(())
}

struct Bench<'a> {
    ground: Ground<'a>,
    concurrency: usize,
}

impl Bench<'_> {
    /// A configuration with one sink of its own, so that its group begins with the first record.
    fn configure(&self, kind: &str, round: usize, sink: &str) -> Result<(PathBuf, SocketAddr)> {
        let admin = ports::free();
        let rest = format!(
            "sinks = [\"{kind}-{round}\"]\n[sink.{kind}-{round}]\nkind = \"{kind}\"\n{sink}\n[roles]\nrouter = false\n"
        );
        Ok((self.ground.configure(&format!("{kind}-{round}"), admin, &rest)?, admin))
    }

    async fn consume(&self, name: &str, words: &[&str]) -> Result<Took> {
        self.ground.consume(&Topic::Events, name, words).await
    }

    async fn processor(&self, kind: &str, round: usize, sink: &str) -> Result<Took> {
        let (config, admin) = self.configure(kind, round, sink)?;
        self.ground.processor(&config, admin, "events", "delivered").await
    }

    async fn kafka(&self, round: usize) -> Result<Took> {
        let output = self.ground.output(&format!("kafka-{round}")).await?;
        let took = self.processor("kafka", round, &format!("topic = \"{output}\"")).await?;
        self.ground.remove(output).await?;
        Ok(took)
    }

    /// The floor and the deliverer to the same sink: the server that is a floor itself, without TLS.
    async fn http(&self, round: usize) -> Result<(Took, Took)> {
        let receiver = ports::free();
        let log = self.ground.dir.join("receiver.log");
        let floor = environment::binary("floor")?;
        let listens = ["serve", "--listen", &receiver.to_string()].map(str::to_owned);
        let sink = Process::start(Command::new(&floor).args(listens), &log, receiver).await?;
        let Options { records, payload_bytes, .. } = *self.ground.options;
        let mut posting = Command::new(&floor);
        posting.args(["post", "--receiver", &receiver.to_string(), "--records", &records.to_string()]);
        posting.args(["--body-bytes", &payload_bytes.to_string(), "--connections", &self.concurrency.to_string()]);
        let post = took(&mut posting)?;
        let settings = format!(
            "url = \"http://{receiver}/hook\"\nsecret = \"secrets/sink-http-{round}.whsec\"\ndanger_plain_http = true\n\
             concurrency = {}",
            self.concurrency
        );
        let http = self.processor("http", round, &settings).await?;
        sink.stop()?;
        Ok((post, http))
    }
}

fn show(options: &Options, times: &BTreeMap<&str, Vec<Took>>) {
    let records = options.records;
    let cpu = |name: &str| cpu_us(&times[name], records);
    let rates = |name: &str| rate(&times[name], records);
    // Each beside the floor that does the same for its sink.
    let floors = [(COPY, COPY), (OPEN, OPEN), (KAFKA, OPEN), (FILE, OPEN), (POST, POST), (HTTP, POST)];
    let mut table = Table::new();
    table.set_header(["medians", "records/s", "CPU µs per record", "CPU ÷ its floor", "rate ÷ copy"]);
    for (name, floor) in floors {
        table.add_row([
            name.to_owned(),
            shown(rates(name)),
            shown(median(cpu(name))),
            shown(ratio(&cpu(name), &cpu(floor))),
            shown(rates(name) / rates(COPY)),
        ]);
    }
    let raw = |name: &str| raw(&times[name], records);
    let object = || {
        serde_json::json!({
            "deliverer_kafka_cpu_vs_floor": ratio(&cpu(KAFKA), &cpu(OPEN)),
            "deliverer_file_cpu_vs_floor": ratio(&cpu(FILE), &cpu(OPEN)),
            "deliverer_http_cpu_vs_floor": ratio(&cpu(HTTP), &cpu(POST)),
            "deliverer_kafka_rate_vs_copy": rates(KAFKA) / rates(COPY),
            "deliverer_file_rate_vs_copy": rates(FILE) / rates(COPY),
            "deliver": {
                "records": records, "payload_bytes": options.payload_bytes, "partitions": options.partitions,
                "rounds": options.rounds, "copy_floor": raw(COPY), "open_floor": raw(OPEN), "post_floor": raw(POST),
                "kafka": raw(KAFKA), "file": raw(FILE), "http": raw(HTTP),
            },
        })
    };
    tell(options.json, table, object);
}
