//! `lint`: format, alert rules, clippy and documentation, with warnings denied, the tests that SECURITY.md names, links, the page
//! of settings, and the runbooks.

use crate::{alerts, links, reference, runbooks, security, workspace};
use anyhow::{Context, Result};

pub(crate) fn run() -> Result<()> {
    security::check()?;
    links::check()?;
    reference::check()?;
    runbooks::check()?;
    workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))
        .context("the format is not rustfmt's (cargo fmt mends it)")?;
    alerts::run()?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"];
    workspace::run(workspace::cargo().args(clippy))?;
    // What only the fault suite's processor has.
    let suite = ["clippy", "--locked", "--workspace", "--features", "processor/controls", "--bin", "processor-faults"];
    workspace::run(workspace::cargo().args(suite).args(["--lib", "--quiet", "--", "--deny", "warnings"]))?;
    let doc = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items", "--quiet"];
    workspace::run(workspace::cargo().args(doc).env("RUSTDOCFLAGS", "--deny warnings"))
}
