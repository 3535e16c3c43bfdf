//! Where things are: the workspace, its state directory, the binaries that cargo builds; and how a command is run.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// Where jars, brokers' data and Python environments are kept; git and the image builds ignore it.
pub(crate) fn state() -> PathBuf {
    root().join(".sealstream")
}

/// Where cargo puts the binaries of the dev profile: beside this program.
pub(crate) fn binaries() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    Ok(program.parent().context("finding this program's directory")?.to_path_buf())
}

/// This program's file. Cargo may have replaced it while it runs, so that its own link to itself leads nowhere.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(binaries()?.join(env!("CARGO_BIN_NAME")))
}

/// `cargo`, the one that runs this program where cargo does.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds the shipped binaries, the examples and all tests in the dev profile: in one build, so that their libraries are built once.
pub(crate) fn build_tested() -> Result<()> {
    run(cargo().args(["build", "--locked", "--workspace", "--bins", "--examples", "--tests"]))
}

/// The files of a folder of this repository whose names end so, in order.
pub(crate) fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = root().join(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Runs `command` with this program's own output; a status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs `command` quietly and answers its standard output. If it fails, the error has its standard error, or else what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {}", shown(command)))?;
    if !output.status.success() {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        bail!("{} failed ({}): {}", shown(command), output.status, String::from_utf8_lossy(said).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed something that is no text", shown(command)))
}

/// The environment variable `name`, where it is set and not empty.
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy);
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() > 200 { format!("{}…", line.chars().take(200).collect::<String>()) } else { line }
}
