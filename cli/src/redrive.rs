//! `sealstream redrive`: puts dead letters back, still sealed, each to where it can go on from. Where that is says
//! [`dlq`](crate::dlq); how a letter and its marker are written together says `hand_over`.
//!
//! It reads the letters and shows what it would do; then it takes the deployment's transactional id over, reads the markers
//! that were written since, and only then begins. So a letter that somebody else redrove in the meantime is left alone, and
//! nobody else can begin without ending this one.

mod ask;
mod hand_over;

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr, stdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use common::clock::Clock;
use common::record::{Head, LetterId, LetterPlace};
use common::shutdown::Group;
use indicatif::{ProgressBar, ProgressStyle};
use processor::config::Config;

use crate::dlq::{DeadTopic, Filter, FilterArgs, Kept, Letter, State, Target, target};
use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};
use hand_over::{HandOver, Keys, Parcel};

/// Most letters that are put back in one transaction.
const BATCH_LETTERS: usize = 500;
/// Most bytes of their bodies, a letter of any size apart.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Options of `redrive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    processor: ProcessorConfig,
    #[command(flatten)]
    filter: FilterArgs,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// At most so many letters per second
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = rate)]
    rate: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A letter that can go back.
struct Going {
    place: LetterPlace,
    letter: LetterId,
    head: Head,
    target: Target,
}

/// What was found, and what became of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Letters that the filters meant.
    matched: usize,
    /// Those that can go back, by target.
    going: BTreeMap<String, usize>,
    /// Those that went.
    redriven: BTreeMap<String, usize>,
    /// Those that somebody had redriven before.
    already: usize,
    /// Those that were kept, and why.
    kept: BTreeMap<Kept, usize>,
    /// Those that retention took while they were on their way.
    expired: usize,
}

/// Runs `redrive`: good if everything that was meant went, or had gone before.
pub async fn run(args: &Args) -> Result<Verdict> {
    let config = args.processor.load()?;
    // Nothing else waits for the runtime's own thread.
    tokio::task::block_in_place(|| redrive(args, &config))
}

fn redrive(args: &Args, config: &Config) -> Result<Verdict> {
    let Args { filter, dry_run, yes, json, .. } = args;
    let clock = Clock::system();
    let plan = Plan::make(config, filter, clock.unix_ms())?;
    if *dry_run || plan.is_empty() {
        tell(&plan.tally, *dry_run, *json);
        return Ok(verdict(&plan.tally));
    }
    if !yes && !agrees(&plan)? {
        say::note("nothing was redriven");
        return Ok(Verdict::Bad);
    }
    let progress = progress(args, plan.len());
    let interrupted = Arc::new(AtomicBool::new(false));
    // From now on, and not while somebody is asked, a signal ends the work between two batches. Cancel the answer after it.
    let group = Group::new();
    let (signals, heeded) = (group.on_signals(), interrupted.clone());
    group.spawn("signals", async move {
        signals.await;
        heeded.store(true, Ordering::SeqCst);
    });
    let went = |count: usize| progress.inc(count as u64);
    let pace = Pace { rate: args.rate, clock: &clock, interrupted: &interrupted, went: &went };
    let (tally, went) = plan.carry_out(config, &pace);
    progress.finish_and_clear();
    group.cancel();
    tell(&tally, false, *json);
    went?;
    Ok(verdict(&tally))
}

/// Shows what would be done, and asks.
fn agrees(plan: &Plan) -> Result<bool> {
    let count = plan.len();
    if !stdin().is_terminal() || !stderr().is_terminal() {
        bail!("{count} letters would be redriven. Look with --dry-run, then say --yes: there is no terminal to ask at");
    }
    say::note(table(&plan.tally, true));
    Ok(ask::agrees(count, &mut stdin().lock(), &mut stderr())?)
}

fn progress(args: &Args, total: usize) -> ProgressBar {
    let shown = !args.json && stderr().is_terminal();
    let progress = if shown { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} letters, {per_sec}, {eta} left");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress
}

/// What would be redriven. Its methods block.
pub(crate) struct Plan {
    dead: DeadTopic,
    keys: Keys,
    going: Vec<Going>,
    /// Where reading ended in each partition.
    ends: Vec<i64>,
    tally: Tally,
}

/// How fast letters go, and who may end that.
pub(crate) struct Pace<'a> {
    /// At most so many letters per second.
    pub(crate) rate: u32,
    pub(crate) clock: &'a Clock,
    /// Ends the work between two batches.
    pub(crate) interrupted: &'a AtomicBool,
    /// Told how many letters went, after each batch.
    pub(crate) went: &'a dyn Fn(usize),
}

impl Plan {
    /// Reads the letters that are meant, and sorts them. Changes nothing.
    pub(crate) fn make(config: &Config, filter: &FilterArgs, now_ms: u64) -> Result<Self> {
        if config.topics.danger_embedded {
            bail!(
                "the in-process cluster has no transactions, and without them a letter could be redriven twice: redrive on a real Kafka"
            );
        }
        let keys = Keys::load(config)?;
        let dead = DeadTopic::of(config)?;
        let filter = Filter::new(filter, State::All, config, now_ms)?;
        let (letters, ends) = dead.letters(|letter| filter.passes(letter))?;
        let (going, tally) = sorted(letters, config);
        Ok(Self { dead, keys, going, ends, tally })
    }

