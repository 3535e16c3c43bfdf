//! `rows`: what ingest answers, row by row, and the tests that show it.
//!
//! The rows stand in `ingest/rows.toml`. A test is of a row by its name, `row_<number>_…`, and every such test of the source is
//! looked for among those that ran: one that did not is a failure, and so is a row without a test. The page `docs/answers.md`
//! is made of the same two lists, and a test here compares it with them.

use crate::workspace;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

const LIST: &str = "ingest/rows.toml";
const SOURCES: &str = "ingest/src";
const PAGE: &str = "docs/answers.md";

/// Options of `rows`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Make docs/answers.md anew, and run nothing
    #[arg(long, conflicts_with = "json")]
    write: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root();
    let (rows, declared) = (rows(root)?, declared(root)?);
    if arguments.write {
        return fs::write(root.join(PAGE), page(&rows, &declared)).with_context(|| format!("writing {PAGE}"));
    }
    let report = report(rows, &declared, &results()?);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    let failed: Vec<String> = report.iter().filter(|row| !row.passed).map(|row| row.row.number.to_string()).collect();
    if !failed.is_empty() {
        bail!("not shown by tests that pass: row {}", failed.join(", "));
    }
    Ok(())
}

#[derive(Deserialize)]
struct List {
    row: Vec<Row>,
}

/// A row of the list.
#[derive(Deserialize, Serialize)]
struct Row {
    number: u32,
    input: String,
    answer: String,
    code: Option<String>,
    #[serde(default)]
    connection: Vec<String>,
}

/// A row with its tests.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: Row,
    passed: bool,
    tests: Vec<Test>,
}

#[derive(Serialize)]
struct Test {
    name: String,
    result: String,
}

fn rows(root: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(root.join(LIST)).with_context(|| format!("reading {LIST}"))?;
    Ok(toml::from_str::<List>(&text).with_context(|| LIST.to_owned())?.row)
}

/// Runs the tests of all rows; answers their names and results.
fn results() -> Result<BTreeMap<String, String>> {
    let mut tests = workspace::cargo();
    // The whole workspace, as every other step has it: so nothing is built twice.
    tests.args(["test", "--locked", "--workspace", "--lib", "--no-fail-fast", "--", "row_"]).stderr(Stdio::inherit());
    // Its status says no more than the results do.
    let output = tests.output().context("running the tests")?;
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// The results in what the tests printed.
fn parse(printed: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
        number(name)?;
        Some((name.to_owned(), result.trim().to_owned()))
    };
    printed.lines().filter_map(line).collect()
}

/// The row that a test is of.
fn number(test: &str) -> Option<u32> {
    let name = test.rsplit("::").next()?;
    let (number, rest) = name.strip_prefix("row_")?.split_once('_')?;
    if rest.is_empty() { None } else { number.parse().ok() }
}

/// The tests that the source has, by row.
fn declared(root: &Path) -> Result<BTreeMap<u32, BTreeSet<String>>> {
    let mut found: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let mut folders = vec![root.join(SOURCES)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for name in names(&fs::read_to_string(&path)?) {
                    let row = number(name).context("a name that begins with row_ has a number")?;
                    found.entry(row).or_default().insert(name.to_owned());
                }
            }
        }
    }
    Ok(found)
}

/// The names of the rows' tests in a source file.
fn names(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map(str::trim_start).filter_map(|line| {
        let (name, _) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split_once('(')?;
        name.starts_with("row_").then_some(name)
    })
}

/// Each row with its tests: those that ran, and those that should have.
fn report(
    rows: Vec<Row>,
    declared: &BTreeMap<u32, BTreeSet<String>>,
    results: &BTreeMap<String, String>,
) -> Vec<Shown> {
    let of_row = |row: Row| {
        let mut tests: Vec<Test> = results
            .iter()
            .filter(|(name, _)| number(name) == Some(row.number))
            .map(|(name, result)| Test { name: name.clone(), result: result.clone() })
            .collect();
        for name in declared.get(&row.number).into_iter().flatten() {
            if !tests.iter().any(|test| test.name.rsplit("::").next() == Some(name)) {
                tests.push(Test { name: name.clone(), result: "did not run".to_owned() });
            }
        }
        let passed = !tests.is_empty() && tests.iter().all(|test| test.result == "ok");
        Shown { row, passed, tests }
    };
    rows.into_iter().map(of_row).collect()
}

