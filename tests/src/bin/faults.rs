//! The fault suite's program: see `docs/faults.md`, and `./x faults --help` for its options.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tests::broker::OwnBroker;
use tests::faults::controls::{self, Control};
use tests::faults::injections::Fault;
use tests::faults::report::{self, ControlRow};
use tests::faults::session::{self, Amount, Outcome};
use tests::faults::suite::{Setup, Suite, Tally};
use tests::seed::Seed;

/// On how many seeds a control is tried at once.
const SIDE_BY_SIDE: usize = 3;

/// What the command line says; `xtask` has checked it.
struct Arguments {
    faults: Vec<Fault>,
    rounds: Option<usize>,
    events: Option<u64>,
    seed: u64,
    json: bool,
    long: bool,
    controls: Option<usize>,
    only: Vec<String>,
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<bool> {
    let arguments = arguments()?;
    let brokers = Arc::new(OwnBroker::start_three().await?);
    let asked_to_stop = common::shutdown::Group::new().on_signals();
    // Whatever ends the work, its processes end with it.
    let good = tokio::select! {
        good = work(&arguments, brokers.clone()) => good,
        () = asked_to_stop => Err(anyhow::anyhow!("interrupted")),
    };
    if let Some(brokers) = Arc::into_inner(brokers) {
        brokers.end().await?;
    }
    good
}

async fn work(arguments: &Arguments, brokers: Arc<OwnBroker>) -> Result<bool> {
    match arguments.controls {
        None => faults(arguments, brokers).await,
        Some(seeds) => check_controls(arguments, seeds, brokers).await,
    }
}

async fn faults(arguments: &Arguments, brokers: Arc<OwnBroker>) -> Result<bool> {
    let setup = Setup::whole();
    let (permits, lanes) = (setup.permits, 3);
    let bound = permits * lanes * 2;
    let mut suite = Suite::start(brokers.clone(), setup, Seed::new(arguments.seed)).await?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for fault in &arguments.faults {
        let (rounds, events) = if arguments.long { fault.long() } else { fault.short() };
        let amount = Amount {
            rounds: arguments.rounds.unwrap_or(rounds),
            events: arguments.events.unwrap_or(events),
            direct: 56,
            through_ingest: 8,
            ahead: 3000,
            repeat_every: 10,
        };
        let say = |line: &str| eprintln!("faults: {line}");
        let outcome = if *fault == Fault::Recreate {
            // It takes away a topic from under the others, so it has a stack of its own.
            let mut own =
                Suite::start(brokers.clone(), Setup { partitions: 2, ..Setup::small("recreate") }, suite.seed.fork())
                    .await?;
            let outcome = session::run(&mut own, *fault, amount, say).await?;
            own.end(!outcome.findings.is_clean()).await?;
            outcome
        } else {
            session::run(&mut suite, *fault, amount, say).await?
        };
        let findings = &outcome.findings;
        eprintln!(
            "faults: {}: {} rounds, {} events, {} dispatches of which {} failed, {} delivered twice, {} s{}",
            outcome.fault,
            outcome.rounds,
            findings.acked,
            findings.dispatches,
            findings.failed,
            findings.twice,
            outcome.time.as_secs(),
            if findings.is_clean() { String::new() } else { format!("; VIOLATED:\n{findings}") }
        );
        outcomes.push(outcome);
    }
    let tally = suite.tally;
    let clean = outcomes.iter().all(|outcome| outcome.findings.is_clean());
    suite.end(!clean).await?;
    show(arguments, &outcomes, &tally, permits, bound, clean);
    Ok(clean)
}

fn show(arguments: &Arguments, outcomes: &[Outcome], tally: &Tally, permits: usize, bound: usize, clean: bool) {
    let seed = arguments.seed;
    if arguments.json {
        let rows: Vec<_> = outcomes.iter().map(report::json_of).collect();
        println!(
            "{}",
            json!({ "seed": seed, "clean": clean, "permits": permits, "bound": bound, "faults": rows, "done": tally })
        );
        return;
    }
    println!("{}", report::outcomes(outcomes, permits, bound));
    println!("{}.", report::tally(tally));
    println!(
        "An HTTP and a Kafka sink together; of 64 events under way 8 go through ingest, 56 are written to the inbox sealed and signed."
    );
    println!("Again: ./x faults{} --seed {seed}", again(arguments));
}

/// The options of this run, but for its seed.
fn again(arguments: &Arguments) -> String {
    let mut words = String::new();
    if arguments.faults != Fault::ALL {
        words.extend(arguments.faults.iter().map(|fault| format!(" --fault {}", fault.as_str())));
    }
    words.extend(arguments.only.iter().map(|name| format!(" --control {name}")));
    words.extend(arguments.rounds.map(|rounds| format!(" --rounds {rounds}")));
    words.extend(arguments.events.map(|events| format!(" --events {events}")));
    if arguments.long {
        words.push_str(" --long");
    }
    words
}

async fn check_controls(arguments: &Arguments, seeds: usize, brokers: Arc<OwnBroker>) -> Result<bool> {
    let mut rows = Vec::new();
    for control in controls::all() {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| *name == control.name) {
            continue;
        }
        let mut row = ControlRow::new(&control);
        let seeds = (0..seeds as u64).map(|number| arguments.seed + number);
        // Side by side: most of their time they wait.
        let mut pairs = stream::iter(seeds)
            .map(|seed| both(&control, seed, brokers.clone()))
            .buffered(if arguments.once { 1 } else { SIDE_BY_SIDE });
        while let Some(pair) = pairs.next().await {
            let (seed, without, with) = pair?;
            let (clean, count) = (without.findings.is_clean(), with.findings.count(control.invariant));
            row.add(clean, count);
            eprintln!(
                "faults: {} seed {seed}: {} without it, {count} times {} with it, {} s{}",
                control.name,
                if clean { "clean" } else { "NOT clean" },
                control.invariant.as_str(),
                without.time.max(with.time).as_secs(),
                if clean { String::new() } else { format!("\n{}", without.findings) },
            );
            if arguments.once && row.caught > 0 {
                break;
            }
        }
        rows.push(row);
    }
    let good = rows.iter().all(|row| if arguments.once { row.caught > 0 } else { row.is_caught() });
    if arguments.json {
        let rows: Vec<_> = rows.iter().map(report::json_of_control).collect();
        println!("{}", json!({ "seed": arguments.seed, "caught": good, "controls": rows }));
    } else {
        println!("{}", report::controls(&rows));
        println!("Again: ./x faults --controls{} --seed {}", again(arguments), arguments.seed);
    }
    Ok(good)
}

