//! `sealstream topics`: makes the topics of a deployment with the settings that the promise rests on, and checks them.
//!
//! Making them also commits the first offsets of every group, so that an offset that expired later is never taken for a
//! group that is new. Both can be repeated: what is there is left as it is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use common::clock::Clock;
use common::config::environment;
use common::kafka::admin::{Admin, AdminError, TopicSpec, TopicState};
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::commit_first;
use processor::checks::{self, Inspection};
use processor::config::{Config, SinkKind};
use processor::topics::{Finding, specs};

use crate::{Verdict, say};

/// How long a topic that was just made may take to be known by every broker, and to have leaders.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
const SETTLE_POLL: Duration = Duration::from_millis(200);

/// What can be done to topics.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make what is missing, and commit the first offsets of every group
    Create {
        /// As for `check`.
        #[command(flatten)]
        args: Args,
        /// Make the output topics of Kafka sinks too, with their cluster's settings
        #[arg(long)]
        outputs: bool,
    },
    /// Compare topics and groups with what the configuration wants
    Check(#[command(flatten)] Args),
}

/// Options of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The processor's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What [`create`] did.
#[derive(Debug, Default)]
pub struct Created {
    /// Topics that were made.
    pub made: Vec<String>,
    /// Topics that were there.
    pub there: usize,
    /// Groups with the number of their partitions that got a first offset.
    pub groups: Vec<(String, usize)>,
}

/// Runs `topics`.
pub async fn run(command: &Command) -> Result<Verdict> {
    match command {
        Command::Create { args, outputs } => {
            let config = load(args)?;
            let created = create(&config, *outputs).await?;
            let Inspection { findings, warnings } = inspect(&config).await?;
            if args.json {
                let groups: serde_json::Map<_, _> =
                    created.groups.into_iter().map(|(group, count)| (group, count.into())).collect();
                let (made, there) = (created.made, created.there);
                say::json(
                    &serde_json::json!({ "made": made, "there": there, "first_offsets": groups, "findings": json(&findings), "warnings": json(&warnings) }),
                );
            } else {
                tell_created(&created);
                tell_findings(&findings, &warnings);
            }
            Ok(Verdict::good_if(findings.is_empty()))
        }
        Command::Check(args) => {
            let Inspection { findings, warnings } = inspect(&load(args)?).await?;
            if args.json {
                say::json(&serde_json::json!({ "findings": json(&findings), "warnings": json(&warnings) }));
            } else if warnings.is_empty() && findings.is_empty() {
                say::line(format_args!(
                    "{}: topics and groups are as they should be",
                    say::Paint::for_stdout().good("good")
                ));
            } else {
                tell_findings(&findings, &warnings);
            }
            Ok(Verdict::good_if(findings.is_empty()))
        }
    }
}

fn load(args: &Args) -> Result<Config> {
    Ok(Config::load(Some(&args.config), environment())?)
}

/// Makes every topic that is missing, then commits the first offsets of every group that has none.
pub async fn create(config: &Config, outputs: bool) -> Result<Created> {
    let admin = Admin::new(&config.kafka)?;
    let mut created = Created::default();
    for spec in specs(config) {
        make(&admin, &spec, &mut created).await?;
        known(&admin, &spec.name).await?;
    }
    if outputs {
        for (cluster, spec) in output_specs(config) {
            make(&Admin::new(cluster)?, &spec, &mut created).await?;
        }
    }
    let prefix = &config.topics.prefix;
    for (group, topics) in config.groups() {
        let group = group.name(prefix);
        let mut count = 0;
        for topic in topics {
            count += first_offsets(config, &group, &topic.name(prefix)).await?;
        }
        created.groups.push((group, count));
    }
    Ok(created)
}

/// What is wrong with the topics and the groups of a deployment, as a processor sees it when it starts.
pub async fn inspect(config: &Config) -> Result<Inspection> {
    checks::inspect(config).await.with_context(|| format!("Kafka at {}", config.kafka.bootstrap))
}

