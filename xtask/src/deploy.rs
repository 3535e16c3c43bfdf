//! `deploy`: what is in `deploy/`, held against the schemas and the programs that read it. Nothing is deployed.
//!
//! | | judged by |
//! |---|---|
//! | Kubernetes manifests | the schemas of the oldest version that they are for; a key that no schema has is a mistake |
//! | systemd units | `systemd-analyze verify`, an exposure of at most 1.5 by `systemd-analyze security`, and `systemd-sysusers` |
//! | the bill of materials | the schema of CycloneDX |

use crate::{python, sbom, workspace};
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const KUBERNETES: &str = "1.31";
/// What only `kustomize` reads.
const KUSTOMIZATION: &str = "kustomization.yaml";
/// In tenths, as `systemd-analyze` takes it.
const EXPOSURE_MAX: &str = "15";
/// Reads a bill of materials and says what is wrong with it.
const JUDGE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
sys.exit(str(fault)[:2000] if fault else 0)
";

pub(crate) fn run() -> Result<()> {
    let python = python::schemas()?;
    let manifests = manifests(&python)?;
    let units = units()?;
    let components = bill(&python)?;
    println!("deploy: {manifests} manifests, {units} units and a bill of {components} components are well formed");
    Ok(())
}

fn manifests(python: &Path) -> Result<usize> {
    let mut files = files("kubernetes", ".yaml")?;
    files.retain(|path| path.file_name() != Some(OsStr::new(KUSTOMIZATION)));
    let mut judge = Command::new(python.with_file_name("kubernetes-validate"));
    let said = workspace::output(judge.args(["--strict", "--kubernetes-version", KUBERNETES]).args(&files))?;
    let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
    ensure!(passed >= files.len(), "kubernetes-validate said nothing about some of {files:?}: {said}");
    Ok(passed)
}

fn units() -> Result<usize> {
    let units = files("systemd", ".service")?;
    let root = workspace::state().join(format!("units-{}", std::process::id()));
    let judged = judge_units(&root, &units);
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    judged.map(|()| units.len())
}

/// In a root of their own, with programs that do nothing in the place of those that units start.
fn judge_units(root: &Path, units: &[PathBuf]) -> Result<()> {
    let system = root.join("usr/lib/systemd/system");
    fs::create_dir_all(&system)?;
    for target in ["sysinit", "basic", "shutdown", "network-online", "multi-user"] {
        fs::write(system.join(target).with_extension("target"), "[Unit]\n")?;
    }
    for program in ["usr/bin/ingest", "usr/bin/processor", "bin/kill"] {
        let path = root.join(program);
        fs::create_dir_all(path.parent().context("a program is in a folder")?)?;
        fs::write(&path, "#!/bin/sh\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let mut names = Vec::new();
    for unit in units {
        let name = unit.file_name().context("a unit has a name")?;
        fs::copy(unit, system.join(name))?;
        names.push(name);
    }
    let analyze = |words: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.arg("--no-pager").arg(words[0]).arg(format!("--root={}", root.display())).args(&words[1..]);
        command
    };
    // It warns of a key that it does not know, and ends well all the same.
    let verified = analyze(&["verify", "--man=no"]).args(&names).output().context("running systemd-analyze")?;
    let said = String::from_utf8_lossy(&verified.stderr);
    ensure!(verified.status.success() && said.is_empty(), "systemd-analyze verify says: {said}");
    let users = fs::File::open(workspace::root().join("deploy/systemd/sealstream.sysusers.conf"))?;
    let mut sysusers = Command::new("systemd-sysusers");
    fs::create_dir_all(root.join("etc"))?;
    workspace::output(sysusers.arg(format!("--root={}", root.display())).args(["--dry-run", "-"]).stdin(users))?;
    for name in names {
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let table = workspace::output(analyze(&["security", "--offline=true", &threshold]).arg(name))?;
        ensure!(table.contains("Overall exposure level"), "systemd-analyze security does not say how exposed it is");
    }
    Ok(())
}

fn bill(python: &Path) -> Result<usize> {
    let document = sbom::document()?;
    let mut judge = Command::new(python).args(["-c", JUDGE]).stdin(Stdio::piped()).spawn().context("running Python")?;
    let written = judge.stdin.take().context("its input")?.write_all(document.to_string().as_bytes());
    ensure!(judge.wait()?.success(), "the bill of materials is not CycloneDX");
    written?;
    Ok(document["components"].as_array().map_or(0, Vec::len))
}

/// The files of a folder of `deploy/` that end so, at least one.
fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let found = workspace::files(&format!("deploy/{folder}"), ending)?;
    ensure!(!found.is_empty(), "nothing ends in {ending} in deploy/{folder}");
    Ok(found)
}
