//! The conservation check: of each partition that a group reads, `end - start = completed by outcome + open`.
//!
//! All of it is asked of Kafka: the processors may run or not, and one that was killed leaves nothing that is missing here. A
//! commit is read by the code that the processors go on with, [`Progress`], so the audit says what they would. The judging is
//! pure ([`judge`]); this file also does the asking, and changes nothing.
//!
//! The equation is exact at every moment, because a commit is one value: offset, completed offsets and counts. Between topics
//! nothing is exact while something is under way, and what a crash wrote twice is counted once: there, topics have *at least*
//! what was counted ([`Flow`]).

use common::kafka::consumer::{Edge, GroupOffsets, log_edges};
use common::topics::{Group, Topic};

use crate::checks::CheckError;
use crate::config::Config;
use crate::core::progress::{Progress, WINDOW_MAX};
use crate::core::tally::{Completion, Tally};
use crate::outcome::Outcome;

/// What was found.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Of every group.
    pub groups: Vec<GroupAccount>,
    /// Between topics.
    pub flows: Vec<Flow>,
}

impl Audit {
    /// Whether every equation holds.
    pub fn holds(&self) -> bool {
        self.groups.iter().all(GroupAccount::holds) && self.flows.iter().all(Flow::holds)
    }

    /// Offsets that no group has completed yet.
    pub fn open(&self) -> i64 {
        self.groups.iter().map(|group| open(&group.partitions)).sum()
    }
}

/// What one group did.
#[derive(Debug, Clone)]
pub struct GroupAccount {
    /// It.
    pub group: Group,
    /// Its name in Kafka.
    pub name: String,
    /// Every partition that it reads, topic by topic.
    pub partitions: Vec<Account>,
}

impl GroupAccount {
    /// Whether the equation of each partition holds.
    pub fn holds(&self) -> bool {
        self.partitions.iter().all(|account| account.wrong.is_none())
    }
}

/// The account of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its topic's name in Kafka.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// One past the log's last offset.
    pub end: i64,
    /// What the group's commit counts. `None` where it has none that can be read.
    pub counted: Option<Counted>,
    /// Why the equation does not hold, if it does not.
    pub wrong: Option<Wrong>,
}

/// What a commit counts, as a processor would take it up now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The committed offset.
    pub committed: i64,
    /// How offsets became complete, from [`Tally::start`] on.
    pub tally: Tally,
    /// Of those that expired, how many no processor has counted yet: retention took them before they were complete.
    pub just_expired: u64,
    /// Offsets below the end that are not complete.
    pub open: i64,
}

/// Why the equation of a partition does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The operator's affair.
    #[error("the group has no committed offset there; `sealstream topics create` commits first offsets")]
    NotCommitted,
    /// Committed by another version, or by hand.
    #[error("what is committed at offset {committed} is not of a form known here")]
    Unreadable {
        /// The committed offset.
        committed: i64,
    },
    /// Committed by hand, or our own mistake.
    #[error("{counted} completions are counted where {completed} offsets are complete")]
    Unbalanced {
        /// The sum of the counts.
        counted: i128,
        /// What should be their sum.
        completed: i64,
    },
    /// The topic was made anew or has lost records.
    #[error("offsets up to {top} are complete and the log ends at {end}: the topic was made anew, or has lost records")]
    BeyondTheEnd {
        /// One past the highest complete offset.
        top: i64,
        /// The log's end.
        end: i64,
    },
}

/// What groups counted as handed on to topics, held against what lies there. Copies that a crash or a lost answer wrote twice,
/// and what others wrote, are more than was counted; less is a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// How it is counted: `routed`, `parked` or `dead`.
    pub outcome: &'static str,
    /// The sink whose flow it is, if it is of one.
    pub sink: Option<String>,
    /// The topics' names in Kafka.
    pub topics: Vec<String>,
    /// What was counted.
    pub counted: u64,
    /// Offsets of these topics, less what their group counted there as markers of transactions.
    pub written: i64,
    /// Whether everything since the topics' first offset was counted, and nothing is open where it comes from: then what is
    /// more was written twice, or by others.
    pub is_complete: bool,
}

