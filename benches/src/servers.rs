//! The servers that take requests, beside each other: the bare ones, and the shipped `ingest` with every check on.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use common::kafka::admin::Admin;
use serde::Serialize;
use tests::materials::{KEY_ID, Materials};
use tests::{environment, ports};

use crate::allocations::{counted, counting};
use crate::floor::LINGER_US;
use crate::load::{Load, Quantiles, Report};
use crate::process::Process;
use crate::processors::{SOURCE, make_topic};
use crate::usage::{Cpu, as_f64, brokers, resident_mib};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// Hyper and rustls: reads the body.
    Http,
    /// The same, with the body published and acknowledged.
    Kafka,
    /// The product.
    Ingest,
}

impl Contender {
    /// In the order of what they do.
    pub const ALL: [Self; 3] = [Self::Http, Self::Kafka, Self::Ingest];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "floor: hyper, rustls",
            Self::Kafka => "floor: hyper, rustls, rdkafka",
            Self::Ingest => "ingest",
        }
    }

    /// Its name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Http => "http_floor",
            Self::Kafka => "kafka_floor",
            Self::Ingest => "ingest",
        }
    }
}

/// What a server is set up for, and what is put on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Connections.
    pub connections: u16,
    /// Bytes of each body.
    pub body_bytes: u32,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Sources that ingest has, each on a path of its own. One of them sends.
    pub sources: u32,
    /// Secrets of each of them. The last one is used.
    pub secrets: u32,
    /// How long records wait for company, in microseconds.
    pub linger_us: u32,
    /// More words for `sealstream load`.
    pub load: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            connections: 64,
            body_bytes: 1024,
            partitions: 8,
            sources: 1,
            secrets: 1,
            linger_us: LINGER_US,
            load: String::new(),
        }
    }
}

/// One load on one server.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// Requests a second that were meant to be sent; none in a closed loop.
    pub offered_per_second: Option<f64>,
    /// Those that were received.
    pub received_per_second: f64,
    /// Of the server's process, per request.
    pub cpu_us: f64,
    /// Of that, its own.
    pub cpu_user_us: f64,
    /// Of that, the kernel's.
    pub cpu_system_us: f64,
    /// Of the broker, per request.
    pub broker_cpu_us: f64,
    /// Of the generator, per request.
    pub generator_cpu_us: f64,
    /// In cores.
    pub generator_cores: f64,
    /// After the load.
    pub resident_mib: f64,
    /// From the intended send time.
    pub latency_ms: Option<Quantiles>,
}

/// How long a server is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Before it is measured.
    pub warm_up: Duration,
    /// While it is measured.
    pub measured: Duration,
}

/// CPU time of a server and of the broker.
#[derive(Debug, Clone, Copy)]
struct Used {
    server: Cpu,
    broker: Cpu,
}

impl Used {
    /// So far.
    fn of(pid: u32) -> Result<Self> {
        Ok(Self { server: Cpu::of(pid)?, broker: brokers()? })
    }

    /// As the cost of so many requests, of a closed loop.
    fn by(self, requests: f64, report: &Report, resident_mib: f64) -> Run {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / requests;
        Run {
            offered_per_second: None,
            received_per_second: report.received_per_second,
            cpu_us: each(self.server.total()),
            cpu_user_us: each(self.server.user),
            cpu_system_us: each(self.server.system),
            broker_cpu_us: each(self.broker.total()),
            generator_cpu_us: report.cpu_us_per_request,
            generator_cores: report.cpu_cores,
            resident_mib,
            latency_ms: report.latency_ms,
        }
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { server: self.server - before.server, broker: self.broker - before.broker }
    }
}

/// A folder with keys, and a Kafka.
pub struct Servers<'a> {
    dir: &'a Path,
    admin: Admin,
    bootstrap: String,
    /// Numbers the runs: each has topics of its own.
    count: usize,
}

/// A server that runs.
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub listens: SocketAddr,
    log: PathBuf,
    topic: String,
}

impl<'a> Servers<'a> {
    /// Makes keys.
    pub fn new(dir: &'a Path) -> Result<Self> {
        let kafka = environment::kafka()?;
        Materials::create(dir, [SOURCE], [])?;
        Ok(Self { admin: Admin::new(&kafka)?, bootstrap: kafka.bootstrap, dir, count: 0 })
    }

