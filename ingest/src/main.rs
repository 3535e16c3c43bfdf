//! The binary: arguments, logs, signals. Everything else is the library's.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use common::clock::Clock;
use common::config::EXIT_STATUS;
use common::hardening::harden;
use common::reload::Hangups;
use common::shutdown::Group;
use common::telemetry;
use ingest::{Config, Deps, StartError};

const USAGE: &str = "usage: ingest [--config FILE] [--check]\n";
/// A wrong command line, as sysexits.h has it.
const EXIT_USAGE: u8 = 64;
/// After the drain deadline, how long the rest may take.
const END_MARGIN: Duration = Duration::from_secs(10);

/// What the command line asks for.
#[derive(Default)]
struct Arguments {
    config: Option<PathBuf>,
    check: bool,
    help: bool,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<Self> {
        let mut parsed = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.to_str()? {
                "--config" => parsed.config = Some(arguments.next()?.into()),
                "--check" => parsed.check = true,
                "--help" | "-h" => parsed.help = true,
                _ => return None,
            }
        }
        Some(parsed)
    }
}

fn main() -> ExitCode {
    let hardened = harden();
    let Some(arguments) = Arguments::parse(std::env::args_os().skip(1)) else {
        say(USAGE);
        return ExitCode::from(EXIT_USAGE);
    };
    if arguments.help {
        say(USAGE);
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(arguments.config.as_deref(), common::config::environment()) {
        Ok(config) => config,
        Err(mistakes) => {
            say(&format!("{mistakes}\n"));
            return ExitCode::from(EXIT_STATUS);
        }
    };
    if arguments.check {
        return match ingest::check(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(mistakes) => {
                say(&format!("{mistakes}\n"));
                ExitCode::from(EXIT_STATUS)
            }
        };
    }
    telemetry::install_logging(&config.log);
    if let Err(error) = hardened {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
    match run(config, arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let configuration = matches!(
                error.downcast_ref(),
                Some(StartError::Configuration(_) | StartError::Kafka(_) | StartError::Telemetry(_))
            );
            if configuration { ExitCode::from(EXIT_STATUS) } else { ExitCode::FAILURE }
        }
    }
}

#[tokio::main]
async fn run(config: Config, file: Option<PathBuf>) -> anyhow::Result<()> {
    let deadline = config.drain.deadline + END_MARGIN;
    let group = Group::new();
    let deps = Deps { group: group.clone(), clock: Clock::system(), metrics: telemetry::install_metrics() };
    // Before it listens: from then on requests may be under way, and a signal must not cut them off.
    let (asked_to_stop, hangups) = (group.on_signals(), Hangups::take());
    let load = move || {
        let config = Config::load(file.as_deref(), common::config::environment())?;
        Ok((config, file.iter().cloned().collect()))
    };
    let running = ingest::start_from(load, deps).await?;
    hangups.reload(running.reload().clone(), &group);
    asked_to_stop.await;
    group.cancel();
    anyhow::ensure!(group.wait(deadline).await, "not everything ended within {deadline:?}");
    Ok(())
}

/// Standard error, before there is a log.
#[allow(clippy::print_stderr, reason = "the log's configuration is what failed")]
fn say(text: &str) {
    eprint!("{text}");
}
