//! One to three combined broker and controller nodes (KRaft) on loopback, in a directory of their own.
//!
//! Set as Sealstream wants its brokers: `LogAppendTime`, no topics by accident, no unclean election. A node keeps its
//! ports and its data over a stop, a kill and a start; `down` removes all of it.

use super::distribution::Distribution;
use crate::{ports, process::Daemon, workspace};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Any 16 bytes in base64url; the clusters of tests need no other.
const CLUSTER_ID: &str = "c2VhbHN0cmVhbS1kZXYtMQ";
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(40);
const LOG4J: &str = include_str!("../../kafka/log4j2.properties");

/// A cluster whose files are in a directory; it may be running or not.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cluster {
    #[serde(skip)]
    dir: PathBuf,
    distribution: Distribution,
    nodes: Vec<Node>,
    /// The folder with what its secured ways in need, if it has some.
    #[serde(default)]
    secured: Option<PathBuf>,
}

/// How clients come in besides the plain way.
#[derive(Default)]
pub(crate) struct Ways {
    /// Through proxies that tests run.
    pub(crate) proxied: bool,
    /// By SASL over TLS, and by certificate, with the access lists on. The folder holds `broker.pem` (the broker's
    /// certificates and key), `ca.pem` (whose certificates clients may have) and `plain.users` (the users of PLAIN:
    /// `user_NAME="PASSWORD"`).
    pub(crate) secured: Option<PathBuf>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Node {
    number: usize,
    port: u16,
    controller_port: u16,
    /// Where it listens for clients that come through a proxy, and where it tells them that it is.
    #[serde(default)]
    proxied: Option<(u16, u16)>,
    /// Where it listens for clients that prove who they are: by SASL, and by certificate.
    #[serde(default)]
    secured: Option<(u16, u16)>,
}

impl Cluster {
    /// The cluster that was created in `dir`, if there is one.
    pub(crate) fn open(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join("cluster.json");
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(None);
        };
        let cluster: Self = serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        Ok(Some(Self { dir: dir.to_path_buf(), ..cluster }))
    }

    /// Writes the files of a new cluster of `count` nodes and formats their logs; starts nothing.
    pub(crate) fn create(dir: &Path, count: usize, ways: &Ways) -> Result<Self> {
        let distribution = Distribution::find()?;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let free = ports::free(6 * count)?;
        let nodes = free.chunks(6).zip(1..).map(|(ports, number)| Node {
            number,
            port: ports[0],
            controller_port: ports[1],
            proxied: ways.proxied.then_some((ports[2], ports[3])),
            secured: ways.secured.is_some().then_some((ports[4], ports[5])),
        });
        let secured = ways.secured.as_deref().map(Path::canonicalize).transpose().context("the folder of --secured")?;
        let cluster = Self { dir, distribution, nodes: nodes.collect(), secured };
        fs::write(cluster.dir.join("log4j2.properties"), LOG4J)?;
        for node in &cluster.nodes {
            let properties = cluster.file(node, "properties");
            fs::write(&properties, cluster.properties(node)? + &cluster.security(node)?)?;
            let words = ["format", "--cluster-id", CLUSTER_ID, "--config"];
            let mut format = cluster.java(node, "-format", &["-Xmx256m"], "kafka.tools.StorageTool")?;
            workspace::output(format.args(words).arg(&properties)).context("formatting a broker's log")?;
        }
        fs::write(cluster.dir.join("cluster.json"), serde_json::to_string_pretty(&cluster)?)?;
        Ok(cluster)
    }

