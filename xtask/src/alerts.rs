//! The alert rules: promtool checks their syntax, and runs their tests.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// Where rules and tests lie, side by side: `NAME.rules.yml` and `NAME.test.yml`.
pub(crate) const FOLDER: &str = "deploy/prometheus";

pub(crate) fn run() -> Result<()> {
    let rules = workspace::files(FOLDER, ".rules.yml")?;
    let tests = workspace::files(FOLDER, ".test.yml")?;
    ensure!(!rules.is_empty() && rules.len() == tests.len(), "each rule file of {FOLDER} needs a test file");
    promtool(&["check", "rules"], &rules)?;
    promtool(&["test", "rules"], &tests)
}

fn promtool(words: &[&str], files: &[PathBuf]) -> Result<()> {
    let said = workspace::output(Command::new("promtool").args(words).args(files));
    said.context("the alert rules are wrong, or promtool is missing (Debian has it in the package prometheus)")
        .map(drop)
}
