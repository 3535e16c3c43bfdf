//! A Redis of a test's own, to be killed, stopped and started.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::materials::Materials;
use crate::ports;
use crate::wait::until;

/// How long it may take to listen.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// See the module. It is gone when this is dropped.
#[derive(Debug)]
pub struct OwnRedis {
    address: SocketAddr,
    settings: Vec<String>,
    /// Answered also by one that wants a password or TLS.
    plain: SocketAddr,
    child: Option<Child>,
    dir: TempDir,
}

impl OwnRedis {
    /// Starts one without password and TLS.
    pub async fn start() -> Result<Self> {
        let address = ports::free();
        Self::start_with(address, address, vec!["--port".to_owned(), address.port().to_string()]).await
    }

    /// Starts one that speaks TLS, with the stack's certificate, and wants a password. Its plain port is for looking on.
    pub async fn start_secured(materials: &Materials, password: &str) -> Result<Self> {
        let (address, plain) = (ports::free(), ports::free());
        let path = |name: &str| materials.path(name).display().to_string();
        let words = [
            ("--port", plain.port().to_string()),
            ("--tls-port", address.port().to_string()),
            ("--tls-cert-file", path("tls/server.pem")),
            ("--tls-key-file", path("tls/server.key")),
            ("--tls-ca-cert-file", path("tls/ca.pem")),
            ("--tls-auth-clients", "no".to_owned()),
            ("--requirepass", password.to_owned()),
        ];
        let settings = words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        Self::start_with(address, plain, settings).await
    }

    async fn start_with(address: SocketAddr, plain: SocketAddr, settings: Vec<String>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sealstream-redis-").tempdir()?;
        let mut redis = Self { address, plain, settings, child: None, dir };
        redis.up().await?;
        Ok(redis)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it, empty, and waits until it answers.
    pub async fn up(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let child = Command::new("redis-server")
            .args(&self.settings)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting redis-server: install it, or run the tests with `./x test`, which does")?;
        self.child = Some(child);
        until("redis answers", READY_DEADLINE, async || {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            ensure!(ended.is_none(), "redis-server ended: {ended:?}");
            Ok(ask(self.plain, "PING").await.ok().filter(|answer| !answer.is_empty()).map(drop))
        })
        .await
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        Ok(child.kill().await?)
    }

    /// Stops it as it is: connections stay, nothing is answered.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).context("it does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }
}

/// Sends one command without arguments on a connection of its own, and answers the first bytes of the answer.
async fn ask(address: SocketAddr, command: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 64];
    let count = stream.read(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}
