//! `upgrade`: builds a former release from the history, and runs this one beside it and in its place.

use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What this release has to run beside: a tag, or a commit while there is none. This one writes progress in its first form,
/// and reads no other.
const FORMER: &str = "b6a1872e1911036da6fae2ef79124061030ad0dc";

/// Options of `upgrade`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The release to come from: a tag or commit of the history
    #[arg(long, value_name = "REVISION", default_value = FORMER)]
    from: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let former = former(&arguments.from)?;
    let bins = ["ingest", "processor", "upgrade"].iter().flat_map(|name| ["--bin", name]);
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace"]).args(bins))?;
    let binaries = workspace::binaries()?;
    let mut command = Command::new(binaries.join("upgrade"));
    command.arg(former).env("SEALSTREAM_BIN_DIR", &binaries).env("SEALSTREAM_XTASK", workspace::program()?);
    workspace::run(&mut command)
}

/// The folder of a former release's binaries, which are built once. Most of its libraries are this one's: they share a target
/// folder, and what of the workspace is there afterwards is built anew for this one.
fn former(revision: &str) -> Result<PathBuf> {
    let commit = workspace::output(git().args(["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]))
        .with_context(|| {
            format!("{revision} is not in the history here; `git fetch --unshallow` completes one that was cut")
        })?;
    let dir = workspace::state().join("former").join(commit.trim());
    let installed = dir.join("bin");
    if installed.exists() {
        return Ok(installed);
    }
    eprintln!("x: building {revision} (once)");
    let source = dir.join("source");
    fs::create_dir_all(&source)?;
    let archive = dir.join("source.tar");
    workspace::run(git().args(["archive", "--output"]).arg(&archive).arg(commit.trim()))?;
    workspace::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source))?;
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--workspace", "--bin", "ingest", "--bin", "processor"]);
    let binaries = workspace::binaries()?;
    let target = binaries.parent().context("finding the target folder")?;
    build.arg("--manifest-path").arg(source.join("Cargo.toml")).arg("--target-dir").arg(target);
    workspace::run(&mut build)?;
    // Under another name until all of it is there.
    let partly = dir.join("partly");
    fs::create_dir_all(&partly)?;
    for name in ["ingest", "processor"] {
        fs::copy(binaries.join(name), partly.join(name)).with_context(|| format!("keeping {name}"))?;
    }
    fs::rename(&partly, &installed)?;
    Ok(installed)
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(workspace::root());
    git
}
