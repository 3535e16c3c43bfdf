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
    command.args(arguments.json.then_some("--json")).args(arguments.long.then_some("--long"));
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

/// What `ci` runs: every fault for a few rounds, then each control once, with a seed of its own. A control that is caught by
/// chance only would be caught by nobody's notice, so this is less than `./x faults --controls`, and much shorter.
pub(crate) fn short() -> Result<()> {
    const SEED: u64 = 1;
    run(&Arguments { seed: Some(SEED), ..Arguments::default() })
}

/// The suite's program and the product's binaries, and then the processor that can be broken: a binary of another name,
/// so that no product is ever built with the suite's features.
fn build() -> Result<()> {
    workspace::run(workspace::cargo().args([
        "build",
        "--locked",
        "--workspace",
        "--bin",
        "faults",
        "--bin",
        "ingest",
    ]))?;
    let features = ["--features", "processor/controls", "--bin", "processor-faults"];
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace"]).args(features))
}