/// A control's two runs on one seed: without the breakage, and with it.
async fn both(control: &Control, seed: u64, brokers: Arc<OwnBroker>) -> Result<(u64, Outcome, Outcome)> {
    let (without, with) =
        tokio::try_join!(one(control, false, seed, brokers.clone()), one(control, true, seed, brokers))?;
    Ok((seed, without, with))
}

/// A control's run on a stack of its own, with the rule broken or not.
async fn one(control: &Control, broken: bool, seed: u64, brokers: Arc<OwnBroker>) -> Result<Outcome> {
    let setup = Setup { control: broken.then_some(control.name), ..control.setup.clone() };
    let mut suite = Suite::start(brokers, setup, Seed::new(seed)).await?;
    let outcome = session::run(&mut suite, control.fault, control.amount, |line| eprintln!("faults: {line}")).await;
    let outcome = outcome.with_context(|| format!("control {}, broken: {broken}, seed {seed}", control.name))?;
    suite.end(!broken && !outcome.findings.is_clean()).await?;
    Ok(outcome)
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        faults: Vec::new(),
        rounds: None,
        events: None,
        seed: getrandom::u64().context("no randomness")? >> 32,
        json: false,
        long: false,
        controls: None,
        only: Vec::new(),
        once: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--fault" => arguments.faults.push(value()?.parse().map_err(anyhow::Error::msg)?),
            "--rounds" => arguments.rounds = Some(value()?.parse()?),
            "--events" => arguments.events = Some(value()?.parse()?),
            "--seed" => arguments.seed = value()?.parse()?,
            "--json" => arguments.json = true,
            "--long" => arguments.long = true,
            "--controls" => arguments.controls = Some(5),
            "--seeds" => arguments.controls = Some(value()?.parse()?),
            "--control" => arguments.only.push(value()?),
            "--once" => arguments.once = true,
            other => bail!("unknown option {other}"),
        }
    }
    if arguments.faults.is_empty() {
        arguments.faults = Fault::ALL.to_vec();
    }
    Ok(arguments)
}
