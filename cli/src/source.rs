//! `sealstream source add`: one more source in the configurations of a deployment, with new secrets.
//!
//! The configurations keep their comments and their order. Each is replaced as a whole, by renaming, once it was seen to
//! load; secrets are only ever added.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::id::{SinkId, SourceId};
use http::Uri;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use crate::deployment::{CA, DEFAULT_PATH, INGEST, PROCESSOR, SENDER, SourceSecrets, hmac_file, key_file};
use crate::files::{NewFile, read, write_new};
use crate::{Verdict, say};

/// What can be done to sources.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a source to a deployment, with new secrets
    Add(Args),
}

/// Options of `source add`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the source
    name: SourceId,
    /// Directory of the deployment, as `sealstream init` made it
    #[arg(long)]
    dir: PathBuf,
    /// Path that its senders POST to; sources may share one
    #[arg(long, default_value = DEFAULT_PATH, value_parser = path)]
    path: String,
    /// Sinks that its events go to; may be repeated [default: every sink there is]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    sink: Vec<SinkId>,
    /// Where its senders reach it [default: as the first source's, with this source's path]
    #[arg(long)]
    url: Option<Uri>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn path(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\`{}".contains(&byte);
    if text.starts_with('/') && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has no query")
    }
}

/// Runs `source`.
pub fn run(command: &Command) -> Result<Verdict> {
    let Command::Add(args) = command;
    let Args { name, dir, .. } = args;
    if name.as_str() == "default" {
        bail!("[source.default] is what every source inherits; take another name");
    }
    let (ingest_path, processor_path) = (dir.join(INGEST), dir.join(PROCESSOR));
    let mut ingest = parse(&ingest_path)?;
    let mut processor = parse(&processor_path)?;

    let path_of_its_own = (args.path != DEFAULT_PATH).then_some(args.path.as_str());
    insert(&mut ingest, name, ingest_source(name, path_of_its_own)).context(ingest_path.display().to_string())?;
    let sinks = sinks(args, &processor)?;
    insert(&mut processor, name, processor_source(name, &sinks)).context(processor_path.display().to_string())?;

    let secrets = SourceSecrets::random()?;
    let sender_dir = format!("sender-{name}");
    let ca = ca(dir)?;
    let mut files = vec![secrets.for_ingest(name), secrets.for_processor(name)];
    files.extend(secrets.for_sender(&sender_dir, name, &url(args)?, ca.as_deref()));
    write_new(dir, &files)?;

    // The processor first: what ingest accepts can then be opened.
    let replaced = replace(&processor_path, &processor, |file| {
        processor::config::Config::load(Some(file), std::iter::empty()).map(drop)
    })
    .and_then(|()| {
        replace(&ingest_path, &ingest, |file| {
            ingest::Config::load(Some(file), std::iter::empty()).and_then(|config| ingest::check(&config))
        })
    });
    if let Err(error) = replaced {
        forget(dir, &files);
        return Err(error);
    }
    report(args, &sender_dir);
    Ok(Verdict::Good)
}

fn report(args: &Args, sender_dir: &str) {
    let Args { name, dir, .. } = args;
    let sender = dir.join(sender_dir).join("sender.toml");
    if args.json {
        say::json(&serde_json::json!({ "source": name, "sender": sender }));
        return;
    }
    let paint = say::Paint::for_stdout();
    say::line(format_args!(
        "\
{} {name}. Its sender gets {}/, and nobody else.

{}
  wait until the processors and ingest have reloaded: their config_generation rises within seconds, or send SIGHUP
  sealstream send --config {} --data '{{\"id\":\"evt_1\",\"type\":\"hello\"}}'",
        paint.good("Added"),
        dir.join(sender_dir).display(),
        paint.strong("What next:"),
        sender.display(),
    ));
}

/// Reads a configuration with its comments.
pub(crate) fn parse(path: &Path) -> Result<DocumentMut> {
    let text = read(path).context("--dir names a deployment that `sealstream init` made")?;
    text.parse().with_context(|| path.display().to_string())
}

/// Adds `[source.<name>]`, in the form in which the document has its sources.
fn insert(document: &mut DocumentMut, name: &SourceId, mut source: Table) -> Result<()> {
    let sources = document.entry("source").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let sources = sources.as_table_like_mut().context("`source` is not a table")?;
    if sources.contains_key(name.as_str()) {
        bail!("there is a source {name} already: nothing was changed");
    }
    let dotted = |(_, item): (&str, &Item)| item.as_table().is_none_or(Table::is_dotted);
    let item = if !sources.is_empty() && sources.iter().all(dotted) {
        Item::Value(Value::InlineTable(source.into_inline_table()))
    } else {
        source.decor_mut().set_prefix("\n");
        Item::Table(source)
    };
    sources.insert(name.as_str(), item);
    Ok(())
}

fn ingest_source(name: &SourceId, path: Option<&str>) -> Table {
    let mut source = Table::new();
    if let Some(path) = path {
        source.insert("path", value(path));
    }
    source.insert("secrets", key_list("s1", &hmac_file(name)));
    source
}

fn processor_source(name: &SourceId, sinks: &[SinkId]) -> Table {
    let mut source = Table::new();
    source.insert("keys", key_list("k1", &key_file(name)));
    source.insert("sinks", value(sinks.iter().map(SinkId::as_str).collect::<Array>()));
    source
}

fn key_list(id: &str, file: &str) -> Item {
    let mut key = InlineTable::new();
    key.insert("id", id.into());
    key.insert("file", file.into());
    value([key].into_iter().collect::<Array>())
}

fn sinks(args: &Args, processor: &DocumentMut) -> Result<Vec<SinkId>> {
    if !args.sink.is_empty() {
        return Ok(args.sink.clone());
    }
    let there = processor.get("sink").and_then(Item::as_table_like).into_iter().flat_map(TableLike::iter);
    let names = there.map(|(name, _)| name).filter(|name| *name != "default");
    let sinks: Vec<SinkId> = names.map(str::parse).collect::<Result<_, _>>()?;
    if sinks.is_empty() {
        bail!("{PROCESSOR} has no [sink.<name>]: make one first, or name one with --sink");
    }
    Ok(sinks)
}

fn url(args: &Args) -> Result<Uri> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let first = args.dir.join(SENDER);
    let hint = || format!("--url is needed: there is no usable {}", first.display());
    let text =
        parse(&first).with_context(hint)?.get("url").and_then(Item::as_str).map(str::to_owned).with_context(hint)?;
    let mut parts = text.parse::<Uri>().with_context(hint)?.into_parts();
    parts.path_and_query = Some(args.path.parse().with_context(|| format!("--path {}", args.path))?);
    Uri::from_parts(parts).with_context(hint)
}

/// The development CA's certificate, if this deployment has one.
fn ca(dir: &Path) -> Result<Option<String>> {
    let there = [dir.join("ca/ca.pem"), dir.join("sender").join(CA)];
    there.iter().find(|path| path.exists()).map(|path| read(path)).transpose()
}

/// Replaces a configuration by one that loads, keeping its mode.
pub(crate) fn replace<E>(path: &Path, document: &DocumentMut, check: impl FnOnce(&Path) -> Result<(), E>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let dir = path.parent().context("a configuration lies in a directory")?;
    // In the same directory: paths start there, and renaming stays on one file system.
    let mut file = tempfile::Builder::new().prefix(".new-").suffix(".toml").tempfile_in(dir)?;
    std::io::Write::write_all(&mut file, document.to_string().as_bytes())?;
    file.as_file().set_permissions(std::fs::metadata(path)?.permissions())?;
    file.as_file().sync_all()?;
    check(file.path()).with_context(|| format!("{} would not load any more; nothing was changed", path.display()))?;
    file.persist(path).with_context(|| format!("replacing {}", path.display()))?;
    Ok(())
}

/// Takes back files that were just written.
pub(crate) fn forget(dir: &Path, files: &[NewFile]) {
    for file in files {
        // One that stays is named by the next run.
        let _ = std::fs::remove_file(dir.join(&file.path));
    }
}

#[cfg(test)]
mod tests;