    /// How many letters would go.
    pub(crate) fn len(&self) -> usize {
        self.going.len()
    }

    /// Whether none would.
    pub(crate) fn is_empty(&self) -> bool {
        self.going.is_empty()
    }

    /// What would become of all that are meant.
    pub(crate) fn json(&self) -> serde_json::Value {
        object(&self.tally, true)
    }

    /// Does it. What is told of the letters is true also when it fails.
    fn carry_out(self, config: &Config, pace: &Pace<'_>) -> (Tally, Result<()>) {
        let Self { dead, keys, mut going, ends, mut tally } = self;
        let outcome = (|| {
            let hand_over = HandOver::begin(config, keys)?;
            // Nobody else writes markers from now on.
            let since = dead.redriven_since(&ends)?;
            going.retain(|letter| !since.contains(&letter.letter));
            tally.already += tally.going.values().sum::<usize>() - going.len();
            tally.going = by_target(&going);
            put_back(&dead, &hand_over, going, pace, &mut tally)
        })();
        (tally, outcome)
    }

    /// Does it; answers what became of the letters, as an object, and whether it went to its end.
    pub(crate) fn carry_out_told(self, config: &Config, pace: &Pace<'_>) -> (serde_json::Value, Result<()>) {
        let (tally, outcome) = self.carry_out(config, pace);
        (object(&tally, false), outcome)
    }
}

/// Reads the bodies again and puts them back, batch by batch. `tally` is true of what was done when it fails, too.
fn put_back(
    dead: &DeadTopic,
    hand_over: &HandOver,
    mut going: Vec<Going>,
    pace: &Pace<'_>,
    tally: &mut Tally,
) -> Result<()> {
    going.sort_unstable_by_key(|letter| letter.place);
    let places: Vec<_> = going.iter().map(|letter| letter.place).collect();
    let total = going.len();
    let mut going = going.into_iter().peekable();
    let mut sending = Sending::new(pace, hand_over);
    let read = dead.records(&places, |place, record| {
        while going.next_if(|letter| letter.place < place).is_some() {}
        let Some(letter) = going.next_if(|letter| letter.place == place) else { return Ok(()) };
        let Going { place, letter, head, target } = letter;
        let value = record.value().to_vec();
        sending.add(Parcel { place, letter, head, target, value }, tally)
    });
    let read = read.and_then(|count| sending.flush(tally).map(|()| count));
    tally.expired = total - read?;
    Ok(())
}

/// Letters on their way, at the rate that was asked for.
struct Sending<'a> {
    pace: &'a Pace<'a>,
    hand_over: &'a HandOver,
    batch: Vec<Parcel>,
    batch_bytes: usize,
    batch_letters_max: usize,
    sent: u32,
    began: Duration,
}

impl<'a> Sending<'a> {
    fn new(pace: &'a Pace<'a>, hand_over: &'a HandOver) -> Self {
        // A few transactions each second: small enough for a slow rate to be even, large enough for a fast one to be reached.
        let batch_letters_max = usize::try_from(pace.rate / 4).unwrap_or(BATCH_LETTERS).clamp(1, BATCH_LETTERS);
        let began = pace.clock.monotonic();
        Self { pace, hand_over, batch: Vec::new(), batch_bytes: 0, batch_letters_max, sent: 0, began }
    }

    fn add(&mut self, parcel: Parcel, tally: &mut Tally) -> Result<()> {
        self.batch_bytes += parcel.value.len();
        self.batch.push(parcel);
        if self.batch.len() >= self.batch_letters_max || self.batch_bytes >= BATCH_BYTES {
            self.flush(tally)?;
        }
        Ok(())
    }

    fn flush(&mut self, tally: &mut Tally) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let Pace { rate, clock, interrupted, went } = self.pace;
        let due = self.began + Duration::from_secs(1) * self.sent / *rate;
        loop {
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted between two batches: run it again for what is left");
            }
            let left = due.saturating_sub(clock.monotonic());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        self.hand_over.put(&self.batch, clock.unix_ms())?;
        for parcel in &self.batch {
            *tally.redriven.entry(parcel.target.to_string()).or_default() += 1;
        }
        went(self.batch.len());
        self.sent = self.sent.saturating_add(u32::try_from(self.batch.len()).unwrap_or(u32::MAX));
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}

/// Those that can go back, and what is to be said of all.
fn sorted(letters: Vec<Letter>, config: &Config) -> (Vec<Going>, Tally) {
    let mut tally = Tally { matched: letters.len(), ..Tally::default() };
    let mut going = Vec::new();
    for letter in letters {
        let target = match target(&letter, config) {
            Ok(target) => target,
            Err(kept) => {
                *tally.kept.entry(kept).or_default() += 1;
                continue;
            }
        };
        let Letter { place, content: Ok(content), .. } = letter else { continue };
        if content.redriven_ms.is_some() {
            tally.already += 1;
        } else if let Some(head) = content.head {
            going.push(Going { place, letter: content.id, head, target });
        }
    }
    tally.going = by_target(&going);
    (going, tally)
}

