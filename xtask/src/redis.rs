//! A local Redis that keeps nothing on disk, on a free port.

use crate::{ports, process::Daemon, service, workspace};
use anyhow::{Context, Result};
use clap::Subcommand;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Options of `redis`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where its state is kept [default: .sealstream/redis]
    #[arg(long, global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start it and print its address; with `REDIS_URL` set, that one is used
    Up {
        /// Stay, and take it down when standard input ends
        #[arg(long)]
        until_eof: bool,
    },
    /// Stop it
    Down,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let dir = arguments.state.unwrap_or_else(|| workspace::state().join("redis"));
    match arguments.action {
        Action::Up { until_eof } => {
            let url = up(&dir)?;
            println!("REDIS_URL={url}");
            if until_eof {
                service::hold();
                down(&dir)?;
            }
            Ok(())
        }
        Action::Down => down(&dir),
    }
}

fn up(dir: &Path) -> Result<String> {
    if let Some(url) = workspace::setting("REDIS_URL") {
        return Ok(url);
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let recorded = port(dir).filter(|port| daemon(dir, *port).pid().is_some());
    let port = match recorded {
        Some(port) => port,
        None => ports::free(1)?[0],
    };
    if recorded.is_none() {
        let configuration = dir.join("redis.conf");
        fs::write(
            &configuration,
            format!("bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\ndir \"{}\"\n", dir.display()),
        )?;
        fs::write(dir.join("port"), port.to_string())?;
        let ready = |said: &str| said.contains("eady to accept connections");
        daemon(dir, port).start(Command::new("redis-server").arg(&configuration), Duration::from_secs(20), ready)?;
    }
    Ok(format!("redis://127.0.0.1:{port}"))
}

fn down(dir: &Path) -> Result<()> {
    let Some(port) = port(dir) else { return Ok(()) };
    daemon(dir, port).stop(Duration::from_secs(10))?;
    fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// The port of the Redis whose state is in `dir`, if there is one.
fn port(dir: &Path) -> Option<u16> {
    fs::read_to_string(dir.join("port")).ok()?.parse().ok()
}

fn daemon(dir: &Path, port: u16) -> Daemon {
    Daemon {
        name: "Redis".into(),
        pid_file: dir.join("pid"),
        log: dir.join("log"),
        // Redis replaces its arguments in the process list by its address.
        mark: format!("127.0.0.1:{port}"),
    }
}
