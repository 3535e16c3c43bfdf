//! Writes the inputs that fuzzing begins with: `corpus DIR` makes a folder per target. `--list` prints the targets' names.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tests::parsers::{SLOW_TARGETS, TARGETS};

fn main() -> Result<()> {
    let all = TARGETS.iter().chain(SLOW_TARGETS);
    let mut words = std::env::args_os().skip(1);
    let (Some(word), None) = (words.next(), words.next()) else { bail!("usage: corpus DIR | corpus --list") };
    if word == "--list" {
        all.for_each(|target| println!("{}", target.name));
        return Ok(());
    }
    for target in all {
        let dir = PathBuf::from(&word).join(target.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
        let pieces: String = target.pieces.iter().map(|piece| format!("\"{}\"\n", escaped(piece))).collect();
        std::fs::write(dir.with_extension("dict"), pieces)?;
    }
    Ok(())
}

/// A text as libFuzzer's dictionaries have it.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}
