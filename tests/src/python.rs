//! The scripts in `tests/python` and `tests/javascript`: senders and verifiers that share no code with us.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a script with a JSON document as its input, and answers the JSON document that it printed.
pub async fn run(interpreter: &Path, script: &str, input: &Value) -> Result<Value> {
    let mut running = Script::start(interpreter, script, input).await?;
    let answer = running.line().await?;
    running.end().await?;
    Ok(answer)
}

/// A script that is running.
#[derive(Debug)]
pub struct Script {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts a script and gives it its input.
    pub async fn start(interpreter: &Path, script: &str, input: &Value) -> Result<Self> {
        let is_python = script.ends_with(".py");
        let folder = if is_python { "python" } else { "javascript" };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(script);
        let mut command = Command::new(interpreter);
        if is_python {
            command.args(["-B", "-W", "error::SyntaxWarning"]);
        }
        // Node takes further authorities from its environment only.
        command.envs(input["ca"].as_str().map(|ca| ("NODE_EXTRA_CA_CERTS", ca)));
        let mut child = command
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {} {}", interpreter.display(), path.display()))?;
        let mut stdin = child.stdin.take().context("the script's input")?;
        stdin.write_all(input.to_string().as_bytes()).await?;
        drop(stdin);
        let stdout = child.stdout.take().context("the script's output")?;
        Ok(Self { name: script.to_owned(), child, lines: BufReader::new(stdout).lines() })
    }

    /// The next line that it prints, as JSON.
    pub async fn line(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line())
            .await
            .with_context(|| format!("{} printed nothing for {} s", self.name, DEADLINE.as_secs()))??
            .with_context(|| format!("{} ended without an answer; what it said is above", self.name))?;
        serde_json::from_str(&line).with_context(|| format!("{} printed what is no JSON: {line}", self.name))
    }

    /// Waits for its end, which must be a good one.
    pub async fn end(mut self) -> Result<()> {
        let status = tokio::time::timeout(DEADLINE, self.child.wait())
            .await
            .with_context(|| format!("{} does not end", self.name))??;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }
}
