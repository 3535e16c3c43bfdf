//! `coverage`: how many lines of each parser its tests run.

use crate::{fuzz, workspace};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::Command;

const CARGO_LLVM_COV: &str = "0.9.1";
/// Lines of each parser that tests must run, in per cent.
const LINES_MIN: f64 = 95.0;
/// The parsers of what comes from outside.
const PARSERS: &[&str] = &[
    "common/src/config.rs",
    "common/src/config/de.rs",
    "common/src/config/tree.rs",
    "common/src/config/types.rs",
    "common/src/envelope.rs",
    "common/src/envelope/base64_text.rs",
    "common/src/envelope/json.rs",
    "common/src/envelope/jwe.rs",
    "common/src/envelope/native.rs",
    "common/src/id.rs",
    "common/src/record.rs",
    "common/src/record/marker.rs",
    "common/src/signature.rs",
    "common/src/standard_webhooks.rs",
    "ingest/src/forwarded.rs",
    "ingest/src/proxy_protocol.rs",
    "processor/src/core/progress.rs",
    "processor/src/event.rs",
];

pub(crate) fn run() -> Result<()> {
    let tool = fuzz::tool("cargo-llvm-cov", CARGO_LLVM_COV)?;
    let mut command = Command::new(tool);
    // It brings the toolchain's own reader of coverage, where that is missing, without asking.
    command.env("CARGO_LLVM_COV_SETUP", "yes");
    command.current_dir(workspace::root()).args(["llvm-cov", "--json", "--summary-only", "--lib"]);
    command.args(["-p", "common", "-p", "ingest", "-p", "processor", "-p", "tests", "--"]);
    // The tests of these parsers; the others need brokers.
    command.args(["config::", "envelope::", "id::", "record::", "signature::", "standard_webhooks::", "progress::"]);
    command.args(["event::", "forwarded::", "proxy_protocol::", "parsers::"]).env_remove("CARGO_TARGET_DIR");
    let summary: Value =
        serde_json::from_str(last_line(&workspace::output(&mut command)?)).context("reading the coverage")?;
    let files = summary["data"][0]["files"].as_array().context("there are no files in the coverage")?;
    let mut short = Vec::new();
    for parser in PARSERS {
        let of = |file: &&Value| file["filename"].as_str().is_some_and(|path| path.ends_with(&format!("/{parser}")));
        let file = files.iter().find(of).with_context(|| format!("{parser} is not in the coverage"))?;
        let percent = file["summary"]["lines"]["percent"].as_f64().unwrap_or_default();
        println!("{parser:<44}{percent:>7.2} % of {} lines", file["summary"]["lines"]["count"]);
        if percent < LINES_MIN {
            short.push(*parser);
        }
    }
    if !short.is_empty() {
        bail!("tests run less than {LINES_MIN} % of the lines of {}", short.join(", "));
    }
    Ok(())
}

/// What the test programs print comes before.
fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default()
}
