//! The table of `SECURITY.md`: every test that it names exists.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where tests are.
const CRATES: &[&str] = &["common", "ingest", "processor", "cli", "tests", "xtask"];
/// The table's heading, and so many rows there are at least: a table that can't be read names nothing.
const HEADING: &str = "## Mistakes that others made";
const ROWS_MIN: usize = 20;

pub(crate) fn check() -> Result<()> {
    let text = fs::read_to_string(workspace::root().join("SECURITY.md")).context("reading SECURITY.md")?;
    let mut functions = BTreeSet::new();
    for name in CRATES {
        collect(&workspace::root().join(name), &mut functions)?;
    }
    let (rows, wrong) = judge(&text, &functions);
    if rows < ROWS_MIN || !wrong.is_empty() {
        bail!("SECURITY.md has {rows} rows of mistakes, and names tests that do not exist: {wrong:?}");
    }
    Ok(())
}

/// How many rows the table has, and what is wrong with them.
fn judge(text: &str, tests: &BTreeSet<String>) -> (usize, Vec<String>) {
    let table = text.split_once(HEADING).map_or("", |(_, rest)| rest);
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Mistake ")).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let last = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("no test in the row {row}"));
        }
        wrong.extend(named.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
    }
    (rows.len(), wrong)
}

/// The names of all test functions below a folder.
fn collect(folder: &Path, tests: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(functions(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The functions below `#[test]` or `#[tokio::test…]`.
fn functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_attribute = |line: &str| line == "#[test]" || line.starts_with("#[tokio::test");
    let name = |pair: &[&str]| {
        let line = pair[1].strip_prefix("async ").unwrap_or(pair[1]);
        let name = line.strip_prefix("fn ")?.split('(').next()?;
        is_attribute(pair[0]).then(|| name.to_owned())
    };
    lines.windows(2).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_gone_and_a_row_without_one_are_found() {
        let tests: BTreeSet<String> = functions(
            "#[test]\nfn known() {\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn slow() {\nfn other() {\n",
        )
        .into_iter()
        .collect();
        assert_eq!(tests, ["known".to_owned(), "slow".to_owned()].into());
        let table =
            |last: &str| format!("{HEADING}\n\n| Mistake | Test |\n|---|---|\n| a `x` | `known` |\n| b | {last} |\n");
        assert_eq!(judge(&table("`slow`"), &tests), (2, vec![]));
        assert_eq!(judge(&table("`other`"), &tests), (2, vec!["other".to_owned()]));
        assert_eq!(judge(&table("none"), &tests).1.len(), 1);
        assert_eq!(judge("| a | `known` |", &tests), (0, vec![]));
    }
}
