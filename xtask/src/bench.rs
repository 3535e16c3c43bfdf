//! `bench`: the release binaries beside bare loops, on a Kafka of their own.

use crate::{service::Service, workspace};
use anyhow::{Context, Result};
use std::process::Command;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--release", "--workspace"]);
    workspace::run(build.args(["--bin", "processor", "--bin", "sealstream", "--bin", "deliver"]))?;
    let binaries = workspace::binaries()?.parent().context("the directory above the binaries")?.join("release");
    let state = workspace::state().join(format!("bench-{}", std::process::id()));
    let dir = state.display().to_string();
    let mut kafka = Service::start("Kafka", &["kafka", "--state", &dir, "up", "--own", "--until-eof"])?;
    let mut command = Command::new(binaries.join("deliver"));
    let ran = workspace::run(command.args(arguments).envs(kafka.ready()?).env("SEALSTREAM_BIN_DIR", &binaries));
    drop(kafka);
    std::fs::remove_dir_all(&state).with_context(|| format!("removing {dir}"))?;
    ran
}
