//! The dead letters that a search means: the options of `sealstream dlq list`, as a query.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::error::ErrorKind;
use common::record::LetterPlace;
use processor::config::Config;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::cluster::Letters;
use crate::dlq::{self, DeadTopic, Filter, FilterArgs, Headers, Letter, State};

/// Most letters on one page.
const PAGE: usize = 50;
/// The filters, as `dlq list` names them.
const FILTERS: [&str; 6] = ["reason", "source", "sink", "since", "until", "id"];

/// What is looked for.
pub(super) struct Search {
    pub(super) filter: FilterArgs,
    state: State,
    skip: usize,
}

/// The filters, read as the command line reads them: with the same words, and the same sentences about mistakes.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Words {
    #[command(flatten)]
    filter: FilterArgs,
}

impl Search {
    /// Reads `reason=refused&state=all&…`. Empty values are left out, so that a form can be sent as it is.
    pub(super) fn parse(query: &str) -> Result<Self> {
        let (mut words, mut state, mut skip) = (Vec::new(), State::Waiting, 0);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.trim();
            match &*name {
                _ if value.is_empty() => {}
                "state" => {
                    state = match value {
                        "waiting" => State::Waiting,
                        "redriven" => State::Redriven,
                        "all" => State::All,
                        _ => bail!("a state is waiting, redriven or all"),
                    }
                }
                "skip" => skip = value.parse().context("how many to leave out is a number")?,
                name if FILTERS.contains(&name) => words.push(format!("--{name}={value}")),
                _ => bail!("there is no filter {name:?}"),
            }
        }
        let words = Words::try_parse_from(words).map_err(|error| anyhow::anyhow!(sentence(&error)))?;
        Ok(Self { filter: words.filter, state, skip })
    }

    /// The page that is meant, the newest first, and how many there are of each reason. Blocks while letters are read.
    pub(super) fn page(&self, letters: &Letters, config: &Config, now_ms: u64) -> Result<Value> {
        let filter = Filter::new(&self.filter, self.state, config, now_ms)?;
        let letters = letters.locked();
        let mut found: Vec<&Letter> = letters.letters().filter(|letter| filter.passes(letter)).collect();
        found.sort_unstable_by_key(|letter| (std::cmp::Reverse(letter.time_ms), letter.place));
        let mut by_reason = BTreeMap::<_, u64>::new();
        for letter in &found {
            *by_reason.entry(dlq::reason(letter)).or_default() += 1;
        }
        let page: Vec<_> = found.iter().skip(self.skip).take(PAGE).map(|letter| dlq::json(letter, config)).collect();
        Ok(json!({ "letters": page, "found": found.len(), "skipped": self.skip, "page": PAGE, "by_reason": by_reason }))
    }
}

/// One letter with its headers and sizes. Its body stays sealed, and is only measured. Blocks.
pub(super) fn details(letters: &Letters, config: &Config, place: LetterPlace) -> Result<Option<Value>> {
    let found = {
        let letters = letters.locked();
        letters.letters().find(|letter| letter.place == place).cloned()
    };
    let Some(letter) = found else { return Ok(None) };
    let mut headers = None;
    DeadTopic::of(config)?.records(&[place], |_, record| {
        headers = Some(Headers::of(record.headers()));
        Ok(())
    })?;
    let mut value = dlq::json(&letter, config);
    value["headers"] = headers.map(|headers| headers.json()).into();
    value["why_kept"] = dlq::target(&letter, config).err().map(|kept| kept.sentence()).into();
    Ok(Some(value))
}

/// What is wrong, without what the command line adds to it.
fn sentence(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").replace("--", "")
        }
        _ => "the search is not understood".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_the_filters_of_the_command_line() {
        let search =
            Search::parse("reason=refused&reason=exhausted&source=&sink=main&since=2h&state=all&skip=50&id=msg_x")
                .unwrap();
        let shown = format!("{:?}", search.filter);
        assert!(shown.contains("Refused") && shown.contains("Exhausted") && shown.contains("main"), "{shown}");
        assert_eq!((search.state, search.skip), (State::All, 50));
        assert_eq!(Search::parse("").unwrap().state, State::Waiting);
    }

    #[test]
    fn a_wrong_one_is_told_in_a_sentence() {
        for (query, words) in [
            ("reason=other", "the reasons are"),
            ("since=yesterday", "2026-11-25T08:00:00Z"),
            ("source=%3Cscript%3E", "<script>"),
            ("state=gone", "waiting, redriven or all"),
            ("skip=-1", "a number"),
            ("config=/etc/passwd", "no filter"),
            ("--yes=1", "no filter"),
        ] {
            let error = format!("{:#}", Search::parse(query).err().unwrap());
            assert!(error.contains(words) && !error.contains("Usage"), "{query}: {error}");
        }
    }

    #[test]
    fn a_value_is_never_an_option() {
        let search = Search::parse("id=--config%3Dother").unwrap();
        assert!(format!("{:?}", search.filter).contains("--config=other"));
    }
}
