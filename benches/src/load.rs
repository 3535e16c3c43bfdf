//! `sealstream load` as the driver of servers.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tests::environment;

/// What is used of its report.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Every request.
    pub requests: u64,
    /// Those that were answered 2xx.
    pub received: u64,
    /// They, in a second.
    pub received_per_second: f64,
    /// How long they took.
    pub latency_ms: Option<Quantiles>,
    /// CPU of the generator.
    pub cpu_us_per_request: f64,
    /// In cores.
    pub cpu_cores: f64,
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50: f64,
    /// 99 % are below.
    pub p99: f64,
    /// 99.9 % are below.
    pub p99_9: f64,
}

/// A load that runs.
pub struct Load(Child);

impl Load {
    /// Starts one with a sender's configuration.
    pub fn start(sender: &Path, url: &str, words: &[String]) -> Result<Self> {
        let mut command = Command::new(environment::binary("sealstream")?);
        command.args(["load", "--json", "--config"]).arg(sender).args(["--url", url]).args(words);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?))
    }

    /// Waits for its end. A request that was not received is an error: the figures would be of something else.
    pub fn finish(self) -> Result<Report> {
        let ran = tokio::task::block_in_place(|| self.0.wait_with_output())?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let report: Report =
            serde_json::from_str(&said).with_context(|| format!("the load ended with {}", ran.status))?;
        ensure!(report.received == report.requests, "not every request was received: {said}");
        Ok(report)
    }
}
