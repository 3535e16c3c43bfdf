//! Which letters are meant: the filters that `dlq` and `redrive` share.
//!
//! What is not trusted has nothing that a filter could go by but its time, so any other filter leaves it out.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::config;
use common::id::{EventId, IdKey, KeyedId, SinkId, SourceId};
use common::record::Reason;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use processor::config::Config;
use serde::de::IntoDeserializer;

use super::letters::Letter;

/// The filters as options. Those of one kind are alternatives, those of different kinds must all hold.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which letters")]
#[group(skip)]
pub struct Args {
    /// Dead for this reason, for example refused or unknown_key; may be given several times
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    /// Of this source
    #[arg(long, value_name = "NAME")]
    source: Vec<SourceId>,
    /// Given up by this sink
    #[arg(long, value_name = "NAME")]
    sink: Vec<SinkId>,
    /// Given up at this time or later: RFC 3339, or so long ago, for example 2h
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Given up before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Of this event: its id, with --source; or its keyed id or webhook-id. Letters that were never opened have none
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Letters by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not redriven.
    Waiting,
    /// Redriven.
    Redriven,
    /// Both.
    All,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Filter {
    args: Args,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    ids: Option<Vec<KeyedId>>,
    state: State,
}

impl Filter {
    /// Loads the id keys if an event id is to be looked for.
    pub(crate) fn new(args: &Args, state: State, config: &Config, now_ms: u64) -> Result<Self> {
        let ids = args.id.as_ref().map(|id| keyed_ids(id, &args.source, || id_keys(config))).transpose()?;
        let at = |moment: Option<Moment>| moment.map(|moment| moment.unix_ms(now_ms));
        Ok(Self { since_ms: at(args.since), until_ms: at(args.until), args: args.clone(), ids, state })
    }

    /// Whether a letter is meant.
    pub(crate) fn passes(&self, letter: &Letter) -> bool {
        let in_time = self.since_ms.is_none_or(|since| letter.time_ms >= since)
            && self.until_ms.is_none_or(|until| letter.time_ms < until);
        let Args { reason, source, sink, .. } = &self.args;
        let Ok(content) = &letter.content else {
            let by_content = !reason.is_empty() || !source.is_empty() || !sink.is_empty() || self.ids.is_some();
            return in_time && !by_content && self.state != State::Redriven;
        };
        let head = content.head.as_ref();
        let of_sink = head.and_then(|head| head.retry.as_ref()).map(|retry| &retry.sink);
        let identity = head.and_then(|head| head.identity);
        let is_event = |ids: &Vec<KeyedId>| {
            identity.is_some_and(|identity| {
                ids.contains(&identity.id) || identity.previous.is_some_and(|previous| ids.contains(&previous))
            })
        };
        let state = match self.state {
            State::Waiting => content.redriven_ms.is_none(),
            State::Redriven => content.redriven_ms.is_some(),
            State::All => true,
        };
        in_time
            && state
            && (reason.is_empty() || reason.contains(&content.failure.reason))
            && (source.is_empty() || head.is_some_and(|head| source.contains(&head.source)))
            && (sink.is_empty() || of_sink.is_some_and(|of| sink.contains(of)))
            && self.ids.as_ref().is_none_or(is_event)
    }
}

/// A time: itself, or how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    At(u64),
    Ago(Duration),
}

impl Moment {
    /// Counted from now.
    pub(crate) fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(unix_ms) => unix_ms,
            Self::Ago(span) => now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl std::str::FromStr for Moment {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(u64::try_from(time.as_millisecond()).context("a time is not before 1970")?));
        }
        let span: Result<_, serde::de::value::Error> = config::duration::deserialize(text.into_deserializer());
        span.map(Self::Ago).ok().context("a time is written 2026-11-25T08:00:00Z, or as a span such as 2h or 3days")
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    let known = Reason::ALL.iter().copied().find(|reason| reason.as_str() == text);
    known.ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("the reasons are {}", names.join(", "))
    })
}

/// The keys that make keyed ids: the current one, and the previous or the next.
pub(crate) fn id_keys(config: &Config) -> Result<Vec<IdKey>> {
    let key = |key: &processor::config::KeyFile| Ok(IdKey::new(key.id.clone(), &key.file.load()?));
    config.pipeline.id_keys.iter().map(key).collect()
}

