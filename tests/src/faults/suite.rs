//! A stack with everything that watches it, and the supervisor that starts again what died.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::clock::Clock;
use common::record::Dead;
use common::shutdown::Group;
use common::topics::Topic;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::checker::{History, SinkSaw};
use super::journal::{Journals, event_id, of_webhook_id};
use super::proxy::Proxies;
use super::recorder::{Recorder, Temper};
use super::sending::{SOURCES, Senders};
use crate::broker::OwnBroker;
use crate::node::Node;
use crate::plan::Plan;
use crate::seed::Seed;
use crate::stack::Stack;
use crate::topic;

/// The HTTP sink.
pub const HTTP: &str = "main";
/// The Kafka sink.
pub const KAFKA: &str = "out";

/// How long work may stand still.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// How long everything that was accepted may take to be committed.
const SETTLED_DEADLINE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// What is to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Begins the topics' names.
    pub name: &'static str,
    /// Processors.
    pub processors: usize,
    /// Ingests.
    pub ingests: usize,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Permits of each sink and lane.
    pub permits: usize,
    /// Dispatches at once, of those.
    pub concurrency: usize,
    /// How often progress is committed.
    pub commit_interval: &'static str,
    /// How the HTTP sink behaves.
    pub temper: Temper,
    /// Whether there is a Kafka sink too.
    pub kafka_sink: bool,
    /// Whether the last processor reaches the brokers through proxies. One stack at a time may have that.
    pub proxied: bool,
    /// The rule that is broken, if any.
    pub control: Option<&'static str>,
}

impl Setup {
    /// The whole deployment: three processors, two ingests, two sinks.
    pub fn whole() -> Self {
        Self {
            name: "faults",
            processors: 3,
            ingests: 2,
            partitions: 6,
            permits: 256,
            concurrency: 64,
            commit_interval: "20ms",
            temper: Temper::default(),
            kafka_sink: true,
            proxied: true,
            control: None,
        }
    }

    /// Two processors and the HTTP sink alone: for what needs a stack of its own.
    pub fn small(name: &'static str) -> Self {
        Self {
            name,
            processors: 2,
            ingests: 0,
            permits: 64,
            concurrency: 32,
            temper: Temper { fail: 120, ..Temper::default() },
            kafka_sink: false,
            proxied: false,
            ..Self::whole()
        }
    }
}

/// What was done, summed over a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// `kill -9` of processors, at random and at named points.
    pub kills: usize,
    /// `kill -9` of ingests.
    pub ingest_kills: usize,
    /// Processes stopped for longer than their session and continued.
    pub zombies: usize,
    /// Index folders removed while their processor ran.
    pub wipes: usize,
    /// Index folders damaged while their processor was down.
    pub damages: usize,
    /// Times that living processors gained or gave up partitions.
    pub rebalances: usize,
    /// Processors cut off from the broker that coordinates their group.
    pub cut_offs: usize,
    /// Brokers stopped and started.
    pub broker_restarts: usize,
    /// Brokers killed and started.
    pub broker_kills: usize,
    /// Processes that ended themselves in doubt.
    pub doubts: usize,
}

/// See the module.
pub struct Suite {
    /// The brokers.
    pub brokers: Arc<OwnBroker>,
    /// What runs.
    pub stack: Stack,
    /// What was asked for.
    pub setup: Setup,
    /// The HTTP sink.
    pub recorder: Recorder,
    /// What sends.
    pub senders: Arc<Senders>,
    /// This run's randomness.
    pub seed: Seed,
    /// What was done so far.
    pub tally: Tally,
    /// Between the last processor and the brokers.
    pub proxies: Option<Proxies>,
    /// The number of the next event.
    pub next: u64,
    crashes: Vec<(usize, i32)>,
    pids: Vec<Option<i32>>,
    down: Vec<bool>,
    journals: Journals,
    output: Vec<i64>,
    dead: Vec<i64>,
    tasks: Group,
}