/// The output topics of Kafka sinks, with the cluster that each lies in.
fn output_specs(config: &Config) -> impl Iterator<Item = (&KafkaConfig, TopicSpec)> {
    let replication = if config.topics.danger_single_broker { 1 } else { config.topics.replication };
    let sinks = config.sink.values().filter(|sink| sink.kind == SinkKind::Kafka);
    sinks.map(move |sink| {
        let spec = TopicSpec {
            name: sink.topic.clone(),
            partitions: partitions(config),
            replication: i32::try_from(replication).expect("a checked configuration holds small numbers"),
            settings: [("max.message.bytes".to_owned(), common::limits::RECORD_BYTES_MAX.to_string())].into(),
        };
        (config.sink_cluster(sink), spec)
    })
}

fn partitions(config: &Config) -> i32 {
    i32::try_from(config.topics.partitions).expect("a checked configuration holds small numbers")
}

async fn make(admin: &Admin, spec: &TopicSpec, created: &mut Created) -> Result<()> {
    match admin.create(spec).await {
        Ok(true) => created.made.push(spec.name.clone()),
        Ok(false) => created.there += 1,
        Err(error) => {
            let brokers = blocking(|| admin.cluster()).map(|(_, brokers)| brokers).unwrap_or(0);
            let copies = usize::try_from(spec.replication).unwrap_or(0);
            let hint = match &error {
                AdminError::Topic { .. } if (1..copies).contains(&brokers) => format!(
                    ": {copies} copies are wanted and the cluster has {brokers} broker(s) now; add brokers, or lower topics.replication, \
                     or for development say topics.danger_single_broker"
                ),
                AdminError::Client(_) | AdminError::Kafka(_) | AdminError::Topic { .. } => String::new(),
            };
            return Err(error).with_context(|| format!("making the topic {}{hint}", spec.name));
        }
    }
    Ok(())
}

/// Waits until a topic that was made is known.
async fn known(admin: &Admin, topic: &str) -> Result<TopicState> {
    poll(
        || format!("the topic {topic} was made and is not known yet"),
        async || admin.describe(topic).await?.with_context(|| format!("there is no topic {topic}")),
    )
    .await
}

/// Commits a group's first offsets, once the partitions have leaders.
async fn first_offsets(config: &Config, group: &str, topic: &str) -> Result<usize> {
    poll(
        || format!("the first offsets of {group}"),
        async || Ok(blocking(|| commit_first(&config.kafka, group, topic, partitions(config)))?),
    )
    .await
}

/// Asks again until it succeeds or the deadline has passed.
async fn poll<T>(what: impl Fn() -> String, ask: impl AsyncFn() -> Result<T>) -> Result<T> {
    let clock = Clock::system();
    let deadline = clock.monotonic() + SETTLE_DEADLINE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if clock.monotonic() >= deadline => return Err(error).with_context(&what),
            Err(error) => tracing::debug!(%error, "asking again"),
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// A call that blocks, from the runtime's own thread: nothing else waits for it.
fn blocking<T>(call: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(call)
}

fn json(findings: &[Finding]) -> Vec<serde_json::Value> {
    let one = |finding: &Finding| serde_json::json!({ "topic": finding.topic, "wrong": finding.wrong, "remedy": finding.remedy });
    findings.iter().map(one).collect()
}

fn tell_created(created: &Created) {
    let paint = say::Paint::for_stdout();
    for topic in &created.made {
        say::line(format_args!("{} {topic}", paint.good("made")));
    }
    let offsets: usize = created.groups.iter().map(|(_, count)| count).sum();
    say::line(format_args!(
        "{} topics made, {} were there; {offsets} first offsets committed for {} groups",
        created.made.len(),
        created.there,
        created.groups.len()
    ));
}

fn tell_findings(findings: &[Finding], warnings: &[Finding]) {
    let paint = say::Paint::for_stdout();
    let findings = findings.iter().map(|finding| (paint.bad("wrong").to_string(), finding));
    let warnings = warnings.iter().map(|warning| ("look".to_owned(), warning));
    for (mark, finding) in findings.chain(warnings) {
        say::line(format_args!("{mark} topic {}: {}\n      {}", finding.topic, finding.wrong, finding.remedy));
    }
}
