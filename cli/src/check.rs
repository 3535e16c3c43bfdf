//! `sealstream check`: what is wrong with a deployment, before it is started and while it runs, each with its remedy.
//!
//! It reads what ingest and the processors would read, asks whom they would ask, and changes nothing.

mod files;
mod pair;
mod reach;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Result, bail};
use common::clock::Clock;
use common::config::environment;
use serde::Serialize;

use crate::{Verdict, say};

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ingest's configuration
    #[arg(long, value_name = "FILE")]
    pub ingest: Option<PathBuf>,
    /// The processor's configuration
    #[arg(long, value_name = "FILE")]
    pub processor: Option<PathBuf>,
    /// Look at files only: reach for no broker, Redis or sink
    #[arg(long)]
    pub offline: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something will not work.
    Wrong,
    /// It may be meant so, or becomes wrong later.
    Look,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Where to look: `ingest`, `processor`, `both`, `kafka`, `redis`, `sink`, `clock` or `system`.
    pub area: &'static str,
    /// What was found.
    pub found: String,
    /// What mends it.
    pub remedy: String,
}

impl Finding {
    fn wrong(area: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Wrong, area, found: found.into(), remedy: remedy.into() }
    }

    fn look(area: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Look, ..Self::wrong(area, found, remedy) }
    }
}

/// Runs `check`: good if nothing is wrong.
pub async fn run(args: &Args) -> Result<Verdict> {
    if args.ingest.is_none() && args.processor.is_none() {
        bail!("name what to check: --ingest FILE, --processor FILE, or both for what they must have in common");
    }
    let findings = examine(args, &Clock::system()).await;
    if args.json {
        say::json(&serde_json::json!({ "findings": findings }));
    } else {
        tell(&findings);
    }
    Ok(Verdict::good_if(findings.iter().all(|finding| finding.level == Level::Look)))
}

/// Everything that is found, the worst first.
pub async fn examine(args: &Args, clock: &Clock) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ingest = args.ingest.as_deref().and_then(|file| {
        files::loaded("ingest", ingest::Config::load(Some(file), environment()), ingest::check, &mut findings)
    });
    let processor = args.processor.as_deref().and_then(|file| {
        let loaded = processor::config::Config::load(Some(file), environment());
        files::loaded("processor", loaded, processor::check, &mut findings)
    });
    if let Some(config) = &ingest {
        files::ingest(config, clock, &mut findings);
    }
    if let Some(config) = &processor {
        files::processor(config, &mut findings);
    }
    if let (Some(ingest), Some(processor)) = (&ingest, &processor) {
        pair::check(ingest, processor, &mut findings);
    }
    if !args.offline {
        reach::check(ingest.as_ref(), processor.as_ref(), clock, &mut findings).await;
    }
    findings.sort_by_key(|finding| finding.level);
    findings
}

fn tell(findings: &[Finding]) {
    let paint = say::Paint::for_stdout();
    for Finding { level, area, found, remedy } in findings {
        let mark = match level {
            Level::Wrong => paint.bad("wrong"),
            Level::Look => paint.strong("look"),
        };
        say::line(format_args!("{mark} {area}: {found}\n      {remedy}"));
    }
    let wrong = findings.iter().filter(|finding| finding.level == Level::Wrong).count();
    if wrong == 0 {
        say::line(format_args!("{}: nothing is wrong, {} to look at", paint.good("good"), findings.len()));
    } else {
        say::line(format_args!("{wrong} wrong, {} to look at", findings.len() - wrong));
    }
}
