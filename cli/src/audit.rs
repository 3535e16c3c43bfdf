//! `sealstream audit`: shows that nothing is missing, from Kafka alone. It reads offsets and commits, no record, and needs no key.
//!
//! What is counted and what must hold, [`processor::audit`] says.

use anyhow::{Context, Result};
use processor::audit::{Account, Audit, Flow, GroupAccount, audit, open};
use processor::core::tally::Completion;
use serde_json::{Map, Value, json};

use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};

/// Options of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    processor: ProcessorConfig,
    /// Show every partition, and not only sums and what does not hold
    #[arg(long)]
    partitions: bool,
    /// Print the result as one JSON object, with every partition
    #[arg(long)]
    json: bool,
}

/// Runs `audit`.
pub async fn run(args: &Args) -> Result<Verdict> {
    let config = args.processor.load()?;
    let found = audit(&config).await.with_context(|| {
        format!("Kafka at {}; `sealstream topics check` says whether topics are missing", config.kafka.bootstrap)
    })?;
    if args.json {
        say::json(&value(&found));
    } else {
        tell(&found, args.partitions);
    }
    Ok(Verdict::good_if(found.holds()))
}

/// Sums over partitions.
#[derive(Debug, Default)]
struct Sum {
    /// Offsets from where counting began to the log's end.
    offsets: i64,
    /// How they became complete, in the order of [`Completion::all`], those of zero left out.
    completed: Vec<(Completion, u64)>,
    open: i64,
}

impl Sum {
    fn of(accounts: &[Account]) -> Self {
        let counted = |account: &Account| Some(account.end - account.counted.as_ref()?.tally.start());
        let count = |completion| (completion, processor::audit::count(accounts, completion));
        Self {
            offsets: accounts.iter().filter_map(counted).sum(),
            completed: Completion::all().map(count).filter(|(_, count)| *count > 0).collect(),
            open: open(accounts),
        }
    }

    /// The right side of the equation.
    fn terms(&self) -> String {
        let each =
            self.completed.iter().map(|(completion, count)| format!("{} {}", say::grouped(*count), name(*completion)));
        each.chain([format!("{} open", signed(self.open))]).collect::<Vec<_>>().join(" + ")
    }
}

/// How an offset became complete, with the reason of a letter.
fn name(completion: Completion) -> String {
    match completion {
        Completion::Ended(outcome) if !outcome.reason().is_empty() => {
            format!("{} ({})", outcome.as_str(), outcome.reason())
        }
        Completion::Ended(_) | Completion::Marker | Completion::Expired | Completion::Other => {
            completion.as_str().to_owned()
        }
    }
}

fn signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", say::grouped(number.unsigned_abs()))
}

fn mark(holds: bool) -> String {
    let paint = say::Paint::for_stdout();
    if holds { paint.good("good") } else { paint.bad("bad ") }
}

fn tell(audit: &Audit, every: bool) {
    for group in &audit.groups {
        say::line(format_args!("{} {}", mark(group.holds()), group.name));
        let topics = group.partitions.chunk_by(|one, next| one.topic == next.topic);
        let several = topics.clone().count() > 1;
        for accounts in topics {
            if let Some(account) = accounts.first() {
                tell_sum(&account.topic, accounts);
            }
            for account in accounts.iter().filter(|account| every || account.wrong.is_some()) {
                tell_partition(account);
            }
            tell_expired(accounts);
        }
        if several {
            tell_sum("together", &group.partitions);
        }
    }
    audit.flows.iter().for_each(|flow| say::line(format_args!("{} {}", mark(flow.holds()), sentence(flow))));
    if audit.flows.iter().any(|flow| !flow.holds()) {
        say::line("     records that were counted are not there: a topic was made anew or has lost records");
    }
}

fn tell_sum(what: &str, accounts: &[Account]) {
    let sum = Sum::of(accounts);
    say::line(format_args!("     {what}: {} offsets = {}", signed(sum.offsets), sum.terms()));
}

fn tell_partition(account: &Account) {
    let Account { topic, partition, end, counted, wrong } = account;
    let equation = counted.as_ref().map(|counted| {
        let sum = Sum::of(std::slice::from_ref(account));
        format!("{end} - {} = {} = {}", counted.tally.start(), sum.offsets, sum.terms())
    });
    let equation = equation.unwrap_or_else(|| format!("the log ends at {end}"));
    say::line(format_args!("     {} {topic}-{partition}: {equation}", mark(wrong.is_none())));
    if let Some(wrong) = wrong {
        say::line(format_args!("          {wrong}"));
    }
}

/// Tells what no processor has told yet.
fn tell_expired(accounts: &[Account]) {
    let just = accounts.iter().filter_map(|account| Some(account.counted.as_ref()?.just_expired)).sum::<u64>();
    if just > 0 {
        say::line(format_args!(
            "     lost: {} of the expired were not complete when retention took them, and no processor has seen that yet",
            say::grouped(just)
        ));
    }
}

fn sentence(flow: &Flow) -> String {
    let Flow { outcome, sink, topics, counted, .. } = flow;
    let of = sink.as_ref().map(|sink| format!(" for {sink}")).unwrap_or_default();
    let more = flow.more();
    let why = match more {
        0 => String::new(),
        ..0 => format!(": {} are missing", signed(more.saturating_neg())),
        1.. if flow.is_complete => format!(": {} more, written twice after a crash or by others", signed(more)),
        1.. => format!(": {} more, under way, from before counting began, written twice or by others", signed(more)),
    };
    format!(
        "{} {outcome}{of}, and {} written to {}{why}",
        say::grouped(*counted),
        signed(flow.written),
        topics.join(", ")
    )
}

