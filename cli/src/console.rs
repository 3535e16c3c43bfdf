//! `sealstream console`: a web page over the whole deployment, for the operator. It shows what `status` shows, with charts, and
//! dead letters, which it can redrive.
//!
//! | part | what |
//! |---|---|
//! | `access` | who may do what: the token, sessions, CSRF tokens, and how often one may guess |
//! | `guard` | what every request must say of itself, and what every answer says to the browser |
//! | `live` | looks at the cluster now and then, and remembers the last half hour |
//! | `search` | the dead letters that a search means |
//! | `job` | one redrive at a time |
//! | `site` | which request is answered by what |
//! | `listener` | connections, with or without TLS |
//!
//! It never decrypts, and could not: it has no key that opens an envelope. Every change of state is logged.

mod access;
mod guard;
mod job;
mod listener;
mod live;
mod search;
mod site;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::config::environment;
use common::shutdown::Group;
use common::telemetry::{LogConfig, LogFormat, install_logging};
use common::tls;
use common::topics::Delay;
use processor::config::Config;
use tokio::net::TcpListener;

use crate::cluster::{Cluster, NodeArgs};
use crate::{Verdict, redrive, say};
use access::Access;
use guard::Guard;
use job::Jobs;
use live::Live;
use site::Site;

/// How long requests that are under way, and the batch of a redrive, may take to end.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Options of `console`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The processor's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    listen: SocketAddr,
    /// The token that lets in who knows it: a file with at least 16 characters, read again whenever it is needed
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// PEM of the server's certificate: with it and --key it speaks TLS
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM of the certificate's key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// A host name that browsers use for this page, besides the loopback's; may be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Listen on an address that others can reach without TLS: token and cookies are read by whoever is on the way
    #[arg(long)]
    danger_plaintext: bool,
    /// Show only: redrive is switched off
    #[arg(long)]
    read_only: bool,
    /// Redrive at most so many letters per second
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = redrive::rate)]
    redrive_rate: u32,
    /// Time between two looks at the deployment
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    interval: Delay,
}

/// Runs `console` until it is asked to end.
pub async fn run(args: &Args) -> Result<Verdict> {
    install_logging(&LogConfig { format: LogFormat::Human, level: "info".to_owned() });
    check(args)?;
    let group = Group::new();
    let stop = group.on_signals();
    let clock = Clock::system();
    let config = Arc::new(Config::load(Some(&args.config), environment())?);
    let tls = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Some(tls::server_config(certificate, key)?),
        (None, None) | (Some(_), None) | (None, Some(_)) => None,
    };
    let cluster = Cluster::of(&config, &args.nodes, &clock)?;
    let letters = cluster.letters();
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let address = listener.local_addr()?;
    let live = Live::start(&group, cluster, config.clone(), args.interval.duration());
    let site = Arc::new(Site {
        access: Access::new(&args.token_file, clock.clone(), address.port(), tls.is_some())?,
        guard: Guard::new(address, &args.hosts, tls.is_some()),
        jobs: Jobs::new(config.clone(), clock.clone(), args.redrive_rate),
        read_only: args.read_only,
        live,
        letters,
        config,
        clock,
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    listener::serve(&group, listener, tls, site.clone());
    say::line(format_args!("the console is at {scheme}://{address}/"));
    stop.await;
    site.jobs.interrupt();
    group.cancel();
    if !site.jobs.ended(END_DEADLINE).await || !group.wait(END_DEADLINE).await {
        say::note("not everything under way has ended in time");
    }
    Ok(Verdict::Good)
}

/// Refuses what would show the token to others.
fn check(args: &Args) -> Result<()> {
    let is_plain = args.certificate.is_none();
    if is_plain && !args.listen.ip().is_loopback() && !args.danger_plaintext {
        bail!(
            "{} can be reached by others, who could read the token: give --certificate and --key, or listen on 127.0.0.1 and reach it \
             through a tunnel; --danger-plaintext says that something else encrypts",
            args.listen
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn checked(more: &[&str]) -> Result<()> {
        let words = [&["console", "--config", "c", "--token-file", "t"], more].concat();
        check(&Line::try_parse_from(words)?.args)
    }

    #[test]
    fn without_tls_it_listens_on_the_loopback_alone_unless_told() {
        assert!(checked(&[]).is_ok());
        assert!(checked(&["--listen", "[::1]:80"]).is_ok());
        for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            let error = checked(&["--listen", address]).unwrap_err().to_string();
            assert!(error.contains("--certificate"), "{error}");
            assert!(checked(&["--listen", address, "--danger-plaintext"]).is_ok());
            assert!(checked(&["--listen", address, "--certificate", "c", "--key", "k"]).is_ok());
            assert!(checked(&["--listen", address, "--certificate", "c"]).is_err(), "both or none");
        }
    }
}
