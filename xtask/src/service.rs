//! A service that lives as long as whoever asked for it: a second process of this program starts it, and takes it down when
//! its standard input ends.
//!
//! The input ends when the owner drops it and also when the owner is killed, so brokers never outlive a test run. The tests'
//! harness uses the same way for clusters of its own: `xtask kafka --state DIR up --own --until-eof`.

use crate::{process::poll, workspace};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// The line that says that the service is up.
const READY: &str = "ready";

/// A service that another process of this program keeps up for this one.
pub(crate) struct Service {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
}

impl Service {
    /// Starts `xtask WORDS…`, whose last word makes it wait for the end of its input; does not wait until it is up.
    pub(crate) fn start(name: &'static str, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(workspace::program()?);
        // Ctrl-C goes to this process only; the service sees the end of its input a moment later.
        command.args(words).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let input = child.stdin.take();
        Ok(Self { name, child, input })
    }

    /// Waits until the service is up, and answers the environment that it printed.
    pub(crate) fn ready(&mut self) -> Result<Vec<(String, String)>> {
        let mut environment = Vec::new();
        let output = self.child.stdout.take().with_context(|| format!("{} is asked twice", self.name))?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line == READY {
                return Ok(environment);
            }
            if let Some((name, value)) = line.split_once('=') {
                environment.push((name.to_owned(), value.to_owned()));
            }
        }
        bail!("{} could not be started", self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.input.take());
        if poll(Duration::from_secs(60), || self.child.try_wait().ok().flatten()).is_none() {
            eprintln!("x: {} is still being taken down by process {}", self.name, self.child.id());
        }
    }
}

/// The other side: says that the service is up, and waits until nobody needs it any more.
pub(crate) fn hold() {
    println!("{READY}");
    // An error is the end too.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
