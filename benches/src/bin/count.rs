//! Calls one of the functions so many times: what `./x counts` runs where instructions are counted. Without words, their names.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]

use anyhow::{Context, Result};
use benches::functions::FUNCTIONS;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// The function
    #[arg(requires = "times")]
    name: Option<String>,
    /// How often it is called
    times: Option<u32>,
}

fn main() -> Result<()> {
    let Arguments { name, times } = Arguments::parse();
    let (Some(name), Some(times)) = (name, times) else {
        FUNCTIONS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let (_, ready) = FUNCTIONS.iter().find(|(known, _)| *known == name).context("there is no such function")?;
    let mut call = ready();
    (0..times).for_each(|_| call());
    Ok(())
}
