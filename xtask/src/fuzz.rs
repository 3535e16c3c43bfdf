//! `fuzz`: the parsers under a fuzzer, for a bounded time.
//!
//! The toolchain is the workspace's own, a stable one: its coverage instrumentation is all that the fuzzer needs. The
//! sanitizers are for memory errors and want a nightly one; the code here is safe Rust.

use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const CARGO_FUZZ: &str = "0.13.2";
/// One input may take this long, in seconds, and all of them together this much memory, in MiB.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 2048;

/// How long, and what.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Inputs for each target
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Seconds for each target, if its inputs take longer
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// The targets; all of them, if none is named
    targets: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tool = tool("cargo-fuzz", CARGO_FUZZ)?;
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace", "--bin", "corpus"]))?;
    let writer = workspace::binaries()?.join("corpus");
    let corpus = workspace::root().join("fuzz/corpus");
    workspace::run(Command::new(&writer).arg(&corpus))?;
    let known = workspace::output(Command::new(&writer).arg("--list"))?;
    let known: Vec<&str> = known.lines().collect();
    if let Some(stranger) = arguments.targets.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no target {stranger}: there are {}", known.join(", "));
    }
    let chosen =
        known.iter().filter(|name| arguments.targets.is_empty() || arguments.targets.iter().any(|own| own == *name));
    let (mut executed, mut table) = (0, String::new());
    for name in chosen {
        let count = fuzz(&tool, name, arguments).with_context(|| format!("fuzzing {name}"))?;
        executed += count;
        table.push_str(&format!("{name:<26}{count:>12}\n"));
    }
    println!("{table}{:<26}{executed:>12} inputs, and no property broken", "all");
    Ok(())
}

/// Runs one target; answers how many inputs it was given.
fn fuzz(tool: &PathBuf, name: &str, arguments: &Arguments) -> Result<u64> {
    let mut command = Command::new(tool);
    command.current_dir(workspace::root()).args(["fuzz", "run", "--sanitizer", "none", name]);
    command.arg("--").arg(format!("-dict=fuzz/corpus/{name}.dict"));
    command.args([format!("-runs={}", arguments.runs), format!("-max_total_time={}", arguments.seconds)]);
    command.args([format!("-timeout={INPUT_SECONDS_MAX}"), format!("-rss_limit_mb={MEMORY_MIB_MAX}")]);
    // Its own target directory: other flags would build the workspace's anew.
    command.arg("-print_final_stats=1").env_remove("CARGO_TARGET_DIR");
    let output = command.output().context("running cargo fuzz")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("a property is broken, or it could not run; the input is in fuzz/artifacts/{name}:\n{said}");
    }
    executed(&said).with_context(|| format!("the fuzzer did not say how many inputs it tried:\n{said}"))
}

/// From the fuzzer's closing lines.
fn executed(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim().parse().ok()
}

/// A tool of cargo's, installed once into the state directory.
pub(crate) fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let dir = workspace::state().join(format!("{name}-{version}"));
    let program = dir.join("bin").join(name);
    if !program.exists() {
        eprintln!("x: installing {name} {version} (once)");
        fs::create_dir_all(&dir)?;
        let mut install = workspace::cargo();
        install.args(["install", "--quiet", "--locked", "--version", version, "--root"]).arg(&dir).arg(name);
        // Not into the workspace's target directory: it shares nothing with it.
        workspace::run(install.env("CARGO_TARGET_DIR", dir.join("target")))?;
        fs::remove_dir_all(dir.join("target")).context("removing what the installation left")?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::executed;

    #[test]
    fn the_count_is_read_from_the_closing_lines() {
        assert_eq!(
            executed("INFO: x\nstat::number_of_executed_units: 12345\nstat::average_exec_per_sec: 7\n"),
            Some(12345)
        );
        assert_eq!(executed("Done 7 runs"), None);
    }
}
