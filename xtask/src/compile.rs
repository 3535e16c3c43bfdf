//! `cargo build` for somebody who wants a program and not a list of crates: one line that counts.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::Stdio;

/// Builds the binary `name` in the dev profile, showing `title` and how far it is; what cargo says is shown only if it fails.
pub(crate) fn quietly(title: &str, name: &str) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--locked", "--workspace", "--bin", name]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("running cargo")?;
    let stderr = child.stderr.take().context("reading what cargo says")?;
    let mut line = Line { title, total: 0, built: 0, live: std::io::stderr().is_terminal() };
    let mut said = Vec::new();
    for text in BufReader::new(stderr).lines() {
        let text = text?;
        match text.trim_start().split_once(' ') {
            Some(("Compiling", package)) => {
                if line.total == 0 {
                    line.total = crates(name)?;
                }
                line.step(package.split(' ').next().unwrap_or_default());
            }
            Some(("Downloading" | "Downloaded" | "Finished" | "Locking" | "Updating" | "Blocking", _)) => {}
            _ => said.push(text),
        }
    }
    line.end();
    if !child.wait()?.success() {
        bail!("it does not compile:\n{}", said.join("\n"));
    }
    Ok(())
}

/// How many crates `package` is made of: what cargo prints "Compiling" for when nothing was built before.
fn crates(package: &str) -> Result<usize> {
    let mut tree = workspace::cargo();
    tree.args(["tree", "--locked", "--package", package, "--edges", "normal,build"]);
    let listed = workspace::output(tree.args(["--prefix", "none", "--format", "{p}"]))?;
    Ok(listed.lines().map(|line| line.trim_end_matches(" (*)")).collect::<BTreeSet<_>>().len())
}

struct Line<'a> {
    title: &'a str,
    total: usize,
    built: usize,
    live: bool,
}

impl Line<'_> {
    fn step(&mut self, name: &str) {
        self.built += 1;
        let Self { title, total, built, live } = self;
        if *live {
            eprint!("\r\x1b[2Kx: {title}: {built} of {total} crates ({name})");
            // It is only a progress line.
            let _ = std::io::stderr().flush();
        } else if *built == 1 || *built % 50 == 0 {
            eprintln!("x: {title}: {built} of {total} crates");
        }
    }

    fn end(&self) {
        if self.live && self.built > 0 {
            eprint!("\r\x1b[2K");
        }
    }
}