fn completed(sum: &Sum) -> Map<String, Value> {
    let mut map = Map::new();
    let mut dead = Map::new();
    for (completion, count) in &sum.completed {
        match completion {
            Completion::Ended(outcome) if !outcome.reason().is_empty() => {
                dead.insert(outcome.reason().to_owned(), (*count).into());
            }
            other => {
                map.insert(other.as_str().to_owned(), (*count).into());
            }
        }
    }
    if !dead.is_empty() {
        map.insert("dead".to_owned(), dead.into());
    }
    map
}

fn value(audit: &Audit) -> Value {
    let groups: Vec<_> = audit.groups.iter().map(group_value).collect();
    let flows: Vec<_> = audit.flows.iter().map(flow_value).collect();
    json!({ "holds": audit.holds(), "open": audit.open(), "groups": groups, "flows": flows })
}

fn group_value(group: &GroupAccount) -> Value {
    let sum = Sum::of(&group.partitions);
    let partitions: Vec<_> = group.partitions.iter().map(partition_value).collect();
    json!({
        "group": group.name,
        "holds": group.holds(),
        "offsets": sum.offsets,
        "completed": completed(&sum),
        "open": sum.open,
        "partitions": partitions,
    })
}

fn partition_value(account: &Account) -> Value {
    let Account { topic, partition, end, counted, wrong } = account;
    let sum = Sum::of(std::slice::from_ref(account));
    let counted = counted.as_ref();
    json!({
        "topic": topic,
        "partition": partition,
        "holds": wrong.is_none(),
        "wrong": wrong.as_ref().map(ToString::to_string),
        "start": counted.map(|counted| counted.tally.start()),
        "end": end,
        "committed": counted.map(|counted| counted.committed),
        "completed": completed(&sum),
        "just_expired": counted.map(|counted| counted.just_expired),
        "open": counted.map(|counted| counted.open),
    })
}

fn flow_value(flow: &Flow) -> Value {
    let Flow { outcome, sink, topics, counted, written, is_complete } = flow;
    json!({
        "outcome": outcome,
        "sink": sink,
        "topics": topics,
        "counted": counted,
        "written": written,
        "more": flow.more(),
        "is_complete": is_complete,
        "holds": flow.holds(),
    })
}

#[cfg(test)]
mod tests {
    use common::topics::Group;
    use processor::audit::judge;

    use super::*;

    fn found() -> Audit {
        let account = |topic: &str, partition, metadata: &str| judge(topic, partition, 0, (Some(100), metadata), 110);
        let partitions =
            vec![account("s.retry.main.1s", 0, "2:Cg:95d2R3a2"), account("s.retry.main.1m", 0, "2:Cg:95d2R3a3")];
        let groups = vec![GroupAccount {
            group: Group::Retry("main".parse().unwrap()),
            name: "s.retry.main".to_owned(),
            partitions,
        }];
        let flow = |written, is_complete| Flow {
            outcome: "parked",
            sink: Some("main".to_owned()),
            topics: vec!["s.retry.main.1s".to_owned()],
            counted: 5,
            written,
            is_complete,
        };
        Audit { groups, flows: vec![flow(5, true), flow(7, true), flow(7, false), flow(4, true)] }
    }

    #[test]
    fn the_object_has_every_equation_and_names_what_does_not_hold() {
        let value = value(&found());
        assert_eq!((&value["holds"], &value["groups"][0]["holds"]), (&json!(false), &json!(false)));
        let partitions = &value["groups"][0]["partitions"];
        assert_eq!(
            partitions[0],
            json!({
                "topic": "s.retry.main.1s", "partition": 0, "holds": true, "wrong": null, "start": 95, "end": 110,
                "committed": 100, "completed": { "delivered": 2, "repeat": 2, "dead": { "refused": 3 } },
                "just_expired": 0, "open": 8,
            })
        );
        assert_eq!(partitions[1]["wrong"], "8 completions are counted where 7 offsets are complete");
        let sums: Vec<_> = ["offsets", "open"].iter().map(|key| &value["groups"][0][key]).collect();
        assert_eq!(
            (sums, &value["groups"][0]["completed"]["dead"]["refused"]),
            (vec![&json!(30), &json!(16)], &json!(6))
        );
        let holds: Vec<_> = value["flows"].as_array().unwrap().iter().map(|flow| &flow["holds"]).collect();
        assert_eq!(holds, [&json!(true), &json!(true), &json!(true), &json!(false)]);
    }

    #[test]
    fn sums_and_flows_are_told_as_they_are() {
        let found = found();
        let sum = Sum::of(&found.groups[0].partitions[..1]);
        assert_eq!((sum.offsets, sum.terms().as_str()), (15, "2 delivered + 2 repeat + 3 dead (refused) + 8 open"));
        let sentences: Vec<_> = found.flows.iter().map(sentence).collect();
        let endings = ["s.retry.main.1s", "or by others", "written twice or by others", "1 are missing"];
        for (sentence, ending) in sentences.iter().zip(endings) {
            assert!(sentence.starts_with("5 parked for main, and ") && sentence.ends_with(ending), "{sentence}");
        }
        assert!(sentences[1].contains("2 more, written twice") && sentences[2].contains("2 more, under way"));
        tell(&found, true);
    }
}