impl Flow {
    /// What these groups counted, of some outcomes of one name.
    fn new(outcomes: &[Outcome], from: &[&GroupAccount], written: i64, topics: Vec<String>) -> Self {
        let accounts = || from.iter().flat_map(|group| &group.partitions);
        let since_first =
            |account: &Account| account.counted.as_ref().is_some_and(|counted| counted.tally.start() == 0);
        Self {
            outcome: outcomes.first().map_or("", |outcome| outcome.as_str()),
            sink: None,
            topics,
            counted: outcomes.iter().map(|outcome| count(accounts(), *outcome)).sum(),
            written,
            is_complete: accounts().all(since_first) && open(accounts()) == 0,
        }
    }

    /// Whether everything that was counted is there.
    pub fn holds(&self) -> bool {
        self.more() >= 0
    }

    /// How much more there is than was counted.
    pub fn more(&self) -> i64 {
        self.written.saturating_sub_unsigned(self.counted)
    }
}

/// Offsets that are not complete in these partitions, as far as that is known.
pub fn open<'a>(accounts: impl IntoIterator<Item = &'a Account>) -> i64 {
    accounts.into_iter().filter_map(|account| account.counted.as_ref()).map(|counted| counted.open).sum()
}

/// How often offsets of these partitions became complete in this way.
pub fn count<'a>(accounts: impl IntoIterator<Item = &'a Account>, completion: impl Into<Completion>) -> u64 {
    let (counted, completion) =
        (accounts.into_iter().filter_map(|account| account.counted.as_ref()), completion.into());
    counted.map(|counted| counted.tally.of(completion)).sum()
}

/// The account of a partition whose log was seen to begin at `low` before the commit was read, and to end at `end` after that.
pub fn judge(topic: &str, partition: i32, low: i64, (committed, metadata): (Option<i64>, &str), end: i64) -> Account {
    let account = |counted, wrong| Account { topic: topic.to_owned(), partition, end, counted, wrong };
    let Some(committed) = committed else { return account(None, Some(Wrong::NotCommitted)) };
    let Ok(mut progress) = Progress::restore(committed, metadata, WINDOW_MAX) else {
        return account(None, Some(Wrong::Unreadable { committed }));
    };
    let just_expired = progress.expire(low);
    let (tally, completed, top) = (progress.tally().clone(), progress.completed(), progress.top());
    let wrong = if !progress.is_balanced() {
        Some(Wrong::Unbalanced { counted: tally.total(), completed })
    } else if top > end {
        Some(Wrong::BeyondTheEnd { top, end })
    } else {
        None
    };
    let open = (end - tally.start()).saturating_sub(completed);
    account(Some(Counted { committed, tally, just_expired, open }), wrong)
}

/// Asks Kafka, and judges.
pub async fn audit(config: &Config) -> Result<Audit, CheckError> {
    let prefix = &config.topics.prefix;
    let names: Vec<String> = config.pipeline_topics().iter().map(|topic| topic.name(prefix)).collect();
    // A log's beginning is asked for before the commits, and its end after them: what happens meanwhile can't make a commit
    // look as if retention had overtaken it, or as if it were ahead of its log.
    let lows = edges(config, &names, Edge::First).await?;
    let mut asked = Vec::new();
    for (group, topics) in config.groups() {
        let topics: Vec<_> = topics.iter().map(|topic| topic.name(prefix)).collect();
        let (kafka, name, count) = (config.kafka.clone(), group.name(prefix), partitions(config));
        let (wanted, of) = (topics.clone(), name.clone());
        let ask = move || GroupOffsets::new(&kafka, &of)?.committed(&words(&wanted), count);
        asked.push((group, name, topics, tokio::task::spawn_blocking(ask)));
    }
    let mut stored = Vec::new();
    for (group, name, topics, answer) in asked {
        stored.push((group, name, topics, answer.await??));
    }
    let ends = edges(config, &names, Edge::End).await?;
    let log = |topic: &str, partition: usize| {
        let at = names.iter().position(|name| name == topic).expect("a group reads topics of the pipeline");
        let at = at * config.topics.partitions as usize + partition;
        (lows[at], ends[at])
    };
    let mut groups = Vec::new();
    for (group, name, topics, commits) in stored {
        let mut accounts = Vec::new();
        for (topic, commits) in topics.iter().zip(commits.chunks(config.topics.partitions as usize)) {
            for (number, (partition, (committed, metadata))) in (0..).zip(commits).enumerate() {
                let (low, end) = log(topic, number);
                accounts.push(judge(topic, partition, low, (*committed, metadata), end));
            }
        }
        groups.push(GroupAccount { group, name, partitions: accounts });
    }
    let written = |topics: &[String]| {
        let each =
            topics.iter().flat_map(|topic| (0..config.topics.partitions as usize).map(move |at| log(topic, at).1));
        each.sum()
    };
    let flows = flows(config, &groups, written);
    Ok(Audit { groups, flows })
}