impl Suite {
    /// Starts everything.
    pub async fn start(brokers: Arc<OwnBroker>, setup: Setup, mut seed: Seed) -> Result<Self> {
        let tasks = Group::new();
        let recorder = Recorder::start(&tasks, setup.temper.clone(), seed.fork()).await?;
        let sinks: &[&'static str] = if setup.kafka_sink { &[HTTP, KAFKA] } else { &[HTTP] };
        let mut plan = Plan::new(setup.name)
            .kafka(brokers.kafka())
            .copies(3)
            .partitions(setup.partitions)
            .ingests(setup.ingests)
            .processors(setup.processors)
            .processor_binary("processor-faults")
            .permits(setup.permits)
            .concurrency(setup.concurrency)
            .attempts_max(50)
            .supervised()
            .variable("PROCESSOR__GROUP__COMMIT_INTERVAL", setup.commit_interval)
            .variable("PROCESSOR__LOG__LEVEL", "info");
        if let Some(control) = setup.control {
            plan = plan.variable("SEALSTREAM_CONTROL", control);
        }
        for source in SOURCES {
            plan = plan.source(source, sinks);
        }
        plan = plan.elsewhere(HTTP, recorder.url());
        if setup.kafka_sink {
            plan = plan.output(KAFKA);
        }
        let mut stack = Stack::prepare(plan).await?;
        recorder.trust(stack.materials().sink_key(HTTP)?);
        let dir = stack.dir().to_owned();
        let journal = |number: usize| dir.join(format!("journal-{number}"));
        for number in 0..setup.processors {
            let node = stack.processor(number);
            node.set("PROCESSOR__DATA__DIR", Some(dir.join(format!("data-{number}")).display().to_string()));
            node.set("SEALSTREAM_JOURNAL", Some(journal(number).display().to_string()));
        }
        let proxies = match setup.proxied {
            true => Some(Proxies::start(&tasks, brokers.proxied()).await?),
            false => None,
        };
        if let Some(proxies) = &proxies {
            let last = stack.processor(setup.processors - 1);
            last.set("PROCESSOR__KAFKA__BOOTSTRAP", Some(proxies.bootstrap()));
        }
        stack.start_nodes().await?;
        let senders = Arc::new(Senders::new(&stack, setup.ingests)?);
        let partitions = setup.partitions as usize;
        let mut suite = Self {
            brokers,
            recorder,
            senders,
            seed,
            tally: Tally::default(),
            proxies,
            next: 0,
            crashes: Vec::new(),
            pids: Vec::new(),
            down: vec![false; setup.processors + setup.ingests],
            journals: Journals::new((0..setup.processors).map(journal)),
            output: vec![0],
            dead: vec![0; partitions],
            tasks,
            stack,
            setup,
        };
        suite.pids = (0..suite.setup.processors).map(|number| suite.pid(number)).collect();
        Ok(suite)
    }

    fn pid(&mut self, number: usize) -> Option<i32> {
        self.stack.processor(number).pid().map(nix::unistd::Pid::as_raw)
    }

    /// A processor's index on disk.
    pub fn index_dir(&self, number: usize) -> PathBuf {
        self.stack.dir().join(format!("data-{number}")).join("0").join("index")
    }

    /// A processor's journal.
    pub fn journal(&self, number: usize) -> PathBuf {
        self.stack.dir().join(format!("journal-{number}"))
    }

    /// Notes that a processor died or is cut off now.
    pub fn crashed(&mut self, number: usize) {
        if let Some(pid) = self.pids[number] {
            self.crashes.push((number, pid));
        }
    }

    /// The processor that reaches the brokers through proxies.
    pub fn proxied(&self) -> usize {
        self.setup.processors - 1
    }

    /// One of the processors.
    pub fn any(&mut self) -> usize {
        self.seed.choose(self.setup.processors)
    }

    /// Kills a processor; it stays down.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        self.supervise()?;
        self.crashed(number);
        self.down[number] = true;
        self.tally.kills += 1;
        self.stack.processor(number).kill().await
    }

