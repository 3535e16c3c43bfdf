//! `sealstream rotate`: one secret or key of a deployment after the other, in three steps.
//!
//! | step | what it does | then |
//! |---|---|---|
//! | `add` | makes a new one, where it checks signatures, checks MACs, opens or knows repeats | wait until every process has it |
//! | `use` | lets it sign, seal, make MACs or name events | wait until nobody uses the old one |
//! | `retire` | takes the old one away, unless a record under it still lies in a topic | delete its files |
//!
//! Of two id keys either knows a repeat, wherever it stands in the list. So what came since `add` is known by both.
//!
//! Only the configurations and the secrets of a folder that `sealstream init` made are changed. Processes take them over when
//! they reload, by themselves or on SIGHUP; `…_config_generation` tells that they have.

mod lying;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::clock::Clock;
use common::id::SourceId;
use toml_edit::{Array, DocumentMut, InlineTable, TableLike, Value};

use crate::deployment::{INGEST, PROCESSOR, SENDER};
use crate::files::{NewFile, random_key, random_text, write_new};
use crate::source::{forget, parse, replace};
use crate::{Verdict, say};

/// The steps.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new one, and let it check or open; nothing uses it yet
    Add(Args),
    /// Let the newest one sign, seal, make MACs or name events
    Use(Args),
    /// Take the old one away, unless records under it can still be read
    Retire {
        /// What to retire
        #[command(flatten)]
        args: Args,
        /// Take it away though records under it lie in topics: they end as dead letters that cannot be redriven, or, of an id
        /// key, their repeats are delivered
        #[arg(long)]
        force: bool,
    },
}

/// Options of each step.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to rotate
    #[arg(value_enum)]
    kind: Kind,
    /// Directory of the deployment, as `sealstream init` made it
    #[arg(long)]
    dir: PathBuf,
    /// The source whose secret or key it is
    #[arg(long, required_if_eq_any = [("kind", "signing"), ("kind", "sealing")])]
    source: Option<SourceId>,
}

/// What can be rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The secret that a source's senders sign with
    Signing,
    /// The key that a source's senders seal with
    Sealing,
    /// The key by which the processors trust ingest's records
    Edge,
    /// The key by which the processors trust their own records
    Core,
    /// The key that the names of events in the log are made with, and by which repeats are known
    Id,
}

/// A secret or key in a configuration's list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: String,
    file: String,
}

impl Args {
    fn source(&self) -> Result<&SourceId> {
        self.source.as_ref().context("--source is needed")
    }

    /// The configuration that lists it, and where.
    fn list(&self) -> Result<(&'static str, Vec<String>)> {
        let path = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect();
        Ok(match self.kind {
            Kind::Signing => (INGEST, path(&["source", self.source()?.as_str(), "secrets"])),
            Kind::Sealing => (PROCESSOR, path(&["source", self.source()?.as_str(), "keys"])),
            Kind::Edge => (PROCESSOR, path(&["pipeline", "edge_keys"])),
            Kind::Core => (PROCESSOR, path(&["pipeline", "core_keys"])),
            Kind::Id => (PROCESSOR, path(&["pipeline", "id_keys"])),
        })
    }

    /// The new entry's file, below each party's directory.
    fn file(&self, id: &str) -> Result<String> {
        Ok(match self.kind {
            Kind::Signing => format!("secrets/{}.hmac.{id}", self.source()?),
            Kind::Sealing => format!("secrets/{}.{id}.key", self.source()?),
            Kind::Edge | Kind::Core | Kind::Id => format!("secrets/{id}.key"),
        })
    }

