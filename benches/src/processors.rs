//! The shipped `processor` beside the floors: topics that both read, and what each took.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::id::SourceId;
use common::kafka::admin::{Admin, TopicSpec};
use common::kafka::client::KafkaConfig;
use common::topics::Topic;
use tests::answer::{get, metric};
use tests::environment;
use tests::materials::{KEY_ID, Materials};
use tests::wait::until;

use crate::events::Events;
use crate::floor::{Stopwatch, Took};
use crate::process::Process;
use crate::usage::as_f64;

/// The name of the one source.
pub const SOURCE: &str = "acme";
/// How long one run may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// What all runs have in common.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Records in each run
    #[arg(long, default_value_t = 300_000)]
    pub records: u64,
    /// Bytes of each event's payload
    #[arg(long, default_value_t = 1024)]
    pub payload_bytes: usize,
    /// Partitions of each topic
    #[arg(long, default_value_t = 8)]
    pub partitions: u32,
    /// How often each contender runs
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A folder with keys, and a Kafka with the topics of one prefix.
pub struct Ground<'a> {
    /// See there.
    pub options: &'a Options,
    /// The folder.
    pub dir: &'a Path,
    /// What the topics' names begin with.
    pub prefix: String,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    materials: Materials,
    admin: Admin,
}

impl<'a> Ground<'a> {
    /// Makes keys.
    pub fn new(options: &'a Options, dir: &'a Path, prefix: &str, sinks: &[&str]) -> Result<Self> {
        let kafka = environment::kafka()?;
        let materials = Materials::create(dir, [SOURCE], sinks.iter().copied())?;
        let prefix = prefix.to_owned();
        Ok(Self { options, dir, prefix, admin: Admin::new(&kafka)?, kafka, materials })
    }

    /// Writes a processor's configuration, and makes its topics. It ends with the table of the one source, and goes on with `rest`.
    pub fn configure(&self, name: &str, admin: SocketAddr, rest: &str) -> Result<PathBuf> {
        let text = format!(
            r#"data.dir = "data-{name}"
admin.address = "{admin}"
kafka.bootstrap = "{}"
topics = {{ prefix = "{}", partitions = {}, danger_single_broker = true }}
[pipeline]
edge_keys = [{{ id = "edge-1", file = "secrets/edge-1.key" }}]
core_keys = [{{ id = "core-1", file = "secrets/core-1.key" }}]
id_keys = [{{ id = "id-1", file = "secrets/id-1.key" }}]
[source.{SOURCE}]
keys = [{{ id = "{KEY_ID}", file = "secrets/{SOURCE}.{KEY_ID}.key" }}]
{rest}"#,
            self.kafka.bootstrap, self.prefix, self.options.partitions
        );
        let path = self.dir.join(format!("{name}.toml"));
        std::fs::write(&path, text)?;
        let create = ["topics", "create", "--config"];
        let made = Command::new(environment::binary("sealstream")?).args(create).arg(&path).output()?;
        ensure!(made.status.success(), "creating topics: {}", String::from_utf8_lossy(&made.stderr));
        Ok(path)
    }

    /// The name of one of the pipeline's topics.
    pub fn topic(&self, role: &Topic) -> Result<String> {
        Ok(role.name(&self.prefix.parse()?))
    }

