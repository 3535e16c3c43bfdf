//! The faults: each a small function that does one round of harm, chosen by the seed, and leaves the mending to the
//! supervisor and the session.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use common::kafka::admin::Admin;
use common::kafka::client::KafkaConfig;
use common::kafka::consumer::ownerless;
use common::topics::{Group, Topic};
use nix::sys::signal::Signal;

use super::recorder::Temper;
use super::suite::{DEADLINE, HTTP, Suite};
use crate::seed::Seed;
use crate::wait::until;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A processor is killed at any moment, sometimes two at once.
    Kill,
    /// A processor kills itself at a named point.
    KillAt,
    /// An ingest is killed.
    KillIngest,
    /// A processor is stopped for longer than its session, and continued.
    Zombie,
    /// A processor's index folder is removed while it runs; every other time it is killed then.
    Wipe,
    /// A processor's index files are damaged while it is down.
    Damage,
    /// A processor leaves in order, the others take over, it comes back: two rebalances.
    Churn,
    /// Every processor in turn ends in order and starts again.
    Rolling,
    /// A broker is stopped and started: its leaders move away.
    BrokerRestart,
    /// A broker is killed and started.
    BrokerKill,
    /// A processor is cut off from the broker that coordinates its group, and from no other.
    CutOff,
    /// `events` is deleted and made anew while processors are down.
    Recreate,
    /// The sink answers 503 to all.
    Storm,
    /// The sink takes events and never answers.
    Hang,
    /// The sink takes events and cuts the connection.
    Reset,
    /// The sink takes a second for each answer.
    Slow,
}

/// The points at which a processor may kill itself, and at which pass at most.
const POINTS: [(&str, u64); 9] = [
    ("after_admit", 500),
    ("before_dispatch", 500),
    ("after_sink_answer", 500),
    ("before_commit", 60),
    ("after_commit_before_answer", 60),
    ("after_park_ack", 60),
    ("after_bury_ack", 1),
    ("in_revoke", 1),
    ("while_opening", 2),
];

impl Fault {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 16] = [
        Self::Kill,
        Self::KillAt,
        Self::KillIngest,
        Self::Zombie,
        Self::Wipe,
        Self::Damage,
        Self::Churn,
        Self::Rolling,
        Self::Storm,
        Self::Hang,
        Self::Reset,
        Self::Slow,
        Self::CutOff,
        Self::BrokerRestart,
        Self::BrokerKill,
        Self::Recreate,
    ];

    /// What it is called on the command line and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAt => "kill-at",
            Self::KillIngest => "kill-ingest",
            Self::Zombie => "zombie",
            Self::Wipe => "wipe",
            Self::Damage => "damage",
            Self::Churn => "churn",
            Self::Rolling => "rolling",
            Self::BrokerRestart => "broker-restart",
            Self::BrokerKill => "broker-kill",
            Self::CutOff => "cut-off",
            Self::Recreate => "recreate",
            Self::Storm => "storm",
            Self::Hang => "hang",
            Self::Reset => "reset",
            Self::Slow => "slow",
        }
    }

    /// Rounds and events of a short run.
    pub fn short(self) -> (usize, u64) {
        match self {
            Self::Kill => (8, 2000),
            Self::KillAt => (POINTS.len(), 1000),
            Self::KillIngest | Self::Wipe | Self::Damage => (3, 1000),
            Self::Zombie | Self::Churn | Self::Rolling | Self::Storm | Self::Hang | Self::Reset | Self::Slow => {
                (1, 1000)
            }
            Self::BrokerRestart | Self::BrokerKill | Self::CutOff | Self::Recreate => (1, 1000),
        }
    }

    /// Rounds and events of the long run.
    pub fn long(self) -> (usize, u64) {
        match self {
            Self::Kill => (160, 350_000),
            Self::KillAt => (5 * POINTS.len(), 80_000),
            Self::KillIngest => (20, 40_000),
            Self::Zombie => (20, 150_000),
            Self::Wipe => (32, 60_000),
            Self::Damage => (12, 30_000),
            Self::Churn => (12, 90_000),
            Self::Rolling => (4, 40_000),
            Self::Storm | Self::Hang | Self::Reset | Self::Slow => (4, 20_000),
            Self::BrokerRestart => (6, 60_000),
            Self::BrokerKill => (3, 40_000),
            Self::CutOff => (6, 40_000),
            Self::Recreate => (1, 0),
        }
    }

    /// Whether any process may be cut off by it without dying.
    pub fn cuts_off(self) -> bool {
        match self {
            Self::BrokerRestart | Self::BrokerKill => true,
            Self::Kill
            | Self::KillAt
            | Self::KillIngest
            | Self::Zombie
            | Self::Wipe
            | Self::Damage
            | Self::Churn
            | Self::Rolling
            | Self::Storm
            | Self::Hang
            | Self::Reset
            | Self::Slow
            | Self::CutOff
            | Self::Recreate => false,
        }
    }

    /// One round of it.
    pub async fn strike(self, suite: &mut Suite, round: usize) -> Result<()> {
        match self {
            Self::Kill => kill(suite).await,
            Self::KillAt => kill_at(suite, round).await,
            Self::KillIngest => kill_ingest(suite).await,
            Self::Zombie => zombie(suite).await,
            Self::Wipe => wipe(suite, round).await,
            Self::Damage => damage(suite).await,
            Self::Churn => churn(suite).await,
            Self::Rolling => rolling(suite).await,
            Self::BrokerRestart => broker(suite, false).await,
            Self::BrokerKill => broker(suite, true).await,
            Self::CutOff => cut_off(suite).await,
            // Not a blow to a load: see `recreation`.
            Self::Recreate => Ok(()),
            Self::Storm => storm(suite).await,
            Self::Hang => tempered(suite, |temper| Temper { hang: 100, ..temper }).await,
            Self::Reset => tempered(suite, |temper| Temper { reset: 100, ..temper }).await,
            Self::Slow => tempered(suite, |temper| Temper { delay_ms: 500..=1500, ..temper }).await,
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|fault| fault.as_str() == text)
            .ok_or_else(|| format!("no fault {text}: {}", names()))
    }
}