    /// Starts every node that is not running, all at once, and waits until they serve.
    pub(crate) fn up(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let starts: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| self.start_node(node))).collect();
            starts.into_iter().try_for_each(|start| start.join().expect("starting a broker does not panic"))
        })
    }

    /// Stops every node and removes the data; the logs of the nodes stay.
    pub(crate) fn down(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let stops: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| self.kill_node(node))).collect();
            stops.into_iter().try_for_each(|stop| stop.join().expect("stopping a broker does not panic"))
        })?;
        for node in &self.nodes {
            let data = self.file(node, "data");
            if data.exists() {
                fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
            }
        }
        fs::remove_file(self.dir.join("cluster.json")).context("removing the cluster's description")
    }

    /// Starts node `number`, if it is not running, and waits until it serves.
    pub(crate) fn start(&self, number: usize) -> Result<()> {
        self.start_node(self.node(number)?)
    }

    /// Lets node `number` hand over its partitions and end.
    pub(crate) fn stop(&self, number: usize) -> Result<()> {
        self.daemon(self.node(number)?).stop(STOP_DEADLINE)
    }

    /// Ends node `number` at once.
    pub(crate) fn kill(&self, number: usize) -> Result<()> {
        self.kill_node(self.node(number)?)
    }

    /// What clients need to reach it, as environment variables.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let addresses = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let mut environment = vec![
            ("KAFKA_BOOTSTRAP", addresses.collect::<Vec<_>>().join(",")),
            ("SEALSTREAM_KAFKA_STATE", self.dir.display().to_string()),
        ];
        let proxied = self.nodes.iter().filter_map(|node| node.proxied);
        let proxied = proxied.map(|(listens, tells)| format!("127.0.0.1:{listens}=127.0.0.1:{tells}"));
        let proxied = proxied.collect::<Vec<_>>().join(",");
        environment.extend((!proxied.is_empty()).then_some(("SEALSTREAM_KAFKA_PROXIED", proxied)));
        let ways: Vec<(u16, u16)> = self.nodes.iter().filter_map(|node| node.secured).collect();
        let names = [("SEALSTREAM_KAFKA_SASL", 0), ("SEALSTREAM_KAFKA_MUTUAL", 1)];
        for (name, way) in names.into_iter().filter(|_| !ways.is_empty()) {
            let ports = ways.iter().map(|(sasl, mutual)| [sasl, mutual][way]);
            let addresses: Vec<String> = ports.map(|port| format!("localhost:{port}")).collect();
            environment.push((name, addresses.join(",")));
        }
        environment.extend(self.distribution.libs().map(|libs| ("KAFKA_LIBS", libs.display().to_string())));
        environment
    }

    /// Runs one of Kafka's own tools, named as its script, with full rights; answers what it printed.
    pub(crate) fn tool(&self, script: &str, words: &[String]) -> Result<String> {
        let class = match script {
            "kafka-acls.sh" => "org.apache.kafka.tools.AclCommand",
            "kafka-configs.sh" => "kafka.admin.ConfigCommand",
            "kafka-consumer-groups.sh" => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            other => bail!("{other} is not a tool that is known here"),
        };
        let node = self.node(1)?;
        let mut command = self.java(node, &format!("-tool-{}", std::process::id()), &["-Xmx256m"], class)?;
        command.args(["--bootstrap-server", &format!("127.0.0.1:{}", node.port)]).args(words);
        workspace::output(&mut command)
    }

    /// How many nodes it has.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// One line per node.
    pub(crate) fn status(&self) -> String {
        let mut lines = String::new();
        for node in &self.nodes {
            let state = self.daemon(node).pid().map_or("down".to_owned(), |pid| format!("up, process {pid}"));
            writeln!(lines, "broker {} at 127.0.0.1:{} is {state}", node.number, node.port).expect("writing to memory");
        }
        lines
    }

    fn node(&self, number: usize) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.number == number);
        found.with_context(|| format!("this cluster has brokers 1 to {}, no {number}", self.nodes.len()))
    }

    fn start_node(&self, node: &Node) -> Result<()> {
        let daemon = self.daemon(node);
        if daemon.pid().is_some() {
            return Ok(());
        }
        self.distribution.remove_container(&container(node));
        // Tests start brokers often and load them little: a small heap, and no time spent on the best code.
        let options = ["-Xms128m", "-Xmx640m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
        let mut command = self.java(node, "", &options, "kafka.Kafka")?;
        command.arg(self.file(node, "properties"));
        daemon.start(&mut command, START_DEADLINE, |said| said.contains("Kafka Server started"))
    }

    fn kill_node(&self, node: &Node) -> Result<()> {
        self.distribution.remove_container(&container(node));
        self.daemon(node).kill()
    }

    fn java(&self, node: &Node, suffix: &str, options: &[&str], class: &str) -> Result<std::process::Command> {
        let log4j = format!("-Dlog4j2.configurationFile={}", self.dir.join("log4j2.properties").display());
        let options = [options, &[&log4j]].concat();
        let mut command =
            self.distribution.command(&format!("{}{suffix}", container(node)), &self.dir, &options, class)?;
        command.env_remove("KAFKA_OPTS");
        Ok(command)
    }

    fn daemon(&self, node: &Node) -> Daemon {
        Daemon {
            name: format!("Kafka broker {}", node.number),
            pid_file: self.file(node, "pid"),
            log: self.file(node, "log"),
            mark: self.file(node, "properties").display().to_string(),
        }
    }

    fn file(&self, node: &Node, kind: &str) -> PathBuf {
        self.dir.join(format!("broker-{}.{kind}", node.number))
    }

    /// Who may come in by the secured ways, and what they may do. Whoever comes by another may do everything.
    fn security(&self, node: &Node) -> Result<String> {
        let (Some(dir), Some(_)) = (&self.secured, node.secured) else { return Ok(String::new()) };
        let users = fs::read_to_string(dir.join("plain.users")).context("the users of PLAIN")?;
        let (users, dir) = (users.trim().replace('\n', " "), dir.display());
        let mut text = format!(
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
listener.name.mutual.ssl.client.auth=required
"
        );
        for listener in ["sasl", "mutual"] {
            writeln!(
                text,
                "listener.name.{listener}.ssl.keystore.type=PEM
listener.name.{listener}.ssl.keystore.location={dir}/broker.pem
listener.name.{listener}.ssl.truststore.type=PEM
listener.name.{listener}.ssl.truststore.location={dir}/ca.pem"
            )
            .expect("writing to memory");
        }
        Ok(text)
    }

    fn properties(&self, node: &Node) -> Result<String> {
        let Node { number, port, controller_port, proxied, secured } = *node;
        let (mut listens, mut tells) = proxied.map_or_else(Default::default, |(listens, tells)| {
            (format!(",PROXIED://127.0.0.1:{listens}"), format!(",PROXIED://127.0.0.1:{tells}"))
        });
        if let Some((sasl, mutual)) = secured {
            write!(listens, ",SASL://127.0.0.1:{sasl},MUTUAL://127.0.0.1:{mutual}")?;
            write!(tells, ",SASL://localhost:{sasl},MUTUAL://localhost:{mutual}")?;
        }
        let voters = self.nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.number, node.controller_port));
        let voters = voters.collect::<Vec<_>>().join(",");
        let replicas = self.nodes.len().min(3);
        let in_sync = replicas.div_ceil(2);
        let data = self.file(node, "data").display().to_string();
        Ok(format!(
            "process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listens}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{tells}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL
log.dirs={data}
num.partitions=6
default.replication.factor={replicas}
min.insync.replicas={in_sync}
log.message.timestamp.type=LogAppendTime
auto.create.topics.enable=false
unclean.leader.election.enable=false
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=6
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=6
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
log.retention.check.interval.ms=5000
log.segment.delete.delay.ms=1000
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=16777216
"
        ))
    }
}

fn container(node: &Node) -> String {
    format!("sealstream-kafka-{}", node.port)
}

/// The cluster that lives in `dir` and runs, created and started where it does not.
pub(crate) fn up(dir: &Path, count: usize, ways: &Ways) -> Result<Cluster> {
    let cluster = match Cluster::open(dir)? {
        Some(cluster) if cluster.size() == count => cluster,
        Some(cluster) => {
            bail!("a cluster of {} is here already; `kafka down` ends it and removes its data", cluster.size())
        }
        None => Cluster::create(dir, count, ways)?,
    };
    match cluster.up() {
        Ok(()) => Ok(cluster),
        Err(error) => {
            cluster.down()?;
            Err(error)
        }
    }
}
