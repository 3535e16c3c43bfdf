//! `counts`: how many instructions each function takes that runs once per event, beside what it took when that was last noted.
//!
//! Callgrind counts them, so a busy machine changes nothing, and neither does the processor that it is, within what callgrind shows of
//! it to a program. A function's count is the difference of two runs with fewer and more calls, by the calls between them: what
//! comes before and after is in both. The program is that of the dev profile. So a count is of use beside another of it, and says
//! nothing about time.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What was noted: a table of instructions a call.
const NOTED: &str = "benches/instructions.toml";
const HEAD: &str =
    "# Instructions a call of the functions of benches/src/functions.rs, dev profile. Made by `./x counts --write`.\n";

/// Calls of the two runs.
const CALLS: (u64, u64) = (50, 550);

/// A count may differ by so many hundredths: hash tables fall differently each time, and C libraries have versions.
const TOLERANCE_PERCENT: u64 = 5;

/// Options of `counts`.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Note these counts: for a change that was meant
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    workspace::run(workspace::cargo().args(["build", "--locked", "--workspace", "--bin", "count"]))?;
    let program = workspace::binaries()?.join("count");
    let names = workspace::output(&mut Command::new(&program))?;
    let mut counts = BTreeMap::new();
    for name in names.lines() {
        counts.insert(name.to_owned(), count(&program, name)?);
    }
    let file = workspace::root().join(NOTED);
    if arguments.write {
        let text = counts.iter().fold(HEAD.to_owned(), |text, (name, count)| text + &format!("{name} = {count}\n"));
        return fs::write(&file, text).with_context(|| format!("writing {NOTED}"));
    }
    let noted = fs::read_to_string(&file).with_context(|| format!("reading {NOTED}"))?;
    let (table, differing) = compare(&toml::from_str(&noted).with_context(|| format!("reading {NOTED}"))?, &counts);
    print!("{table}");
    if differing.is_empty() {
        return Ok(());
    }
    bail!(
        "these take other instructions than noted, by more than {TOLERANCE_PERCENT} %: {}. If that is meant, note it with `./x counts --write`",
        differing.join(", ")
    );
}

/// Instructions of a call.
fn count(program: &Path, name: &str) -> Result<u64> {
    let (fewer, more) = CALLS;
    let (fewer, more) = std::thread::scope(|scope| {
        let fewer = scope.spawn(|| collected(program, name, fewer));
        (fewer.join(), collected(program, name, more))
    });
    let fewer = fewer.map_err(|_| anyhow::anyhow!("counting {name} panicked"))??;
    let between = more?.checked_sub(fewer).with_context(|| format!("more calls of {name} took fewer instructions"))?;
    Ok(between / (CALLS.1 - CALLS.0))
}

/// All instructions of a run.
fn collected(program: &Path, name: &str, calls: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).arg(name).arg(calls.to_string());
    let ran = command.output().context("running valgrind, which Debian has in the package of that name")?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.status.success(), "valgrind failed ({}): {said}", ran.status);
    total(&said).with_context(|| format!("valgrind told no count: {said}"))
}

fn total(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

/// A table, and the names that don't agree.
fn compare(noted: &BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) -> (String, Vec<String>) {
    let (mut table, mut differing) = (String::new(), Vec::new());
    let names: std::collections::BTreeSet<_> = noted.keys().chain(counts.keys()).collect();
    for name in names {
        let (before, now) = (noted.get(name).copied(), counts.get(name).copied());
        let verdict = match (before, now) {
            (Some(before), Some(now)) if before.abs_diff(now) * 100 <= before * TOLERANCE_PERCENT => "as noted",
            (Some(before), Some(now)) if before < now => "more than noted",
            (Some(_), Some(_)) => "fewer than noted",
            (None, _) => "not noted",
            (Some(_), None) => "noted, and not there",
        };
        if verdict != "as noted" {
            differing.push(name.clone());
        }
        let shown = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        // A string takes every line.
        let _ = writeln!(table, "{name:<24} {:>9} {:>9}   {verdict}", shown(before), shown(now));
    }
    (table, differing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_count_that_differs_by_more_than_the_tolerance_is_named() {
        let noted = table(&[("at", 1000), ("above", 1000), ("below", 1000), ("gone", 1000)]);
        let (text, differing) = compare(&noted, &table(&[("at", 1050), ("above", 1051), ("below", 949), ("new", 1)]));
        assert_eq!(differing, ["above", "below", "gone", "new"]);
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn callgrinds_total_is_read() {
        assert_eq!(total("==1== Events    : Ir\n==1== Collected : 123456\n"), Some(123_456));
        assert_eq!(total("==1== Events    : Ir\n"), None);
    }

    #[test]
    fn what_is_noted_can_be_read() {
        let noted: BTreeMap<String, u64> =
            toml::from_str(&fs::read_to_string(workspace::root().join(NOTED)).unwrap()).unwrap();
        assert!(noted.values().all(|count| *count > 0) && noted.len() > 10);
    }
}
