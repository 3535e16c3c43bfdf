//! How long a processor takes to open its partitions: cold, from the log, beside a plain consumer of the same records; and
//! warm, from its cache on disk: `./x bench open`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::events::Events;
use benches::usage::as_f64;
use clap::Parser;
use common::clock::Clock;
use common::kafka::admin::Admin;
use common::kafka::client::KafkaConfig;
use common::topics::Topic;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Offset};
use tests::materials::Materials;
use tests::{environment, ports};

const SOURCE: &str = "acme";
const EVENTS: &str = "bench-open.events";
const GROUP: &str = "bench-open.deliver.main";

/// Measures how long partitions take to open.
#[derive(Parser)]
struct Options {
    /// Event ids in the window, each with one record
    #[arg(long, default_value_t = 5_000_000)]
    ids: u64,
    /// Bytes of each record's value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Partitions of events
    #[arg(long, default_value_t = 64)]
    partitions: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("sealstream-open-").tempdir()?;
    let bench = Bench {
        kafka: environment::kafka()?,
        materials: Materials::create(folder.path(), [SOURCE], [])?,
        options,
        dir: folder.path(),
    };
    let config = bench.configure()?;
    bench.fill().await?;
    bench.commit_ends()?;
    let ids = as_f64(bench.options.ids);
    for round in 0..bench.options.rounds {
        let plain = tokio::task::block_in_place(|| bench.plain())?;
        std::fs::remove_dir_all(folder.path().join("data")).ok();
        let cold = bench.open(&config).await?;
        let warm = bench.open(&config).await?;
        println!(
            "round {round}: plain consumer {:.0} records/s; cold {:.2} s = {:.0} records/s = {:.0} % of it (start to open {:.2} s); \
             warm {:.2} s (start to open {:.2} s)",
            ids / plain,
            cold.opening,
            ids / cold.opening,
            100.0 * plain / cold.opening,
            cold.start,
            warm.opening,
            warm.start
        );
    }
    let config = processor::config::Config::load(Some(&config), std::iter::empty())?;
    let topics: Vec<_> = processor::topics::specs(&config).into_iter().map(|spec| spec.name).collect();
    Ok(Admin::new(&bench.kafka)?.delete(&topics).await?)
}

/// Seconds from the assignment, and from the process's start, to the last partition open.
struct Took {
    opening: f64,
    start: f64,
}

struct Bench<'a> {
    options: Options,
    dir: &'a Path,
    kafka: KafkaConfig,
    materials: Materials,
}

impl Bench<'_> {
    fn configure(&self) -> Result<PathBuf> {
        let text = format!(
            r#"data.dir = "data"
admin.address = "{}"
roles.router = false
kafka.bootstrap = "{}"
topics = {{ prefix = "bench-open", partitions = {}, danger_single_broker = true }}
dedup.scan_records_per_second = 4000000000
[pipeline]
edge_keys = [{{ id = "edge-1", file = "secrets/edge-1.key" }}]
core_keys = [{{ id = "core-1", file = "secrets/core-1.key" }}]
id_keys = [{{ id = "id-1", file = "secrets/id-1.key" }}]
[source.{SOURCE}]
keys = [{{ id = "k1", file = "secrets/{SOURCE}.k1.key" }}]
[sink.main]
kind = "file"
path = "out.jsonl"
"#,
            ports::free(),
            self.kafka.bootstrap,
            self.options.partitions
        );
        let path = self.dir.join("processor.toml");
        std::fs::write(&path, text)?;
        let made = Command::new(environment::binary("sealstream")?)
            .args(["topics", "create", "--config"])
            .arg(&path)
            .output()?;
        ensure!(made.status.success(), "creating topics: {}", String::from_utf8_lossy(&made.stderr));
        Ok(path)
    }

    /// Records as the router makes them; what is in them is not looked at when partitions are opened.
    async fn fill(&self) -> Result<()> {
        let body = vec![b'x'; self.options.value_bytes];
        let events =
            Events { role: Topic::Events, topic: EVENTS, partitions: self.options.partitions, source: SOURCE.parse()? };
        events.fill(&self.kafka, &self.materials, self.options.ids, |_| Ok(&body)).await
    }

    fn consumer(&self, group: &str) -> Result<BaseConsumer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.bootstrap).set("enable.metrics.push", "false");
        config.set("group.id", group).set("enable.auto.commit", "false");
        Ok(config.create()?)
    }

    /// As if everything had been delivered.
    fn commit_ends(&self) -> Result<()> {
        let consumer = self.consumer(GROUP)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(self.options.partitions)? {
            let (_, end) = consumer.fetch_watermarks(EVENTS, partition, Duration::from_secs(10))?;
            list.add_partition_offset(EVENTS, partition, Offset::Offset(end))?;
        }
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    }

    /// Seconds that a consumer with the library's own settings takes from its first record to its last.
    fn plain(&self) -> Result<f64> {
        let consumer = self.consumer("bench-open-plain")?;
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(self.options.partitions)? {
            list.add_partition_offset(EVENTS, partition, Offset::Beginning)?;
        }
        let clock = Clock::system();
        let begun = clock.monotonic();
        consumer.assign(&list)?;
        for _ in 0..self.options.ids {
            consumer.poll(Duration::from_secs(30)).context("nothing came")??;
        }
        Ok((clock.monotonic() - begun).as_secs_f64())
    }

    /// Starts a processor, waits until all partitions of events are open, and stops it in order.
    async fn open(&self, config: &Path) -> Result<Took> {
        let path = self.dir.join("processor.log");
        let log = std::fs::File::create(&path)?;
        let clock = Clock::system();
        let start = clock.monotonic();
        let mut child =
            Command::new(environment::binary("processor")?).arg("--config").arg(config).stderr(log).spawn()?;
        let took = self.watch(&path, &mut child, &clock, start).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into()?), nix::sys::signal::Signal::SIGTERM)?;
        let status = tokio::task::block_in_place(|| child.wait())?;
        ensure!(status.success(), "the processor ended with {status}: {}", std::fs::read_to_string(&path)?);
        took
    }

    async fn watch(&self, log: &Path, child: &mut Child, clock: &Clock, start: Duration) -> Result<Took> {
        let deadline = start + Duration::from_secs(300);
        let mut assigned = None;
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while clock.monotonic() < deadline && child.try_wait()?.is_none() {
            every.tick().await;
            let text = std::fs::read_to_string(log)?;
            let lines =
                |what: &str, of: &str| text.lines().filter(|line| line.contains(what) && line.contains(of)).count();
            let now = clock.monotonic();
            if assigned.is_none() && lines("partitions assigned", GROUP) > 0 {
                assigned = Some(now);
            }
            if let Some(assigned) = assigned
                && lines("\"partition open\"", EVENTS) == usize::try_from(self.options.partitions)?
            {
                return Ok(Took { opening: (now - assigned).as_secs_f64(), start: (now - start).as_secs_f64() });
            }
        }
        bail!("not all partitions were opened: {}", std::fs::read_to_string(log)?)
    }
}
