//! Every development and CI step as a subcommand: `./x STEP`, or `cargo xtask STEP` on a machine that is set up.
//!
//! `x` installs system packages and this program does the rest. It starts real brokers and a real Redis, and stops only
//! processes that it started itself, by their recorded ids.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod alerts;
mod bench;
mod browser;
mod ci;
mod compile;
mod counts;
mod coverage;
mod demo;
mod deploy;
mod deps;
mod faults;
mod fuzz;
mod javascript;
mod kafka;
mod links;
mod lint;
mod ports;
mod process;
mod python;
mod redis;
mod reference;
mod rows;
mod runbooks;
mod sbom;
mod security;
mod service;
mod symbols;
mod test;
mod upgrade;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The steps of Sealstream's development.
#[derive(Parser)]
#[command(name = "x", bin_name = "./x")]
struct Arguments {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    /// Build the command line and run its demonstration; `./x demo --help` lists its options
    #[command(disable_help_flag = true)]
    Demo {
        /// Handed to `sealstream demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test on a real Kafka and a real Redis
    #[command(disable_help_flag = true)]
    Test {
        /// Handed to `cargo test`; without a package named here, the whole workspace is tested
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill, stop, cut and spoil what runs, and hold what comes of it against the promise
    Faults(faults::Arguments),
    /// Replace a former release by this one under load, node by node, and go back
    Upgrade(upgrade::Arguments),
    /// Check the format, clippy, the documentation and the alert rules, with warnings denied
    Lint,
    /// Check who depends on what, the versions that matter, and the licences
    Deps,
    /// Check that the binary `ingest` holds nothing that could open an envelope
    Symbols {
        /// The cargo profile whose binaries are looked at
        #[arg(long, default_value = symbols::DEV)]
        profile: String,
    },
    /// Run the shipped binaries, built for release, beside the floors of their libraries on a real Kafka
    Bench(bench::Arguments),
    /// Count the instructions of what is done once per event, beside those noted
    Counts(counts::Arguments),
    /// Run the parsers under a fuzzer, from the seeds of the vectors
    Fuzz(fuzz::Arguments),
    /// Say how many lines of each parser its tests run
    Coverage,
    /// Check the manifests, units and bill of materials of a deployment against what reads them
    Deploy,
    /// Make docs/configuration.md of the defaults files
    Docs,
    /// Print what the shipped binaries are made of, as CycloneDX
    Sbom,
    /// Lint, deps, symbols, deploy, faults, rows, counts, a smoke run of the benches and the tests, with the time that each took
    Ci,
    /// Run a local Kafka for development
    Kafka(kafka::Arguments),
    /// Run a local Redis for development
    Redis(redis::Arguments),
    /// Run the tests of what ingest answers, row by row
    Rows(rows::Arguments),
    /// Make the Python environments of the tests
    Python,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().step {
        Step::Demo { arguments } => demo::run(&arguments),
        Step::Test { arguments } => test::run(&arguments),
        Step::Faults(arguments) => faults::run(&arguments),
        Step::Lint => lint::run(),
        Step::Deps => deps::run(),
        Step::Symbols { profile } => symbols::run(&profile),
        Step::Bench(arguments) => bench::run(&arguments),
        Step::Counts(arguments) => counts::run(&arguments),
        Step::Fuzz(arguments) => fuzz::run(&arguments),
        Step::Coverage => coverage::run(),
        Step::Deploy => deploy::run(),
        Step::Docs => reference::write(),
        Step::Sbom => sbom::run(),
        Step::Ci => ci::run(),
        Step::Kafka(arguments) => kafka::run(arguments),
        Step::Redis(arguments) => redis::run(arguments),
        Step::Upgrade(arguments) => upgrade::run(&arguments),
        Step::Rows(arguments) => rows::run(&arguments),
        Step::Python => python::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}