    /// Asks a processor to end; it stays down. No crash: nothing may be repeated for it.
    pub async fn stop(&mut self, number: usize) -> Result<()> {
        self.supervise()?;
        self.down[number] = true;
        self.stack.processor(number).stop().await
    }

    /// Starts a processor that is down.
    pub fn up(&mut self, number: usize) -> Result<()> {
        self.down[number] = false;
        self.stack.processor(number).start()?;
        self.pids[number] = self.pid(number);
        Ok(())
    }

    /// Starts a processor that is down, to kill itself at a point.
    pub fn up_to_die(&mut self, number: usize, point: &str, pass: u64) -> Result<()> {
        self.stack.processor(number).set("SEALSTREAM_KILL_AT", Some(format!("{point}:{pass}")));
        self.up(number)
    }

    /// Sends a processor a signal.
    pub fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        self.stack.processor(number).signal(signal)
    }

    /// Starts again what ended by itself in a way that it may.
    pub fn supervise(&mut self) -> Result<()> {
        for number in 0..self.setup.processors {
            if self.down[number] {
                continue;
            }
            if let Some(status) = self.stack.processor(number).ended()? {
                self.crashed(number);
                match (std::os::unix::process::ExitStatusExt::signal(&status), status.code()) {
                    (Some(signal), _) if signal == Signal::SIGKILL as i32 => self.tally.kills += 1,
                    // In doubt, or Kafka did not answer while it started.
                    (None, Some(70 | 69)) => self.tally.doubts += 1,
                    (Some(_) | None, _) => bail!("processor-{number} ended by itself, with {status}"),
                }
                self.stack.processor(number).set("SEALSTREAM_KILL_AT", None);
                self.up(number)?;
            }
        }
        for number in 0..self.setup.ingests {
            if let Some(status) = self.stack.ingest(number).ended()? {
                bail!("ingest-{number} ended by itself, with {status}");
            }
        }
        Ok(())
    }

    /// Kills an ingest and starts it again.
    pub async fn kill_ingest(&mut self, number: usize) -> Result<()> {
        self.tally.ingest_kills += 1;
        let node: &mut Node = self.stack.ingest(number);
        node.kill().await?;
        node.start()
    }

    /// Supervises until something is so. `what` completes the sentence "waited in vain until …".
    pub async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut holds: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let clock = Clock::system();
        let end = clock.monotonic() + deadline;
        loop {
            self.supervise()?;
            if holds(self)? {
                return Ok(());
            }
            ensure!(clock.monotonic() < end, "waited {} s in vain until {what}", deadline.as_secs());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until so many more events are at the HTTP sink.
    pub async fn work(&mut self, events: u64) -> Result<()> {
        let enough = self.recorder.events() + usize::try_from(events)?;
        let what = format!("{events} more events are at the sink");
        self.until(&what, DEADLINE, |suite| Ok(suite.recorder.events() >= enough)).await
    }

    /// Starts what is down, and lets the sink behave as it was told at first.
    pub fn mend(&mut self) -> Result<()> {
        self.recorder.behave(self.setup.temper.clone());
        self.proxies.iter().for_each(Proxies::mend);
        for number in 0..self.setup.processors {
            self.stack.processor(number).set("SEALSTREAM_KILL_AT", None);
            if self.down[number] {
                self.up(number)?;
            }
        }
        Ok(())
    }

    /// Waits until the groups have committed everything that is in their topics.
    pub async fn settled(&mut self) -> Result<()> {
        let clock = Clock::system();
        let end = clock.monotonic() + SETTLED_DEADLINE;
        let mut before = None;
        loop {
            self.supervise()?;
            let mut open = String::new();
            // A look that fails is one that Kafka did not answer: the next one tells.
            let ends = self.stack.ends(&mut open).await;
            if let Ok(ends) = &ends
                && open.is_empty()
                && before.as_ref() == Some(ends)
            {
                return Ok(());
            }
            ensure!(
                clock.monotonic() < end,
                "waited {} s in vain until everything is committed; the last look: {}",
                SETTLED_DEADLINE.as_secs(),
                ends.as_ref().err().map_or(open, |error| format!("{error:#}"))
            );
            before = ends.ok();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything that was seen since this was asked last, when the events `first..self.next` were acknowledged.
    pub async fn history(&mut self, first: u64) -> Result<History> {
        let (effects, violations) = self.recorder.take();
        ensure!(violations.is_empty(), "the sink got what it must not get: {violations:?}");
        let mut sinks = vec![SinkSaw { name: HTTP.to_owned(), effects, ..SinkSaw::default() }];
        let kafka = self.stack.kafka().clone();
        if self.setup.kafka_sink {
            let topic = self.stack.output_topic(KAFKA);
            let read = topic::follow(&kafka, &topic, std::mem::take(&mut self.output), |record| {
                of_webhook_id(record.header("ce_webhookid").context("a record without ce_webhookid")?)
            });
            let (ids, positions) = read.await?;
            self.output = positions;
            let mut saw = SinkSaw { name: KAFKA.to_owned(), rewrites: true, ..SinkSaw::default() };
            ids.into_iter().for_each(|id| *saw.effects.entry(id).or_default() += 1);
            sinks.push(saw);
        }
        let keys = self.stack.materials().core_keys()?;
        let topic = self.stack.topic_name(&Topic::Dead);
        let read = topic::follow(&kafka, &topic, std::mem::take(&mut self.dead), move |record| {
            let Dead::Letter { head, failure } = keys.open_dead(record.headers(), &record.value)? else {
                bail!("a marker, though nothing is redriven here");
            };
            let of = head.and_then(|head| Some((head.retry?.sink.to_string(), head.identity?.id.0)));
            of.with_context(|| format!("a letter of no sink: {failure:?}"))
        });
        let (letters, positions) = read.await?;
        self.dead = positions;
        for (name, id) in letters {
            let saw = sinks.iter_mut().find(|saw| saw.name == name).context("a letter of an unknown sink")?;
            saw.dead.insert(event_id(&id)?);
        }
        let acked = (first..self.next).map(|number| self.senders.id(number)).collect();
        let journal = self.journals.read()?;
        self.tally.rebalances += rebalances(&journal);
        Ok(History {
            acked,
            sinks,
            journal,
            crashes: std::mem::take(&mut self.crashes),
            cut_off: false,
            permits: self.setup.permits,
        })
    }

    /// Ends everything and removes the topics; with `keep`, logs and journals stay.
    pub async fn end(self, keep: bool) -> Result<()> {
        let Self { stack, senders, tasks, .. } = self;
        stack.close(keep).await?;
        tasks.cancel();
        // Dropping a producer blocks.
        Ok(tokio::task::spawn_blocking(move || drop(senders)).await?)
    }
}

/// How often living members of the HTTP sink's group gained or gave up partitions. What several of them did within 2 s is
/// one rebalance; what a process does first and last in its life is none.
fn rebalances(journal: &super::journal::Journal) -> usize {
    use super::journal::What;
    const TOGETHER: u64 = 2_000_000_000;
    let of_group = |lane: usize| journal.lanes[lane].0 == HTTP && journal.lanes[lane].1.ends_with(".events");
    let mut last = std::collections::HashMap::new();
    for entry in &journal.entries {
        last.insert(entry.life, entry.at);
    }
    let mut seen = std::collections::HashSet::new();
    let (mut count, mut until) = (0, 0);
    for entry in &journal.entries {
        let moved = match &entry.what {
            What::Gained(lane) => of_group(*lane) && !seen.insert(entry.life),
            What::Left(lane) => of_group(*lane) && last[&entry.life] != entry.at,
            What::Started(_) | What::Answered { .. } | What::Committed { .. } => false,
        };
        if moved && entry.at >= until {
            count += 1;
            until = entry.at + TOGETHER;
        }
    }
    count
}