fn by_target(going: &[Going]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for letter in going {
        *counts.entry(letter.target.to_string()).or_default() += 1;
    }
    counts
}

/// Good if nothing that was meant stays behind.
fn verdict(tally: &Tally) -> Verdict {
    Verdict::good_if(tally.kept.is_empty() && tally.expired == 0)
}

fn tell(tally: &Tally, dry_run: bool, json: bool) {
    if json {
        return say::json(&object(tally, dry_run));
    }
    say::line(table(tally, dry_run));
    for kept in tally.kept.keys() {
        say::note(format_args!("{}: {}", kept.as_str(), kept.sentence()));
    }
}

fn object(tally: &Tally, dry_run: bool) -> serde_json::Value {
    let kept: BTreeMap<_, _> = tally.kept.iter().map(|(kept, count)| (kept.as_str(), count)).collect();
    serde_json::json!({
        "dry_run": dry_run,
        "matched": tally.matched,
        "redrivable": tally.going.values().sum::<usize>(),
        "redriven": tally.redriven.values().sum::<usize>(),
        "targets": if dry_run { &tally.going } else { &tally.redriven },
        "already_redriven": tally.already,
        "kept": kept,
        "expired": tally.expired,
    })
}

fn table(tally: &Tally, ahead: bool) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["what becomes of the letters", "count"]);
    let mut row = |name: String, count: usize| {
        table.add_row([name, say::grouped(count as u64)]);
    };
    let (verb, targets) = if ahead { ("would go to", &tally.going) } else { ("redriven to", &tally.redriven) };
    for (target, count) in targets {
        row(format!("{verb} {target}"), *count);
    }
    let left = tally.going.values().sum::<usize>() - tally.redriven.values().sum::<usize>() - tally.expired;
    if !ahead && left > 0 {
        row("not reached".to_owned(), left);
    }
    if tally.expired > 0 {
        row("expired meanwhile".to_owned(), tally.expired);
    }
    if tally.already > 0 {
        row("redriven before".to_owned(), tally.already);
    }
    for (kept, count) in &tally.kept {
        row(format!("kept: {}", kept.as_str()), *count);
    }
    row("together".to_owned(), tally.matched);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Letters per second, as options have it.
pub(crate) fn rate(text: &str) -> Result<u32> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok().filter(|rate| *rate > 0);
    number.context("a rate is a whole number of letters per second, for example 1000/s")
}

#[cfg(test)]
mod tests {
    use common::record::{Reason, RecordError};

    use super::*;
    use crate::dlq::tests::{config, failure, head, letter};

    fn letters() -> Vec<Letter> {
        let of_sink = letter(Some(head(Some("main"))), failure(Reason::Refused, "events"));
        let unopened = letter(Some(head(None)), failure(Reason::UnknownKey, "inbox"));
        let mut redriven = of_sink.clone();
        redriven.content.as_mut().unwrap().redriven_ms = Some(1);
        let bad_mac = letter(None, failure(Reason::BadMac, "inbox"));
        let forged = Letter { content: Err(RecordError::BadMac), ..of_sink.clone() };
        vec![of_sink, unopened, redriven, bad_mac, forged]
    }

    #[test]
    fn every_letter_goes_went_or_is_kept() {
        let (going, tally) = sorted(letters(), &config());
        assert_eq!(going.len(), 2);
        assert_eq!(tally.going, [("inbox".to_owned(), 1), ("retry.main.10s".to_owned(), 1)].into());
        assert_eq!((tally.matched, tally.already), (5, 1));
        assert_eq!(tally.kept, [(Kept::BadMac, 1), (Kept::NotTrusted, 1)].into());
        assert_eq!(verdict(&tally), Verdict::Bad);
        assert_eq!(verdict(&sorted(letters().split_off(2).drain(..1).collect(), &config()).1), Verdict::Good);
        let text = table(&tally, true).to_string();
        for line in ["would go to inbox", "kept: bad_mac", "redriven before", "together"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(table(&tally, false).to_string().contains("not reached"));
    }

    #[test]
    fn the_object_has_the_counts() {
        let (_, tally) = sorted(letters(), &config());
        let value = object(&tally, true);
        let counts =
            ["matched", "redrivable", "redriven", "already_redriven", "expired"].map(|key| value[key].as_u64());
        assert_eq!(counts, [5, 2, 0, 1, 0].map(Some));
        assert_eq!(value["kept"], serde_json::json!({ "bad_mac": 1, "not_trusted": 1 }));
        assert_eq!(value["targets"], serde_json::json!({ "inbox": 1, "retry.main.10s": 1 }));
    }

    #[test]
    fn rates_are_read() {
        assert_eq!((rate("250/s").unwrap(), rate("7").unwrap()), (250, 7));
        for bad in ["", "0", "0/s", "-1", "1/m", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
