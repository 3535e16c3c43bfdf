//! `sealstream dlq export`: letters as lines of JSON, each with its headers as they are and its body, still sealed, in base64.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write, stdout};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use common::record::LetterPlace;
use data_encoding::BASE64;

use super::{DeadTopic, ExportArgs, Letter, tell};
use crate::{Verdict, say};

/// Runs `export`. Blocks.
pub(super) fn run(args: &ExportArgs) -> Result<Verdict> {
    let config = args.processor.load()?;
    let dead = DeadTopic::of(&config)?;
    let letters = args.selection.letters(&config, &dead)?;
    let letters: HashMap<LetterPlace, Letter> = letters.into_iter().map(|letter| (letter.place, letter)).collect();
    let mut places: Vec<_> = letters.keys().copied().collect();
    places.sort_unstable();

    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(BufWriter::new(file.with_context(|| format!("making {}", path.display()))?))
        }
        None => Box::new(BufWriter::new(stdout().lock())),
    };
    let count = dead.records(&places, |place, record| {
        let mut value = tell::json(&letters[&place], &config);
        value["headers"] = tell::Headers::of(record.headers()).json();
        value["body_base64"] = BASE64.encode(record.value()).into();
        Ok(writeln!(out, "{value}")?)
    });
    let count = count.and_then(|count| Ok(out.flush().map(|()| count)?)).context("writing letters")?;
    drop(out);
    match &args.output {
        Some(_) if args.json => say::json(&serde_json::json!({ "letters": count })),
        Some(path) => say::line(format_args!("{count} letters written to {}", path.display())),
        None => {}
    }
    Ok(Verdict::Good)
}
