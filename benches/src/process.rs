//! A contender: a child process that listens.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::wait::until;
use tokio::net::TcpStream;

/// How long it may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running one. It is killed when this is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command whose output goes to a file, and waits until it listens.
    pub async fn start(command: &mut Command, log: &Path, listens: SocketAddr) -> Result<Self> {
        let out = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        let mut process = Self { child };
        until("it listens", START_DEADLINE, async || {
            if let Some(status) = process.child.try_wait()? {
                bail!("it ended at once, with {status}: {}", std::fs::read_to_string(log)?);
            }
            Ok(TcpStream::connect(listens).await.ok())
        })
        .await?;
        Ok(process)
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        Ok(tokio::task::block_in_place(|| self.child.wait())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
