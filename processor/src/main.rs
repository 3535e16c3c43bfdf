//! The processor's process: configuration, signals, exit status.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use common::config::{EXIT_STATUS, environment};
use common::hardening::harden;
use common::reload::Hangups;
use common::shutdown::Group;
use common::telemetry::{install_logging, install_metrics};
use processor::config::Config;
use processor::{Deps, start_from};

/// How long the last commit and the last hand-offs may take after the drain.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// What the command line says.
struct Arguments {
    config: Option<PathBuf>,
    check: bool,
}

pub(crate) fn main() -> ExitCode {
    let hardened = harden();
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => return refuse(&format!("{problem}\nusage: processor [--config FILE] [--check]"), 64),
    };
    let config = match Config::load(arguments.config.as_deref(), environment()) {
        Ok(config) => config,
        Err(mistakes) => return refuse(&mistakes.to_string(), EXIT_STATUS),
    };
    install_logging(&config.log);
    if let Err(error) = hardened {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("no runtime: {error}"), 71),
    };
    if arguments.check {
        return match processor::check(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(mistakes) => refuse(&mistakes.to_string(), EXIT_STATUS),
        };
    }
    runtime.block_on(run(config, arguments.config))
}

async fn run(config: Config, file: Option<PathBuf>) -> ExitCode {
    let deadline = config.group.drain_deadline + STOP_MARGIN;
    let metrics = install_metrics();
    // Before it joins its groups: from then on a signal must not cut anything off.
    let mut asked_to_stop = pin!(Group::new().on_signals());
    let mut generation = 1;
    loop {
        let (deps, hangups, file) = (Deps::system(metrics.clone()), Hangups::take(), file.clone());
        let deps = Deps { generation, ..deps };
        let tasks = deps.tasks.clone();
        let load = move || Ok((Config::load(file.as_deref(), environment())?, file.iter().cloned().collect()));
        let running = match start_from(load, deps).await {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the processor can't start");
                return ExitCode::from(69);
            }
        };
        tracing::info!(admin = %running.admin_address(), version = env!("CARGO_PKG_VERSION"), "processor started");
        let reload = running.reload().clone();
        hangups.reload(reload.clone(), &tasks);
        let is_asked = tokio::select! {
            () = &mut asked_to_stop => true,
            () = running.superseded() => false,
        };
        tracing::info!(anew = !is_asked, "processor stopping");
        // A synchronous commit has no deadline of its own; with Kafka away, leaving without it only means replays.
        if tokio::time::timeout(deadline, running.stop()).await.is_err() {
            tracing::error!(?deadline, "the processor did not stop in time");
            std::process::exit(70);
        }
        tracing::info!("processor stopped");
        if is_asked {
            return ExitCode::SUCCESS;
        }
        generation = reload.generation();
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { config: None, check: false };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--config" => arguments.config = Some(words.next().ok_or("--config needs a file")?.into()),
            "--check" => arguments.check = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(arguments)
}

#[allow(clippy::print_stderr, reason = "logging is not set up yet")]
fn refuse(problem: &str, status: u8) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::from(status)
}
