//! The contract's rows and the tests that show them.
//!
//! Every row of `rows.toml` has at least one test, anywhere in this crate, whose name begins with `row_` and the row's
//! number in two digits: `row_22_timestamp_outside_the_grammar`. A test shows one row; a row may have several tests. `./x rows`
//! runs them all and prints row, test and result; a row without a test that passed is a failure. The page
//! `docs/answers.md` is made from the same list by `./x rows --write`.
//!
//! A row's test speaks to a whole ingest over real TLS, on HTTP/1.1 and HTTP/2 ([`Edge::check`](super::Edge::check)), and looks
//! at side effects too: exactly one counter moves, by one per request, and (in [`Edge::finish`](super::Edge::finish)) there are as many
//! records as answers of 200.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::metrics::{ConnectionOutcome, Outcome};
use crate::refusal;

#[derive(Deserialize)]
struct Rows {
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    number: u32,
    input: String,
    answer: String,
    code: Option<String>,
    #[serde(default)]
    connection: Vec<String>,
}

fn rows() -> Vec<Row> {
    toml::from_str::<Rows>(include_str!("../../rows.toml")).unwrap().row
}

#[test]
fn rows_are_numbered_and_say_something() {
    let rows = rows();
    assert!(rows.iter().map(|row| row.number).eq(1..=38));
    for row in rows {
        assert!(!row.input.is_empty() && !row.answer.is_empty());
        assert!(row.code.is_some() || !row.connection.is_empty(), "row {} is counted somewhere", row.number);
    }
}

#[test]
fn rows_name_every_outcome_and_no_other() {
    let requests: BTreeSet<&str> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
    let connections: BTreeSet<&str> = ConnectionOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
    let (mut codes, mut outcomes) = (BTreeSet::from(["received", "abandoned"]), BTreeSet::new());
    let rows = rows();
    for row in &rows {
        codes.extend(row.code.as_deref());
        outcomes.extend(row.connection.iter().map(String::as_str));
    }
    assert_eq!(codes, requests);
    // How a connection ends that did nothing wrong, or nothing that a row is about.
    outcomes.extend(["ended", "broken", "aborted"]);
    assert_eq!(outcomes, connections);
}

#[test]
fn rows_say_what_is_answered() {
    let rows = rows();
    for (answer, code) in refusal::tests::answers() {
        let of_code: Vec<&Row> = rows.iter().filter(|row| row.code.as_deref() == Some(code)).collect();
        assert!(!of_code.is_empty(), "{code}");
        for row in of_code {
            let says = |text: &str| row.answer.contains(text);
            assert!(row.answer.starts_with(answer.status.as_str()), "row {}: {answer:?}", row.number);
            assert_eq!(says("close"), answer.closes, "row {}: {answer:?}", row.number);
            assert_eq!(says("Retry-After"), answer.retry_after_s.is_some(), "row {}: {answer:?}", row.number);
        }
    }
}
