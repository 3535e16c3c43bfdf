//! The command line of Sealstream, one module per command.
//!
//! A command's result goes to standard output, everything about it to standard error; with `--json` the result is
//! JSON. Colours and progress are for terminals only. What went wrong is told in a sentence that says what to do.
//!
//! It is a library too, so that tests run the [`demo`] and use the [`receiver`] without a process around them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

pub mod audit;
mod authority;
pub mod check;
mod cluster;
pub mod completions;
pub mod console;
pub mod demo;
pub mod deployment;
pub mod dlq;
mod files;
pub mod health;
pub mod init;
pub mod keygen;
pub mod load;
mod processor_config;
pub mod receiver;
pub mod redrive;
pub mod rotate;
mod say;
pub mod send;
pub mod sender_config;
pub mod sink;
pub mod source;
pub mod status;
pub mod tail;
pub mod topics;
pub mod trace;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use common::clock::Clock;
use common::config::{EXIT_STATUS, Mistakes};

/// How long calls that block may take to end when a command is done.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// The last lines of `sealstream help`.
const STATUSES: &str = "\
Exit status:
  0   done, and everything as it should be
  1   not done, or a check found something: standard error or the result says what
  2   the command line is wrong
  78  a configuration is wrong: each mistake is told with its file and line";

/// Receives sealed webhooks, recognises repeats, delivers each event once
#[derive(Debug, Parser)]
#[command(name = "sealstream", version, after_help = STATUSES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole path in this process, with repeats, forgeries and failures, and show that the books balance
    Demo(demo::Args),
    /// Write a working configuration, keys and a development CA for a new deployment
    Init(init::Args),
    /// Make a new secret or key
    Keygen(keygen::Args),
    /// Seal, sign and send events
    Send(send::Args),
    /// Send many events, and measure how fast and how soon they are received
    Load(load::Args),
    /// Say what is wrong with a deployment, and what mends it
    Check(check::Args),
    /// Make the topics of a deployment, or check them
    #[command(subcommand)]
    Topics(topics::Command),
    /// Look at dead letters
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Show from Kafka alone that no record is missing: what each group was given is complete, by outcome, or open
    Audit(audit::Args),
    /// Put dead letters back, each once: to the sink that gave it up, or to the router that could not open it
    Redrive(redrive::Args),
    /// Follow one event through the topics, and say how far each sink has come
    Trace(trace::Args),
    /// Print records of a topic as they come; their payloads, in the clear, only on request
    Tail(tail::Args),
    /// Change the sources of a deployment
    #[command(subcommand)]
    Source(source::Command),
    /// Rotate secrets and keys: add, use, retire
    #[command(subcommand)]
    Rotate(rotate::Command),
    /// Print a script that completes this command in a shell
    Completions(completions::Completions),
    /// Write the manual pages
    Man(completions::Man),
    /// Show a whole deployment: rates, latencies, lag, retry lanes, breakers and dead letters
    Status(status::Args),
    /// Serve a web page that shows the same, searches dead letters, and redrives them
    Console(console::Args),
    /// Ask a service whether it is ready, for the health checks of containers
    Health(health::Args),
    /// Receive what an HTTP sink sends, check its signatures and print it
    Sink(sink::Args),
}

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as it should be.
    Good,
    /// Something is not, and the result says what.
    Bad,
}

impl Verdict {
    /// Good if this holds.
    pub fn good_if(holds: bool) -> Self {
        if holds { Self::Good } else { Self::Bad }
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    if let Err(error) = common::hardening::harden() {
        say::note(format_args!("sealstream: core dumps could not be switched off: {error}"));
    }
    match run(Arguments::parse().command) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(error) => {
            if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
                say::note(mistakes);
                return ExitCode::from(EXIT_STATUS);
            }
            say::note(format_args!("sealstream: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<Verdict> {
    // Files are read and written without a runtime.
    let command = match command {
        Command::Init(args) => return init::run(&args),
        Command::Keygen(args) => return keygen::run(&args),
        Command::Completions(args) => return completions::run(&args, Arguments::command()),
        Command::Man(args) => return completions::man(&args, Arguments::command()),
        // It has threads of its own.
        Command::Load(args) => return load::run(&args),
        Command::Source(command) => return source::run(&command),
        Command::Rotate(command) => return rotate::run(&command, &Clock::system()),
        other => other,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::run(&args).await,
            Command::Send(args) => send::run(&args).await,
            Command::Check(args) => check::run(&args).await,
            Command::Topics(command) => topics::run(&command).await,
            Command::Dlq(command) => dlq::run(&command).await,
            Command::Audit(args) => audit::run(&args).await,
            Command::Redrive(args) => redrive::run(&args).await,
            Command::Trace(args) => trace::run(&args).await,
            Command::Tail(args) => tail::run(&args).await,
            Command::Status(args) => status::run(&args).await,
            Command::Console(args) => console::run(&args).await,
            Command::Health(args) => health::run(&args).await,
            Command::Sink(args) => sink::run(&args).await,
            Command::Init(_)
            | Command::Keygen(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Load(_)
            | Command::Source(_)
            | Command::Rotate(_) => unreachable!("done above"),
        }
    });
    // What still blocks after that has nothing to say any more.
    runtime.shutdown_timeout(END_DEADLINE);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