    /// Starts a server, warms it up, and puts a load on it: at a rate, or as much as it takes.
    pub async fn run(
        &mut self,
        contender: Contender,
        shape: &Shape,
        times: Times,
        offered: Option<f64>,
    ) -> Result<Run> {
        let server = self.start(contender, shape).await?;
        self.warm_up(&server, shape, times)?;
        let run = self.measure(&server, shape, times, offered)?;
        self.end(server).await?;
        Ok(run)
    }

    /// Lets a server run in.
    pub fn warm_up(&self, server: &Server, shape: &Shape, times: Times) -> Result<()> {
        self.load(&url(server.listens), shape, times.warm_up, None)?;
        Ok(())
    }

    /// Puts a load on a server that runs.
    pub fn measure(&self, server: &Server, shape: &Shape, times: Times, offered: Option<f64>) -> Result<Run> {
        let pid = server.process.id();
        let before = Used::of(pid)?;
        let report = self.load(&url(server.listens), shape, times.measured, offered)?;
        let used = Used::of(pid)? - before;
        let by = used.by(as_f64(report.requests), &report, resident_mib(pid)?);
        Ok(Run { offered_per_second: offered, ..by })
    }

    /// The same in a closed loop, without what it costs to make the connections: of two loads that begin alike, what the longer
    /// one costs more.
    pub async fn steady(&mut self, contender: Contender, shape: &Shape, times: Times) -> Result<Run> {
        let server = self.start(contender, shape).await?;
        let (url, pid) = (url(server.listens), server.process.id());
        let begin = Used::of(pid)?;
        let first = self.load(&url, shape, times.warm_up, None)?;
        let between = Used::of(pid)?;
        let second = self.load(&url, shape, times.warm_up + times.measured, None)?;
        let more = (Used::of(pid)? - between) - (between - begin);
        let resident_mib = resident_mib(pid)?;
        self.end(server).await?;
        let requests = as_f64(second.requests.saturating_sub(first.requests));
        let received_per_second = requests / times.measured.as_secs_f64();
        Ok(Run { received_per_second, ..more.by(requests, &second, resident_mib) })
    }

    /// The authority that the servers' certificate is of.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("tls/ca.pem")
    }

    /// How often a server allocates until it has ended after so many requests.
    pub async fn allocations(&mut self, contender: Contender, shape: &Shape, requests: u64) -> Result<u64> {
        let server = self.start_by(contender, shape, counting).await?;
        let (log, words) = (server.log.clone(), format!("--requests={requests} {}", shape.load));
        let shape = Shape { load: words, ..shape.clone() };
        start_load(self.dir, &url(server.listens), &shape, None, None)?.finish()?;
        self.end(server).await?;
        counted(&log)
    }

    /// Starts a server with a topic of its own.
    pub async fn start(&mut self, contender: Contender, shape: &Shape) -> Result<Server> {
        self.start_by(contender, shape, |program| Command::new(program)).await
    }

    async fn start_by(
        &mut self,
        contender: Contender,
        shape: &Shape,
        program: impl Fn(&Path) -> Command,
    ) -> Result<Server> {
        self.count += 1;
        let prefix = format!("bench-edge-{}", self.count);
        let topic = format!("{prefix}.inbox");
        make_topic(&self.admin, &topic, shape.partitions).await?;
        let (listens, log) = (ports::free(), self.dir.join(format!("{prefix}.log")));
        let mut command = self.command(contender, shape, &prefix, listens, program)?;
        let process = Process::start(&mut command, &log, listens).await?;
        Ok(Server { process, listens, log, topic })
    }

    /// Ends it, and removes its topic.
    pub async fn end(&self, server: Server) -> Result<()> {
        server.process.stop()?;
        Ok(self.admin.delete(&[server.topic]).await?)
    }

    fn load(&self, url: &str, shape: &Shape, time: Duration, rate: Option<f64>) -> Result<Report> {
        start_load(self.dir, url, shape, Some(time), rate)?.finish()
    }

    fn command(
        &self,
        contender: Contender,
        shape: &Shape,
        prefix: &str,
        listens: SocketAddr,
        program: impl Fn(&Path) -> Command,
    ) -> Result<Command> {
        let mut command = match contender {
            Contender::Http | Contender::Kafka => {
                let mut command = program(&environment::binary("floor")?);
                command.args(["serve", "--certificate", "tls/server.pem", "--key", "tls/server.key"]);
                command.args(["--listen", &listens.to_string()]);
                command
            }
            Contender::Ingest => {
                let mut command = program(&environment::binary("ingest")?);
                command.arg("--config").arg(configure(self.dir, &self.bootstrap, prefix, prefix, listens, shape)?);
                command
            }
        };
        if contender == Contender::Kafka {
            command.args(["--topic", &format!("{prefix}.inbox")]);
            command.args(["--linger-us", &shape.linger_us.to_string()]);
        }
        command.current_dir(self.dir);
        Ok(command)
    }
}