    /// Fills one of the pipeline's topics, which is there, with sealed events.
    pub async fn fill(&self, role: Topic) -> Result<()> {
        let Options { records, payload_bytes, partitions, .. } = *self.options;
        let key = self.materials.sealing_key(SOURCE)?;
        let body = |id: &str| {
            let mut payload = format!(r#"{{"id":"{id}","type":"order.paid","text":""#);
            payload.extend(std::iter::repeat_n('x', payload_bytes.saturating_sub(payload.len() + 2)));
            payload.push_str(r#""}"#);
            Ok(open::seal_native(&key, payload.as_bytes())?.body)
        };
        let source: SourceId = SOURCE.parse()?;
        let topic = self.topic(&role)?;
        Events { role, topic: &topic, partitions, source }.fill(&self.kafka, &self.materials, records, body).await
    }

    /// Makes a topic to be written to.
    pub async fn output(&self, name: &str) -> Result<String> {
        let name = format!("{}.out.{name}", self.prefix);
        make_topic(&self.admin, &name, self.options.partitions.try_into()?).await?;
        Ok(name)
    }

    /// Removes a topic.
    pub async fn remove(&self, topic: String) -> Result<()> {
        Ok(self.admin.delete(&[topic]).await?)
    }

    /// Removes every topic of a configuration.
    pub async fn remove_all(&self, config: &Path) -> Result<()> {
        let config = processor::config::Config::load(Some(config), std::iter::empty())?;
        let topics: Vec<_> = processor::topics::specs(&config).into_iter().map(|spec| spec.name).collect();
        Ok(self.admin.delete(&topics).await?)
    }

    /// Runs the loop that reads `input` and writes to a topic of this name. `words` say what it does with each record.
    pub async fn consume(&self, input: &Topic, name: &str, words: &[&str]) -> Result<Took> {
        let (input, output) = (self.topic(input)?, self.output(name).await?);
        let mut command = Command::new(environment::binary("floor")?);
        command.args(["consume", "--input", &input, "--output", &output]);
        command.args(["--records", &self.options.records.to_string()]);
        command.args(["--partitions", &self.options.partitions.to_string()]);
        command.args(words).arg("--dir").arg(self.dir);
        let took = took(&mut command)?;
        self.remove(output).await?;
        Ok(took)
    }

    /// Runs a processor until it has ended all records of a lane with an outcome. The time is from the first record that was
    /// counted to the last, as its own metrics say, looked at every 10 ms.
    pub async fn processor(&self, config: &Path, admin: SocketAddr, lane: &str, outcome: &str) -> Result<Took> {
        let mut command = Command::new(environment::binary("processor")?);
        command.arg("--config").arg(config);
        let processor = Process::start(&mut command, &config.with_extension("log"), admin).await?;
        let took = self.watch(processor.id(), admin, &[("lane", lane), ("outcome", outcome)]).await;
        let status = processor.stop()?;
        let took = took.with_context(|| format!("the log is in {}", self.dir.display()))?;
        ensure!(status.success(), "the processor ended with {status}");
        Ok(took)
    }

    async fn watch(&self, pid: u32, admin: SocketAddr, labels: &[(&str, &str)]) -> Result<Took> {
        let records = as_f64(self.options.records);
        let mut begun = None;
        until("the processor has ended every record", DEADLINE, async || {
            let ended = ended(admin, labels).await;
            if ended > 0.0 && begun.is_none() {
                begun = Some((Stopwatch::start(pid)?, ended));
            }
            let Some((begun, before)) = begun.as_ref().filter(|_| ended >= records) else { return Ok(None) };
            let took = begun.took()?;
            ensure!(*before < ended, "all records were ended before the first look: take more of them");
            // What was ended before the first look is not in the time.
            let share = records / (ended - before);
            Ok(Some(Took { seconds: took.seconds * share, cpu_seconds: took.cpu_seconds * share }))
        })
        .await
    }
}

/// How many records a processor has ended so; none before it is up.
pub async fn ended(admin: SocketAddr, labels: &[(&str, &str)]) -> f64 {
    let Ok((200, text)) = get(admin, "/metrics").await else { return 0.0 };
    metric(&text, "processor_records_total", labels)
}

/// Waits until processors have ended so many records together.
pub async fn until_ended(admins: &[SocketAddr], labels: &[(&str, &str)], records: u64) -> Result<()> {
    until("the processors have ended every record", DEADLINE, async || {
        let mut sum = 0.0;
        for admin in admins {
            sum += ended(*admin, labels).await;
        }
        Ok((sum >= as_f64(records)).then_some(()))
    })
    .await
}

/// Makes a topic as the product's are, with one copy.
pub async fn make_topic(admin: &Admin, name: &str, partitions: i32) -> Result<()> {
    let settings = BTreeMap::from([("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())]);
    admin.create(&TopicSpec { name: name.to_owned(), partitions, replication: 1, settings }).await?;
    Ok(())
}

/// Runs a floor to its end.
pub fn took(command: &mut Command) -> Result<Took> {
    let ran = tokio::task::block_in_place(|| command.stderr(Stdio::inherit()).output())?;
    ensure!(ran.status.success(), "the floor failed: {}", ran.status);
    Ok(serde_json::from_slice(&ran.stdout)?)
}