fn partitions(config: &Config) -> i32 {
    i32::try_from(config.topics.partitions).expect("a checked configuration holds small numbers")
}

fn words(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

async fn edges(config: &Config, topics: &[String], edge: Edge) -> Result<Vec<i64>, CheckError> {
    let (kafka, topics, count) = (config.kafka.clone(), topics.to_vec(), partitions(config));
    let ask = move || log_edges(&kafka, &words(&topics), count, edge);
    Ok(tokio::task::spawn_blocking(ask).await??)
}

/// What groups handed on, given how many offsets topics have.
fn flows(config: &Config, groups: &[GroupAccount], written: impl Fn(&[String]) -> i64) -> Vec<Flow> {
    let names = |topics: &[Topic]| topics.iter().map(|topic| topic.name(&config.topics.prefix)).collect::<Vec<_>>();
    let of = |is_its: &dyn Fn(&Group) -> bool| groups.iter().filter(|group| is_its(&group.group)).collect::<Vec<_>>();
    let (events, dead) = (names(&[Topic::Events]), names(&[Topic::Dead]));
    let mut flows =
        vec![Flow::new(&[Outcome::Routed], &of(&|group| *group == Group::Router), written(&events), events)];
    for sink in config.sink.keys() {
        let lanes = names(&config.retry_topics(sink).collect::<Vec<_>>());
        // A marker is nothing that was parked, nor is a record of a transaction that was aborted.
        let retries = of(&|group| *group == Group::Retry(sink.clone()));
        let markers = retries.iter().map(|group| count(&group.partitions, Completion::Marker)).sum();
        let both = of(&|group| *group == Group::Retry(sink.clone()) || *group == Group::Deliver(sink.clone()));
        let there = written(&lanes).saturating_sub_unsigned(markers);
        flows.push(Flow { sink: Some(sink.to_string()), ..Flow::new(&[Outcome::Parked], &both, there, lanes) });
    }
    let letters: Vec<_> = Outcome::all().filter(|outcome| matches!(outcome, Outcome::Dead(_))).collect();
    flows.push(Flow::new(&letters, &of(&|_| true), written(&dead), dead));
    flows
}

#[cfg(test)]
mod tests {
    use common::id::SinkId;

    use super::*;

    fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("processor.toml");
        let text = r#"
pipeline = { edge_keys = [{ id = "e", file = "e" }], core_keys = [{ id = "c", file = "c" }], id_keys = [{ id = "i", file = "i" }] }
source.acme.keys = [{ id = "k", file = "k" }]
sink.main = { kind = "file", path = "out.jsonl" }
"#;
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), std::iter::empty()).unwrap()
    }

    fn judged(low: i64, committed: Option<i64>, metadata: &str, end: i64) -> Account {
        judge("t", 3, low, (committed, metadata), end)
    }

    /// Of a partition whose equation must hold.
    fn counted(low: i64, committed: i64, metadata: &str, end: i64) -> Counted {
        let account = judged(low, Some(committed), metadata, end);
        assert_eq!(account.wrong, None, "{account:?}");
        let counted = account.counted.unwrap();
        assert_eq!(i128::from(end - counted.tally.start()), counted.tally.total() + i128::from(counted.open));
        counted
    }

    #[test]
    fn the_equation_holds_for_what_a_processor_commits() {
        let fresh = counted(0, 0, "", 7);
        assert_eq!((fresh.tally.start(), fresh.tally.total(), fresh.open), (0, 0, 7));
        // 101 and 103 are complete above 100, and 95 to 99 below it.
        let busy = counted(0, 100, "2:Cg:95d4a3", 110);
        assert_eq!((busy.committed, busy.tally.start(), busy.open, busy.just_expired), (100, 95, 8, 0));
        let all = counted(0, 110, "2::95d4a3m8", 110);
        assert_eq!(all.open, 0);
        let before = counted(0, 100, "1:Cg", 110);
        assert_eq!((before.tally.start(), before.tally.of(Completion::Other), before.open), (100, 2, 8));
    }

    #[test]
    fn what_retention_took_is_expired_and_not_open() {
        let taken = counted(102, 100, "2:Cg:95d4a3", 110);
        // Of 100, 101 and what follows, 100 alone is taken and was not complete.
        assert_eq!((taken.just_expired, taken.tally.of(Completion::Expired), taken.open), (1, 1, 7));
        let all = counted(110, 100, "2:Cg:95d4a3", 110);
        assert_eq!((all.just_expired, all.open), (8, 0));
    }

    #[test]
    fn topics_have_at_least_what_was_counted() {
        let config = config();
        let account = |topic: &str, metadata: &str| judge(topic, 0, 0, (Some(10), metadata), 10);
        let group = |group: Group, account: Account| {
            let name = group.name(&config.topics.prefix);
            GroupAccount { group, name, partitions: vec![account] }
        };
        let sink: SinkId = "main".parse().unwrap();
        let groups = [
            group(Group::Router, account("inbox", "2::0r9B1")),
            group(Group::Deliver(sink.clone()), account("events", "2::0d4p5R1")),
            // Redriven letters and markers make the lanes longer.
            group(Group::Retry(sink), account("retry", "2::2d2p3m2X1")),
        ];
        let flow = |events, lanes, dead| {
            flows(&config, &groups, |topics| match &topics[0] {
                topic if topic.ends_with(".events") => events,
                topic if topic.ends_with(".dead") => dead,
                _ => lanes,
            })
        };
        let flows = flow(9, 10, 3);
        let counted: Vec<_> =
            flows.iter().map(|flow| (flow.outcome, flow.counted, flow.written, flow.more())).collect();
        assert_eq!(counted, [("routed", 9, 9, 0), ("parked", 8, 8, 0), ("dead", 3, 3, 0)]);
        let complete: Vec<_> = flows.iter().map(|flow| flow.is_complete).collect();
        assert_eq!(complete, [true, false, false], "a lane was not counted from its first offset on");
        assert!(flows.iter().all(Flow::holds) && flow(20, 20, 20).iter().all(Flow::holds));
        for (events, lanes, dead) in [(8, 10, 3), (9, 9, 3), (9, 10, 2)] {
            assert_eq!(flow(events, lanes, dead).iter().filter(|flow| !flow.holds()).count(), 1);
        }
    }

    #[test]
    fn what_does_not_hold_is_told_with_its_reason() {
        let wrong = |low, committed, metadata: &str, end| judged(low, committed, metadata, end).wrong;
        assert_eq!(wrong(0, None, "", 7), Some(Wrong::NotCommitted));
        assert_eq!(wrong(0, Some(5), "3:", 7), Some(Wrong::Unreadable { committed: 5 }));
        assert_eq!(wrong(0, Some(-5), "", 7), Some(Wrong::Unreadable { committed: -5 }));
        for metadata in ["2:Cg:95d4a2", "2:Cg:95d4a4", "2:Cg:94d4a3", "2:Cg:96d4a3", "2::95d4a3"] {
            assert!(matches!(wrong(0, Some(100), metadata, 110), Some(Wrong::Unbalanced { .. })), "{metadata}");
        }
        assert_eq!(wrong(0, Some(8), "", 7), Some(Wrong::BeyondTheEnd { top: 8, end: 7 }));
        assert_eq!(wrong(0, Some(100), "2:Cg:95d4a3", 103), Some(Wrong::BeyondTheEnd { top: 104, end: 103 }));
        // What is wrong has its numbers, too.
        assert_eq!(judged(0, Some(8), "", 7).counted.map(|counted| counted.open), Some(-1));
        for start in ["0", "9223372036854775807"] {
            let extreme = judged(0, Some(1), &format!("2::{start}d9223372036854775807"), 7);
            assert!(matches!(extreme.wrong, Some(Wrong::Unbalanced { .. })), "{extreme:?}");
        }
    }
}
