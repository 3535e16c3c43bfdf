//! `demo`: builds the command line and runs its demonstration.

use crate::{compile, service::Service, workspace};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    // The dev profile is built in half the time of the release profile, and runs the same libraries, optimised.
    compile::quietly("building Sealstream", "sealstream")?;
    let kafka = wants_kafka(arguments) && workspace::setting("KAFKA_BOOTSTRAP").is_none();
    let mut command = Command::new(workspace::binaries()?.join("sealstream"));
    // What it says of itself is what the user types.
    command.arg0("./x").arg("demo").args(arguments);
    let status =
        if kafka { beside_kafka(&mut command)? } else { command.status().context("running the demonstration")? };
    // The books of the demonstration decide; it has said why.
    std::process::exit(status.code().unwrap_or(1))
}

fn beside_kafka(command: &mut Command) -> Result<ExitStatus> {
    eprintln!("x: starting a Kafka broker");
    let state = workspace::state().join(format!("demo-{}", std::process::id()));
    let dir = state.display().to_string();
    let mut kafka = Service::start("Kafka", &["kafka", "--state", &dir, "up", "--own", "--until-eof"])?;
    let status = command.envs(kafka.ready()?).status().context("running the demonstration")?;
    drop(kafka);
    std::fs::remove_dir_all(&state).with_context(|| format!("removing {dir}"))?;
    Ok(status)
}

/// Whether the arguments hold `--kafka real` or `--kafka=real`.
fn wants_kafka(arguments: &[String]) -> bool {
    let line = format!(" {} ", arguments.join(" "));
    line.contains(" --kafka real ") || line.contains(" --kafka=real ")
}

#[cfg(test)]
mod tests {
    use super::wants_kafka;

    #[test]
    fn a_broker_is_started_only_for_the_real_kafka() {
        let asks = |line: &str| wants_kafka(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(asks("--kafka real"));
        assert!(asks("--events 5 --kafka=real --json"));
        assert!(!asks("--events 5"));
        assert!(!asks("--kafka mock --json"));
    }
}
