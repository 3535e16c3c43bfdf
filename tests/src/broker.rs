//! Brokers of a test's own, to be stopped and started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::kafka::client::KafkaConfig;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::environment;

/// How long starting or stopping may take.
const DEADLINE: Duration = Duration::from_secs(180);

/// See the module. It is taken down, with its data, when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct OwnBroker {
    program: PathBuf,
    dir: PathBuf,
    bootstrap: String,
    proxied: Vec<(SocketAddr, SocketAddr)>,
    sasl: String,
    mutual: String,
    // Its end takes the broker down.
    input: ChildStdin,
    child: Child,
}

impl OwnBroker {
    /// Starts a cluster of one broker.
    pub async fn start() -> Result<Self> {
        Self::start_cluster(&[]).await
    }

    /// Starts a cluster of three brokers with a second way in, for proxies.
    pub async fn start_three() -> Result<Self> {
        Self::start_cluster(&["--brokers", "3", "--proxied"]).await
    }

    /// Starts a cluster of one broker with two more ways in, by SASL over TLS and by certificate, and with access lists on. See
    /// `xtask kafka up --secured` for what the folder holds.
    pub async fn start_secured(dir: &Path) -> Result<Self> {
        Self::start_cluster(&["--secured", dir.to_str().context("a path that is text")?]).await
    }

    async fn start_cluster(words: &[&str]) -> Result<Self> {
        let program = environment::xtask()?;
        // Not removed when this is dropped: whoever takes the broker down finds it by its files.
        let dir = tempfile::Builder::new().prefix("sealstream-broker-").tempdir()?.keep();
        let mut child = Command::new(&program)
            .arg("kafka")
            .arg("--state")
            .arg(&dir)
            .args(["up", "--own", "--until-eof"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let input = child.stdin.take().context("the service's input")?;
        let mut lines = BufReader::new(child.stdout.take().context("the service's output")?).lines();
        let mut bootstrap = None;
        let mut proxied = String::new();
        let (mut sasl, mut mutual) = (String::new(), String::new());
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line == "ready" {
                    return Ok(());
                }
                if let Some(value) = line.strip_prefix("KAFKA_BOOTSTRAP=") {
                    bootstrap = Some(value.to_owned());
                }
                if let Some(value) = line.strip_prefix("SEALSTREAM_KAFKA_PROXIED=") {
                    value.clone_into(&mut proxied);
                }
                if let Some(value) = line.strip_prefix("SEALSTREAM_KAFKA_SASL=") {
                    value.clone_into(&mut sasl);
                }
                if let Some(value) = line.strip_prefix("SEALSTREAM_KAFKA_MUTUAL=") {
                    value.clone_into(&mut mutual);
                }
            }
            anyhow::bail!("the broker could not be started; what xtask said is above")
        };
        tokio::time::timeout(DEADLINE, ready).await.context("the broker does not come up")??;
        let bootstrap = bootstrap.context("xtask did not say where the broker is")?;
        let proxied = proxied.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (listens, tells) = pair.split_once('=').context("two addresses")?;
            anyhow::Ok((listens.parse()?, tells.parse()?))
        });
        let proxied = proxied.collect::<Result<_>>()?;
        Ok(Self { program, dir, bootstrap, proxied, sasl, mutual, input, child })
    }

    /// How to reach it.
    pub fn kafka(&self) -> KafkaConfig {
        KafkaConfig::plaintext(self.bootstrap.clone())
    }

    /// The second way in, broker by broker: where each listens for a proxy, and where it tells clients that it is.
    pub fn proxied(&self) -> &[(SocketAddr, SocketAddr)] {
        &self.proxied
    }

    /// Where clients come in by SASL over TLS.
    pub fn sasl(&self) -> &str {
        &self.sasl
    }

    /// Where clients come in by certificate.
    pub fn mutual(&self) -> &str {
        &self.mutual
    }

    /// Runs one of Kafka's own tools, with full rights.
    pub async fn tool(&self, script: &str, words: &[String]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("kafka").arg("--state").arg(&self.dir).args(["tool", script]).args(words).stdout(Stdio::null());
        let status = tokio::time::timeout(DEADLINE, command.status()).await.context("the tool does not end")??;
        ensure!(status.success(), "`{script} {}` ended with {status}", words.join(" "));
        Ok(())
    }

    /// Stops the broker; its data and its port stay.
    pub async fn stop(&self) -> Result<()> {
        self.stop_one(1).await
    }

    /// Kills the broker; its data and its port stay.
    pub async fn kill(&self) -> Result<()> {
        self.kill_one(1).await
    }

    /// Starts the broker again.
    pub async fn restart(&self) -> Result<()> {
        self.start_one(1).await
    }

    /// Stops the broker of a number, from 1: it hands over what it leads.
    pub async fn stop_one(&self, number: usize) -> Result<()> {
        self.command("stop", number).await
    }

    /// Kills the broker of a number.
    pub async fn kill_one(&self, number: usize) -> Result<()> {
        self.command("kill", number).await
    }

    /// Starts the broker of a number again.
    pub async fn start_one(&self, number: usize) -> Result<()> {
        self.command("start", number).await
    }

    /// Takes the broker down and waits until it is gone, with everything that it kept.
    pub async fn end(self) -> Result<()> {
        let Self { dir, input, mut child, .. } = self;
        drop(input);
        let status = tokio::time::timeout(DEADLINE, child.wait()).await.context("xtask does not end")??;
        ensure!(status.success(), "taking the broker down ended with {status}");
        Ok(std::fs::remove_dir_all(dir)?)
    }

    async fn command(&self, action: &str, number: usize) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("kafka").arg("--state").arg(&self.dir).args([action, &number.to_string()]);
        let status = tokio::time::timeout(DEADLINE, command.status()).await.context("xtask does not end")??;
        ensure!(status.success(), "`xtask kafka {action} {number}` ended with {status}");
        Ok(())
    }
}