/// The keyed ids that a text may stand for: one as it is shown, or those of an event id under every id key.
pub(crate) fn keyed_ids(
    text: &str,
    sources: &[SourceId],
    keys: impl FnOnce() -> Result<Vec<IdKey>>,
) -> Result<Vec<KeyedId>> {
    let hex = HEXLOWER.decode(text.as_bytes()).ok();
    let webhook = text.strip_prefix("msg_").and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    let mut ids: Vec<_> =
        [hex, webhook].into_iter().flatten().filter_map(|bytes| KeyedId::try_from(&bytes[..]).ok()).collect();
    if !sources.is_empty() {
        let (event, keys) = (EventId::new(text)?, keys()?);
        ids.extend(sources.iter().flat_map(|source| keys.iter().map(|key| key.keyed_id(source, &event))));
    }
    if ids.is_empty() {
        bail!(
            "{text:?} is an event id, and those are a source's own: name it with --source. A keyed id has 32 hex digits, a \
             webhook-id begins with msg_"
        );
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use common::record::RecordError;
    use common::secret::Secret;

    use super::*;
    use crate::dlq::letters::tests::{failure, head, letter};

    fn filter(args: Args, state: State) -> Filter {
        let at = |moment: Option<Moment>| moment.map(|moment| moment.unix_ms(1_700_000_100_000));
        let ids = args.id.as_ref().map(|id| keyed_ids(id, &args.source, || Ok(vec![key()])).unwrap());
        Filter { since_ms: at(args.since), until_ms: at(args.until), args, ids, state }
    }

    fn key() -> IdKey {
        IdKey::new("id-1".parse().unwrap(), &Secret::from(b"id".to_vec()))
    }

    /// Of a sink, of none, redriven, and not trusted.
    fn passes(args: Args, state: State) -> [bool; 4] {
        let of_sink = letter(Some(head(Some("main"))), failure(Reason::Exhausted, "events"));
        let unopened = letter(Some(head(None)), failure(Reason::UnknownKey, "inbox"));
        let mut redriven = of_sink.clone();
        redriven.content.as_mut().unwrap().redriven_ms = Some(1);
        let forged = Letter { content: Err(RecordError::BadMac), ..of_sink.clone() };
        let filter = filter(args, state);
        [of_sink, unopened, redriven, forged].map(|letter| filter.passes(&letter))
    }

    #[test]
    fn without_filters_the_state_decides() {
        assert_eq!(passes(Args::default(), State::Waiting), [true, true, false, true]);
        assert_eq!(passes(Args::default(), State::Redriven), [false, false, true, false]);
        assert_eq!(passes(Args::default(), State::All), [true; 4]);
    }

    #[test]
    fn each_filter_passes_its_own_and_nothing_that_is_not_trusted() {
        let all = |args| passes(args, State::All);
        let source = |name: &str| vec![name.parse().unwrap()];
        assert_eq!(all(Args { reason: vec![Reason::Exhausted], ..Args::default() }), [true, false, true, false]);
        let two = vec![Reason::Exhausted, Reason::UnknownKey];
        assert_eq!(all(Args { reason: two, ..Args::default() }), [true, true, true, false]);
        assert_eq!(all(Args { source: source("acme"), ..Args::default() }), [true, true, true, false]);
        assert_eq!(all(Args { source: source("beta"), ..Args::default() }), [false; 4]);
        assert_eq!(all(Args { sink: vec!["main".parse().unwrap()], ..Args::default() }), [true, false, true, false]);
        assert_eq!(all(Args { sink: vec!["out".parse().unwrap()], ..Args::default() }), [false; 4]);
        let id = KeyedId([7; 16]);
        for text in [id.to_string(), id.webhook_id()] {
            assert_eq!(all(Args { id: Some(text), ..Args::default() }), [true, false, true, false]);
        }
        assert_eq!(all(Args { id: Some(KeyedId([8; 16]).to_string()), ..Args::default() }), [false; 4]);
    }

    #[test]
    fn an_event_id_is_looked_for_under_its_source() {
        let source: SourceId = "acme".parse().unwrap();
        let keyed = key().keyed_id(&source, &EventId::new("evt-1").unwrap());
        assert_eq!(keyed_ids("evt-1", &[source], || Ok(vec![key()])).unwrap(), [keyed]);
        let error = keyed_ids("evt-1", &[], || Ok(vec![key()])).unwrap_err();
        assert!(error.to_string().contains("name it with --source"), "{error}");
        assert!(keyed_ids("msg_short", &[], || Ok(Vec::new())).is_err());
    }

    #[test]
    fn the_beginning_is_in_and_the_end_is_out() {
        let between = |since: &str, until: &str| {
            let args =
                Args { since: Some(since.parse().unwrap()), until: Some(until.parse().unwrap()), ..Args::default() };
            passes(args, State::All)
        };
        // The letters are of 22:15:00.
        assert_eq!(between("2023-11-14T22:15:00Z", "2023-11-14T22:15:00.001Z"), [true; 4]);
        assert_eq!(between("2023-11-14T22:14:59Z", "2023-11-14T22:15:00Z"), [false; 4]);
        assert_eq!(between("2023-11-14T23:15:00.001+01:00", "2023-11-15T00:00:00Z"), [false; 4]);
        assert_eq!(between("0s", "2024-01-01T00:00:00Z"), [true; 4]);
    }

    #[test]
    fn times_are_read_or_the_error_shows_how() {
        assert_eq!("2h".parse::<Moment>().unwrap(), Moment::Ago(Duration::from_secs(7200)));
        assert_eq!("1970-01-01T00:00:01Z".parse::<Moment>().unwrap(), Moment::At(1000));
        for bad in ["", "yesterday", "2026-11-25", "1969-12-31T23:59:59Z"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
        assert!(reason("refused") == Ok(Reason::Refused) && reason("other").unwrap_err().contains("bad_mac, "));
    }
}
