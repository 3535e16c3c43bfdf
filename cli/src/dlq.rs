//! `sealstream dlq`: looks at dead letters. It needs the core keys, which check them, and no key that opens one: nothing here
//! shows, or could show, what is in a payload.

mod export;
mod filter;
mod letters;
mod target;
mod tell;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::record::{Dead, LetterPlace};
use processor::config::Config;

pub use filter::Args as FilterArgs;
pub(crate) use filter::{Filter, Moment, State, id_keys, keyed_ids};
pub(crate) use letters::{DeadTopic, Followed, Letter};
pub(crate) use target::{Kept, Target, target};
pub(crate) use tell::{Headers, json, reason, time};

use crate::processor_config::ProcessorConfig;
use crate::{Verdict, say};

/// What can be done with dead letters. `sealstream redrive` puts them back.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List letters, the newest first, and count them by reason
    List(ListArgs),
    /// Show every header of one letter, and where it would be redriven to
    Show(ShowArgs),
    /// Write letters as lines of JSON, bodies sealed as they are
    Export(ExportArgs),
}

/// Which letters `list` and `export` take.
#[derive(Debug, clap::Args)]
pub struct Selection {
    #[command(flatten)]
    filter: FilterArgs,
    /// Those that were redriven, instead of those that wait
    #[arg(long, conflicts_with = "all")]
    redriven: bool,
    /// Those that were redriven, too
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn state(&self) -> State {
        match (self.redriven, self.all) {
            (true, _) => State::Redriven,
            (false, true) => State::All,
            (false, false) => State::Waiting,
        }
    }

    /// The letters that are meant, the newest first. Blocks.
    fn letters(&self, config: &Config, dead: &DeadTopic) -> Result<Vec<Letter>> {
        let filter = Filter::new(&self.filter, self.state(), config, Clock::system().unix_ms())?;
        let (mut letters, _) = dead.letters(|letter| filter.passes(letter))?;
        letters.sort_unstable_by_key(|letter| (std::cmp::Reverse(letter.time_ms), letter.place));
        Ok(letters)
    }
}

/// Options of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    processor: ProcessorConfig,
    #[command(flatten)]
    selection: Selection,
    /// Show at most so many; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Leave so many out before that, to turn the page
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Print a line of JSON for each letter, then one with the counts
    #[arg(long)]
    json: bool,
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    processor: ProcessorConfig,
    /// Where the letter lies, as the list says
    #[arg(value_name = "PARTITION/OFFSET")]
    place: LetterPlace,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Options of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    processor: ProcessorConfig,
    #[command(flatten)]
    selection: Selection,
    /// A new file for the lines, readable by its owner only; standard output without it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON; needs --output
    #[arg(long, requires = "output")]
    json: bool,
}

/// Runs `dlq`.
pub async fn run(command: &Command) -> Result<Verdict> {
    // Nothing else waits for the runtime's own thread.
    tokio::task::block_in_place(|| match command {
        Command::List(args) => list(args),
        Command::Show(args) => show(args),
        Command::Export(args) => export::run(args),
    })
}

fn list(args: &ListArgs) -> Result<Verdict> {
    let config = args.processor.load()?;
    let letters = args.selection.letters(&config, &DeadTopic::of(&config)?)?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let page: Vec<&Letter> = letters.iter().skip(args.skip).take(limit).collect();
    let counts = tell::by_reason(&letters);
    if args.json {
        for letter in &page {
            say::json(&tell::json(letter, &config));
        }
        say::json(&serde_json::json!({ "letters": letters.len(), "shown": page.len(), "by_reason": counts }));
        return Ok(Verdict::Good);
    }
    if letters.is_empty() {
        say::line("no letters");
        return Ok(Verdict::Good);
    }
    if !page.is_empty() {
        say::line(tell::table(&page));
    }
    for (reason, count) in &counts {
        say::line(format_args!("{count:>9}  {reason}"));
    }
    let shown = args.skip + page.len();
    let more = if shown < letters.len() { format!("; --skip {shown} shows the next") } else { String::new() };
    say::line(format_args!("{:>9}  letters, {} shown{more}", letters.len(), page.len()));
    Ok(Verdict::Good)
}

fn show(args: &ShowArgs) -> Result<Verdict> {
    let (config, place) = (args.processor.load()?, args.place);
    let dead = DeadTopic::of(&config)?;
    let partitions = i32::try_from(config.topics.partitions)?;
    if place.partition >= partitions {
        bail!("there is no {place}: the partitions are 0 to {}", partitions - 1);
    }
    let mut found = None;
    dead.records(&[place], |_, record| {
        found = Some((dead.open(record), tell::Headers::of(record.headers())));
        Ok(())
    })?;
    let (opened, headers) = match found {
        Some(found) => found,
        None => {
            let (from, to) = dead.bounds(place.partition)?;
            bail!(
                "there is no letter at {place}: the partition has offsets {from} to {to}, and some of them hold none"
            );
        }
    };
    if let Ok(Dead::Marker(marker)) = opened
        && marker.place.partition == place.partition
    {
        bail!("{place} is no letter: it says that {} was redriven, {}", marker.place, tell::time(marker.redriven_ms));
    }
    let is_it = |letter: &Letter| {
        letter.place == place || letter.content.as_ref().is_ok_and(|content| content.copies.contains(&place))
    };
    let (letters, _) = dead.letters_in(place.partition)?;
    let letter = letters.into_iter().find(is_it).context("the letter has left the topic while it was read")?;
    if args.json {
        let mut value = tell::json(&letter, &config);
        value["headers"] = headers.json();
        say::json(&value);
    } else {
        tell::letter(&letter, &headers, &config);
    }
    Ok(Verdict::Good)
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::letters::tests::{failure, head, keys, letter};
    pub(crate) use super::target::tests::config;
}
