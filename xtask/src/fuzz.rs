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
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Targets at a time
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    jobs: usize,
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
    let chosen: Vec<&str> = known
        .into_iter()
        .filter(|name| arguments.targets.is_empty() || arguments.targets.iter().any(|own| own == name))
        .collect();
    // All at once, so that those that run side by side find theirs built.
    workspace::run(&mut cargo_fuzz(&tool, "build"))?;
    let mut all = 0;
    for (name, outcome) in side_by_side(&tool, &chosen, arguments) {
        let Done { inputs, seconds } = outcome.with_context(|| format!("fuzzing {name}"))?;
        all += inputs;
        println!("{name:<26}{inputs:>12} inputs in {seconds} s");
    }
    println!("{:<26}{all:>12} inputs, and no property broken", "all");
    Ok(())
}

/// Runs the targets, so many at a time, and answers what became of each, in their order.
fn side_by_side<'a>(tool: &PathBuf, names: &[&'a str], arguments: &Arguments) -> Vec<(&'a str, Result<Done>)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = fuzz(tool, name, arguments);
                    done.lock().expect("nobody panics with it").push((*name, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panicked with it");
    done.sort_by_key(|(name, _)| names.iter().position(|known| known == name));
    done
}

/// What a target was given.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    inputs: u64,
    seconds: u64,
}

/// Runs one target.
fn fuzz(tool: &PathBuf, name: &str, arguments: &Arguments) -> Result<Done> {
    let mut command = cargo_fuzz(tool, "run");
    command.args([name, "--"]).arg(format!("-dict=fuzz/corpus/{name}.dict"));
    command.args([format!("-runs={}", arguments.runs), format!("-max_total_time={}", arguments.seconds)]);
    command.args([format!("-timeout={INPUT_SECONDS_MAX}"), format!("-rss_limit_mb={MEMORY_MIB_MAX}")]);
    let output = command.output().context("running cargo fuzz")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("a property is broken, or it could not run; the input is in fuzz/artifacts/{name}:\n{said}");
    }
    done(&said).with_context(|| format!("the fuzzer did not say how many inputs it tried:\n{said}"))
}

fn cargo_fuzz(tool: &PathBuf, command: &str) -> Command {
    let mut fuzz = Command::new(tool);
    fuzz.current_dir(workspace::root()).args(["fuzz", command, "--sanitizer", "none"]);
    // Its own target directory: other flags would build the workspace's anew.
    fuzz.env_remove("CARGO_TARGET_DIR");
    fuzz
}

/// From the fuzzer's closing line.
fn done(said: &str) -> Option<Done> {
    let line = said.lines().rev().find_map(|line| line.strip_prefix("Done "))?;
    let (inputs, seconds) = line.strip_suffix(" second(s)")?.split_once(" runs in ")?;
    Some(Done { inputs: inputs.parse().ok()?, seconds: seconds.parse().ok()? })
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
    use super::{Done, done};

    #[test]
    fn the_count_is_read_from_the_closing_line() {
        let said = "#100000\tDONE   cov: 1\nDone 100000 runs in 12 second(s)\n";
        assert_eq!(done(said), Some(Done { inputs: 100_000, seconds: 12 }));
        assert_eq!(done("INFO: Seed: 7\n"), None);
    }
}