    /// The configuration of the source's sender, if it is still here.
    fn sender(&self) -> Result<Option<PathBuf>> {
        let source = self.source()?;
        for file in [SENDER.to_owned(), format!("sender-{source}/sender.toml")] {
            let file = self.dir.join(file);
            let is_its =
                |document: DocumentMut| document.get("source").and_then(|name| name.as_str()) == Some(source.as_str());
            if file.exists() && is_its(parse(&file)?) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The id of the one that is used now, as far as this folder tells.
    fn in_use(&self, entries: &[Entry]) -> Result<Option<String>> {
        let text = |document: &DocumentMut, path: &[&str]| -> Option<String> {
            let (last, tables) = path.split_last()?;
            let table =
                tables.iter().try_fold(document.as_table() as &dyn TableLike, |at, step| at.get(step)?.as_table_like());
            table?.get(last)?.as_str().map(str::to_owned)
        };
        Ok(match self.kind {
            Kind::Core | Kind::Id => entries.first().map(|entry| entry.id.clone()),
            Kind::Edge => {
                text(&parse(&self.dir.join(INGEST))?, &["pipeline", "edge_key", "id"]).or(Some("edge-1".to_owned()))
            }
            Kind::Sealing => match self.sender()? {
                Some(sender) => text(&parse(&sender)?, &["key", "id"]).or(Some("k1".to_owned())),
                None => None,
            },
            Kind::Signing => match self.sender()? {
                Some(sender) => {
                    let file = text(&parse(&sender)?, &["secret"]);
                    entries.iter().find(|entry| Some(&entry.file) == file.as_ref()).map(|entry| entry.id.clone())
                }
                None => None,
            },
        })
    }
}

/// Runs `rotate`.
pub fn run(command: &Command, clock: &Clock) -> Result<Verdict> {
    match command {
        Command::Add(args) => add(args),
        Command::Use(args) => use_newest(args),
        Command::Retire { args, force } => retire(args, *force, clock),
    }
}

fn add(args: &Args) -> Result<Verdict> {
    let (config, path) = args.list()?;
    let config_path = args.dir.join(config);
    let mut document = parse(&config_path)?;
    let entries = entries(&mut document, &path)?;
    if let Some(waiting) = newer(args, &entries)? {
        bail!("{waiting} was added and is not in use yet: `sealstream rotate use` comes first; nothing was changed");
    }
    if args.kind == Kind::Id && entries.len() > 1 {
        bail!("the id key before is there yet: `sealstream rotate retire` comes first; nothing was changed");
    }
    let id = next_id(&entries);
    let file = args.file(&id)?;
    let content = match args.kind {
        Kind::Signing => random_text()?,
        Kind::Sealing | Kind::Edge | Kind::Core | Kind::Id => random_key()?,
    };
    // Beside the configuration that lists it, and with whoever will use it.
    let mut dirs = vec![directory(&config_path)?];
    match args.kind {
        Kind::Signing | Kind::Sealing => dirs.extend(args.sender()?.as_deref().map(directory).transpose()?),
        Kind::Edge => dirs.push(directory(&args.dir.join(INGEST))?),
        Kind::Core | Kind::Id => {}
    }
    let files: Vec<NewFile> = dirs.iter().map(|dir| NewFile::new(dir.join(&file), &*content)).collect();
    // The paths lead from here already.
    write_new(Path::new(""), &files)?;
    list(&mut document, &path)?.push(entry(&id, &file));
    if let Err(error) = replace_checked(&config_path, &document) {
        forget(Path::new(""), &files);
        return Err(error);
    }
    let paint = say::Paint::for_stdout();
    say::line(format_args!(
        "{} {id} in {}. Nothing uses it yet.\n\n{}\n  wait until every process that reads {config} has reloaded: its config_generation tells\n  then `sealstream rotate use`",
        paint.good("Added"),
        config_path.display(),
        paint.strong("What next:"),
    ));
    if matches!(args.kind, Kind::Signing | Kind::Sealing) && args.sender()?.is_none() {
        say::note(format_args!(
            "the sender's folder is not here: give its operators {}, and nobody else",
            directory(&config_path)?.join(&file).display()
        ));
    }
    Ok(Verdict::Good)
}

fn use_newest(args: &Args) -> Result<Verdict> {
    let (config, path) = args.list()?;
    let config_path = args.dir.join(config);
    let mut document = parse(&config_path)?;
    let entries = entries(&mut document, &path)?;
    let newest = newer(args, &entries)?
        .context("there is none that is newer than the one in use: `sealstream rotate add` comes first")?;
    let newest = entries.iter().find(|entry| entry.id == newest).expect("it is one of them").clone();
    let changed = match args.kind {
        Kind::Core | Kind::Id => {
            let list = list(&mut document, &path)?;
            let at = entries.iter().position(|entry| *entry == newest).expect("it is one of them");
            let value = list.remove(at);
            list.insert(0, value);
            list.fmt();
            replace_checked(&config_path, &document)?;
            config_path
        }
        Kind::Edge => {
            let ingest = args.dir.join(INGEST);
            let mut document = parse(&ingest)?;
            set(&mut document, &["pipeline", "edge_key"], entry(&newest.id, &newest.file))?;
            replace_checked(&ingest, &document)?;
            ingest
        }
        Kind::Signing | Kind::Sealing => {
            let sender = args.sender()?.with_context(|| {
                format!(
                    "the sender's folder is not here: its operators must use {}, and `retire` comes after that",
                    newest.id
                )
            })?;
            let mut document = parse(&sender)?;
            match args.kind {
                Kind::Signing => set(&mut document, &["secret"], newest.file.as_str().into())?,
                Kind::Sealing | Kind::Edge | Kind::Core | Kind::Id => {
                    set(&mut document, &["key"], entry(&newest.id, &newest.file))?
                }
            }
            replace(&sender, &document, |file| crate::sender_config::SenderConfig::load(Some(file)).map(drop))?;
            sender
        }
    };
    let paint = say::Paint::for_stdout();
    say::line(format_args!(
        "{} {} is used: {}.\n\n{}\n  wait until everybody does; for senders ingest_verified_total tells\n  then `sealstream rotate retire`",
        paint.good("Now"),
        newest.id,
        changed.display(),
        paint.strong("What next:"),
    ));
    Ok(Verdict::Good)
}

fn retire(args: &Args, force: bool, clock: &Clock) -> Result<Verdict> {
    let (config, path) = args.list()?;
    let config_path = args.dir.join(config);
    let mut document = parse(&config_path)?;
    let entries = entries(&mut document, &path)?;
    let in_use = args.in_use(&entries)?.or_else(|| entries.last().map(|entry| entry.id.clone()));
    let at = entries.iter().position(|entry| Some(&entry.id) != in_use.as_ref());
    let at = at.context("there is only the one in use: nothing was changed")?;
    let old = &entries[at];
    if newer(args, &entries)?.as_ref() == Some(&old.id) {
        bail!("{} is the newest and not in use yet: `sealstream rotate use` comes first; nothing was changed", old.id);
    }
    let lying = match args.kind {
        // No record is under a signing secret: the body is verified before it becomes one.
        Kind::Signing => 0,
        Kind::Sealing | Kind::Edge | Kind::Core | Kind::Id => {
            let processor = processor::config::Config::load(Some(&args.dir.join(PROCESSOR)), std::iter::empty())?;
            lying::count(&processor, args.kind, args.source.as_ref(), &old.id, clock)?
        }
    };
    let paint = say::Paint::for_stdout();
    if lying > 0 && !force {
        let why = match args.kind {
            Kind::Id => {
                "records are known by it alone: a repeat of one would be delivered. Nobody asks for them once dedup.window, and \
                 an eighth of it, has passed since they came."
            }
            Kind::Signing | Kind::Sealing | Kind::Edge | Kind::Core => {
                "records under it lie in the topics. They leave with the topics' retention, dead letters when they are redriven or \
                 deleted."
            }
        };
        say::line(format_args!(
            "{} {} is kept: {} {why} --force takes it away all the same.",
            paint.bad("Refused."),
            old.id,
            say::grouped(lying),
        ));
        return Ok(Verdict::Bad);
    }
    list(&mut document, &path)?.remove(at);
    replace_checked(&config_path, &document)?;
    let lost = match (lying, args.kind) {
        (0, _) => String::new(),
        (lying, Kind::Id) => format!(" A repeat of {} records is no longer known.", say::grouped(lying)),
        (lying, Kind::Signing | Kind::Sealing | Kind::Edge | Kind::Core) => {
            format!(" {} records can no longer be read.", say::grouped(lying))
        }
    };
    say::line(format_args!(
        "{} {} from {}.{lost} Delete {} wherever it lies, once every process has reloaded.",
        paint.good("Retired"),
        old.id,
        config_path.display(),
        old.file,
    ));
    Ok(Verdict::Good)
}

/// The id of the newest entry, if another is in use.
fn newer(args: &Args, entries: &[Entry]) -> Result<Option<String>> {
    let in_use = args.in_use(entries)?;
    let number = |entry: &&Entry| split(&entry.id).1;
    let newest = entries.iter().max_by_key(number).map(|entry| entry.id.clone());
    Ok(newest.filter(|newest| in_use.is_some() && in_use.as_ref() != Some(newest)))
}

/// An id's words, and the number at its end.
fn split(id: &str) -> (&str, u64) {
    let words = id.trim_end_matches(|c: char| c.is_ascii_digit());
    (words, id[words.len()..].parse().unwrap_or(0))
}

fn next_id(entries: &[Entry]) -> String {
    let newest = entries.iter().max_by_key(|entry| split(&entry.id).1);
    let (words, number) = newest.map_or(("key-", 0), |entry| split(&entry.id));
    format!("{words}{}", number + 1)
}

fn directory(file: &Path) -> Result<PathBuf> {
    Ok(file.parent().context("a configuration lies in a directory")?.to_owned())
}

fn entry(id: &str, file: &str) -> Value {
    let mut table = InlineTable::new();
    table.insert("id", id.into());
    table.insert("file", file.into());
    table.into()
}

/// The list at a path of a configuration.
fn list<'d>(document: &'d mut DocumentMut, path: &[String]) -> Result<&'d mut Array> {
    let missing = || format!("there is no list {} that could be changed", path.join("."));
    let (last, tables) = path.split_last().with_context(missing)?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for step in tables {
        table = table.get_mut(step).and_then(|item| item.as_table_like_mut()).with_context(missing)?;
    }
    table.get_mut(last).and_then(|item| item.as_array_mut()).with_context(missing)
}