fn table(report: &[Shown]) -> String {
    let mut text = String::new();
    for Shown { row, tests, .. } in report {
        for test in tests {
            let _ = writeln!(text, "{:>3}  {:<12} {}", row.number, test.result, test.name);
        }
        if tests.is_empty() {
            let _ = writeln!(text, "{:>3}  {:<12} {}", row.number, "no test", row.input);
        }
    }
    let passed = report.iter().filter(|row| row.passed).count();
    let _ = writeln!(text, "{passed} of {} rows are shown by tests that pass", report.len());
    text
}

/// The page.
fn page(rows: &[Row], declared: &BTreeMap<u32, BTreeSet<String>>) -> String {
    let mut text = String::from(
        "# What ingest answers\n\n\
         Made by `./x rows --write` from [ingest/rows.toml](../ingest/rows.toml); do not edit. `./x rows` runs the tests.\n\n\
         The body of every refusal is `{\"error\":\"<sentence>\",\"code\":\"<code>\",\"request_id\":\"<ours>\"}` with `Content-Type: application/json` and\n\
         `Cache-Control: no-store`. A refusal leaves no record and takes nothing of a source's budget. Each request is counted once in\n\
         `ingest_requests_total`, whose label `outcome` is the code, and each connection once in `ingest_connections_total`.\n\n\
         | # | Input | Answer | Code | Outcome of the connection |\n|---|---|---|---|---|\n",
    );
    let code = |text: &str| format!("`{text}`");
    for Row { number, input, answer, code: told, connection } in rows {
        let told = told.as_deref().map(code).unwrap_or_default();
        let outcomes: Vec<String> = connection.iter().map(|outcome| code(outcome)).collect();
        let _ = writeln!(text, "| {number} | {input} | {answer} | {told} | {} |", outcomes.join(", "));
    }
    text.push_str("\n## The tests\n\nThrough a real TLS connection, on HTTP/1.1 and HTTP/2 where they differ.\n\n| # | Tests |\n|---|---|\n");
    for Row { number, .. } in rows {
        let tests: Vec<String> = declared.get(number).into_iter().flatten().map(|name| code(name)).collect();
        let _ = writeln!(text, "| {number} | {} |", tests.join("<br>"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let root = workspace::root();
        let page = page(&rows(root).unwrap(), &declared(root).unwrap());
        assert!(fs::read_to_string(root.join(PAGE)).unwrap() == page, "{PAGE}: make it anew with ./x rows --write");
    }

    #[test]
    fn a_test_is_of_the_row_that_its_name_says() {
        assert_eq!(number("tests::contract::row_09_not_exactly_one_host"), Some(9));
        assert_eq!(number("row_36_floods"), Some(36));
        for other in ["tests::narrow_09_x", "tests::row_9", "row_x_y", "tests::throw_1_x", "rows_1_and_2", "row_1_"] {
            assert_eq!(number(other), None, "{other}");
        }
        let source = "    async fn row_01_a() {\nfn row_02_b(x: u8) {\n// fn row_03_c() {\nlet arrow_fn = 1;\nfn throw_1_x() {}\n";
        assert_eq!(names(source).collect::<Vec<_>>(), ["row_01_a", "row_02_b"]);
    }

    #[test]
    fn a_row_is_shown_only_by_tests_that_ran_and_passed() {
        let rows = || {
            (1..=4)
                .map(|number| Row { number, input: "i".into(), answer: "a".into(), code: None, connection: Vec::new() })
                .collect()
        };
        let declared = BTreeMap::from([
            (1, BTreeSet::from(["row_1_a".to_owned()])),
            (2, BTreeSet::from(["row_2_a".to_owned(), "row_2_b".to_owned()])),
            (3, BTreeSet::from(["row_3_a".to_owned()])),
        ]);
        let printed = "running 4 tests\ntest t::row_1_a ... ok\ntest t::row_2_a ... ok\ntest t::row_3_a ... FAILED\n\
                       test t::other ... ok\n";
        let report = report(rows(), &declared, &parse(printed));
        let passed: Vec<bool> = report.iter().map(|row| row.passed).collect();
        assert_eq!(passed, [true, false, false, false]);
        assert_eq!(report[1].tests[1].result, "did not run");
        let table = table(&report);
        assert!(
            table.contains("  4  no test") && table.ends_with("1 of 4 rows are shown by tests that pass\n"),
            "{table}"
        );
    }
}
