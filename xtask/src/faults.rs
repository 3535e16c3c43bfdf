//! `faults`: builds the binaries of the fault suite and runs it.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Options of `faults`; the suite's program has the same.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// A fault to run, again for several; without it all are
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<String>,
    /// How often each fault strikes, instead of its own number
    #[arg(long)]
    rounds: Option<usize>,
    /// Events to be acknowledged under each fault at least, instead of its own number
    #[arg(long)]
    events: Option<u64>,
    /// The seed of victims, moments and the sink's moods
    #[arg(long)]
    seed: Option<u64>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// A million events and hundreds of crashes: about half an hour
    #[arg(long)]
    long: bool,
    /// Break one rule of the processor after the other, and see whether it is noticed
    #[arg(long)]
    controls: bool,
    /// With `--controls`: only this one, again for several
    #[arg(long = "control", value_name = "NAME", requires = "controls")]
    only: Vec<String>,
    /// With `--controls`: of each only until it is caught once
    #[arg(long, requires = "controls")]
    once: bool,
    /// With `--controls`: on how many seeds
    #[arg(long, default_value_t = 5, requires = "controls")]
    seeds: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build()?;
    let binaries = workspace::binaries()?;
    let mut command = Command::new(binaries.join("faults"));
    command.env("SEALSTREAM_BIN_DIR", &binaries).env("SEALSTREAM_XTASK", workspace::program()?);
    command.args(arguments.faults.iter().flat_map(|fault| ["--fault", fault]));
    let numbers = [
        ("--rounds", arguments.rounds.map(|n| n.to_string())),
        ("--events", arguments.events.map(|n| n.to_string())),
        ("--seed", arguments.seed.map(|n| n.to_string())),
    ];
    for (name, value) in numbers {
        command.args(value.iter().flat_map(|value| [name, value]));
    }
    command
        .args(arguments.once.then_some("--once"))
        .args(arguments.json.then_some("--json"))
        .args(arguments.long.then_some("--long"));
    if arguments.controls {
        command.args(["--seeds", &arguments.seeds.to_string()]);
        command.args(arguments.only.iter().flat_map(|name| ["--control", name]));
    }
    let status = command.status().context("running the fault suite")?;
    if !status.success() {
        bail!("the fault suite has found something ({status})");
    }
    Ok(())
}

/// What `ci` runs: the faults that differ most, for a few rounds each. `./x faults` has all.
pub(crate) fn short() -> Result<()> {
    const SEED: u64 = 1;
    const FAULTS: [&str; 8] = ["kill", "kill-at", "kill-ingest", "zombie", "wipe", "churn", "hang", "broker-kill"];
    let faults = FAULTS.map(str::to_owned).to_vec();
    run(&Arguments { seed: Some(SEED), faults, ..Arguments::default() })
}

/// The suite's program and the product's binaries, and then the processor that can be broken: a binary of another name,
/// so that no product is ever built with the suite's features. That the product has nothing of them is looked up.
fn build() -> Result<()> {
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace", "--bin", "faults"]).args(PRODUCT))?;
    let features = ["--features", "processor/controls", "--bin", "processor-faults"];
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace"]).args(features))?;
    let binaries = workspace::binaries()?;
    if traces(&std::fs::read(binaries.join("processor-faults"))?).count() < TRACES.len() {
        bail!("the binary `processor-faults` has not all of the suite's hooks: this search is broken");
    }
    if let Some(trace) = traces(&std::fs::read(binaries.join("processor"))?).next() {
        bail!("the binary `processor` was built with the fault suite's features: it holds {trace}");
    }
    Ok(())
}

const PRODUCT: [&str; 4] = ["--bin", "ingest", "--bin", "processor"];

/// What a processor has that can be broken, and no other.
const TRACES: [&str; 3] = ["SEALSTREAM_JOURNAL", "SEALSTREAM_KILL_AT", "SEALSTREAM_CONTROL"];

fn traces(binary: &[u8]) -> impl Iterator<Item = &'static str> {
    let holds = |text: &&str| binary.windows(text.len()).any(|window| window == text.as_bytes());
    TRACES.into_iter().filter(holds)
}

#[cfg(test)]
mod tests {
    use super::traces;

    #[test]
    fn the_image_is_built_without_the_suite() {
        let image = include_str!("../../deploy/Dockerfile");
        assert!(image.contains("--bin processor "));
        assert!(!image.contains("features") && !image.contains("processor-faults"));
    }

    #[test]
    fn traces_are_found() {
        assert_eq!(traces(b"..SEALSTREAM_KILL_AT..").collect::<Vec<_>>(), ["SEALSTREAM_KILL_AT"]);
        assert_eq!(traces(b"nothing").count(), 0);
    }
}
