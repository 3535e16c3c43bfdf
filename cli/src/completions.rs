//! `sealstream completions` and `man`: scripts for shells and manual pages, made from the command line's own description.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_complete::Shell;

use crate::{Verdict, say};

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Where to, for example /usr/local/share/man/man1
    dir: PathBuf,
}

/// Runs `completions`: the script goes to standard output.
pub fn run(args: &Completions, line: clap::Command) -> Result<Verdict> {
    stdout().write_all(&completions(args.shell, line))?;
    Ok(Verdict::Good)
}

/// Runs `man`.
pub fn man(Man { dir }: &Man, line: clap::Command) -> Result<Verdict> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    clap_mangen::generate_to(line, dir).with_context(|| format!("writing to {}", dir.display()))?;
    say::note(format_args!("the manual pages are in {}", dir.display()));
    Ok(Verdict::Good)
}

fn completions(shell: Shell, mut line: clap::Command) -> Vec<u8> {
    let name = line.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut line, name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;
    use crate::Arguments;

    fn commands() -> Vec<String> {
        Arguments::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell, Arguments::command())).unwrap();
            for command in commands() {
                assert!(script.contains(&command), "{shell}: {command}");
            }
        }
    }

    #[test]
    fn bash_reads_its_script() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sealstream.bash");
        std::fs::write(&file, completions(Shell::Bash, Arguments::command())).unwrap();
        let read = |text: &str| std::process::Command::new("bash").args(["-c", text]).output().unwrap();
        let script = format!("source {0} && complete -p sealstream", file.display());
        let output = read(&script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!read("complete -p sealstream").status.success(), "without it there is nothing to complete");
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        man(&Man { dir: dir.path().join("man1") }, Arguments::command()).unwrap();
        for command in commands() {
            let page = std::fs::read_to_string(dir.path().join(format!("man1/sealstream-{command}.1"))).unwrap();
            assert!(page.contains(".TH") && page.contains("SYNOPSIS"), "{command}");
        }
    }
}