async fn some_work(suite: &mut Suite) -> Result<()> {
    let events = suite.seed.within(50..=400);
    suite.work(events).await
}

/// Waits until requests are being answered, so that a death meets some.
async fn busy(suite: &mut Suite) -> Result<()> {
    let enough = 8.min(suite.setup.concurrency / 2);
    suite.until("the sink is busy", DEADLINE, |suite| Ok(suite.recorder.in_flight() >= enough)).await
}

/// Waits until each sink's group has a member for every partition of `events`: what is gained from now on is gained because of
/// what is done now.
async fn shared_out(suite: &mut Suite) -> Result<()> {
    let config = suite.stack.config();
    let (prefix, partitions) = (config.topics.prefix.clone(), config.topics.partitions.cast_signed());
    let groups: Vec<_> = config.sink.keys().map(|sink| Group::Deliver(sink.clone()).name(&prefix)).collect();
    let (kafka, topic) = (suite.stack.kafka().clone(), Topic::Events.name(&prefix));
    until("every partition of events has an owner", DEADLINE, async || {
        suite.supervise()?;
        for group in groups.clone() {
            let (kafka, topic) = (kafka.clone(), topic.clone());
            let look = move || ownerless(&kafka, &group, &topic, partitions);
            // A broker that does not answer is asked again.
            if !tokio::task::spawn_blocking(look).await?.ok().flatten().is_some_and(|found| found.is_empty()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn kill(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    busy(suite).await?;
    let victim = suite.any();
    suite.kill(victim).await?;
    let second = suite.any();
    if suite.seed.choose(4) == 0 && second != victim {
        suite.kill(second).await?;
        suite.up(second)?;
    }
    suite.up(victim)
}

async fn kill_at(suite: &mut Suite, round: usize) -> Result<()> {
    let (point, passes) = POINTS[round % POINTS.len()];
    some_work(suite).await?;
    let victim = suite.any();
    let pass = suite.seed.within(1..=passes);
    suite.stop(victim).await?;
    let before = suite.tally.kills;
    let mut own = Gains::of(suite, victim);
    suite.up_to_die(victim, point, pass)?;
    if point == "in_revoke" {
        some_work(suite).await?;
        // Before, it would end by the signal itself.
        suite.until("the one that is to leave has partitions", DEADLINE, move |_| own.any()).await?;
        suite.signal(victim, Signal::SIGTERM)?;
    }
    let what = format!("processor-{victim} has killed itself {point} (pass {pass})");
    suite.until(&what, DEADLINE, |suite| Ok(suite.tally.kills > before)).await
}

async fn kill_ingest(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    let victim = suite.seed.choose(suite.setup.ingests);
    suite.kill_ingest(victim).await
}

/// Whether processors have gained partitions of `events` since they were looked at first.
pub(super) struct Gains(Vec<(PathBuf, u64)>);

impl Gains {
    fn of_others(suite: &Suite, but: usize) -> Self {
        let others = (0..suite.setup.processors).filter(|number| *number != but).map(|number| suite.journal(number));
        Self(
            others
                .map(|path| (fs::metadata(&path).map_or(0, |metadata| metadata.len()), path))
                .map(|(n, p)| (p, n))
                .collect(),
        )
    }

    /// Of one processor.
    pub(super) fn of(suite: &Suite, number: usize) -> Self {
        let journal = suite.journal(number);
        let length = fs::metadata(&journal).map_or(0, |metadata| metadata.len());
        Self(vec![(journal, length)])
    }

    pub(super) fn any(&mut self) -> Result<bool> {
        self.noted("G ")
    }

    /// Whether a commit for one of them was acknowledged since: the coordinator agrees that they are whose they seem.
    fn committed(&mut self) -> Result<bool> {
        self.noted("C ")
    }

    fn noted(&mut self, kind: &str) -> Result<bool> {
        for (path, position) in &mut self.0 {
            let Ok(mut file) = fs::File::open(&path) else { continue };
            file.seek(SeekFrom::Start(*position))?;
            let mut new = String::new();
            file.read_to_string(&mut new)?;
            // A line may be half written yet: it is read again.
            let whole = new.rfind('\n').map_or(0, |end| end + 1);
            *position += whole as u64;
            // A rebalance may give a member nothing.
            let counts =
                |line: &&str| line.starts_with(kind) && line.contains(".events ") && !line.ends_with(".events 0");
            if new[..whole].lines().any(|line| counts(&line)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn others_take_over(suite: &mut Suite, mut gains: Gains) -> Result<()> {
    suite.until("the others have taken over", DEADLINE, move |_| gains.any()).await
}

/// Waits until one whose partitions were taken over has some again: the next round has nothing to take from it before.
/// An assignment alone doesn't tell: it may come later than the session that it belongs to has lasted.
async fn comes_back(suite: &mut Suite, mut own: Gains) -> Result<()> {
    let mut has = false;
    let back = move |_: &mut Suite| {
        has = has || own.any()?;
        Ok(has && own.committed()?)
    };
    suite.until("the one that came back has partitions, and commits", DEADLINE, back).await
}

async fn zombie(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    shared_out(suite).await?;
    busy(suite).await?;
    let victim = suite.any();
    let gains = Gains::of_others(suite, victim);
    suite.crashed(victim);
    suite.signal(victim, Signal::SIGSTOP)?;
    suite.tally.zombies += 1;
    let took_over = others_take_over(suite, gains).await;
    let worked = some_work(suite).await;
    let own = Gains::of(suite, victim);
    suite.signal(victim, Signal::SIGCONT)?;
    took_over.and(worked)?;
    some_work(suite).await?;
    comes_back(suite, own).await
}

async fn wipe(suite: &mut Suite, round: usize) -> Result<()> {
    some_work(suite).await?;
    let victim = suite.any();
    remove(&suite.index_dir(victim))?;
    suite.tally.wipes += 1;
    some_work(suite).await?;
    if round.is_multiple_of(2) {
        suite.kill(victim).await?;
        suite.up(victim)?;
    }
    Ok(())
}

/// Removes a folder in which somebody may be writing.
fn remove(dir: &Path) -> Result<()> {
    const TRIES: usize = 50;
    for _ in 1..TRIES {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A file was made meanwhile.
            Err(_) => {}
        }
    }
    Ok(fs::remove_dir_all(dir)?)
}

async fn damage(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    let victim = suite.any();
    suite.kill(victim).await?;
    let files = files_below(&suite.index_dir(victim))?;
    for file in &files {
        spoil(file, &mut suite.seed)?;
    }
    suite.tally.damages += usize::from(!files.is_empty());
    suite.up(victim)
}

/// Flips bits of a file, or cuts it short.
fn spoil(path: &Path, seed: &mut Seed) -> Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(());
    }
    if seed.choose(3) == 0 {
        return Ok(file.set_len(seed.within(0..=length - 1))?);
    }
    for _ in 0..seed.within(1..=20) {
        let at = seed.within(0..=length - 1);
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        byte[0] ^= 1 << seed.choose(8);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&byte)?;
    }
    Ok(())
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

async fn churn(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    shared_out(suite).await?;
    busy(suite).await?;
    let victim = suite.any();
    let gains = Gains::of_others(suite, victim);
    suite.stop(victim).await?;
    others_take_over(suite, gains).await?;
    some_work(suite).await?;
    let own = Gains::of(suite, victim);
    suite.up(victim)?;
    comes_back(suite, own).await
}

async fn rolling(suite: &mut Suite) -> Result<()> {
    for number in 0..suite.setup.processors {
        some_work(suite).await?;
        busy(suite).await?;
        suite.stop(number).await?;
        suite.up(number)?;
    }
    Ok(())
}

async fn broker(suite: &mut Suite, kill: bool) -> Result<()> {
    some_work(suite).await?;
    let number = 1 + suite.seed.choose(3);
    let brokers = suite.brokers.clone();
    if kill {
        brokers.kill_one(number).await?;
        suite.tally.broker_kills += 1;
    } else {
        brokers.stop_one(number).await?;
        suite.tally.broker_restarts += 1;
    }
    let worked = some_work(suite).await;
    brokers.start_one(number).await?;
    worked?;
    some_work(suite).await
}

async fn cut_off(suite: &mut Suite) -> Result<()> {
    let proxies = suite.proxies.clone().context("this stack has no proxies")?;
    some_work(suite).await?;
    shared_out(suite).await?;
    busy(suite).await?;
    let victim = suite.proxied();
    let group = Group::Deliver(HTTP.parse()?).name(&suite.stack.config().topics.prefix);
    let coordinator = coordinator(suite.stack.kafka(), &group).await?;
    let gains = Gains::of_others(suite, victim);
    suite.crashed(victim);
    proxies.cut(coordinator, true);
    suite.tally.cut_offs += 1;
    let took_over = others_take_over(suite, gains).await;
    let worked = some_work(suite).await;
    let own = Gains::of(suite, victim);
    proxies.cut(coordinator, false);
    took_over.and(worked)?;
    some_work(suite).await?;
    comes_back(suite, own).await
}

/// The number of the broker that coordinates a group: the leader of the partition of the offsets topic that Kafka
/// chooses by the group's hash.
async fn coordinator(kafka: &KafkaConfig, group: &str) -> Result<usize> {
    let admin = Admin::new(kafka)?;
    let leaders = tokio::task::spawn_blocking(move || admin.leaders("__consumer_offsets")).await??;
    let hash = group.chars().fold(0_i32, |hash, c| hash.wrapping_mul(31).wrapping_add(c as i32));
    let partition = usize::try_from(hash.checked_abs().unwrap_or(0))? % leaders.len();
    Ok(usize::try_from(leaders[partition])?)
}

async fn storm(suite: &mut Suite) -> Result<()> {
    some_work(suite).await?;
    let before = suite.recorder.behave(Temper { fail: 0, busy: 1000, ..suite.setup.temper.clone() });
    let enough = suite.recorder.requests() + 300;
    let clock = common::clock::Clock::system();
    // A breaker sends a few probes only.
    let end = clock.monotonic() + Duration::from_secs(8);
    let raged = suite
        .until("the storm was felt", DEADLINE, |suite| {
            Ok(suite.recorder.requests() >= enough || clock.monotonic() > end)
        })
        .await;
    suite.recorder.behave(before);
    raged?;
    some_work(suite).await
}

async fn tempered(suite: &mut Suite, change: impl FnOnce(Temper) -> Temper) -> Result<()> {
    some_work(suite).await?;
    let before = suite.recorder.behave(change(suite.setup.temper.clone()));
    let events = suite.seed.within(200..=400);
    let worked = suite.work(events).await;
    suite.recorder.behave(before);
    worked
}