/// Starts a load on one of the servers, from a folder with keys.
pub fn start_load(dir: &Path, url: &str, shape: &Shape, time: Option<Duration>, rate: Option<f64>) -> Result<Load> {
    let Shape { connections, body_bytes, secrets, load, .. } = shape;
    let mut words = vec![format!("--connections={connections}"), format!("--body-bytes={body_bytes}B")];
    words.extend(time.map(|time| format!("--duration={}ms", time.as_millis())));
    words.extend(rate.map(|rate| format!("--rate={rate:.1}")));
    words.extend(load.split_whitespace().map(str::to_owned));
    let sender = format!(
        "url = \"\"\nsource = \"{SOURCE}\"\nsecret = \"{}\"\n\
         key = {{ id = \"{KEY_ID}\", file = \"secrets/{SOURCE}.{KEY_ID}.key\" }}\nca = \"tls/ca.pem\"\n",
        secret(dir, SOURCE, *secrets)?
    );
    let path = dir.join("sender.toml");
    std::fs::write(&path, sender)?;
    Load::start(&path, url, &words)
}

/// Where a server takes requests.
pub fn url(listens: SocketAddr) -> String {
    format!("https://localhost:{}/in/{SOURCE}", listens.port())
}

/// Writes the configuration of ingest as it is shipped, in a folder with keys: all that is not said here is its default. More
/// connections than those need other limits.
pub fn configure(
    dir: &Path,
    bootstrap: &str,
    prefix: &str,
    name: &str,
    listens: SocketAddr,
    shape: &Shape,
) -> Result<PathBuf> {
    let mut text = format!(
        r#"listen = {{ address = "{listens}", certificate = "tls/server.pem", key = "tls/server.key" }}
admin.address = "{}"
kafka.bootstrap = "{bootstrap}"
topics.prefix = "{prefix}"
drain.notice = "1ms"
publish.linger = "{}us"
pipeline.edge_key = {{ id = "edge-1", file = "secrets/edge-1.key" }}
"#,
        ports::free(),
        shape.linger_us,
    );
    if shape.connections > CONNECTIONS_DEFAULT {
        let connections = u32::from(shape.connections) + 16;
        writeln!(
            text,
            "limits = {{ connections_max = {connections}, connections_per_ip_max = {connections}, head_deadline = \"60s\", \
             requests_in_flight_max = {connections} }}"
        )?;
    }
    for number in 0..shape.sources {
        let source = if number == 0 { SOURCE.to_owned() } else { format!("{SOURCE}-{number}") };
        let mut secrets = Vec::new();
        for number in 1..=shape.secrets {
            secrets.push(format!("{{ id = \"s{number}\", file = \"{}\" }}", secret(dir, &source, number)?));
        }
        let secrets = secrets.join(", ");
        writeln!(text, "[source.{source}]\npath = \"/in/{source}\"\nsecrets = [{secrets}]")?;
    }
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What `limits.connections_per_ip_max` is by default.
const CONNECTIONS_DEFAULT: u16 = 256;

/// The file of a source's secret, below the folder; it is made if it is not there.
fn secret(dir: &Path, source: &str, number: u32) -> Result<String> {
    let file = format!("secrets/{source}.hmac.s{number}");
    let path = dir.join(&file);
    if !path.exists() {
        std::fs::write(&path, format!("a secret of {source}, number {number}, for a bench"))?;
    }
    Ok(file)
}