fn entries(document: &mut DocumentMut, path: &[String]) -> Result<Vec<Entry>> {
    let read = |value: &Value| {
        let table = value.as_inline_table()?;
        let text = |key| table.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Entry { id: text("id")?, file: text("file")? })
    };
    let entries: Option<Vec<Entry>> = list(document, path)?.iter().map(read).collect();
    entries
        .filter(|entries| !entries.is_empty())
        .with_context(|| format!("{} is no list of ids and files", path.join(".")))
}

/// Sets a value, keeping the comment behind it.
fn set(document: &mut DocumentMut, path: &[&str], mut value: Value) -> Result<()> {
    let (last, tables) = path.split_last().context("a path has a last step")?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for step in tables {
        let inner = table.get_mut(step).and_then(|item| item.as_table_like_mut());
        table = inner.with_context(|| format!("there is no table {step}"))?;
    }
    if let Some(before) = table.get(last).and_then(|item| item.as_value()) {
        *value.decor_mut() = before.decor().clone();
    }
    table.insert(last, toml_edit::Item::Value(value));
    Ok(())
}

/// Replaces a configuration by one that loads, with every file that it names.
fn replace_checked(path: &Path, document: &DocumentMut) -> Result<()> {
    if path.ends_with(INGEST) {
        return replace(path, document, |file| {
            ingest::Config::load(Some(file), std::iter::empty()).and_then(|config| ingest::check(&config))
        });
    }
    replace(path, document, |file| {
        processor::config::Config::load(Some(file), std::iter::empty()).and_then(|config| processor::check(&config))
    })
}

#[cfg(test)]
mod tests;
