//! `bench`: the release binaries beside bare loops, on a Kafka of their own.

use crate::{service::Service, workspace};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::process::Command;

/// What `bench` is told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What is measured
    #[arg(default_value = "deliver")]
    what: What,
    /// Handed to the bench: `./x bench open -- --help`
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The deliverer beside loops that consume and produce
    Deliver,
    /// How long partitions take to open, warm and cold, beside a plain consumer
    Open,
    /// A sink that is down for long: what the other gets, and how fast it catches up
    Outage,
}

pub(crate) fn run(Arguments { what, arguments }: Arguments) -> Result<()> {
    let bench = match what {
        What::Deliver => "deliver",
        What::Open => "open",
        What::Outage => "outage",
    };
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--release", "--workspace"]);
    workspace::run(build.args(["--bin", "ingest", "--bin", "processor", "--bin", "sealstream", "--bin", bench]))?;
    let binaries = workspace::binaries()?.parent().context("the directory above the binaries")?.join("release");
    let state = workspace::state().join(format!("bench-{}", std::process::id()));
    let dir = state.display().to_string();
    let mut kafka = Service::start("Kafka", &["kafka", "--state", &dir, "up", "--own", "--until-eof"])?;
    let mut command = Command::new(binaries.join(bench));
    let ran = workspace::run(command.args(arguments).envs(kafka.ready()?).env("SEALSTREAM_BIN_DIR", &binaries));
    drop(kafka);
    std::fs::remove_dir_all(&state).with_context(|| format!("removing {dir}"))?;
    ran
}
