//! `ci`: every check, with the time that each took.

use crate::{bench, counts, deploy, deps, faults, lint, rows, symbols, test};
use anyhow::{Context, Result};
use std::time::Duration;

/// In this order, so that the tests' closing lines come last.
const CHECKS: [Check; 9] = [
    Check { name: "lint", run: lint::run },
    Check { name: "deps", run: deps::run },
    Check { name: "symbols", run: || symbols::run(symbols::DEV) },
    Check { name: "deploy", run: deploy::run },
    Check { name: "faults", run: faults::short },
    Check { name: "rows", run: || rows::run(&rows::Arguments::default()) },
    Check { name: "counts", run: || counts::run(&counts::Arguments::default()) },
    Check { name: "bench", run: bench::smoke },
    Check { name: "test", run: || test::run(&[]) },
];

struct Check {
    name: &'static str,
    run: fn() -> Result<()>,
}

pub(crate) fn run() -> Result<()> {
    let mut times = String::new();
    for Check { name, run } in CHECKS {
        println!("== {name}");
        let (outcome, time) = timed(run);
        outcome.with_context(|| format!("{name} failed after {} s", time.as_secs()))?;
        times.push_str(&format!(" {name} {} s", time.as_secs()));
    }
    println!("== all is well:{times}");
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long a check takes is the machine's time, whatever the clock of a test says"
)]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = std::time::Instant::now();
    (work(), begin.elapsed())
}
