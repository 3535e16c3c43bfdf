//! `test`: a real Kafka, a real Redis and the Python environments, then `cargo test`, and all of it taken down again.
//!
//! Tests find what they need in the environment:
//!
//! | variable | is |
//! |---|---|
//! | `KAFKA_BOOTSTRAP` | the brokers that all tests share: one, unless the variable was set from outside |
//! | `KAFKA_LIBS` | Kafka's jars, for its own tools and for consumers in Java; not where Kafka comes from elsewhere |
//! | `REDIS_URL` | the Redis that all tests share |
//! | `PYTHON_HTTPX_027`, `PYTHON_HTTPX_028` | interpreters with httpx 0.27.2 and 0.28.1, cryptography, joserfc, requests, standardwebhooks and svix |
//! | `PYTHON_SSLYZE` | an interpreter with sslyze |
//! | `PYTHON_SELENIUM` | an interpreter with Selenium |
//! | `CHROMIUM`, `CHROMEDRIVER` | a browser and its driver; those on the path, unless the variables were set from outside |
//! | `NODE` | Node, 18 or later; the one on the path, unless the variable was set from outside |
//! | `SEALSTREAM_NODE_MODULES` | a file beside the JavaScript libraries standardwebhooks and svix |
//! | `SEALSTREAM_BIN_DIR` | the folder of the binaries `ingest`, `processor` and `sealstream` |
//! | `SEALSTREAM_XTASK` | this program: `kafka --state DIR up --own --until-eof` gives a test brokers that it may stop |

use crate::{browser, javascript, process, python, service::Service, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let state = workspace::state().join(format!("test-{}", std::process::id()));
    fs::create_dir_all(&state)?;
    sweep()?;
    let outcome = tests(arguments, &state);
    match &outcome {
        Ok(()) => fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?,
        Err(_) => eprintln!("x: what the brokers logged is in {}", state.display()),
    }
    outcome
}

/// Removes what earlier runs left behind: logs of those that failed, and of those that were killed.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(workspace::state())? {
        let dir = entry?.path();
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let run = name.strip_prefix("test-").or(name.strip_prefix("demo-")).and_then(|pid| pid.parse().ok());
        let taken_down = !dir.join("kafka/cluster.json").exists() && !dir.join("cluster.json").exists();
        if run.is_some_and(|pid| !process::exists(pid)) && taken_down {
            fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
    }
    Ok(())
}

fn tests(arguments: &[String], state: &Path) -> Result<()> {
    let word = |name: &str| state.join(name).display().to_string();
    let mut redis = Service::start("Redis", &["redis", "--state", &word("redis"), "up", "--until-eof"])?;
    let mut kafka = Service::start("Kafka", &["kafka", "--state", &word("kafka"), "up", "--until-eof"])?;
    let pythons = python::environments()?;
    let scripts = javascript::environment()?;
    let browser = browser::environment()?;
    // The broker starts while this compiles.
    workspace::build_tested()?;
    let mut environment = pythons;
    environment.extend(redis.ready()?);
    environment.extend(kafka.ready()?);
    environment.extend(scripts);
    environment.extend(browser);
    environment.push(("SEALSTREAM_BIN_DIR".into(), workspace::binaries()?.display().to_string()));
    environment.push(("SEALSTREAM_XTASK".into(), workspace::program()?.display().to_string()));

    let mut command = workspace::cargo();
    command.args(["test", "--locked", "--no-fail-fast"]);
    if !names_package(arguments) {
        command.arg("--workspace");
    }
    let status = command.args(arguments).envs(environment).status().context("running cargo test")?;
    if !status.success() {
        bail!("tests failed");
    }
    Ok(())
}

/// Whether the arguments choose packages themselves.
fn names_package(arguments: &[String]) -> bool {
    let own = arguments.iter().take_while(|word| *word != "--");
    own.into_iter().any(|word| word == "-p" || word.starts_with("--package") || word == "--workspace")
}

#[cfg(test)]
mod tests {
    use super::names_package;

    #[test]
    fn the_workspace_is_tested_unless_a_package_is_named() {
        let names = |line: &str| names_package(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(names("-p common"));
        assert!(names("--package=common envelope"));
        assert!(!names("envelope"));
        assert!(!names("envelope -- --package"));
    }
}
