//! One child process: a shipped binary with its configuration, which can be killed, stopped and started again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::answer::{get, metric};
use crate::wait::until;

/// How long a process may take to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to end when it is asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// The status of a process that ends itself because what it may still do is in doubt: it wants to be started again.
const IN_DOUBT: i32 = 70;

/// How a process is started.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name, for example `ingest-0`.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Variables that override the file.
    pub variables: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Its internal listener.
    pub admin: SocketAddr,
    /// Whether it may end itself in doubt, because the test takes away what it needs.
    pub may_doubt: bool,
}

/// See the module.
pub struct Node {
    spec: NodeSpec,
    child: Option<Child>,
}

impl Node {
    /// A process that does not run yet.
    pub fn new(spec: NodeSpec) -> Self {
        Self { spec, child: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its internal listener is.
    pub fn admin(&self) -> SocketAddr {
        self.spec.admin
    }

    /// Sets a variable of its next starts, or takes it away.
    pub fn set(&mut self, name: &'static str, value: Option<String>) {
        self.spec.variables.retain(|(known, _)| *known != name);
        self.spec.variables.extend(value.map(|value| (name, value)));
    }

    /// Runs its binary of this folder from its next start on.
    pub fn install(&mut self, release: &Path) {
        self.spec.program = release.join(self.spec.program.file_name().expect("a program is a file"));
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        Some(Pid::from_raw(i32::try_from(self.child.as_ref()?.id()?).ok()?))
    }

    /// Sends it a signal, and does not wait for what becomes of it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.spec.name))?;
        Ok(kill(pid, signal)?)
    }

    /// How it ended, if it has ended by itself: it is not running then.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() else { return Ok(None) };
        self.child = None;
        Ok(Some(status))
    }

    /// Whether it was started and not yet stopped or killed by us.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it; does not wait until it is ready.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.spec.name);
        let mut log = OpenOptions::new().create(true).append(true).open(&self.spec.log)?;
        writeln!(log, "=== start")?;
        let child = Command::new(&self.spec.program)
            .arg("--config")
            .arg(&self.spec.config)
            .envs(self.spec.variables.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.spec.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it says that it is ready. One that may end itself in doubt is started again meanwhile.
    pub async fn ready(&mut self) -> Result<()> {
        let (name, admin) = (self.spec.name.clone(), self.spec.admin);
        ensure!(self.child.is_some(), "{name} is not running");
        until(&format!("{name} is ready"), READY_DEADLINE, async || {
            self.supervise()?;
            Ok(get(admin, "/readyz").await.ok().filter(|(status, _)| *status == 200).map(drop))
        })
        .await
    }

    /// Starts it and waits until it is ready.
    pub async fn up(&mut self) -> Result<()> {
        self.start()?;
        self.ready().await
    }

    /// Starts it again if it has ended itself in doubt and may do so. That it ended by itself otherwise is an error.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() else { return Ok(()) };
        ensure!(self.is_doubt(status), "{} ended by itself, with {status}", self.spec.name);
        self.child = None;
        self.start()
    }

    fn is_doubt(&self, status: ExitStatus) -> bool {
        self.spec.may_doubt && status.code() == Some(IN_DOUBT)
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        let status = self.end(Signal::SIGKILL).await?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        ensure!(
            signal == Some(Signal::SIGKILL as i32),
            "{} was not killed, it had ended with {status}",
            self.spec.name
        );
        Ok(())
    }

    /// Asks it to end, and waits until it has: with status 0, or in doubt if it may.
    pub async fn stop(&mut self) -> Result<()> {
        let status = self.end(Signal::SIGTERM).await?;
        ensure!(status.success() || self.is_doubt(status), "{} ended with {status}", self.spec.name);
        Ok(())
    }

    async fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.spec.name))?;
        if let Some(status) = child.try_wait()? {
            ensure!(self.is_doubt(status), "{} had ended by itself, with {status}", self.spec.name);
            return Ok(status);
        }
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("a running process has an id")?;
        kill(Pid::from_raw(pid), signal)?;
        let status = tokio::time::timeout(STOP_DEADLINE, child.wait()).await;
        Ok(status.with_context(|| format!("{} does not end after {signal}", self.spec.name))??)
    }

    /// Sum of the series of one of its metrics that carry these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(metric(&self.metrics().await?, name, labels))
    }

    /// All of its metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        let (_, text) = get(self.spec.admin, "/metrics").await.with_context(|| format!("asking {}", self.spec.name))?;
        Ok(text)
    }

    /// What it says of its readiness: the status, and the conditions as JSON.
    pub async fn readyz(&self) -> Result<(u16, String)> {
        get(self.spec.admin, "/readyz").await
    }

    /// Lines of its log, of all its starts, that hold this text.
    pub fn log_lines(&self, text: &str) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(&self.spec.log)?;
        Ok(log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect())
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = File::open(&self.spec.log).and_then(std::io::read_to_string).unwrap_or_default();
        let mut tail: Vec<&str> = log.lines().rev().take(lines).collect();
        tail.reverse();
        tail.join("\n")
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec.name)
    }
}
